//! The newest batches of a partition, in memory.

use std::collections::VecDeque;

use levee_proto::record::StoredBatch;

/// What a batch takes beside its bytes: its entry here, spare room, and what the allocator rounds
/// up. Measured with batches of 341 bytes, until the bucket has them: 310.
const BESIDE: usize = 320;

/// Spare room that a queue of batches may keep, in entries.
const SPARE: usize = 1024;

/// Gives room back that a burst left behind. A quarter at most is copied, so that it costs no more
/// than the batches that went.
pub(super) fn give_back<T>(batches: &mut VecDeque<T>) {
    if batches.capacity() > SPARE && batches.len() < batches.capacity() / 4 {
        batches.shrink_to(batches.len() * 2);
    }
}

/// Memory of a batch in a tail, bytes.
pub fn memory(batch: &StoredBatch) -> usize {
    batch.len() + BESIDE
}

/// Contiguous batches `start..end`; what is behind `start` is in hot segments or the bucket.
#[derive(Default)]
pub struct Tail {
    batches: VecDeque<StoredBatch>,
    bytes: usize,
    start: u64,
}

impl Tail {
    pub fn new(start: u64) -> Self {
        Self { start, ..Self::default() }
    }

    pub fn start(&self) -> u64 {
        self.start
    }

    /// Whether the batch of `offset` is here; it may begin below `start`.
    pub fn holds(&self, offset: u64) -> bool {
        self.batches.front().is_some_and(|first| first.header.base_offset <= offset)
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn push(&mut self, batch: StoredBatch) {
        self.bytes += batch.len();
        self.batches.push_back(batch);
    }

    /// Whole batches from the one that holds `offset` on, up to `max_bytes` (at least one) and
    /// not past `end`.
    pub fn read(&self, offset: u64, max_bytes: usize, end: u64) -> Vec<StoredBatch> {
        let from = self.batches.partition_point(|b| b.header.end_offset() <= offset);
        let mut out = Vec::new();
        let mut bytes = 0;
        for batch in self.batches.range(from..) {
            bytes += batch.len();
            let full = !out.is_empty() && bytes > max_bytes;
            if full || batch.header.end_offset() > end {
                break;
            }
            out.push(batch.clone());
        }
        out
    }

    /// Batches below `end` of one leader epoch, oldest first, up to `max_bytes` (at least one).
    pub fn oldest(&self, max_bytes: usize, end: u64) -> Vec<StoredBatch> {
        let mut batches = self.read(self.start, max_bytes, end);
        if let Some(epoch) = batches.first().map(|first| first.header.leader_epoch) {
            batches.truncate(batches.partition_point(|b| b.header.leader_epoch == epoch));
        }
        batches
    }

    /// What all of it takes, bytes.
    pub fn memory(&self) -> usize {
        self.bytes + self.batches.len() * BESIDE
    }

    /// Drops batches below `to`, which must be a batch border. Gives the memory that is free now.
    pub fn drop_below(&mut self, to: u64) -> usize {
        let before = self.memory();
        while self.batches.front().is_some_and(|b| b.header.end_offset() <= to) {
            if let Some(batch) = self.batches.pop_front() {
                self.bytes -= batch.len();
            }
        }
        self.start = self.start.max(to);
        give_back(&mut self.batches);
        before - self.memory()
    }

    /// First batch with a record at or after `timestamp`.
    pub fn find_time(&self, timestamp: i64) -> Option<&StoredBatch> {
        self.batches.iter().find(|b| b.header.max_timestamp >= timestamp)
    }
}
