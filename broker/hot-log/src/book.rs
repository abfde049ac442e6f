//! Which positions of a lane hold entries that are not covered by references yet.
//!
//! Owns: the answer to "where may this lane be trimmed" (I10). Does not own: the trim itself.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use levee_proto::ids::PartitionId;

use crate::lane::{Entry, EntryOwner, Payload};

/// Compact: one mark per partition and position, however many batches it wrote there.
#[derive(Default)]
pub struct Book {
    positions: VecDeque<(u64, Vec<Mark>)>,
    /// Every position below is covered.
    covered: u64,
}

struct Mark {
    owner: Arc<dyn EntryOwner>,
    leader_epoch: u32,
    end: u64,
    hand_off: bool,
}

impl Mark {
    fn is_covered(&self) -> bool {
        self.owner.is_covered(self.leader_epoch, self.end, self.hand_off)
    }
}

impl Book {
    /// `first` is the lane's first position.
    pub fn new(first: u64) -> Self {
        Self { positions: VecDeque::new(), covered: first }
    }

    /// `position` was written and holds `entries`.
    pub fn add(&mut self, position: u64, entries: &[Entry]) {
        let mut marks: BTreeMap<(PartitionId, u32), Mark> = BTreeMap::new();
        for entry in entries {
            let hand_off = matches!(entry.payload, Payload::HandOff(_));
            let mark = marks.entry((entry.partition, entry.leader_epoch)).or_insert_with(|| Mark {
                owner: entry.owner.clone(),
                leader_epoch: entry.leader_epoch,
                end: entry.end,
                hand_off: false,
            });
            mark.end = entry.end;
            mark.hand_off |= hand_off;
        }
        self.positions.push_back((position, marks.into_values().collect()));
    }

    /// First position with something that is not covered; `next` where there is none.
    pub fn covered(&mut self, next: u64) -> u64 {
        while let Some((position, marks)) = self.positions.front_mut() {
            marks.retain(|mark| !mark.is_covered());
            if !marks.is_empty() {
                self.covered = *position;
                return self.covered;
            }
            self.positions.pop_front();
        }
        self.covered = self.covered.max(next);
        self.covered
    }
}
