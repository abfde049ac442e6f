//! One member's way from what it has to what it shall have: first it gives back, then it gets.

use std::collections::{BTreeMap, BTreeSet};

use super::ConsumerGroup;
use super::member::{Assignment, Member, MemberState, Owned, insert};
use crate::groups::Step;
use crate::timers::What;

impl ConsumerGroup {
    /// `owned`: what the member says that it has now; none: it says nothing of it.
    pub(super) fn reconcile(&mut self, step: &mut Step<'_>, id: &str, owned: Option<&Assignment>) {
        let Some(member) = self.members.get(id) else { return };
        let next = self.next_of(id, member, owned).filter(|next| next != member);
        let Some(next) = next else { return };
        let waits = next.state == MemberState::Unrevoked;
        let rebalance_ms = next.rebalance_ms;
        self.write(step, next.to_current(&self.id, id));
        let what = What::Revocation(id.to_owned());
        match waits {
            true => step.timers.set(&self.id, what, step.now, rebalance_ms),
            false => step.timers.cancel(&self.id, what),
        }
    }

    /// None: it stays as it is.
    fn next_of(&self, id: &str, member: &Member, owned: Option<&Assignment>) -> Option<Member> {
        let there = match member.state {
            MemberState::Stable => member.epoch == self.target_epoch,
            MemberState::Unrevoked => still_has(owned, &member.revoking),
            MemberState::Unreleased | MemberState::Unknown => false,
        };
        if there {
            return None;
        }
        let nothing = Assignment::new();
        let target = self.target.get(id).unwrap_or(&nothing);
        let mut next = member.clone();
        let (mut keeps, mut gives_back) = (Owned::new(), Owned::new());
        for (topic, partitions) in &member.assigned {
            let wanted = target.get(topic);
            for (partition, epoch) in partitions {
                let keep = wanted.is_some_and(|wanted| wanted.contains(partition));
                let to = if keep { &mut keeps } else { &mut gives_back };
                insert(to, *topic, *partition, *epoch);
            }
        }
        next.assigned = keeps;
        if !gives_back.is_empty() && still_has(owned, &gives_back) {
            // It stays in its epoch until it says that it has them no more.
            next.move_to(member.epoch);
            next.state = MemberState::Unrevoked;
            next.revoking = gives_back;
            return Some(next);
        }
        next.revoking.clear();
        next.move_to(self.target_epoch);
        next.state = match self.add_free(id, target, &mut next.assigned) {
            true => MemberState::Stable,
            false => MemberState::Unreleased,
        };
        Some(next)
    }

    /// Adds what nobody else has any more. Was that all?
    fn add_free(&self, id: &str, target: &Assignment, assigned: &mut Owned) -> bool {
        let mut all = true;
        for (topic, partitions) in target {
            for partition in partitions {
                let owner = self.owners.get(&(*topic, *partition));
                if owner.is_some_and(|owner| owner != id) {
                    all = false;
                } else if !assigned.get(topic).is_some_and(|has| has.contains_key(partition)) {
                    insert(assigned, *topic, *partition, self.target_epoch);
                }
            }
        }
        all
    }
}

/// Who does not say what it has may have all of it.
fn still_has(owned: Option<&Assignment>, revoking: &Owned) -> bool {
    let Some(owned) = owned else { return true };
    let has = |has: &BTreeSet<i32>, revoking: &BTreeMap<i32, i32>| {
        revoking.keys().any(|partition| has.contains(partition))
    };
    revoking.iter().any(|(topic, partitions)| owned.get(topic).is_some_and(|o| has(o, partitions)))
}
