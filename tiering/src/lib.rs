//! Everything that touches the bucket.
//!
//! Owns: the conditional store and its probe, MetaLog storage and fold, the object lane and its
//! fence, upload, remote index, remote read and cache, merge, compaction,
//! scrub, audit.
//! Does not own: sockets, the local disk's WAL and hot segments, who leads what (`levee-broker`).

pub mod store;
pub mod metalog;
pub mod object_lane;
pub mod fence;
pub mod upload;
pub mod remote;
pub mod budget;
pub mod merge;
pub mod compact;
pub mod audit;
pub mod scrub;
