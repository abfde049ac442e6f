//! This broker's copy of the folded state, and waiting for it to move.

use std::sync::Arc;
use std::time::Duration;

use levee_runtime::Host;
use levee_tiering::metalog::{FoldError, MetaState};
use parking_lot::{RwLock, RwLockReadGuard};
use tokio::sync::watch;

use super::controller::Push;

/// Read by everybody, moved by one follower.
pub struct View {
    host: Host,
    state: RwLock<MetaState>,
    head: watch::Sender<u64>,
}

impl View {
    pub fn new(host: Host, state: MetaState) -> Arc<Self> {
        let head = watch::Sender::new(state.head);
        Arc::new(Self { host, state: RwLock::new(state), head })
    }

    /// Short reads only: never hold it while waiting.
    pub fn read(&self) -> RwLockReadGuard<'_, MetaState> {
        self.state.read()
    }

    pub fn apply(&self, (slot, crc): &Push) -> Result<(), FoldError> {
        self.state.write().apply_slot(slot, *crc)
    }

    /// This broker has done all that slot `slot` asks of it.
    pub fn settled(&self, slot: u64) {
        self.head.send_replace(slot);
    }

    /// The state at a slot of which this broker has done all; short reads only, as above.
    pub async fn settled_state(&self) -> RwLockReadGuard<'_, MetaState> {
        let mut head = self.head.subscribe();
        loop {
            let applied = self.state.read().head;
            // Never fails: the sender is ours.
            let _ = head.wait_for(|head| *head >= applied).await;
            let state = self.state.read();
            if state.head <= *head.borrow() {
                return state;
            }
        }
    }

    /// Waits until slot `slot` is folded in and settled; false after `limit`.
    pub async fn reached(&self, slot: u64, limit: Duration) -> bool {
        let mut head = self.head.subscribe();
        let reached = head.wait_for(|head| *head >= slot);
        matches!(self.host.timeout(limit, reached).await, Ok(Ok(_)))
    }
}
