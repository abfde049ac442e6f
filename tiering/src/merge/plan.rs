//! What goes into which object: large stretches of one partition into objects of their own (L2),
//! the rest sorted by partition into shared ones (L1).

use levee_proto::ids::PartitionId;
use levee_proto::limits::RANGE_ABORTED_MAX;
use levee_proto::object::{AbortedTxn, Level, ProducerSnapshot};

use super::tile::{Tile, Tiles};
use crate::upload::Room;

/// How large objects become.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Data at which the next object begins.
    pub object_bytes: u64,
    /// Data of one partition that gets an object of its own.
    pub l2_bytes: u64,
}

/// A stretch of one partition and epoch without a gap.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    pub partition: PartitionId,
    pub tiles: Vec<Tile>,
}

/// One object to write.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    pub level: Level,
    pub runs: Vec<Run>,
}

impl Run {
    pub fn leader_epoch(&self) -> u32 {
        self.first().leader_epoch
    }

    pub fn base(&self) -> u64 {
        self.first().base
    }

    pub fn end(&self) -> u64 {
        self.last().end
    }

    pub fn bytes(&self) -> u64 {
        self.tiles.iter().map(|tile| tile.len).sum()
    }

    /// Its batches need not fill it.
    pub fn compacted(&self) -> bool {
        self.first().compacted
    }

    /// State at the end of the run.
    pub fn producers(&self) -> Option<&ProducerSnapshot> {
        self.last().producers.as_ref()
    }

    /// Transactions whose abort marker stands in the run, by its offset.
    pub fn aborted(&self) -> Vec<AbortedTxn> {
        self.tiles.iter().flat_map(|tile| tile.aborted.iter().copied()).collect()
    }

    fn first(&self) -> &Tile {
        self.tiles.first().expect("a run has a tile")
    }

    fn last(&self) -> &Tile {
        self.tiles.last().expect("a run has a tile")
    }

    fn takes(&self, tile: &Tile, shape: &Shape) -> bool {
        let last = self.last();
        last.end == tile.base
            && last.leader_epoch == tile.leader_epoch
            // What is not compacted yet must be told apart.
            && last.compacted == tile.compacted
            // What is told of producers is told of the end of a range.
            && last.producers.is_none()
            && self.bytes() + tile.len <= shape.object_bytes
            && self.tiles.iter().chain([tile]).map(|t| t.aborted.len()).sum::<usize>()
                <= RANGE_ABORTED_MAX
    }
}

/// All tiles, each once. Their places must be known.
pub fn plan(tiles: Tiles, shape: Shape) -> Vec<Output> {
    let (mut single, mut outputs, mut shared) = (Vec::new(), Vec::new(), Vec::new());
    let mut room = Room::new(shape.object_bytes);
    for (partition, tiles) in tiles {
        for run in runs(partition, tiles, &shape) {
            if run.bytes() >= shape.l2_bytes {
                single.push(Output { level: Level::L2, runs: vec![run] });
                continue;
            }
            if !room.take(run.bytes(), run.producers(), &run.aborted()) {
                let runs = std::mem::take(&mut shared);
                outputs.push(Output { level: Level::L1, runs });
                room = Room::new(shape.object_bytes);
                room.take(run.bytes(), run.producers(), &run.aborted());
            }
            shared.push(run);
        }
    }
    if !shared.is_empty() {
        outputs.push(Output { level: Level::L1, runs: shared });
    }
    // Each sort goes through the inputs once.
    single.extend(outputs);
    single
}

fn runs(partition: PartitionId, tiles: Vec<Tile>, shape: &Shape) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for tile in tiles {
        match runs.last_mut() {
            Some(run) if run.takes(&tile, shape) => run.tiles.push(tile),
            _ => runs.push(Run { partition, tiles: vec![tile] }),
        }
    }
    runs
}
