//! Appends by gRPC: structured records or encoded batches, one or many in flight.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use levee_kafka::ErrorCode;
use levee_proto::grpc::{AppendRequest, AppendResponse};
use levee_proto::record::BatchHeader;
use levee_proto::record::codecs::Compression;
use levee_proto::record::records::{BatchBuilder, RecordData};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::refusals::of_transaction;
use crate::coordinator::Coordinators;
use crate::coordinator::join::Member;
use crate::error::{Error, Result};
use crate::node::Node;
use crate::partition::Appended;
use crate::produce::{Acks, Pending};

/// Appends of one stream that wait for their acks; their bytes are bounded by the lanes.
const IN_FLIGHT: usize = 4096;

/// Longest time that an append may ask for.
const TIMEOUT_MAX: Duration = Duration::from_secs(600);

/// One append of a stream that has its place, or has none; or why the stream ends.
pub(super) type Placed = std::result::Result<(u64, Result<Pending>), Status>;

/// Reads requests and places them in their order, until the client ends or this broker stops.
pub(super) fn place_all(
    coordinators: Arc<Coordinators>,
    mut requests: Streaming<AppendRequest>,
) -> mpsc::Receiver<Placed> {
    let (send, receive) = mpsc::channel(IN_FLIGHT);
    let mut draining = coordinators.node.draining();
    tokio::spawn(async move {
        loop {
            let next = tokio::select! {
                biased;
                _ = draining.wait_for(|draining| *draining) => return,
                next = requests.message() => next,
            };
            let request = match next {
                Ok(Some(request)) => request,
                Ok(None) => return,
                Err(status) => {
                    // The client may be gone, or have sent what nobody can take.
                    let _ = send.send(Err(status)).await;
                    return;
                }
            };
            let id = request.id;
            let placed = place(&coordinators, request).await;
            if send.send(Ok((id, placed))).await.is_err() {
                return;
            }
        }
    });
    receive
}

pub(super) async fn place(
    coordinators: &Arc<Coordinators>,
    request: AppendRequest,
) -> Result<Pending> {
    let node = &coordinators.node;
    let limit = match request.timeout_ms {
        0 => node.config.request_timeout,
        ms => Duration::from_millis(ms.into()).min(TIMEOUT_MAX),
    };
    let acks = match request.acks() {
        levee_proto::grpc::Acks::All => Acks::All,
        levee_proto::grpc::Acks::Leader => Acks::Leader,
    };
    let batch = batch_of(node, &request)?;
    if let Some(member) = member_of(&request, &batch)? {
        join(coordinators, &member, &request, limit).await?;
    }
    node.append(&request.topic, request.partition, batch, acks, limit).await
}

/// The transaction that a batch says it is part of.
fn member_of(request: &AppendRequest, batch: &Bytes) -> Result<Option<Member>> {
    let id = &request.transactional_id;
    // What is wrong with the batch is found where it is appended.
    let header = BatchHeader::decode(batch).ok().filter(BatchHeader::is_transactional);
    match header {
        None if id.is_empty() => Ok(None),
        None => Err(Error::invalid_argument(format!(
            "transactional_id is {id:?} and the batch is not marked as transactional; send an \
             encoded batch that is"
        ))),
        Some(_) if id.is_empty() => Err(Error::invalid_argument(
            "the batch is marked as transactional; name its transactional_id",
        )),
        Some(header) => Ok(Some(Member {
            transactional_id: id.clone(),
            producer_id: header.producer_id,
            producer_epoch: header.producer_epoch,
            joins: true,
        })),
    }
}

/// Nothing of a transaction is written that its coordinator does not know of. Fast where the
/// partition has the transaction open.
async fn join(
    coordinators: &Arc<Coordinators>,
    member: &Member,
    request: &AppendRequest,
    limit: Duration,
) -> Result<()> {
    let (topic, partition, node) = (&request.topic, request.partition, &coordinators.node);
    let joined = coordinators.join(member, topic, partition);
    let late = |_| Error::timed_out("joining the transaction", limit.as_millis() as u64);
    let joined = node.host.timeout(limit, joined).await.map_err(late)?;
    joined.map(drop).map_err(|code| match code {
        // Of the partition itself.
        ErrorCode::UnknownTopicOrPartition | ErrorCode::NotLeaderOrFollower => {
            let found = node.partition(topic, partition);
            found.err().unwrap_or_else(|| Error::not_leader(topic, partition))
        }
        code => of_transaction(code, &member.transactional_id),
    })
}

fn batch_of(node: &Node, request: &AppendRequest) -> Result<Bytes> {
    match (request.batch.is_empty(), request.records.is_empty()) {
        (false, true) => return Ok(request.batch.clone()),
        (true, false) => {}
        (true, true) => {
            return Err(Error::invalid_argument("neither batch nor records are set"));
        }
        (false, false) => {
            return Err(Error::invalid_argument("batch and records are both set; send one"));
        }
    }
    let now = node.host.wall_ms();
    let mut builder = BatchBuilder::new(Compression::None);
    for record in &request.records {
        let headers = record.headers.iter().map(|h| (h.key.clone(), h.value.clone())).collect();
        builder.push(&RecordData {
            timestamp_ms: if record.timestamp_ms == 0 { now } else { record.timestamp_ms },
            key: record.key.clone(),
            value: record.value.clone(),
            headers,
        });
    }
    Ok(builder.build(None))
}

pub(super) fn response(id: u64, outcome: Result<Appended>) -> AppendResponse {
    match outcome {
        Ok(appended) => AppendResponse {
            id,
            base_offset: appended.base_offset,
            end_offset: appended.end_offset,
            duplicate: appended.duplicate,
            error: None,
            leader_epoch: appended.leader_epoch,
            log_start: appended.log_start,
        },
        Err(error) => AppendResponse { id, error: Some(error.to_detail()), ..Default::default() },
    }
}

/// The next answer of a stream.
pub(super) async fn answer(
    node: &Node,
    placed: &mut mpsc::Receiver<Placed>,
) -> Option<std::result::Result<AppendResponse, Status>> {
    let (id, placed) = match placed.recv().await? {
        Ok(placed) => placed,
        Err(status) => return Some(Err(status)),
    };
    let outcome = match placed {
        Ok(pending) => pending.done(node).await,
        Err(error) => Err(error),
    };
    Some(Ok(response(id, outcome)))
}
