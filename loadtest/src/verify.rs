//! Whether what was read is what was acknowledged: chains of records, by writer and partition.
//!
//! Pure. The writer's side (`Ledger`) knows what was sent and what of it was not acknowledged; the
//! reader's side (`Track`) follows the chain. Both hold a few numbers and bounded ranges, however
//! many records there are.

mod ranges;

use serde::{Deserialize, Serialize};

use crate::stamp::Stamp;
pub use ranges::Ranges;

/// What one writer sent to one partition.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    /// Sequences below were sent.
    pub sent: u64,
    /// The newest record's checksum.
    pub last: u64,
    /// Sent, and refused or of unknown outcome.
    unacked: Ranges,
}

/// How far a reader is in one chain.
#[derive(Debug, Clone, Default)]
pub struct Track {
    next: u64,
    last: Option<u64>,
    gaps: Ranges,
    /// Came behind records that were sent later.
    late: Ranges,
    counts: Counts,
}

#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    read: u64,
    duplicated: u64,
    changed: u64,
}

/// What a run's records came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Findings {
    pub sent: u64,
    pub acked: u64,
    /// Refused or of unknown outcome: may be there or not.
    pub unacked: u64,
    pub read: u64,
    /// Acknowledged and not read.
    pub lost: u64,
    pub duplicated: u64,
    /// Acknowledged, and read behind what was sent later.
    pub reordered: u64,
    /// Read with other bytes, or not in their place of the chain.
    pub changed: u64,
    /// Records without a stamp of this run.
    pub foreign: u64,
    /// Refused or unknown, and there all the same.
    pub unacked_read: u64,
    /// Acknowledged and not looked at, or without room in bounded sets: above 0, the counts above
    /// are lower bounds.
    pub not_judged: u64,
}

impl Ledger {
    pub fn sent(&mut self, records: u64) {
        self.sent += records;
    }

    pub fn not_acked(&mut self, first: u64, records: u64) {
        self.unacked.insert(first..first + records);
    }

    /// Acknowledged, and behind what a reader got to.
    pub fn behind(&self, track: &Track) -> u64 {
        let behind = track.next..self.sent.max(track.next);
        behind.end - behind.start - self.unacked.overlap(behind)
    }
}

impl Track {
    pub fn see(&mut self, stamp: &Stamp, intact: bool) {
        self.counts.read += 1;
        if !intact {
            self.counts.changed += 1;
            // Its number may be damaged too: believed only where it is the one that is due.
            if stamp.sequence == self.next {
                (self.next, self.last) = (self.next + 1, None);
            }
            return;
        }
        if stamp.sequence > self.next {
            self.gaps.insert(self.next..stamp.sequence);
        } else if stamp.sequence < self.next {
            if self.gaps.remove(stamp.sequence) {
                self.late.insert(stamp.sequence..stamp.sequence + 1);
            } else if self.gaps.dropped == 0 {
                self.counts.duplicated += 1;
            }
            // Else it may fill a gap that found no room: that gap counts as not judged.
            return;
        } else if self.last.is_some_and(|last| last != stamp.previous) {
            self.counts.changed += 1;
        }
        (self.next, self.last) = (stamp.sequence + 1, Some(stamp.own));
    }
}

impl Findings {
    /// Adds one chain.
    pub fn judge(&mut self, ledger: &Ledger, track: &Track) {
        let unacked = ledger.unacked.count() + ledger.unacked.dropped;
        self.sent += ledger.sent;
        self.unacked += unacked;
        self.acked += ledger.sent.saturating_sub(unacked);
        let end = ledger.sent.max(track.next);
        let mut missing = 0;
        let mut missing_unacked = 0;
        for gap in track.gaps.iter().chain(std::iter::once(track.next..end)) {
            let excused = ledger.unacked.overlap(gap.clone());
            missing += gap.end - gap.start - excused;
            missing_unacked += excused;
        }
        // What has no range in the ledger may be among the missing: not lost for certain.
        self.lost += missing.saturating_sub(ledger.unacked.dropped);
        self.unacked_read += unacked.saturating_sub(missing_unacked + ledger.unacked.dropped);
        self.reordered += track
            .late
            .iter()
            .map(|late| late.end - late.start - ledger.unacked.overlap(late))
            .sum::<u64>();
        self.read += track.counts.read;
        self.duplicated += track.counts.duplicated;
        self.changed += track.counts.changed;
        self.not_judged += ledger.unacked.dropped + track.gaps.dropped + track.late.dropped;
    }

    /// So many of what is missing were not read: nobody knows whether they are there.
    pub fn unread(&mut self, records: u64) {
        let unread = records.min(self.lost);
        self.lost -= unread;
        self.not_judged += unread;
    }

    pub fn is_wrong(&self) -> bool {
        self.lost + self.duplicated + self.reordered + self.changed > 0
    }

    pub fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.acked += other.acked;
        self.unacked += other.unacked;
        self.read += other.read;
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.changed += other.changed;
        self.foreign += other.foreign;
        self.unacked_read += other.unacked_read;
        self.not_judged += other.not_judged;
    }
}

#[cfg(test)]
mod tests;
