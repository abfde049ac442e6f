//! What a partition knows of its idempotent producers (I15).
//!
//! Owns: telling a new batch from a duplicate, from one out of order and from a fenced producer's.
//! Rebuilt in recovery by folding the same batches in the same order.
//! Source: KIP-98 (idempotent producer; Kafka keeps 5 batches). Stricter than KIP-360, which lets an
//! unknown producer begin anywhere: that would let its second batch overtake its first.

use std::collections::BTreeMap;

use levee_proto::limits::{PRODUCER_BATCHES, PRODUCERS_MAX};
use levee_proto::object::{ProducerBatch, ProducerEntry, ProducerSnapshot};
use levee_proto::record::BatchHeader;
use levee_proto::record::batch::sequence_add;

/// What to do with a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Append it.
    New,
    /// It is there already, at this place.
    Duplicate { base_offset: u64, end_offset: u64 },
    /// Nothing of it is remembered, and this is not its first batch.
    Unknown { got: i32 },
    /// Sequence is neither the next one nor a known one.
    OutOfOrder { expected: i32, got: i32 },
    /// Older than the batches that are remembered.
    ForgottenDuplicate { got: i32 },
    /// A newer epoch of this producer was seen.
    Fenced { epoch: i16, got: i16 },
}

/// All producers of one partition.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Producers {
    by_id: BTreeMap<i64, ProducerEntry>,
    /// Largest timestamp of all records so far: the time at which a producer was last seen is that
    /// of the log, whatever time its own records carry.
    log_time: i64,
}

impl Producers {
    /// `log_time`: largest timestamp of any record up to the snapshot, as far as it is known.
    pub fn from_snapshot(snapshot: ProducerSnapshot, log_time: i64) -> Self {
        let seen = snapshot.producers.iter().map(|p| p.last_timestamp).max().unwrap_or(0);
        let log_time = log_time.max(seen);
        let by_id = snapshot.producers.into_iter().map(|p| (p.producer_id, p)).collect();
        Self { by_id, log_time }
    }

    pub fn snapshot(&self) -> ProducerSnapshot {
        ProducerSnapshot { producers: self.by_id.values().cloned().collect() }
    }

    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// When any producer was last seen, by log time.
    pub fn newest(&self) -> Option<i64> {
        self.by_id.values().map(|producer| producer.last_timestamp).max()
    }

    /// Judges a batch that has not been appended; changes nothing.
    pub fn judge(&self, batch: &BatchHeader) -> Verdict {
        if !batch.is_idempotent() {
            return Verdict::New;
        }
        let Some(known) = self.by_id.get(&batch.producer_id) else {
            // Its first batch here. A later one may not pass: the first may still be on its way.
            return match batch.base_sequence {
                0 => Verdict::New,
                got => Verdict::Unknown { got },
            };
        };
        let (epoch, got) = (known.producer_epoch, batch.producer_epoch);
        if got < epoch {
            return Verdict::Fenced { epoch, got };
        }
        if got > epoch {
            return match batch.base_sequence {
                0 => Verdict::New,
                got => Verdict::OutOfOrder { expected: 0, got },
            };
        }
        let same = |b: &&ProducerBatch| {
            b.base_sequence == batch.base_sequence && b.last_sequence == batch.last_sequence()
        };
        if let Some(found) = known.batches.iter().find(same) {
            let end_offset = found.base_offset + u64::from(found.last_offset_delta) + 1;
            return Verdict::Duplicate { base_offset: found.base_offset, end_offset };
        }
        let Some(last) = known.batches.last() else { return Verdict::New };
        let expected = sequence_add(last.last_sequence, 1);
        let got = batch.base_sequence;
        if got == expected {
            return Verdict::New;
        }
        // Distance behind, on the circle of 2^31 sequences: less than half of it is the past.
        let behind = (i64::from(expected) - i64::from(got)).rem_euclid(1 << 31);
        if behind < 1 << 30 && known.batches.len() == PRODUCER_BATCHES {
            return Verdict::ForgottenDuplicate { got };
        }
        Verdict::OutOfOrder { expected, got }
    }

    /// Folds an appended batch in; `batch` carries its final offset.
    pub fn appended(&mut self, batch: &BatchHeader) {
        if batch.is_control() {
            return;
        }
        self.log_time = self.log_time.max(batch.max_timestamp);
        if !batch.is_idempotent() {
            return;
        }
        let entry = self.by_id.entry(batch.producer_id).or_insert_with(|| ProducerEntry {
            producer_id: batch.producer_id,
            producer_epoch: batch.producer_epoch,
            coordinator_epoch: -1,
            last_timestamp: self.log_time,
            open_txn_start: None,
            batches: Vec::new(),
        });
        if entry.producer_epoch != batch.producer_epoch {
            entry.producer_epoch = batch.producer_epoch;
            entry.batches.clear();
        }
        if entry.batches.len() == PRODUCER_BATCHES {
            entry.batches.remove(0);
        }
        entry.last_timestamp = self.log_time;
        entry.batches.push(ProducerBatch {
            base_offset: batch.base_offset,
            last_offset_delta: batch.last_offset_delta,
            base_sequence: batch.base_sequence,
            last_sequence: batch.last_sequence(),
            max_timestamp: batch.max_timestamp,
        });
        self.keep_newest();
    }

    /// Forgets a tenth of all producers when there are too many: those that wrote longest ago.
    fn keep_newest(&mut self) {
        if self.by_id.len() <= PRODUCERS_MAX {
            return;
        }
        let wrote = |p: &ProducerEntry| p.batches.last().map_or(0, |b| b.base_offset);
        let mut offsets: Vec<u64> = self.by_id.values().map(wrote).collect();
        let (_, border, _) = offsets.select_nth_unstable(PRODUCERS_MAX / 10);
        let border = *border;
        self.by_id.retain(|_, p| wrote(p) >= border || p.open_txn_start.is_some());
    }

    /// Forgets producers that were last seen before `before_ms` (log time, never a clock).
    pub fn expire(&mut self, before_ms: i64) {
        self.by_id.retain(|_, p| p.last_timestamp >= before_ms || p.open_txn_start.is_some());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(epoch: i16, sequence: i32, records: u32, offset: u64) -> BatchHeader {
        BatchHeader {
            base_offset: offset,
            bytes: 61,
            leader_epoch: 0,
            crc: 0,
            attributes: 0,
            last_offset_delta: records - 1,
            base_timestamp: 0,
            max_timestamp: 7,
            producer_id: 9,
            producer_epoch: epoch,
            base_sequence: sequence,
            record_count: records,
        }
    }

    #[test]
    fn the_last_five_batches_are_duplicates_and_older_ones_are_refused() {
        let mut producers = Producers::default();
        for n in 0..7 {
            let b = batch(0, n * 10, 10, n as u64 * 10);
            assert_eq!(producers.judge(&b), Verdict::New);
            producers.appended(&b);
        }
        let duplicate = Verdict::Duplicate { base_offset: 20, end_offset: 30 };
        assert_eq!(producers.judge(&batch(0, 20, 10, 0)), duplicate);
        let forgotten = Verdict::ForgottenDuplicate { got: 10 };
        assert_eq!(producers.judge(&batch(0, 10, 10, 0)), forgotten);
        let gap = Verdict::OutOfOrder { expected: 70, got: 80 };
        assert_eq!(producers.judge(&batch(0, 80, 10, 0)), gap);
    }

    #[test]
    fn a_newer_epoch_starts_at_zero_and_fences_the_older_one() {
        let mut producers = Producers::default();
        producers.appended(&batch(3, 0, 1, 0));
        let skips = Verdict::OutOfOrder { expected: 0, got: 5 };
        assert_eq!(producers.judge(&batch(4, 5, 1, 1)), skips);
        producers.appended(&batch(4, 0, 1, 1));
        assert_eq!(producers.judge(&batch(3, 1, 1, 2)), Verdict::Fenced { epoch: 4, got: 3 });
    }

    #[test]
    fn sequences_wrap_to_zero() {
        let mut producers = Producers::default();
        producers.appended(&batch(0, i32::MAX - 1, 2, 0));
        assert_eq!(producers.judge(&batch(0, 0, 1, 2)), Verdict::New);
    }

    #[test]
    fn the_second_batch_of_a_producer_cannot_overtake_the_first() {
        let second = Verdict::Unknown { got: 10 };
        assert_eq!(Producers::default().judge(&batch(0, 10, 10, 0)), second);
    }

    #[test]
    fn those_that_wrote_longest_ago_are_forgotten_when_there_are_too_many() {
        let mut producers = Producers::default();
        let of = |n: u64| BatchHeader { producer_id: n as i64, ..batch(0, 0, 1, n) };
        for n in 0..=PRODUCERS_MAX as u64 {
            producers.appended(&of(n));
        }
        assert_eq!(producers.len(), PRODUCERS_MAX - PRODUCERS_MAX / 10 + 1);
        let second = |n: u64| BatchHeader { base_sequence: 1, ..of(n) };
        assert_eq!(producers.judge(&second(7)), Verdict::Unknown { got: 1 });
        assert_eq!(producers.judge(&second(PRODUCERS_MAX as u64)), Verdict::New);
        assert_eq!(producers.snapshot().encoded_len(), {
            let mut bytes = bytes::BytesMut::new();
            producers.snapshot().encode(&mut bytes);
            bytes.len()
        });
    }

    #[test]
    fn a_producer_of_old_records_is_seen_at_the_time_of_the_log() {
        let mut producers = Producers::default();
        let now = 1_700_000_000_000;
        producers.appended(&BatchHeader { max_timestamp: now, ..batch(0, 0, 1, 0) });
        producers.appended(&BatchHeader { producer_id: 5, ..batch(0, 0, 1, 1) });
        producers.expire(now - 1000);
        assert_eq!(producers.len(), 2, "both wrote just now");
        producers.expire(now + 1);
        assert!(producers.is_empty());
    }

    #[test]
    fn a_snapshot_gives_the_same_verdicts() {
        let mut producers = Producers::default();
        producers.appended(&batch(0, 0, 3, 5));
        let again = Producers::from_snapshot(producers.snapshot(), 0);
        assert_eq!(again, producers);
    }
}
