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

pub use clean::{Cleaner, Cleaners, Rules};
pub use map::{KeyMap, map_keys};
pub use rewriter::{Rewriter, Unread};
