//! What goes in and what comes out: requests, answers, effects.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;
use levee_kafka::messages::consumer_group_describe_request::ConsumerGroupDescribeRequest;
use levee_kafka::messages::consumer_group_describe_response::ConsumerGroupDescribeResponse;
use levee_kafka::messages::consumer_group_heartbeat_request::ConsumerGroupHeartbeatRequest;
use levee_kafka::messages::consumer_group_heartbeat_response::ConsumerGroupHeartbeatResponse;
use levee_kafka::messages::delete_groups_request::DeleteGroupsRequest;
use levee_kafka::messages::delete_groups_response::DeleteGroupsResponse;
use levee_kafka::messages::describe_groups_request::DescribeGroupsRequest;
use levee_kafka::messages::describe_groups_response::DescribeGroupsResponse;
use levee_kafka::messages::heartbeat_request::HeartbeatRequest;
use levee_kafka::messages::heartbeat_response::HeartbeatResponse;
use levee_kafka::messages::join_group_request::JoinGroupRequest;
use levee_kafka::messages::join_group_response::JoinGroupResponse;
use levee_kafka::messages::leave_group_request::LeaveGroupRequest;
use levee_kafka::messages::leave_group_response::LeaveGroupResponse;
use levee_kafka::messages::list_groups_request::ListGroupsRequest;
use levee_kafka::messages::list_groups_response::ListGroupsResponse;
use levee_kafka::messages::offset_commit_request::OffsetCommitRequest;
use levee_kafka::messages::offset_commit_response::OffsetCommitResponse;
use levee_kafka::messages::offset_delete_request::OffsetDeleteRequest;
use levee_kafka::messages::offset_delete_response::OffsetDeleteResponse;
use levee_kafka::messages::offset_fetch_request::OffsetFetchRequest;
use levee_kafka::messages::offset_fetch_response::OffsetFetchResponse;
use levee_kafka::messages::sync_group_request::SyncGroupRequest;
use levee_kafka::messages::sync_group_response::SyncGroupResponse;
use levee_kafka::messages::txn_offset_commit_request::TxnOffsetCommitRequest;
use levee_kafka::messages::txn_offset_commit_response::TxnOffsetCommitResponse;
use levee_kafka::{ErrorCode, Uuid};

use crate::settings::NAME_MAX;

/// Names a request to whoever waits for its answer.
pub type Token = u64;

/// Who asks, and how.
#[derive(Debug, Clone, Default)]
pub struct Caller {
    pub api_version: i16,
    pub client_id: String,
    /// As Kafka shows it: `/127.0.0.1`.
    pub client_host: String,
    /// Never given to anybody before: becomes (the end of) the member's id where the coordinator
    /// chooses it. Read for JoinGroup and ConsumerGroupHeartbeat only.
    pub fresh_id: String,
    /// Ids of the topics that it means by their names, where it says so: another topic that has such
    /// a name is not meant. Read for commits.
    pub topic_ids: BTreeMap<String, Uuid>,
}

impl Caller {
    /// What a client calls itself is for people.
    pub(crate) fn with_short_names(&self) -> Cow<'_, Self> {
        if self.client_id.len() <= NAME_MAX && self.client_host.len() <= NAME_MAX {
            return Cow::Borrowed(self);
        }
        let cut = |name: &str| name[..name.floor_char_boundary(NAME_MAX)].to_owned();
        let (client_id, client_host) = (cut(&self.client_id), cut(&self.client_host));
        Cow::Owned(Self { client_id, client_host, ..self.clone() })
    }
}

#[derive(Debug, Clone)]
pub enum Request {
    JoinGroup(JoinGroupRequest),
    SyncGroup(SyncGroupRequest),
    Heartbeat(HeartbeatRequest),
    LeaveGroup(LeaveGroupRequest),
    ConsumerGroupHeartbeat(ConsumerGroupHeartbeatRequest),
    OffsetCommit(OffsetCommitRequest),
    /// The producer's id and epoch must have been checked: an append that is refused for them ends
    /// the state.
    TxnOffsetCommit(TxnOffsetCommitRequest),
    OffsetFetch(OffsetFetchRequest),
    OffsetDelete(OffsetDeleteRequest),
    DeleteGroups(DeleteGroupsRequest),
    ListGroups(ListGroupsRequest),
    DescribeGroups(DescribeGroupsRequest),
    ConsumerGroupDescribe(ConsumerGroupDescribeRequest),
}

#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    JoinGroup(JoinGroupResponse),
    SyncGroup(SyncGroupResponse),
    Heartbeat(HeartbeatResponse),
    LeaveGroup(LeaveGroupResponse),
    ConsumerGroupHeartbeat(ConsumerGroupHeartbeatResponse),
    OffsetCommit(OffsetCommitResponse),
    TxnOffsetCommit(TxnOffsetCommitResponse),
    OffsetFetch(OffsetFetchResponse),
    OffsetDelete(OffsetDeleteResponse),
    DeleteGroups(DeleteGroupsResponse),
    ListGroups(ListGroupsResponse),
    DescribeGroups(DescribeGroupsResponse),
    ConsumerGroupDescribe(ConsumerGroupDescribeResponse),
}

/// Of the transaction that records belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Producer {
    pub id: i64,
    pub epoch: i16,
}

/// What is to be done because of one call.
#[derive(Debug, Default)]
pub struct Effects {
    /// Keys and values to append, in this order; no value: a tombstone.
    pub records: Vec<(Bytes, Option<Bytes>)>,
    /// Where in `records` a batch may end, beside behind the last: what is in front of such a place
    /// makes sense without the rest. Between two of them is never more than a batch takes.
    pub cuts: Vec<usize>,
    /// The batch is part of this producer's transaction.
    pub producer: Option<Producer>,
    /// To be given when `records`, and those of all calls before, are durable.
    pub answers: Vec<(Token, Answer)>,
}

/// No, and why: a code, and for those who can say it a sentence.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Refusal {
    pub code: ErrorCode,
    pub message: String,
}

impl Refusal {
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}
