//! The disk caches of what is in the bucket, and the room that they get.
//!
//! Copies, never a promise: a start takes over what it finds, and everything is checked as it is
//! read. They give way before hot segments do, and those before appends are refused.

use std::io;
use std::path::Path;
use std::sync::Arc;

use levee_proto::ids::Nonce;
use levee_runtime::Host;
use levee_tiering::remote::DiskCache;

use crate::config::BrokerConfig;

/// In the data folder; each cluster has a folder of its own in it, as keys are names only there,
/// and in it chunks have one that says their size.
const CACHE_DIR: &str = "cache";
/// Footers get this part of the budget.
const FOOTER_SHARE: u64 = 16;
/// Reserves that are left free.
const RESERVES: u64 = 3;

pub(super) struct Caches {
    pub(super) chunks: Arc<DiskCache>,
    pub(super) footers: Arc<DiskCache>,
}

impl Caches {
    /// Takes over what an earlier life left; nothing where the budget is 0.
    pub(super) async fn open(host: &Host, config: &BrokerConfig, cluster: Nonce) -> Option<Self> {
        let dir = config.data_dir.join(CACHE_DIR);
        // Objects of a cluster in memory go with it, and no disk is nearer than they are.
        let keeps = config.cache_budget(u64::MAX) > 0 && config.bucket_url.lasts();
        let own = keeps.then(|| cluster.to_string());
        keep_only(host, &dir, own.as_slice()).await;
        let dir = dir.join(own?);
        // A number of another size names other bytes.
        let folders = [format!("chunks-{}", config.cache_chunk_bytes), "footers".to_owned()];
        keep_only(host, &dir, &folders).await;
        let [chunks, footers] = folders;
        let open = |folder, name| DiskCache::open(host.clone(), dir.join(folder), name, u64::MAX);
        let caches =
            Self { chunks: open(chunks, "chunks").await, footers: open(footers, "footers").await };
        match host.disk().free_bytes(&config.data_dir).await {
            Ok(free) => caches.fit(config, free).await,
            // Until it is known, they keep what they have.
            Err(_) => {
                caches.chunks.fit(caches.chunks.used()).await;
                caches.footers.fit(caches.footers.used()).await;
            }
        }
        Some(caches)
    }

    /// `free`: bytes on their disk.
    pub(super) async fn fit(&self, config: &BrokerConfig, free: u64) {
        let used = self.chunks.used() + self.footers.used();
        let room = used.saturating_add(free);
        let budget = config.cache_budget(room);
        let reserved = config.disk_reserve_bytes.saturating_mul(RESERVES);
        let budget = budget.min(room.saturating_sub(reserved));
        let footers = budget / FOOTER_SHARE;
        self.chunks.fit(budget - footers).await;
        self.footers.fit(footers).await;
    }
}

/// Removes everything in a folder, except for some names.
async fn keep_only(host: &Host, dir: &Path, names: &[String]) {
    if let Err(error) = remove_others(host, dir, names).await {
        tracing::warn!(dir = %dir.display(), %error, "old cached copies stay, unused");
    }
}

async fn remove_others(host: &Host, dir: &Path, names: &[String]) -> io::Result<()> {
    let disk = host.disk();
    let found = match disk.list(dir).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found?,
    };
    for entry in found.iter().filter(|entry| !names.contains(&entry.name)) {
        let path = dir.join(&entry.name);
        match entry.is_dir {
            true => disk.remove_dir_all(&path).await?,
            false => disk.remove_file(&path).await?,
        }
    }
    Ok(())
}
