//! Merging: small objects become large ones, batch for batch.
//!
//! ```text
//! pick -> job begins -> tile -> plan -> upload -> prove -> job ends: outputs in, inputs out
//! ```
//! Owns: which objects, what goes where, and the proof that nothing is lost. Does not own: the
//! job's records (the MetaLog) and when it runs (the broker's upkeep).

pub mod pick;
pub mod tile;
pub mod plan;
pub mod source;
pub mod prove;

use std::sync::Arc;

use levee_proto::metalog::ObjectRef;
use levee_proto::object::Footer;

pub use pick::{Candidate, pick};
pub use plan::{Output, Run, Shape, plan};
pub use prove::{Unproven, prove};
pub use source::{Copies, RunBatches, Windows};
pub use tile::{Tile, Tiles, tile};

/// An object that a job replaces.
#[derive(Debug, Clone)]
pub struct Input {
    pub object: ObjectRef,
    pub footer: Arc<Footer>,
}
