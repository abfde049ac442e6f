//! Produce: batches of many partitions, each to its place; then their acks.
//!
//! A batch is checked by its header and kept as it is; what stands between its records is the
//! client's (see `partition/check.rs` for what is looked at).

use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use levee_kafka::messages::produce_request::ProduceRequest;
use levee_kafka::messages::produce_response::{
    BatchIndexAndErrorMessage, PartitionProduceResponse, ProduceResponse, TopicProduceResponse,
};
use levee_kafka::{ErrorCode, Uuid};
use levee_proto::record::BatchHeader;

use super::errors::append_code;
use super::{Answered, Ask, Broken};
use crate::coordinator::join::Member;
use crate::error::Error;
use crate::partition::Asked;
use crate::partition::append::Where;
use crate::produce::{Acks, Pending};

/// Longest time that an append may ask for.
const TIMEOUT_MAX: Duration = Duration::from_secs(600);

/// Appends that have their places, or have none.
pub(super) struct Placed {
    /// None: nobody waits for an answer.
    acks: Option<Acks>,
    topics: Vec<Topic>,
}

struct Topic {
    name: String,
    id: Uuid,
    partitions: Vec<(i32, Result<Pending, Failed>)>,
}

/// An append that was refused.
struct Failed {
    code: ErrorCode,
    message: String,
    /// Places of the records that were refused.
    records: Vec<u32>,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self { code: append_code(&error), message: error.to_string(), records: error.records }
    }
}

impl Failed {
    fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), records: Vec::new() }
    }
}

/// Gives each batch its place. `frame_bytes`: of the whole request, which the batches are parts of.
pub(super) async fn place(ask: &Ask, request: ProduceRequest, frame_bytes: usize) -> Placed {
    let acks = match request.acks {
        -1 => Ok(Some(Acks::All)),
        0 => Ok(None),
        1 => Ok(Some(Acks::Leader)),
        other => Err(other),
    };
    let limit = Duration::from_millis(request.timeout_ms.max(0) as u64).min(TIMEOUT_MAX);
    let transactional_id = request.transactional_id.unwrap_or_default();
    let mut topics = Vec::with_capacity(request.topic_data.len());
    for data in request.topic_data {
        let name = ask.topic_name(data.name, data.topic_id, ask.version() >= 13);
        let appends = data.partition_data.into_iter().map(|mut partition| {
            let records = partition.records.take().unwrap_or_default().into_bytes();
            let batch = one_batch(records).map(|batch| kept(batch, frame_bytes));
            let (name, transactional_id) = (&name, &transactional_id);
            async move {
                let index = partition.index;
                let placed = match (name, acks) {
                    (Err(code), _) => Err(Failed::new(*code, "no topic has this id")),
                    (_, Err(acks)) => {
                        let why = format!("acks {acks}: 0, 1 or -1 are known");
                        Err(Failed::new(ErrorCode::InvalidRequiredAcks, why))
                    }
                    (Ok(name), Ok(acks)) => {
                        let acks = acks.unwrap_or(Acks::Leader);
                        let id = (name.as_str(), index);
                        append(ask, id, batch, transactional_id, (acks, limit)).await
                    }
                };
                (index, placed)
            }
        });
        // Each begins at once and in this order; one that waits for room holds no other up.
        let partitions = join_all(appends).await;
        topics.push(Topic { name: name.unwrap_or_default(), id: data.topic_id, partitions });
    }
    Placed { acks: acks.unwrap_or(Some(Acks::Leader)), topics }
}

async fn append(
    ask: &Ask,
    (topic, index): (&str, i32),
    batch: Result<Bytes, Failed>,
    transactional_id: &str,
    (acks, limit): (Acks, Duration),
) -> Result<Pending, Failed> {
    let batch = batch?;
    let Ok(partition) = u32::try_from(index) else {
        let why = format!("partition {index} is negative");
        return Err(Failed::new(ErrorCode::UnknownTopicOrPartition, why));
    };
    let asked = check_transaction(ask, topic, partition, transactional_id, &batch).await?;
    let holds = asked.map_or_else(Where::default, Where::from);
    Ok(ask.node().append_where((topic, partition), batch, acks, limit, holds).await?)
}

/// Nothing of a transaction is written that its coordinator does not know of: its end would not come
/// here (KIP-890).
async fn check_transaction(
    ask: &Ask,
    topic: &str,
    partition: u32,
    transactional_id: &str,
    batch: &Bytes,
) -> Result<Option<Asked>, Failed> {
    /// With this version of Produce a batch joins by itself.
    const JOINS_FROM: i16 = 12;
    let Ok(header) = BatchHeader::decode(batch) else { return Ok(None) };
    if !header.is_transactional() {
        return Ok(None);
    }
    let member = Member {
        transactional_id: transactional_id.to_owned(),
        producer_id: header.producer_id,
        producer_epoch: header.producer_epoch,
        joins: ask.version() >= JOINS_FROM,
    };
    let refused = match ask.kafka.coordinators.join(&member, topic, partition).await {
        Ok(asked) => return Ok(asked),
        Err(code) => code,
    };
    let code = match refused {
        ErrorCode::ConcurrentTransactions if member.joins => refused,
        // Nothing was written, and the same batch may come again.
        ErrorCode::ConcurrentTransactions
        | ErrorCode::CoordinatorLoadInProgress
        | ErrorCode::CoordinatorNotAvailable
        | ErrorCode::NotCoordinator => ErrorCode::NotEnoughReplicas,
        other => other,
    };
    let why = format!("transaction {transactional_id:?} does not have this partition: {refused:?}");
    Err(Failed::new(code, why))
}

/// A request carries exactly one batch for each partition (KIP-98), of format 2.
fn one_batch(bytes: Bytes) -> Result<Bytes, Failed> {
    const MAGIC_AT: usize = 16;
    let invalid = |why: String| Err(Failed::new(ErrorCode::InvalidRecord, why));
    match bytes.get(MAGIC_AT) {
        None => return invalid(format!("{} bytes are no record batch", bytes.len())),
        Some(2) => {}
        Some(magic) => return invalid(format!("magic {magic}, record batches have 2")),
    }
    match BatchHeader::decode(&bytes) {
        Ok(first) if (first.bytes as usize) < bytes.len() => {
            invalid(format!("{} bytes behind the one batch", bytes.len() - first.bytes as usize))
        }
        // What is wrong with the rest is found where it is appended.
        _ => Ok(bytes),
    }
}

/// A batch as it is kept in memory. It is a part of its frame and keeps all of it, so one that is
/// less than half of it is copied: what is kept is never more than twice what is counted.
fn kept(batch: Bytes, frame_bytes: usize) -> Bytes {
    match batch.len() < frame_bytes / 2 {
        true => Bytes::copy_from_slice(&batch),
        false => batch,
    }
}

/// Only what has no key is refused record by record.
fn keyless(place: u32) -> BatchIndexAndErrorMessage {
    BatchIndexAndErrorMessage {
        batch_index: place as i32,
        batch_index_error_message: Some("a compacted topic takes no record without a key".into()),
    }
}

impl Placed {
    /// Waits for the acks.
    pub(super) async fn finish(self, ask: Ask) -> Result<Answered, Broken> {
        let (mut responses, mut refused) = (Vec::with_capacity(self.topics.len()), None);
        for topic in self.topics {
            let mut partition_responses = Vec::with_capacity(topic.partitions.len());
            for (index, placed) in topic.partitions {
                let outcome = match placed {
                    Ok(pending) => pending.done(ask.node()).await.map_err(Failed::from),
                    Err(failed) => Err(failed),
                };
                partition_responses.push(match outcome {
                    Ok(appended) => PartitionProduceResponse {
                        index,
                        base_offset: appended.base_offset as i64,
                        log_start_offset: appended.log_start as i64,
                        log_append_time_ms: appended.append_time_ms.unwrap_or(-1),
                        ..Default::default()
                    },
                    Err(failed) => {
                        refused.get_or_insert_with(|| failed.message.clone());
                        PartitionProduceResponse {
                            index,
                            error_code: failed.code.into(),
                            base_offset: -1,
                            record_errors: failed.records.into_iter().map(keyless).collect(),
                            error_message: Some(failed.message),
                            ..Default::default()
                        }
                    }
                });
            }
            let Topic { name, id: topic_id, .. } = topic;
            responses.push(TopicProduceResponse { name, topic_id, partition_responses });
        }
        if self.acks.is_none() {
            // Closing is the only way to tell.
            return Ok(Answered { then_close: refused.map(Broken::Unacked), ..Default::default() });
        }
        let response = ProduceResponse { responses, ..Default::default() };
        Ok(ask.answered::<ProduceRequest>(&response))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_keeps_at_most_twice_its_bytes() {
        let frame = Bytes::from(vec![7; 1000]);
        for (bytes, is_copied) in [(0, true), (1, true), (499, true), (500, false), (900, false)] {
            let batch = kept(frame.slice(100..100 + bytes), frame.len());
            assert_eq!(batch, frame.slice(100..100 + bytes));
            let is_shared = batch.as_ptr() == frame[100..].as_ptr();
            assert_eq!(is_shared, !is_copied, "{bytes} bytes of {}", frame.len());
        }
    }
}
