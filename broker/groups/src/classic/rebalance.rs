//! From one generation to the next.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use levee_kafka::ErrorCode;
use levee_kafka::messages::sync_group_response::SyncGroupResponse;

use super::{ClassicGroup, Initial, State};
use crate::groups::Step;
use crate::timers::What;

impl ClassicGroup {
    /// Who is in the group changed: begins a rebalance, or goes on with the one under way.
    pub(super) fn rebalance(&mut self, step: &mut Step<'_>) {
        match self.state {
            State::PreparingRebalance => self.end_join_if_all_did(step),
            _ => self.prepare(step),
        }
    }

    fn prepare(&mut self, step: &mut Step<'_>) {
        // Whoever waits for an assignment of the generation before joins again.
        if self.state == State::CompletingRebalance {
            self.drop_assignments(step);
        }
        self.pending_syncs.clear();
        step.timers.cancel(&self.id, What::Sync);
        let was_empty = self.state == State::Empty;
        self.go_to(State::PreparingRebalance, step.now);
        if was_empty {
            let delay_ms = step.settings.initial_rebalance_delay_ms;
            let remaining_ms = (self.rebalance_ms() - delay_ms).max(0);
            self.initial = Some(Initial { more_joined: false, delay_ms, remaining_ms });
            step.timers.set(&self.id, What::Join, step.now, delay_ms);
        } else if self.all_joined() {
            self.end_join(step);
        } else {
            step.timers.set(&self.id, What::Join, step.now, self.rebalance_ms());
        }
    }

    fn drop_assignments(&mut self, step: &mut Step<'_>) {
        for member in self.members.values_mut() {
            member.assignment.clear();
            let again = ErrorCode::RebalanceInProgress.into();
            let answer = SyncGroupResponse { error_code: again, ..Default::default() };
            if member.answer_sync(step, answer) {
                let what = What::Session(member.id.clone());
                step.timers.set(&self.id, what, step.now, member.session_ms);
            }
        }
    }

    pub(super) fn end_join_if_all_did(&mut self, step: &mut Step<'_>) {
        if self.state == State::PreparingRebalance && self.initial.is_none() && self.all_joined() {
            self.end_join(step);
        }
    }

    /// The time in which members may join is over.
    pub(crate) fn join_is_due(&mut self, step: &mut Step<'_>) {
        if self.state != State::PreparingRebalance {
            return;
        }
        if let Some(initial) = &mut self.initial
            && initial.more_joined
            && initial.remaining_ms > 0
        {
            let before_ms = initial.delay_ms;
            initial.more_joined = false;
            initial.delay_ms = step.settings.initial_rebalance_delay_ms.min(initial.remaining_ms);
            initial.remaining_ms = (initial.remaining_ms - before_ms).max(0);
            let delay_ms = initial.delay_ms;
            step.timers.set(&self.id, What::Join, step.now, delay_ms);
            return;
        }
        self.end_join(step);
    }

    fn end_join(&mut self, step: &mut Step<'_>) {
        step.timers.cancel(&self.id, What::Join);
        let gone: Vec<String> = self
            .members
            .values()
            .filter(|m| m.join.is_none() && m.instance.is_none())
            .map(|m| m.id.clone())
            .collect();
        gone.iter().for_each(|id| self.remove(step, id));
        if !self.elect_leader() && !self.members.is_empty() {
            // Static members only, none of whom came: their sessions decide.
            step.timers.set(&self.id, What::Join, step.now, self.rebalance_ms());
            return;
        }
        self.initial = None;
        self.generation += 1;
        self.pending_syncs.clear();
        if self.members.is_empty() {
            self.protocol = None;
            self.leader = None;
            self.go_to(State::Empty, step.now);
            self.write(step);
            return;
        }
        self.protocol = self.elect_protocol();
        self.go_to(State::CompletingRebalance, step.now);
        self.answer_joins(step);
        step.timers.set(&self.id, What::Sync, step.now, self.rebalance_ms());
    }

    fn answer_joins(&mut self, step: &mut Step<'_>) {
        let ids: Vec<String> = self.members.keys().cloned().collect();
        for id in ids {
            let answer = self.joined(&id);
            if let Some(member) = self.members.get_mut(&id) {
                member.answer_join(step, answer);
                member.new = false;
            }
            self.restart_session(step, &id);
            self.pending_syncs.insert(id);
        }
    }

    /// The leader must be there to assign. Is there one?
    fn elect_leader(&mut self) -> bool {
        let there = |id: &String| self.members.get(id).is_some_and(|m| m.join.is_some());
        if self.leader.as_ref().is_some_and(there) {
            return true;
        }
        match self.members.values().find(|m| m.join.is_some()) {
            Some(member) => {
                self.leader = Some(member.id.clone());
                true
            }
            None => false,
        }
    }

    /// Of the protocols that all speak, each member votes for the one that it likes best.
    pub(super) fn elect_protocol(&self) -> Option<String> {
        let spoken = |name: &str| self.members.values().all(|m| m.metadata(name).is_some());
        let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
        for member in self.members.values() {
            if let Some((name, _)) = member.protocols.iter().find(|(name, _)| spoken(name)) {
                *votes.entry(name).or_default() += 1;
            }
        }
        let (name, _) = votes.into_iter().max_by_key(|(name, votes)| (*votes, Reverse(*name)))?;
        Some(name.to_owned())
    }

    /// Members had the time to ask for their assignment; who did not is gone.
    pub(crate) fn sync_is_due(&mut self, step: &mut Step<'_>) {
        if !matches!(self.state, State::CompletingRebalance | State::Stable)
            || self.pending_syncs.is_empty()
        {
            return;
        }
        let gone = std::mem::take(&mut self.pending_syncs);
        gone.iter().for_each(|id| self.remove(step, id));
        self.prepare(step);
    }

    /// Nothing was heard of a member, or of an id that was given out.
    pub(crate) fn session_is_over(&mut self, step: &mut Step<'_>, id: &str) {
        if self.pending_joins.remove(id) {
            return self.end_join_if_all_did(step);
        }
        let Some(member) = self.members.get(id) else { return };
        // Who waits here for an answer lives; its session begins anew with the answer.
        let waits = !member.new && (member.join.is_some() || member.sync.is_some());
        if !waits {
            self.remove(step, id);
            self.rebalance(step);
        }
    }
}
