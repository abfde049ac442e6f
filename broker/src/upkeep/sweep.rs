//! The sweep: what ended sessions wrote and nothing ever referred to leaves the bucket.
//!
//! Uploads that were never committed, slots that landed above the FENCE of their lane, files that
//! a killed process staged in a folder bucket. Owns: that decision, which is taken by the writer
//! in the key and never by age (I14). FENCE objects stay (I21).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use levee_proto::head::{HEAD_BYTES, Head, Kind};
use levee_proto::ids::{LaneId, Writer};
use levee_proto::keys;
use levee_proto::metalog::ObjectId;
use levee_tiering::metalog::MetaState;
use levee_tiering::store::Listed;

use super::collect::{delete, validate};
use crate::error::{Error, Result};
use crate::node::Node;

/// The first sweep of a session comes early: it is what a restart left behind that is swept.
const FIRST: Duration = Duration::from_secs(300);

/// Runs until the session ends.
pub async fn run(node: Arc<Node>) {
    let every = node.config.sweep_interval;
    let mut next = FIRST.min(every);
    while !node.is_ended() {
        node.host.sleep(next).await;
        next = every;
        match sweep(&node).await {
            Ok(0) => {}
            Ok(objects) => tracing::info!(objects, "swept what ended sessions left behind"),
            Err(error) => tracing::warn!(%error, "the sweep is tried again later"),
        }
    }
}

async fn sweep(node: &Arc<Node>) -> Result<u64> {
    let mut over = BTreeSet::new();
    for folder in [keys::DATA, keys::PARTITIONS] {
        let listed = node.store.list(folder).await.map_err(Error::store_unavailable)?;
        // The state must be newer than the listing: what it does not name then, was never named.
        validate(node).await?;
        let ghosts = {
            let state = node.view.read();
            let orphans = listed.iter().filter(|found| is_orphan(&state, &found.key));
            over.extend(orphans.map(|found| found.key.clone()));
            ghost_slots(&state, &listed)
        };
        for ghost in ghosts {
            if !is_fence(node, ghost).await? {
                over.insert(ghost.key.clone());
            }
        }
    }
    let count = over.len() as u64;
    delete(node, over.into_iter().collect()).await?;
    validate(node).await?;
    let staged = node.store.remove_staged(|key| is_decided(&node.view.read(), key)).await;
    Ok(count + staged.map_err(Error::store_unavailable)?)
}

/// An object of an ended writer that no record names.
fn is_orphan(state: &MetaState, key: &str) -> bool {
    let Some((writer, seq)) = keys::object_of(key) else { return false };
    let id = ObjectId { writer, seq };
    if state.objects.contains_key(&id) || state.unreferenced.contains_key(&id) {
        return false;
    }
    match writer.as_session() {
        Some(session) => state.has_ended(session),
        // A job that is not running can commit nothing any more.
        None => writer.as_job().is_some_and(|job| !state.jobs.contains_key(&job)),
    }
}

/// What stands above the end of a closed lane. Where the state has forgotten the lane, its FENCE
/// is the lowest that is left of it.
fn ghost_slots<'a>(state: &MetaState, listed: &'a [Listed]) -> Vec<&'a Listed> {
    let mut last: Option<LaneId> = None;
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
    let session = match (keys::slot_of(key), keys::object_of(key)) {
        (Some((lane, _)), _) => Some(lane.session),
        (_, Some((writer, _))) => match writer.as_job() {
            Some(job) => return !state.jobs.contains_key(&job),
            None => Writer::as_session(writer),
        },
        _ => None,
    };
    session.is_some_and(|session| state.has_ended(session))
}
