//! Records of the transaction log, as others would read and write them.

use bytes::Bytes;
use levee_kafka::messages::transaction_log_key::TransactionLogKey;
use levee_kafka::messages::transaction_log_value::TransactionLogValue;
use levee_kafka::{Message, Reader, Writer};

pub(crate) type Record = (Bytes, Option<Bytes>);

pub(crate) fn value(record: &Record) -> TransactionLogValue {
    let mut r = Reader::new(record.1.clone().unwrap());
    assert_eq!(r.i16().unwrap(), 1);
    TransactionLogValue::decode(&mut r, 1).unwrap()
}

/// A transactional id that has few epochs left.
pub(crate) fn nearly_exhausted(id: &str) -> Record {
    let mut key = Writer::new();
    key.i16(0);
    TransactionLogKey { transactional_id: id.into() }.encode(&mut key, 0);
    let mut value = Writer::new();
    value.i16(1);
    TransactionLogValue {
        producer_id: 0,
        producer_epoch: i16::MAX - 8,
        transaction_status: 4,
        transaction_timeout_ms: 20_000,
        transaction_partitions: Some(Vec::new()),
        transaction_last_update_timestamp_ms: 1_000_000,
        ..Default::default()
    }
    .encode(&mut value, 1);
    (key.into_bytes(), Some(value.into_bytes()))
}
