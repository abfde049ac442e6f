//! Chunks on this disk, under a byte budget: a ring of large files, the newest appended to, the
//! oldest given up whole. An index in memory says what stands where (about 60 bytes per entry).
//!
//! Large files and whole blocks past the page cache: no inode per chunk, no holes to manage, no
//! second copy in memory. Nothing is synced and nothing is believed: every entry is checked as it is
//! read, and one that is damaged, torn or gone is a miss (I17). A file is never written over, so a
//! read that is overtaken by its eviction still reads what it looked up.
//!
//! Owns: files, entries, and the peace of a disk that fails. In `room`: what is given up, and what
//! gets a second chance. Does not own: what deserves to be kept (`super`).

mod open;
mod room;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use levee_runtime::{AlignedBuf, File, Host, Mono, OpenMode};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::ChunkId;
use super::entry::{self, BLOCK, Head, Row};

/// A read that takes longer is not worth it: the bucket answers.
const READ_LIMIT: Duration = Duration::from_secs(2);
const WRITE_LIMIT: Duration = Duration::from_secs(10);
/// How long a disk that failed or did not answer is left alone.
const PAUSE: Duration = Duration::from_secs(30);
/// Bytes that wait to be written; what comes on top is not kept.
const QUEUE_BYTES: usize = 16 << 20;
/// Files of a full ring: each is this part of the budget.
const FILES: u64 = 32;
const FILE_BYTES_MAX: u64 = 1 << 30;
const FILE_BYTES_MIN: u64 = 256 << 10;
/// Most files at a time: each start begins a new one.
const FILES_MAX: usize = 128;
/// Of a file that is appended to, and of one that is full and has a table: data could look like one.
const OPEN: &str = "cache";
const FULL: &str = "full";

/// One ring.
pub struct DiskCache {
    host: Host,
    dir: PathBuf,
    /// What it holds, in metrics.
    name: &'static str,
    ring: Mutex<Ring>,
    /// One writes at a time.
    writer: tokio::sync::Mutex<Writer>,
    queue: Arc<Semaphore>,
}

struct Ring {
    places: BTreeMap<u64, Place>,
    files: BTreeMap<u32, Kept>,
    /// Bytes of all files.
    used: u64,
    /// Bytes that they may have now.
    allowed: u64,
    next: u32,
    paused_until: Mono,
}

#[derive(Clone, Copy, PartialEq)]
struct Place {
    file: u32,
    block: u32,
    blocks: u32,
    /// Read since it was written.
    is_used: bool,
}

struct Kept {
    file: Arc<dyn File>,
    bytes: u64,
    is_full: bool,
    entries: Vec<u64>,
}

#[derive(Default)]
struct Writer {
    /// The file that is appended to.
    file: Option<u32>,
    buffer: Option<AlignedBuf>,
}

impl Ring {
    fn rows(&self, number: u32) -> Vec<Row> {
        let Some(kept) = self.files.get(&number) else { return Vec::new() };
        let place = |fingerprint: &u64| {
            let place = self.places.get(fingerprint).filter(|place| place.file == number)?;
            let Place { block, blocks, .. } = *place;
            Some(Row { fingerprint: *fingerprint, block, blocks })
        };
        kept.entries.iter().filter_map(place).collect()
    }

    fn add(&mut self, number: u32, row: Row, is_used: bool) {
        let Some(kept) = self.files.get_mut(&number) else { return };
        let Row { fingerprint, block, blocks } = row;
        kept.entries.push(fingerprint);
        self.places.insert(fingerprint, Place { file: number, block, blocks, is_used });
    }

    /// Room for so many bytes at the end of a file, which count from now on: after a failed write
    /// nobody knows how many of them are there.
    fn grow(&mut self, number: u32, bytes: u64) -> Option<(Arc<dyn File>, u64)> {
        let kept = self.files.get_mut(&number)?;
        let pos = kept.bytes;
        kept.bytes += bytes;
        self.used += bytes;
        Some((kept.file.clone(), pos))
    }

    /// Forgets a file and what only it had; how many entries that were.
    fn forget(&mut self, number: u32) -> usize {
        let Some(kept) = self.files.remove(&number) else { return 0 };
        let before = self.places.len();
        self.used -= kept.bytes;
        for fingerprint in kept.entries {
            if self.places.get(&fingerprint).is_some_and(|place| place.file == number) {
                self.places.remove(&fingerprint);
            }
        }
        before - self.places.len()
    }

    /// Size at which a file is full. One file's worth of room is left for second chances.
    fn file_bytes(&self) -> u64 {
        (self.allowed / FILES).clamp(FILE_BYTES_MIN, FILE_BYTES_MAX)
    }
}

impl DiskCache {
    /// The data of a chunk, if it is here and undamaged.
    pub async fn get(&self, id: &ChunkId) -> Option<Bytes> {
        let fingerprint = entry::fingerprint(id);
        let (file, place) = {
            let mut ring = self.ring.lock();
            if self.host.now() < ring.paused_until {
                return None;
            }
            let place = ring.places.get_mut(&fingerprint)?;
            place.is_used = true;
            let place = *place;
            (ring.files.get(&place.file)?.file.clone(), place)
        };
        let why = match self.read(&file, place).await {
            Ok(entry) => match Head::decode(&entry).and_then(|head| Ok((head.data(&entry)?, head)))
            {
                Ok((data, head)) if head.id == *id => return Some(data),
                // Another chunk with the same fingerprint has its place.
                Ok(_) => return None,
                Err(error) => error.to_string(),
            },
            Err(error) => error.to_string(),
        };
        tracing::warn!(cache = self.name, object = %id.object, why, "a cached copy is not used");
        metrics::counter!("levee_cache_damaged_total", "cache" => self.name).increment(1);
        let mut ring = self.ring.lock();
        if ring.places.get(&fingerprint).is_some_and(|now| now.file == place.file) {
            ring.places.remove(&fingerprint);
        }
        None
    }

    async fn read(&self, file: &Arc<dyn File>, place: Place) -> io::Result<Bytes> {
        let (pos, len) = (u64::from(place.block) * BLOCK as u64, place.blocks as usize * BLOCK);
        match self.host.timeout(READ_LIMIT, file.read_at(pos, len)).await {
            Ok(read) => read,
            Err(_) => {
                self.pause();
                Err(io::Error::new(io::ErrorKind::TimedOut, "the disk does not answer"))
            }
        }
    }

    pub fn holds(&self, id: &ChunkId) -> bool {
        self.ring.lock().places.contains_key(&entry::fingerprint(id))
    }

    /// Keeps a chunk beside the caller; not where the disk is behind, or was failing just now.
    pub fn put(self: &Arc<Self>, id: ChunkId, data: Bytes) {
        let is_welcome = {
            let ring = self.ring.lock();
            let fits = entry::fits(&id, &data) && data.len() as u64 <= ring.allowed / 4;
            let is_new = !ring.places.contains_key(&entry::fingerprint(&id));
            fits && is_new && self.host.now() >= ring.paused_until
        };
        if !is_welcome {
            return;
        }
        let wanted = entry::size(&id, &data).min(QUEUE_BYTES) as u32;
        let Ok(room) = self.queue.clone().try_acquire_many_owned(wanted) else {
            metrics::counter!("levee_cache_refused_total", "cache" => self.name).increment(1);
            return;
        };
        let cache = self.clone();
        drop(self.host.spawn("cache-write", async move {
            let mut writer = cache.writer.lock().await;
            if !cache.holds(&id) && cache.host.now() >= cache.ring.lock().paused_until {
                let kept = cache.keep(&mut writer, &id, &data).await;
                cache.count(kept);
            }
            drop(room);
        }));
    }

    fn count(&self, kept: io::Result<()>) {
        match kept {
            Ok(()) => {
                metrics::counter!("levee_cache_admitted_total", "cache" => self.name).increment(1);
            }
            Err(error) => {
                tracing::warn!(dir = %self.dir.display(), %error, "the disk cache rests a while");
                self.pause();
            }
        }
        metrics::gauge!("levee_cache_bytes", "level" => "disk", "cache" => self.name)
            .set(self.used() as f64);
    }

    fn pause(&self) {
        self.ring.lock().paused_until = self.host.now() + PAUSE;
    }

    async fn keep(&self, writer: &mut Writer, id: &ChunkId, data: &[u8]) -> io::Result<()> {
        self.make_room(writer, entry::size(id, data) as u64).await?;
        let mut buffer = writer.buffer.take().unwrap_or_else(|| AlignedBuf::with_capacity(BLOCK));
        buffer.clear();
        entry::write(&mut buffer, id, data);
        self.append(writer, entry::fingerprint(id), buffer).await
    }

    /// Appends a whole entry.
    async fn append(
        &self,
        writer: &mut Writer,
        fingerprint: u64,
        buffer: AlignedBuf,
    ) -> io::Result<()> {
        let bytes = buffer.len() as u64;
        let number = self.file_for(writer, bytes).await?;
        // Where the file ends; whatever goes wrong, it is not appended to again.
        writer.file = None;
        let Some((file, pos)) = self.ring.lock().grow(number, bytes) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        writer.buffer = Some(self.write(&file, pos, buffer).await?);
        writer.file = Some(number);
        let mut ring = self.ring.lock();
        let (block, blocks) = ((pos / BLOCK as u64) as u32, (bytes / BLOCK as u64) as u32);
        ring.add(number, Row { fingerprint, block, blocks }, false);
        Ok(())
    }

    async fn write(
        &self,
        file: &Arc<dyn File>,
        pos: u64,
        buffer: AlignedBuf,
    ) -> io::Result<AlignedBuf> {
        let written = self.host.timeout(WRITE_LIMIT, file.write_aligned(pos, buffer, false)).await;
        written.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the disk does not answer"))?
    }

    /// The file that takes so many bytes more: the newest one, or else a new one.
    async fn file_for(&self, writer: &mut Writer, bytes: u64) -> io::Result<u32> {
        if let Some(number) = writer.file {
            let (is_full, rows) = {
                let ring = self.ring.lock();
                let len = ring.files.get(&number).map_or(u64::MAX, |kept| kept.bytes);
                let is_full = len.saturating_add(bytes) > ring.file_bytes();
                (is_full, if is_full { ring.rows(number) } else { Vec::new() })
            };
            if !is_full {
                return Ok(number);
            }
            writer.file = None;
            self.seal(number, &rows).await?;
        }
        let number = {
            let mut ring = self.ring.lock();
            ring.next += 1;
            ring.next
        };
        let mode = OpenMode { create: true, write: true, direct: true };
        let open = async {
            let disk = self.host.disk();
            disk.create_dir_all(&self.dir).await?;
            disk.open(&self.path(number, false), mode).await
        };
        let file = self.host.timeout(WRITE_LIMIT, open).await;
        let file = file.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        let kept = Kept { file, bytes: 0, is_full: false, entries: Vec::new() };
        self.ring.lock().files.insert(number, kept);
        Ok(number)
    }

    /// Writes the table of a full file behind its entries, and says so by its name.
    async fn seal(&self, number: u32, rows: &[Row]) -> io::Result<()> {
        let pos = self.ring.lock().files.get(&number).map_or(0, |kept| kept.bytes);
        let mut buffer = AlignedBuf::with_capacity(rows.len() * 16 + 2 * BLOCK);
        entry::write_table(&mut buffer, rows, (pos / BLOCK as u64) as u32);
        let grown = self.ring.lock().grow(number, buffer.len() as u64);
        let Some((file, pos)) = grown else { return Ok(()) };
        self.write(&file, pos, buffer).await?;
        let (open, full) = (self.path(number, false), self.path(number, true));
        let renamed = self.host.timeout(WRITE_LIMIT, self.host.disk().rename(&open, &full)).await;
        renamed.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        if let Some(kept) = self.ring.lock().files.get_mut(&number) {
            kept.is_full = true;
        }
        Ok(())
    }

    fn path(&self, number: u32, is_full: bool) -> PathBuf {
        self.dir.join(format!("{number:08x}.{}", if is_full { FULL } else { OPEN }))
    }

    /// Not to be used again: its bytes passed their checksum here, and are wrong all the same.
    pub fn forget(&self, id: &ChunkId) {
        self.ring.lock().places.remove(&entry::fingerprint(id));
    }

    /// Bytes of all files.
    pub fn used(&self) -> u64 {
        self.ring.lock().used
    }

    /// Bytes that they may have now.
    pub fn allowed(&self) -> u64 {
        self.ring.lock().allowed
    }
}
