//! The only door to the world: clock, randomness, tasks and disk of one process.
//!
//! Everything above this crate reaches them through a [`Host`], so that the simulator can own
//! them: pause a host, stop its clock, kill it, lose its unsynced pages, and run the same seed
//! twice with the same result. Clippy bans the ways around it.
//!
//! Owns: the seam, its real implementation ([`real`]) and its simulated one (`sim`, a feature of this crate).
//! Does not own: sockets of clients (listeners are not part of the simulation) and the bucket,
//! which has its own seam (`object_store::ObjectStore`).

// Here is the door itself.
#![allow(clippy::disallowed_methods)]

pub mod host;
pub mod disk;
pub mod backoff;
pub mod real;
#[cfg(feature = "sim")]
pub mod sim;

pub use backoff::Backoff;
pub use disk::{AlignedBuf, Disk, File, OpenMode};
pub use host::{Elapsed, Host, Mono, Task, World};
