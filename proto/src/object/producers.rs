//! Producer state of one partition at one offset: what tells a retry from a new batch.

use bytes::{BufMut, BytesMut};

use crate::codec::{FormatError, Reader};
use crate::limits::PRODUCER_BATCHES;

const WHAT: &str = "producer state";

/// All producers of a partition.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProducerSnapshot {
    /// Sorted by producer id.
    pub producers: Vec<ProducerEntry>,
}

/// One producer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProducerEntry {
    pub producer_id: i64,
    pub producer_epoch: i16,
    /// Of the newest coordinator whose marker was applied; -1 for none.
    pub coordinator_epoch: i32,
    /// Largest record timestamp seen from it; expiry goes by log time.
    pub last_timestamp: i64,
    /// First offset of its open transaction.
    pub open_txn_start: Option<u64>,
    /// The last batches, oldest first, at most [`PRODUCER_BATCHES`].
    pub batches: Vec<ProducerBatch>,
}

/// A batch that was appended, as much as a duplicate must match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerBatch {
    pub base_offset: u64,
    pub last_offset_delta: u32,
    pub base_sequence: i32,
    pub last_sequence: i32,
    pub max_timestamp: i64,
}

const NO_TXN: u64 = u64::MAX;
/// The fixed part of one producer, and one batch, as this release writes them.
const PRODUCER_BYTES: usize = 8 + 2 + 2 + 4 + 8 + 8;
const BATCH_BYTES: usize = 28;

impl ProducerSnapshot {
    /// Size when encoded.
    pub fn encoded_len(&self) -> usize {
        let batches: usize = self.producers.iter().map(|p| p.batches.len()).sum();
        8 + self.producers.len() * PRODUCER_BYTES + batches * BATCH_BYTES
    }

    /// ```text
    /// count 4 | bytes of a producer 2 | bytes of a batch 2 |
    /// producers: id 8, epoch 2, batch count 2, coordinator epoch 4, last timestamp 8,
    ///            open txn start 8 (all ones: none), batches: base offset 8, last offset delta 4,
    ///            base sequence 4, last sequence 4, max timestamp 8
    /// ```
    /// A later release may append fields to a producer or a batch and raise their sizes: what
    /// stands behind the known fields is skipped.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_u32_le(self.producers.len() as u32);
        out.put_u16_le(PRODUCER_BYTES as u16);
        out.put_u16_le(BATCH_BYTES as u16);
        for p in &self.producers {
            out.put_i64_le(p.producer_id);
            out.put_i16_le(p.producer_epoch);
            out.put_u16_le(p.batches.len() as u16);
            out.put_i32_le(p.coordinator_epoch);
            out.put_i64_le(p.last_timestamp);
            out.put_u64_le(p.open_txn_start.unwrap_or(NO_TXN));
            for b in &p.batches {
                out.put_u64_le(b.base_offset);
                out.put_u32_le(b.last_offset_delta);
                out.put_i32_le(b.base_sequence);
                out.put_i32_le(b.last_sequence);
                out.put_i64_le(b.max_timestamp);
            }
        }
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut r = Reader::new(WHAT, bytes);
        let count = r.count(PRODUCER_BYTES)?;
        let (producer_bytes, batch_bytes) = (usize::from(r.u16()?), usize::from(r.u16()?));
        if producer_bytes < PRODUCER_BYTES || batch_bytes < BATCH_BYTES {
            return Err(r.error(format!("sizes {producer_bytes} and {batch_bytes} are too small")));
        }
        let (skip_producer, skip_batch) =
            (producer_bytes - PRODUCER_BYTES, batch_bytes - BATCH_BYTES);
        let mut producers: Vec<ProducerEntry> = Vec::with_capacity(count);
        for _ in 0..count {
            let producer_id = r.i64()?;
            let producer_epoch = r.i16()?;
            let batch_count = usize::from(r.u16()?);
            if producers.last().is_some_and(|last| last.producer_id >= producer_id) {
                return Err(r.error(format!("producer {producer_id} is out of order")));
            }
            if batch_count > PRODUCER_BATCHES || batch_count * batch_bytes > r.remaining() {
                return Err(r.error(format!("producer {producer_id}: {batch_count} batches")));
            }
            let coordinator_epoch = r.i32()?;
            let last_timestamp = r.i64()?;
            let open = r.u64()?;
            r.take(skip_producer)?;
            let mut batches = Vec::with_capacity(batch_count);
            for _ in 0..batch_count {
                batches.push(ProducerBatch {
                    base_offset: r.u64()?,
                    last_offset_delta: r.u32()?,
                    base_sequence: r.i32()?,
                    last_sequence: r.i32()?,
                    max_timestamp: r.i64()?,
                });
                r.take(skip_batch)?;
            }
            producers.push(ProducerEntry {
                producer_id,
                producer_epoch,
                coordinator_epoch,
                last_timestamp,
                open_txn_start: (open != NO_TXN).then_some(open),
                batches,
            });
        }
        r.end()?;
        Ok(Self { producers })
    }
}
