//! The marker that ends a transaction in a partition: a control batch of one record.
//!
//! Source: Apache Kafka, "Control Batches" (key: version, type) and `EndTxnMarker` (value: version,
//! coordinator epoch), all big-endian. Does not own: what a marker does (the partition).

use bytes::{Bytes, BytesMut};

use super::records::{BatchBuilder, ProducerStamp, RecordData, plain_record};
use crate::codec::FormatError;

const ABORT: i16 = 0;
const COMMIT: i16 = 1;
/// Of a batch that has no sequence.
const NO_SEQUENCE: i32 = -1;

/// How a transaction ended, and who says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marker {
    pub commit: bool,
    pub coordinator_epoch: i32,
}

impl Marker {
    /// The batch that says it, with base offset 0.
    pub fn batch(&self, producer_id: i64, producer_epoch: i16, timestamp_ms: i64) -> Bytes {
        let mut key = BytesMut::with_capacity(4);
        key.extend_from_slice(&0i16.to_be_bytes());
        key.extend_from_slice(&(if self.commit { COMMIT } else { ABORT }).to_be_bytes());
        let mut value = BytesMut::with_capacity(6);
        value.extend_from_slice(&0i16.to_be_bytes());
        value.extend_from_slice(&self.coordinator_epoch.to_be_bytes());
        let (key, value) = (Some(key.freeze()), Some(value.freeze()));
        let mut builder = BatchBuilder::control();
        builder.push(&RecordData { timestamp_ms, key, value, headers: Vec::new() });
        builder.build(Some(ProducerStamp {
            producer_id,
            producer_epoch,
            base_sequence: NO_SEQUENCE,
        }))
    }

    /// What a whole control batch says; nothing where it is another control record than this.
    pub fn of(batch: &Bytes) -> Result<Option<Self>, FormatError> {
        let record = plain_record(batch)?;
        let (Some(key), Some(value)) = (record.key, record.value) else { return Ok(None) };
        let (Some(kind), Some(epoch)) = (key.get(2..4), value.get(2..6)) else { return Ok(None) };
        let commit = match i16::from_be_bytes([kind[0], kind[1]]) {
            ABORT => false,
            COMMIT => true,
            _ => return Ok(None),
        };
        let coordinator_epoch = i32::from_be_bytes([epoch[0], epoch[1], epoch[2], epoch[3]]);
        Ok(Some(Self { commit, coordinator_epoch }))
    }

    /// As `of`, for a batch in pieces that is already part of the log; nothing for batches of
    /// records, and for those that are not to be read as a marker.
    pub fn in_parts(is_control: bool, parts: &[&[u8]]) -> Option<Self> {
        if !is_control {
            return None;
        }
        Self::of(&parts.concat().into()).ok().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::HEADER_BYTES;
    use crate::record::batch::check;
    use crate::record::records::decode_records;

    #[test]
    fn a_marker_is_one_control_record() {
        for (commit, coordinator_epoch) in [(true, 0), (false, 7), (true, i32::MAX), (false, -1)] {
            let marker = Marker { commit, coordinator_epoch };
            let batch = marker.batch(9, 3, 1000);
            let header = check(&batch).unwrap();
            assert!(header.is_control() && header.is_transactional());
            assert_eq!((header.producer_id, header.producer_epoch), (9, 3));
            assert_eq!((header.base_sequence, header.record_count), (-1, 1));
            assert_eq!(Marker::of(&batch).unwrap(), Some(marker));
            assert_eq!(Marker::in_parts(true, &[&batch[..16], &batch[16..]]), Some(marker));
            assert!(decode_records(&batch).unwrap().is_empty(), "no record of anybody's");
        }
    }

    #[test]
    fn other_control_records_and_damage_are_no_markers() {
        let batch = Marker { commit: true, coordinator_epoch: 1 }.batch(9, 3, 1000);
        let mut other = batch.to_vec();
        // The record: length, attributes, two deltas, length of the key, version, type.
        other[HEADER_BYTES + 8] = 2;
        assert_eq!(Marker::of(&other.clone().into()).unwrap(), None);
        for cut in HEADER_BYTES..batch.len() {
            assert_eq!(Marker::in_parts(true, &[&batch[..cut]]), None, "{cut} bytes");
        }
    }
}
