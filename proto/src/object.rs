//! The one tiered-object format. L0 is a WAL slot, L1 is shared by many partitions and sorted,
//! L2 is one partition.
//!
//! ```text
//! head 64 | data: batches of range 0, range 1, ... | footer | trailer 24
//! ```
//! Owns: the layout of data, footer and trailer. Does not own: keys (`keys`), upload, caching.

pub mod footer;
pub mod index;
pub mod trailer;
pub mod producers;
pub mod aborted;
pub mod writer;

pub use aborted::{Aborted, AbortedTxn};
pub use footer::{Footer, Range, RangeKind};
pub use index::{BatchEntry, Index, SparseEntry};
pub use producers::{ProducerBatch, ProducerEntry, ProducerSnapshot};
pub use trailer::{TRAILER_BYTES, Trailer};
pub use writer::ObjectWriter;

/// What errors call it.
const FOOTER: &str = "object footer";

/// Who shares an object, and how it is indexed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// A WAL slot: unsorted, every batch indexed.
    L0 = 0,
    /// Many partitions, sorted by (topic, partition, offset).
    L1 = 1,
    /// One partition.
    L2 = 2,
}

impl Level {
    pub fn from_u8(value: u8) -> Option<Self> {
        match value {
            0 => Some(Self::L0),
            1 => Some(Self::L1),
            2 => Some(Self::L2),
            _ => None,
        }
    }
}
