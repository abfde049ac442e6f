//! The objects that a compaction writes: what stays of some tiles, gathered in memory, because how
//! much stays is known only when it is there.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use levee_proto::FormatError;
use levee_proto::ids::PartitionId;
use levee_proto::limits::{FOOTER_BYTES_MAX, RANGE_ABORTED_MAX};
use levee_proto::object::footer::footer_bytes;
use levee_proto::object::{AbortedTxn, ProducerSnapshot};
use levee_runtime::Host;

use super::clean::{Cleaner, Cleaners};
use super::map::each_batch;
use super::{Unread, Why};
use crate::merge::{Copies, Run, RunBatches, Tile, Tiles, Windows};
use crate::upload::{Batches, Part, Pieces};

/// Footers stay well below what a reader takes.
const FOOTER_BYTES: u64 = FOOTER_BYTES_MAX as u64 / 4;

/// Goes through the tiles of a job, in order.
pub struct Rewriter<'a> {
    host: Host,
    windows: Arc<Windows>,
    copies: Arc<dyn Copies>,
    tiles: VecDeque<(PartitionId, Tile)>,
    cleaners: &'a mut Cleaners,
    open: Option<Open>,
    /// Data of an object in memory.
    object_bytes: u64,
}

/// The tile that is read.
struct Open {
    partition: PartitionId,
    tile: Tile,
    source: RunBatches,
}

/// A range in the making.
struct Piece {
    partition: PartitionId,
    leader_epoch: u32,
    compacted: bool,
    /// By this job.
    is_new: bool,
    base: u64,
    end: u64,
    bytes: u64,
    batches: Vec<Bytes>,
    aborted: Vec<AbortedTxn>,
    producers: Option<ProducerSnapshot>,
}

/// An object in the making.
#[derive(Default)]
struct Object {
    pieces: Vec<Piece>,
    bytes: u64,
    footer: u64,
}

impl<'a> Rewriter<'a> {
    /// `tiles` have their places; those that are to be compacted are marked as such, and end at or
    /// below the end of their cleaner. All others stay as they are.
    pub fn new(
        host: Host,
        windows: Arc<Windows>,
        copies: Arc<dyn Copies>,
        tiles: Tiles,
        cleaners: &'a mut Cleaners,
        object_bytes: u64,
    ) -> Self {
        let one = |(id, tiles): (PartitionId, Vec<Tile>)| tiles.into_iter().map(move |t| (id, t));
        let tiles = tiles.into_iter().flat_map(one).collect();
        Self { host, windows, copies, tiles, cleaners, open: None, object_bytes }
    }

    /// The parts of the next object; nothing at the end.
    pub async fn next(&mut self) -> Result<Option<Vec<Part>>, Unread> {
        let mut object = Object::default();
        while object.bytes < self.object_bytes && object.footer < FOOTER_BYTES {
            if let Some(open) = &self.open {
                if object.pieces.is_empty() {
                    // The rest of a tile.
                    object.begin(open.partition, &open.tile);
                }
            } else {
                let Some((partition, tile)) = self.tiles.pop_front() else { break };
                object.begin(partition, &tile);
                let run = Run { partition, tiles: vec![tile.clone()] };
                let source = RunBatches::new(self.windows.clone(), self.copies.clone(), &run);
                self.open = Some(Open { partition, tile, source });
            }
            let open = self.open.as_mut().expect("it was opened");
            let (partition, offset) = (open.partition, open.tile.base);
            let (input, end) = (open.tile.input, open.tile.end);
            let read = open.source.next(offset).await;
            let unread = |why| Unread { partition, offset, why };
            let to = match read.map_err(|error| unread(Why::of(error, input)))? {
                Some(batches) => self.take(&batches, &mut object)?,
                None => end,
            };
            self.end_at(&mut object, to);
            if to == end
                && let (Some(open), Some(piece)) = (self.open.take(), object.pieces.last_mut())
            {
                piece.producers = open.tile.producers;
                let producers = piece.producers.as_ref();
                object.footer += footer_bytes(piece.bytes, producers, piece.aborted.len());
            }
        }
        match object.pieces.is_empty() {
            true => Ok(None),
            false => Ok(Some(object.pieces.into_iter().map(Piece::part).collect())),
        }
    }

    /// What stays of some batches of the open tile; the offset behind them.
    fn take(&mut self, batches: &Bytes, object: &mut Object) -> Result<u64, Unread> {
        let Some(Open { partition, tile, .. }) = &self.open else { return Ok(0) };
        let cleaner = self.cleaners.get_mut(partition);
        let taken = self.host.busy(|| take(batches, tile, cleaner, object));
        taken.map_err(|(offset, error)| Unread {
            partition: *partition,
            offset,
            why: Why::Packed(error),
        })
    }

    /// The open piece reaches up to `end`, and what the tile tells of it goes along.
    fn end_at(&mut self, object: &mut Object, end: u64) {
        let (Some(open), Some(piece)) = (&mut self.open, object.pieces.last_mut()) else { return };
        piece.end = end;
        open.tile.base = end;
        let behind = open.tile.aborted.partition_point(|txn| txn.last_offset < end);
        let cleaner = self.cleaners.get(&open.partition);
        let stays =
            |txn: &AbortedTxn| cleaner.is_none_or(|cleaner| !cleaner.is_dropped(txn.last_offset));
        piece.aborted.extend(open.tile.aborted.drain(..behind).filter(stays));
    }
}

fn take(
    batches: &Bytes,
    tile: &Tile,
    mut cleaner: Option<&mut Cleaner>,
    object: &mut Object,
) -> Result<u64, (u64, FormatError)> {
    let mut end = tile.base;
    for batch in each_batch(batches) {
        let (header, batch) = batch.map_err(|error| (end, error))?;
        let left = match &mut cleaner {
            Some(cleaner) if tile.to_compact => {
                cleaner.clean(&batch).map_err(|error| (header.base_offset, error))?
            }
            Some(cleaner) => {
                cleaner.untouched(&header);
                Some(batch)
            }
            None => Some(batch),
        };
        // A slice of little keeps the whole window in memory.
        if let Some(left) = left {
            object.push(Bytes::copy_from_slice(&left));
        }
        end = header.end_offset();
    }
    Ok(end)
}

impl Object {
    /// A tile goes on the piece before, or begins another one.
    fn begin(&mut self, partition: PartitionId, tile: &Tile) {
        let follows = self.pieces.last().is_some_and(|last| {
            last.partition == partition
                && last.end == tile.base
                && last.leader_epoch == tile.leader_epoch
                && last.compacted == (tile.compacted || tile.to_compact)
                // The next job of a round begins there.
                && last.is_new == tile.to_compact
                && last.producers.is_none()
                && last.aborted.len() + tile.aborted.len() <= RANGE_ABORTED_MAX
        });
        if !follows {
            self.pieces.push(Piece {
                partition,
                leader_epoch: tile.leader_epoch,
                compacted: tile.compacted || tile.to_compact,
                is_new: tile.to_compact,
                base: tile.base,
                end: tile.base,
                bytes: 0,
                batches: Vec::new(),
                aborted: Vec::new(),
                producers: None,
            });
        }
    }

    fn push(&mut self, batch: Bytes) {
        let Some(piece) = self.pieces.last_mut() else { return };
        piece.bytes += batch.len() as u64;
        self.bytes += batch.len() as u64;
        piece.batches.push(batch);
    }
}

impl Piece {
    fn part(self) -> Part {
        Part {
            partition: self.partition,
            leader_epoch: self.leader_epoch,
            base: self.base,
            end: self.end,
            bytes: self.bytes,
            producers: self.producers,
            aborted: self.aborted,
            compacted: self.compacted,
            source: Box::new(Pieces::new(self.batches)),
        }
    }
}
