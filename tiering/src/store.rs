//! The conditional store: the bucket as Levee needs it.
//!
//! Owns: create-once with an answer that can be trusted, reads that never come back short,
//! deadlines, retries, metrics. Does not own: what is written where (`levee_proto::keys`).
//!
//! - `create` is tried once per call (a slow one may be repeated beside itself) and resolved by
//!   reading the nonce back: a 412, 409, 5xx or timeout is never taken for an answer.
//! - Nothing is ever replaced, so no other conditional operation is needed of a store.
//! - The transport retries nothing. Reads, lists and deletes are retried here until a deadline.

mod aws_profile;
mod cloud;
mod create;
mod direct;
mod error;
mod folder;
pub mod hedge;
mod list;
mod open;
pub mod options;
pub mod probe;
mod s3;
mod server;
mod service;
mod transfer;

use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use levee_runtime::{Backoff, Host};
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt};

pub use create::{Created, Lost};
use direct::DIRECT_ABOVE;
pub use error::{Kind, Op, StoreError};
use hedge::{Hedge, Hedging};
pub use list::Listed;
use server::Server;
pub use transfer::{MULTIPART_ABOVE, Progress};

/// How long one request may take, and how long an operation is retried.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    /// One request. Default 30 s.
    pub request: Duration,
    /// A read, list or delete with its retries, at least one request. Default 30 s.
    pub operation: Duration,
}

/// The slowest line that a large body still gets through.
const SLOW_BYTES_PER_SECOND: u64 = 256 << 10;

/// What a body takes on a slow line.
fn slow_line(bytes: u64) -> Duration {
    Duration::from_secs(bytes / SLOW_BYTES_PER_SECOND)
}

impl Default for Deadlines {
    fn default() -> Self {
        Self { request: Duration::from_secs(30), operation: Duration::from_secs(30) }
    }
}

/// A bucket root. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    inner: Arc<dyn ObjectStore>,
    prefix: Path,
    host: Host,
    name: Arc<str>,
    deadlines: Deadlines,
    /// Whether listings come in the order of keys.
    lists_in_order: bool,
    /// Where a `file://` bucket is.
    folder: Option<Arc<std::path::Path>>,
    /// Who answers, where somebody does.
    server: Option<Server>,
    /// What people should know who use it.
    caveat: Option<&'static str>,
    hedge: Arc<Hedge>,
}

impl Store {
    /// Over any object store; `name` is what people read in messages.
    pub fn over(inner: Arc<dyn ObjectStore>, prefix: &str, host: Host, name: &str) -> Self {
        let prefix = Path::from(prefix);
        let deadlines = Deadlines::default();
        Self {
            inner,
            prefix,
            host,
            name: name.into(),
            deadlines,
            lists_in_order: true,
            folder: None,
            server: None,
            caveat: None,
            hedge: Arc::new(Hedge::new(Hedging::NONE)),
        }
    }

    pub fn with_deadlines(mut self, deadlines: Deadlines) -> Self {
        let operation = deadlines.operation.max(deadlines.request);
        self.deadlines = Deadlines { operation, ..deadlines };
        self
    }

    /// One request that moves so many bytes.
    fn request_limit(&self, bytes: u64) -> Duration {
        self.deadlines.request + slow_line(bytes)
    }

    /// Sends second requests where first ones are slow. A folder is not asked twice: it has one
    /// disk.
    pub fn with_hedging(mut self, how: Hedging) -> Self {
        if self.folder.is_none() {
            self.hedge = Arc::new(Hedge::new(how));
        }
        self
    }

    /// The bucket's URL without secrets.
    pub fn describe(&self) -> &str {
        &self.name
    }

    /// Address and name of the server behind it, as far as it told them.
    pub fn server(&self) -> Option<String> {
        self.server.as_ref().and_then(Server::describe)
    }

    /// What people should know who use it, beyond what the probe can see.
    pub fn caveat(&self) -> Option<&'static str> {
        self.caveat
    }

    /// An error of this store.
    fn error(&self, op: Op, key: &str, kind: Kind, why: impl Into<String>) -> StoreError {
        StoreError::new(op, key, kind, why).in_bucket(&self.name)
    }

    fn path(&self, key: &str) -> Path {
        self.prefix.parts().chain(Path::from(key).parts()).collect()
    }

    /// The whole object, or `None` where there is none.
    pub async fn get(&self, key: &str) -> Result<Option<Bytes>, StoreError> {
        self.retried(Op::Get, key, 0, || async {
            let path = self.path(key);
            let got = async {
                let result = self.inner.get(&path).await?;
                let wanted = result.meta.size;
                Ok((wanted, result.bytes().await?))
            };
            match self.once(Op::Get, key, got).await {
                Ok((wanted, bytes)) => self.whole(Op::Get, key, bytes, wanted).map(Some),
                Err(error) if error.kind == Kind::NotFound => Ok(None),
                Err(error) => Err(error),
            }
        })
        .await
    }

    /// Exactly these bytes of an object, or `None` where there is none.
    pub async fn get_range(
        &self,
        key: &str,
        range: Range<u64>,
    ) -> Result<Option<Bytes>, StoreError> {
        let bytes = range.end - range.start;
        let read = || async {
            let got = self.get_range_once(key, range.clone()).await?;
            Ok(got.map(|(_, bytes)| bytes))
        };
        self.retried(Op::GetRange, key, bytes, || {
            self.hedge.run(&self.host, Op::GetRange, bytes, read)
        })
        .await
    }

    /// Also the size of the whole object.
    async fn get_range_once(
        &self,
        key: &str,
        range: Range<u64>,
    ) -> Result<Option<(u64, Bytes)>, StoreError> {
        let path = self.path(key);
        let (wanted, end) = (range.end - range.start, range.end);
        let got = async {
            if let Some(root) = self.folder.as_ref().filter(|_| wanted >= DIRECT_ABOVE) {
                return direct::get_range(&self.host, &root.join(key), range).await;
            }
            let range = Some(GetRange::Bounded(range));
            let options = GetOptions { range, ..GetOptions::default() };
            let result = self.inner.get_opts(&path, options).await?;
            Ok((result.meta.size, result.bytes().await?))
        };
        match self.once_within(self.request_limit(wanted), Op::GetRange, key, got).await {
            Ok((size, _)) if size < end => {
                let why = format!("it has {size} bytes, and byte {end} was asked for");
                Err(self.error(Op::GetRange, key, Kind::Short, why))
            }
            Ok((size, bytes)) => {
                self.whole(Op::GetRange, key, bytes, wanted).map(|bytes| Some((size, bytes)))
            }
            Err(error) if error.kind == Kind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A short body is a failure of the transport, never data.
    fn whole(&self, op: Op, key: &str, bytes: Bytes, wanted: u64) -> Result<Bytes, StoreError> {
        if bytes.len() as u64 != wanted {
            let why = format!("{} of {wanted} bytes came", bytes.len());
            return Err(self.error(op, key, Kind::Unavailable, why));
        }
        metrics::counter!("levee_store_bytes_total", "op" => op.name()).increment(wanted);
        Ok(bytes)
    }

    /// Size of an object, or `None` where there is none.
    pub async fn len(&self, key: &str) -> Result<Option<u64>, StoreError> {
        self.retried(Op::Head, key, 0, || async {
            let path = self.path(key);
            match self.once(Op::Head, key, self.inner.head(&path)).await {
                Ok(meta) => Ok(Some(meta.size)),
                Err(error) if error.kind == Kind::NotFound => Ok(None),
                Err(error) => Err(error),
            }
        })
        .await
    }

    /// Removes an object; a missing one is fine.
    pub async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.retried(Op::Delete, key, 0, || async {
            let path = self.path(key);
            match self.once(Op::Delete, key, self.inner.delete(&path)).await {
                Err(error) if error.kind != Kind::NotFound => Err(error),
                _ => Ok(()),
            }
        })
        .await
    }

    /// One request under its deadline, counted.
    async fn once<T>(
        &self,
        op: Op,
        key: &str,
        request: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, StoreError> {
        self.once_within(self.deadlines.request, op, key, request).await
    }

    async fn once_within<T>(
        &self,
        deadline: Duration,
        op: Op,
        key: &str,
        request: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, StoreError> {
        let started = self.host.now();
        let answer = match self.host.timeout(deadline, request).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(self.answered(StoreError::of(op, key, &error))),
            Err(_) => {
                let why = format!("no answer within {deadline:?}");
                Err(self.error(op, key, Kind::Timeout, why))
            }
        };
        let outcome = answer.as_ref().map_or_else(|e| e.kind.name(), |_| "ok");
        metrics::counter!("levee_store_requests_total", "op" => op.name(), "outcome" => outcome)
            .increment(1);
        metrics::histogram!("levee_store_request_seconds", "op" => op.name())
            .record(self.host.now().since(started).as_secs_f64());
        answer
    }

    /// An error that this store answered. Only a folder has a disk that can fail; what others say
    /// is text of strangers.
    fn answered(&self, error: StoreError) -> StoreError {
        let kind = match error.kind {
            Kind::Disk if self.folder.is_none() => Kind::Unavailable,
            kind => kind,
        };
        StoreError { kind, ..error }.in_bucket(&self.name)
    }

    /// Repeats a harmless operation that moves so many bytes until it answers, fails for good, or
    /// its time is over.
    async fn retried<T, F: Future<Output = Result<T, StoreError>>>(
        &self,
        op: Op,
        key: &str,
        bytes: u64,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T, StoreError> {
        let started = self.host.now();
        let limit = self.deadlines.operation + slow_line(bytes);
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(2));
        let mut last = None;
        loop {
            let left = limit.saturating_sub(self.host.now().since(started));
            let error = match self.host.timeout(left, attempt()).await {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(error)) if !error.is_retriable() => return Err(error),
                Ok(Err(error)) => error,
                Err(_) => {
                    let late = || format!("no answer within {limit:?}");
                    return Err(last.unwrap_or_else(|| self.error(op, key, Kind::Timeout, late())));
                }
            };
            let delay = backoff.next_delay(&self.host);
            if self.host.now().since(started) + delay >= limit {
                return Err(error);
            }
            tracing::debug!(op = op.name(), key, %error, "trying again");
            last = Some(error);
            self.host.sleep(delay).await;
        }
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Store({})", self.name)
    }
}
