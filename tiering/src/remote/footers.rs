//! Footers of tiered objects: by one ranged read of an object's end, kept in memory by bytes.

use std::hash::{BuildHasherDefault, DefaultHasher};
use std::sync::Arc;

use futures::stream::{self, StreamExt, TryStreamExt};
use levee_proto::FormatError;
use levee_proto::object::{Footer, TRAILER_BYTES, Trailer};
use moka::future::Cache;
use thiserror::Error;

use crate::store::{Store, StoreError};

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
}

/// The same seed gives the same trace: no random hasher.
type Hasher = BuildHasherDefault<DefaultHasher>;

/// See the module.
pub struct Footers {
    store: Store,
    cache: Cache<Arc<str>, Arc<Footer>, Hasher>,
}

impl Footers {
    /// `memory`: bytes of footers that are kept.
    pub fn new(store: Store, memory: u64) -> Self {
        let cache = Cache::builder()
            .max_capacity(memory)
            .weigher(|_, footer: &Arc<Footer>| weight(footer))
            .build_with_hasher(Hasher::default());
        Self { store, cache }
    }

    /// The footer of an object of `bytes` bytes.
    pub async fn get(&self, key: &Arc<str>, bytes: u64) -> Result<Arc<Footer>, FootersError> {
        let load = self.fetch(key, bytes);
        self.cache.try_get_with(key.clone(), load).await.map_err(|error| (*error).clone())
    }

    pub fn forget_all(&self) {
        self.cache.invalidate_all();
    }

    /// As the bucket has it now, whatever is kept of it.
    pub async fn fresh(&self, key: &Arc<str>, bytes: u64) -> Result<Arc<Footer>, FootersError> {
        self.fetch(key, bytes).await
    }

    async fn fetch(&self, key: &Arc<str>, bytes: u64) -> Result<Arc<Footer>, FootersError> {
        let format = |error| FootersError::Format { key: key.to_string(), error };
        let missing = || FootersError::Missing(key.to_string());
        let from = bytes.saturating_sub(TAIL_GUESS);
        let tail = self.store.get_range(key, from..bytes).await?.ok_or_else(missing)?;
        let trailer = Trailer::decode(&tail, bytes).map_err(format)?;
        let footer_end = bytes - TRAILER_BYTES as u64;
        let footer = match trailer.footer_pos.checked_sub(from) {
            Some(at) => tail.slice(at as usize..(footer_end - from) as usize),
            None => {
                let range = trailer.footer_pos..footer_end;
                self.store.get_range(key, range).await?.ok_or_else(missing)?
            }
        };
        Ok(Arc::new(trailer.footer(&footer).map_err(format)?))
    }

    /// Footers of many objects, in the order given.
    pub async fn get_all(
        &self,
        objects: Vec<(Arc<str>, u64)>,
    ) -> Result<Vec<Arc<Footer>>, FootersError> {
        stream::iter(self.loads(objects)).buffered(SIDE_BY_SIDE).try_collect().await
    }

    /// As `get_all`, each with its own answer.
    pub async fn read_all(
        &self,
        objects: Vec<(Arc<str>, u64)>,
    ) -> Vec<Result<Arc<Footer>, FootersError>> {
        stream::iter(self.loads(objects)).buffered(SIDE_BY_SIDE).collect().await
    }

    fn loads(
        &self,
        objects: Vec<(Arc<str>, u64)>,
    ) -> impl Iterator<Item = impl Future<Output = Result<Arc<Footer>, FootersError>>> + '_ {
        objects.into_iter().map(move |(key, bytes)| async move { self.get(&key, bytes).await })
    }
}

fn weight(footer: &Footer) -> u32 {
    use levee_proto::object::Index;
    let index = |range: &levee_proto::object::Range| match &range.index {
        Index::Full(entries) => entries.len() * 48,
        Index::Sparse(entries) => entries.len() * 24,
    };
    let bytes: usize = footer.ranges.iter().map(|range| 200 + index(range)).sum();
    u32::try_from(bytes).unwrap_or(u32::MAX)
}
