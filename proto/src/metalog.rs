//! The MetaLog: one ordered log of cluster metadata, one create-once object per slot.
//!
//! Owns: the bytes of slots, records and snapshots. Does not own: what records mean (the fold
//! lives in `levee-tiering`), nor when they are written (the controller in `levee-broker`).

pub mod cluster;
pub mod wire;
pub mod record;
pub mod slot;
pub mod image;

pub use cluster::ClusterId;
pub use image::{Image, Snapshot};
pub use record::*;
pub use slot::{Boundary, Slot};
