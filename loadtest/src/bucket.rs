//! A bucket beside the broker: its URL, bare requests as a floor, and taking away what a run wrote.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use hdrhistogram::Histogram;
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use tokio::task::JoinSet;
use url::Url;

use crate::error::{Error, Result};
use crate::recorder::histogram;

/// A bucket's URL without what may be secret.
pub fn without_query(url: &str) -> &str {
    url.split('?').next().unwrap_or_default()
}

/// A root of its own in the bucket, so that runs do not meet.
pub fn with_prefix(url: &str, name: &str) -> String {
    let path = without_query(url);
    format!("{}/{name}{}", path.trim_end_matches('/'), &url[path.len()..])
}

/// The folder behind a `file://` URL.
pub fn folder_of(url: &str) -> Option<&Path> {
    without_query(url).strip_prefix("file://").map(Path::new)
}

/// Deletes everything that is there.
pub async fn clear(url: &str) -> Result<()> {
    Bucket::open(url)?.clear().await
}

/// A bucket as `object_store` opens it: no other code in between.
pub struct Bucket {
    store: Arc<dyn ObjectStore>,
    prefix: Key,
    /// Where the bucket is one.
    folder: Option<PathBuf>,
}

impl Bucket {
    pub fn open(url: &str) -> Result<Self> {
        let failed = |why: String| Error::usage(format!("bucket {}: {why}", without_query(url)));
        let parsed = Url::parse(url).map_err(|error| failed(error.to_string()))?;
        if parsed.scheme() == "file" {
            let folder = parsed.to_file_path().map_err(|()| failed("is no folder".into()))?;
            std::fs::create_dir_all(&folder).map_err(|error| failed(error.to_string()))?;
            let store = LocalFileSystem::new_with_prefix(&folder);
            let store = store.map_err(|error| failed(error.to_string()))?;
            // Synced, as the broker opens it.
            let store = Arc::new(store.with_fsync(true));
            return Ok(Self { store, prefix: Key::default(), folder: Some(folder) });
        }
        let options: Vec<(String, String)> =
            parsed.query_pairs().map(|(key, value)| (key.into(), value.into())).collect();
        let opened = object_store::parse_url_opts(&parsed, options);
        let (store, prefix) = opened.map_err(|error| failed(error.to_string()))?;
        Ok(Self { store: store.into(), prefix, folder: None })
    }

    fn key(&self, name: &str) -> Key {
        self.prefix.parts().chain(Key::from(name).parts()).collect()
    }

    /// Creates objects of `bytes`, one after the other; microseconds.
    pub async fn puts(&self, bytes: usize, duration: Duration) -> Result<Histogram<u64>> {
        let body = Bytes::from(vec![7u8; bytes]);
        let mut latency = histogram();
        let (started, mut number) = (Instant::now(), 0u64);
        let run: u32 = rand::random();
        let mut keys = Vec::new();
        while started.elapsed() < duration {
            let key = self.key(&format!("floor/{run:08x}-{number:012}"));
            let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
            let before = Instant::now();
            let put = self.store.put_opts(&key, body.clone().into(), options).await;
            put.map_err(|error| Error::failed(format!("a bare PUT: {error}")))?;
            latency.saturating_record(before.elapsed().as_micros() as u64);
            keys.push(key);
            number += 1;
        }
        for key in keys {
            let _ = self.store.delete(&key).await;
        }
        Ok(latency)
    }

    /// The objects below the prefix that hold records, with their sizes.
    pub async fn objects(&self, least: u64) -> Result<Vec<(Key, u64)>> {
        let all: Vec<_> = self
            .store
            .list(Some(&self.prefix))
            .try_collect()
            .await
            .map_err(|error| Error::failed(format!("listing the bucket: {error}")))?;
        let large = all.into_iter().filter(|meta| meta.size >= least);
        Ok(large.map(|meta| (meta.location, meta.size)).collect())
    }

    async fn clear(&self) -> Result<()> {
        let failed = |error| Error::failed(format!("deleting what was written: {error}"));
        let all = self.store.list(Some(&self.prefix)).map_ok(|meta| meta.location).boxed();
        self.store.delete_stream(all).try_for_each(|_| async { Ok(()) }).await.map_err(failed)?;
        match &self.folder {
            // Folders are no objects.
            Some(folder) => std::fs::remove_dir_all(folder)
                .map_err(|error| Error::failed(format!("{}: {error}", folder.display()))),
            None => Ok(()),
        }
    }

    /// The page cache lets go of the objects of a folder, so that they come from the disk.
    pub fn chill(&self, objects: &[(Key, u64)]) {
        let Some(folder) = &self.folder else { return };
        for (key, _) in objects {
            if let Ok(file) = std::fs::File::open(folder.join(key.as_ref())) {
                // What is not written back stays, and what cannot be let go is only warmer.
                let _ = file.sync_all();
                let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
            }
        }
    }

    /// Reads the objects in ranges, some side by side; gives bytes and time.
    pub async fn gets(
        &self,
        objects: &[(Key, u64)],
        range: u64,
        side_by_side: usize,
    ) -> Result<(u64, Duration)> {
        let mut ranges: Vec<_> = objects
            .iter()
            .flat_map(|(key, size)| {
                let starts = (0..*size).step_by(range as usize);
                starts.map(move |start| (key.clone(), start..(start + range).min(*size)))
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
                tasks.spawn(async move { store.get_range(&key, range).await.map(|b| b.len()) });
            }
            let Some(read) = tasks.join_next().await else { break };
            let read = read.map_err(|error| Error::failed(format!("a bare GET: {error}")))?;
            bytes += read.map_err(|error| Error::failed(format!("a bare GET: {error}")))? as u64;
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
        let bucket = Bucket::open(&format!("file://{}", folder.path().display())).unwrap();
        assert!(!bucket.puts(1000, Duration::from_millis(20)).await.unwrap().is_empty());
        assert!(bucket.objects(0).await.unwrap().is_empty(), "floors leave nothing behind");
        bucket.store.put(&Key::from("a/b"), vec![1; 2500].into()).await.unwrap();
        bucket.store.put(&Key::from("c"), vec![1; 10].into()).await.unwrap();
        let objects = bucket.objects(100).await.unwrap();
        assert_eq!(objects.len(), 1);
        assert_eq!(bucket.gets(&objects, 1000, 2).await.unwrap().0, 2500);
        bucket.clear().await.unwrap();
        assert!(!folder.path().exists());
        assert!(Bucket::open("nonsense").is_err());
    }

    #[test]
    fn a_prefix_goes_before_the_query() {
        assert_eq!(with_prefix("s3://b/p/?region=x&k=a/b", "run"), "s3://b/p/run?region=x&k=a/b");
        assert_eq!(with_prefix("file:///tmp/b", "run"), "file:///tmp/b/run");
        assert_eq!(folder_of("file:///tmp/b?x=y"), Some(Path::new("/tmp/b")));
        assert_eq!(without_query("s3://b/p?secret=x"), "s3://b/p");
    }
}
