//! What a partition knows of its idempotent and transactional producers (I15).
//!
//! Owns: telling a new batch from a duplicate, from one out of order and from a fenced producer's;
//! the open transaction of each producer. Rebuilt in recovery by folding the same batches in the same order.
//! Source: KIP-98 (idempotent producer; Kafka keeps 5 batches). Stricter than KIP-360, which lets an
//! unknown producer begin anywhere: that would let its second batch overtake its first. Markers:
//! KIP-98 and KIP-890 (transaction version 2 ends a transaction with the next epoch).

use std::collections::BTreeMap;

use levee_proto::limits::{PRODUCER_BATCHES, PRODUCERS_MAX};
use levee_proto::object::{AbortedTxn, ProducerBatch, ProducerEntry, ProducerSnapshot};
use levee_proto::record::batch::sequence_add;
use levee_proto::record::{BatchHeader, Marker};

use super::transactions::EndTxn;

/// Transaction version 2: every transaction has an epoch of its own.
const EPOCH_PER_TRANSACTION: i16 = 2;

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
    /// Not part of the transaction that this producer has open.
    Outside { open: u64 },
    /// A marker of a coordinator that is not the newest one.
    CoordinatorFenced { epoch: i32, got: i32 },
    /// This marker, or one like it, was appended before.
    Ended,
}

/// A transaction that a marker ended; `txn` tells of it whether it was aborted or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    pub commit: bool,
    pub txn: AbortedTxn,
}

impl Ended {
    pub fn aborted(self) -> Option<AbortedTxn> {
        (!self.commit).then_some(self.txn)
    }
}

/// All producers of one partition.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Producers {
    by_id: BTreeMap<i64, ProducerEntry>,
    /// Open transactions: producer by first offset.
    open: BTreeMap<u64, i64>,
    /// Newest marker of each producer, in this leader epoch.
    marked: BTreeMap<i64, u64>,
    /// Largest timestamp of all records so far: the time at which a producer was last seen is that
    /// of the log, whatever time its own records carry.
    log_time: i64,
}

impl Producers {
    /// `log_time`: largest timestamp of any record up to the snapshot, as far as it is known.
    pub fn from_snapshot(snapshot: ProducerSnapshot, log_time: i64) -> Self {
        let seen = snapshot.producers.iter().map(|p| p.last_timestamp).max().unwrap_or(0);
        let log_time = log_time.max(seen);
        let open = |p: &ProducerEntry| Some((p.open_txn_start?, p.producer_id));
        let open = snapshot.producers.iter().filter_map(open).collect();
        let by_id = snapshot.producers.into_iter().map(|p| (p.producer_id, p)).collect();
        Self { by_id, open, marked: BTreeMap::new(), log_time }
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

    /// Where the oldest transaction begins that is open.
    pub fn first_open(&self) -> Option<u64> {
        self.open.first_key_value().map(|(first, _)| *first)
    }

    /// Whether a producer of this epoch has a transaction open.
    pub fn is_open(&self, producer_id: i64, epoch: i16) -> bool {
        let known = self.by_id.get(&producer_id);
        known.is_some_and(|p| p.open_txn_start.is_some() && p.producer_epoch == epoch)
    }

    /// Whether a marker of a producer stands at `since` or above.
    pub fn is_marked(&self, producer_id: i64, since: u64) -> bool {
        self.marked.get(&producer_id).is_some_and(|marker| *marker >= since)
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
        match (judge_sequence(known, batch), known.open_txn_start) {
            (Verdict::New, Some(open)) if !batch.is_transactional() => Verdict::Outside { open },
            (verdict, _) => verdict,
        }
    }

    /// The sequence that comes next from a producer, or the epoch that fenced it.
    pub fn next_sequence(&self, producer_id: i64, epoch: i16) -> Result<i32, i16> {
        match self.by_id.get(&producer_id) {
            Some(known) if known.producer_epoch > epoch => Err(known.producer_epoch),
            Some(known) if known.producer_epoch == epoch => {
                Ok(known.batches.last().map_or(0, |last| sequence_add(last.last_sequence, 1)))
            }
            _ => Ok(0),
        }
    }

    /// Judges a marker that has not been appended; changes nothing. One for a producer without an
    /// open transaction is written too: what it ends may be on its way, and it fences.
    pub fn judge_end(&self, end: &EndTxn) -> Verdict {
        let Some(known) = self.by_id.get(&end.producer_id) else { return Verdict::New };
        let (epoch, got) = (known.producer_epoch, end.producer_epoch);
        let is_open = known.open_txn_start.is_some();
        // The largest epoch has none after it.
        let is_repeated = got == epoch && (!is_open || got == i16::MAX);
        let is_new = match end.transaction_version >= EPOCH_PER_TRANSACTION {
            true => got > epoch || is_repeated,
            false => got >= epoch,
        };
        if !is_new {
            return Verdict::Fenced { epoch, got };
        }
        let (newest, asks) = (known.coordinator_epoch, end.coordinator_epoch);
        if asks < newest {
            return Verdict::CoordinatorFenced { epoch: newest, got: asks };
        }
        let says_the_same = got == epoch && asks == newest && !is_open;
        match says_the_same && end.transaction_version >= EPOCH_PER_TRANSACTION {
            true => Verdict::Ended,
            false => Verdict::New,
        }
    }

    /// Folds an appended batch in; `batch` carries its final offset, `marker` is what it says where
    /// it is a control batch. Gives the transaction that it ends.
    pub fn appended(&mut self, batch: &BatchHeader, marker: Option<Marker>) -> Option<Ended> {
        if batch.is_control() {
            return self.marked(batch, marker?);
        }
        self.log_time = self.log_time.max(batch.max_timestamp);
        if !batch.is_idempotent() {
            return None;
        }
        let entry = self.entry(batch);
        if batch.is_transactional() && entry.open_txn_start.is_none() {
            entry.open_txn_start = Some(batch.base_offset);
            self.open.insert(batch.base_offset, batch.producer_id);
        }
        let entry = self.entry(batch);
        if entry.batches.len() == PRODUCER_BATCHES {
            entry.batches.remove(0);
        }
        entry.batches.push(ProducerBatch {
            base_offset: batch.base_offset,
            last_offset_delta: batch.last_offset_delta,
            base_sequence: batch.base_sequence,
            last_sequence: batch.last_sequence(),
            max_timestamp: batch.max_timestamp,
        });
        self.keep_newest();
        None
    }

    /// A marker's own time does not count: it is the broker's, and would make those old at once
    /// whose records carry other times.
    fn marked(&mut self, batch: &BatchHeader, marker: Marker) -> Option<Ended> {
        let ended = self.ended_by(batch, marker);
        if let Some(ended) = ended {
            self.open.remove(&ended.txn.first_offset);
        }
        self.marked.insert(batch.producer_id, batch.base_offset);
        let entry = self.entry(batch);
        entry.coordinator_epoch = marker.coordinator_epoch;
        entry.open_txn_start = None;
        self.keep_newest();
        ended
    }

    /// The transaction that a marker ends; `batch` carries its final offset.
    pub fn ended_by(&self, batch: &BatchHeader, marker: Marker) -> Option<Ended> {
        let first_offset = self.by_id.get(&batch.producer_id)?.open_txn_start?;
        let still_open = self.open.keys().find(|first| **first != first_offset);
        let txn = AbortedTxn {
            producer_id: batch.producer_id,
            first_offset,
            last_offset: batch.base_offset,
            last_stable_offset: still_open.copied().unwrap_or(batch.end_offset()),
        };
        Some(Ended { commit: marker.commit, txn })
    }

    /// Of the producer of a batch, in its epoch, seen now. Sequences of another epoch begin anew.
    fn entry(&mut self, batch: &BatchHeader) -> &mut ProducerEntry {
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
        entry.last_timestamp = self.log_time;
        entry
    }

    /// Forgets a tenth of all producers when there are too many: those that wrote longest ago.
    fn keep_newest(&mut self) {
        if self.by_id.len() <= PRODUCERS_MAX {
            return;
        }
        // One that only ended a transaction has no batch.
        let wrote = |p: &ProducerEntry| {
            (p.last_timestamp, p.batches.last().map_or(0, |b| b.base_offset), p.producer_id)
        };
        let mut all: Vec<_> = self.by_id.values().map(wrote).collect();
        let (_, border, _) = all.select_nth_unstable(PRODUCERS_MAX / 10);
        let border = *border;
        self.by_id.retain(|_, p| wrote(p) >= border || p.open_txn_start.is_some());
        self.marked.retain(|id, _| self.by_id.contains_key(id));
    }

    /// Forgets producers that were last seen before `before_ms` (log time, never a clock).
    pub fn expire(&mut self, before_ms: i64) {
        self.by_id.retain(|_, p| p.last_timestamp >= before_ms || p.open_txn_start.is_some());
        self.marked.retain(|id, _| self.by_id.contains_key(id));
    }
}

fn judge_sequence(known: &ProducerEntry, batch: &BatchHeader) -> Verdict {
    let (epoch, got) = (known.producer_epoch, batch.producer_epoch);
    if got < epoch {
        return Verdict::Fenced { epoch, got };
    }
    let begins = match batch.base_sequence {
        0 => Verdict::New,
        got => Verdict::OutOfOrder { expected: 0, got },
    };
    if got > epoch {
        return begins;
    }
    let same = |b: &&ProducerBatch| {
        b.base_sequence == batch.base_sequence && b.last_sequence == batch.last_sequence()
    };
    if let Some(found) = known.batches.iter().find(same) {
        let end_offset = found.base_offset + u64::from(found.last_offset_delta) + 1;
        return Verdict::Duplicate { base_offset: found.base_offset, end_offset };
    }
    // A marker brought this epoch.
    let Some(last) = known.batches.last() else { return begins };
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
            producers.appended(&b, None);
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
        producers.appended(&batch(3, 0, 1, 0), None);
        let skips = Verdict::OutOfOrder { expected: 0, got: 5 };
        assert_eq!(producers.judge(&batch(4, 5, 1, 1)), skips);
        producers.appended(&batch(4, 0, 1, 1), None);
        assert_eq!(producers.judge(&batch(3, 1, 1, 2)), Verdict::Fenced { epoch: 4, got: 3 });
    }

    #[test]
    fn sequences_wrap_to_zero() {
        let mut producers = Producers::default();
        producers.appended(&batch(0, i32::MAX - 1, 2, 0), None);
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
            producers.appended(&of(n), None);
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
        producers.appended(&BatchHeader { max_timestamp: now, ..batch(0, 0, 1, 0) }, None);
        producers.appended(&BatchHeader { producer_id: 5, ..batch(0, 0, 1, 1) }, None);
        producers.expire(now - 1000);
        assert_eq!(producers.len(), 2, "both wrote just now");
        producers.expire(now + 1);
        assert!(producers.is_empty());
    }

    #[test]
    fn a_snapshot_gives_the_same_verdicts() {
        let mut producers = Producers::default();
        producers.appended(&batch(0, 0, 3, 5), None);
        let again = Producers::from_snapshot(producers.snapshot(), 0);
        assert_eq!(again, producers);
    }

    fn txn(epoch: i16, sequence: i32, offset: u64) -> BatchHeader {
        BatchHeader { attributes: 0x10, ..batch(epoch, sequence, 1, offset) }
    }

    fn end(epoch: i16, coordinator_epoch: i32, transaction_version: i16) -> EndTxn {
        let (producer_id, commit) = (9, true);
        EndTxn {
            producer_id,
            producer_epoch: epoch,
            coordinator_epoch,
            commit,
            transaction_version,
        }
    }

    fn marked(
        producers: &mut Producers,
        epoch: i16,
        coordinator_epoch: i32,
        offset: u64,
    ) -> Option<Ended> {
        let marker = BatchHeader { attributes: 0x30, ..batch(epoch, -1, 1, offset) };
        producers.appended(&marker, Some(Marker { commit: false, coordinator_epoch }))
    }

    #[test]
    fn a_transaction_is_open_from_its_first_batch_to_its_marker() {
        let mut producers = Producers::default();
        producers.appended(&txn(0, 0, 10), None);
        producers.appended(&txn(0, 1, 11), None);
        assert_eq!(producers.first_open(), Some(10));
        assert!(producers.is_open(9, 0) && !producers.is_open(9, 1) && !producers.is_open(8, 0));
        let outside = batch(0, 2, 1, 12);
        assert_eq!(producers.judge(&outside), Verdict::Outside { open: 10 });
        let again = Producers::from_snapshot(producers.snapshot(), 0);
        assert_eq!(again, producers, "it is part of the snapshot");
        let other = BatchHeader { producer_id: 5, ..txn(0, 0, 12) };
        producers.appended(&other, None);
        let ended = marked(&mut producers, 0, 3, 13).unwrap();
        let aborted = AbortedTxn {
            producer_id: 9,
            first_offset: 10,
            last_offset: 13,
            last_stable_offset: 12,
        };
        assert_eq!(ended.aborted(), Some(aborted), "another one is open from 12 on");
        assert_eq!(producers.first_open(), Some(12));
        assert_eq!(producers.judge(&outside), Verdict::New, "after the transaction");
        assert_eq!(
            producers.judge(&txn(0, 1, 14)),
            Verdict::Duplicate { base_offset: 11, end_offset: 12 }
        );
        assert_eq!(marked(&mut producers, 0, 3, 14), None, "there is nothing to end");
    }

    #[test]
    fn a_marker_of_an_older_producer_or_coordinator_is_refused() {
        let mut producers = Producers::default();
        assert_eq!(producers.judge_end(&end(3, 0, 1)), Verdict::New, "it fences who comes later");
        producers.appended(&txn(4, 0, 0), None);
        assert_eq!(producers.judge_end(&end(3, 0, 1)), Verdict::Fenced { epoch: 4, got: 3 });
        assert_eq!(producers.judge_end(&end(4, 0, 1)), Verdict::New);
        marked(&mut producers, 4, 7, 1);
        let fenced = Verdict::CoordinatorFenced { epoch: 7, got: 6 };
        assert_eq!(producers.judge_end(&end(4, 6, 1)), fenced);
        assert_eq!(producers.judge_end(&end(4, 7, 1)), Verdict::New, "the next of this epoch");
        assert_eq!(producers.judge_end(&end(5, 8, 1)), Verdict::New);
    }

    /// KIP-890: a marker of transaction k, come late, must not end k + 1 (F20).
    #[test]
    fn with_version_two_a_transaction_ends_with_the_next_epoch() {
        let mut producers = Producers::default();
        producers.appended(&txn(4, 0, 0), None);
        assert_eq!(producers.judge_end(&end(4, 7, 2)), Verdict::Fenced { epoch: 4, got: 4 });
        assert_eq!(producers.judge_end(&end(5, 7, 2)), Verdict::New);
        marked(&mut producers, 5, 7, 1);
        assert_eq!(producers.judge_end(&end(5, 7, 2)), Verdict::Ended);
        assert_eq!(producers.judge_end(&end(5, 8, 2)), Verdict::New, "a newer coordinator fences");
        let fenced = Verdict::CoordinatorFenced { epoch: 7, got: 6 };
        assert_eq!(producers.judge_end(&end(5, 6, 2)), fenced);
        assert_eq!(producers.judge(&txn(4, 1, 2)), Verdict::Fenced { epoch: 5, got: 4 });
        let skips = Verdict::OutOfOrder { expected: 0, got: 1 };
        assert_eq!(producers.judge(&txn(5, 1, 2)), skips);
        producers.appended(&txn(5, 0, 2), None);
        assert_eq!(producers.judge_end(&end(5, 7, 2)), Verdict::Fenced { epoch: 5, got: 5 });
        assert!(producers.is_open(9, 5));
    }

    #[test]
    fn who_has_a_transaction_open_is_never_forgotten() {
        let mut producers = Producers::default();
        producers.appended(&txn(0, 0, 0), None);
        for n in 0..=PRODUCERS_MAX as u64 {
            let mut other = batch(0, 0, 1, 1 + n);
            other.producer_id = 100 + n as i64;
            producers.appended(&other, None);
            // Half of them have no batches: their marker brought an epoch.
            if n % 2 == 0 {
                other.attributes = 0x30;
                other.producer_epoch = 1;
                let marker = Marker { commit: true, coordinator_epoch: 0 };
                producers.appended(&other, Some(marker));
            }
        }
        assert!(producers.len() <= PRODUCERS_MAX && producers.len() > PRODUCERS_MAX / 2);
        producers.expire(i64::MAX);
        assert_eq!(producers.len(), 1);
        assert!(producers.is_open(9, 0));
    }
}
