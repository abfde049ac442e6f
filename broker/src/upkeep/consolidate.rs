//! Consolidation of closed object lanes: what their slots hold becomes shared objects, so that the
//! slots can go.
//!
//! A session turns its own slots into objects from its local copy (`offload`); what it left behind
//! is read back from the bucket here, by whoever recovered it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use levee_proto::ids::PartitionId;
use levee_proto::limits::RANGE_ABORTED_MAX;
use levee_proto::object::{AbortedTxn, Level};
use levee_tiering::remote::{RangeRef, Source};
use levee_tiering::upload::{Batches, Part, Room, SourceError, UploadError};

use super::{LONGEST_ASIDE, Regularly};
use crate::aside::Aside;
use crate::error::Result;
use crate::node::Node;
use crate::node::reference::commit;
use crate::tiers::read_remote;

const EVERY: Duration = Duration::from_secs(10);
/// Most data of a run in which transactions were aborted: a batch and a marker take more than 128
/// bytes, and each marker is told in the footer.
const ABORTING_BYTES: u64 = RANGE_ABORTED_MAX as u64 * 128;

/// Runs until the session ends.
pub(super) async fn run(node: Arc<Node>) {
    // One bad slot must not hold the others back.
    let mut aside = Aside::new(LONGEST_ASIDE);
    let mut times = Regularly::every(EVERY, "consolidation of older sessions' slots");
    while times.is_due(&node).await {
        times.told(consolidate(&node, &mut aside).await);
    }
}

async fn consolidate(node: &Arc<Node>, aside: &mut Aside<PartitionId>) -> Result<()> {
    loop {
        match round(node, aside).await? {
            0 => return Ok(()),
            bytes => tracing::info!(bytes, "slots of older sessions consolidated"),
        }
    }
}

/// One object's worth. Returns its bytes; 0 where nothing is left.
async fn round(node: &Arc<Node>, aside: &mut Aside<PartitionId>) -> Result<u64> {
    let parts = plan(node, aside).await?;
    if parts.is_empty() {
        return Ok(0);
    }
    let read: Vec<PartitionId> = parts.iter().map(|part| part.partition).collect();
    match node.tiers.upload(node.writer(), Level::L1, parts).await {
        Ok((object, footer)) => {
            aside.retain(|id| !read.contains(id));
            commit(node, object, footer, Vec::new()).await
        }
        Err(error) => {
            if let UploadError::Source { partition, .. } = &error {
                aside.put(*partition, node.host.now());
            }
            Err(error.into())
        }
    }
}

/// A stretch of one partition and epoch without a gap, at most an object's worth.
struct Run {
    epoch: u32,
    base: u64,
    end: u64,
    bytes: u64,
}

async fn plan(node: &Arc<Node>, aside: &Aside<PartitionId>) -> Result<Vec<Part>> {
    let now = node.host.now();
    let starts: BTreeMap<PartitionId, u64> = {
        let state = node.view.read();
        state.partitions.iter().map(|(id, p)| (*id, p.log_start)).collect()
    };
    let (mut parts, mut room) = (Vec::new(), Room::new(node.config.tier_object_bytes));
    for (id, log_start) in starts {
        if !node.tiers.has_slots(id) || aside.holds(&id, now) {
            continue;
        }
        for run in runs(node, id, log_start) {
            // Producer state is known at the end of all slots, and needed only there.
            let state = node.tiers.state_in_slots(id).filter(|(end, _)| *end == run.end);
            let producers = state.map(|(_, producers)| producers.snapshot());
            let aborted = node.tiers.aborted(id, run.base..run.end).await?;
            let ended = |txn: &AbortedTxn| (run.base..run.end).contains(&txn.last_offset);
            let aborted: Vec<AbortedTxn> = aborted.into_iter().filter(ended).collect();
            if !room.take(run.bytes, producers.as_ref(), &aborted) {
                return Ok(parts);
            }
            parts.push(Part {
                partition: id,
                leader_epoch: run.epoch,
                base: run.base,
                end: run.end,
                bytes: run.bytes,
                producers,
                aborted,
                compacted: false,
                source: Box::new(RemoteBatches { node: node.clone(), partition: id }),
            });
        }
    }
    Ok(parts)
}

fn runs(node: &Node, id: PartitionId, log_start: u64) -> Vec<Run> {
    let index = &node.tiers.index;
    let told = node.tiers.state_in_slots(id).map(|(end, _)| end);
    let needed = |range: &RangeRef| {
        // The last one tells of producers, whatever became of its records.
        matches!(range.source, Source::Slot(lane, _) if lane.session != node.session)
            && (range.end > log_start || told == Some(range.end))
            && !index.in_objects(id, range.base, range.end)
    };
    let most = |offsets: std::ops::Range<u64>| match index.aborts(id, offsets).is_empty() {
        true => node.config.tier_object_bytes,
        false => node.config.tier_object_bytes.min(ABORTING_BYTES),
    };
    let mut runs: Vec<Run> = Vec::new();
    for range in index.ranges(id).into_iter().filter(needed) {
        match runs.last_mut() {
            Some(run)
                if run.end == range.base
                    && run.epoch == range.leader_epoch
                    && run.bytes + range.len <= most(run.base..range.end) =>
            {
                run.end = range.end;
                run.bytes += range.len;
            }
            _ => runs.push(Run {
                epoch: range.leader_epoch,
                base: range.base,
                end: range.end,
                bytes: range.len,
            }),
        }
    }
    runs
}

/// A partition's batches as the bucket has them.
struct RemoteBatches {
    node: Arc<Node>,
    partition: PartitionId,
}

#[async_trait]
impl Batches for RemoteBatches {
    async fn next(&mut self, offset: u64) -> std::result::Result<Option<Bytes>, SourceError> {
        read_remote(&self.node.tiers, self.partition, offset).await
    }
}
