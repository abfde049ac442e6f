//! A bucket beside the broker: its URL, bare requests as a floor, and taking away what a run wrote.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use hdrhistogram::Histogram;
use levee_proto::ids::Nonce;
use levee_runtime::real::RealWorld;
use levee_tiering::store::{Created, Listed, Store};
use object_store::local::LocalFileSystem;
use tokio::task::JoinSet;
use url::Url;

use crate::error::{Error, Result};
use crate::recorder::histogram;

/// Removals at a time: what a store bears without slowing down.
const REMOVALS: usize = 64;

/// A bucket's URL without what may be secret.
pub fn without_query(url: &str) -> &str {
    url.split('?').next().unwrap_or_default()
}

/// The folder of this machine that a bucket is.
pub fn folder_of(url: &str) -> Option<PathBuf> {
    // A folder by another name.
    let url = url.strip_prefix("opendal+fs").map_or_else(|| url.into(), |at| format!("file{at}"));
    let url = Url::parse(&url).ok().filter(|url| url.scheme() == "file")?;
    url.to_file_path().ok()
}

/// The URL of a folder.
pub fn url_of(folder: &Path) -> Result<String> {
    let url = Url::from_file_path(folder);
    let wrong = |()| Error::failed(format!("{} is no absolute path", folder.display()));
    Ok(url.map_err(wrong)?.into())
}

/// A place in a bucket that was named for one broker: only such a place is ever removed.
#[derive(Debug, Clone)]
pub struct OwnPrefix {
    url: Url,
    /// The last part of its path.
    name: String,
}

impl OwnPrefix {
    /// `name` is nobody else's.
    pub fn below(bucket: &str, name: String) -> Result<Self> {
        let wrong = |why: &str| Error::usage(format!("bucket {}: {why}", without_query(bucket)));
        let mut url = Url::parse(bucket).map_err(|error| wrong(&error.to_string()))?;
        if url.fragment().is_some() {
            return Err(wrong("has a # in it, and what follows would not count: write %23"));
        }
        let mut path = url.path_segments_mut().map_err(|()| wrong("has no path"))?;
        path.pop_if_empty().push(&name);
        drop(path);
        let own = Self { url, name };
        own.check()?;
        Ok(own)
    }

    /// With its secrets, for a broker.
    pub fn expose(&self) -> &str {
        self.url.as_str()
    }

    /// Everything that is there. Its broker must have ended.
    pub async fn remove(&self) -> Result<()> {
        self.check()?;
        Bucket::open(self.expose())?.remove_all().await
    }

    /// What is not below the own name belongs to somebody else.
    fn check(&self) -> Result<()> {
        let last = self.url.path_segments().and_then(|mut parts| parts.next_back());
        let folder = folder_of(self.expose());
        let is_own = |folder: &PathBuf| folder.file_name() == Some(self.name.as_ref());
        match last == Some(&self.name) && folder.as_ref().is_none_or(is_own) {
            true => Ok(()),
            false => Err(Error::failed(format!("{self} does not end with {}", self.name))),
        }
    }
}

impl fmt::Display for OwnPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(without_query(self.expose()))
    }
}

/// A bucket as the broker opens it, with the same options and credentials; but a folder as
/// `object_store` reads and writes it, so that the floor has none of the broker's own ways.
pub struct Bucket {
    store: Store,
    /// Where the bucket is one.
    folder: Option<PathBuf>,
}

impl Bucket {
    pub fn open(url: &str) -> Result<Self> {
        let host = RealWorld::host();
        let opened = Store::open(url, host.clone());
        let mut store = opened.map_err(|error| Error::usage(error.to_string()))?;
        let folder = folder_of(url);
        if let Some(folder) = folder.as_ref().filter(|_| url.starts_with("file:")) {
            let bare = LocalFileSystem::new_with_prefix(folder);
            let bare = bare.map_err(|error| Error::usage(error.to_string()))?;
            // Synced, as the broker opens it.
            let bare = Arc::new(bare.with_fsync(true));
            store = Store::over(bare, "", host, store.describe());
        }
        Ok(Self { store, folder })
    }

    /// Creates objects of `bytes`, one after the other; microseconds.
    pub async fn puts(&self, bytes: usize, duration: Duration) -> Result<Histogram<u64>> {
        let body = Bytes::from(vec![7u8; bytes]);
        let mut latency = histogram();
        let (started, mut number) = (Instant::now(), 0u64);
        let run: u32 = rand::random();
        let mut keys = Vec::new();
        while started.elapsed() < duration {
            let key = format!("floor/{run:08x}-{number:012}");
            let (body, nonce) = (vec![body.clone()], Nonce(rand::random()));
            let before = Instant::now();
            match self.store.create(&key, body, nonce).await {
                Created::Won => {}
                Created::Lost(lost) => return Err(Error::failed(format!("a bare PUT: {lost}"))),
                Created::Unknown(error) => {
                    return Err(Error::failed(format!("a bare PUT: {error}")));
                }
            }
            latency.saturating_record(before.elapsed().as_micros() as u64);
            keys.push(key);
            number += 1;
        }
        for key in keys {
            let _ = self.store.delete(&key).await;
        }
        Ok(latency)
    }

    /// The objects that hold records.
    pub async fn objects(&self, least: u64) -> Result<Vec<Listed>> {
        let all = self.store.list("").await;
        let mut all = all.map_err(|error| Error::failed(error.to_string()))?;
        all.retain(|object| object.bytes >= least);
        Ok(all)
    }

    async fn remove_all(&self) -> Result<()> {
        let objects = self.objects(0).await?;
        stream::iter(&objects)
            .map(Ok)
            .try_for_each_concurrent(REMOVALS, |object| self.store.delete(&object.key))
            .await
            .map_err(|error| Error::failed(error.to_string()))?;
        // A store of objects has no folders to leave behind.
        match &self.folder {
            Some(folder) => std::fs::remove_dir_all(folder)
                .map_err(|error| Error::failed(format!("{}: {error}", folder.display()))),
            None => Ok(()),
        }
    }

    /// The page cache lets go of the objects of a folder, so that they come from the disk.
    pub fn chill(&self, objects: &[Listed]) {
        let Some(folder) = &self.folder else { return };
        for object in objects {
            if let Ok(file) = std::fs::File::open(folder.join(&object.key)) {
                // What is not written back stays, and what cannot be let go is only warmer.
                let _ = file.sync_all();
                let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
            }
        }
    }

    /// Reads the objects in ranges, some side by side; gives bytes and time.
    pub async fn gets(
        &self,
        objects: &[Listed],
        range: u64,
        side_by_side: usize,
    ) -> Result<(u64, Duration)> {
        let mut ranges: Vec<_> = objects
            .iter()
            .flat_map(|Listed { key, bytes, .. }| {
                let starts = (0..*bytes).step_by(range as usize);
                starts.map(move |start| (key.clone(), start..(start + range).min(*bytes)))
            })
            .collect();
        ranges.reverse();
        let started = Instant::now();
        let (mut tasks, mut bytes) = (JoinSet::new(), 0u64);
        loop {
            while tasks.len() < side_by_side
                && let Some((key, range)) = ranges.pop()
            {
                let store = self.store.clone();
                tasks.spawn(async move {
                    let read = store.get_range(&key, range).await;
                    let read = read.map_err(|error| Error::failed(format!("a bare GET: {error}")));
                    read?.ok_or_else(|| Error::failed(format!("a bare GET: {key} is gone")))
                });
            }
            let Some(read) = tasks.join_next().await else { break };
            let read = read.map_err(|error| Error::failed(format!("a bare GET: {error}")))?;
            bytes += read?.len() as u64;
        }
        Ok((bytes, started.elapsed()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bare_requests_go_to_the_folder_and_read_every_byte() {
        let folder = tempfile::tempdir().unwrap();
        let bucket = Bucket::open(&url_of(folder.path()).unwrap()).unwrap();
        assert!(!bucket.puts(1000, Duration::from_millis(20)).await.unwrap().is_empty());
        assert!(bucket.objects(0).await.unwrap().is_empty(), "floors leave nothing behind");
        std::fs::create_dir_all(folder.path().join("a")).unwrap();
        std::fs::write(folder.path().join("a/b"), [1; 2500]).unwrap();
        std::fs::write(folder.path().join("c"), [1; 10]).unwrap();
        let objects = bucket.objects(100).await.unwrap();
        assert_eq!(objects.len(), 1);
        assert_eq!(bucket.gets(&objects, 1000, 2).await.unwrap().0, 2500);
        assert!(Bucket::open("nonsense").is_err());
    }

    #[tokio::test]
    async fn only_what_is_below_the_own_name_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("mine"), "").unwrap();
        let bucket = url_of(folder.path()).unwrap();
        let own = OwnPrefix::below(&bucket, "load-1".into()).unwrap();
        std::fs::create_dir_all(folder.path().join("load-1/a")).unwrap();
        std::fs::write(folder.path().join("load-1/a/b"), "").unwrap();
        own.remove().await.unwrap();
        assert!(!folder.path().join("load-1").exists());
        let marked = OwnPrefix::below(&format!("{bucket}#1"), "load-2".into()).unwrap_err();
        assert!(marked.to_string().contains("write %23"), "{marked}");
        // What `below` never makes: removal looks again.
        for place in [bucket.clone(), format!("{bucket}#1/load-2"), format!("{bucket}?load-2")] {
            let own = OwnPrefix { url: Url::parse(&place).unwrap(), name: "load-2".into() };
            let refused = own.remove().await.unwrap_err().to_string();
            assert!(refused.contains("does not end with load-2"), "{refused}");
        }
        assert!(folder.path().join("mine").exists());
    }

    #[test]
    fn a_prefix_goes_before_the_query() {
        let below = |url: &str| OwnPrefix::below(url, "run".into()).unwrap().expose().to_owned();
        assert_eq!(below("s3://b/p/?region=x&k=a/b"), "s3://b/p/run?region=x&k=a/b");
        assert_eq!(below("s3://b"), "s3://b/run");
        assert_eq!(below("file:///tmp/b"), "file:///tmp/b/run");
        assert!(OwnPrefix::below("nonsense", "run".into()).is_err());
        assert_eq!(folder_of("file:///tmp/a%20b?x=y"), Some("/tmp/a b".into()));
        assert_eq!(folder_of("opendal+fs:///tmp/b"), Some("/tmp/b".into()));
        assert_eq!(folder_of("s3://b/p"), None);
        assert_eq!(without_query("s3://b/p?secret=x"), "s3://b/p");
    }
}
