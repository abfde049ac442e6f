//! The broker: leads partitions and serves them.
//!
//! Owns: partitions, produce, fetch, controller, sessions, recovery, offload, retention,
//! listeners, settings, metrics. Does not own: byte formats (`levee-proto`), the bucket
//! (`levee-tiering`), local files (`levee-hot-log`).

pub mod config;
pub mod error;
pub mod partition;
