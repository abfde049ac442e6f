//! JoinGroup.

use levee_kafka::ErrorCode;
use levee_kafka::messages::join_group_request::JoinGroupRequest;
use levee_kafka::messages::join_group_response::{JoinGroupResponse, JoinGroupResponseMember};

use super::member::{Member, refused};
use super::{ClassicGroup, State};
use crate::api::{Answer, Caller, Token};
use crate::groups::Step;
use crate::timers::What;

/// From this version on a new member is first given an id, so that a lost answer leaves no member
/// behind that nobody is (KIP-394).
const ID_REQUIRED_FROM: i16 = 4;

impl ClassicGroup {
    pub(crate) fn join(
        &mut self,
        step: &mut Step<'_>,
        caller: &Caller,
        token: Token,
        request: JoinGroupRequest,
    ) {
        if let Err(code) = self.take_join(step, caller, token, &request) {
            step.answer(token, Answer::JoinGroup(refused(&request.member_id, code)));
        }
    }

    fn take_join(
        &mut self,
        step: &mut Step<'_>,
        caller: &Caller,
        token: Token,
        request: &JoinGroupRequest,
    ) -> Result<(), ErrorCode> {
        if !self.has_place_for(request, step.settings.max_size) {
            self.remove(step, &request.member_id);
            return Err(ErrorCode::GroupMaxSizeReached);
        }
        if !self.has_room_for(request, caller, step.settings.batch_room()) {
            return Err(ErrorCode::GroupMaxSizeReached);
        }
        if !self.can_work_with(request) {
            return Err(ErrorCode::InconsistentGroupProtocol);
        }
        match (request.member_id.as_str(), &request.group_instance_id) {
            ("", Some(instance)) => self.join_static(step, caller, token, request, instance),
            ("", None) => self.join_new(step, caller, token, request),
            (id, None) if self.pending_joins.contains(id) => {
                self.add_and_rebalance(step, Member::new(id.to_owned(), caller, request), token);
            }
            (id, instance) => {
                self.check_member(id, instance.as_deref())?;
                return self.join_again(step, token, request);
            }
        }
        Ok(())
    }

    fn has_place_for(&self, request: &JoinGroupRequest, max_size: usize) -> bool {
        let id = &request.member_id;
        // A static member that comes back takes the place that it has.
        if request.group_instance_id.as_ref().is_some_and(|i| self.instances.contains_key(i)) {
            return true;
        }
        match self.state {
            State::Empty => true,
            State::PreparingRebalance => {
                let waiting = self.members.values().filter(|m| m.join.is_some()).count();
                waiting < max_size || self.members.get(id).is_some_and(|m| m.join.is_some())
            }
            State::CompletingRebalance | State::Stable => {
                self.members.len() < max_size || self.members.contains_key(id)
            }
        }
    }

    /// Will the group's record be small enough, whatever protocol is chosen?
    fn has_room_for(&self, request: &JoinGroupRequest, caller: &Caller, room: usize) -> bool {
        let instance = request.group_instance_id.as_ref().and_then(|i| self.instances.get(i));
        let before = self.members.get(instance.unwrap_or(&request.member_id));
        let others = self.bytes() - before.map_or(0, Member::bytes);
        let kept = before.map_or(0, |member| member.assignment.len());
        others + kept + Member::bytes_at_most(caller, request) <= room
    }

    /// Is there a protocol that everybody speaks?
    fn can_work_with(&self, request: &JoinGroupRequest) -> bool {
        if self.state == State::Empty {
            return true;
        }
        self.protocol_type.as_ref() == Some(&request.protocol_type)
            && request
                .protocols
                .iter()
                .any(|p| self.members.values().all(|m| m.metadata(&p.name).is_some()))
    }

    fn join_new(
        &mut self,
        step: &mut Step<'_>,
        caller: &Caller,
        token: Token,
        request: &JoinGroupRequest,
    ) {
        let id = format!("{}-{}", caller.client_id, caller.fresh_id);
        if caller.api_version < ID_REQUIRED_FROM {
            return self.add_and_rebalance(step, Member::new(id, caller, request), token);
        }
        self.pending_joins.insert(id.clone());
        let what = What::Session(id.clone());
        step.timers.set(&self.id, what, step.now, request.session_timeout_ms);
        step.answer(token, Answer::JoinGroup(refused(&id, ErrorCode::MemberIdRequired)));
    }

    pub(super) fn add_and_rebalance(
        &mut self,
        step: &mut Step<'_>,
        mut member: Member,
        token: Token,
    ) {
        if let Some(initial) = &mut self.initial {
            initial.more_joined = true;
        }
        member.wait_for_join(step, token);
        // A client that is gone would otherwise stay in a join for ever: it sends no heartbeats.
        let what = What::Session(member.id.clone());
        step.timers.set(&self.id, what, step.now, step.settings.new_member_join_ms);
        self.add(member);
        self.rebalance(step);
    }

    /// Of a member that the group has.
    fn join_again(
        &mut self,
        step: &mut Step<'_>,
        token: Token,
        request: &JoinGroupRequest,
    ) -> Result<(), ErrorCode> {
        let id = &request.member_id;
        let leads = self.is_leader(id);
        let Some(member) = self.members.get_mut(id) else {
            return Err(ErrorCode::UnknownMemberId);
        };
        let same = member.says(request);
        let knows = match self.state {
            State::Empty => return Err(ErrorCode::UnknownMemberId),
            State::PreparingRebalance => false,
            // It may have missed the answer to its join.
            State::CompletingRebalance => same,
            // A leader that joins asks for a rebalance: it saw topics change.
            State::Stable => same && !leads,
        };
        if !knows {
            member.update(request);
            member.wait_for_join(step, token);
            self.rebalance(step);
            return Ok(());
        }
        let answer = self.joined(id);
        step.answer(token, Answer::JoinGroup(answer));
        Ok(())
    }

    /// This generation, as one member is told of it.
    pub(super) fn joined(&self, id: &str) -> JoinGroupResponse {
        JoinGroupResponse {
            generation_id: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol_name: self.protocol.clone(),
            leader: self.leader.clone().unwrap_or_default(),
            member_id: id.to_owned(),
            members: if self.is_leader(id) { self.member_list() } else { Vec::new() },
            ..Default::default()
        }
    }

    pub(super) fn member_list(&self) -> Vec<JoinGroupResponseMember> {
        let protocol = self.protocol.as_deref().unwrap_or_default();
        self.members
            .values()
            .map(|member| JoinGroupResponseMember {
                member_id: member.id.clone(),
                group_instance_id: member.instance.clone(),
                metadata: member.metadata(protocol).cloned().unwrap_or_default(),
            })
            .collect()
    }
}
