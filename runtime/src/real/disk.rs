//! Files of the operating system; each call runs on a blocking thread.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::disk::{AlignedBuf, DirEntry, Disk, DiskLock, File, OpenMode};

/// What O_DIRECT wants positions, lengths and memory to be multiples of.
const BLOCK: usize = 4096;

/// See the module.
#[derive(Default)]
pub struct RealDisk {}

struct RealFile {
    file: Arc<fs::File>,
    direct: bool,
}

/// Runs a blocking call to its end, even if the caller goes away.
async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    match tokio::task::spawn_blocking(call).await {
        Ok(out) => out,
        Err(error) => Err(io::Error::other(format!("disk thread ended: {error}"))),
    }
}

fn open(path: &Path, mode: OpenMode) -> io::Result<fs::File> {
    let mut options = OpenOptions::new();
    options.read(true).write(mode.write).create(mode.create);
    if mode.direct {
        let mut direct = options.clone();
        direct.custom_flags(rustix::fs::OFlags::DIRECT.bits() as i32);
        match direct.open(path) {
            // EINVAL: this file system has no O_DIRECT (tmpfs).
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
            opened => return opened,
        }
    }
    options.open(path)
}

#[async_trait]
impl Disk for RealDisk {
    async fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let path = path.to_owned();
        let file = blocking(move || open(&path, mode)).await?;
        Ok(Arc::new(RealFile { file: Arc::new(file), direct: mode.direct }))
    }

    async fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let path = path.to_owned();
        blocking(move || fs::create_dir_all(path)).await
    }

    async fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let dir = dir.to_owned();
        blocking(move || {
            let mut entries = Vec::new();
            for entry in fs::read_dir(dir)? {
                let entry = entry?;
                let meta = match entry.metadata() {
                    Ok(meta) => meta,
                    // Removed since the folder was read.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(error) => return Err(error),
                };
                entries.push(DirEntry {
                    name: entry.file_name().to_string_lossy().into_owned(),
                    is_dir: meta.is_dir(),
                    len: meta.len(),
                });
            }
            entries.sort_by(|a, b| a.name.cmp(&b.name));
            Ok(entries)
        })
        .await
    }

    async fn remove_file(&self, path: &Path) -> io::Result<()> {
        let path = path.to_owned();
        blocking(move || fs::remove_file(path)).await
    }

    async fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let path = path.to_owned();
        blocking(move || fs::remove_dir_all(path)).await
    }

    async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to): (PathBuf, PathBuf) = (from.to_owned(), to.to_owned());
        blocking(move || fs::rename(from, to)).await
    }

    async fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let dir = dir.to_owned();
        blocking(move || fs::File::open(dir)?.sync_all()).await
    }

    async fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        let path = path.to_owned();
        blocking(move || {
            let stat = rustix::fs::statvfs(&path)?;
            Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
        })
        .await
    }

    async fn total_bytes(&self, path: &Path) -> io::Result<u64> {
        let path = path.to_owned();
        blocking(move || {
            let stat = rustix::fs::statvfs(&path)?;
            Ok(stat.f_blocks.saturating_mul(stat.f_frsize))
        })
        .await
    }

    async fn try_lock(&self, path: &Path) -> io::Result<Option<DiskLock>> {
        let path = path.to_owned();
        blocking(move || {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(path)?;
            match file.try_lock() {
                Ok(()) => Ok(Some(DiskLock::new(file))),
                Err(fs::TryLockError::WouldBlock) => Ok(None),
                Err(fs::TryLockError::Error(error)) => Err(error),
            }
        })
        .await
    }
}

fn write_parts(file: &fs::File, mut pos: u64, parts: &[Bytes]) -> io::Result<()> {
    /// Most pieces of one call (the kernel's limit is 1024).
    const PIECES: usize = 512;
    let mut parts = parts.iter().filter(|part| !part.is_empty()).peekable();
    let mut offset = 0;
    while parts.peek().is_some() {
        let mut slices = Vec::with_capacity(PIECES);
        for (number, part) in parts.clone().take(PIECES).enumerate() {
            let from = if number == 0 { offset } else { 0 };
            slices.push(io::IoSlice::new(&part[from..]));
        }
        let mut written = match rustix::io::pwritev(file, &slices, pos) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => written,
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        };
        pos += written as u64;
        while let Some(part) = parts.peek() {
            let left = part.len() - offset;
            if written < left {
                offset += written;
                break;
            }
            written -= left;
            offset = 0;
            parts.next();
        }
    }
    Ok(())
}

/// Into memory that nobody cleared before.
fn read_plain(file: &fs::File, pos: u64, len: usize) -> io::Result<Bytes> {
    let mut buf = Vec::with_capacity(len);
    while buf.len() < len {
        let at = pos + buf.len() as u64;
        match rustix::io::pread(file, rustix::buffer::spare_capacity(&mut buf), at) {
            Ok(0) => break,
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    // The allocator may have given more room than was asked for.
    buf.truncate(len);
    Ok(buf.into())
}

/// As O_DIRECT wants it: into memory that begins at a block, and that nobody cleared before: to
/// clear a megabyte costs more than to read it.
fn read_aligned(file: &fs::File, pos: u64, len: usize) -> io::Result<Bytes> {
    let mut buf: Vec<u8> = Vec::with_capacity(len + BLOCK);
    let start = buf.as_ptr().align_offset(BLOCK);
    assert!(start < BLOCK, "a byte pointer can always be aligned");
    buf.resize(start, 0);
    while buf.len() < start + len {
        let filled = buf.len() - start;
        let room = &mut buf.spare_capacity_mut()[..len - filled];
        let read = match rustix::io::pread(file, room, pos + filled as u64) {
            Ok((read, _)) => read.len(),
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        };
        let end = buf.len() + read;
        // SAFETY: `pread` gives as its first part the `read` bytes of `room` that the kernel wrote,
        // and `room` began at the old length and lies within the capacity.
        #[expect(unsafe_code, reason = "the proof is above")]
        unsafe {
            buf.set_len(end);
        }
        if !read.is_multiple_of(BLOCK) || read == 0 {
            // Only the end of the file is no multiple of a block.
            break;
        }
    }
    Ok(Bytes::from(buf).slice(start..))
}

#[async_trait]
impl File for RealFile {
    async fn write_at(&self, pos: u64, parts: Vec<Bytes>) -> io::Result<()> {
        let file = self.file.clone();
        blocking(move || write_parts(&file, pos, &parts)).await
    }

    async fn write_aligned(&self, pos: u64, buf: AlignedBuf, sync: bool) -> io::Result<AlignedBuf> {
        let is_aligned = buf.len().is_multiple_of(BLOCK) && pos.is_multiple_of(BLOCK as u64);
        assert!(is_aligned, "aligned write");
        let file = self.file.clone();
        blocking(move || {
            file.write_all_at(&buf, pos)?;
            if sync {
                file.sync_data()?;
            }
            Ok(buf)
        })
        .await
    }

    async fn read_at(&self, pos: u64, len: usize) -> io::Result<Bytes> {
        let (file, direct) = (self.file.clone(), self.direct);
        blocking(move || match direct {
            true => read_aligned(&file, pos, len),
            false => read_plain(&file, pos, len),
        })
        .await
    }

    async fn sync(&self) -> io::Result<()> {
        let file = self.file.clone();
        blocking(move || file.sync_data()).await
    }

    async fn len(&self) -> io::Result<u64> {
        let file = self.file.clone();
        blocking(move || Ok(file.metadata()?.len())).await
    }

    async fn set_len(&self, len: u64) -> io::Result<()> {
        let file = self.file.clone();
        blocking(move || file.set_len(len)).await
    }

    async fn reserve(&self, len: u64) -> io::Result<()> {
        let file = self.file.clone();
        blocking(move || {
            match rustix::fs::fallocate(&*file, rustix::fs::FallocateFlags::empty(), 0, len) {
                Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(()),
                done => Ok(done?),
            }
        })
        .await
    }
}
