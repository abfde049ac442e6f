//! A static member comes back: the instance is known, the process is new.

use levee_kafka::ErrorCode;
use levee_kafka::messages::join_group_request::JoinGroupRequest;

use super::member::Member;
use super::{ClassicGroup, State};
use crate::api::{Answer, Caller, Token};
use crate::groups::Step;

/// From this version on a leader can be told not to assign (KIP-814).
const SKIP_FROM: i16 = 9;

impl ClassicGroup {
    pub(super) fn join_static(
        &mut self,
        step: &mut Step<'_>,
        caller: &Caller,
        token: Token,
        request: &JoinGroupRequest,
        instance: &str,
    ) {
        let id = format!("{instance}-{}", caller.fresh_id);
        let Some(before) = self.instances.get(instance).cloned() else {
            return self.add_and_rebalance(step, Member::new(id, caller, request), token);
        };
        let leader_before = self.leader.clone().unwrap_or_default();
        self.replace(step, caller, &before, &id, request);
        if self.state == State::Stable && self.protocol == self.elect_protocol() {
            // Nothing changes for the group: the new process takes over what the old one had.
            self.write(step);
            let mut answer = self.joined(&id);
            if caller.api_version >= SKIP_FROM {
                answer.skip_assignment = self.is_leader(&id);
            } else {
                // It must not think that it leads, or it would assign anew.
                answer.leader = leader_before;
                answer.members.clear();
            }
            step.answer(token, Answer::JoinGroup(answer));
            return;
        }
        if let Some(member) = self.members.get_mut(&id) {
            member.wait_for_join(step, token);
        }
        self.rebalance(step);
    }

    /// The instance's next member, in the place of the one before.
    fn replace(
        &mut self,
        step: &mut Step<'_>,
        caller: &Caller,
        before: &str,
        id: &str,
        request: &JoinGroupRequest,
    ) {
        let led = self.is_leader(before);
        if let Some(old) = self.members.get_mut(before) {
            // Another process is this instance now.
            old.refuse_all(step, ErrorCode::FencedInstanceId);
            let mut member = Member::new(id.to_owned(), caller, request);
            member.assignment = old.assignment.clone();
            member.new = old.new;
            self.remove(step, before);
            self.add(member);
        }
        if led {
            self.leader = Some(id.to_owned());
        }
        self.restart_session(step, id);
    }
}
