//! Reading record batches from the bucket, through the cache and with read-ahead. Every batch is
//! checked before it is given out (I17).

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use levee_proto::FormatError;
use levee_proto::head::HEAD_BYTES;
use levee_proto::ids::PartitionId;
use levee_proto::limits::SPARSE_INDEX_STRIDE;
use levee_proto::object::Range;
use levee_proto::record::seek::{Run, Seek, next_read, seek};
use levee_runtime::Host;
use thiserror::Error;

use super::ahead::{Ahead, Answered, ReadAhead, Strays};
use super::cache::{ChunkId, Chunks, Coming, DiskCache, Level, Urgency, count};
use super::footers::{Footers, FootersError};
use super::index::{RangeRef, RemoteIndex};
use crate::store::{Store, StoreError};

/// Bounds of reading.
#[derive(Debug, Clone)]
pub struct ReadConfig {
    /// Memory for chunks.
    pub cache_bytes: u64,
    /// Unit of reads.
    pub chunk_bytes: u64,
    /// Bytes that are fetched ahead of one reader.
    pub readahead_bytes: u64,
    /// Bytes that are fetched ahead of all readers together.
    pub readahead_total_bytes: u64,
}

#[derive(Debug, Clone, Error)]
pub enum RemoteError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Footer(#[from] FootersError),
    /// It was referenced when it was located; look again.
    #[error("object {0} is not in the bucket")]
    Missing(String),
    #[error("object {key}, byte {pos}, offset {offset}: {error}")]
    Corrupt { key: String, pos: u64, offset: u64, error: FormatError },
    /// The bucket is slow, and many read from it.
    #[error("object {0} waits behind too many others that are read from the bucket")]
    Busy(String),
    /// The process ends.
    #[error("reading object {0} was stopped")]
    Stopped(String),
}

/// Whole batches from the bucket.
#[derive(Debug, Clone)]
pub struct RemoteRead {
    /// None where compaction left out all that stood between the offset and `next_offset`.
    pub batches: Bytes,
    /// Offset after the last of them, or the end of their range.
    pub next_offset: u64,
    /// Nothing holds the offset that was asked for: the batches begin above it.
    pub is_hole: bool,
    /// Nothing was fetched for it, or it was fetched ahead.
    pub cached: bool,
}

/// See the module.
pub struct RemoteReader {
    host: Host,
    chunks: Arc<Chunks>,
    ahead: Arc<Ahead>,
    strays: Strays,
    index: Arc<RemoteIndex>,
    footers: Arc<Footers>,
}

/// Bytes of an object, and where they came from.
struct Stretch {
    bytes: Bytes,
    cached: bool,
    has_waited: bool,
}

/// Batches of a range, and what stands behind them.
struct Found {
    read: RemoteRead,
    pos: u64,
    has_waited: bool,
}

impl RemoteReader {
    /// `disk`: where chunks are kept beside memory.
    pub fn new(
        host: Host,
        store: Store,
        config: ReadConfig,
        index: Arc<RemoteIndex>,
        footers: Arc<Footers>,
        disk: Option<Arc<DiskCache>>,
    ) -> Self {
        let ReadConfig { cache_bytes, chunk_bytes, .. } = config;
        let chunks = Chunks::new(host.clone(), store, cache_bytes, chunk_bytes, disk);
        let chunks = Arc::new(chunks);
        let ahead = Arc::new(Ahead::new(
            host.clone(),
            chunks.clone(),
            index.clone(),
            footers.clone(),
            (config.readahead_bytes, config.readahead_total_bytes),
        ));
        Self { host, chunks, ahead, strays: Strays::default(), index, footers }
    }

    /// The window of a reader that goes from offset to offset, for `read`.
    pub fn read_ahead(&self) -> ReadAhead {
        ReadAhead::new(self.ahead.clone())
    }

    /// Bytes that are held for readers that go on, or on their way to them.
    pub fn ahead_bytes(&self) -> u64 {
        self.ahead.held_bytes()
    }

    /// Whole batches of `partition`, the first one holding `offset` or the next one above it; up to
    /// `max_bytes`, at least one. Nothing where no object holds anything at or above `offset`. A
    /// reader without a window of its own is known by where it goes on.
    pub async fn read(
        &self,
        partition: PartitionId,
        offset: u64,
        max_bytes: usize,
        ahead: Option<&ReadAhead>,
    ) -> Result<Option<RemoteRead>, RemoteError> {
        let next_offset = self.index.past_empty(partition, offset);
        if next_offset > offset {
            let batches = Bytes::new();
            return Ok(Some(RemoteRead { batches, next_offset, is_hole: false, cached: true }));
        }
        let Some(place) = self.index.locate(partition, offset) else { return Ok(None) };
        let started = self.host.now();
        let stray = ahead.is_none().then(|| self.strays.take(&self.ahead, partition, offset));
        let window = ahead.or(stray.as_ref());
        let footer = self.footers.get(&place.wanted()).await?;
        let missing = || RemoteError::Missing(place.key.to_string());
        let range = footer.ranges.get(place.number as usize).ok_or_else(missing)?;
        let first = self.read_range(&place, range, offset, max_bytes, window).await;
        let found = match first {
            Err(RemoteError::Corrupt { key, pos, .. }) => {
                // A copy of this broker may be the damaged one: once more from the bucket.
                tracing::warn!(key, pos, "damaged bytes read from the bucket, fetching again");
                self.forget(&place.key, range, window);
                self.read_range(&place, range, offset, max_bytes, None).await
            }
            other => other,
        }?;
        if let Some(window) = window {
            window.answered(&Answered {
                partition,
                place: &place,
                footer: &footer,
                from: offset,
                next: found.read.next_offset,
                pos: found.pos,
                has_waited: found.has_waited,
            });
        }
        if let Some(stray) = stray {
            self.strays.put_back(stray);
        }
        let took = self.host.now().since(started).as_secs_f64();
        metrics::histogram!("levee_remote_read_seconds").record(took);
        Ok(Some(found.read))
    }

    async fn read_range(
        &self,
        place: &RangeRef,
        range: &Range,
        offset: u64,
        max_bytes: usize,
        ahead: Option<&ReadAhead>,
    ) -> Result<Found, RemoteError> {
        // A reader that goes on begins at its batch, any other one a little before.
        let known = ahead.and_then(|ahead| ahead.place(&place.key, offset));
        let known = known.and_then(|pos| pos.checked_sub(range.pos)).filter(|at| *at < range.len);
        let (block, base) = range.block(offset);
        let (mut at, next) = known.map_or((u64::from(block), base), |at| (at, offset));
        let Range { end, leader_epoch, compacted, .. } = *range;
        let mut run = Run { next, end, leader_epoch, compacted };
        let is_hole = place.base > offset;
        // Nothing is left of what followed.
        let rest = || {
            let batches = Bytes::new();
            let read = RemoteRead { batches, next_offset: end, is_hole, cached: true };
            Found { read, pos: range.pos + range.len, has_waited: false }
        };
        if compacted && at == range.len {
            return Ok(rest());
        }
        let spare = if known.is_some() { 0 } else { SPARSE_INDEX_STRIDE };
        let mut len = (max_bytes.saturating_add(spare) as u64).min(range.len - at);
        let (mut cached, mut has_waited) = (true, false);
        loop {
            let stretch = self.bytes(place, range.pos + at, len, ahead).await?;
            cached &= stretch.cached;
            has_waited |= stretch.has_waited;
            let corrupt = |error| RemoteError::Corrupt {
                key: place.key.to_string(),
                pos: range.pos + at,
                offset,
                error,
            };
            match seek(&stretch.bytes, &mut run, offset, max_bytes).map_err(corrupt)? {
                Seek::Batches(found) => {
                    let batches = self.own(stretch.bytes.slice(found.clone()));
                    let start = range.pos + at;
                    let pos = start + found.end as u64;
                    self.chunks.used(&place.key, range.pos, start + found.start as u64..pos);
                    let is_last = compacted && pos == range.pos + range.len;
                    let next_offset = if is_last { end } else { run.next };
                    let read = RemoteRead { batches, next_offset, is_hole, cached };
                    return Ok(Found { read, pos, has_waited });
                }
                Seek::Needs { from, .. } if compacted && at + from as u64 == range.len => {
                    return Ok(rest());
                }
                Seek::Needs { from, bytes } => {
                    (at, len) = next_read((at, len, range.len), from, bytes).map_err(corrupt)?;
                }
            }
        }
    }

    /// Bytes of an object. All its chunks are asked for at once.
    async fn bytes(
        &self,
        place: &RangeRef,
        pos: u64,
        len: u64,
        ahead: Option<&ReadAhead>,
    ) -> Result<Stretch, RemoteError> {
        let size = self.chunks.chunk_bytes();
        let (first, last) = (pos / size, (pos + len.max(1) - 1) / size);
        let asked: Vec<(ChunkId, Coming)> = (first..=last)
            .map(|number| {
                let id = ChunkId { object: place.key.clone(), number };
                let prepared = ahead.and_then(|ahead| ahead.take(&id));
                // What was read ahead and is not here yet is waited for now.
                if prepared.as_ref().is_some_and(|chunk| !chunk.is_here()) {
                    self.chunks.hurry(&id);
                }
                let ask = || self.chunks.ask(&id, place.object_bytes, Urgency::Waiting);
                let chunk = prepared.unwrap_or_else(ask);
                (id, chunk)
            })
            .collect();
        let (mut pieces, mut cached, mut has_waited) = (Vec::new(), true, false);
        for (id, chunk) in asked {
            let is_here = chunk.is_here();
            let (bytes, level) = chunk.get(&id).await?;
            let level = if is_here { Level::Memory } else { level };
            if is_here {
                count("memory", true);
            }
            has_waited |= !is_here;
            cached &= level < Level::Bucket;
            let start = id.number * size;
            let from = pos.saturating_sub(start).min(bytes.len() as u64) as usize;
            let to = (pos + len - start).min(bytes.len() as u64) as usize;
            pieces.push(bytes.slice(from..to));
        }
        Ok(Stretch { bytes: join(pieces, len), cached, has_waited })
    }

    /// A small part of a chunk would keep all of it in memory.
    fn own(&self, batches: Bytes) -> Bytes {
        match (batches.len() as u64) < self.chunks.chunk_bytes() / 4 {
            true => Bytes::copy_from_slice(&batches),
            false => batches,
        }
    }

    /// Drops every copy of a range.
    fn forget(&self, key: &Arc<str>, range: &Range, ahead: Option<&ReadAhead>) {
        let size = self.chunks.chunk_bytes();
        let from = range.pos.max(HEAD_BYTES as u64) / size;
        for number in from..=(range.pos + range.len) / size {
            self.chunks.forget(&ChunkId { object: key.clone(), number });
        }
        if let Some(ahead) = ahead {
            ahead.forget();
        }
    }

    /// Drops all copies.
    pub async fn clear(&self) {
        self.strays.clear();
        self.chunks.clear().await;
        self.footers.forget_all().await;
    }
}

fn join(mut pieces: Vec<Bytes>, len: u64) -> Bytes {
    match pieces.len() {
        1 => pieces.swap_remove(0),
        _ => {
            let mut joined = BytesMut::with_capacity(len as usize);
            pieces.iter().for_each(|piece| joined.extend_from_slice(piece));
            joined.freeze()
        }
    }
}
