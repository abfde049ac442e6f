//! Room for new entries: the oldest files go, and what of them is still used moves on.

use std::io;

use levee_runtime::AlignedBuf;

use super::super::entry::{BLOCK, Head, Row};
use super::{DiskCache, FILES_MAX, Place, WRITE_LIMIT, Writer};

impl DiskCache {
    /// Gives up the oldest files until so many bytes more have room. What was read since it was
    /// written gets a second chance: it moves to the newest file.
    pub(super) async fn make_room(&self, writer: &mut Writer, bytes: u64) -> io::Result<()> {
        while let Some(oldest) = self.oldest(bytes, true) {
            if writer.file == Some(oldest) {
                writer.file = None;
            }
            let bytes = self.ring.lock().files.get(&oldest).map_or(0, |kept| kept.bytes);
            // So much at most: a quarter of each file is always won, and what is used and falls out
            // comes back as it is asked for.
            let mut left = bytes / 4 * 3;
            for row in self.used_rows(oldest) {
                let Some(rest) = left.checked_sub(u64::from(row.blocks) * BLOCK as u64) else {
                    break;
                };
                left = rest;
                self.move_up(writer, oldest, row).await?;
            }
            self.remove(oldest).await?;
        }
        Ok(())
    }

    /// The file to give up, while `bytes` more have no room.
    fn oldest(&self, bytes: u64, keeps_spare: bool) -> Option<u32> {
        let ring = self.ring.lock();
        let spare = if keeps_spare { ring.file_bytes() } else { 0 };
        let fits = ring.used + bytes + spare <= ring.allowed && ring.files.len() < FILES_MAX;
        ring.files.keys().next().copied().filter(|_| !fits)
    }

    fn used_rows(&self, number: u32) -> Vec<Row> {
        let ring = self.ring.lock();
        let mut rows = ring.rows(number);
        rows.retain(|row| ring.places.get(&row.fingerprint).is_some_and(|place| place.is_used));
        rows
    }

    async fn move_up(&self, writer: &mut Writer, from: u32, row: Row) -> io::Result<()> {
        let Some(file) = self.ring.lock().files.get(&from).map(|kept| kept.file.clone()) else {
            return Ok(());
        };
        let Row { fingerprint, block, blocks } = row;
        let entry = self.read(&file, Place { file: from, block, blocks, is_used: true }).await?;
        // A damaged one goes with its file.
        if Head::decode(&entry).and_then(|head| head.data(&entry)).is_err() {
            return Ok(());
        }
        let mut buffer = writer.buffer.take().unwrap_or_else(|| AlignedBuf::with_capacity(BLOCK));
        buffer.clear();
        buffer.extend(&entry);
        self.append(writer, fingerprint, buffer).await?;
        metrics::counter!("levee_cache_kept_total", "cache" => self.name).increment(1);
        Ok(())
    }

    async fn remove(&self, number: u32) -> io::Result<()> {
        let is_full = self.ring.lock().files.get(&number).is_some_and(|kept| kept.is_full);
        let (disk, path) = (self.host.disk(), self.path(number, is_full));
        let removed = self.host.timeout(WRITE_LIMIT, disk.remove_file(&path)).await;
        match removed.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))? {
            // It stays, and its bytes count.
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let evicted = self.ring.lock().forget(number) as u64;
        metrics::counter!("levee_cache_evicted_total", "cache" => self.name).increment(evicted);
        Ok(())
    }

    /// Tells how many bytes the files may have now, and gives up the oldest ones above that. Does
    /// not wait for a write under way: the next one makes the room.
    pub async fn fit(&self, allowed: u64) {
        self.ring.lock().allowed = allowed;
        let Ok(mut writer) = self.writer.try_lock() else { return };
        while self.used() > allowed {
            writer.file = None;
            let Some(oldest) = self.oldest(0, false) else { return };
            if let Err(error) = self.remove(oldest).await {
                tracing::warn!(dir = %self.dir.display(), %error, "a file of the cache stays");
                return;
            }
        }
    }

    /// Forgets everything.
    pub async fn clear(&self) {
        let mut writer = self.writer.lock().await;
        writer.file = None;
        let numbers: Vec<u32> = self.ring.lock().files.keys().copied().collect();
        for number in numbers {
            if let Err(error) = self.remove(number).await {
                tracing::warn!(dir = %self.dir.display(), %error, "a file of the cache stays");
            }
        }
    }
}
