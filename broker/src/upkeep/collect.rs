//! Garbage collection: what nothing refers to any more leaves the bucket.
//!
//! ```text
//! every range below log_start -> Unref committed -> grace -> validated by a fresh slot -> DELETE -> Deleted
//! ```
//! Owns: that order (I13). FENCE objects and Claim slots are never deleted (I21). Unknown state
//! means do nothing. Does not own: what nothing ever referred to (`sweep`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, StreamExt};
use levee_proto::ids::LaneId;
use levee_proto::keys;
use levee_proto::metalog::{Deleted, LaneKind, LaneTrim, ObjectId, Record, SlotsDeleted, Unref};
use levee_runtime::Mono;
use levee_tiering::remote::{HeldRange, Source};

use super::Regularly;
use super::needed::Needed;
use crate::cluster::message::Request;
use crate::error::{Error, Result};
use crate::node::Node;

const EVERY: Duration = Duration::from_secs(10);
/// Deletes side by side.
const SIDE_BY_SIDE: usize = 16;
/// Objects of one round.
const ROUND: usize = 1000;

/// When this process first saw that something may go: the grace time counts from there, so that a
/// restart waits again.
#[derive(Default)]
struct Seen {
    objects: BTreeMap<ObjectId, Mono>,
    slots: BTreeMap<LaneId, (u64, Mono)>,
}

/// Runs until the session ends.
pub(super) async fn run(node: Arc<Node>) {
    let mut seen = Seen::default();
    let mut times = Regularly::every(EVERY.min(node.config.gc_grace), "garbage collection");
    while times.is_due(&node).await {
        times.told(round(&node, &mut seen).await);
    }
}

async fn round(node: &Arc<Node>, seen: &mut Seen) -> Result<()> {
    unreference(node).await?;
    trim_closed_lanes(node).await?;
    delete_objects(node, seen).await?;
    delete_slots(node, seen).await
}

async fn unreference(node: &Node) -> Result<()> {
    let (needed, all): (Needed, Vec<ObjectId>) = {
        let state = node.view.settled_state().await;
        // What a job holds is replaced by that job, or looked at after it.
        let free = state.objects.keys().filter(|id| !state.is_held(id));
        (Needed::of(&state), free.copied().collect())
    };
    node.last_told.lock().retain(|id, _| needed.knows(*id));
    let is_needless = |id: &ObjectId| {
        // Not in the index: nothing is known of it.
        let held = node.tiers.index.held_by(Source::Object(*id));
        let is_needed = |held: &HeldRange| needed.in_object(node, held.partition, held.end);
        held.is_some_and(|held| !held.ranges.iter().any(is_needed))
    };
    let objects: Vec<ObjectId> = all.into_iter().filter(is_needless).take(ROUND).collect();
    if objects.is_empty() {
        return Ok(());
    }
    node.commit(Request::Collect(vec![Unref { objects }.into()])).await.map(drop)
}

/// Slots of closed lanes whose data is deleted or in larger objects.
async fn trim_closed_lanes(node: &Node) -> Result<()> {
    let (needed, closed): (Needed, Vec<(LaneId, u64, u64)>) = {
        let state = node.view.settled_state().await;
        let closed = state.lanes.values().filter(|lane| lane.kind == LaneKind::Object);
        let closed = closed.filter_map(|lane| Some((lane.id, lane.trim, lane.end?)));
        (Needed::of(&state), closed.collect())
    };
    let index = &node.tiers.index;
    let trim = |(lane, trim, end): (LaneId, u64, u64)| {
        // A slot that is not in the index is one of which nothing is known.
        let is_needless = |slot: &u64| {
            let held = index.held_by(Source::Slot(lane, *slot));
            let is_needed =
                |held: &HeldRange| needed.in_slot(node, held.partition, held.base, held.end);
            held.is_some_and(|held| !held.ranges.iter().any(is_needed))
        };
        let to = (trim..end).find(|slot| !is_needless(slot)).unwrap_or(end);
        (to > trim).then(|| LaneTrim { lane, trim: to }.into())
    };
    let trims: Vec<Record> = closed.into_iter().filter_map(trim).collect();
    if trims.is_empty() {
        return Ok(());
    }
    node.commit(Request::Collect(trims)).await.map(drop)
}

async fn delete_objects(node: &Arc<Node>, seen: &mut Seen) -> Result<()> {
    let now = node.host.now();
    let due: Vec<(ObjectId, String)> = {
        let state = node.view.read();
        seen.objects.retain(|id, _| state.unreferenced.contains_key(id));
        let mut due = Vec::new();
        for (id, gone) in &state.unreferenced {
            let since = *seen.objects.entry(*id).or_insert(now);
            if now.since(since) >= node.config.gc_grace && due.len() < ROUND {
                due.push((*id, gone.object.key()));
            }
        }
        due
    };
    if due.is_empty() {
        return Ok(());
    }
    validate(node).await?;
    let keys = due.iter().map(|(_, key)| key.clone()).collect();
    delete(node, keys).await?;
    let objects = due.into_iter().map(|(id, _)| id).collect();
    node.commit(Request::Collect(vec![Deleted { objects }.into()])).await.map(drop)
}

async fn delete_slots(node: &Arc<Node>, seen: &mut Seen) -> Result<()> {
    let now = node.host.now();
    let mut due = Vec::new();
    {
        let state = node.view.read();
        for lane in state.lanes.values().filter(|lane| lane.kind == LaneKind::Object) {
            if lane.trim <= lane.deleted_below {
                continue;
            }
            let (below, since) = seen.slots.entry(lane.id).or_insert((lane.trim, now));
            if now.since(*since) >= node.config.gc_grace && *below > lane.deleted_below {
                let to = (*below).min(lane.deleted_below + ROUND as u64);
                due.push((lane.id, lane.deleted_below, to));
            } else if *below <= lane.deleted_below {
                (*below, *since) = (lane.trim, now);
            }
        }
    }
    if due.is_empty() {
        return Ok(());
    }
    validate(node).await?;
    for (lane, from, below) in due {
        // Below the trim of a lane there is no fence: it stands at the first hole after it.
        let slots = (from..below).map(|slot| keys::lane_slot(lane, slot)).collect();
        delete(node, slots).await?;
        let record = SlotsDeleted { lane, below };
        node.commit(Request::Collect(vec![record.into()])).await?;
    }
    Ok(())
}

/// This broker's session and its controller are alive as of now: a slot was Won after the decision.
pub(crate) async fn validate(node: &Node) -> Result<()> {
    let nothing = Record::from(Deleted { objects: Vec::new() });
    node.commit(Request::Collect(vec![nothing])).await.map(drop)
}

pub(crate) async fn delete(node: &Node, keys: Vec<String>) -> Result<()> {
    let count = keys.len() as u64;
    let deletes = keys.into_iter().map(|key| async move { node.store.delete(&key).await });
    let mut done = stream::iter(deletes).buffer_unordered(SIDE_BY_SIDE);
    while let Some(deleted) = done.next().await {
        deleted.map_err(Error::store_unavailable)?;
    }
    metrics::counter!("levee_gc_deleted_objects_total").increment(count);
    Ok(())
}
