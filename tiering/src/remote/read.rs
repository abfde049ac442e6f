//! Reading record batches from the bucket: aligned chunks through a byte-bounded memory cache, with
//! read-ahead. Every batch is checked before it is given out (I17).

use std::hash::{BuildHasherDefault, DefaultHasher};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use levee_proto::FormatError;
use levee_proto::head::HEAD_BYTES;
use levee_proto::ids::PartitionId;
use levee_proto::limits::SPARSE_INDEX_STRIDE;
use levee_proto::object::Range;
use levee_proto::record::seek::{Seek, next_read, seek};
use levee_runtime::Host;
use moka::future::Cache;
use thiserror::Error;
use tokio::sync::Semaphore;

use super::footers::{Footers, FootersError};
use super::index::{RangeRef, RemoteIndex};
use crate::store::{Store, StoreError};

/// Bounds of reading.
#[derive(Debug, Clone)]
pub struct ReadConfig {
    /// Memory for chunks. Default 64 MiB.
    pub cache_bytes: u64,
    /// Unit of reads. Default 1 MiB.
    pub chunk_bytes: u64,
    /// Bytes that all readers together fetch ahead. Default 16 MiB.
    pub readahead_bytes: u64,
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
}

/// Whole batches from the bucket.
#[derive(Debug, Clone)]
pub struct RemoteRead {
    pub batches: Bytes,
    /// Nothing had to be fetched.
    pub cached: bool,
}

type Hasher = BuildHasherDefault<DefaultHasher>;
type ChunkId = (Arc<str>, u64);

/// See the module.
pub struct RemoteReader {
    shared: Arc<Shared>,
    index: Arc<RemoteIndex>,
    footers: Arc<Footers>,
}

struct Shared {
    host: Host,
    store: Store,
    config: ReadConfig,
    chunks: Cache<ChunkId, Bytes, Hasher>,
    ahead: Arc<Semaphore>,
}

impl RemoteReader {
    pub fn new(
        host: Host,
        store: Store,
        config: ReadConfig,
        index: Arc<RemoteIndex>,
        footers: Arc<Footers>,
    ) -> Self {
        let chunks = Cache::builder()
            .max_capacity(config.cache_bytes)
            .weigher(|_, bytes: &Bytes| u32::try_from(bytes.len()).unwrap_or(u32::MAX))
            .build_with_hasher(Hasher::default());
        let ahead =
            Arc::new(Semaphore::new((config.readahead_bytes / config.chunk_bytes) as usize));
        Self { shared: Arc::new(Shared { host, store, config, chunks, ahead }), index, footers }
    }

    /// Whole batches of `partition`, the first one holding `offset` or the next one above it; up to
    /// `max_bytes`, at least one. Nothing where no object holds anything at or above `offset`.
    pub async fn read(
        &self,
        partition: PartitionId,
        offset: u64,
        max_bytes: usize,
    ) -> Result<Option<RemoteRead>, RemoteError> {
        let Some(place) = self.index.locate(partition, offset) else { return Ok(None) };
        let started = self.shared.host.now();
        let footer = self.footers.get(&place.key, place.object_bytes).await?;
        let missing = || RemoteError::Missing(place.key.to_string());
        let range = footer.ranges.get(place.number as usize).ok_or_else(missing)?;
        let first = self.read_range(&place, range, offset, max_bytes).await;
        let read = match first {
            Err(RemoteError::Corrupt { key, pos, .. }) => {
                // The copy in memory may be the damaged one: once more from the bucket.
                tracing::warn!(key, pos, "damaged bytes read from the bucket, fetching again");
                self.shared.forget(&place.key, range).await;
                self.read_range(&place, range, offset, max_bytes).await
            }
            other => other,
        }?;
        let took = self.shared.host.now().since(started).as_secs_f64();
        metrics::histogram!("levee_remote_read_seconds").record(took);
        metrics::gauge!("levee_cache_bytes").set(self.shared.chunks.weighted_size() as f64);
        Ok(Some(read))
    }

    async fn read_range(
        &self,
        place: &RangeRef,
        range: &Range,
        offset: u64,
        max_bytes: usize,
    ) -> Result<RemoteRead, RemoteError> {
        let mut at = u64::from(range.seek(offset));
        let mut len = (max_bytes.saturating_add(SPARSE_INDEX_STRIDE) as u64).min(range.len - at);
        let mut cached = true;
        loop {
            let (bytes, from_cache) =
                self.shared.bytes(&place.key, place.object_bytes, range.pos + at, len).await?;
            cached &= from_cache;
            let corrupt = |error| RemoteError::Corrupt {
                key: place.key.to_string(),
                pos: range.pos + at,
                offset,
                error,
            };
            match seek(&bytes, offset, max_bytes).map_err(corrupt)? {
                Seek::Batches(found) => {
                    self.shared.read_ahead(place, range.pos + at + found.end as u64, range);
                    return Ok(RemoteRead { batches: bytes.slice(found), cached });
                }
                Seek::Needs { from, bytes } => {
                    (at, len) = next_read((at, len, range.len), from, bytes).map_err(corrupt)?;
                }
            }
        }
    }

    /// Drops what is in memory.
    pub fn clear(&self) {
        self.shared.chunks.invalidate_all();
        self.footers.forget_all();
    }
}

impl Shared {
    /// Bytes of an object through the cache, and whether all of them were there.
    async fn bytes(
        self: &Arc<Self>,
        key: &Arc<str>,
        object_bytes: u64,
        pos: u64,
        len: u64,
    ) -> Result<(Bytes, bool), RemoteError> {
        let size = self.config.chunk_bytes;
        let (first, last) = (pos / size, (pos + len.max(1) - 1) / size);
        let mut pieces = Vec::with_capacity((last - first + 1) as usize);
        let mut cached = true;
        for number in first..=last {
            let (chunk, from_cache) = self.chunk(key, object_bytes, number).await?;
            cached &= from_cache;
            let start = number * size;
            let from = pos.saturating_sub(start).min(chunk.len() as u64) as usize;
            let to = (pos + len - start).min(chunk.len() as u64) as usize;
            pieces.push(chunk.slice(from..to));
        }
        if let [one] = pieces.as_slice() {
            return Ok((one.clone(), cached));
        }
        let mut joined = BytesMut::with_capacity(len as usize);
        pieces.iter().for_each(|piece| joined.extend_from_slice(piece));
        Ok((joined.freeze(), cached))
    }

    /// One chunk; many readers share one fetch. It runs on its own task: a caller that gives up
    /// does not stop it.
    async fn chunk(
        self: &Arc<Self>,
        key: &Arc<str>,
        object_bytes: u64,
        number: u64,
    ) -> Result<(Bytes, bool), RemoteError> {
        let id = (key.clone(), number);
        if let Some(found) = self.chunks.get(&id).await {
            metrics::counter!("levee_cache_hits_total").increment(1);
            return Ok((found, true));
        }
        metrics::counter!("levee_cache_misses_total").increment(1);
        let shared = self.clone();
        let fetched = self.host.spawn("chunk", async move {
            let load = shared.fetch(&id.0, object_bytes, number);
            let got = shared.chunks.try_get_with(id.clone(), load).await;
            got.map_err(|error| (*error).clone())
        });
        let stopped = || RemoteError::Missing(key.to_string());
        Ok((fetched.await.ok_or_else(stopped)??, false))
    }

    async fn fetch(&self, key: &str, object_bytes: u64, number: u64) -> Result<Bytes, RemoteError> {
        let start = number * self.config.chunk_bytes;
        let end = (start + self.config.chunk_bytes).min(object_bytes);
        let got = self.store.get_range(key, start..end).await?;
        got.ok_or_else(|| RemoteError::Missing(key.to_owned()))
    }

    /// Fetches the chunks after `pos` as far as the range goes and the bound allows.
    fn read_ahead(self: &Arc<Self>, place: &RangeRef, pos: u64, range: &Range) {
        const CHUNKS: u64 = 4;
        let size = self.config.chunk_bytes;
        let last = (range.pos + range.len - 1) / size;
        let next = pos / size;
        for number in next..=last.min(next + CHUNKS) {
            let id = (place.key.clone(), number);
            if self.chunks.contains_key(&id) {
                continue;
            }
            let Ok(permit) = self.ahead.clone().try_acquire_owned() else { return };
            let (shared, key, bytes) = (self.clone(), place.key.clone(), place.object_bytes);
            drop(self.host.spawn("read-ahead", async move {
                let load = shared.fetch(&key, bytes, number);
                // What fails here is asked for again by the read that needs it.
                drop(shared.chunks.try_get_with(id, load).await);
                drop(permit);
            }));
        }
    }

    async fn forget(&self, key: &Arc<str>, range: &Range) {
        let size = self.config.chunk_bytes;
        let from = range.pos.max(HEAD_BYTES as u64) / size;
        for number in from..=(range.pos + range.len) / size {
            self.chunks.invalidate(&(key.clone(), number)).await;
        }
    }
}
