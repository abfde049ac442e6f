//! Reading what is in the bucket: which object holds an offset, its footer, its bytes.
//!
//! Owns: the index of ranges (`index`), footers (`footers`), reads through a memory cache (`read`).
//! Does not own: what is referenced (the MetaLog).

pub mod footers;
pub mod index;
pub mod read;

pub use footers::{Footers, FootersError};
pub use index::{RangeRef, RemoteIndex, Source};
pub use read::{ReadConfig, RemoteError, RemoteRead, RemoteReader};
