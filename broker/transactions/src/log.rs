//! Records of `__transaction_state`, as Kafka writes them.
//!
//! One field says a little more than Kafka's: `previous_producer_id` is -1 where nobody may go on
//! by the producer's last name ([`Transaction::before`]). Kafka needs it only where the id changed.

use std::collections::BTreeSet;

use bytes::Bytes;
use levee_kafka::messages::transaction_log_key::TransactionLogKey;
use levee_kafka::messages::transaction_log_value::{PartitionsSchema, TransactionLogValue};
use levee_kafka::{DecodeError, Message, Reader, Writer};
use thiserror::Error;

use crate::producer::{LAST_EPOCH, Producer};
use crate::transaction::{Partitions, State, Transaction};

const KEY_VERSION: i16 = 0;
const VALUE_VERSION: i16 = 1;

/// Why a partition of `__transaction_state` cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ReplayError {
    #[error("the record at offset {offset} of the transaction log is damaged: {problem}")]
    Damaged { offset: i64, problem: DecodeError },
    #[error(
        "the record at offset {offset} of the transaction log has a value of version {version}, \
         newer than {VALUE_VERSION}: a newer broker wrote it, upgrade this one"
    )]
    NewerValue { offset: i64, version: i16 },
    #[error("the record at offset {offset} of the transaction log says {field} = {value}")]
    Impossible { offset: i64, field: &'static str, value: i64 },
}

pub(crate) fn key(transactional_id: &str) -> Bytes {
    let mut w = Writer::new();
    w.i16(KEY_VERSION);
    TransactionLogKey { transactional_id: transactional_id.into() }.encode(&mut w, KEY_VERSION);
    debug_assert!(!w.has_cut(), "an id was cut, so that it is another one's");
    w.into_bytes()
}

pub(crate) fn value(transaction: &Transaction) -> Bytes {
    let mut w = Writer::new();
    w.i16(VALUE_VERSION);
    TransactionLogValue {
        producer_id: transaction.producer.id,
        previous_producer_id: transaction.before.map_or(-1, |before| before.id),
        next_producer_id: transaction.next_id.unwrap_or(-1),
        producer_epoch: transaction.producer.epoch,
        transaction_timeout_ms: transaction.timeout_ms,
        transaction_status: transaction.state as i8,
        transaction_partitions: partitions(transaction),
        transaction_last_update_timestamp_ms: transaction.updated_ms,
        transaction_start_timestamp_ms: transaction.started_ms,
        client_transaction_version: transaction.client_version,
        ..TransactionLogValue::default()
    }
    .encode(&mut w, VALUE_VERSION);
    w.into_bytes()
}

fn partitions(transaction: &Transaction) -> Option<Vec<PartitionsSchema>> {
    if transaction.state == State::Empty {
        return None;
    }
    let topics = transaction.partitions.iter().map(|(topic, partitions)| PartitionsSchema {
        topic: topic.clone(),
        partition_ids: partitions.iter().copied().collect(),
    });
    Some(topics.collect())
}

/// The transactional id, or None for a key of a kind that is not known.
pub(crate) fn read_key(offset: i64, key: Bytes) -> Result<Option<String>, ReplayError> {
    let damaged = |problem| ReplayError::Damaged { offset, problem };
    let mut r = Reader::new(key);
    if r.i16().map_err(damaged)? != KEY_VERSION {
        return Ok(None);
    }
    let key = TransactionLogKey::decode(&mut r, KEY_VERSION).map_err(damaged)?;
    r.end().map_err(damaged)?;
    Ok(Some(key.transactional_id))
}

pub(crate) fn read_value(offset: i64, value: Bytes) -> Result<Transaction, ReplayError> {
    let damaged = |problem| ReplayError::Damaged { offset, problem };
    let impossible = |field, value| ReplayError::Impossible { offset, field, value };
    let mut r = Reader::new(value);
    let version = r.i16().map_err(damaged)?;
    if version > VALUE_VERSION {
        return Err(ReplayError::NewerValue { offset, version });
    }
    if version < 0 {
        return Err(impossible("version", version.into()));
    }
    let value = TransactionLogValue::decode(&mut r, version).map_err(damaged)?;
    r.end().map_err(damaged)?;
    let status = value.transaction_status;
    let state = State::from_log(status).ok_or(impossible("transaction_status", status.into()))?;
    let producer = Producer { id: value.producer_id, epoch: value.producer_epoch };
    if producer.id < 0 {
        return Err(impossible("producer_id", producer.id));
    }
    if producer.epoch < 0 {
        return Err(impossible("producer_epoch", producer.epoch.into()));
    }
    let mut partitions = Partitions::new();
    for topic in value.transaction_partitions.unwrap_or_default() {
        let ids: BTreeSet<i32> = topic.partition_ids.into_iter().collect();
        partitions.entry(topic.topic).or_default().extend(ids);
    }
    Ok(Transaction {
        producer,
        before: before(producer, value.previous_producer_id).filter(|_| state != State::Ongoing),
        next_id: Some(value.next_producer_id).filter(|id| *id >= 0),
        timeout_ms: value.transaction_timeout_ms,
        state,
        partitions,
        started_ms: value.transaction_start_timestamp_ms,
        updated_ms: value.transaction_last_update_timestamp_ms,
        client_version: value.client_transaction_version,
    })
}

/// The log has the id alone. An id changes only when its epochs are used up, and otherwise an epoch
/// follows the one before it.
fn before(producer: Producer, id: i64) -> Option<Producer> {
    match id {
        id if id < 0 => None,
        id if id != producer.id => Some(Producer { id, epoch: LAST_EPOCH }),
        id => (producer.epoch > 0).then(|| Producer { id, epoch: producer.epoch - 1 }),
    }
}
