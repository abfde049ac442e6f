//! Settings of a broker and of topics: typed, checked once, documented in one table.
//!
//! Owns: which settings there are, their bounds, where they come from and what must hold between
//! them. Does not own: reading files or the environment (the command line hands in their text),
//! and storing a topic's settings (the MetaLog).

mod advertised;
mod bucket_url;
mod checks;
mod choices;
mod error;
mod file;
mod problem;
mod setting;
mod sources;
mod suggest;
mod table;
#[cfg(test)]
mod tests;
mod topic;
mod values;

pub use advertised::Advertised;
pub use bucket_url::BucketUrl;
pub use choices::{CleanupPolicy, LagPolicy, LocalFlush, TimestampType};
pub use error::ConfigError;
pub use setting::{Fallback, Kind, Scope, Setting, parse_bytes, show_bytes, show_ms};
pub use sources::{Flag, Loaded, Mode, Sources};
pub use suggest::nearest;
pub use table::{BROKER_SETTINGS, BrokerConfig, TOPIC_SETTINGS, TopicConfig};
pub use topic::TopicEntry;
pub use values::Origin;

/// Hot segments take no more than this by themselves.
const HOT_BYTES_AUTO: u64 = 10 << 30;
/// Disk for copies of what is in the bucket, where there is plenty.
const CACHE_DISK_BYTES_AUTO: u64 = 10 << 30;

impl BrokerConfig {
    /// Bytes of appends that may wait: half of what requests may take, and any one of them.
    pub fn waiting_bytes(&self) -> usize {
        (self.request_bytes / 2).max(self.max_batch_bytes) as usize
    }

    /// Disk for hot segments. `available`: bytes that are free plus those that hot segments hold
    /// already, so that a restart finds the same budget.
    pub fn hot_budget(&self, available: u64) -> u64 {
        self.hot_bytes.unwrap_or(HOT_BYTES_AUTO.min(available / 2))
    }

    /// What holds for a setting, without secrets, and where it comes from.
    pub fn present(&self, setting: &Setting) -> Option<(String, &Origin)> {
        let held = self.values.get(setting.name)?;
        Some((held.setting.show(&held.value), &held.origin))
    }

    /// Bytes that disk caches may take, where that many are free or theirs. A bucket that is a
    /// folder is as near as a copy of it would be.
    pub fn cache_budget(&self, available: u64) -> u64 {
        let auto = if self.bucket_url.is_near() { 0 } else { CACHE_DISK_BYTES_AUTO };
        self.cache_disk_bytes.unwrap_or(auto.min(available / 4))
    }

    /// Settings that somebody chose, as `name=value`, without secrets: for the start's log line.
    pub fn chosen(&self) -> Vec<String> {
        let chosen = self.values.iter().filter(|held| held.origin != Origin::Default);
        let show = |held: &values::Held| {
            format!("{}={}", held.setting.broker_name(), held.setting.show(&held.value))
        };
        chosen.map(show).collect()
    }
}
