//! Loading and tailing the MetaLog, and writing its next slot.

use futures::future::join_all;
use levee_proto::FormatError;
use levee_proto::ids::{Nonce, Writer};
use levee_proto::keys;
use levee_proto::metalog::{ClusterId, Record, Slot, Snapshot};
use levee_runtime::{Backoff, Host};
use std::time::Duration;
use thiserror::Error;

use super::fold::FoldError;
use super::state::MetaState;
use crate::store::{Created, Lost, Store, StoreError};

/// Slots fetched side by side while loading.
const LOAD_WINDOW: u64 = 64;

/// The MetaLog of one bucket root.
#[derive(Clone)]
pub struct MetaLog {
    pub(super) store: Store,
    pub(super) host: Host,
    cluster: Nonce,
}

#[derive(Debug, Error)]
pub enum LoadError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{key}: {error}")]
    Format { key: String, error: FormatError },
    #[error(transparent)]
    Fold(#[from] FoldError),
    /// Slots were collected while we looked at them, again and again.
    #[error("metalog moves faster than it can be read: {0}")]
    Outrun(String),
}

/// What is at the next slot.
#[derive(Debug)]
pub enum Tailed {
    Slot(Box<Slot>, u32),
    /// Nothing yet: `state` was the head when the question was sent.
    Head,
    /// The next slot may have been collected: load again from a snapshot.
    Collected,
}

/// The bucket's identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    pub id: Nonce,
    /// True where this call made it.
    pub is_new: bool,
}

impl MetaLog {
    /// Reads `CLUSTER`, or makes it.
    pub async fn identify(store: &Store, host: &Host) -> Result<Cluster, LoadError> {
        const TRIES: usize = 10;
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
        let mut tries = 0;
        loop {
            if let Some(bytes) = store.get(keys::CLUSTER).await? {
                let ClusterId(id) = ClusterId::decode(&bytes)
                    .map_err(|error| LoadError::Format { key: keys::CLUSTER.into(), error })?;
                return Ok(Cluster { id, is_new: false });
            }
            let id = Nonce(host.random_u128());
            match store.create(keys::CLUSTER, vec![ClusterId(id).encode()], id).await {
                Created::Won => return Ok(Cluster { id, is_new: true }),
                Created::Lost(_) => {}
                // It may be there now: the next look tells, and takes what it finds.
                Created::Unknown(error) => {
                    tries += 1;
                    if tries == TRIES {
                        return Err(error.into());
                    }
                    backoff.wait(host).await;
                }
            }
        }
    }

    /// Whether a cluster lives here already; makes nothing.
    pub async fn exists(store: &Store) -> Result<bool, StoreError> {
        Ok(store.get(keys::CLUSTER).await?.is_some())
    }

    pub fn open(store: Store, host: Host, cluster: Nonce) -> Self {
        Self { store, host, cluster }
    }

    pub fn cluster(&self) -> Nonce {
        self.cluster
    }

    /// The state at the head, from the newest snapshot and the slots after it.
    pub async fn load(&self) -> Result<MetaState, LoadError> {
        let mut last = String::new();
        for _ in 0..5 {
            let mut state = self.load_snapshot().await?;
            match self.catch_up(&mut state).await? {
                true => return Ok(state),
                false => last = format!("slot {} was collected meanwhile", state.head + 1),
            }
        }
        Err(LoadError::Outrun(last))
    }

    async fn load_snapshot(&self) -> Result<MetaState, LoadError> {
        let mut listed = self.store.list(keys::META_SNAPSHOT).await?;
        listed.sort_by(|a, b| b.key.cmp(&a.key));
        for found in listed {
            let Some(bytes) = self.store.get(&found.key).await? else { continue };
            match Snapshot::decode(&bytes) {
                Ok(snapshot) if snapshot.cluster == self.cluster => {
                    return Ok(MetaState::from_snapshot(snapshot));
                }
                Ok(_) => tracing::warn!(key = found.key, "snapshot of another cluster passed over"),
                Err(error) => tracing::warn!(key = found.key, %error, "snapshot passed over"),
            }
        }
        Ok(MetaState::new(self.cluster))
    }

    /// Folds in all slots up to the head, in windows; false where slots were collected.
    async fn catch_up(&self, state: &mut MetaState) -> Result<bool, LoadError> {
        let mut window = 4;
        loop {
            let first = state.head + 1;
            let keys: Vec<String> = (first..first + window).map(keys::meta_slot).collect();
            let got = join_all(keys.iter().map(|key| self.store.get(key))).await;
            for (key, bytes) in keys.into_iter().zip(got) {
                let Some(bytes) = bytes? else {
                    return match self.tail(state).await? {
                        Tailed::Head => Ok(true),
                        Tailed::Collected => Ok(false),
                        // It appeared between the two looks; go on from it.
                        Tailed::Slot(slot, crc) => {
                            state.apply_slot(&slot, crc)?;
                            Box::pin(self.catch_up(state)).await
                        }
                    };
                };
                let (slot, crc) =
                    Slot::decode(&bytes).map_err(|error| LoadError::Format { key, error })?;
                state.apply_slot(&slot, crc)?;
            }
            window = LOAD_WINDOW;
        }
    }

    /// Looks at the slot after `state`. A 404 counts as the head only if a boundary listing sent
    /// after it shows no boundary above that slot.
    pub async fn tail(&self, state: &MetaState) -> Result<Tailed, LoadError> {
        let key = keys::meta_slot(state.head + 1);
        if let Some(bytes) = self.store.get(&key).await? {
            let (slot, crc) =
                Slot::decode(&bytes).map_err(|error| LoadError::Format { key, error })?;
            return Ok(Tailed::Slot(Box::new(slot), crc));
        }
        match self.boundary().await? > state.head + 1 {
            true => Ok(Tailed::Collected),
            false => Ok(Tailed::Head),
        }
    }

    /// Slots below may be gone; 0 where nothing was ever collected.
    pub async fn boundary(&self) -> Result<u64, StoreError> {
        let listed = self.store.list(keys::META_BOUNDARY).await?;
        Ok(listed.iter().filter_map(|l| keys::meta_slot_of(&l.key)).max().unwrap_or(0))
    }

    /// A slot that follows `state`, ready to be written.
    pub fn next_slot(
        &self,
        state: &MetaState,
        term: u64,
        broker: u32,
        records: Vec<Record>,
    ) -> Slot {
        Slot {
            cluster: self.cluster,
            slot: state.head + 1,
            term,
            nonce: Nonce(self.host.random_u128()),
            writer: Writer(u64::from(broker) << 32),
            prev_crc: state.chain_crc,
            records,
        }
    }

    /// Writes a slot, however long it takes; `on_unknown` hears of each try that got no answer.
    /// Returns its chain crc, or who was there first.
    pub async fn write(
        &self,
        slot: &Slot,
        on_unknown: impl FnMut(&StoreError) + Send,
    ) -> Result<u32, Lost> {
        let (bytes, crc) = slot.encode();
        let key = keys::meta_slot(slot.slot);
        self.store.create_known(&key, vec![bytes], slot.nonce, on_unknown).await?;
        Ok(crc)
    }
}
