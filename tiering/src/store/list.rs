//! Listing a folder, page by page.

use std::time::Duration;

use futures::TryStreamExt;
use futures::stream::TryReadyChunksError;
use levee_runtime::Backoff;
use object_store::ObjectMeta;
use object_store::path::Path;

use super::{Op, Store, StoreError};

/// Objects of one page: what S3 gives at once.
const PAGE: usize = 1000;

/// Objects that are listed and looked at at a time.
const TURN: usize = 10_000;

/// An object in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Below the root.
    pub key: String,
    pub bytes: u64,
    /// As the store says; for age only.
    pub modified_ms: i64,
}

impl Store {
    /// All objects below a folder, sorted by key.
    pub async fn list(&self, folder: &str) -> Result<Vec<Listed>, StoreError> {
        self.list_some(folder, None, usize::MAX).await
    }

    /// As `list`, some at a time.
    pub fn listing(&self, folder: &str) -> Listing<'_> {
        Listing { store: self, folder: folder.to_owned(), after: None, is_over: false }
    }

    /// The first objects below a folder, after a key if one is named, sorted by key; fewer than
    /// `max` only at the end. Each page has a deadline of its own.
    pub async fn list_some(
        &self,
        folder: &str,
        after: Option<&str>,
        max: usize,
    ) -> Result<Vec<Listed>, StoreError> {
        let mut listed: Vec<Listed> = Vec::new();
        let fresh = || Backoff::new(Duration::from_millis(20), Duration::from_secs(2));
        let mut backoff = fresh();
        let mut since = self.host.now();
        loop {
            let before = listed.len();
            let error = match self.pages(folder, after, max, &mut listed).await {
                Ok(()) => break,
                Err(error) => error,
            };
            if listed.len() > before {
                since = self.host.now();
                backoff = fresh();
            }
            let delay = backoff.next_delay(&self.host);
            let over = self.host.now().since(since) + delay >= self.deadlines.operation;
            if over || !error.is_retriable() {
                return Err(error);
            }
            self.host.sleep(delay).await;
        }
        listed.sort_by(|a, b| a.key.cmp(&b.key));
        listed.truncate(max);
        Ok(listed)
    }

    /// Whether the store gives a folder in the order of keys, where Levee relies on it.
    pub(super) async fn is_listed_in_order(&self, folder: &str) -> Result<bool, StoreError> {
        let path = self.path(folder);
        let all = || self.inner.list(Some(&path)).map_ok(|meta| meta.location).try_collect();
        let all: Vec<Path> =
            self.retried(Op::List, folder, 0, || self.once(Op::List, folder, all())).await?;
        Ok(!self.lists_in_order || all.is_sorted())
    }

    /// Adds pages behind what is there already, up to the end, `max`, or an error.
    async fn pages(
        &self,
        folder: &str,
        after: Option<&str>,
        max: usize,
        listed: &mut Vec<Listed>,
    ) -> Result<(), StoreError> {
        // In no order (a folder on disk): all of it, or none.
        if !self.lists_in_order {
            listed.clear();
        }
        let root = self.prefix.parts().count();
        let path = self.path(folder);
        let from = listed.last().map(|last| last.key.as_str()).or(after);
        let from = from.map(|from| self.path(from));
        let found = match &from {
            Some(from) => self.inner.list_with_offset(Some(&path), from),
            None => self.inner.list(Some(&path)),
        };
        // Some servers (Azurite) do not know where to start and begin at the beginning.
        let is_after = |meta: &ObjectMeta| from.as_ref().is_none_or(|from| meta.location > *from);
        let found = found.try_filter(|meta| std::future::ready(is_after(meta)));
        let mut pages = found.try_ready_chunks(PAGE);
        while !self.lists_in_order || listed.len() < max {
            let page = async { pages.try_next().await.map_err(|TryReadyChunksError(_, e)| e) };
            let Some(page) = self.once(Op::List, folder, page).await? else { break };
            listed.extend(page.into_iter().map(|meta| below(root, &meta)));
        }
        Ok(())
    }
}

/// A listing that goes on from page to page.
pub struct Listing<'a> {
    store: &'a Store,
    folder: String,
    after: Option<String>,
    is_over: bool,
}

impl Listing<'_> {
    /// More of it; nothing at the end. What a folder on disk has comes at once: it would be listed
    /// as a whole for each page.
    pub async fn next(&mut self) -> Result<Option<Vec<Listed>>, StoreError> {
        if self.is_over {
            return Ok(None);
        }
        let max = if self.store.lists_in_order { TURN } else { usize::MAX };
        let page = self.store.list_some(&self.folder, self.after.as_deref(), max).await?;
        self.is_over = page.len() < max;
        self.after = page.last().map(|last| last.key.clone());
        Ok((!page.is_empty()).then_some(page))
    }
}

fn below(root: usize, meta: &ObjectMeta) -> Listed {
    Listed {
        key: meta.location.parts().skip(root).collect::<Path>().to_string(),
        bytes: meta.size,
        modified_ms: meta.last_modified.timestamp_millis(),
    }
}
