//! The disk seam: files by position, explicit syncs, nothing implied.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

/// How to open a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OpenMode {
    /// Make it if missing; else a missing file is an error.
    pub create: bool,
    pub write: bool,
    /// Past the page cache where the file system can; positions, lengths and buffers are then
    /// multiples of `levee_proto::limits::WAL_ALIGN` (4096). Falls back silently where it cannot:
    /// the promise of `sync` is the same.
    pub direct: bool,
}

/// An entry of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    pub name: String,
    pub is_dir: bool,
    pub len: u64,
}

/// One file system of one host. All calls are complete when they return; what survives a power
/// loss is only what was synced (`File::sync`, and `sync_dir` for names).
#[async_trait]
pub trait Disk: Send + Sync {
    async fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>>;
    async fn create_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Sorted by name. A missing folder is `NotFound`.
    async fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>>;
    async fn remove_file(&self, path: &Path) -> io::Result<()>;
    async fn remove_dir_all(&self, path: &Path) -> io::Result<()>;
    async fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Makes names in `dir` durable.
    async fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Bytes that can still be written where `path` is.
    async fn free_bytes(&self, path: &Path) -> io::Result<u64>;
    /// Size of the file system where `path` is, bytes.
    async fn total_bytes(&self, path: &Path) -> io::Result<u64>;
    /// The exclusive lock of a file, made if missing; `None` while another process holds it.
    /// Gone when the guard is dropped or the process dies.
    async fn try_lock(&self, path: &Path) -> io::Result<Option<DiskLock>>;
}

/// Held until dropped.
pub struct DiskLock(#[allow(dead_code)] Box<dyn Send + Sync>);

impl DiskLock {
    pub fn new(guard: impl Send + Sync + 'static) -> Self {
        Self(Box::new(guard))
    }
}

#[async_trait]
#[allow(clippy::len_without_is_empty)]
pub trait File: Send + Sync {
    /// Writes all parts in turn from `pos` on. Not durable before `sync`.
    async fn write_at(&self, pos: u64, parts: Vec<Bytes>) -> io::Result<()>;
    /// Writes an aligned buffer (its filled part must be a multiple of 4096 bytes) and, with
    /// `sync`, makes all written before durable. Gives the buffer back for reuse.
    async fn write_aligned(&self, pos: u64, buf: AlignedBuf, sync: bool) -> io::Result<AlignedBuf>;
    /// Up to `len` bytes; fewer only at the end of the file.
    async fn read_at(&self, pos: u64, len: usize) -> io::Result<Bytes>;
    /// fdatasync. After an error nothing written before may be believed durable, ever.
    async fn sync(&self) -> io::Result<()>;
    async fn len(&self) -> io::Result<u64>;
    async fn set_len(&self, len: u64) -> io::Result<()>;
    /// Takes room for `len` bytes, so that a write below meets no full disk; new bytes are zeros.
    /// Does nothing where the file system has no such call.
    async fn reserve(&self, len: u64) -> io::Result<()>;
}

/// A growable buffer whose bytes start at a multiple of 4096, as O_DIRECT wants.
pub struct AlignedBuf {
    /// Zeros up to the first aligned byte, then the content. Never grows in place: its memory must
    /// stay where it is.
    raw: Vec<u8>,
    start: usize,
}

const ALIGN: usize = 4096;

impl AlignedBuf {
    pub fn with_capacity(capacity: usize) -> Self {
        let mut raw: Vec<u8> = Vec::with_capacity(capacity + ALIGN);
        let start = raw.as_ptr().align_offset(ALIGN);
        assert!(start < ALIGN, "a byte pointer can always be aligned");
        raw.resize(start, 0);
        Self { raw, start }
    }

    pub fn capacity(&self) -> usize {
        self.raw.capacity() - ALIGN
    }

    pub fn len(&self) -> usize {
        self.raw.len() - self.start
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn clear(&mut self) {
        self.raw.truncate(self.start);
    }

    /// Appends; grows (and copies) where the capacity is too small.
    pub fn extend(&mut self, bytes: &[u8]) {
        let end = self.len() + bytes.len();
        if end > self.capacity() {
            let mut larger = Self::with_capacity(end.next_power_of_two());
            larger.raw.extend_from_slice(self);
            *self = larger;
        }
        self.raw.extend_from_slice(bytes);
    }

    /// Zeros up to the next multiple of 4096.
    pub fn pad(&mut self) {
        const ZEROS: [u8; ALIGN] = [0; ALIGN];
        let missing = self.len().next_multiple_of(ALIGN) - self.len();
        self.extend(&ZEROS[..missing]);
    }
}

impl std::ops::Deref for AlignedBuf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.raw[self.start..]
    }
}

impl std::ops::DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.raw[self.start..]
    }
}

/// Writes a small file so that after a crash it is there whole or not at all.
pub async fn write_file_durably(disk: &dyn Disk, path: &Path, bytes: Bytes) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut temp = PathBuf::from(path);
    temp.set_extension("new");
    let file = disk.open(&temp, OpenMode { create: true, write: true, direct: false }).await?;
    file.set_len(0).await?;
    file.write_at(0, vec![bytes]).await?;
    file.sync().await?;
    disk.rename(&temp, path).await?;
    disk.sync_dir(dir).await
}
