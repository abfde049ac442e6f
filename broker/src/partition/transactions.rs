//! What readers of committed records must know of a partition: up to where it is stable, and which
//! transactions were aborted.
//!
//! Owns: transactions between their end and its durability, and aborted ones that no object tells
//! of yet. Does not own: open ones (`producers`), those that footers tell of (`levee-tiering`).

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use levee_proto::object::AbortedTxn;

use super::producers::{Ended, Producers};

/// Aborted transactions that are kept although objects tell of them, so that readers of local bytes
/// need no footer. A transaction takes 32 bytes.
const KEPT: usize = 1024;

/// Ends a transaction of a producer in one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndTxn {
    pub producer_id: i64,
    /// With transaction version 2 the epoch after that of the transaction (KIP-890).
    pub producer_epoch: i16,
    pub coordinator_epoch: i32,
    pub commit: bool,
    /// As in `WriteTxnMarkers`: from 2 on the epoch must be a new one.
    pub transaction_version: i16,
}

/// How a partition stood when the coordinator of a transaction was asked whether that is under way.
/// Its word holds in this leader epoch, until a marker of the producer stands behind: one that
/// overtakes the batch ends the transaction, and the batch must not begin another (KIP-890 calls
/// this a verification guard). With transaction version 2 the epoch says the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    pub(super) leader_epoch: u32,
    pub(super) log_end: u64,
}

/// See the module.
#[derive(Default)]
pub struct Transactions {
    /// Transactions that ended, and whose marker is not durable: marker by first offset.
    ending: BTreeMap<u64, u64>,
    /// By last offset.
    aborted: VecDeque<AbortedTxn>,
    /// `aborted` lacks none whose marker stands here or above.
    since: u64,
}

impl Transactions {
    /// Objects and slots tell of everything below `start`.
    pub fn new(start: u64) -> Self {
        Self { since: start, ..Self::default() }
    }

    /// A marker has its place.
    pub fn ended(&mut self, ended: Ended) {
        self.ending.insert(ended.txn.first_offset, ended.txn.last_offset);
        if !ended.commit {
            self.aborted.push_back(ended.txn);
        }
    }

    /// Everything below `end` is durable.
    pub fn durable(&mut self, end: u64) {
        self.ending.retain(|_, marker| *marker >= end);
    }

    /// First offset of the oldest transaction whose end is not durable.
    pub fn first_unstable(&self, producers: &Producers) -> Option<u64> {
        let ending = self.ending.first_key_value().map(|(first, _)| *first);
        ending.into_iter().chain(producers.first_open()).min()
    }

    /// Markers from here on are all known here.
    pub fn since(&self) -> u64 {
        self.since
    }

    /// Aborted transactions that overlap some offsets, as far as they are known here.
    pub fn overlapping(&self, offsets: Range<u64>) -> Vec<AbortedTxn> {
        let from = self.aborted.partition_point(|txn| txn.last_offset < offsets.start);
        self.aborted.range(from..).filter(|txn| txn.overlaps(&offsets)).copied().collect()
    }

    /// No reader of local bytes is below `local_start`; objects tell of everything below `told`.
    pub fn forget(&mut self, local_start: u64, told: u64) {
        while let Some(oldest) = self.aborted.front() {
            let (last, spare) = (oldest.last_offset, self.aborted.len() > KEPT);
            if last >= told || (last >= local_start && !spare) {
                return;
            }
            self.since = last + 1;
            self.aborted.pop_front();
        }
        super::tail::give_back(&mut self.aborted);
    }

    /// Bytes.
    pub fn memory(&self) -> usize {
        self.aborted.capacity() * size_of::<AbortedTxn>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(commit: bool, first_offset: u64, last_offset: u64) -> Ended {
        let last_stable_offset = last_offset + 1;
        let txn = AbortedTxn { producer_id: 1, first_offset, last_offset, last_stable_offset };
        Ended { commit, txn }
    }

    #[test]
    fn a_transaction_is_unstable_until_its_end_is_durable() {
        let mut all = Transactions::new(0);
        all.ended(ended(true, 3, 9));
        all.ended(ended(false, 5, 10));
        let none = Producers::default();
        assert_eq!(all.first_unstable(&none), Some(3));
        all.durable(9);
        assert_eq!(all.first_unstable(&none), Some(3), "the marker at 9 is not durable");
        all.durable(10);
        assert_eq!(all.first_unstable(&none), Some(5));
        all.durable(11);
        assert_eq!(all.first_unstable(&none), None);
    }

    #[test]
    fn what_overlaps() {
        let mut all = Transactions::new(0);
        for (first, last) in [(0, 4), (2, 8), (9, 12)] {
            all.ended(ended(false, first, last));
        }
        let lasts = |found: Vec<AbortedTxn>| -> Vec<u64> {
            found.into_iter().map(|txn| txn.last_offset).collect()
        };
        assert_eq!(lasts(all.overlapping(0..2)), [4]);
        assert_eq!(lasts(all.overlapping(4..6)), [4, 8]);
        assert_eq!(lasts(all.overlapping(5..9)), [8]);
        assert_eq!(lasts(all.overlapping(5..10)), [8, 12]);
    }

    #[test]
    fn few_are_kept_when_objects_tell_of_them() {
        let mut all = Transactions::new(0);
        let count = KEPT as u64 + 500;
        (0..count).for_each(|n| all.ended(ended(false, 2 * n, 2 * n + 1)));
        all.forget(0, 100);
        assert_eq!(all.since(), 100, "no object tells of those at and above 100");
        all.forget(0, u64::MAX);
        assert_eq!((all.aborted.len(), all.since()), (KEPT, 1000));
        all.forget(1500, u64::MAX);
        assert_eq!(all.since(), 1500, "no local bytes below");
    }
}
