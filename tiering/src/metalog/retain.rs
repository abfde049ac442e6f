//! Keeping the MetaLog short: snapshots, the garbage boundary, and deletion behind it.

use std::collections::BTreeSet;
use std::time::Duration;

use levee_proto::ids::{Nonce, Writer};
use levee_proto::keys;
use levee_proto::metalog::{Boundary, Snapshot};

use super::log::MetaLog;
use super::state::MetaState;
use crate::store::{Created, StoreError};

/// Slots deleted by one call of [`MetaLog::collect`].
const COLLECT_MAX: usize = 5_000;
/// Snapshots that stay, newest first.
const SNAPSHOTS_KEPT: usize = 2;

impl MetaLog {
    /// Writes a snapshot of `state`; its key is new, so it needs no condition.
    pub async fn write_snapshot(&self, state: &MetaState, broker: u32) -> Result<u64, StoreError> {
        let snapshot = Snapshot {
            cluster: state.cluster,
            slot: state.head,
            term: state.term,
            nonce: Nonce(self.host.random_u128()),
            writer: Writer(u64::from(broker) << 32),
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
    /// older of the kept snapshots, then deletes what lies below. The caller must be the
    /// controller with a freshly Won slot. Claim slots stay for ever (I21).
    pub async fn collect(
        &self,
        state: &MetaState,
        retain: Duration,
        broker: u32,
    ) -> Result<usize, StoreError> {
        let snapshots = self.store.list(keys::META_SNAPSHOT, None).await?;
        let mut names: Vec<_> = snapshots.iter().map(|l| l.key.clone()).collect();
        names.sort();
        let Some(oldest_kept) = names.len().checked_sub(SNAPSHOTS_KEPT) else { return Ok(0) };
        let Some(covered) = keys::meta_slot_of(&names[oldest_kept]) else { return Ok(0) };

        let claims: BTreeSet<u64> = state.claims.iter().copied().collect();
        let now = self.host.wall_ms();
        let slots = self.store.list(keys::META_LOG, None).await?;
        let old = |modified: i64| now - modified >= retain.as_millis() as i64;
        let doomed: Vec<(u64, String)> = slots
            .into_iter()
            .filter_map(|l| Some((keys::meta_slot_of(&l.key)?, l)))
            .take_while(|(slot, l)| {
                *slot <= covered && (claims.contains(slot) || old(l.modified_ms))
            })
            .filter(|(slot, _)| !claims.contains(slot))
            .map(|(slot, l)| (slot, l.key))
            .take(COLLECT_MAX)
            .collect();
        let Some((last, _)) = doomed.last() else { return Ok(0) };

        let boundary = Boundary {
            slot: last + 1,
            term: state.term,
            nonce: Nonce(self.host.random_u128()),
            writer: Writer(u64::from(broker) << 32),
        };
        if boundary.slot > self.boundary().await? {
            let key = keys::meta_boundary(boundary.slot);
            // Lost means that another controller drew the same line: it holds just as well.
            if let Created::Unknown(error) =
                self.store.create(&key, vec![boundary.encode()], boundary.nonce).await
            {
                return Err(error);
            }
        }
        for (_, key) in &doomed {
            self.store.delete(key).await?;
        }
        self.drop_old(&names[..oldest_kept], keys::META_BOUNDARY).await?;
        Ok(doomed.len())
    }

    async fn drop_old(&self, snapshots: &[String], boundaries: &str) -> Result<(), StoreError> {
        for key in snapshots {
            self.store.delete(key).await?;
        }
        let mut lines = self.store.list(boundaries, None).await?;
        lines.sort_by(|a, b| a.key.cmp(&b.key));
        lines.pop();
        for line in lines {
            self.store.delete(&line.key).await?;
        }
        Ok(())
    }
}
