//! The MetaLog on the bucket: reading, writing and folding it.
//!
//! Owns: the fold (`state`, `fold`), loading and tailing (`log`), snapshots and the garbage
//! boundary (`retain`). Does not own: deciding what to write (the controller in `levee-broker`).

pub mod fold;
pub mod log;
pub mod retain;
pub mod state;

pub use fold::FoldError;
pub use log::{LoadError, MetaLog, Tailed};
pub use retain::Known;
pub use state::MetaState;

#[cfg(test)]
mod tests;
