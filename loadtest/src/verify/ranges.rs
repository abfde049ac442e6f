//! A set of numbers as ranges, bounded.

use std::collections::BTreeMap;
use std::ops::Range;

/// Ranges of one chain that are kept: some megabytes, should every chain of a run need them.
const RANGES_MAX: usize = 4096;

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ranges {
    /// Start to end, neither touching nor overlapping.
    ranges: BTreeMap<u64, u64>,
    /// Numbers that found no room: they are in no range, so counts are lower bounds.
    pub dropped: u64,
}

impl Ranges {
    pub fn insert(&mut self, range: Range<u64>) {
        let (mut start, mut end) = (range.start, range.end);
        if start >= end {
            return;
        }
        // At most the one before touches, and what begins inside.
        while let Some((&first, &last)) = self.ranges.range(..=end).next_back() {
            if last < start {
                break;
            }
            (start, end) = (start.min(first), end.max(last));
            self.ranges.remove(&first);
        }
        match self.ranges.len() < RANGES_MAX {
            true => drop(self.ranges.insert(start, end)),
            false => self.dropped += end - start,
        }
    }

    /// Takes a number out; false if it was not there.
    pub fn remove(&mut self, number: u64) -> bool {
        let before = self.ranges.range(..=number).next_back();
        let Some((&start, &end)) = before.filter(|(_, end)| **end > number) else { return false };
        self.ranges.remove(&start);
        if start < number {
            self.ranges.insert(start, number);
        }
        // Splitting makes one more: what finds no room is let go, and counted.
        match self.ranges.len() < RANGES_MAX {
            true if number + 1 < end => drop(self.ranges.insert(number + 1, end)),
            true => {}
            false => self.dropped += end - number - 1,
        }
        true
    }

    pub fn count(&self) -> u64 {
        self.ranges.iter().map(|(start, end)| end - start).sum()
    }

    /// How many of `range` are in the set.
    pub fn overlap(&self, range: Range<u64>) -> u64 {
        let reaching = self.ranges.range(..range.end).rev();
        let reaching = reaching.take_while(|(_, end)| **end > range.start);
        reaching.map(|(start, end)| range.end.min(*end) - range.start.max(*start)).sum()
    }

    pub fn iter(&self) -> impl Iterator<Item = Range<u64>> {
        self.ranges.iter().map(|(start, end)| *start..*end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_join_split_and_count() {
        let mut ranges = Ranges::default();
        ranges.insert(0..5);
        ranges.insert(10..20);
        ranges.insert(5..7);
        assert_eq!(ranges.iter().collect::<Vec<_>>(), [0..7, 10..20]);
        assert!(ranges.remove(12) && !ranges.remove(12) && !ranges.remove(8));
        assert_eq!(ranges.iter().collect::<Vec<_>>(), [0..7, 10..12, 13..20]);
        assert_eq!((ranges.count(), ranges.overlap(6..14)), (16, 4));
        ranges.insert(1..30);
        assert_eq!((ranges.iter().count(), ranges.count()), (1, 30));
    }

    #[test]
    fn memory_is_bounded_and_what_is_dropped_is_said() {
        let mut ranges = Ranges::default();
        (0..10_000).for_each(|number| ranges.insert(2 * number..2 * number + 1));
        assert_eq!((ranges.count(), ranges.dropped), (4096, 10_000 - 4096));
    }
}
