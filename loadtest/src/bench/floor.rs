//! The floor of the disk: what it does for a loop that does nothing else.

use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::fs::OFlags;

use crate::error::{Error, Result};
use crate::recorder::histogram;

/// As the local lane's files are by default.
const FILE_BYTES: usize = 64 << 20;
/// What a disk may be written in, past the page cache.
const ALIGN: usize = 4096;

/// Writes `bytes` and syncs, again and again, in a file that was written before; microseconds.
/// `direct`: past the page cache, as the local lane writes.
pub fn syncs(
    folder: &Path,
    bytes: usize,
    direct: bool,
    duration: Duration,
) -> Result<Histogram<u64>> {
    let path = folder.join("floor");
    let done = sync_loop(&path, bytes.next_multiple_of(ALIGN), direct, duration);
    let _ = std::fs::remove_file(&path);
    done.map_err(|error| Error::failed(format!("syncing {}: {error}", path.display())))
}

fn sync_loop(
    path: &Path,
    bytes: usize,
    direct: bool,
    duration: Duration,
) -> std::io::Result<Histogram<u64>> {
    std::fs::write(path, vec![1; FILE_BYTES])?;
    let mut options = std::fs::OpenOptions::new();
    options.write(true);
    if direct {
        options.custom_flags(OFlags::DIRECT.bits() as i32);
    }
    let file = options.open(path)?;
    file.sync_all()?;
    // Room to begin at an aligned address.
    let room = vec![7u8; bytes + ALIGN];
    let from = room.as_ptr().align_offset(ALIGN);
    let block = &room[from..from + bytes];
    let mut latency = histogram();
    let (started, mut at) = (Instant::now(), 0);
    while started.elapsed() < duration {
        if at + bytes > FILE_BYTES {
            at = 0;
        }
        let before = Instant::now();
        file.write_all_at(block, at as u64)?;
        file.sync_data()?;
        latency.saturating_record(before.elapsed().as_micros() as u64);
        at += bytes;
    }
    Ok(latency)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sync_loop_measures_and_tidies_up() {
        let folder = tempfile::tempdir().unwrap();
        let seen = syncs(folder.path(), 5000, false, Duration::from_millis(50)).unwrap();
        assert!(!seen.is_empty());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
