//! Which records of a partition go, batch for batch in the order of the log.
//!
//! As Kafka's log cleaner: a record goes where a later one has its key, or where its transaction was
//! aborted; a tombstone once its delete horizon is over (KIP-534); a marker once nothing of its
//! transaction is left and its horizon is over. Offsets and sequences stay.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use levee_proto::FormatError;
use levee_proto::ids::PartitionId;
use levee_proto::limits::{BATCH_BYTES_MAX, BATCH_DECODED_BYTES_MAX};
use levee_proto::object::Aborted;
use levee_proto::record::rewrite::{RawRecord, raw_records, rewrite};
use levee_proto::record::{BatchHeader, Marker};

use super::map::KeyMap;
use crate::merge::Kept;

/// How long an abort marker stays at least once its records are gone: a read that found them in the
/// object before asks for what was aborted when it has them.
const ABORT_STAYS_MS: i64 = 10 * 60_000;

/// What is known before the first batch.
pub struct Rules {
    pub partition: PartitionId,
    pub map: Arc<KeyMap>,
    /// Everything below was compacted before: no key stands there twice.
    pub dirty_from: u64,
    /// Nothing at or above is compacted now.
    pub to: u64,
    pub now_ms: i64,
    /// `None`: tombstones stay for ever.
    pub delete_retention_ms: Option<i64>,
    pub aborted: Aborted,
    /// Local copies, which are not compacted, stand from here on.
    pub local_start: u64,
}

/// See the module.
pub struct Cleaner {
    rules: Rules,
    /// Producers with a transaction of which a record stays.
    open: BTreeSet<i64>,
    /// Records that the map names, and that were met.
    met: u64,
    kept: Kept,
}

impl Cleaner {
    pub fn new(rules: Rules) -> Self {
        Self { rules, open: BTreeSet::new(), met: 0, kept: Kept::default() }
    }

    /// A new job begins: what it finds stays for as long as it must from now on.
    pub fn begin(&mut self, now_ms: i64) {
        self.rules.now_ms = now_ms;
    }

    /// Offsets below are compacted.
    pub fn to(&self) -> u64 {
        self.rules.to
    }

    /// How many of the newest records of the map were met: all of them, each once, when everything
    /// below `to` went through.
    pub fn met(&self) -> u64 {
        self.met
    }

    /// Abort markers that went.
    pub(super) fn is_dropped(&self, marker: u64) -> bool {
        self.kept.dropped_aborts.contains(&marker)
    }

    /// What is left of the batches so far, since the last call.
    pub fn take_kept(&mut self) -> Kept {
        std::mem::take(&mut self.kept)
    }

    /// A batch that is not compacted in this job, and stays as it is.
    pub(super) fn untouched(&mut self, header: &BatchHeader) {
        self.kept.add(header);
    }

    /// The next whole checked batch below `to`, or what is left of it.
    pub fn clean(&mut self, batch: &Bytes) -> Result<Option<Bytes>, FormatError> {
        let header = BatchHeader::decode(batch)?;
        let left = match header.is_control() {
            true => self.control(batch, &header)?,
            false => self.records(batch, &header)?,
        };
        // The last one tells a reader of batches how far it has come.
        let is_last = header.end_offset() == self.rules.to;
        let left = left.or_else(|| is_last.then(|| rewrite(&header, &[], None)));
        if let Some(left) = &left {
            self.kept.add(&BatchHeader::decode(left)?);
        }
        Ok(left)
    }

    fn records(
        &mut self,
        batch: &Bytes,
        header: &BatchHeader,
    ) -> Result<Option<Bytes>, FormatError> {
        if self.rules.aborted.holds(header) {
            return Ok(None);
        }
        let all = raw_records(batch, BATCH_DECODED_BYTES_MAX)?;
        let count = all.len();
        let horizon = header.delete_horizon();
        let kept: Vec<RawRecord> =
            all.into_iter().filter(|record| self.stays(record, horizon)).collect();
        if kept.is_empty() {
            return Ok(None);
        }
        if header.is_transactional() {
            self.open.insert(header.producer_id);
        }
        let has_tombstone = kept.iter().any(|record| record.is_tombstone);
        let horizon = match horizon {
            None if has_tombstone => self.new_horizon(header, 0),
            known => known,
        };
        if kept.len() == count && horizon == header.delete_horizon() {
            return Ok(Some(batch.clone()));
        }
        let less = rewrite(header, &kept, horizon);
        if less.len() > BATCH_BYTES_MAX {
            // Left as it is, it would count as clean and bring back what a tombstone deleted.
            let why = format!("{} bytes when it is packed again", less.len());
            return Err(FormatError::new("record batch", 0, why));
        }
        Ok(Some(less))
    }

    fn stays(&mut self, record: &RawRecord, horizon: Option<i64>) -> bool {
        let Rules { partition, map, dirty_from, now_ms, .. } = &self.rules;
        // As in Kafka: nothing can ever replace it, and no producer may write it.
        let Some(key) = &record.key else { return false };
        let newest = map.get(*partition, key);
        self.met += u64::from(newest == Some(record.offset));
        if newest.is_some_and(|newest| newest > record.offset) {
            return false;
        }
        // Below, nothing is left that it deletes.
        let is_clean = record.offset < *dirty_from;
        let is_over = horizon.is_some_and(|horizon| horizon <= *now_ms);
        !(record.is_tombstone && is_clean && is_over)
    }

    fn control(
        &mut self,
        batch: &Bytes,
        header: &BatchHeader,
    ) -> Result<Option<Bytes>, FormatError> {
        if header.record_count == 0 {
            // What is left of a marker that went.
            return Ok(None);
        }
        let Some(marker) = Marker::of(batch)? else { return Ok(Some(batch.clone())) };
        let has_records = self.open.remove(&header.producer_id);
        if has_records && marker.commit {
            return Ok(Some(batch.clone()));
        }
        match header.delete_horizon() {
            None => {
                match self.new_horizon(header, if marker.commit { 0 } else { ABORT_STAYS_MS }) {
                    None => Ok(Some(batch.clone())),
                    horizon => {
                        let all = raw_records(batch, BATCH_DECODED_BYTES_MAX)?;
                        Ok(Some(rewrite(header, &all, horizon)))
                    }
                }
            }
            Some(horizon) => {
                let is_clean = header.base_offset < self.rules.dirty_from;
                if horizon > self.rules.now_ms || !is_clean {
                    return Ok(Some(batch.clone()));
                }
                if !marker.commit {
                    self.kept.dropped_aborts.insert(header.base_offset);
                }
                Ok(None)
            }
        }
    }

    /// When a tombstone or marker may go. Not yet known where a reader of local copies may meet
    /// now what it deletes: from when on none can, there is all of the time to come to it.
    fn new_horizon(&self, header: &BatchHeader, least_ms: i64) -> Option<i64> {
        let is_local = header.end_offset() > self.rules.local_start;
        let keep = self.rules.delete_retention_ms.filter(|_| !is_local)?;
        Some(self.rules.now_ms.saturating_add(keep.max(least_ms)))
    }
}

/// By partition.
pub type Cleaners = BTreeMap<PartitionId, Cleaner>;

#[cfg(test)]
mod tests {
    use levee_proto::ids::TopicId;
    use levee_proto::object::AbortedTxn;
    use levee_proto::record::StoredBatch;
    use levee_proto::record::batch::check;
    use levee_proto::record::codecs::Compression;
    use levee_proto::record::records::{
        BatchBuilder, DecodedRecord, ProducerStamp, RecordData, decode_records,
    };

    use super::*;

    const ID: PartitionId = PartitionId { topic: TopicId(1), partition: 0 };
    const NOW: i64 = 1_800_000_000_000;
    const DAY: i64 = 86_400_000;

    /// Records of (key, value); no value is a tombstone.
    fn batch(base: u64, txn: Option<i64>, records: &[(&str, Option<&str>)]) -> Bytes {
        batch_of(Compression::Lz4, base, txn, records)
    }

    fn batch_of(
        codec: Compression,
        base: u64,
        txn: Option<i64>,
        records: &[(&str, Option<&str>)],
    ) -> Bytes {
        let mut builder = BatchBuilder::new(codec);
        if txn.is_some() {
            builder = builder.transactional();
        }
        for (n, (key, value)) in records.iter().enumerate() {
            let key = (!key.is_empty()).then(|| Bytes::from(key.to_string()));
            let value = value.map(|value| Bytes::from(value.to_string()));
            let timestamp_ms = 1000 + (base + n as u64) as i64;
            builder.push(&RecordData { timestamp_ms, key, value, headers: Vec::new() });
        }
        let plain = builder.build(txn.map(|producer_id| ProducerStamp {
            producer_id,
            producer_epoch: 0,
            base_sequence: base as i32,
        }));
        stamped(&plain, base)
    }

    fn marker(base: u64, producer_id: i64, commit: bool) -> Bytes {
        let marker = Marker { commit, coordinator_epoch: 3 };
        stamped(&marker.batch(producer_id, 0, 1000 + base as i64), base)
    }

    fn stamped(plain: &Bytes, base: u64) -> Bytes {
        StoredBatch::stamp(plain, check(plain).unwrap(), base, 4).to_bytes()
    }

    /// One round over a log of which everything from `dirty_from` on is new.
    fn round(log: &[Bytes], dirty_from: u64, now_ms: i64, aborted: &[AbortedTxn]) -> Vec<Bytes> {
        round_with(log, dirty_from, now_ms, aborted, (DAY, u64::MAX))
    }

    fn round_with(
        log: &[Bytes],
        dirty_from: u64,
        now_ms: i64,
        aborted: &[AbortedTxn],
        (keep_ms, local_start): (i64, u64),
    ) -> Vec<Bytes> {
        let mut map = KeyMap::new(1 << 20);
        let told: Aborted = aborted.iter().copied().collect();
        for batch in log {
            let header = check(batch).unwrap();
            if header.base_offset >= dirty_from && !header.is_control() && !told.holds(&header) {
                for record in decode_records(batch).unwrap() {
                    let key = record.data.key.unwrap_or_default();
                    if !key.is_empty() {
                        map.put(ID, &key, record.offset);
                    }
                }
            }
        }
        let (keys, map) = (map.len() as u64, Arc::new(map));
        let to = check(log.last().unwrap()).unwrap().end_offset();
        let mut cleaner = Cleaner::new(Rules {
            partition: ID,
            map,
            dirty_from,
            to,
            now_ms,
            delete_retention_ms: Some(keep_ms),
            aborted: told,
            local_start,
        });
        let left = log.iter().filter_map(|batch| cleaner.clean(batch).unwrap()).collect();
        assert_eq!(cleaner.met(), keys, "each newest record was met once");
        left
    }

    fn all(log: &[Bytes]) -> Vec<DecodedRecord> {
        log.iter().flat_map(|batch| decode_records(batch).unwrap()).collect()
    }

    fn offsets(log: &[Bytes]) -> Vec<u64> {
        all(log).iter().map(|record| record.offset).collect()
    }

    #[test]
    fn the_newest_record_of_each_key_stays_as_it_was() {
        for codec in Compression::ALL {
            let of = |base, records: &[_]| batch_of(codec, base, None, records);
            let log = [
                of(0, &[("a", Some("1")), ("b", Some("1")), ("c", Some("1"))]),
                of(3, &[("a", Some("2")), ("b", Some("2"))]),
                of(5, &[("d", Some("1"))]),
                of(6, &[("a", Some("3")), ("", Some("no key")), ("b", Some("3"))]),
            ];
            let left = round(&log, 0, NOW, &[]);
            assert_eq!(offsets(&left), [2, 5, 6, 8]);
            let before = all(&log);
            for record in all(&left) {
                assert_eq!(record, before[record.offset as usize]);
            }
            assert_eq!(left.len(), 3, "a batch without records vanishes");
            assert_eq!(left[1], log[2], "what loses nothing is not touched");
            assert_eq!(round(&left, 9, NOW, &[]), left, "nothing more to do");
            // Later rounds look at what is new only, and take from all of it.
            let mut more = left.clone();
            more.push(of(9, &[("c", Some("2")), ("e", Some("1"))]));
            assert_eq!(offsets(&round(&more, 9, NOW, &[])), [5, 6, 8, 9, 10]);
        }
    }

    #[test]
    fn a_tombstone_stays_for_its_time_and_never_comes_before_what_it_deletes() {
        let log = [
            batch(0, None, &[("a", Some("1")), ("b", Some("1"))]),
            batch(2, None, &[("a", None), ("c", Some("1"))]),
            batch(4, None, &[("d", Some("1"))]),
        ];
        let first = round(&log, 0, NOW, &[]);
        assert_eq!(offsets(&first), [1, 2, 3, 4]);
        let header = check(&first[1]).unwrap();
        assert_eq!(header.delete_horizon(), Some(NOW + DAY));
        assert_eq!(check(&first[0]).unwrap().delete_horizon(), None);
        assert_eq!(all(&first)[1].data.timestamp_ms, 1002, "its time is its own");
        let again = round(&first, 5, NOW + DAY - 1, &[]);
        assert_eq!(again, first, "not yet, and the horizon does not move");
        let gone = round(&first, 5, NOW + DAY, &[]);
        assert_eq!(offsets(&gone), [1, 3, 4]);
        // Where it was not compared with all below, it stays whatever its horizon says.
        assert_eq!(offsets(&round(&first, 2, NOW + DAY, &[])), [1, 2, 3, 4]);
    }

    #[test]
    fn what_was_aborted_goes_and_markers_follow() {
        let aborted =
            AbortedTxn { producer_id: 7, first_offset: 1, last_offset: 5, last_stable_offset: 6 };
        let log = [
            batch(0, None, &[("a", Some("1"))]),
            batch(1, Some(7), &[("a", Some("aborted")), ("x", Some("aborted"))]),
            batch(3, Some(8), &[("b", Some("1")), ("c", Some("1"))]),
            marker(5, 7, false),
            marker(6, 8, true),
            batch(7, Some(8), &[("b", Some("2"))]),
            marker(8, 8, true),
            batch(9, None, &[("d", Some("1"))]),
        ];
        let first = round(&log, 0, NOW, &[aborted]);
        assert_eq!(offsets(&first), [0, 4, 7, 9], "what was aborted replaces nothing");
        let horizons: Vec<Option<i64>> = first
            .iter()
            .map(|batch| check(batch).unwrap())
            .filter(BatchHeader::is_control)
            .map(|header| header.delete_horizon())
            .collect();
        assert_eq!(horizons, [Some(NOW + DAY), None, None], "the others have records");
        for batch in first.iter().filter(|batch| check(batch).unwrap().is_control()) {
            assert!(Marker::of(batch).unwrap().is_some(), "it is still a marker");
        }
        let mut more = first.clone();
        more.push(batch(10, None, &[("c", Some("2")), ("b", Some("3"))]));
        let second = round(&more, 10, NOW + DAY, &[aborted]);
        let markers: Vec<u64> = second
            .iter()
            .map(|batch| check(batch).unwrap())
            .filter(BatchHeader::is_control)
            .map(|header| header.base_offset)
            .collect();
        assert_eq!(markers, [6, 8], "the abort went, its time was over");
        let third = round(&second, 12, NOW + 3 * DAY, &[]);
        assert!(third.iter().all(|batch| !check(batch).unwrap().is_control()));
        assert_eq!(offsets(&third), [0, 9, 10, 11]);
    }

    /// A reader of local copies may meet what a tombstone deletes, and one that has just read what
    /// was aborted asks for the entry.
    #[test]
    fn no_time_begins_while_readers_may_need_it() {
        let aborted =
            AbortedTxn { producer_id: 7, first_offset: 2, last_offset: 3, last_stable_offset: 4 };
        let log = [
            batch(0, None, &[("a", Some("1")), ("b", Some("1"))]),
            batch(2, Some(7), &[("b", Some("aborted"))]),
            marker(3, 7, false),
            batch(4, None, &[("a", None), ("c", Some("1"))]),
        ];
        let horizons = |log: &[Bytes]| {
            let horizon = |batch: &Bytes| check(batch).unwrap().delete_horizon();
            log.iter().map(horizon).collect::<Vec<_>>()
        };
        let first = round_with(&log, 0, NOW, &[aborted], (0, 0));
        assert_eq!(horizons(&first), [None, None, None], "all of it is local");
        let second = round_with(&first, 6, NOW, &[aborted], (0, 5));
        assert_eq!(horizons(&second), [None, Some(NOW + ABORT_STAYS_MS), None]);
        let third = round_with(&second, 6, NOW, &[aborted], (0, 6));
        assert_eq!(horizons(&third)[2], Some(NOW));
        let fourth = round_with(&third, 6, NOW, &[aborted], (0, 6));
        assert_eq!((offsets(&fourth), fourth.len()), (vec![1, 5], 3), "the marker stays");
        let fifth = round_with(&fourth, 6, NOW + ABORT_STAYS_MS, &[aborted], (0, 6));
        assert_eq!((offsets(&fifth), fifth.len()), (vec![1, 5], 2));
    }

    #[test]
    fn the_last_batch_stays_as_a_header() {
        let log =
            [batch(0, None, &[("a", Some("1"))]), batch(1, Some(7), &[("a", Some("aborted"))])];
        let txn =
            AbortedTxn { producer_id: 7, first_offset: 1, last_offset: 9, last_stable_offset: 10 };
        let left = round(&log, 0, NOW, &[txn]);
        assert_eq!(offsets(&left), [0]);
        let last = check(&left[1]).unwrap();
        assert_eq!((last.record_count, last.end_offset(), last.last_sequence()), (0, 2, 1));
        // When it is not the last one any more it goes.
        let mut more = left.clone();
        more.push(batch(2, None, &[("b", Some("1"))]));
        assert_eq!(round(&more, 2, NOW, &[txn]).len(), 2);
    }
}
