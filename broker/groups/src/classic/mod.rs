//! Classic groups: members join, one of them assigns, all of them ask for what they got.
//!
//! Owns: one group's members and states, and the rules of its protocol. Does not own: which group a
//! request is for, offsets.

mod durable;
mod join;
mod leave;
mod member;
mod rebalance;
mod static_member;
mod sync;

use std::collections::{BTreeMap, BTreeSet};

use levee_kafka::ErrorCode;
use levee_kafka::Message;
use levee_kafka::Reader;
use levee_kafka::messages::consumer_protocol_subscription::ConsumerProtocolSubscription;

pub(crate) use member::{Member, refused};

use crate::groups::Step;
use crate::settings::NAME_MAX;
use crate::timers::What;

/// What members of `consumer` groups say that they are.
const CONSUMER: &str = "consumer";

/// A group that is dead is not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Empty,
    /// Members join.
    PreparingRebalance,
    /// Members wait for what the leader assigns.
    CompletingRebalance,
    Stable,
}

impl State {
    pub(crate) fn name(self) -> &'static str {
        match self {
            State::Empty => "Empty",
            State::PreparingRebalance => "PreparingRebalance",
            State::CompletingRebalance => "CompletingRebalance",
            State::Stable => "Stable",
        }
    }
}

/// The first rebalance of an empty group waits for more members, as long as they keep coming.
#[derive(Debug, Clone, PartialEq)]
struct Initial {
    /// Since the delay began.
    more_joined: bool,
    delay_ms: i32,
    remaining_ms: i32,
}

#[derive(Debug, Clone)]
pub(crate) struct ClassicGroup {
    pub(crate) id: String,
    pub(crate) state: State,
    /// When it came into this state; unknown after records of old brokers.
    pub(crate) since_ms: Option<i64>,
    pub(crate) generation: i32,
    /// None: no member ever joined; only offsets are kept.
    pub(crate) protocol_type: Option<String>,
    pub(crate) protocol: Option<String>,
    leader: Option<String>,
    pub(crate) members: BTreeMap<String, Member>,
    /// Static members: ids of members by instance.
    instances: BTreeMap<String, String>,
    /// Ids that were given out and did not join yet.
    pending_joins: BTreeSet<String>,
    /// Who did not ask for the assignment of this generation yet.
    pending_syncs: BTreeSet<String>,
    /// While an empty group's first rebalance is prepared.
    initial: Option<Initial>,
}

impl ClassicGroup {
    pub(crate) fn new(id: &str, now: i64) -> Self {
        Self {
            id: id.to_owned(),
            state: State::Empty,
            since_ms: Some(now),
            generation: 0,
            protocol_type: None,
            protocol: None,
            leader: None,
            members: BTreeMap::new(),
            instances: BTreeMap::new(),
            pending_joins: BTreeSet::new(),
            pending_syncs: BTreeSet::new(),
            initial: None,
        }
    }

    /// Of which nothing is known but offsets.
    pub(crate) fn of_offsets(id: &str) -> Self {
        Self { since_ms: None, ..Self::new(id, 0) }
    }

    /// Nobody is in it, or about to be.
    pub(crate) fn is_idle(&self) -> bool {
        self.state == State::Empty && self.pending_joins.is_empty()
    }

    pub(crate) fn is_consumer(&self) -> bool {
        self.protocol_type.as_deref() == Some(CONSUMER)
    }

    fn is_leader(&self, member: &str) -> bool {
        self.leader.as_deref() == Some(member)
    }

    fn go_to(&mut self, state: State, now: i64) {
        self.state = state;
        self.since_ms = Some(now);
    }

    /// Most that its record takes.
    fn bytes(&self) -> usize {
        // Its own name, and the protocol, its type and the leader, each at most as long as names may be.
        let names = self.id.len() + 4 * NAME_MAX;
        names + self.members.values().map(Member::bytes).sum::<usize>()
    }

    /// The longest that a member asks for.
    fn rebalance_ms(&self) -> i32 {
        self.members.values().map(|m| m.rebalance_ms).max().unwrap_or(0)
    }

    fn all_joined(&self) -> bool {
        self.pending_joins.is_empty() && self.members.values().all(|m| m.join.is_some())
    }

    fn add(&mut self, member: Member) {
        if self.members.is_empty() {
            self.protocol_type = Some(member.protocol_type.clone());
        }
        if self.leader.is_none() {
            self.leader = Some(member.id.clone());
        }
        if let Some(instance) = &member.instance {
            self.instances.insert(instance.clone(), member.id.clone());
        }
        self.pending_joins.remove(&member.id);
        self.members.insert(member.id.clone(), member);
    }

    /// Whoever waits for the member is told that it is unknown.
    fn remove(&mut self, step: &mut Step<'_>, id: &str) {
        self.pending_joins.remove(id);
        self.pending_syncs.remove(id);
        step.timers.cancel(&self.id, What::Session(id.to_owned()));
        let Some(mut member) = self.members.remove(id) else { return };
        member.refuse_all(step, ErrorCode::UnknownMemberId);
        if let Some(instance) = &member.instance
            && self.instances.get(instance).is_some_and(|holder| holder == id)
        {
            self.instances.remove(instance);
        }
        if self.is_leader(id) {
            self.leader = self.members.keys().next().cloned();
        }
    }

    /// Is this member, as it names itself, one of the group?
    fn check_member(&self, id: &str, instance: Option<&str>) -> Result<(), ErrorCode> {
        if let Some(instance) = instance {
            match self.instances.get(instance) {
                None => return Err(ErrorCode::UnknownMemberId),
                Some(holder) if holder != id => return Err(ErrorCode::FencedInstanceId),
                Some(_) => {}
            }
        }
        match self.members.contains_key(id) {
            true => Ok(()),
            false => Err(ErrorCode::UnknownMemberId),
        }
    }

    fn restart_session(&self, step: &mut Step<'_>, id: &str) {
        if let Some(member) = self.members.get(id) {
            let what = What::Session(id.to_owned());
            step.timers.set(&self.id, what, step.now, member.session_ms);
        }
    }

    /// May offsets be committed in the name of this member?
    pub(crate) fn check_commit(
        &self,
        id: &str,
        instance: Option<&str>,
        generation: i32,
        in_transaction: bool,
    ) -> Result<(), ErrorCode> {
        if generation < 0 && self.state == State::Empty {
            return Ok(());
        }
        if generation >= 0 || !id.is_empty() || instance.is_some() {
            self.check_member(id, instance)?;
            if generation != self.generation {
                return Err(ErrorCode::IllegalGeneration);
            }
        } else if !in_transaction {
            // While there are members nobody else commits.
            return Err(ErrorCode::UnknownMemberId);
        }
        match self.state {
            State::CompletingRebalance if !in_transaction => Err(ErrorCode::RebalanceInProgress),
            _ => Ok(()),
        }
    }

    /// A commit shows that its member lives.
    pub(crate) fn committed(&self, step: &mut Step<'_>, id: &str, generation: i32) {
        if generation >= 0 {
            self.restart_session(step, id);
        }
    }

    /// Topics that members read; none: it cannot be told.
    pub(crate) fn subscribed(&self) -> Option<BTreeSet<String>> {
        if !self.is_consumer() {
            return None;
        }
        if self.members.is_empty() {
            return Some(BTreeSet::new());
        }
        let protocol = self.protocol.as_deref()?;
        let mut topics = BTreeSet::new();
        for metadata in self.members.values().filter_map(|m| m.metadata(protocol)) {
            let mut r = Reader::new(metadata.clone());
            let newest = *ConsumerProtocolSubscription::VERSIONS.end();
            let version = r.i16().ok()?;
            if version < 0 {
                return None;
            }
            let version = version.min(newest);
            topics.extend(ConsumerProtocolSubscription::decode(&mut r, version).ok()?.topics);
        }
        Some(topics)
    }

    pub(crate) fn is_subscribed(&self, topic: &str) -> bool {
        match self.subscribed() {
            Some(topics) => topics.contains(topic),
            None => self.is_consumer(),
        }
    }

    /// Since when an offset counts as unused; none: it does not expire now (KIP-211).
    pub(crate) fn unused_since(&self, committed_ms: i64) -> Option<i64> {
        match (&self.protocol_type, self.state) {
            (None, _) => Some(committed_ms),
            (Some(_), State::Empty) => Some(self.since_ms.unwrap_or(committed_ms)),
            (Some(_), State::Stable) if self.subscribed().is_some() => Some(committed_ms),
            (Some(_), _) => None,
        }
    }
}
