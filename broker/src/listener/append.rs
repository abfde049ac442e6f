//! Appends by gRPC: structured records or encoded batches, one or many in flight.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use levee_proto::grpc::{AppendRequest, AppendResponse};
use levee_proto::record::BatchHeader;
use levee_proto::record::codecs::Compression;
use levee_proto::record::records::{BatchBuilder, RecordData};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

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
    node: Arc<Node>,
    mut requests: Streaming<AppendRequest>,
) -> mpsc::Receiver<Placed> {
    let (send, receive) = mpsc::channel(IN_FLIGHT);
    let mut draining = node.draining();
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
            let placed = place(&node, request).await;
            if send.send(Ok((id, placed))).await.is_err() {
                return;
            }
        }
    });
    receive
}

pub(super) async fn place(node: &Node, request: AppendRequest) -> Result<Pending> {
    let limit = match request.timeout_ms {
        0 => node.config.request_timeout,
        ms => Duration::from_millis(ms.into()).min(TIMEOUT_MAX),
    };
    let acks = match request.acks() {
        levee_proto::grpc::Acks::All => Acks::All,
        levee_proto::grpc::Acks::Leader => Acks::Leader,
    };
    let batch = batch_of(node, &request)?;
    node.append(&request.topic, request.partition, batch, acks, limit).await
}

fn batch_of(node: &Node, request: &AppendRequest) -> Result<Bytes> {
    match (request.batch.is_empty(), request.records.is_empty()) {
        // Who would end it?
        (false, true)
            if BatchHeader::decode(&request.batch).is_ok_and(|h| h.is_transactional()) =>
        {
            let why = "the batch is part of a transaction, which this protocol does not have yet";
            return Err(Error::invalid_argument(why));
        }
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
