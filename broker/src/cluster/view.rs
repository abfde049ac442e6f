//! This broker's copy of the folded state, and waiting for it to move.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use levee_proto::metalog::Record;
use levee_runtime::Host;
use levee_tiering::metalog::{FoldError, MetaState};
use parking_lot::{RwLock, RwLockReadGuard};
use tokio::sync::watch;

use super::controller::Push;

/// Read by everybody, moved by one follower.
pub struct View {
    host: Host,
    state: RwLock<MetaState>,
    /// Slot of the last change of which topics and partitions there are.
    topics: AtomicU64,
    head: watch::Sender<u64>,
}

impl View {
    pub fn new(host: Host, state: MetaState) -> Arc<Self> {
        let head = watch::Sender::new(state.head);
        Arc::new(Self { host, topics: AtomicU64::new(state.head), state: RwLock::new(state), head })
    }

    /// Short reads only: never hold it while waiting.
    pub fn read(&self) -> RwLockReadGuard<'_, MetaState> {
        self.state.read()
    }

    pub fn apply(&self, (slot, crc): &Push) -> Result<(), FoldError> {
        let mut state = self.state.write();
        state.apply_slot(slot, *crc)?;
        let is_of_topics = |record: &Record| {
            use Record::{TopicCreate, TopicDelete, TopicGrow};
            matches!(record, TopicCreate { .. } | TopicGrow { .. } | TopicDelete { .. })
        };
        if slot.records.iter().any(is_of_topics) {
            self.topics.store(state.head, Ordering::Release);
        }
        Ok(())
    }

    /// Another number whenever a topic was made, deleted or given partitions.
    pub fn topics_version(&self) -> u64 {
        self.topics.load(Ordering::Acquire)
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
