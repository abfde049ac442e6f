//! The bytes of a run, straight from the objects that hold them: past the caches, within the
//! budget of upkeep, from another copy where an object is damaged.

use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use levee_proto::FormatError;
use levee_proto::ids::PartitionId;
use levee_proto::object::Range;
use levee_proto::record::batch::{BatchHeader, HEADER_BYTES, check_run};

use super::Input;
use super::plan::Run;
use super::tile::{Tile, Tiles};
use crate::budget::Budget;
use crate::store::{Store, StoreError};
use crate::upload::{Batches, SourceError};

/// Bytes of one read.
const READ_BYTES: u64 = 8 << 20;

/// Other copies of the same batches: hot segments, slots, other objects.
#[async_trait]
pub trait Copies: Send + Sync {
    /// Whole checked batches from `offset` on, from anywhere but the objects in `not_from`.
    async fn other(&self, partition: PartitionId, offset: u64) -> Option<Bytes>;
}

/// Where a tile's bytes are.
#[derive(Debug)]
struct Piece {
    key: String,
    at: u64,
    end: u64,
    /// First offset that is not given out yet, and the end.
    base: u64,
    last: u64,
}

/// See the module.
pub struct RunBatches {
    store: Store,
    budget: Arc<Budget>,
    copies: Arc<dyn Copies>,
    partition: PartitionId,
    pieces: VecDeque<Piece>,
}

impl RunBatches {
    pub fn new(
        store: Store,
        budget: Arc<Budget>,
        copies: Arc<dyn Copies>,
        inputs: &[Input],
        run: &Run,
    ) -> Self {
        let piece = |tile: &Tile| Piece {
            key: inputs[tile.input].object.key(),
            at: tile.pos,
            end: tile.pos + tile.len,
            base: tile.base,
            last: tile.end,
        };
        let pieces = run.tiles.iter().map(piece).collect();
        Self { store, budget, copies, partition: run.partition, pieces }
    }
}

#[async_trait]
impl Batches for RunBatches {
    async fn next(&mut self, _offset: u64) -> Result<Option<Bytes>, SourceError> {
        while self.pieces.front().is_some_and(|piece| piece.at == piece.end) {
            self.pieces.pop_front();
        }
        let Some(piece) = self.pieces.front_mut() else { return Ok(None) };
        let bytes = piece.at..piece.end;
        let why = match whole_batches(&self.store, &self.budget, &piece.key, bytes).await {
            Ok(batches) => {
                piece.advance(&batches)?;
                return Ok(Some(batches));
            }
            Err(ReadError::Store(error)) => return Err(error.into()),
            Err(ReadError::Damaged(why)) => why,
        };
        let why = format!("object {}, byte {}: {why}", piece.key, piece.at);
        let Some(other) = self.copies.other(self.partition, piece.base).await else {
            return Err(SourceError::Damaged(why));
        };
        match piece.cut(other) {
            Some(batches) => {
                tracing::warn!(why, "damaged bytes, taken from another copy");
                piece.advance(&batches)?;
                Ok(Some(batches))
            }
            None => Err(SourceError::Damaged(format!("{why}; the other copy does not fit"))),
        }
    }
}

impl Piece {
    /// Past whole checked batches.
    fn advance(&mut self, batches: &[u8]) -> Result<(), SourceError> {
        let mut at = 0;
        while at < batches.len() {
            let header = BatchHeader::decode(&batches[at..]);
            let header = header.map_err(|error| SourceError::Damaged(error.to_string()))?;
            at += header.bytes as usize;
            self.base = header.end_offset();
        }
        self.at += at as u64;
        Ok(())
    }

    /// As many batches of another copy as stand in this piece.
    fn cut(&self, other: Bytes) -> Option<Bytes> {
        let (mut next, mut used) = (self.base, 0);
        check_run(&other, |at, header| {
            let fits = header.base_offset == next && header.end_offset() <= self.last;
            if fits {
                next = header.end_offset();
                used = at + header.bytes as usize;
            }
            fits
        })
        .ok()?;
        let fits = used > 0 && used as u64 <= self.end - self.at;
        fits.then(|| other.slice(..used))
    }
}

enum ReadError {
    Store(StoreError),
    Damaged(String),
}

impl From<StoreError> for ReadError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<FormatError> for ReadError {
    fn from(error: FormatError) -> Self {
        Self::Damaged(error.to_string())
    }
}

/// The first whole checked batches of some bytes of an object, at least one.
async fn whole_batches(
    store: &Store,
    budget: &Budget,
    key: &str,
    bytes: std::ops::Range<u64>,
) -> Result<Bytes, ReadError> {
    let left = bytes.end - bytes.start;
    let mut want = READ_BYTES.min(left);
    loop {
        budget.take(want).await;
        let got = store.get_range(key, bytes.start..bytes.start + want).await?;
        let got = got.ok_or_else(|| ReadError::Damaged("the object is not there".into()))?;
        let whole = check_run(&got, |_, _| true)?;
        if whole > 0 {
            return Ok(got.slice(..whole));
        }
        // One batch is larger than a read.
        let needed = match got.len() >= HEADER_BYTES {
            true => u64::from(BatchHeader::decode(&got)?.bytes),
            false => left + 1,
        };
        if needed > left || needed <= want {
            return Err(ReadError::Damaged(format!("a batch of {needed} bytes, {left} are left")));
        }
        want = needed;
    }
}

/// Finds the bytes of those tiles that are not whole ranges.
pub async fn place(
    store: &Store,
    budget: &Budget,
    inputs: &[Input],
    tiles: &mut Tiles,
) -> Result<(), SourceError> {
    for tile in tiles.values_mut().flatten() {
        let input = &inputs[tile.input];
        let range = &input.footer.ranges[tile.number];
        let (mut from, mut to) = (range.pos, range.pos + range.len);
        let key = input.object.key();
        if tile.base > range.base {
            from = find(store, budget, &key, range, tile.base).await?;
        }
        if tile.end < range.end {
            to = find(store, budget, &key, range, tile.end).await?;
        }
        (tile.pos, tile.len) = (from, to - from);
    }
    Ok(())
}

/// The byte at which the batch stands that begins with `offset`.
async fn find(
    store: &Store,
    budget: &Budget,
    key: &str,
    range: &Range,
    offset: u64,
) -> Result<u64, SourceError> {
    let damaged = |why: String| SourceError::Damaged(format!("object {key}: {why}"));
    let mut at = range.pos + u64::from(range.seek(offset));
    let end = range.pos + range.len;
    while at < end {
        let batches = match whole_batches(store, budget, key, at..end).await {
            Ok(batches) => batches,
            Err(ReadError::Store(error)) => return Err(error.into()),
            Err(ReadError::Damaged(why)) => return Err(damaged(why)),
        };
        let mut found = None;
        let used = check_run(&batches, |_, header| {
            found = (header.end_offset() > offset).then_some(header.base_offset);
            found.is_none()
        })
        .map_err(|error| damaged(error.to_string()))?;
        at += used as u64;
        match found {
            Some(base) if base == offset => return Ok(at),
            Some(base) => return Err(damaged(format!("a batch at {base}, none at {offset}"))),
            None => {}
        }
    }
    Err(damaged(format!("no batch begins at {offset}")))
}

/// Whole checked batches of a range, the first one holding `offset`; nothing where they are
/// damaged or away.
pub async fn read_copy(
    store: &Store,
    budget: &Budget,
    key: &str,
    range: &Range,
    offset: u64,
) -> Option<Bytes> {
    let at = find(store, budget, key, range, offset).await.ok()?;
    whole_batches(store, budget, key, at..range.pos + range.len).await.ok()
}
