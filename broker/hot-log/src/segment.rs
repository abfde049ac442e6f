//! Hot segments: one partition's newest batches in files on this disk, for reads and uploads.
//!
//! A copy, never a promise: what made the records durable is their lane. So appends are large and
//! unsynced, past the page cache (a second copy there costs more than the write), and a start throws
//! all files away.
//!
//! Owns: files of whole batches, and where offsets stand in them. Does not own: what may be
//! dropped (the partition's ladder).

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use levee_proto::FormatError;
use levee_proto::limits::{SPARSE_INDEX_STRIDE, WAL_ALIGN};
use levee_proto::record::StoredBatch;
use levee_proto::record::seek::{Run, Seek, next_read, seek};
use levee_runtime::{AlignedBuf, File, Host, OpenMode};
use parking_lot::Mutex;
use thiserror::Error;

#[derive(Debug, Clone, Error)]
pub enum SegmentError {
    #[error("hot segment {path}: {error}")]
    Io { path: PathBuf, error: Arc<io::Error> },
    /// The copy on this disk is damaged; the bucket or the lane has the truth (I17).
    #[error("hot segment {path} at byte {pos}: {error}")]
    Corrupt { path: PathBuf, pos: u64, error: FormatError },
    /// Dropped since it was located.
    #[error("offset {0} is in no hot segment any more")]
    Gone(u64),
}

/// All hot segments of one partition. Files are made with the first append.
pub struct HotSegments {
    host: Host,
    dir: PathBuf,
    segment_bytes: u64,
    inner: Mutex<VecDeque<Segment>>,
    /// Appends and removals go one after the other: an append writes to the last segment while
    /// nothing is locked.
    changing: tokio::sync::Mutex<()>,
}

#[derive(Clone)]
struct Segment {
    path: PathBuf,
    /// Past the page cache, for appends in whole blocks.
    file: Arc<dyn File>,
    /// Through the page cache, for reads.
    reader: Arc<dyn File>,
    base: u64,
    end: u64,
    leader_epoch: u32,
    bytes: u64,
    /// Bytes of the last block, which is not full: the next append writes it again.
    rest: Bytes,
    /// One entry for about 64 KiB.
    index: Arc<Vec<Entry>>,
}

#[derive(Clone, Copy)]
struct Entry {
    offset: u64,
    pos: u64,
    /// Largest timestamp of this block.
    max_timestamp: i64,
}

impl Segment {
    async fn bytes_at(&self, pos: u64, len: usize, once: bool) -> io::Result<Bytes> {
        if !once {
            return self.reader.read_at(pos, len).await;
        }
        let skip = (pos % WAL_ALIGN as u64) as usize;
        let whole = (skip + len).next_multiple_of(WAL_ALIGN);
        let read = self.file.read_at(pos - skip as u64, whole).await?;
        Ok(read.slice(skip.min(read.len())..read.len().min(skip + len)))
    }

    /// Where a block begins that holds `offset` or ends before it, and its first offset.
    fn block(&self, offset: u64) -> (u64, u64) {
        let after = self.index.partition_point(|e| e.offset <= offset);
        let block = after.checked_sub(1).map(|at| &self.index[at]);
        block.map_or((0, self.base), |block| (block.pos, block.offset))
    }
}

impl HotSegments {
    /// `segment_bytes`: size at which a file is sealed and the next one begins.
    pub fn new(host: Host, dir: PathBuf, segment_bytes: u64) -> Self {
        let (inner, changing) = Default::default();
        Self { host, dir, segment_bytes, inner, changing }
    }

    /// First offset here; nothing where there is none.
    pub fn start(&self) -> Option<u64> {
        self.inner.lock().front().map(|s| s.base)
    }

    /// Exclusive.
    pub fn end(&self) -> Option<u64> {
        self.inner.lock().back().map(|s| s.end)
    }

    /// End and largest timestamp of the oldest segment.
    pub fn oldest(&self) -> Option<(u64, i64)> {
        let inner = self.inner.lock();
        let oldest = inner.front()?;
        let newest = oldest.index.iter().map(|e| e.max_timestamp).max().unwrap_or(-1);
        Some((oldest.end, newest))
    }

    pub fn bytes(&self) -> u64 {
        self.inner.lock().iter().map(|s| s.bytes).sum()
    }

    /// Adds batches of one leader epoch behind the last one; a failure adds nothing.
    pub async fn append(&self, batches: &[StoredBatch]) -> Result<(), SegmentError> {
        let Some(first) = batches.first() else { return Ok(()) };
        let _alone = self.changing.lock().await;
        let (base, epoch) = (first.header.base_offset, first.header.leader_epoch);
        let last = self.inner.lock().back().cloned();
        let goes_on = |s: &Segment| s.end == base && s.leader_epoch == epoch;
        let fits = |s: &Segment| goes_on(s) && s.bytes < self.segment_bytes;
        let (segment, is_new) = match last.filter(fits) {
            Some(segment) => (segment, false),
            None => (self.create(base, epoch).await?, true),
        };
        let len: usize = batches.iter().map(StoredBatch::len).sum();
        let mut buffer = AlignedBuf::with_capacity(segment.rest.len() + len + WAL_ALIGN);
        buffer.extend(&segment.rest);
        batches.iter().flat_map(StoredBatch::parts).for_each(|part| buffer.extend(part));
        let whole = buffer.len() / WAL_ALIGN * WAL_ALIGN;
        let rest = Bytes::copy_from_slice(&buffer[whole..]);
        buffer.pad();
        let pos = segment.bytes - segment.rest.len() as u64;
        let written = segment.file.write_aligned(pos, buffer, false).await;
        written.map_err(|error| io_error(&segment.path, error))?;
        self.add(segment, is_new, batches, rest);
        Ok(())
    }

    fn add(&self, segment: Segment, is_new: bool, batches: &[StoredBatch], rest: Bytes) {
        let mut inner = self.inner.lock();
        if is_new {
            inner.push_back(segment);
        }
        let segment = inner.back_mut().expect("appends go behind the last segment");
        segment.rest = rest;
        let index = Arc::make_mut(&mut segment.index);
        for batch in batches {
            let header = &batch.header;
            match index.last_mut() {
                Some(last) if segment.bytes - last.pos < SPARSE_INDEX_STRIDE as u64 => {
                    last.max_timestamp = last.max_timestamp.max(header.max_timestamp);
                }
                _ => index.push(Entry {
                    offset: header.base_offset,
                    pos: segment.bytes,
                    max_timestamp: header.max_timestamp,
                }),
            }
            segment.bytes += batch.len() as u64;
            segment.end = header.end_offset();
        }
    }

    async fn create(&self, base: u64, leader_epoch: u32) -> Result<Segment, SegmentError> {
        let path = self.dir.join(format!("{base:020}.seg"));
        let disk = self.host.disk();
        disk.create_dir_all(&self.dir).await.map_err(|e| io_error(&path, e))?;
        let mode = OpenMode { create: true, write: true, direct: true };
        let file = disk.open(&path, mode).await.map_err(|e| io_error(&path, e))?;
        file.set_len(0).await.map_err(|e| io_error(&path, e))?;
        let mode = OpenMode { create: false, write: false, direct: false };
        let reader = disk.open(&path, mode).await.map_err(|e| io_error(&path, e))?;
        let (end, bytes, index, rest) = (base, 0, Arc::default(), Bytes::new());
        Ok(Segment { path, file, reader, base, end, leader_epoch, bytes, rest, index })
    }

    fn holding(&self, offset: u64) -> Option<Segment> {
        let inner = self.inner.lock();
        let at = inner.partition_point(|s| s.end <= offset);
        inner.get(at).filter(|s| s.base <= offset).cloned()
    }

    pub fn holds(&self, offset: u64) -> bool {
        self.holding(offset).is_some()
    }

    /// Whole checked batches, the first one holding `offset`; up to `max_bytes`, at least one.
    /// `once`: nobody will read them again soon, so the page cache has no use for them.
    pub async fn read(
        &self,
        offset: u64,
        max_bytes: usize,
        once: bool,
    ) -> Result<Bytes, SegmentError> {
        let segment = self.holding(offset).ok_or(SegmentError::Gone(offset))?;
        let (mut pos, next) = segment.block(offset);
        let leader_epoch = segment.leader_epoch;
        let mut run = Run { next, end: segment.end, leader_epoch, compacted: false };
        let mut len =
            (max_bytes.saturating_add(SPARSE_INDEX_STRIDE) as u64).min(segment.bytes - pos);
        loop {
            let read = segment.bytes_at(pos, len as usize, once).await;
            let bytes = read.map_err(|error| io_error(&segment.path, error))?;
            let corrupt = |error| SegmentError::Corrupt { path: segment.path.clone(), pos, error };
            match seek(&bytes, &mut run, offset, max_bytes).map_err(corrupt)? {
                Seek::Batches(range) => return Ok(bytes.slice(range)),
                Seek::Needs { from, bytes } => {
                    (pos, len) =
                        next_read((pos, len, segment.bytes), from, bytes).map_err(corrupt)?;
                }
            }
        }
    }

    /// Offset of a block that holds the first record at or after `timestamp`.
    pub fn find_time(&self, timestamp: i64) -> Option<u64> {
        let inner = self.inner.lock();
        let blocks = inner.iter().flat_map(|s| s.index.iter());
        blocks.into_iter().find(|e| e.max_timestamp >= timestamp).map(|e| e.offset)
    }

    /// Removes segments that end at or below `to`. Returns the bytes freed.
    pub async fn drop_below(&self, to: u64) -> u64 {
        let _alone = self.changing.lock().await;
        let mut dropped = Vec::new();
        {
            let mut inner = self.inner.lock();
            while inner.front().is_some_and(|s| s.end <= to) {
                dropped.extend(inner.pop_front());
            }
        }
        let mut freed = 0;
        for segment in dropped {
            freed += segment.bytes;
            if let Err(error) = self.host.disk().remove_file(&segment.path).await {
                tracing::warn!(path = %segment.path.display(), %error, "hot segment stays");
            }
        }
        freed
    }

    /// Removes all of them.
    pub async fn clear(&self) {
        self.drop_below(u64::MAX).await;
    }
}

fn io_error(path: &std::path::Path, error: io::Error) -> SegmentError {
    SegmentError::Io { path: path.to_owned(), error: Arc::new(error) }
}
