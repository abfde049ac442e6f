//! Consumer groups (KIP-848): the coordinator assigns, members follow at their own pace.
//!
//! Owns: one group's members, its target assignment and each member's way there. Does not own: how
//! partitions are spread (`assign`), offsets.
//!
//! All of it but what is said otherwise is a fold of records: what changes is written as a record,
//! and the record is applied (`durable`).

mod durable;
mod heartbeat;
mod leave;
mod member;
mod reconcile;
mod subscribe;
mod target;
mod validate;

use std::collections::{BTreeMap, BTreeSet};

use levee_kafka::{ErrorCode, Uuid};

pub(crate) use member::{Assignment, Member, MemberState};
use subscribe::Resolved;

/// Of a member that is not in the group.
const LEFT: i32 = -1;
/// Of a static member that will come back.
const AWAY: i32 = -2;

#[derive(Debug)]
pub(crate) struct ConsumerGroup {
    pub(crate) id: String,
    /// Grows when members, subscriptions or topics change.
    pub(crate) epoch: i32,
    /// Of the topics that members read, when the epoch was written.
    metadata_hash: i64,
    pub(crate) members: BTreeMap<String, Member>,
    /// The epoch that `target` is for.
    pub(crate) target_epoch: i32,
    /// What members shall have in the end; who is not in it: nothing.
    pub(crate) target: BTreeMap<String, Assignment>,
    regexes: BTreeMap<String, Resolved>,
    /// Static members: ids of members by instance. Follows from `members`.
    instances: BTreeMap<String, String>,
    /// Who has a partition, or did not give it back yet. Follows from `members`.
    owners: BTreeMap<(Uuid, i32), String>,
    /// Which topics the group knows; not durable: they are looked at again.
    seen_topics: Option<u64>,
}

impl ConsumerGroup {
    pub(crate) fn new(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            epoch: 0,
            metadata_hash: 0,
            members: BTreeMap::new(),
            target_epoch: 0,
            target: BTreeMap::new(),
            regexes: BTreeMap::new(),
            instances: BTreeMap::new(),
            owners: BTreeMap::new(),
            seen_topics: None,
        }
    }

    pub(crate) fn state_name(&self) -> &'static str {
        let follows = |m: &Member| m.state == MemberState::Stable && m.epoch == self.target_epoch;
        if self.members.is_empty() {
            "Empty"
        } else if self.epoch > self.target_epoch {
            "Assigning"
        } else if self.members.values().all(follows) {
            "Stable"
        } else {
            "Reconciling"
        }
    }

    pub(crate) fn is_subscribed(&self, topic: &str) -> bool {
        self.members.values().any(|member| {
            let resolved = member.regex.as_ref().and_then(|regex| self.regexes.get(regex));
            member.topics.contains(topic) || resolved.is_some_and(|r| r.topics.contains(topic))
        })
    }

    /// Names of all topics that a member reads.
    fn topics_of(&self, member: &Member) -> BTreeSet<String> {
        let resolved = member.regex.as_ref().and_then(|regex| self.regexes.get(regex));
        let matched = resolved.into_iter().flat_map(|resolved| resolved.topics.iter());
        member.topics.iter().chain(matched).cloned().collect()
    }

    /// May offsets be committed in the name of this member? True: only for partitions that
    /// [`Self::check_late_commit`] allows. `old`: by a request that knows no epochs.
    pub(crate) fn check_commit(&self, id: &str, epoch: i32, old: bool) -> Result<bool, ErrorCode> {
        if epoch < 0 && self.members.is_empty() {
            return Ok(false);
        }
        let member = self.members.get(id).ok_or(ErrorCode::UnknownMemberId)?;
        if old {
            return Err(ErrorCode::UnsupportedVersion);
        }
        match epoch > member.epoch {
            true => Err(ErrorCode::StaleMemberEpoch),
            false => Ok(epoch < member.epoch),
        }
    }

    /// A commit with an older epoch is fine for a partition that the member has had since then
    /// (KIP-1251).
    pub(crate) fn check_late_commit(
        &self,
        id: &str,
        epoch: i32,
        topic: Uuid,
        partition: i32,
    ) -> Result<(), ErrorCode> {
        let member = self.members.get(id).ok_or(ErrorCode::UnknownMemberId)?;
        let held = [&member.assigned, &member.revoking];
        let since = held.iter().find_map(|owned| owned.get(&topic)?.get(&partition));
        match since {
            Some(since) if epoch >= *since => Ok(()),
            _ => Err(ErrorCode::StaleMemberEpoch),
        }
    }

    pub(crate) fn check_fetch(&self, id: Option<&str>, epoch: i32) -> Result<(), ErrorCode> {
        if id.is_none() && epoch < 0 {
            return Ok(());
        }
        let member = id.and_then(|id| self.members.get(id)).ok_or(ErrorCode::UnknownMemberId)?;
        match epoch == member.epoch {
            true => Ok(()),
            false => Err(ErrorCode::StaleMemberEpoch),
        }
    }
}
