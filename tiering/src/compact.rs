//! Compaction: of each key the newest record stays, at its offset.
//!
//! ```text
//! job begins -> tile -> map_keys (what is not compacted yet) -> Rewriter -> upload -> prove_compacted -> job ends
//! ```
//! Owns: which records go, and the objects without them. Does not own: when and of which partitions
//! (the broker's upkeep), the proof of offsets (`merge`).

mod map;
mod clean;
mod rewriter;

use levee_proto::FormatError;
use levee_proto::ids::PartitionId;

pub use clean::{Cleaner, Cleaners, Rules};
pub use map::{Dirty, KeyMap, map_keys};
pub use rewriter::Rewriter;

use crate::store::StoreError;
use crate::upload::SourceError;

/// Where a job had to stop.
#[derive(Debug)]
pub struct Unread {
    pub partition: PartitionId,
    pub offset: u64,
    pub why: Why,
}

#[derive(Debug)]
pub enum Why {
    /// It may be read later.
    Store(StoreError),
    /// Not the bytes that were written, in the input at this place.
    Damaged { input: usize, why: String },
    /// The bytes that were written, and no records in them that can be compacted.
    Packed(FormatError),
}

impl Why {
    fn of(error: SourceError, input: usize) -> Self {
        match error {
            SourceError::Store(error) => Self::Store(error),
            SourceError::Damaged(why) => Self::Damaged { input, why },
        }
    }
}
