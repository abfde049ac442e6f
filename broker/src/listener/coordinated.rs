//! What the services of groups and transactions share: the way to their coordinators.
//!
//! Owns: the deadline of every question, and names of partitions in both languages. Does not own:
//! what is asked.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use levee_groups::{Answer, Caller, Request};
use levee_kafka::{ErrorCode, Uuid};
use levee_proto::grpc::{ErrorCode as Code, PartitionOffset, TopicOffsets};
use levee_proto::ids::TopicId;
use prost::Message;
use tonic::Response;

use super::refusals::{of_group, of_transaction};
use crate::coordinator::Coordinators;
use crate::coordinator::groups::Call;
use crate::error::{Error, Result};
use crate::node::Node;

/// Largest answer about groups and transactions.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// See the module.
#[derive(Clone)]
pub(super) struct Coordinated {
    pub(super) all: Arc<Coordinators>,
}

/// Who asks a group.
#[derive(Debug, Clone, Default)]
pub(super) struct Asker {
    pub(super) client_id: String,
    pub(super) host: String,
    pub(super) topic_ids: BTreeMap<String, Uuid>,
}

impl Asker {
    pub(super) fn of<T>(request: &tonic::Request<T>) -> Self {
        let host = request.remote_addr().map(|peer| format!("/{}", peer.ip().to_canonical()));
        Self { host: host.unwrap_or_default(), ..Self::default() }
    }

    /// With the topics that it means by the names of offsets.
    pub(super) fn commits(&self, offsets: &[TopicOffsets]) -> Result<Self> {
        let mut topic_ids = BTreeMap::new();
        for TopicOffsets { topic, topic_id, .. } in
            offsets.iter().filter(|t| !t.topic_id.is_empty())
        {
            let wrong = |why: &str| {
                let what = format!("topic_id {topic_id:?} of topic {topic:?} {why}");
                Error::invalid_argument(what)
            };
            let id: TopicId = topic_id.parse().map_err(|_| wrong("is not 32 hex digits"))?;
            let before = topic_ids.insert(topic.clone(), Uuid::from(id.0));
            if before.is_some_and(|before| before != Uuid::from(id.0)) {
                return Err(wrong("is not the one that the same request says before"));
            }
        }
        Ok(Self { topic_ids, ..self.clone() })
    }

    pub(super) fn caller(&self, node: &Node, api_version: i16) -> Caller {
        Caller {
            api_version,
            client_id: self.client_id.clone(),
            client_host: self.host.clone(),
            fresh_id: Uuid::from(node.host.random_u128()).to_string(),
            topic_ids: self.topic_ids.clone(),
        }
    }
}

impl Coordinated {
    pub(super) fn node(&self) -> &Arc<Node> {
        &self.all.node
    }

    /// Asks the coordinator of a group, in this version of the request's API.
    pub(super) async fn group(
        &self,
        by: &Asker,
        group: &str,
        version: i16,
        request: Request,
    ) -> Result<Answer> {
        if group.is_empty() {
            return Err(Error::invalid_argument("group is empty; name the group"));
        }
        let caller = by.caller(self.node(), version);
        let asked = self.all.ask_group(group, Call::new(caller, request));
        self.in_time("the group's coordinator", asked)
            .await?
            .map_err(|code| of_group(code, group, None))
    }

    /// Asks the coordinator of a transactional id.
    pub(super) async fn transaction(
        &self,
        id: &str,
        version: i16,
        connection: u64,
        request: levee_transactions::Request,
    ) -> Result<levee_transactions::Answer> {
        let call = crate::coordinator::transactions::Call::Ask { version, connection, request };
        let asked = self.all.ask_transaction(id, call);
        self.in_time("the transaction's coordinator", asked)
            .await?
            .map_err(|code| of_transaction(code, id))
    }

    /// No wait is longer than a request may take.
    pub(super) async fn in_time<T>(
        &self,
        what: &str,
        answer: impl Future<Output = T>,
    ) -> Result<T> {
        let limit = self.node().config.request_timeout;
        let answered = self.node().host.timeout(limit, answer).await;
        answered.map_err(|_| Error::timed_out(what, limit.as_millis() as u64))
    }
}

/// An answer, unless it is larger than what a client should have to take.
pub(super) fn bounded<M: Message>(answer: M, what: &str, remedy: &str) -> Result<Response<M>> {
    let bytes = answer.encoded_len();
    if bytes <= ANSWER_BYTES_MAX {
        return Ok(Response::new(answer));
    }
    let max = ANSWER_BYTES_MAX >> 20;
    let what = format!("{what} would be {bytes} bytes, above {max} MiB for one answer");
    Err(Error::refused(Code::InvalidArgument, what, remedy))
}

/// An answer that is none to what was asked.
pub(super) fn mixed_up() -> Error {
    Error::internal("a coordinator answered something that was not asked")
}

/// The error of a partition, unless there is none.
pub(super) fn failure(code: i16) -> Option<ErrorCode> {
    Some(ErrorCode::from_number(code)).filter(|_| code != 0)
}

pub(super) fn partition_index(partition: u32) -> Result<i32> {
    let wrong = |_| Error::invalid_argument(format!("partition {partition} is above 2147483647"));
    i32::try_from(partition).map_err(wrong)
}

pub(super) fn indexes(partitions: &[u32]) -> Result<Vec<i32>> {
    partitions.iter().map(|partition| partition_index(*partition)).collect()
}

/// Partitions of answers are never negative.
pub(super) fn numbers(partitions: &[i32]) -> Vec<u32> {
    partitions.iter().filter_map(|partition| u32::try_from(*partition).ok()).collect()
}

/// One offset to commit, as Kafka writes it: offset, leader epoch (-1: none), metadata.
pub(super) fn to_commit(asked: &PartitionOffset) -> Result<(i32, i64, i32, Option<String>)> {
    let partition = partition_index(asked.partition)?;
    let wrong = |what: &str, value: u64| {
        Error::invalid_argument(format!("{what} {value} of partition {partition} is too large"))
    };
    let offset = i64::try_from(asked.offset).map_err(|_| wrong("offset", asked.offset))?;
    let epoch = match asked.leader_epoch {
        None => -1,
        Some(epoch) => i32::try_from(epoch).map_err(|_| wrong("leader_epoch", u64::from(epoch)))?,
    };
    Ok((partition, offset, epoch, Some(asked.metadata.clone())))
}

/// A commit of nothing would say nothing of whether it may commit.
pub(super) fn check_offsets(offsets: &[TopicOffsets]) -> Result<()> {
    match offsets.iter().any(|topic| !topic.partitions.is_empty()) {
        true => Ok(()),
        false => Err(Error::invalid_argument("offsets is empty; name at least one offset")),
    }
}
