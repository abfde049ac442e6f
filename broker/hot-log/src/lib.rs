//! The local half of the log: the lane contract, the local WAL lane and hot segments.
//!
//! Owns: what makes a record durable on this disk, and the files that serve hot reads.
//! Does not own: the network, the bucket, partitions and their offsets.

pub mod lane;
pub mod book;
pub mod local;
pub mod segment;

pub use local::{LocalConfig, LocalLane};
