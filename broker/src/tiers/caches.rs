//! The disk caches of what is in the bucket, and the room that they get.
//!
//! Copies, never a promise: a start takes over what it finds, and everything is checked as it is
//! read. They give way before hot segments do, and those before appends are refused.

use std::sync::Arc;

use levee_runtime::Host;
use levee_tiering::remote::DiskCache;

use crate::config::BrokerConfig;

/// In the data folder.
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
    pub(super) async fn open(host: &Host, config: &BrokerConfig) -> Option<Self> {
        let dir = config.data_dir.join(CACHE_DIR);
        let keeps = config.cache_budget(u64::MAX) > 0;
        // Objects of a cluster in memory are gone, and their names come again.
        if !(keeps && config.bucket_url.lasts()) {
            match host.disk().remove_dir_all(&dir).await {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    tracing::warn!(dir = %dir.display(), %error, "old cached copies stay, unused");
                    return None;
                }
                _ => {}
            }
        }
        if !keeps {
            return None;
        }
        let open = |name, allowed| DiskCache::open(host.clone(), dir.join(name), name, allowed);
        let caches = Self {
            chunks: open("chunks", u64::MAX).await,
            footers: open("footers", u64::MAX).await,
        };
        let free = host.disk().free_bytes(&config.data_dir).await.ok();
        caches.fit(config, free).await;
        Some(caches)
    }

    /// Free space that is unknown counts as none.
    pub(super) async fn fit(&self, config: &BrokerConfig, free: Option<u64>) {
        let used = self.chunks.used() + self.footers.used();
        let room = used.saturating_add(free.unwrap_or(0));
        let room = room.saturating_sub(config.disk_reserve_bytes.saturating_mul(RESERVES));
        let budget = config.cache_budget(used.saturating_add(free.unwrap_or(0))).min(room);
        let footers = budget / FOOTER_SHARE;
        self.chunks.fit(budget - footers).await;
        self.footers.fit(footers).await;
    }
}
