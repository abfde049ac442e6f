//! The files of a local lane: one active, some spare and written before, some waiting for a trim.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use levee_runtime::{AlignedBuf, File, Host, OpenMode};
use parking_lot::Mutex;

/// Spare files kept; more are removed.
const SPARES_MAX: usize = 2;
/// Bytes written at once while a new file is filled with zeros.
const FILL_BYTES: usize = 1 << 20;
/// The first file of a lane is small, so that a start waits for little.
const FIRST_FILE_BYTES: u64 = 4 << 20;

/// See the module.
pub(super) struct Files {
    host: Host,
    dir: PathBuf,
    file_bytes: u64,
    pool: Arc<Mutex<Pool>>,
}

#[derive(Default)]
struct Pool {
    /// Ready for reuse; their old bytes do not matter.
    spare: VecDeque<WalFile>,
    /// Written and left, oldest first, with the last group each holds.
    left: VecDeque<(u64, WalFile)>,
    next_name: u64,
    filling: bool,
}

/// One open file.
#[derive(Clone)]
pub(super) struct WalFile {
    pub(super) file: Arc<dyn File>,
    path: PathBuf,
    /// Written with zeros up to here, so that a write below changes no metadata of the file.
    pub(super) bytes: u64,
}

impl WalFile {
    pub(super) fn describe(&self) -> String {
        self.path.display().to_string()
    }
}

impl Files {
    /// Makes the folder, durably, and its first file.
    pub(super) async fn open(
        host: Host,
        wal_dir: &Path,
        dir: PathBuf,
        file_bytes: u64,
    ) -> io::Result<Self> {
        let disk = host.disk();
        disk.create_dir_all(&dir).await?;
        if let Some(left_over) = disk.list(&dir).await?.first() {
            let what = format!("{} holds {} already", dir.display(), left_over.name);
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, what));
        }
        disk.sync_dir(wal_dir).await?;
        if let Some(parent) = wal_dir.parent() {
            disk.sync_dir(parent).await?;
        }
        let pool = Pool { next_name: 1, ..Pool::default() };
        let files = Self { host, dir, file_bytes, pool: Arc::new(Mutex::new(pool)) };
        let first = fill(&files.host, &files.dir, 1, file_bytes.min(FIRST_FILE_BYTES)).await?;
        files.pool.lock().spare.push_back(first);
        Ok(files)
    }

    /// An empty file to write next: a spare one, else a new one. Fills another in the background.
    /// A group of `bytes` fits: a write never meets a full disk, which would end the lane.
    pub(super) async fn take(&self, bytes: u64) -> io::Result<WalFile> {
        let spare = self.pool.lock().spare.pop_front();
        let mut file = match spare {
            Some(file) => file,
            None => self.create(bytes).await?,
        };
        if file.bytes < bytes {
            if let Err(error) = file.file.reserve(bytes).await {
                self.pool.lock().spare.push_front(file);
                return Err(error);
            }
            file.bytes = bytes;
        }
        self.fill_ahead();
        Ok(file)
    }

    /// The file is full; `last_group` is the last one in it.
    pub(super) fn leave(&self, file: WalFile, last_group: u64) {
        self.pool.lock().left.push_back((last_group, file));
    }

    /// Groups below `trim` are not needed: files that hold only such become spare.
    pub(super) fn recycle_below(&self, trim: u64) {
        let mut surplus = Vec::new();
        {
            let mut pool = self.pool.lock();
            while pool.left.front().is_some_and(|(last, _)| *last < trim) {
                let Some((_, file)) = pool.left.pop_front() else { break };
                if pool.spare.len() < SPARES_MAX {
                    pool.spare.push_back(file);
                } else {
                    surplus.push(file.path);
                }
            }
        }
        if surplus.is_empty() {
            return;
        }
        let disk = self.host.disk();
        drop(self.host.spawn("wal-remove", async move {
            for path in surplus {
                if let Err(error) = disk.remove_file(&path).await {
                    tracing::warn!(path = %path.display(), %error, "surplus wal file stays");
                }
            }
        }));
    }

    async fn create(&self, at_least: u64) -> io::Result<WalFile> {
        let name = {
            let mut pool = self.pool.lock();
            pool.next_name += 1;
            pool.next_name
        };
        let bytes = self.file_bytes.max(at_least);
        let made = create_file(&self.host, &self.dir, name, bytes).await?;
        match made.file.reserve(bytes).await {
            Ok(()) => Ok(made),
            Err(error) => Err(remove_half_made(&self.host, &made.path, error).await),
        }
    }

    /// Keeps one filled spare ahead of the writer: a write into a filled file changes no metadata,
    /// so its sync is one device flush.
    fn fill_ahead(&self) {
        let name = {
            let mut pool = self.pool.lock();
            if pool.filling || !pool.spare.is_empty() {
                return;
            }
            pool.filling = true;
            pool.next_name += 1;
            pool.next_name
        };
        let (host, dir, pool) = (self.host.clone(), self.dir.clone(), self.pool.clone());
        let file_bytes = self.file_bytes;
        drop(self.host.spawn("wal-fill", async move {
            let filled = fill(&host, &dir, name, file_bytes).await;
            let mut pool = pool.lock();
            pool.filling = false;
            match filled {
                Ok(file) => pool.spare.push_back(file),
                // The writer will make its own file and meet the same trouble with a waiting entry.
                Err(error) => tracing::warn!(%error, "no spare wal file"),
            }
        }));
    }
}

async fn create_file(host: &Host, dir: &Path, name: u64, bytes: u64) -> io::Result<WalFile> {
    let path = dir.join(format!("{name:08}.wal"));
    let mode = OpenMode { create: true, write: true, direct: true };
    let file = host.disk().open(&path, mode).await?;
    host.disk().sync_dir(dir).await?;
    Ok(WalFile { file, path, bytes })
}

async fn fill(host: &Host, dir: &Path, name: u64, bytes: u64) -> io::Result<WalFile> {
    let made = create_file(host, dir, name, bytes).await?;
    match write_zeros(&made, bytes).await {
        Ok(()) => Ok(made),
        Err(error) => Err(remove_half_made(host, &made.path, error).await),
    }
}

/// What lies around of a full disk would keep it full.
async fn remove_half_made(host: &Host, path: &Path, why: io::Error) -> io::Error {
    if let Err(error) = host.disk().remove_file(path).await {
        tracing::warn!(path = %path.display(), %error, "half-made wal file stays");
    }
    why
}

async fn write_zeros(made: &WalFile, bytes: u64) -> io::Result<()> {
    let mut zeros = AlignedBuf::with_capacity(FILL_BYTES);
    zeros.extend(&vec![0; FILL_BYTES]);
    let mut at = 0;
    while at < bytes {
        let left = (bytes - at).min(FILL_BYTES as u64) as usize;
        if left < FILL_BYTES {
            zeros.clear();
            zeros.extend(&vec![0; left]);
            zeros.pad();
        }
        zeros = made.file.write_aligned(at, zeros, false).await?;
        at += FILL_BYTES as u64;
    }
    made.file.sync().await
}
