//! Keeping the MetaLog short: snapshots, the garbage boundary, and deletion behind it.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::TryStreamExt;
use futures::stream::{self, StreamExt};
use levee_proto::ids::{Nonce, Writer};
use levee_proto::keys;
use levee_proto::metalog::{Boundary, Snapshot};

use super::log::MetaLog;
use super::state::MetaState;
use crate::store::{Created, StoreError};

/// Slots deleted between two looks at the log, and how many side by side.
const ROUND: usize = 1000;
const SIDE_BY_SIDE: usize = 16;
/// Snapshots that stay, newest first.
const SNAPSHOTS_KEPT: usize = 2;

/// What a controller knows of the log when it collects.
#[derive(Debug, Clone)]
pub struct Known {
    /// Newest slot, and all claims up to it.
    pub head: u64,
    pub claims: BTreeSet<u64>,
    pub term: u64,
    pub writer: Writer,
}

impl Known {
    pub fn of(state: &MetaState, broker: u32) -> Self {
        Self {
            head: state.head,
            claims: state.claims.iter().copied().collect(),
            term: state.term,
            writer: writer(broker),
        }
    }
}

fn writer(broker: u32) -> Writer {
    Writer(u64::from(broker) << 32)
}

impl MetaLog {
    /// Writes a snapshot of `state`; its key is new, so it needs no condition.
    pub async fn write_snapshot(&self, state: &MetaState, broker: u32) -> Result<u64, StoreError> {
        let snapshot = Snapshot {
            cluster: state.cluster,
            slot: state.head,
            term: state.term,
            nonce: Nonce(self.host.random_u128()),
            writer: writer(broker),
            chain_crc: state.chain_crc,
            image: state.image(),
        };
        let key = keys::meta_snapshot(snapshot.slot, snapshot.term, snapshot.nonce);
        let bytes = snapshot.encode();
        let len = bytes.len() as u64;
        match self.store.create(&key, vec![bytes], snapshot.nonce).await {
            Created::Won | Created::Lost(_) => Ok(len),
            Created::Unknown(error) => Err(error),
        }
    }

    /// Moves the boundary up to the oldest slot that is younger than `retain` or not yet in the
    /// older of the kept snapshots, then deletes what lies below. Claim slots stay for ever (I21).
    ///
    /// Safe for a controller that was deposed long ago: it looks at nothing above the slots that it
    /// knows itself, so there is no Claim that it does not know.
    pub async fn collect(&self, known: &Known, retain: Duration) -> Result<usize, StoreError> {
        let snapshots = self.store.list(keys::META_SNAPSHOT).await?;
        let mut names: Vec<_> = snapshots.iter().map(|l| l.key.clone()).collect();
        names.retain(|name| keys::meta_slot_of(name).is_some_and(|slot| slot <= known.head));
        names.sort();
        let Some(oldest_kept) = names.len().checked_sub(SNAPSHOTS_KEPT) else { return Ok(0) };
        let Some(covered) = keys::meta_slot_of(&names[oldest_kept]) else { return Ok(0) };
        let mut all = 0;
        loop {
            let doomed = self.doomed(known, covered, retain).await?;
            let Some((last, _)) = doomed.last() else { break };
            self.draw_boundary(known, last + 1).await?;
            self.delete_all(doomed.iter().map(|(_, key)| key.clone()).collect()).await?;
            all += doomed.len();
            if doomed.len() < ROUND {
                break;
            }
        }
        self.drop_old(&names[..oldest_kept]).await?;
        Ok(all)
    }

    /// The oldest slots that nobody needs any more.
    async fn doomed(
        &self,
        known: &Known,
        covered: u64,
        retain: Duration,
    ) -> Result<Vec<(u64, String)>, StoreError> {
        let now = self.host.wall_ms();
        let old = |modified: i64| now - modified >= retain.as_millis() as i64;
        let is_claim = |slot: &u64| known.claims.contains(slot);
        let slots = self.store.list_some(keys::META_LOG, None, ROUND + known.claims.len()).await?;
        let doomed = slots
            .into_iter()
            .filter_map(|l| Some((keys::meta_slot_of(&l.key)?, l)))
            .take_while(|(slot, l)| *slot <= covered && (is_claim(slot) || old(l.modified_ms)))
            .filter(|(slot, _)| !is_claim(slot))
            .map(|(slot, l)| (slot, l.key));
        Ok(doomed.take(ROUND).collect())
    }

    async fn draw_boundary(&self, known: &Known, slot: u64) -> Result<(), StoreError> {
        if slot <= self.boundary().await? {
            return Ok(());
        }
        let boundary = Boundary {
            slot,
            term: known.term,
            nonce: Nonce(self.host.random_u128()),
            writer: known.writer,
        };
        let key = keys::meta_boundary(slot);
        // Lost means that another controller drew the same line: it holds just as well.
        match self.store.create(&key, vec![boundary.encode()], boundary.nonce).await {
            Created::Unknown(error) => Err(error),
            Created::Won | Created::Lost(_) => Ok(()),
        }
    }

    async fn drop_old(&self, snapshots: &[String]) -> Result<(), StoreError> {
        self.delete_all(snapshots.to_vec()).await?;
        let mut lines = self.store.list(keys::META_BOUNDARY).await?;
        lines.pop();
        self.delete_all(lines.into_iter().map(|line| line.key).collect()).await
    }

    async fn delete_all(&self, keys: Vec<String>) -> Result<(), StoreError> {
        let deletes = keys.into_iter().map(|key| async move { self.store.delete(&key).await });
        stream::iter(deletes).buffer_unordered(SIDE_BY_SIDE).try_collect().await
    }
}
