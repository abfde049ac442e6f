//! Footers of tiered objects: by one ranged read of an object's end, kept in memory by bytes, and on
//! this disk, so that the next start needs no request for each object.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::stream::{self, StreamExt, TryStreamExt};
use levee_proto::FormatError;
use levee_proto::crc::crc32c;
use levee_proto::ids::LaneId;
use levee_proto::keys;
use levee_proto::metalog::ObjectRef;
use levee_proto::object::{AbortedTxn, Footer, Index, Range, TRAILER_BYTES, Trailer};
use levee_runtime::Host;
use moka::sync::Cache;
use thiserror::Error;

use super::cache::{ChunkId, DiskCache, Flight, Flights, Hasher, count};
use crate::store::{Kind, Store, StoreError};

/// The last bytes of an object that are fetched first; most footers fit.
const TAIL_GUESS: u64 = 64 << 10;
/// Footers fetched side by side.
const SIDE_BY_SIDE: usize = 64;

#[derive(Debug, Clone, Error)]
pub enum FootersError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("object {key}: {error}")]
    Format { key: String, error: FormatError },
    #[error("object {0} is referenced and not in the bucket")]
    Missing(String),
    /// The process ends.
    #[error("reading the footer of object {0} was stopped")]
    Stopped(String),
}

/// An object whose footer is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    pub key: Arc<str>,
    pub bytes: u64,
    /// What its reference says of it; nothing for a slot.
    pub footer_crc: Option<u32>,
}

impl Wanted {
    /// Of an object that is referenced.
    pub fn object(object: &ObjectRef) -> Self {
        let (bytes, footer_crc) = (object.bytes, Some(object.footer_crc));
        Self { key: object.key().into(), bytes, footer_crc }
    }

    pub fn slot(lane: LaneId, slot: u64, bytes: u64) -> Self {
        Self { key: keys::lane_slot(lane, slot).into(), bytes, footer_crc: None }
    }

    fn format(&self, error: FormatError) -> FootersError {
        FootersError::Format { key: self.key.to_string(), error }
    }
}

type Outcome = Result<Arc<Footer>, FootersError>;

/// See the module.
pub struct Footers {
    host: Host,
    from: Arc<From>,
    flights: Flights<Arc<str>, Outcome>,
}

struct From {
    store: Store,
    /// It looks after itself by the real clock: a simulated run must not fill it.
    memory: Cache<Arc<str>, Arc<Footer>, Hasher>,
    disk: Option<Arc<DiskCache>>,
}

impl Footers {
    /// `memory`: bytes of footers that are kept there.
    pub fn new(host: Host, store: Store, memory: u64, disk: Option<Arc<DiskCache>>) -> Self {
        let memory = Cache::builder()
            .max_capacity(memory)
            .weigher(|key: &Arc<str>, footer: &Arc<Footer>| weight(key, footer))
            .build_with_hasher(Hasher::default());
        let from = Arc::new(From { store, memory, disk });
        Self { host, from, flights: Flights::new() }
    }

    /// The footer of an object.
    pub async fn get(&self, wanted: &Wanted) -> Outcome {
        match self.from.memory.get(&wanted.key) {
            Some(footer) => Ok(footer),
            None => {
                let loaded = self.load(wanted).await;
                loaded.unwrap_or_else(|| Err(FootersError::Stopped(wanted.key.to_string())))
            }
        }
    }

    /// A footer that is in memory.
    pub(crate) fn here(&self, key: &Arc<str>) -> Option<Arc<Footer>> {
        self.from.memory.get(key)
    }

    /// Has a footer fetched that will be asked for soon.
    pub(crate) fn prepare(&self, wanted: &Wanted) {
        drop(self.load(wanted));
    }

    fn load(&self, wanted: &Wanted) -> Flight<Outcome> {
        let (from, key, wanted) = (self.from.clone(), wanted.key.clone(), wanted.clone());
        self.flights.join(&self.host, "footer", key, |_| async move { from.load(&wanted).await }).0
    }

    /// Footers of many objects, in the order given.
    pub async fn get_all(&self, objects: Vec<Wanted>) -> Result<Vec<Arc<Footer>>, FootersError> {
        stream::iter(self.loads(objects)).buffered(SIDE_BY_SIDE).try_collect().await
    }

    /// As `get_all`, each with its own answer.
    pub async fn read_all(&self, objects: Vec<Wanted>) -> Vec<Outcome> {
        stream::iter(self.loads(objects)).buffered(SIDE_BY_SIDE).collect().await
    }

    fn loads(
        &self,
        objects: Vec<Wanted>,
    ) -> impl Iterator<Item = impl Future<Output = Outcome>> + '_ {
        objects.into_iter().map(move |wanted| async move { self.get(&wanted).await })
    }

    /// Keeps the footer of an object that this process wrote, for its next start.
    pub fn written(&self, key: &str, bytes: u64, footer: &Footer) {
        let Some(disk) = &self.from.disk else { return };
        let encoded = footer.encode();
        let Some(before) = bytes.checked_sub((encoded.len() + TRAILER_BYTES) as u64) else {
            return;
        };
        let trailer = Trailer {
            footer_pos: before,
            footer_len: encoded.len() as u32,
            footer_crc: crc32c(&encoded),
            // Of data that nobody checks by this copy.
            body_crc: 0,
        };
        disk.put(ChunkId { object: key.into(), number: bytes }, end_of(&encoded, &trailer));
    }

    pub async fn forget_all(&self) {
        self.from.memory.invalidate_all();
        if let Some(disk) = &self.from.disk {
            disk.clear().await;
        }
    }
}

impl From {
    async fn load(&self, wanted: &Wanted) -> Outcome {
        let Wanted { key, bytes, .. } = wanted;
        let id = ChunkId { object: key.clone(), number: *bytes };
        let disk = self.disk.as_ref().filter(|_| id.lasts());
        if let Some(disk) = disk {
            let kept = disk.get(&id).await;
            count("footers", kept.is_some());
            if let Some(footer) = kept.and_then(|end| decoded(&end, wanted)) {
                self.memory.insert(key.clone(), footer.clone());
                return Ok(footer);
            }
        }
        let (footer, end) = match fetch(&self.store, wanted).await {
            // It may have been damaged on its way: once more.
            Err(FootersError::Format { error, .. }) => {
                tracing::warn!(%key, %error, "a damaged footer was read, fetching again");
                fetch(&self.store, wanted).await
            }
            fetched => fetched,
        }?;
        if let Some(disk) = disk {
            disk.put(id, end);
        }
        self.memory.insert(key.clone(), footer.clone());
        Ok(footer)
    }
}

/// A footer as the bucket has it now.
pub async fn read_footer(store: &Store, wanted: &Wanted) -> Outcome {
    Ok(fetch(store, wanted).await?.0)
}

/// As `read_footer`, for many objects, each with its own answer.
pub async fn read_footers(store: &Store, objects: Vec<Wanted>) -> Vec<Outcome> {
    let read = |wanted: Wanted| async move { read_footer(store, &wanted).await };
    stream::iter(objects.into_iter().map(read)).buffered(SIDE_BY_SIDE).collect().await
}

/// Also the end of the object from the footer on.
async fn fetch(store: &Store, wanted: &Wanted) -> Result<(Arc<Footer>, Bytes), FootersError> {
    let Wanted { key, bytes, footer_crc } = wanted;
    let format = |error| wanted.format(error);
    let missing = || FootersError::Missing(key.to_string());
    if *bytes < TRAILER_BYTES as u64 {
        let why = format!("{bytes} bytes, a trailer has {TRAILER_BYTES}");
        return Err(format(FormatError::new("object", 0, why)));
    }
    let from = bytes.saturating_sub(TAIL_GUESS);
    let tail = match store.get_range(key, from..*bytes).await {
        // The object is there and ends early: that is no trouble of the store.
        Err(short) if short.kind == Kind::Short => {
            return Err(format(FormatError::new("object", 0, short.message)));
        }
        read => read?.ok_or_else(missing)?,
    };
    let trailer = Trailer::decode(&tail, *bytes).map_err(format)?;
    if footer_crc.is_some_and(|crc| crc != trailer.footer_crc) {
        let why = "its footer is another one than was referenced";
        return Err(format(FormatError::new("object", 0, why)));
    }
    let footer_end = bytes - TRAILER_BYTES as u64;
    let footer = match trailer.footer_pos.checked_sub(from) {
        Some(at) => tail.slice(at as usize..(footer_end - from) as usize),
        None => {
            let range = trailer.footer_pos..footer_end;
            store.get_range(key, range).await?.ok_or_else(missing)?
        }
    };
    Ok((Arc::new(trailer.footer(&footer).map_err(format)?), end_of(&footer, &trailer)))
}

/// Footer and trailer, as they stand in an object.
fn end_of(footer: &[u8], trailer: &Trailer) -> Bytes {
    let mut end = BytesMut::with_capacity(footer.len() + TRAILER_BYTES);
    end.extend_from_slice(footer);
    end.extend_from_slice(&trailer.encode());
    end.freeze()
}

/// The footer in the end of an object, if it is the one that is wanted.
fn decoded(end: &[u8], wanted: &Wanted) -> Option<Arc<Footer>> {
    let trailer = Trailer::decode(end, wanted.bytes).ok()?;
    let is_wanted = wanted.footer_crc.is_none_or(|crc| crc == trailer.footer_crc);
    let footer = end.get(..trailer.footer_len as usize).filter(|_| is_wanted)?;
    trailer.footer(footer).ok().map(Arc::new)
}

/// Bytes in memory, producers and aborted transactions included.
fn weight(key: &str, footer: &Footer) -> u32 {
    let range = |range: &Range| {
        let index = match &range.index {
            Index::Full(entries) => entries.len() * 48,
            Index::Sparse(entries) => entries.len() * 24,
        };
        let producers = range.producers.as_ref().map_or(0, |all| 2 * all.encoded_len());
        200 + index + producers + range.aborted.len() * size_of::<AbortedTxn>()
    };
    let ranges: usize = footer.ranges.iter().map(range).sum();
    u32::try_from(key.len() + 100 + ranges).unwrap_or(u32::MAX)
}
