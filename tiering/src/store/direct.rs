//! Large files of a folder bucket, written and read past the page cache.
//!
//! Through the page cache each byte is copied once more, into memory that something else could
//! use: a third of all that a broker does under load. The folder store of the library has no other
//! way, so files above [`DIRECT_ABOVE`] are written here, by the same rules: staged as `KEY#N`,
//! synced, then given their name where nothing has it.

// Beside the folder store of a library, which has no seam either.
#![allow(clippy::disallowed_methods)]

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use levee_proto::limits::WAL_ALIGN;
use levee_runtime::{AlignedBuf, File, Host, OpenMode};

/// Less at once is not worth it.
pub(super) const DIRECT_ABOVE: u64 = 1 << 20;
/// Bytes of one write: a multiple of the alignment.
const WRITE_BYTES: usize = 2 << 20;

/// A file in the making.
pub(super) struct Staged {
    host: Host,
    root: Arc<Path>,
    target: PathBuf,
    staged: PathBuf,
    file: Arc<dyn File>,
    buffer: Option<AlignedBuf>,
    /// Bytes on disk, and with those in the buffer.
    pos: u64,
    len: u64,
}

impl Staged {
    pub(super) async fn open(host: &Host, root: Arc<Path>, key: &str) -> io::Result<Self> {
        let target = root.join(key);
        let staged = root.join(format!("{key}#{}", host.random_u64()));
        if let Some(dir) = target.parent() {
            host.disk().create_dir_all(dir).await?;
        }
        let mode = OpenMode { create: true, write: true, direct: true };
        let file = host.disk().open(&staged, mode).await?;
        let buffer = Some(AlignedBuf::with_capacity(WRITE_BYTES));
        Ok(Self { host: host.clone(), root, target, staged, file, buffer, pos: 0, len: 0 })
    }

    pub(super) async fn write(&mut self, mut piece: &[u8]) -> io::Result<()> {
        while !piece.is_empty() {
            let mut buffer = self.buffer.take().ok_or_else(failed_before)?;
            let (part, rest) = piece.split_at(piece.len().min(WRITE_BYTES - buffer.len()));
            buffer.extend(part);
            (piece, self.len) = (rest, self.len + part.len() as u64);
            if buffer.len() == WRITE_BYTES {
                buffer = self.file.write_aligned(self.pos, buffer, false).await?;
                self.pos += WRITE_BYTES as u64;
                buffer.clear();
            }
            self.buffer = Some(buffer);
        }
        Ok(())
    }

    /// Gives up what was written; what a failure leaves behind is swept.
    pub(super) async fn discard(&self) {
        let _ = self.host.disk().remove_file(&self.staged).await;
    }

    /// Durable under its name; `AlreadyExists` where something has it.
    pub(super) async fn finish(mut self) -> io::Result<()> {
        let mut rest = self.buffer.take().ok_or_else(failed_before)?;
        if !rest.is_empty() {
            rest.pad();
            self.file.write_aligned(self.pos, rest, false).await?;
        }
        self.file.set_len(self.len).await?;
        self.file.sync().await.map_err(|error| unsynced(&self.target, &error))?;
        let (root, staged, target) = (self.root.clone(), self.staged.clone(), self.target.clone());
        let link = move || {
            let linked = std::fs::hard_link(&staged, &target);
            // Whatever came of it; what stays is swept.
            let _ = std::fs::remove_file(&staged);
            linked.and_then(|()| sync_above(&root, &target))
        };
        match tokio::task::spawn_blocking(link).await {
            Ok(linked) => linked,
            Err(error) => Err(io::Error::other(error)),
        }
    }
}

/// Makes the names of a file and of the folders above it durable.
pub(super) fn sync_above(root: &Path, file: &Path) -> io::Result<()> {
    let above = file.ancestors().skip(1).take_while(|dir| dir.starts_with(root));
    let open: Vec<std::fs::File> = above.map(std::fs::File::open).collect::<Result<_, _>>()?;
    open.iter().try_for_each(std::fs::File::sync_all).map_err(|error| unsynced(file, &error))
}

/// The words that the library uses, by which a failed sync is known.
fn unsynced(path: &Path, error: &io::Error) -> io::Error {
    io::Error::other(format!("Unable to sync data to disk for {}: {error}", path.display()))
}

fn failed_before() -> io::Error {
    io::Error::other("a write to this file failed before")
}

/// As an answer of the library.
pub(super) fn as_answer(key: &str, error: io::Error) -> object_store::Error {
    let source = Box::new(error);
    match source.kind() {
        io::ErrorKind::AlreadyExists => {
            object_store::Error::AlreadyExists { path: key.to_owned(), source }
        }
        io::ErrorKind::NotFound => object_store::Error::NotFound { path: key.to_owned(), source },
        _ => object_store::Error::Generic { store: "folder", source },
    }
}

/// A whole file at once.
pub(super) async fn put(
    host: &Host,
    root: Arc<Path>,
    key: &str,
    body: &[Bytes],
) -> object_store::Result<()> {
    let put = async {
        let mut staged = Staged::open(host, root, key).await?;
        for piece in body {
            if let Err(error) = staged.write(piece).await {
                staged.discard().await;
                return Err(error);
            }
        }
        staged.finish().await
    };
    put.await.map_err(|error| as_answer(key, error))
}

/// Size of a file, and these bytes of it as far as it has them.
pub(super) async fn get_range(
    host: &Host,
    path: &Path,
    range: Range<u64>,
) -> object_store::Result<(u64, Bytes)> {
    let get = async {
        let mode = OpenMode { create: false, write: false, direct: true };
        let file = host.disk().open(path, mode).await?;
        let size = file.len().await?;
        let skip = range.start % WAL_ALIGN as u64;
        let whole = (skip + range.end - range.start).next_multiple_of(WAL_ALIGN as u64);
        let read = file.read_at(range.start - skip, whole as usize).await?;
        let (skip, len) = (skip as usize, (range.end - range.start) as usize);
        Ok((size, read.slice(skip.min(read.len())..read.len().min(skip + len))))
    };
    get.await.map_err(|error| as_answer(&path.display().to_string(), error))
}
