//! What a partition has in memory and on this disk: reading it, and moving tail to hot segments.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use levee_hot_log::segment::SegmentError;
use levee_proto::record::StoredBatch;

use super::Partition;
use crate::fetch::Batches;

/// Bytes at once from which on a hot segment is read past the page cache.
const READ_DIRECT_ABOVE: usize = 256 << 10;

/// Where an offset stands. The caller makes one call per arm.
pub enum Local {
    /// In memory: whole batches.
    Tail(Vec<StoredBatch>),
    /// In a hot segment: read it with [`Partition::read_hot`].
    Hot,
    /// Only in the bucket.
    Remote,
    /// Nothing there that this reader sees, yet.
    AtEnd,
    /// Outside `log_start..=high_watermark`.
    OutOfRange { log_start: u64, high_watermark: u64 },
}

impl Partition {
    /// Finds `offset`; readers see only what is below `end`, which is the high watermark at most
    /// (I9).
    pub fn locate(&self, offset: u64, max_bytes: usize, end: u64) -> Local {
        let inner = self.inner.lock();
        let (log_start, high_watermark) = (inner.ladder.log_start(), inner.ladder.high_watermark());
        if offset < log_start || offset > high_watermark {
            return Local::OutOfRange { log_start, high_watermark };
        }
        let end = end.min(high_watermark);
        if offset >= end {
            return Local::AtEnd;
        }
        if offset >= inner.tail.start() {
            return Local::Tail(inner.tail.read(offset, max_bytes, end));
        }
        // A copy may have been dropped in the middle: then the bucket has it.
        match self.hot.holds(offset) {
            true => Local::Hot,
            false => Local::Remote,
        }
    }

    /// Whole checked batches from a hot segment, the first one holding `offset`.
    pub async fn read_hot(&self, offset: u64, max_bytes: usize) -> Result<Bytes, SegmentError> {
        // A reader that takes much at once goes on to what comes next.
        self.hot.read(offset, max_bytes, max_bytes >= READ_DIRECT_ABOVE).await
    }

    /// Local bytes from `offset` on, wherever they are, deleted ones too: an upload takes whole
    /// batches, and the log may start inside of one. Nothing where they are gone.
    pub async fn read_local(
        &self,
        offset: u64,
        max_bytes: usize,
    ) -> Result<Option<Bytes>, SegmentError> {
        {
            let inner = self.inner.lock();
            if inner.tail.holds(offset) {
                let batches = inner.tail.read(offset, max_bytes, inner.ladder.durable_end());
                return Ok((!batches.is_empty()).then(|| Batches::of(&batches).into_bytes()));
            }
        }
        match self.hot.read(offset, max_bytes, true).await {
            Err(SegmentError::Gone(_)) => Ok(None),
            read => read.map(Some),
        }
    }

    /// Moves durable batches from memory to a hot segment, up to `max_bytes`. Returns the memory
    /// that is free now. A failure leaves them in memory.
    pub async fn flush_tail(self: &Arc<Self>, max_bytes: usize) -> Result<usize, SegmentError> {
        if self.flushing.swap(true, Ordering::AcqRel) {
            return Ok(0);
        }
        let moved = self.flush_tail_alone(max_bytes).await;
        self.flushing.store(false, Ordering::Release);
        moved
    }

    async fn flush_tail_alone(&self, max_bytes: usize) -> Result<usize, SegmentError> {
        let batches = {
            let inner = self.inner.lock();
            inner.tail.oldest(max_bytes, inner.ladder.durable_end())
        };
        let Some(last) = batches.last() else { return Ok(0) };
        let end = last.header.end_offset();
        self.hot.append(&batches).await?;
        let freed = {
            let mut inner = self.inner.lock();
            let freed = inner.tail.drop_below(end);
            inner.forget_aborted();
            freed
        };
        self.tails.sub(freed);
        Ok(freed)
    }

    /// From where on a reader may meet a local copy. A flush under way may bring back older ones than
    /// the ladder knows of: the tail may have been dropped under it.
    pub fn local_start(&self) -> u64 {
        let inner = self.inner.lock();
        let start = inner.ladder.local_start();
        // It picks its batches under this lock.
        match self.flushing.load(Ordering::Acquire) {
            true => inner.ladder.log_start(),
            false => self.hot.start().map_or(start, |hot| hot.min(start)),
        }
    }

    pub fn tail_memory(&self) -> usize {
        self.inner.lock().tail.memory()
    }

    pub fn hot_bytes(&self) -> u64 {
        self.hot.bytes()
    }

    /// Drops local copies of what is covered, up to `to`; whole segments, and the tail where it is
    /// covered as well and `tail_too`. Returns the bytes freed.
    pub async fn drop_local(&self, to: u64, tail_too: bool) -> u64 {
        let (to, freed, bytes) = {
            let mut inner = self.inner.lock();
            let (to, before) = (to.min(inner.ladder.tiered_end()), inner.tail.bytes());
            let freed = if tail_too { inner.tail.drop_below(to) } else { 0 };
            (to, freed, before - inner.tail.bytes())
        };
        self.tails.sub(freed);
        let dropped = self.hot.drop_below(to).await;
        let mut inner = self.inner.lock();
        let start = self.hot.start().unwrap_or(inner.tail.start()).min(inner.ladder.tiered_end());
        inner.ladder.dropped_local(start);
        inner.forget_aborted();
        dropped + bytes as u64
    }

    /// Drops what the bucket has from memory, and touches no disk.
    pub fn drop_covered_tail(&self) {
        let mut inner = self.inner.lock();
        let tiered_end = inner.ladder.tiered_end();
        self.tails.sub(inner.tail.drop_below(tiered_end));
        let start = self.hot.start().unwrap_or(inner.tail.start()).min(tiered_end);
        inner.ladder.dropped_local(start);
        inner.forget_aborted();
    }

    /// Drops the oldest hot segment, if all of it is in the bucket. Returns the bytes freed.
    pub async fn drop_oldest_hot(&self) -> u64 {
        match self.hot.oldest() {
            Some((end, _)) if end <= self.ladder().tiered_end() => {
                self.drop_local(end, false).await
            }
            _ => 0,
        }
    }

    /// Drops hot segments in which all is deleted.
    pub async fn drop_deleted_hot(&self) {
        while let Some((end, _)) = self.hot.oldest() {
            if end > self.ladder().log_start() || self.drop_oldest_hot().await == 0 {
                return;
            }
        }
    }

    /// Drops hot segments whose records are all older than `before_ms` and in the bucket.
    pub async fn drop_hot_before(&self, before_ms: i64) {
        while let Some((_, newest)) = self.hot.oldest() {
            if newest >= before_ms || self.drop_oldest_hot().await == 0 {
                return;
            }
        }
    }

    /// Offset of the first local block that may hold a record at or after `timestamp`; the high
    /// watermark where all is older.
    pub fn find_time(&self, timestamp: i64) -> u64 {
        if let Some(offset) = self.hot.find_time(timestamp) {
            return offset;
        }
        let inner = self.inner.lock();
        let batch = inner.tail.find_time(timestamp);
        batch.map_or(inner.ladder.high_watermark(), |b| b.header.base_offset)
    }

    /// The topic is deleted: nothing of it is served from here any more.
    pub async fn drop_all(&self) {
        self.gone.store(true, Ordering::Release);
        let freed = self.inner.lock().tail.drop_below(u64::MAX);
        self.tails.sub(freed);
        self.hot.clear().await;
    }
}
