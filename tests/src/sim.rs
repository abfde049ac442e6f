//! Whole brokers in virtual time: a faulty store, hosts that pause and die, a load that remembers.

pub mod cluster;
pub mod store;
pub mod transactions;

pub use cluster::{Cluster, SimLoad};
pub use store::{Faults, SimStore};
pub use transactions::TxnLoad;

/// The seed of a run: `LEVEE_SEED`, or the one given.
pub fn seed(given: u64) -> u64 {
    std::env::var("LEVEE_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(given)
}
