//! One member of a classic group.

use bytes::Bytes;
use levee_kafka::ErrorCode;
use levee_kafka::messages::join_group_request::JoinGroupRequest;
use levee_kafka::messages::join_group_response::JoinGroupResponse;
use levee_kafka::messages::sync_group_response::SyncGroupResponse;

use crate::api::{Answer, Caller, Token};
use crate::groups::Step;

/// Lengths and numbers: of a member, and of one thing that it says.
const MEMBER_BYTES: usize = 64;
const FIELD_BYTES: usize = 64;

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Member {
    pub(crate) id: String,
    /// A static member's.
    pub(crate) instance: Option<String>,
    pub(crate) client_id: String,
    pub(crate) client_host: String,
    pub(super) rebalance_ms: i32,
    pub(super) session_ms: i32,
    pub(super) protocol_type: String,
    /// Names and metadata, what it likes best first.
    pub(super) protocols: Vec<(String, Bytes)>,
    pub(crate) assignment: Bytes,
    /// The join that waits for an answer.
    pub(super) join: Option<Token>,
    /// The sync that does.
    pub(super) sync: Option<Token>,
    /// It never got an answer to a join: it cannot send heartbeats.
    pub(super) new: bool,
}

impl Member {
    pub(super) fn new(id: String, caller: &Caller, request: &JoinGroupRequest) -> Self {
        let mut member = Self {
            id,
            instance: request.group_instance_id.clone(),
            client_id: caller.client_id.clone(),
            client_host: caller.client_host.clone(),
            rebalance_ms: 0,
            session_ms: 0,
            protocol_type: request.protocol_type.clone(),
            protocols: Vec::new(),
            assignment: Bytes::new(),
            join: None,
            sync: None,
            new: true,
        };
        member.update(request);
        member
    }

    /// Takes over what a join says.
    pub(super) fn update(&mut self, request: &JoinGroupRequest) {
        self.session_ms = request.session_timeout_ms;
        // Version 0 has one timeout.
        self.rebalance_ms = match request.rebalance_timeout_ms {
            ms if ms < 0 => request.session_timeout_ms,
            ms => ms,
        };
        // Copies: a slice would keep all of the frame that it came in.
        let copied = |metadata: &Bytes| Bytes::copy_from_slice(metadata);
        let each = request.protocols.iter();
        self.protocols = each.map(|p| (p.name.clone(), copied(&p.metadata))).collect();
    }

    /// Does a join say what the one before said?
    pub(super) fn says(&self, request: &JoinGroupRequest) -> bool {
        let asked = request.protocols.iter().map(|p| (&p.name, &p.metadata));
        self.protocols.iter().map(|(name, metadata)| (name, metadata)).eq(asked)
    }

    /// Most that it takes in the group's record, and in memory.
    pub(super) fn bytes(&self) -> usize {
        let names = [&self.id, &self.client_id, &self.client_host].map(String::len);
        let names =
            names.into_iter().sum::<usize>() + self.instance.as_ref().map_or(0, String::len);
        let each = self.protocols.iter();
        let said: usize = each.map(|(name, said)| FIELD_BYTES + name.len() + said.len()).sum();
        MEMBER_BYTES + names + said + self.assignment.len()
    }

    /// As `bytes`, of the member that a join makes. Its id may still be to be made, of the instance or
    /// the client's name and a fresh id.
    pub(super) fn bytes_at_most(caller: &Caller, request: &JoinGroupRequest) -> usize {
        let instance = request.group_instance_id.as_ref().map_or(0, String::len);
        let id =
            request.member_id.len() + instance + caller.client_id.len() + caller.fresh_id.len();
        let names = id + instance + caller.client_id.len() + caller.client_host.len();
        let each = request.protocols.iter();
        let said: usize = each.map(|p| FIELD_BYTES + p.name.len() + p.metadata.len()).sum();
        MEMBER_BYTES + names + said
    }

    pub(crate) fn metadata(&self, protocol: &str) -> Option<&Bytes> {
        self.protocols.iter().find(|(name, _)| name == protocol).map(|(_, metadata)| metadata)
    }

    /// A join waits. One that waited already came over a connection that is dead, or from a client
    /// that repeats itself: it is told to try again.
    pub(super) fn wait_for_join(&mut self, step: &mut Step<'_>, token: Token) {
        self.answer_join(step, refused(&self.id, ErrorCode::RebalanceInProgress));
        self.join = Some(token);
    }

    pub(super) fn wait_for_sync(&mut self, step: &mut Step<'_>, token: Token) {
        let again = ErrorCode::RebalanceInProgress.into();
        self.answer_sync(step, SyncGroupResponse { error_code: again, ..Default::default() });
        self.sync = Some(token);
    }

    pub(super) fn answer_join(&mut self, step: &mut Step<'_>, answer: JoinGroupResponse) {
        if let Some(token) = self.join.take() {
            step.answer(token, Answer::JoinGroup(answer));
        }
    }

    /// Was one waiting?
    pub(super) fn answer_sync(&mut self, step: &mut Step<'_>, answer: SyncGroupResponse) -> bool {
        match self.sync.take() {
            Some(token) => {
                step.answer(token, Answer::SyncGroup(answer));
                true
            }
            None => false,
        }
    }

    pub(super) fn refuse_all(&mut self, step: &mut Step<'_>, code: ErrorCode) {
        self.answer_join(step, refused(&self.id, code));
        let answer = SyncGroupResponse { error_code: code.into(), ..Default::default() };
        self.answer_sync(step, answer);
    }
}

/// A join's answer that says no.
pub(crate) fn refused(member: &str, code: ErrorCode) -> JoinGroupResponse {
    JoinGroupResponse {
        error_code: code.into(),
        member_id: member.to_owned(),
        ..Default::default()
    }
}
