//! A bucket that misbehaves by seed: lost replies, errors before and after the fact, ghosts, silence.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use levee_runtime::sim::Sim;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;

/// How often things go wrong: once in so many; 0 for never.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// Applied, and an error is answered.
    pub lost_reply: u64,
    /// An error is answered, nothing is applied.
    pub refused: u64,
    /// "Exists already" although nothing is there (a transient 409).
    pub conflict: u64,
    /// An error now, applied minutes later.
    pub ghost: u64,
    /// No answer at all.
    pub silent: u64,
    /// Every request fails.
    pub away: bool,
    /// Milliseconds that reads take longer.
    pub slow_reads: u64,
}

/// One host's way to the bucket; all share the objects.
#[derive(Clone)]
pub struct SimStore {
    sim: Sim,
    host: Arc<str>,
    inner: Arc<InMemory>,
    faults: Arc<Mutex<Faults>>,
    gets: Arc<AtomicU64>,
}

impl SimStore {
    pub fn new(sim: &Sim) -> Self {
        Self {
            sim: sim.clone(),
            host: "?".into(),
            inner: Arc::new(InMemory::new()),
            faults: Arc::default(),
            gets: Arc::default(),
        }
    }

    /// Reads that were asked for so far, by all hosts.
    pub fn gets(&self) -> u64 {
        self.gets.load(Ordering::Relaxed)
    }

    /// The same bucket as another host sees it, with faults of its own.
    pub fn seen_by(&self, host: &str) -> Self {
        Self { host: host.into(), faults: Arc::default(), ..self.clone() }
    }

    pub fn set(&self, faults: Faults) {
        self.sim.note(format!("{}: bucket {faults:?}", self.host));
        *self.faults.lock() = faults;
    }

    /// Keys of all objects, sorted.
    pub async fn keys(&self) -> Vec<String> {
        let listed: Vec<_> = self.inner.list(None).collect().await;
        let mut keys: Vec<String> =
            listed.into_iter().flatten().map(|meta| meta.location.to_string()).collect();
        keys.sort();
        keys
    }

    /// Puts bytes behind everybody's back.
    pub async fn plant(&self, key: &str, bytes: Vec<u8>) {
        self.inner.put(&Path::from(key), bytes.into()).await.expect("memory takes it");
    }

    /// Takes an object away behind everybody's back.
    pub async fn remove(&self, key: &str) {
        self.inner.delete(&Path::from(key)).await.expect("it was there");
    }

    /// Takes everything away: the run is over. What a killed process leaves in memory, this bucket
    /// among it, is never looked at again, and much where there are thousands of runs.
    pub async fn end(&self) {
        for key in self.keys().await {
            self.remove(&key).await;
        }
    }

    pub async fn peek(&self, key: &str) -> Option<Vec<u8>> {
        let got = self.inner.get(&Path::from(key)).await.ok()?;
        Some(got.bytes().await.ok()?.to_vec())
    }

    async fn latency(&self) {
        tokio::time::sleep(Duration::from_micros(300 + self.sim.below(20_000))).await;
    }

    async fn slow_read(&self) {
        let slow = self.faults.lock().slow_reads;
        tokio::time::sleep(Duration::from_millis(slow)).await;
    }

    fn error(&self, what: &str) -> object_store::Error {
        object_store::Error::Generic { store: "sim", source: what.to_owned().into() }
    }

    /// What every request meets first.
    async fn before(&self, op: &str, path: &Path) -> Result<()> {
        self.latency().await;
        let faults = self.faults.lock().clone();
        if faults.away {
            return Err(self.error("the bucket is away"));
        }
        if self.sim.one_in(faults.silent) {
            self.sim.note(format!("{}: {op} {path}: silence", self.host));
            std::future::pending::<()>().await;
        }
        if self.sim.one_in(faults.refused) {
            self.sim.note(format!("{}: {op} {path}: refused", self.host));
            return Err(self.error("503 SlowDown"));
        }
        Ok(())
    }
}

impl fmt::Display for SimStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sim")
    }
}

impl fmt::Debug for SimStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sim")
    }
}

#[async_trait]
impl ObjectStore for SimStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> Result<PutResult> {
        self.before("put", location).await?;
        let faults = self.faults.lock().clone();
        if self.sim.one_in(faults.conflict) {
            self.sim.note(format!("{}: put {location}: conflict", self.host));
            let source = "409 ConditionalRequestConflict".into();
            return Err(object_store::Error::AlreadyExists { path: location.to_string(), source });
        }
        if self.sim.one_in(faults.ghost) {
            self.sim.note(format!("{}: put {location}: ghost", self.host));
            let (inner, location, later) = (self.inner.clone(), location.clone(), self.clone());
            tokio::spawn(async move {
                let wait = Duration::from_secs(1 + later.sim.below(600));
                tokio::time::sleep(wait).await;
                let put = inner.put_opts(&location, payload, opts).await;
                later.sim.note(format!("ghost of {location}: {}", put.is_ok()));
            });
            return Err(self.error("connection reset"));
        }
        let done = self.inner.put_opts(location, payload, opts).await;
        self.sim.note(format!("{}: put {location}: {}", self.host, done.is_ok()));
        self.latency().await;
        if self.sim.one_in(faults.lost_reply) {
            self.sim.note(format!("{}: put {location}: reply lost", self.host));
            return Err(self.error("500 after the fact"));
        }
        done
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.before("upload", location).await?;
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.gets.fetch_add(1, Ordering::Relaxed);
        self.before("get", location).await?;
        self.slow_read().await;
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        locations
            .then(move |location| {
                let store = store.clone();
                async move {
                    let location = location?;
                    store.before("delete", &location).await?;
                    store.sim.note(format!("{}: delete {location}", store.host));
                    store.inner.delete(&location).await?;
                    Ok(location)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (store, prefix) = (self.clone(), prefix.cloned());
        futures::stream::once(async move {
            let at = prefix.clone().unwrap_or_default();
            store.slow_read().await;
            match store.before("list", &at).await {
                Ok(()) => store.inner.list(prefix.as_ref()),
                Err(error) => futures::stream::once(async move { Err(error) }).boxed(),
            }
        })
        .flatten()
        .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
