//! What one job takes of a log: all objects that hold some offsets. What they hold besides stays as
//! it is, so a job is bounded however objects interleave, and the clean front still grows only over
//! what was compared with all below.

use std::collections::BTreeSet;
use std::ops::Range;

use levee_proto::metalog::ObjectId;
use levee_tiering::remote::RangeRef;

use super::INPUTS_MAX;
use super::due::object_of;

/// See the module.
#[derive(Debug, PartialEq)]
pub(super) struct Window {
    pub objects: Vec<ObjectId>,
    /// Where its offsets end.
    pub end: u64,
}

/// The longest one at the front of some offsets; an error says how many objects hold the first of them,
/// where they are too many. `ranges`: of the partition, in offset order.
pub(super) fn window(ranges: &[RangeRef], offsets: Range<u64>) -> Result<Window, usize> {
    let held = |range: &&RangeRef| range.end > offsets.start && range.base < offsets.end;
    let held: Vec<(&RangeRef, ObjectId)> =
        ranges.iter().filter(held).filter_map(|range| Some((range, object_of(range)?))).collect();
    let inside = |at: &u64| offsets.start < *at && *at < offsets.end;
    let both = held.iter().flat_map(|(range, _)| [range.base, range.end]);
    let mut borders: BTreeSet<u64> = both.filter(inside).collect();
    borders.insert(offsets.end);
    let (mut objects, mut reach, mut at) = (BTreeSet::new(), 0, 0);
    // Better one that cuts no range.
    let (mut whole, mut any) = (None, None);
    for border in borders {
        while let Some((range, object)) = held.get(at).filter(|(range, _)| range.base < border) {
            objects.insert(*object);
            (reach, at) = (range.end.max(reach), at + 1);
        }
        if objects.len() > INPUTS_MAX {
            break;
        }
        any = Some(border);
        whole = any.filter(|border| reach <= *border || *border == offsets.end).or(whole);
    }
    let end = whole.or(any).ok_or(objects.len())?;
    let objects: BTreeSet<ObjectId> =
        held.iter().filter(|(range, _)| range.base < end).map(|(_, object)| *object).collect();
    Ok(Window { objects: objects.into_iter().collect(), end })
}

#[cfg(test)]
mod tests {
    use levee_proto::ids::Writer;
    use levee_proto::object::Level;
    use levee_tiering::remote::Source;

    use super::*;

    fn id(seq: u64) -> ObjectId {
        ObjectId { writer: Writer(1), seq }
    }

    /// Ranges by object.
    fn ranges(all: &[(u64, Range<u64>)]) -> Vec<RangeRef> {
        let range = |(seq, offsets): &(u64, Range<u64>)| RangeRef {
            source: Source::Object(id(*seq)),
            key: "o".into(),
            object_bytes: 1,
            footer_crc: None,
            level: Level::L1,
            number: 0,
            base: offsets.start,
            end: offsets.end,
            len: 1,
            first_timestamp: 0,
            max_timestamp: 0,
            leader_epoch: 1,
            compacted: false,
        };
        let mut ranges: Vec<RangeRef> = all.iter().map(range).collect();
        ranges.sort_by_key(|range| (range.base, range.source));
        ranges
    }

    /// How many objects each window has, and where it ends.
    fn all(ranges: &[RangeRef], offsets: Range<u64>) -> Vec<(usize, u64)> {
        let (mut from, mut found) = (offsets.start, Vec::new());
        while from < offsets.end {
            let Window { objects, end } = window(ranges, from..offsets.end).unwrap();
            for range in ranges.iter().filter(|range| range.base < end && range.end > from) {
                assert!(objects.contains(&object_of(range).unwrap()), "all that hold any of it");
            }
            found.push((objects.len(), end));
            from = end;
        }
        found
    }

    #[test]
    fn windows_follow_on_each_other_and_stay_bounded() {
        let mut many: Vec<(u64, Range<u64>)> = (0..150).map(|n| (n, n * 10..n * 10 + 10)).collect();
        assert_eq!(all(&ranges(&many), 0..1500), [(64, 640), (64, 1280), (22, 1500)]);
        assert_eq!(all(&ranges(&many), 5..1495), [(64, 640), (64, 1280), (22, 1495)]);
        // One that holds the front and the end of the log is in the first and the last.
        many[149].0 = 0;
        assert_eq!(all(&ranges(&many), 0..1500), [(64, 640), (64, 1280), (22, 1500)]);
        // One that holds everything is in each, and cut.
        many.push((200, 0..1500));
        assert_eq!(all(&ranges(&many), 0..1500), [(64, 630), (64, 1260), (25, 1500)]);
    }

    #[test]
    fn no_range_is_cut_without_need() {
        let mut many: Vec<(u64, Range<u64>)> = (0..70).map(|n| (n, n * 10..n * 10 + 10)).collect();
        many.push((100, 625..645));
        assert_eq!(all(&ranges(&many), 0..700), [(62, 620), (9, 700)]);
        // More than a job takes hold the same offset.
        let same: Vec<(u64, Range<u64>)> = (0..65).map(|n| (n, 0..10 + n)).collect();
        assert_eq!(window(&ranges(&same), 0..70), Err(65));
        assert_eq!(window(&ranges(&same[1..]), 0..11).map(|window| window.end), Ok(11));
    }
}
