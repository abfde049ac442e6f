//! Which object holds which offsets of a partition.
//!
//! A few words per range, however many batches it has: where batches stand is in the footers.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use levee_proto::ids::{LaneId, PartitionId, SessionId, TopicId, Writer};
use levee_proto::metalog::{ObjectId, ObjectRef};
use levee_proto::object::{Footer, Index, Level, ProducerSnapshot, Range, RangeKind};
use parking_lot::RwLock;

use super::footers::Wanted;

/// Whose bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// Slot of an object lane, closed or our own.
    Slot(LaneId, u64),
    Object(ObjectId),
}

/// One partition's bytes in an object.
#[derive(Debug, Clone, PartialEq)]
pub struct RangeRef {
    pub source: Source,
    pub key: Arc<str>,
    /// Size of the whole object.
    pub object_bytes: u64,
    /// What its reference says of its footer; nothing for a slot.
    pub footer_crc: Option<u32>,
    pub level: Level,
    /// Place in the footer's list.
    pub number: u32,
    pub base: u64,
    /// Exclusive.
    pub end: u64,
    pub len: u64,
    /// Largest timestamp of its first block.
    pub first_timestamp: i64,
    pub max_timestamp: i64,
    pub leader_epoch: u32,
    /// Its batches need not fill it.
    pub compacted: bool,
}

/// See the module.
#[derive(Default)]
pub struct RemoteIndex {
    inner: RwLock<Inner>,
}

#[derive(Default)]
struct Inner {
    partitions: BTreeMap<PartitionId, Log>,
    sources: BTreeMap<Source, Arc<Held>>,
}

/// What one object or slot holds.
#[derive(Debug, Clone)]
pub struct Held {
    pub ranges: Vec<HeldRange>,
    /// Largest timestamp of any record: the age of its data.
    pub newest_ms: i64,
}

/// Offsets of a partition, `end` exclusive, and their bytes.
#[derive(Debug, Clone, Copy)]
pub struct HeldRange {
    pub partition: PartitionId,
    pub base: u64,
    pub end: u64,
    pub len: u64,
    pub compacted: bool,
}

#[derive(Default)]
struct Log {
    /// By base and source: objects may overlap.
    ranges: BTreeMap<(u64, Source), RangeRef>,
    /// Most offsets that one range ever had: nothing that begins further below holds an offset.
    span: u64,
    /// Largest timestamp of any record: the time of the log.
    newest_ms: i64,
    /// Newest producer state in an L1 or L2 object, and where it stands.
    told: Option<(u64, ProducerSnapshot)>,
    /// Those of `ranges` in which transactions were aborted.
    aborts: BTreeMap<(u64, Source), Aborts>,
}

/// What the aborted transactions of a range may overlap; which they are is in its footer.
#[derive(Debug, Clone, Copy)]
struct Aborts {
    /// Least first offset.
    first: u64,
    /// Largest last stable offset: whatever began below had ended before the range ended.
    stable: u64,
}

impl Aborts {
    fn of(range: &Range) -> Option<Self> {
        let first = range.aborted.iter().map(|txn| txn.first_offset).min()?;
        let stable = range.aborted.iter().map(|txn| txn.last_stable_offset).max()?;
        Some(Self { first, stable })
    }
}

impl RangeRef {
    fn is_object(&self) -> bool {
        matches!(self.source, Source::Object(_))
    }

    /// The footer of its object.
    pub fn wanted(&self) -> Wanted {
        let (bytes, footer_crc) = (self.object_bytes, self.footer_crc);
        Wanted { key: self.key.clone(), bytes, footer_crc }
    }
}

impl Log {
    /// Ranges that hold an offset, those that begin last first.
    fn holding(&self, offset: u64) -> impl Iterator<Item = &RangeRef> + Clone {
        let first = (offset.saturating_sub(self.span), Source::Slot(MIN_LANE, 0));
        let below = self.ranges.range(first..=(offset, LAST)).rev().map(|(_, range)| range);
        below.filter(move |range| range.end > offset)
    }

    fn locate(&self, offset: u64) -> Option<&RangeRef> {
        let best = |offset| {
            let mut objects = self.holding(offset).filter(|range| range.is_object());
            // What was left out must not come back from one that has it.
            let compacted = objects.clone().find(|range| range.compacted);
            let slot = || self.holding(offset).next();
            compacted.or_else(|| objects.next()).or_else(slot)
        };
        best(offset).or_else(|| {
            let above = (Bound::Excluded((offset, LAST)), Bound::Unbounded);
            let (_, next) = self.ranges.range(above).next()?;
            best(next.base)
        })
    }
}

impl Log {
    /// Whether ranges of one sort hold all of these offsets.
    fn covers(&self, offsets: std::ops::Range<u64>, is_one: impl Fn(&RangeRef) -> bool) -> bool {
        let mut at = offsets.start;
        while at < offsets.end {
            match self.holding(at).find(|range| is_one(range)) {
                Some(range) => at = range.end,
                None => return false,
            }
        }
        true
    }
}

impl RemoteIndex {
    pub fn add_object(&self, object: &ObjectRef, footer: &Footer) {
        let source = Source::Object(object.id());
        self.add(source, Wanted::object(object), footer);
    }

    pub fn add_slot(&self, lane: LaneId, slot: u64, object_bytes: u64, footer: &Footer) {
        self.add(Source::Slot(lane, slot), Wanted::slot(lane, slot, object_bytes), footer);
    }

    fn add(&self, source: Source, object: Wanted, footer: &Footer) {
        let Wanted { key, bytes: object_bytes, footer_crc } = object;
        let mut inner = self.inner.write();
        let Inner { partitions, sources } = &mut *inner;
        let new = || Arc::new(Held { ranges: Vec::new(), newest_ms: -1 });
        let held = Arc::make_mut(sources.entry(source).or_insert_with(new));
        for (number, range) in footer.ranges.iter().enumerate() {
            if range.kind != RangeKind::Data {
                continue;
            }
            let log = partitions.entry(range.partition).or_default();
            let known = RangeRef {
                source,
                key: key.clone(),
                object_bytes,
                footer_crc,
                level: footer.level,
                number: number as u32,
                base: range.base,
                end: range.end,
                len: range.len,
                first_timestamp: match &range.index {
                    Index::Full(batches) => batches.first().map_or(-1, |b| b.max_timestamp),
                    Index::Sparse(blocks) => blocks.first().map_or(-1, |b| b.max_timestamp),
                },
                max_timestamp: range.max_timestamp,
                leader_epoch: range.leader_epoch,
                compacted: range.compacted,
            };
            if log.ranges.insert((range.base, source), known).is_none() {
                let Range { partition, base, end, len, compacted, .. } = *range;
                held.ranges.push(HeldRange { partition, base, end, len, compacted });
            }
            if let Some(aborts) = Aborts::of(range) {
                log.aborts.insert((range.base, source), aborts);
            }
            held.newest_ms = held.newest_ms.max(range.max_timestamp);
            log.newest_ms = log.newest_ms.max(range.max_timestamp);
            log.span = log.span.max(range.end - range.base);
            let newer = log.told.as_ref().is_none_or(|(end, _)| *end < range.end);
            if let (Some(producers), true) = (&range.producers, newer) {
                log.told = Some((range.end, producers.clone()));
            }
        }
    }

    pub fn remove_object(&self, object: ObjectId) {
        self.remove(Source::Object(object));
    }

    /// Slots of `lane` below `below`.
    pub fn remove_slots(&self, lane: LaneId, below: u64) {
        let slots: Vec<Source> = {
            let inner = self.inner.read();
            let all = Source::Slot(lane, 0)..Source::Slot(lane, below);
            inner.sources.range(all).map(|(source, _)| *source).collect()
        };
        slots.into_iter().for_each(|slot| self.remove(slot));
    }

    fn remove(&self, source: Source) {
        let mut inner = self.inner.write();
        let Some(held) = inner.sources.remove(&source) else { return };
        for range in &held.ranges {
            if let Some(log) = inner.partitions.get_mut(&range.partition) {
                log.ranges.remove(&(range.base, source));
                log.aborts.remove(&(range.base, source));
            }
        }
    }

    pub fn drop_topic(&self, topic: TopicId) {
        self.inner.write().partitions.retain(|id, _| id.topic != topic);
    }

    /// The range that holds `offset`, or else the next one above it. Objects stay longer than
    /// slots, so they go first.
    pub fn locate(&self, partition: PartitionId, offset: u64) -> Option<RangeRef> {
        let inner = self.inner.read();
        inner.partitions.get(&partition)?.locate(offset).cloned()
    }

    /// The first offset from `offset` on where compaction left anything at all.
    pub fn past_empty(&self, partition: PartitionId, mut offset: u64) -> u64 {
        let inner = self.inner.read();
        let Some(log) = inner.partitions.get(&partition) else { return offset };
        while let Some(range) = log.locate(offset).filter(|r| r.len == 0 && r.base <= offset) {
            offset = range.end;
        }
        offset
    }

    /// The range that holds `offset` in one of some sources.
    pub fn locate_in(
        &self,
        partition: PartitionId,
        offset: u64,
        is_one: impl Fn(Source) -> bool,
    ) -> Option<RangeRef> {
        let inner = self.inner.read();
        let log = inner.partitions.get(&partition)?;
        log.holding(offset).find(|range| is_one(range.source)).cloned()
    }

    /// Ranges from `from` to `to` as a reader goes through them. Each offset counts once: a range
    /// that begins inside the one before is cut, and so are its bytes, in proportion. What nothing
    /// holds is a gap between two ranges. Only a range of which nothing is left has no bytes.
    pub fn tiling(&self, partition: PartitionId, from: u64, to: u64) -> Vec<RangeRef> {
        let inner = self.inner.read();
        let (mut at, mut tiles) = (from, Vec::new());
        let Some(log) = inner.partitions.get(&partition) else { return tiles };
        while let Some(range) = log.locate(at).filter(|range| range.base < to && at < to) {
            let base = range.base.max(at);
            let share = u128::from(range.len) * u128::from(range.end - base);
            let share = (share / u128::from(range.end - range.base)) as u64;
            let len = share.max(u64::from(range.len > 0));
            at = range.end;
            tiles.push(RangeRef { base, len, ..range.clone() });
        }
        tiles
    }

    /// First range with a record at or after `timestamp`, from `offset` on.
    pub fn find_time(
        &self,
        partition: PartitionId,
        offset: u64,
        timestamp: i64,
    ) -> Option<RangeRef> {
        let inner = self.inner.read();
        let mut ranges = inner.partitions.get(&partition)?.ranges.values();
        ranges.find(|r| r.end > offset && r.max_timestamp >= timestamp).cloned()
    }

    /// Largest time in any range that ends above `offset`.
    pub fn max_timestamp(&self, partition: PartitionId, offset: u64) -> Option<i64> {
        let inner = self.inner.read();
        let ranges = inner.partitions.get(&partition)?.ranges.values();
        ranges.filter(|range| range.end > offset).map(|range| range.max_timestamp).max()
    }

    /// Ranges whose footers name the transactions that were aborted and overlap `offsets`. Their
    /// markers may stand far above.
    pub fn aborts(&self, partition: PartitionId, offsets: std::ops::Range<u64>) -> Vec<RangeRef> {
        let inner = self.inner.read();
        let Some(log) = inner.partitions.get(&partition) else { return Vec::new() };
        let from = (offsets.start.saturating_sub(log.span), Source::Slot(MIN_LANE, 0));
        let mut found = Vec::new();
        for (key, aborts) in log.aborts.range(from..) {
            let Some(range) = log.ranges.get(key).filter(|range| range.end > offsets.start) else {
                continue;
            };
            // Objects stay longer than slots: they tell of the same transactions.
            if !range.is_object() && log.covers(range.base..range.end, RangeRef::is_object) {
                continue;
            }
            if aborts.first < offsets.end {
                found.push(range.clone());
            }
            // Whatever is aborted above began at or above the end.
            if aborts.stable >= offsets.end {
                break;
            }
        }
        found
    }

    /// All ranges of a partition, in offset order.
    pub fn ranges(&self, partition: PartitionId) -> Vec<RangeRef> {
        let inner = self.inner.read();
        let log = inner.partitions.get(&partition);
        log.map(|log| log.ranges.values().cloned().collect()).unwrap_or_default()
    }

    /// Bytes of a partition that a reader can reach.
    pub fn bytes(&self, partition: PartitionId) -> u64 {
        self.tiling(partition, 0, u64::MAX).iter().map(|range| range.len).sum()
    }

    /// Largest timestamp of any record that is or was known of a partition.
    pub fn newest_ms(&self, partition: PartitionId) -> i64 {
        self.inner.read().partitions.get(&partition).map_or(0, |log| log.newest_ms)
    }

    pub fn producers(&self, partition: PartitionId) -> Option<(u64, ProducerSnapshot)> {
        self.inner.read().partitions.get(&partition)?.told.clone()
    }

    /// Where the newest producer state in an object stands.
    pub fn told(&self, partition: PartitionId) -> Option<u64> {
        self.inner.read().partitions.get(&partition)?.told.as_ref().map(|(end, _)| *end)
    }

    /// What an object or slot holds; nothing where it is not known.
    pub fn held_by(&self, source: Source) -> Option<Arc<Held>> {
        self.inner.read().sources.get(&source).cloned()
    }

    pub fn knows(&self, source: Source) -> bool {
        self.inner.read().sources.contains_key(&source)
    }

    /// Whether objects or slots hold all of these offsets.
    pub fn holds(&self, partition: PartitionId, base: u64, end: u64) -> bool {
        self.covers(partition, base..end, |_| true)
    }

    /// Whether objects, not slots, hold all of these offsets.
    pub fn in_objects(&self, partition: PartitionId, base: u64, end: u64) -> bool {
        self.covers(partition, base..end, RangeRef::is_object)
    }

    fn covers(
        &self,
        partition: PartitionId,
        offsets: std::ops::Range<u64>,
        is_one: impl Fn(&RangeRef) -> bool,
    ) -> bool {
        let inner = self.inner.read();
        inner.partitions.get(&partition).is_some_and(|log| log.covers(offsets, is_one))
    }
}

const MIN_LANE: LaneId = LaneId { session: SessionId { broker: 0, epoch: 0 }, lane: 0 };
const LAST: Source = Source::Object(ObjectId { writer: Writer(u64::MAX), seq: u64::MAX });

#[cfg(test)]
mod tests {
    use levee_proto::ids::Nonce;
    use levee_proto::object::AbortedTxn;

    use super::*;

    const ID: PartitionId = PartitionId { topic: TopicId(1), partition: 0 };

    fn footer(level: Level, offsets: std::ops::Range<u64>) -> Footer {
        let range = Range {
            partition: ID,
            leader_epoch: 1,
            kind: RangeKind::Data,
            base: offsets.start,
            end: offsets.end,
            pos: 64,
            len: offsets.end - offsets.start,
            crc: 0,
            batches: 0,
            records: 0,
            max_timestamp: 0,
            index: Index::Sparse(Vec::new()),
            producers: None,
            aborted: Vec::new(),
            compacted: false,
        };
        Footer { level, lane_trim: 0, prev_slot_crc: 0, ranges: vec![range] }
    }

    fn object(index: &RemoteIndex, seq: u64, offsets: std::ops::Range<u64>) -> ObjectRef {
        let writer = Writer(1);
        let (nonce, single) = (Nonce(seq.into()), None);
        let object = ObjectRef { level: 1, writer, seq, nonce, bytes: 1000, footer_crc: 0, single };
        index.add_object(&object, &footer(Level::L1, offsets));
        object
    }

    /// Slots of ten offsets from 0 to 100, and objects that hold 20..60 and 50..70.
    fn mixed() -> RemoteIndex {
        let index = RemoteIndex::default();
        for slot in 0..10 {
            index.add_slot(MIN_LANE, slot, 100, &footer(Level::L0, slot * 10..slot * 10 + 10));
        }
        object(&index, 1, 20..60);
        object(&index, 2, 50..70);
        index
    }

    #[test]
    fn what_was_compacted_goes_before_what_was_not() {
        let index = mixed();
        let whole = index.locate(ID, 55).unwrap().source;
        let object = ObjectRef {
            level: 2,
            writer: Writer(1),
            seq: 9,
            nonce: Nonce(9),
            bytes: 1000,
            footer_crc: 0,
            single: None,
        };
        let mut compacted = footer(Level::L2, 30..60);
        compacted.ranges[0].compacted = true;
        index.add_object(&object, &compacted);
        assert_ne!(index.locate(ID, 55).unwrap().source, whole);
        assert!(index.locate(ID, 30).unwrap().compacted);
        assert!(!index.locate(ID, 29).unwrap().compacted);
        let tiles = index.tiling(ID, 30, 100);
        let compacted = tiles.iter().filter(|tile| tile.compacted);
        assert_eq!(compacted.map(|tile| (tile.base, tile.end)).collect::<Vec<_>>(), [(30, 60)]);
    }

    #[test]
    fn objects_go_before_slots() {
        let index = mixed();
        let is_object = |offset| index.locate(ID, offset).unwrap().is_object();
        assert_eq!(
            [0, 20, 35, 59, 60, 70, 99].map(is_object),
            [false, true, true, true, true, false, false]
        );
        assert_eq!(index.locate(ID, 100), None);
        assert!(index.in_objects(ID, 20, 70) && !index.in_objects(ID, 20, 71));
        index.remove_slots(MIN_LANE, 10);
        assert_eq!(index.locate(ID, 0).unwrap().base, 20, "the next one above");
    }

    /// With transactions that were aborted, each by its first and last offset and how stable the
    /// log was then.
    fn aborting(offsets: std::ops::Range<u64>, aborted: &[(u64, u64, u64)]) -> Footer {
        let mut footer = footer(Level::L0, offsets);
        let txn = |&(first_offset, last_offset, last_stable_offset): &(u64, u64, u64)| AbortedTxn {
            producer_id: 1,
            first_offset,
            last_offset,
            last_stable_offset,
        };
        footer.ranges[0].aborted = aborted.iter().map(txn).collect();
        footer
    }

    #[test]
    fn aborted_transactions_are_found_where_their_markers_stand() {
        let index = RemoteIndex::default();
        index.add_slot(MIN_LANE, 0, 9, &aborting(0..10, &[(3, 5, 4), (4, 6, 7)]));
        index.add_slot(MIN_LANE, 1, 9, &footer(Level::L0, 10..20));
        index.add_slot(MIN_LANE, 2, 9, &aborting(20..30, &[(8, 22, 12)]));
        index.add_slot(MIN_LANE, 3, 9, &aborting(30..40, &[(31, 32, 12), (12, 35, 36)]));
        index.add_slot(MIN_LANE, 4, 9, &aborting(40..50, &[(41, 42, 43)]));
        let found = |from, to| -> Vec<u64> {
            index.aborts(ID, from..to).iter().map(|range| range.base).collect()
        };
        assert_eq!(found(0, 3), [] as [u64; 0], "the first one begins behind it");
        assert_eq!(found(0, 5), [0]);
        assert_eq!(found(0, 9), [0, 20], "it ends two ranges above");
        assert_eq!(found(10, 12), [20], "and nothing that began below ends above that");
        assert_eq!(found(10, 13), [20, 30]);
        assert_eq!(found(36, 50), [30, 40], "in the same range, though it ended before");
        // Objects that cover a slot are asked in its place.
        let add = |seq, footer: Footer| {
            let source = Source::Object(ObjectId { writer: Writer(1), seq });
            index.add(source, Wanted { key: "o".into(), bytes: 9, footer_crc: None }, &footer);
        };
        add(1, aborting(30..34, &[(31, 32, 12)]));
        add(2, aborting(34..40, &[(12, 35, 36)]));
        assert_eq!(found(10, 13), [20, 34]);
        add(3, aborting(0..30, &[(3, 5, 4), (4, 6, 7), (8, 22, 12)]));
        let sources: Vec<_> = index.aborts(ID, 0..13).iter().map(|r| (r.base, r.end)).collect();
        assert_eq!(sources, [(0, 30), (34, 40)]);
        index.remove_slots(MIN_LANE, 4);
        assert_eq!(found(0, 50), [0, 30, 34, 40]);
    }

    #[test]
    fn the_rest_of_a_range_that_has_bytes_has_some() {
        let index = RemoteIndex::default();
        // A million records of one key were compacted to the last one.
        let mut compacted = footer(Level::L2, 0..1_000_000);
        compacted.ranges[0].len = 100;
        compacted.ranges[0].compacted = true;
        let source = Source::Object(ObjectId { writer: Writer(1), seq: 1 });
        index.add(source, Wanted { key: "o".into(), bytes: 9, footer_crc: None }, &compacted);
        let tiles = index.tiling(ID, 995_000, 1_000_000);
        assert_eq!(tiles.iter().map(|tile| tile.len).collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn each_offset_counts_once() {
        let index = mixed();
        let tiles: Vec<_> = index.tiling(ID, 0, 100).iter().map(|r| (r.base, r.end)).collect();
        let expected =
            [(0, 10), (10, 20), (20, 60), (60, 70), (70, 80), (80, 90), (90, 100)].to_vec();
        assert_eq!(tiles, expected);
        assert_eq!(index.bytes(ID), 100, "a byte for each offset");
        index.remove_slots(MIN_LANE, 2);
        let tiles = index.tiling(ID, 5, 75);
        let borders: Vec<_> = tiles.iter().map(|r| (r.base, r.end)).collect();
        assert_eq!(borders, [(20, 60), (60, 70), (70, 80)], "a gap in front");
    }
}
