//! Merging: small objects become large ones, batch for batch.
//!
//! ```text
//! pick -> job begins -> tile -> plan -> upload -> prove -> job ends: outputs in, inputs out
//! ```
//! Owns: which objects, what goes where, and the proof that nothing is lost. Does not own: the
//! job's records (the MetaLog) and when it runs (the broker's upkeep).

mod pick;
mod tile;
mod plan;
mod source;
mod prove;

use std::sync::Arc;

use levee_proto::metalog::ObjectRef;
use levee_proto::object::{Footer, Range, RangeKind};

pub use pick::{Candidate, pick};
pub use plan::{Output, Run, Shape, plan};
pub use prove::{Kept, Unproven, prove, prove_compacted};
pub use source::{Copies, RunBatches, Windows};
pub use tile::{Tile, Tiles, tile};

/// An object that a job replaces.
#[derive(Debug, Clone)]
pub struct Input {
    pub object: ObjectRef,
    pub footer: Arc<Footer>,
}

/// Ranges of records that count, each with the place of its input and its number in the footer.
fn needed(
    inputs: &[Input],
    is_needed: impl Fn(&Range) -> bool,
) -> impl Iterator<Item = (usize, usize, &Range)> {
    let ranges = inputs.iter().enumerate().flat_map(|(place, input)| {
        let ranges = input.footer.ranges.iter().enumerate();
        ranges.map(move |(number, range)| (place, number, range))
    });
    ranges.filter(move |(_, _, range)| range.kind == RangeKind::Data && is_needed(range))
}
