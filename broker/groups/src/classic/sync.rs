//! SyncGroup and Heartbeat.

use bytes::Bytes;
use levee_kafka::ErrorCode;
use levee_kafka::messages::heartbeat_request::HeartbeatRequest;
use levee_kafka::messages::sync_group_request::{SyncGroupRequest, SyncGroupRequestAssignment};
use levee_kafka::messages::sync_group_response::SyncGroupResponse;

use super::{ClassicGroup, State};
use crate::api::{Answer, Token};
use crate::groups::Step;
use crate::timers::What;

impl ClassicGroup {
    pub(crate) fn sync(&mut self, step: &mut Step<'_>, token: Token, request: SyncGroupRequest) {
        if let Err(code) = self.take_sync(step, token, request) {
            let answer = SyncGroupResponse { error_code: code.into(), ..Default::default() };
            step.answer(token, Answer::SyncGroup(answer));
        }
    }

    fn take_sync(
        &mut self,
        step: &mut Step<'_>,
        token: Token,
        request: SyncGroupRequest,
    ) -> Result<(), ErrorCode> {
        let id = request.member_id;
        self.check_member(&id, request.group_instance_id.as_deref())?;
        if request.generation_id != self.generation {
            return Err(ErrorCode::IllegalGeneration);
        }
        let differs = |said: &Option<String>, is: &Option<String>| said.is_some() && said != is;
        if differs(&request.protocol_type, &self.protocol_type)
            || differs(&request.protocol_name, &self.protocol)
        {
            return Err(ErrorCode::InconsistentGroupProtocol);
        }
        match self.state {
            State::Empty => return Err(ErrorCode::UnknownMemberId),
            State::PreparingRebalance => return Err(ErrorCode::RebalanceInProgress),
            State::CompletingRebalance => {
                if self.is_leader(&id) && !self.has_room_to_assign(step, &request.assignments) {
                    // Kafka's answer where the record is too large.
                    return Err(ErrorCode::UnknownServerError);
                }
                self.synced(step, &id);
                if let Some(member) = self.members.get_mut(&id) {
                    member.wait_for_sync(step, token);
                }
                if self.is_leader(&id) {
                    self.assign(step, request.assignments);
                }
            }
            State::Stable => {
                self.synced(step, &id);
                let assignment = self.members.get(&id).map(|m| m.assignment.clone());
                let answer = self.assigned(assignment.unwrap_or_default());
                step.answer(token, Answer::SyncGroup(answer));
            }
        }
        Ok(())
    }

    fn synced(&mut self, step: &mut Step<'_>, id: &str) {
        self.pending_syncs.remove(id);
        if self.pending_syncs.is_empty() {
            step.timers.cancel(&self.id, What::Sync);
        }
    }

    fn has_room_to_assign(&self, step: &Step<'_>, given: &[SyncGroupRequestAssignment]) -> bool {
        let before: usize = self.members.values().map(|member| member.assignment.len()).sum();
        let given: usize = given.iter().map(|given| given.assignment.len()).sum();
        self.bytes() - before + given <= step.settings.batch_room()
    }

    /// What the leader decided becomes durable, and everybody who waits is told.
    fn assign(&mut self, step: &mut Step<'_>, assignments: Vec<SyncGroupRequestAssignment>) {
        self.members.values_mut().for_each(|member| member.assignment = Bytes::new());
        for given in assignments {
            if let Some(member) = self.members.get_mut(&given.member_id) {
                // A copy: a slice would keep all of the frame that it came in.
                member.assignment = Bytes::copy_from_slice(&given.assignment);
            }
        }
        self.go_to(State::Stable, step.now);
        self.write(step);
        let ids: Vec<String> =
            self.members.values().filter(|m| m.sync.is_some()).map(|m| m.id.clone()).collect();
        for id in ids {
            let assignment = self.members.get(&id).map(|m| m.assignment.clone());
            let answer = self.assigned(assignment.unwrap_or_default());
            if let Some(member) = self.members.get_mut(&id) {
                member.answer_sync(step, answer);
            }
            self.restart_session(step, &id);
        }
    }

    fn assigned(&self, assignment: Bytes) -> SyncGroupResponse {
        SyncGroupResponse {
            protocol_type: self.protocol_type.clone(),
            protocol_name: self.protocol.clone(),
            assignment,
            ..Default::default()
        }
    }

    pub(crate) fn heartbeat(
        &mut self,
        step: &mut Step<'_>,
        request: &HeartbeatRequest,
    ) -> Result<(), ErrorCode> {
        let id = &request.member_id;
        self.check_member(id, request.group_instance_id.as_deref())?;
        if request.generation_id != self.generation {
            return Err(ErrorCode::IllegalGeneration);
        }
        self.restart_session(step, id);
        match self.state {
            State::Empty => Err(ErrorCode::UnknownMemberId),
            State::PreparingRebalance => Err(ErrorCode::RebalanceInProgress),
            State::CompletingRebalance | State::Stable => Ok(()),
        }
    }
}
