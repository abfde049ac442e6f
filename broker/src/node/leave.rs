//! Leaving on purpose: a session closes its own lanes, so that nobody has to recover them.
//!
//! A lane is closed only where nothing of it is needed any more, which the next session then knows
//! without this disk. What is not closed here is recovered as after a crash.

use std::sync::Arc;

use levee_hot_log::lane::{Lane, LaneEnd, LaneState};
use levee_proto::metalog::LaneKind;
use levee_tiering::fence::put_fence;
use levee_tiering::store::Created;

use super::Node;
use crate::cluster::message::Request;

/// Closes the lanes of this session one after the other, as far as each can be; they take nothing
/// any more.
pub async fn lanes(node: &Arc<Node>) {
    // In this order: what the local lane holds follows on what the object lane holds.
    for lane in node.lanes.all() {
        if let Err(why) = close(node, &*lane).await {
            tracing::info!(lane = %lane.id(), why, "the next start closes this lane");
            return;
        }
    }
}

async fn close(node: &Arc<Node>, lane: &dyn Lane) -> Result<(), String> {
    if !matches!(&*lane.state().borrow(), LaneState::Ended(LaneEnd::Closed)) {
        return Err("it did not end in peace".into());
    }
    let (trim, end) = (lane.covered(), lane.next_position());
    match lane.kind() {
        // A PUT that was given up may still land at the end: the fence tells (I6).
        LaneKind::Object => {
            let term = node.view.read().term;
            let fence = put_fence(&node.store, &node.host, lane.id(), end, term, node.writer());
            match fence.await {
                Created::Won => {}
                other => return Err(format!("it could not be fenced at {end}: {other:?}")),
            }
        }
        LaneKind::Local if trim < end => return Err("not all of it is in the bucket".into()),
        LaneKind::Local => {}
    }
    let request = Request::LeaveLane { lane: lane.id(), trim, end };
    node.commit(request).await.map(drop).map_err(|error| error.to_string())
}
