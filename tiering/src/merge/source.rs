//! The bytes of a run, straight from the objects that hold them: past the caches, within the
//! budget of upkeep, from another copy where an object is damaged.
//!
//! Inputs and outputs are sorted alike, so each input is read from front to back through a window:
//! requests follow bytes, however many partitions share an object.

use std::collections::VecDeque;
use std::ops::Range as Span;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use levee_proto::FormatError;
use levee_proto::crc::Crc32c;
use levee_proto::ids::PartitionId;
use levee_proto::object::Range;
use levee_proto::record::batch::{BatchHeader, HEADER_BYTES, check_run};
use parking_lot::Mutex;

use super::Input;
use super::plan::Run;
use super::tile::{Tile, Tiles};
use crate::budget::Budget;
use crate::store::{Kind, Store, StoreError};
use crate::upload::{Batches, SourceError};

/// Bytes of one read at most.
const READ_BYTES: u64 = 8 << 20;
/// Bytes of all windows together.
const WINDOWS_BYTES: u64 = 64 << 20;

/// Other copies of the same batches: hot segments, slots, other objects.
#[async_trait]
pub trait Copies: Send + Sync {
    /// Whole checked batches from `offset` on, from anywhere but the objects that are replaced.
    async fn other(&self, partition: PartitionId, offset: u64) -> Option<Bytes>;
}

/// The objects that a job reads, each through a window.
pub struct Windows {
    store: Store,
    budget: Arc<Budget>,
    window_bytes: u64,
    objects: Vec<Object>,
}

struct Object {
    key: Arc<str>,
    bytes: u64,
    /// What was read last, and where it stands.
    window: Mutex<(u64, Bytes)>,
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

impl ReadError {
    fn of(self, key: &str) -> SourceError {
        match self {
            Self::Store(error) => SourceError::Store(error),
            Self::Damaged(why) => SourceError::Damaged(format!("object {key}: {why}")),
        }
    }
}

impl Windows {
    pub fn new(store: Store, budget: Arc<Budget>, inputs: &[Input]) -> Self {
        let named = |input: &Input| (input.object.key().into(), input.object.bytes);
        Self::over(store, budget, inputs.iter().map(named))
    }

    /// Of one tile of a job, whose place becomes 0: reads no further than it goes.
    pub fn of_tile(store: Store, budget: Arc<Budget>, inputs: &[Input], tile: &Tile) -> Self {
        let object = &inputs[tile.input].object;
        let one = [(object.key().into(), object.bytes)];
        let all = Self::over(store, budget, one);
        Self { window_bytes: READ_BYTES.min(tile.len.max(1)), ..all }
    }

    /// Over objects by key and size.
    pub fn over(
        store: Store,
        budget: Arc<Budget>,
        objects: impl IntoIterator<Item = (Arc<str>, u64)>,
    ) -> Self {
        let objects = objects.into_iter();
        let objects: Vec<Object> =
            objects.map(|(key, bytes)| Object { key, bytes, window: Mutex::default() }).collect();
        let window_bytes = READ_BYTES.min(WINDOWS_BYTES / objects.len().max(1) as u64);
        Self { store, budget, window_bytes, objects }
    }

    /// Some bytes of an object, out of its window where they are there.
    async fn read(&self, object: &Object, span: Span<u64>) -> Result<Bytes, ReadError> {
        let (start, held) = object.window.lock().clone();
        let inside = start <= span.start && span.end <= start + held.len() as u64;
        if inside {
            let (from, to) = (span.start - start, span.end - start);
            return Ok(held.slice(from as usize..to as usize));
        }
        let end = span.end.max(span.start + self.window_bytes).min(object.bytes);
        *object.window.lock() = Default::default();
        self.budget.take(end - span.start).await;
        let got = match self.store.get_range(&object.key, span.start..end).await {
            Ok(got) => got,
            Err(error) if error.kind == Kind::Short => {
                return Err(ReadError::Damaged(error.to_string()));
            }
            Err(error) => return Err(error.into()),
        };
        let got = got.ok_or_else(|| ReadError::Damaged("it is not in the bucket".into()))?;
        *object.window.lock() = (span.start, got.clone());
        Ok(got.slice(..(span.end - span.start) as usize))
    }

    /// The first whole checked batches of some bytes of an object, at least one; up to the first
    /// that is damaged or not `fits`.
    async fn whole_batches(
        &self,
        object: &Object,
        span: Span<u64>,
        mut fits: impl FnMut(&BatchHeader) -> bool + Send,
    ) -> Result<Bytes, ReadError> {
        let left = span.end - span.start;
        let mut want = self.window_bytes.min(left);
        loop {
            let got = self.read(object, span.start..span.start + want).await?;
            let mut whole = 0;
            let mut other = None;
            let checked = check_run(&got, |at, header| {
                if !fits(header) {
                    other = Some(header.base_offset);
                    return false;
                }
                whole = at + header.bytes as usize;
                true
            });
            if whole > 0 {
                return Ok(own(&got, whole, self.window_bytes));
            }
            checked?;
            if let Some(base) = other {
                return Err(ReadError::Damaged(format!("a batch of another place, {base}")));
            }
            // One batch is larger than a read.
            let needed = match got.len() >= HEADER_BYTES {
                true => u64::from(BatchHeader::decode(&got)?.bytes),
                false => left + 1,
            };
            if needed > left || needed <= want {
                let why = format!("a batch of {needed} bytes at {}, {left} are left", span.start);
                return Err(ReadError::Damaged(why));
            }
            want = needed;
        }
    }

    /// The byte at which the batch stands that begins with `offset`.
    async fn find(&self, object: &Object, range: &Range, offset: u64) -> Result<u64, ReadError> {
        let mut at = range.pos + u64::from(range.seek(offset));
        let end = range.pos + range.len;
        while at < end {
            let batches = self.whole_batches(object, at..end, |_| true).await?;
            let mut found = None;
            let used = check_run(&batches, |_, header| {
                found = (header.end_offset() > offset).then_some(header.base_offset);
                found.is_none()
            })?;
            at += used as u64;
            match found {
                Some(base) if base == offset || (range.compacted && base > offset) => {
                    return Ok(at);
                }
                Some(base) => {
                    return Err(ReadError::Damaged(format!("a batch at {base}, none at {offset}")));
                }
                None => {}
            }
        }
        match range.compacted {
            true => Ok(end),
            false => Err(ReadError::Damaged(format!("no batch begins at {offset}"))),
        }
    }

    /// Finds the bytes of those tiles that are not whole ranges; an error comes with the input in
    /// which they were not found.
    pub async fn place(
        &self,
        inputs: &[Input],
        tiles: &mut Tiles,
    ) -> Result<(), (usize, SourceError)> {
        for tile in tiles.values_mut().flatten() {
            let range = &inputs[tile.input].footer.ranges[tile.number];
            let object = &self.objects[tile.input];
            let (mut from, mut to) = (range.pos, range.pos + range.len);
            if tile.base > range.base {
                let found = self.find(object, range, tile.base).await;
                from = found.map_err(|error| (tile.input, error.of(&object.key)))?;
            }
            if tile.end < range.end {
                let found = self.find(object, range, tile.end).await;
                to = found.map_err(|error| (tile.input, error.of(&object.key)))?;
            }
            (tile.pos, tile.len) = (from, to - from);
        }
        Ok(())
    }

    /// Whole checked batches of a range in the first object from `offset` on, with which a batch
    /// must begin; nothing where they are damaged or away.
    pub async fn read_from(&self, range: &Range, offset: u64) -> Option<Bytes> {
        let object = self.objects.first()?;
        let at = self.find(object, range, offset).await.ok()?;
        self.whole_batches(object, at..range.pos + range.len, |_| true).await.ok()
    }
}

/// The front of what was read: a copy where a slice would keep much more in memory.
fn own(read: &Bytes, len: usize, window_bytes: u64) -> Bytes {
    match (len as u64) < window_bytes / 2 {
        true => Bytes::copy_from_slice(&read[..len]),
        false => read.slice(..len),
    }
}

/// Where a tile's bytes are.
struct Piece {
    input: usize,
    at: u64,
    end: u64,
    /// First offset that is not given out yet, and the end.
    base: u64,
    last: u64,
    leader_epoch: u32,
    compacted: bool,
    /// Of what was given out, and what it must be at the end: offsets, which no batch's crc covers,
    /// do not prove each other where some were left out.
    crc: Option<(Crc32c, u32)>,
}

/// See the module.
pub struct RunBatches {
    windows: Arc<Windows>,
    copies: Arc<dyn Copies>,
    partition: PartitionId,
    pieces: VecDeque<Piece>,
}

impl RunBatches {
    pub fn new(windows: Arc<Windows>, copies: Arc<dyn Copies>, run: &Run) -> Self {
        let piece = |tile: &Tile| Piece {
            input: tile.input,
            at: tile.pos,
            end: tile.pos + tile.len,
            base: tile.base,
            last: tile.end,
            leader_epoch: tile.leader_epoch,
            compacted: tile.compacted,
            crc: tile.crc.filter(|_| tile.compacted).map(|crc| (Crc32c::default(), crc)),
        };
        let pieces = run.tiles.iter().map(piece).collect();
        Self { windows, copies, partition: run.partition, pieces }
    }
}

#[async_trait]
impl Batches for RunBatches {
    async fn next(&mut self, _offset: u64) -> Result<Option<Bytes>, SourceError> {
        while self.pieces.front().is_some_and(|piece| piece.at == piece.end) {
            self.pieces.pop_front();
        }
        let Some(piece) = self.pieces.front_mut() else { return Ok(None) };
        let object = &self.windows.objects[piece.input];
        let mut place = piece.place();
        // Offset and epoch of a batch are outside of its crc.
        let fits = |header: &BatchHeader| place.is_next(header);
        let bytes = piece.at..piece.end;
        let damaged = match self.windows.whole_batches(object, bytes, fits).await {
            Ok(batches) => {
                piece.advance(&batches)?;
                return Ok(Some(batches));
            }
            Err(ReadError::Store(error)) => return Err(error.into()),
            Err(damaged) => damaged.of(&object.key),
        };
        // Other copies have what was left out.
        let other = match piece.compacted {
            true => None,
            false => self.copies.other(self.partition, piece.base).await,
        };
        let Some(batches) = other.and_then(|other| piece.cut(other)) else { return Err(damaged) };
        tracing::warn!(partition = %self.partition, why = %damaged, "taken from another copy");
        piece.advance(&batches)?;
        Ok(Some(batches))
    }
}

impl Piece {
    fn place(&self) -> Place {
        let Self { base, last, leader_epoch, compacted, .. } = *self;
        Place { next: base, last, leader_epoch, compacted }
    }

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
        let Some((crc, wanted)) = &mut self.crc else { return Ok(()) };
        crc.update(batches);
        match self.at < self.end || crc.finish() == *wanted {
            true => Ok(()),
            false => Err(SourceError::Damaged(format!(
                "a compacted range that ends at byte {} and offset {} has another checksum",
                self.end, self.last
            ))),
        }
    }

    /// As many batches of another copy as stand in this piece.
    fn cut(&self, other: Bytes) -> Option<Bytes> {
        let (mut place, mut used) = (self.place(), 0);
        // A damaged batch behind good ones does not matter.
        let _ = check_run(&other, |at, header| {
            let fits = place.is_next(header);
            if fits {
                used = at + header.bytes as usize;
            }
            fits
        });
        let fits = used > 0 && used as u64 <= self.end - self.at;
        fits.then(|| other.slice(..used))
    }
}

/// What the next batch must be.
struct Place {
    next: u64,
    /// Exclusive.
    last: u64,
    leader_epoch: u32,
    compacted: bool,
}

impl Place {
    /// Whether a batch stands here; moves on where it does. No offset is left out but by compaction.
    fn is_next(&mut self, header: &BatchHeader) -> bool {
        let base = header.base_offset;
        let follows = base == self.next || (self.compacted && base > self.next);
        let is_inside = header.end_offset() <= self.last;
        let fits = follows && is_inside && header.leader_epoch == self.leader_epoch;
        if fits {
            self.next = header.end_offset();
        }
        fits
    }
}
