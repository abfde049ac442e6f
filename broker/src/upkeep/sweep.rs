//! The sweep: what ended sessions wrote and nothing ever referred to leaves the bucket.
//!
//! Uploads that were never committed, slots that landed above the FENCE of their lane, files that
//! a killed process staged in a folder bucket, old probes. Owns: that decision, which is taken by
//! the writer in the key and never by age (I14). FENCE objects stay (I21).

use std::sync::Arc;
use std::time::Duration;

use levee_proto::head::{HEAD_BYTES, Head, Kind};
use levee_proto::ids::LaneId;
use levee_proto::keys;
use levee_proto::metalog::ObjectId;
use levee_tiering::metalog::MetaState;
use levee_tiering::store::Listed;

use super::Regularly;
use super::collect::{delete, validate};
use crate::error::{Error, Result};
use crate::node::Node;

/// The first sweep of a session comes early: it is what a restart left behind that is swept.
const FIRST: Duration = Duration::from_secs(300);
/// No probe runs that long.
const PROBE_AGE: Duration = Duration::from_secs(24 * 3600);

/// Runs until the session ends.
pub(super) async fn run(node: Arc<Node>) {
    let mut times = Regularly::every(node.config.sweep_interval, "the sweep").soon(FIRST);
    while times.is_due(&node).await {
        times.told(sweep(&node).await);
    }
}

async fn sweep(node: &Arc<Node>) -> Result<()> {
    let (mut count, mut newest_ms) = (0, i64::MIN);
    for folder in [keys::DATA, keys::PARTITIONS] {
        let mut pages = node.store.listing(folder);
        let mut last = None;
        while let Some(listed) = pages.next().await.map_err(Error::store_unavailable)? {
            newest_ms = listed.iter().map(|found| found.modified_ms).fold(newest_ms, i64::max);
            count += sweep_some(node, &listed, &mut last).await?;
        }
    }
    count += sweep_probes(node, newest_ms).await?;
    validate(node).await?;
    let staged = node.store.remove_staged(|key| is_decided(&node.view.read(), key)).await;
    match count + staged.map_err(Error::store_unavailable)? {
        0 => {}
        objects => tracing::info!(objects, "swept what ended sessions left behind"),
    }
    Ok(())
}

/// Sweeps a page of a listing; `last` is the lane of the last slot of the page before.
async fn sweep_some(node: &Arc<Node>, listed: &[Listed], last: &mut Option<LaneId>) -> Result<u64> {
    // The state must be newer than the listing: what it does not name then, was never named.
    validate(node).await?;
    let (mut over, ghosts) = {
        let state = node.view.read();
        let orphans = listed.iter().filter(|found| is_orphan(&state, &found.key));
        let over: Vec<String> = orphans.map(|found| found.key.clone()).collect();
        (over, ghost_slots(&state, listed, last))
    };
    for ghost in ghosts {
        if !is_fence(node, ghost).await? {
            over.push(ghost.key.clone());
        }
    }
    let count = over.len() as u64;
    delete(node, over).await?;
    Ok(count)
}

/// What probes left behind that were killed or refused. By age, as nothing ever refers to it, and
/// by the bucket's own clock.
async fn sweep_probes(node: &Arc<Node>, newest_ms: i64) -> Result<u64> {
    let before = newest_ms.saturating_sub(PROBE_AGE.as_millis() as i64);
    let (mut pages, mut count) = (node.store.listing(keys::PROBE), 0);
    while let Some(listed) = pages.next().await.map_err(Error::store_unavailable)? {
        let old = listed.into_iter().filter(|found| found.modified_ms < before);
        let old: Vec<String> = old.map(|found| found.key).collect();
        count += old.len() as u64;
        delete(node, old).await?;
    }
    Ok(count)
}

/// An object of an ended writer that no record names.
fn is_orphan(state: &MetaState, key: &str) -> bool {
    let Some((writer, seq)) = keys::object_of(key) else { return false };
    let id = ObjectId { writer, seq };
    let is_named = state.objects.contains_key(&id) || state.unreferenced.contains_key(&id);
    !is_named && state.writer_ended(writer)
}

/// What stands above the end of a closed lane. Where the state has forgotten the lane, its FENCE
/// is the lowest that is left of it.
fn ghost_slots<'a>(
    state: &MetaState,
    listed: &'a [Listed],
    last: &mut Option<LaneId>,
) -> Vec<&'a Listed> {
    let mut ghosts = Vec::new();
    for found in listed {
        let Some((lane, slot)) = keys::slot_of(&found.key) else { continue };
        let first = last.replace(lane) != Some(lane);
        let above = match state.lanes.get(&lane) {
            Some(known) => known.end.is_some_and(|end| slot > end),
            None => state.has_ended(lane.session) && !first,
        };
        if above {
            ghosts.push(found);
        }
    }
    ghosts
}

/// A second fence may stand far ahead of the first.
async fn is_fence(node: &Node, found: &Listed) -> Result<bool> {
    if found.bytes != HEAD_BYTES as u64 {
        return Ok(false);
    }
    let head = node.store.get(&found.key).await.map_err(Error::store_unavailable)?;
    // What cannot be read as a head is nobody's slot: it stays.
    Ok(head.is_none_or(|bytes| Head::decode(&bytes).map_or(true, |head| head.kind == Kind::Fence)))
}

/// Whether it no longer matters what is written to a key.
fn is_decided(state: &MetaState, key: &str) -> bool {
    if key.starts_with(keys::META_LOG) {
        return keys::meta_slot_of(key).is_some_and(|slot| slot <= state.head);
    }
    match (keys::slot_of(key), keys::object_of(key)) {
        (Some((lane, _)), _) => state.has_ended(lane.session),
        (_, Some((writer, _))) => state.writer_ended(writer),
        _ => false,
    }
}
