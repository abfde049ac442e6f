//! The broker: leads partitions and serves them.
//!
//! Owns: partitions, produce, fetch, controller, sessions, recovery, offload, upkeep of the bucket,
//! listeners, settings, metrics. Does not own: byte formats (`levee-proto`), the bucket
//! (`levee-tiering`), local files (`levee-hot-log`).

pub mod config;
pub mod error;
pub mod metrics;
pub mod http;
pub mod partition;
pub mod cluster;
pub mod tiers;
pub mod limits;
pub mod node;
pub mod produce;
pub mod producer_ids;
pub mod fetch;
pub mod pace;
mod aside;
pub mod offload;
pub mod keeper;
pub mod find_time;
pub mod coordinator;
pub(crate) mod kafka;
pub mod listener;
pub mod server;
pub mod topics;
pub mod upkeep;
