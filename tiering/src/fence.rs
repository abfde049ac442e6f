//! Ending an object lane: nothing is ever written or read behind its fence (I6, I7).
//!
//! Owns: FENCE objects and the proof of where a lane ends. Does not own: the decision to fence
//! (a `SessionFencing` record comes first).

use levee_proto::head::{HEAD_BYTES, Head, Kind};
use levee_proto::ids::{LaneId, Nonce, Writer};
use levee_proto::keys;
use levee_runtime::{Backoff, Host};
use std::collections::BTreeMap;
use std::time::Duration;
use thiserror::Error;

use crate::store::{Created, Kind as StoreKind, Store, StoreError};

/// After so many lost races a second fence is set far ahead, which bounds a fast zombie.
const LOSSES_MAX: u64 = 16;
const FAR_AHEAD: u64 = 64;

#[derive(Debug, Error)]
pub enum FenceError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{key} is neither a slot nor a fence: {why}")]
    Foreign { key: String, why: String },
}

/// A lane that can never grow again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fenced {
    /// Where the FENCE stands: slots `trim..end` are the lane's.
    pub end: u64,
    /// Those slots with their sizes.
    pub slots: Vec<(u64, u64)>,
}

/// Fences `lane`, whose committed trim is `trim`. Safe to run twice, also at the same time.
pub async fn fence(
    store: &Store,
    host: &Host,
    lane: LaneId,
    trim: u64,
    term: u64,
    by: Writer,
) -> Result<Fenced, FenceError> {
    let mut losses = 0;
    let mut slots = list(store, lane, trim).await?;
    let mut hole = trim;
    let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(2));
    loop {
        // The first slot from the trim on that is a fence, or is not there.
        while let Some(bytes) = slots.get(&hole) {
            if *bytes == HEAD_BYTES as u64 && is_fence(store, lane, hole).await? {
                return Ok(done(hole, trim, slots));
            }
            hole += 1;
        }
        match put_fence(store, host, lane, hole, term, by).await {
            Created::Won => return Ok(done(hole, trim, slots)),
            Created::Lost(_) => {
                losses += 1;
                if losses == LOSSES_MAX {
                    // Whether it lands or not, the loop below still finds the first hole.
                    put_fence(store, host, lane, hole + FAR_AHEAD, term, by).await;
                }
                backoff.wait(host).await;
                slots = list(store, lane, trim).await?;
            }
            Created::Unknown(error) if !error.is_retriable() && error.kind != StoreKind::Exists => {
                return Err(error.into());
            }
            // It may have landed: look again before the same slot is tried again.
            Created::Unknown(error) => {
                tracing::warn!(%lane, hole, %error, "fence: no answer, trying again");
                backoff.wait(host).await;
                slots = list(store, lane, trim).await?;
            }
        }
    }
}

async fn list(store: &Store, lane: LaneId, trim: u64) -> Result<BTreeMap<u64, u64>, StoreError> {
    let before = trim.checked_sub(1).map(|slot| keys::lane_slot(lane, slot));
    let listed = store.list_some(&keys::lane_prefix(lane), before.as_deref(), usize::MAX).await?;
    let slots = listed.into_iter().filter_map(|l| Some((keys::lane_slot_of(&l.key)?, l.bytes)));
    Ok(slots.filter(|(slot, _)| *slot >= trim).collect())
}

async fn is_fence(store: &Store, lane: LaneId, slot: u64) -> Result<bool, FenceError> {
    let key = keys::lane_slot(lane, slot);
    let Some(bytes) = store.get(&key).await? else {
        return Err(FenceError::Foreign { key, why: "it vanished while it was looked at".into() });
    };
    match Head::decode(&bytes) {
        Ok(head) => Ok(head.kind == Kind::Fence),
        Err(error) => Err(FenceError::Foreign { key, why: error.to_string() }),
    }
}

/// One try to set a fence in a slot.
pub async fn put_fence(
    store: &Store,
    host: &Host,
    lane: LaneId,
    slot: u64,
    term: u64,
    by: Writer,
) -> Created {
    let head = Head {
        kind: Kind::Fence,
        nonce: Nonce(host.random_u128()),
        writer: by,
        term,
        seq: slot,
        body_len: 0,
        extra: u32::from(lane.lane),
    };
    let body = bytes::Bytes::copy_from_slice(&head.encode());
    store.create(&keys::lane_slot(lane, slot), vec![body], head.nonce).await
}

fn done(end: u64, trim: u64, slots: BTreeMap<u64, u64>) -> Fenced {
    let slots: Vec<_> = slots.into_iter().filter(|(slot, _)| *slot < end).collect();
    assert_eq!(slots.len() as u64, end - trim.min(end), "no hole below a fence");
    Fenced { end, slots }
}
