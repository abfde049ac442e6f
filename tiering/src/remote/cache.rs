//! Chunks of objects: in memory, on this disk, or fetched from the bucket once for all who ask.
//!
//! What comes from the bucket goes into memory; it is written to the disk only when somebody uses
//! it again: passes over it a second time, reads beside another reader, or asks for it again within
//! the ghost window. So a backfill of everything flushes neither.
//!
//! Owns: the levels and their order, what is admitted to the disk, how many fetches run side by
//! side. Does not own: which chunks a read needs (`read`), or will need (`ahead`).

mod disk;
mod entry;
mod flights;
mod ghost;
mod memory;

use std::hash::{BuildHasherDefault, DefaultHasher};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use levee_proto::keys;
use levee_runtime::Host;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::read::RemoteError;
use crate::store::Store;
pub use disk::DiskCache;
pub(crate) use flights::{Flight, Flights, Hurry};
use ghost::Ghost;
use memory::Memory;

/// Fetches from the bucket side by side, and how many of them may be for what is only read ahead:
/// the rest is for readers that wait.
const FETCHES: usize = 32;
const FETCHES_AHEAD: usize = 24;
/// How long a fetch waits for its turn.
const TURN_LIMIT: Duration = Duration::from_secs(30);
/// Most chunks that are remembered after they are gone (40 bytes each).
const GHOSTS_MAX: u64 = 1 << 20;
const GHOSTS_MIN: u64 = 256;

/// The same seed gives the same trace: no random hasher.
pub(crate) type Hasher = BuildHasherDefault<DefaultHasher>;

/// A piece of an object: a chunk, which begins at `number * chunk_bytes`, or the footer, whose
/// number is the size of its object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkId {
    pub object: Arc<str>,
    pub number: u64,
}

impl ChunkId {
    /// Whether it can name only these bytes for ever. Slots have no nonce in their keys: where a
    /// bucket is put back to what it was, other slots get the same ones.
    pub(crate) fn lasts(&self) -> bool {
        keys::slot_of(&self.object).is_none()
    }
}

/// Where a chunk was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    Memory,
    Disk,
    Bucket,
}

/// Who asks: a reader that waits for it, or one that may want it soon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Urgency {
    Waiting,
    Ahead,
}

pub(crate) type Chunk = Result<(Bytes, Level), RemoteError>;

/// See the module.
pub(crate) struct Chunks {
    host: Host,
    store: Store,
    chunk_bytes: u64,
    memory: Memory,
    disk: Option<Arc<DiskCache>>,
    ghost: Mutex<Ghost>,
    flights: Flights<ChunkId, Chunk>,
    fetches: Semaphore,
    ahead: Semaphore,
}

/// A chunk that is there, or on its way.
#[derive(Clone)]
pub(crate) enum Coming {
    Here(Bytes),
    Flight(Flight<Chunk>),
}

impl Coming {
    pub(crate) fn is_here(&self) -> bool {
        match self {
            Self::Here(_) => true,
            Self::Flight(flight) => futures::FutureExt::now_or_never(flight.clone()).is_some(),
        }
    }

    pub(crate) fn has_failed(&self) -> bool {
        match self {
            Self::Here(_) => false,
            Self::Flight(flight) => {
                let landed = futures::FutureExt::now_or_never(flight.clone());
                landed.is_some_and(|chunk| !matches!(chunk, Some(Ok(_))))
            }
        }
    }

    pub(crate) async fn get(self, id: &ChunkId) -> Chunk {
        match self {
            Self::Here(bytes) => Ok((bytes, Level::Memory)),
            Self::Flight(flight) => {
                flight.await.unwrap_or_else(|| Err(RemoteError::Stopped(id.object.to_string())))
            }
        }
    }
}

impl Chunks {
    pub(crate) fn new(
        host: Host,
        store: Store,
        memory_bytes: u64,
        chunk_bytes: u64,
        disk: Option<Arc<DiskCache>>,
    ) -> Self {
        Self {
            host,
            store,
            chunk_bytes,
            memory: Memory::new(memory_bytes),
            disk,
            ghost: Mutex::default(),
            flights: Flights::new(),
            fetches: Semaphore::new(FETCHES),
            ahead: Semaphore::new(FETCHES_AHEAD),
        }
    }

    pub(crate) fn chunk_bytes(&self) -> u64 {
        self.chunk_bytes
    }

    /// A chunk that is in memory, or on its way.
    pub(crate) fn ask(
        self: &Arc<Self>,
        id: &ChunkId,
        object_bytes: u64,
        urgency: Urgency,
    ) -> Coming {
        match self.memory.peek(id) {
            Some(bytes) => Coming::Here(bytes),
            None => self.fetch(id, object_bytes, urgency),
        }
    }

    /// Counts a use of chunks by a read that found its batches at these bytes of an object, in the
    /// range that begins at `range`. A second use is what the disk waits for.
    pub(crate) fn used(&self, object: &Arc<str>, range: u64, bytes: Range<u64>) {
        for number in bytes.start / self.chunk_bytes..=(bytes.end - 1) / self.chunk_bytes {
            let id = ChunkId { object: object.clone(), number };
            let again = self.memory.used(&id, range, bytes.start);
            if let (Some(chunk), Some(disk)) = (again, self.disk_of(&id)) {
                disk.put(id, chunk);
            }
        }
    }

    /// The disk, where it may keep this.
    fn disk_of(&self, id: &ChunkId) -> Option<&Arc<DiskCache>> {
        self.disk.as_ref().filter(|_| id.lasts())
    }

    fn fetch(self: &Arc<Self>, id: &ChunkId, object_bytes: u64, urgency: Urgency) -> Coming {
        let (chunks, wanted) = (self.clone(), id.clone());
        let (flight, is_joined) =
            self.flights.join(&self.host, "chunk", id.clone(), |hurry| async move {
                chunks.load(&wanted, object_bytes, (urgency, hurry)).await
            });
        if is_joined {
            metrics::counter!("levee_cache_joined_total").increment(1);
            if urgency == Urgency::Waiting {
                self.hurry(id);
            }
        }
        Coming::Flight(flight)
    }

    /// Somebody waits for a chunk that is on its way.
    pub(crate) fn hurry(&self, id: &ChunkId) {
        self.flights.hurry(id);
    }

    async fn load(&self, id: &ChunkId, object_bytes: u64, asked: (Urgency, Hurry)) -> Chunk {
        count("memory", false);
        if let Some(disk) = self.disk_of(id) {
            let found = disk.get(id).await;
            count("disk", found.is_some());
            if let Some(bytes) = found {
                self.insert(id, &bytes);
                return Ok((bytes, Level::Disk));
            }
        }
        let turn = self.turn(asked).await;
        let _turn = turn.ok_or_else(|| RemoteError::Busy(id.object.to_string()))?;
        if self.flights.unwanted(id) {
            return Err(RemoteError::Stopped(id.object.to_string()));
        }
        let start = id.number * self.chunk_bytes;
        let end = (start + self.chunk_bytes).min(object_bytes);
        let got = self.store.get_range(&id.object, start..end).await?;
        let bytes = got.ok_or_else(|| RemoteError::Missing(id.object.to_string()))?;
        if let Some(disk) = self.disk_of(id) {
            let room = (disk.allowed() / self.chunk_bytes).clamp(GHOSTS_MIN, GHOSTS_MAX) as usize;
            if self.ghost.lock().seen(entry::fingerprint(id), room) {
                disk.put(id.clone(), bytes.clone());
            }
        }
        self.insert(id, &bytes);
        Ok((bytes, Level::Bucket))
    }

    /// Waits for a place among the fetches. What is read ahead has fewer of them, until somebody
    /// waits for it.
    async fn turn(&self, (urgency, hurry): (Urgency, Hurry)) -> Option<impl Sized + '_> {
        let ahead = match urgency {
            Urgency::Waiting => None,
            Urgency::Ahead => tokio::select! {
                biased;
                () = hurry.notified() => None,
                turn = self.host.timeout(TURN_LIMIT, self.ahead.acquire()) => Some(turn.ok()?),
            },
        };
        let turn = self.host.timeout(TURN_LIMIT, self.fetches.acquire()).await;
        Some((ahead, turn.ok()?))
    }

    fn insert(&self, id: &ChunkId, bytes: &Bytes) {
        self.memory.insert(id.clone(), bytes.clone());
        metrics::gauge!("levee_cache_bytes", "level" => "memory", "cache" => "chunks")
            .set(self.memory.bytes() as f64);
    }

    /// Its bytes are wrong, wherever they are from: only the bucket may be believed next.
    pub(crate) fn forget(&self, id: &ChunkId) {
        self.memory.remove(id);
        if let Some(disk) = &self.disk {
            disk.forget(id);
        }
    }

    /// Drops all copies.
    pub(crate) async fn clear(&self) {
        self.memory.clear();
        self.ghost.lock().clear();
        if let Some(disk) = &self.disk {
            disk.clear().await;
        }
    }
}

/// Counts a look into a level.
pub(crate) fn count(level: &'static str, found: bool) {
    match found {
        true => metrics::counter!("levee_cache_hits_total", "level" => level).increment(1),
        false => metrics::counter!("levee_cache_misses_total", "level" => level).increment(1),
    }
}
