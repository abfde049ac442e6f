//! What the inputs of a job hold that is still needed: each offset once.

use std::collections::BTreeMap;

use levee_proto::ids::PartitionId;
use levee_proto::object::{AbortedTxn, ProducerSnapshot, Range};

use super::{Input, needed};

/// A stretch of one input range, whole batches.
#[derive(Debug, Clone, PartialEq)]
pub struct Tile {
    /// Place in the list of inputs, and in the footer there.
    pub input: usize,
    pub number: usize,
    pub leader_epoch: u32,
    /// `base..end`: all offsets of the range, or those that count.
    pub base: u64,
    pub end: u64,
    /// Byte in the object, and how many; of the whole range until [`place`](super::Windows::place) ran.
    pub pos: u64,
    pub len: u64,
    /// Nothing where not all of the range counts.
    pub records: Option<u64>,
    /// Of its bytes, as long.
    pub crc: Option<u32>,
    /// Producer state at `end`, where it is the newest of all inputs.
    pub producers: Option<ProducerSnapshot>,
    /// Transactions whose abort marker stands in it, by its offset.
    pub aborted: Vec<AbortedTxn>,
    /// Its batches need not fill it.
    pub compacted: bool,
    /// What is written of it need not: of a compaction.
    pub to_compact: bool,
}

/// By partition, in offset order.
pub type Tiles = BTreeMap<PartitionId, Vec<Tile>>;

/// Cuts what overlaps, drops what nobody needs.
pub fn tile(inputs: &[Input], is_needed: impl Fn(&Range) -> bool) -> Tiles {
    let mut found: BTreeMap<PartitionId, Vec<Found<'_>>> = BTreeMap::new();
    for (input, number, range) in needed(inputs, is_needed) {
        found.entry(range.partition).or_default().push(Found { input, number, range });
    }
    found.into_iter().map(|(partition, ranges)| (partition, tile_one(&ranges))).collect()
}

#[derive(Clone, Copy)]
struct Found<'a> {
    input: usize,
    number: usize,
    range: &'a Range,
}

fn tile_one(all: &[Found<'_>]) -> Vec<Tile> {
    let told = all.iter().filter(|found| found.range.producers.is_some());
    let newest = told.max_by_key(|found| found.range.end).map(|found| found.range);
    // A tile must end where the newest producer state stands: it is kept with that end.
    let cut = newest.map_or(0, |range| range.end);
    let compacted: Vec<(u64, u64)> = {
        let all = all.iter().filter(|found| found.range.compacted);
        all.map(|found| (found.range.base, found.range.end)).collect()
    };
    let mut stretches = Vec::new();
    for found in all {
        let Range { base, end, .. } = *found.range;
        let whole = match found.range.compacted {
            true => vec![(base, end)],
            // What was left out must not come back.
            false => outside((base, end), &compacted),
        };
        for (base, end) in whole {
            match base < cut && cut < end {
                true => stretches.extend([(base, cut, *found), (cut, end, *found)]),
                false => stretches.push((base, end, *found)),
            }
        }
    }
    // The longest of those that begin together goes first.
    stretches.sort_by_key(|(base, end, found)| {
        (*base, std::cmp::Reverse(*end), found.input, found.number)
    });
    let mut tiles: Vec<Tile> = Vec::new();
    for (base, end, found) in stretches {
        let base = tiles.last().map_or(base, |last| last.end.max(base));
        if base < end {
            tiles.push(found.tile(base, end));
        }
    }
    if let Some(last) = tiles.iter_mut().find(|tile| tile.end == cut) {
        last.producers = newest.and_then(|range| range.producers.clone());
    }
    tiles
}

/// What of a stretch none of some others hold.
fn outside(whole: (u64, u64), others: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let mut left = vec![whole];
    for (from, to) in others {
        let cut = |(base, end): (u64, u64)| {
            [(base, end.min(*from)), (base.max(*to), end)].into_iter().filter(|(b, e)| b < e)
        };
        left = left.into_iter().flat_map(cut).collect();
    }
    left
}

impl Tile {
    /// The tile below and from an offset inside of it on. Where its bytes are is not known.
    pub fn cut(self, at: u64) -> (Self, Self) {
        let (below, above) = self.aborted.iter().partition(|txn| txn.last_offset < at);
        let first = Self {
            end: at,
            records: None,
            crc: None,
            producers: None,
            aborted: below,
            ..self.clone()
        };
        (first, Self { base: at, records: None, crc: None, aborted: above, ..self })
    }
}

impl Found<'_> {
    fn tile(&self, base: u64, end: u64) -> Tile {
        let Self { input, number, range } = *self;
        let is_whole = base == range.base && end == range.end;
        Tile {
            input,
            number,
            leader_epoch: range.leader_epoch,
            base,
            end,
            pos: range.pos,
            len: range.len,
            records: is_whole.then_some(range.records),
            crc: is_whole.then_some(range.crc),
            producers: None,
            aborted: ended(range, base..end),
            compacted: range.compacted,
            to_compact: false,
        }
    }
}

/// Transactions whose abort marker stands at some offsets of a range.
fn ended(range: &Range, offsets: std::ops::Range<u64>) -> Vec<AbortedTxn> {
    let all = range.aborted.iter();
    all.filter(|txn| offsets.contains(&txn.last_offset)).copied().collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use levee_proto::ids::{Nonce, TopicId, Writer};
    use levee_proto::metalog::ObjectRef;
    use levee_proto::object::{Footer, Index, Level, RangeKind};

    use super::*;

    const ID: PartitionId = PartitionId { topic: TopicId(1), partition: 0 };

    /// An input of one range; `told`: with producer state.
    fn input(seq: u64, offsets: std::ops::Range<u64>, told: bool) -> Input {
        let range = Range {
            partition: ID,
            leader_epoch: 1,
            kind: RangeKind::Data,
            base: offsets.start,
            end: offsets.end,
            pos: 64,
            len: 10 * (offsets.end - offsets.start),
            crc: 0,
            batches: 0,
            records: offsets.end - offsets.start,
            max_timestamp: 0,
            index: Index::Sparse(Vec::new()),
            producers: told.then(ProducerSnapshot::default),
            aborted: (offsets.clone()).filter(|o| o % 7 == 6).map(abort).collect(),
            compacted: false,
        };
        let (writer, nonce, single) = (Writer(1), Nonce(seq.into()), None);
        let object = ObjectRef { level: 1, writer, seq, nonce, bytes: 1, footer_crc: 0, single };
        let ranges = vec![range];
        let footer = Footer { level: Level::L1, lane_trim: 0, prev_slot_crc: 0, ranges };
        Input { object, footer: Arc::new(footer) }
    }

    /// Of two offsets, by the one of its marker.
    fn abort(last: u64) -> AbortedTxn {
        AbortedTxn {
            producer_id: 1,
            first_offset: last - 1,
            last_offset: last,
            last_stable_offset: last + 1,
        }
    }

    fn borders(inputs: &[Input]) -> Vec<(usize, u64, u64, bool, bool)> {
        let tiles = tile(inputs, |range| range.end > 5).remove(&ID).unwrap_or_default();
        let border =
            |t: &Tile| (t.input, t.base, t.end, t.records.is_some(), t.producers.is_some());
        tiles.iter().map(border).collect()
    }

    #[test]
    fn each_offset_once_whoever_else_holds_it() {
        let inputs = [
            input(0, 10..20, true),
            input(1, 0..10, true),
            input(2, 15..40, false),
            input(3, 0..5, true),
        ];
        let expected =
            [(1, 0, 10, true, false), (0, 10, 20, true, true), (2, 20, 40, false, false)];
        assert_eq!(borders(&inputs), expected, "the last one is not needed any more");
        let gap = [input(0, 30..40, true), input(1, 10..20, false)];
        assert_eq!(borders(&gap), [(1, 10, 20, true, false), (0, 30, 40, true, true)]);
        assert_eq!(borders(&[input(0, 0..5, true)]), []);
    }

    #[test]
    fn each_abort_once_with_the_tile_of_its_marker() {
        let inputs = [input(0, 10..20, true), input(1, 0..12, false), input(2, 15..40, false)];
        let tiles = tile(&inputs, |_| true).remove(&ID).unwrap();
        let found: Vec<u64> =
            tiles.iter().flat_map(|t| t.aborted.iter().map(|txn| txn.last_offset)).collect();
        assert_eq!(found, [6, 13, 20, 27, 34]);
        for tile in &tiles {
            assert!(tile.aborted.iter().all(|t| (tile.base..tile.end).contains(&t.last_offset)));
        }
    }

    /// I15: what is told of producers stays, also where a longer range covers it.
    #[test]
    fn a_tile_ends_where_producers_are_told_of() {
        let inputs = [input(0, 0..60, true), input(1, 0..70, false)];
        let expected = [(0, 0, 60, true, true), (1, 60, 70, false, false)];
        assert_eq!(borders(&inputs), expected);
        let inputs = [input(0, 20..60, true), input(1, 10..70, false)];
        let expected = [(1, 10, 60, false, true), (1, 60, 70, false, false)];
        assert_eq!(borders(&inputs), expected);
    }
}
