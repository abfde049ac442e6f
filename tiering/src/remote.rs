//! Reading what is in the bucket: which object holds an offset, its footer, its bytes.
//!
//! Owns: the index of ranges (`index`), footers (`footers`), reads (`read`) through the levels of
//! the cache (`cache`), read-ahead (`ahead`). Does not own: what is referenced (the MetaLog).

mod ahead;
mod cache;
mod footers;
mod index;
mod read;

pub use ahead::ReadAhead;
pub use cache::{ChunkId, DiskCache};
pub use footers::{Footers, FootersError, Wanted, read_footer, read_footers};
pub use index::{Held, HeldRange, RangeRef, RemoteIndex, Source};
pub use read::{ReadConfig, RemoteError, RemoteRead, RemoteReader};
