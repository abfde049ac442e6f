//! Which bytes in the bucket are still needed: the one rule for collecting, merging and repair.

use std::collections::BTreeMap;

use levee_proto::ids::PartitionId;
use levee_tiering::metalog::MetaState;

use crate::node::Node;
use crate::partition::PRODUCER_EXPIRY_MS;

/// The rule as of one slot. A copy of what it needs, so that nobody is held up by it.
pub(super) struct Needed {
    /// Log start and l2_end.
    starts: BTreeMap<PartitionId, (u64, u64)>,
}

impl Needed {
    pub(super) fn of(state: &MetaState) -> Self {
        let starts = state.partitions.iter().map(|(id, p)| (*id, (p.log_start, p.l2_end)));
        Self { starts: starts.collect() }
    }

    /// As of a slot that the index has caught up with.
    pub(super) async fn now(node: &Node) -> Self {
        Self::of(&*node.view.settled_state().await)
    }

    /// Whether a range that ends at `end` is needed. `single`: it stands in an L2 object.
    pub(super) fn is_needed(&self, node: &Node, id: PartitionId, end: u64, single: bool) -> bool {
        // A partition that is unknown belongs to a purged topic.
        let Some((log_start, l2_end)) = self.starts.get(&id) else { return false };
        let is_over = end <= *log_start || (!single && end <= *l2_end);
        !is_over || tells_of_producers(node, id, end)
    }
}

/// Whether a range is the last that tells of producers who may still send: it stays although all
/// its records are deleted, or a restart would forget them (I15).
fn tells_of_producers(node: &Node, id: PartitionId, end: u64) -> bool {
    let (known_end, producers) = node.tiers.state(id);
    let expiry = node.host.wall_ms() - PRODUCER_EXPIRY_MS;
    end >= known_end && producers.newest() >= Some(expiry)
}
