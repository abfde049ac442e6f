//! Which bytes in the bucket are still needed: the one rule for collecting, merging and repair.

use std::collections::{BTreeMap, BTreeSet};

use levee_proto::ids::PartitionId;
use levee_runtime::Mono;
use levee_tiering::merge::Input;
use levee_tiering::metalog::MetaState;

use crate::node::Node;
use crate::partition::PRODUCER_EXPIRY_MS;

/// The rule as of one slot. A copy of what it needs, so that nobody is held up by it.
pub(super) struct Needed {
    log_starts: BTreeMap<PartitionId, u64>,
}

impl Needed {
    pub(super) fn of(state: &MetaState) -> Self {
        Self { log_starts: state.partitions.iter().map(|(id, p)| (*id, p.log_start)).collect() }
    }

    /// As of a slot that the index has caught up with.
    pub(super) async fn now(node: &Node) -> Self {
        Self::of(&*node.view.settled_state().await)
    }

    /// Whether a partition is part of a topic that is not purged.
    pub(super) fn knows(&self, id: PartitionId) -> bool {
        self.log_starts.contains_key(&id)
    }

    /// Whether an object must keep a range that ends at `end`.
    pub(super) fn in_object(&self, node: &Node, id: PartitionId, end: u64) -> bool {
        // A partition that is unknown belongs to a purged topic.
        let Some(log_start) = self.log_starts.get(&id) else { return false };
        end > *log_start || node.tells_of_producers(id, end)
    }

    /// The ranges of some inputs that a job must keep, by partition and end. Said once: what tells
    /// of producers may change while the job runs.
    pub(super) fn in_inputs(&self, node: &Node, inputs: &[Input]) -> BTreeSet<(PartitionId, u64)> {
        let ranges = inputs.iter().flat_map(|input| &input.footer.ranges);
        let all: BTreeSet<_> = ranges.map(|range| (range.partition, range.end)).collect();
        all.into_iter().filter(|(id, end)| self.in_object(node, *id, *end)).collect()
    }

    /// Whether a closed lane must keep a slot with such a range. Producer state must be in an
    /// object as well as the data: a restart folds it from the batches of slots (I15).
    pub(super) fn in_slot(&self, node: &Node, id: PartitionId, base: u64, end: u64) -> bool {
        let Some(log_start) = self.log_starts.get(&id) else { return false };
        let index = &node.tiers.index;
        let is_told = index.told(id).is_some_and(|told| told >= end);
        !is_told || (end > *log_start && !index.in_objects(id, base, end))
    }
}

/// Ranges that only tell of producers: of which partition, up to where, and since when this process
/// sees it so.
pub(crate) type LastTold = BTreeMap<PartitionId, (u64, Mono)>;

impl Node {
    /// Whether a range is the last object that tells of producers who may still send: it stays
    /// although all its records are deleted, or a restart would forget them (I15). By our own clock:
    /// the time of records is what clients say it is.
    fn tells_of_producers(&self, id: PartitionId, end: u64) -> bool {
        let Some(told) = self.tiers.index.told(id).filter(|told| end >= *told) else {
            return false;
        };
        let now = self.host.now();
        let mut last = self.last_told.lock();
        let seen = last.entry(id).or_insert((told, now));
        if seen.0 != told {
            *seen = (told, now);
        }
        now.since(seen.1).as_millis() < PRODUCER_EXPIRY_MS as u128
    }
}
