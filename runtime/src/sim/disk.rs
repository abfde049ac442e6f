//! A disk with a page cache: what was written is read back, and what was not synced can be lost.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use super::Sim;
use crate::disk::{AlignedBuf, DirEntry, Disk, DiskLock, File, OpenMode};

const PAGE: usize = 4096;
/// Bytes of a disk without bounds.
const SIZE: u64 = 1 << 40;

/// What goes wrong next.
#[derive(Debug, Clone, Default)]
pub struct DiskFaults {
    /// The next syncs fail (EIO), so many; what was unsynced then is gone for good.
    pub failing_syncs: u32,
    /// Bytes by which files can still grow; none: no bound.
    pub room: Option<u64>,
    /// Nothing that touches a file's bytes is answered.
    pub silent: bool,
}

/// See the module. Outlives the processes that use it.
pub struct SimDisk {
    sim: Sim,
    name: String,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    files: BTreeMap<PathBuf, Arc<Mutex<Content>>>,
    dirs: BTreeSet<PathBuf>,
    /// Names as they are after a power loss.
    synced_names: BTreeMap<PathBuf, Arc<Mutex<Content>>>,
    locks: BTreeSet<PathBuf>,
    faults: DiskFaults,
    /// Every file there ever was.
    all: Vec<Weak<Mutex<Content>>>,
}

#[derive(Default, Clone)]
struct Content {
    bytes: Vec<u8>,
    /// As it is after a power loss.
    synced: Vec<u8>,
    dirty: BTreeSet<usize>,
}

impl SimDisk {
    pub(super) fn new(sim: Sim, name: &str) -> Self {
        Self { sim, name: name.to_owned(), inner: Arc::default() }
    }

    pub fn set_faults(&self, faults: DiskFaults) {
        self.inner.lock().faults = faults;
    }

    /// The process is gone: its locks, and files that only it could still reach. What is left of
    /// it in memory may hold their handles for ever.
    pub(super) fn release(&self) {
        let mut inner = self.inner.lock();
        inner.locks.clear();
        let Inner { files, synced_names, all, .. } = &mut *inner;
        all.retain(|file| {
            let Some(file) = file.upgrade() else { return false };
            let mut named = files.values().chain(synced_names.values());
            let is_named = named.any(|known| Arc::ptr_eq(known, &file));
            if !is_named {
                *file.lock() = Content::default();
            }
            is_named
        });
    }

    /// The run is over.
    pub(super) fn end(&self) {
        self.wipe();
        self.release();
    }

    pub(super) fn wipe(&self) {
        let mut inner = self.inner.lock();
        let all = std::mem::take(&mut inner.all);
        *inner = Inner { all, ..Inner::default() };
    }

    /// Each dirty page is kept or lost; names that were not synced are gone.
    pub(super) fn lose_unsynced(&self) {
        let mut inner = self.inner.lock();
        let names = std::mem::take(&mut inner.synced_names);
        for content in names.values() {
            let mut content = content.lock();
            let dirty = std::mem::take(&mut content.dirty);
            let mut after = content.synced.clone();
            for page in dirty {
                if self.sim.one_in(2) {
                    let from = page * PAGE;
                    let to = (from + PAGE).min(content.bytes.len());
                    if from < to {
                        if after.len() < to {
                            after.resize(to, 0);
                        }
                        after[from..to].copy_from_slice(&content.bytes[from..to]);
                    }
                }
            }
            content.bytes = after.clone();
            content.synced = after;
        }
        inner.files = names.clone();
        inner.synced_names = names;
    }

    /// Flips one bit of a file whose name ends so; false where there is none.
    pub fn flip(&self, ends_with: &str, pos: usize) -> bool {
        let inner = self.inner.lock();
        let found =
            inner.files.iter().find(|(path, _)| path.to_string_lossy().ends_with(ends_with));
        let Some((_, content)) = found else { return false };
        let mut content = content.lock();
        let Some(byte) = content.bytes.get_mut(pos) else { return false };
        *byte ^= 1;
        true
    }

    /// Names of all files.
    pub fn names(&self) -> Vec<PathBuf> {
        self.inner.lock().files.keys().cloned().collect()
    }
}

/// The disk as one process sees it.
pub(super) struct ProcessDisk {
    disk: Arc<SimDisk>,
}

impl ProcessDisk {
    pub(super) fn new(disk: Arc<SimDisk>) -> Self {
        Self { disk }
    }

    async fn latency(&self) {
        let micros = 20 + self.disk.sim.below(400);
        tokio::time::sleep(Duration::from_micros(micros)).await;
    }
}

fn missing(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, path.display().to_string())
}

#[async_trait]
impl Disk for ProcessDisk {
    async fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        self.latency().await;
        let mut inner = self.disk.inner.lock();
        let content = match inner.files.get(path) {
            Some(content) => content.clone(),
            None if mode.create => {
                let content = Arc::new(Mutex::new(Content::default()));
                inner.files.insert(path.to_owned(), content.clone());
                inner.all.push(Arc::downgrade(&content));
                content
            }
            None => return Err(missing(path)),
        };
        Ok(Arc::new(SimFile { disk: self.disk.clone(), content }))
    }

    async fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.disk.inner.lock();
        inner.dirs.extend(path.ancestors().map(Path::to_owned));
        Ok(())
    }

    async fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        self.latency().await;
        let inner = self.disk.inner.lock();
        let mut found = BTreeMap::new();
        for (path, content) in &inner.files {
            let Ok(rest) = path.strip_prefix(dir) else { continue };
            let mut parts = rest.components();
            let Some(first) = parts.next() else { continue };
            let name = first.as_os_str().to_string_lossy().into_owned();
            let is_dir = parts.next().is_some();
            let len = if is_dir { 0 } else { content.lock().bytes.len() as u64 };
            found.insert(name.clone(), DirEntry { name, is_dir, len });
        }
        for path in &inner.dirs {
            if path.parent() == Some(dir)
                && let Some(name) = path.file_name()
            {
                let name = name.to_string_lossy().into_owned();
                found.entry(name.clone()).or_insert(DirEntry { name, is_dir: true, len: 0 });
            }
        }
        let known = inner.dirs.contains(dir) || !found.is_empty();
        if known { Ok(found.into_values().collect()) } else { Err(missing(dir)) }
    }

    async fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.disk.inner.lock();
        inner.files.remove(path).map(drop).ok_or_else(|| missing(path))
    }

    async fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.disk.inner.lock();
        inner.files.retain(|file, _| !file.starts_with(path));
        inner.dirs.retain(|dir| !dir.starts_with(path));
        Ok(())
    }

    async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut inner = self.disk.inner.lock();
        if let Some(content) = inner.files.remove(from) {
            inner.files.insert(to.to_owned(), content);
            return Ok(());
        }
        if !inner.dirs.contains(from) {
            return Err(missing(from));
        }
        let moved = |path: &Path| path.strip_prefix(from).map(|rest| to.join(rest)).ok();
        let files = std::mem::take(&mut inner.files);
        inner.files = files.into_iter().map(|(p, c)| (moved(&p).unwrap_or(p), c)).collect();
        let dirs = std::mem::take(&mut inner.dirs);
        inner.dirs = dirs.into_iter().map(|p| moved(&p).unwrap_or(p)).collect();
        Ok(())
    }

    async fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.latency().await;
        let mut inner = self.disk.inner.lock();
        let inner = &mut *inner;
        inner
            .synced_names
            .retain(|path, _| path.parent() != Some(dir) || inner.files.contains_key(path));
        for (path, content) in inner.files.iter().filter(|(path, _)| path.parent() == Some(dir)) {
            inner.synced_names.insert(path.clone(), content.clone());
        }
        Ok(())
    }

    async fn free_bytes(&self, _path: &Path) -> io::Result<u64> {
        Ok(self.disk.inner.lock().faults.room.unwrap_or(SIZE))
    }

    async fn total_bytes(&self, _path: &Path) -> io::Result<u64> {
        Ok(SIZE)
    }

    async fn try_lock(&self, path: &Path) -> io::Result<Option<DiskLock>> {
        let taken = self.disk.inner.lock().locks.insert(path.to_owned());
        let guard = Unlock { inner: self.disk.inner.clone(), path: path.to_owned() };
        Ok(taken.then(|| DiskLock::new(guard)))
    }
}

struct Unlock {
    inner: Arc<Mutex<Inner>>,
    path: PathBuf,
}

impl Drop for Unlock {
    fn drop(&mut self) {
        self.inner.lock().locks.remove(&self.path);
    }
}

struct SimFile {
    disk: Arc<SimDisk>,
    content: Arc<Mutex<Content>>,
}

impl SimFile {
    async fn latency(&self) {
        let micros = 50 + self.disk.sim.below(1500);
        tokio::time::sleep(Duration::from_micros(micros)).await;
        while self.disk.inner.lock().faults.silent {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Takes room for a file of `len` bytes.
    fn grow(&self, len: u64) -> io::Result<()> {
        let mut inner = self.disk.inner.lock();
        let mut content = self.content.lock();
        let more = len.saturating_sub(content.bytes.len() as u64);
        if let Some(room) = &mut inner.faults.room {
            *room = room.checked_sub(more).ok_or(io::ErrorKind::StorageFull)?;
        }
        let len = content.bytes.len().max(len as usize);
        content.bytes.resize(len, 0);
        Ok(())
    }

    fn write(&self, pos: u64, bytes: &[u8]) -> io::Result<()> {
        self.grow(pos + bytes.len() as u64)?;
        let mut content = self.content.lock();
        let (from, to) = (pos as usize, pos as usize + bytes.len());
        content.bytes[from..to].copy_from_slice(bytes);
        content.dirty.extend(from / PAGE..=(to.max(from + 1) - 1) / PAGE);
        Ok(())
    }

    fn sync_now(&self) -> io::Result<()> {
        let mut inner = self.disk.inner.lock();
        let fails = inner.faults.failing_syncs > 0;
        inner.faults.failing_syncs = inner.faults.failing_syncs.saturating_sub(1);
        drop(inner);
        let mut content = self.content.lock();
        let content = &mut *content;
        let dirty = std::mem::take(&mut content.dirty);
        if fails {
            // The pages are marked clean and were never written: the next sync lies.
            self.disk.sim.note(format!("{}: a sync fails", self.disk.name));
            return Err(io::Error::other("input/output error"));
        }
        content.synced.resize(content.bytes.len(), 0);
        for page in dirty {
            let from = page * PAGE;
            let to = (from + PAGE).min(content.bytes.len());
            content.synced[from..to].copy_from_slice(&content.bytes[from..to]);
        }
        Ok(())
    }
}

#[async_trait]
impl File for SimFile {
    async fn write_at(&self, pos: u64, parts: Vec<Bytes>) -> io::Result<()> {
        self.latency().await;
        self.write(pos, &parts.concat())
    }

    async fn write_aligned(&self, pos: u64, buf: AlignedBuf, sync: bool) -> io::Result<AlignedBuf> {
        self.latency().await;
        self.write(pos, &buf)?;
        if sync {
            self.sync_now()?;
        }
        Ok(buf)
    }

    async fn read_at(&self, pos: u64, len: usize) -> io::Result<Bytes> {
        self.latency().await;
        let content = self.content.lock();
        let from = (pos as usize).min(content.bytes.len());
        let to = (from + len).min(content.bytes.len());
        Ok(Bytes::copy_from_slice(&content.bytes[from..to]))
    }

    async fn sync(&self) -> io::Result<()> {
        self.latency().await;
        self.sync_now()
    }

    async fn len(&self) -> io::Result<u64> {
        Ok(self.content.lock().bytes.len() as u64)
    }

    async fn set_len(&self, len: u64) -> io::Result<()> {
        self.content.lock().bytes.resize(len as usize, 0);
        Ok(())
    }

    async fn reserve(&self, len: u64) -> io::Result<()> {
        self.latency().await;
        self.grow(len)
    }
}
