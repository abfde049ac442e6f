//! Which object holds which offsets of a partition.
//!
//! A few words per range, however many batches it has: where batches stand is in the footers.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use levee_proto::ids::{LaneId, PartitionId, TopicId};
use levee_proto::keys;
use levee_proto::metalog::{ObjectId, ObjectRef};
use levee_proto::object::{Footer, Level, ProducerSnapshot, RangeKind};
use parking_lot::RwLock;

/// Whose bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// Slot of a closed object lane.
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
    pub level: Level,
    /// Place in the footer's list.
    pub number: u32,
    pub base: u64,
    /// Exclusive.
    pub end: u64,
    pub len: u64,
    pub max_timestamp: i64,
    pub leader_epoch: u32,
}

/// See the module.
#[derive(Default)]
pub struct RemoteIndex {
    inner: RwLock<Inner>,
}

#[derive(Default)]
struct Inner {
    partitions: BTreeMap<PartitionId, Log>,
    /// Ranges of each object: partition, base, end.
    sources: BTreeMap<Source, Vec<(PartitionId, u64, u64)>>,
}

#[derive(Default)]
struct Log {
    /// By base and source: objects may overlap.
    ranges: BTreeMap<(u64, Source), RangeRef>,
    bytes: u64,
    /// Newest producer state in an L1 or L2 object, and its offset.
    producers: Option<(u64, ProducerSnapshot)>,
}

impl RemoteIndex {
    pub fn add_object(&self, object: &ObjectRef, footer: &Footer) {
        let source = Source::Object(object.id());
        self.add(source, &object.key(), object.bytes, footer);
    }

    pub fn add_slot(&self, lane: LaneId, slot: u64, object_bytes: u64, footer: &Footer) {
        self.add(Source::Slot(lane, slot), &keys::lane_slot(lane, slot), object_bytes, footer);
    }

    fn add(&self, source: Source, key: &str, object_bytes: u64, footer: &Footer) {
        let key: Arc<str> = key.into();
        let mut inner = self.inner.write();
        let Inner { partitions, sources } = &mut *inner;
        let held = sources.entry(source).or_default();
        for (number, range) in footer.ranges.iter().enumerate() {
            if range.kind != RangeKind::Data {
                continue;
            }
            let log = partitions.entry(range.partition).or_default();
            let known = RangeRef {
                source,
                key: key.clone(),
                object_bytes,
                level: footer.level,
                number: number as u32,
                base: range.base,
                end: range.end,
                len: range.len,
                max_timestamp: range.max_timestamp,
                leader_epoch: range.leader_epoch,
            };
            if log.ranges.insert((range.base, source), known).is_none() {
                log.bytes += range.len;
                held.push((range.partition, range.base, range.end));
            }
            let newer = log.producers.as_ref().is_none_or(|(end, _)| *end < range.end);
            if let (Some(producers), true) = (&range.producers, newer) {
                log.producers = Some((range.end, producers.clone()));
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
        for (partition, base, _) in inner.sources.remove(&source).unwrap_or_default() {
            if let Some(log) = inner.partitions.get_mut(&partition)
                && let Some(gone) = log.ranges.remove(&(base, source))
            {
                log.bytes -= gone.len;
            }
        }
    }

    pub fn drop_topic(&self, topic: TopicId) {
        self.inner.write().partitions.retain(|id, _| id.topic != topic);
    }

    /// The range that holds `offset`, or else the next one above it.
    pub fn locate(&self, partition: PartitionId, offset: u64) -> Option<RangeRef> {
        let inner = self.inner.read();
        let ranges = &inner.partitions.get(&partition)?.ranges;
        let last = (offset, Source::Object(MAX_OBJECT));
        let below = ranges.range(..=last).rev().map(|(_, range)| range);
        let holding = below.into_iter().find(|range| range.end > offset);
        let above = || ranges.range((Bound::Excluded(last), Bound::Unbounded)).next();
        holding.or_else(|| above().map(|(_, range)| range)).cloned()
    }

    /// Exclusive end of what is known of a partition.
    pub fn end(&self, partition: PartitionId) -> Option<u64> {
        let inner = self.inner.read();
        inner.partitions.get(&partition)?.ranges.values().map(|range| range.end).max()
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

    /// All ranges of a partition, in offset order.
    pub fn ranges(&self, partition: PartitionId) -> Vec<RangeRef> {
        let inner = self.inner.read();
        let log = inner.partitions.get(&partition);
        log.map(|log| log.ranges.values().cloned().collect()).unwrap_or_default()
    }

    pub fn bytes(&self, partition: PartitionId) -> u64 {
        self.inner.read().partitions.get(&partition).map_or(0, |log| log.bytes)
    }

    pub fn producers(&self, partition: PartitionId) -> Option<(u64, ProducerSnapshot)> {
        self.inner.read().partitions.get(&partition)?.producers.clone()
    }

    /// What an object holds: partitions with base and end.
    pub fn held_by(&self, source: Source) -> Option<Vec<(PartitionId, u64, u64)>> {
        self.inner.read().sources.get(&source).cloned()
    }

    /// Whether objects or slots hold all of these offsets.
    pub fn holds(&self, partition: PartitionId, base: u64, end: u64) -> bool {
        let mut at = base;
        while at < end {
            match self.locate(partition, at) {
                Some(range) if range.base <= at => at = range.end,
                _ => return false,
            }
        }
        true
    }

    /// Whether objects, not slots, hold all of these offsets.
    pub fn in_objects(&self, partition: PartitionId, base: u64, end: u64) -> bool {
        let inner = self.inner.read();
        let Some(log) = inner.partitions.get(&partition) else { return false };
        let mut at = base;
        for range in log.ranges.values() {
            let is_object = matches!(range.source, Source::Object(_));
            if is_object && range.base <= at && at < range.end {
                at = range.end;
            }
        }
        at >= end
    }

    /// Slots of a closed lane that are known, in order.
    pub fn slots(&self, lane: LaneId) -> Vec<u64> {
        let inner = self.inner.read();
        let all = Source::Slot(lane, 0)..=Source::Slot(lane, u64::MAX);
        let slot = |source: &Source| match source {
            Source::Slot(_, slot) => Some(*slot),
            Source::Object(_) => None,
        };
        inner.sources.range(all).filter_map(|(source, _)| slot(source)).collect()
    }
}

const MAX_OBJECT: ObjectId = ObjectId { writer: levee_proto::ids::Writer(u64::MAX), seq: u64::MAX };
