//! Which partitions are worth compacting, and up to where they may be.

use std::collections::BTreeSet;
use std::sync::Arc;

use levee_proto::ids::PartitionId;
use levee_proto::metalog::ObjectId;
use levee_tiering::remote::{RangeRef, Source};

use super::{INPUTS_MAX, Left};
use crate::node::Node;
use crate::partition::Partition;

/// A partition that is worth compacting.
pub(super) struct Due {
    pub partition: Arc<Partition>,
    /// Objects that hold a part of it below `to`.
    pub objects: BTreeSet<ObjectId>,
    pub log_start: u64,
    /// Everything below is clean, and everything below `to` may be compacted.
    pub dirty_from: u64,
    pub to: u64,
    dirty_bytes: u64,
}

/// The dirtiest first.
pub(super) async fn due_now(node: &Node, left: &Left, tried: &BTreeSet<PartitionId>) -> Vec<Due> {
    // The index must have caught up with what is committed.
    drop(node.view.settled_state().await);
    let now = node.host.now();
    let is_free = |p: &Arc<Partition>| !tried.contains(&p.id) && !left.partitions.holds(&p.id, now);
    let free = node.all_partitions().into_iter().filter(is_free);
    let mut all: Vec<Due> = free.filter_map(|partition| due(node, left, partition)).collect();
    {
        let state = node.view.read();
        let is_free = |id: &ObjectId| state.objects.contains_key(id) && !state.is_held(id);
        all.retain(|due| due.objects.iter().all(is_free));
    }
    all.sort_by_key(|due| (std::cmp::Reverse(due.dirty_bytes), due.partition.id));
    all
}

fn due(node: &Node, left: &Left, partition: Arc<Partition>) -> Option<Due> {
    let config = partition.config();
    if !config.cleanup_policy.compacts() {
        return None;
    }
    let ladder = partition.readable().ok()?;
    let (id, index, now_ms) = (partition.id, &node.tiers.index, node.host.wall_ms());
    let log_start = ladder.log_start();
    let end = ladder.last_stable().min(ladder.tiered_end());
    let ranges = index.ranges(id);
    // Slots that no object holds whole become one that overlaps: it must find nothing compacted.
    let loose = ranges.iter().filter(|range| {
        let is_slot = matches!(range.source, Source::Slot(..)) && range.end > log_start;
        is_slot && !index.in_objects(id, range.base, range.end)
    });
    let now = node.host.now();
    let damaged = ranges.iter().filter(|range| {
        let is_left = |source| matches!(source, Source::Object(id) if left.objects.holds(&id, now));
        range.end > log_start && is_left(range.source)
    });
    let end = loose.chain(damaged).map(|range| range.base).fold(end, u64::min);
    // Without a lag whatever time a client gave its record.
    let before_ms = match millis(config.min_compaction_lag_ms)? {
        0 => i64::MAX,
        lag => now_ms.saturating_sub(lag),
    };
    let is_old = |range: &RangeRef| range.compacted || range.max_timestamp <= before_ms;
    let tiles = index.tiling(id, log_start, end);
    let tiles: Vec<RangeRef> = tiles
        .into_iter()
        .take_while(|tile| {
            matches!(tile.source, Source::Object(_)) && tile.end <= end && is_old(tile)
        })
        .collect();
    let to = tiles.last()?.end;
    let first = tiles.iter().find(|tile| !tile.compacted)?;
    let dirty = tiles.iter().filter(|tile| !tile.compacted);
    let dirty_bytes: u64 = dirty.clone().map(|tile| tile.len).sum();
    let all_bytes: u64 = tiles.iter().map(|tile| tile.len).sum();
    let oldest = dirty.map(|tile| tile.first_timestamp).filter(|time| *time >= 0).min();
    let waits = millis(config.max_compaction_lag_ms).zip(oldest);
    let is_late = waits.is_some_and(|(most, oldest)| oldest < now_ms.saturating_sub(most));
    let is_dirty = dirty_bytes as f64 >= config.min_cleanable_dirty_ratio * all_bytes as f64;
    if !is_late && !is_dirty {
        return None;
    }
    let below = ranges.iter().filter(|range| range.end > log_start && range.base < to);
    let objects = below.filter_map(object_of).collect();
    let dirty_from = first.base.max(log_start);
    Some(Due { partition, objects, log_start, dirty_from, to, dirty_bytes })
}

pub(super) fn object_of(range: &RangeRef) -> Option<ObjectId> {
    match range.source {
        Source::Object(object) => Some(object),
        Source::Slot(..) => None,
    }
}

pub(super) fn millis(duration: Option<std::time::Duration>) -> Option<i64> {
    duration.map(|duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX))
}

/// Partitions that are compacted together: the dirtiest, and those that share its objects.
pub(super) fn choose(all: Vec<Due>) -> Vec<Due> {
    let mut objects: BTreeSet<ObjectId> = BTreeSet::new();
    let mut set: Vec<Due> = Vec::new();
    for due in all {
        let more = due.objects.iter().filter(|id| !objects.contains(id)).count();
        if set.is_empty() || objects.len() + more <= INPUTS_MAX {
            objects.extend(&due.objects);
            set.push(due);
        }
    }
    set
}
