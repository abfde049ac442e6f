//! Chunks in memory, by bytes. What one reader passes over once pushes out nothing that is used
//! again (CLOCK with a cold and a hot ring and a ghost, as in S3-FIFO).
//!
//! Owns: what counts as a use. Does not own: fetching.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{OptionsBuilder, Weighter};

use super::{ChunkId, Hasher};

/// Chunks smaller than this are rare: only the ends of objects.
const TYPICAL_ENTRY: u64 = 64 << 10;
/// Part of the memory for what is used again. The rest must hold what all readers that pass by have
/// under way, or they would push out each other's chunks and fetch them twice.
const HOT: f64 = 0.7;
/// Ranges of one chunk whose newest read is remembered. What is read in further ones counts as read
/// for the first time.
const RANGES: usize = 64;

pub(super) struct Memory {
    cache: Cache<ChunkId, Arc<Held>, ByBytes, Hasher>,
}

struct Held {
    bytes: Bytes,
    /// Where in the object the batches of the newest read in each range began, by the start of the
    /// range: the chunks of a shared object hold many, and their readers are not one.
    begun: Mutex<BTreeMap<u64, u64>>,
}

impl Memory {
    pub(super) fn new(bytes: u64) -> Self {
        let options = OptionsBuilder::new()
            .weight_capacity(bytes)
            .estimated_items_capacity((bytes / TYPICAL_ENTRY).max(16) as usize)
            // One bound for all: shards would each have a part of it.
            .shards(1)
            .hot_allocation(HOT)
            .build()
            .expect("all that is required is set");
        let (hasher, lifecycle) = (Hasher::default(), DefaultLifecycle::default());
        Self { cache: Cache::with_options(options, ByBytes, hasher, lifecycle) }
    }

    pub(super) fn insert(&self, id: ChunkId, bytes: Bytes) {
        self.cache.insert(id, Arc::new(Held { bytes, begun: Mutex::default() }));
    }

    /// Does not count as a use.
    pub(super) fn peek(&self, id: &ChunkId) -> Option<Bytes> {
        self.cache.peek(id).map(|held| held.bytes.clone())
    }

    /// Counts a read of a range whose batches begin at `pos` of the object, and gives the chunk if
    /// it is used again: a reader that goes on within a chunk uses it once; one that begins at or
    /// before the place where the last one of this range began passes over it again, or is another
    /// reader.
    pub(super) fn used(&self, id: &ChunkId, range: u64, pos: u64) -> Option<Bytes> {
        let held = self.cache.peek(id)?;
        let before = {
            let mut begun = held.begun.lock();
            if begun.len() >= RANGES && !begun.contains_key(&range) {
                begun.pop_first();
            }
            begun.insert(range, pos)
        };
        before.filter(|before| pos <= *before)?;
        self.cache.get(id).map(|held| held.bytes.clone())
    }

    pub(super) fn remove(&self, id: &ChunkId) {
        self.cache.remove(id);
    }

    pub(super) fn clear(&self) {
        self.cache.clear();
    }

    pub(super) fn bytes(&self) -> u64 {
        self.cache.weight()
    }
}

#[derive(Clone)]
struct ByBytes;

/// Of an entry with few ranges.
const OVERHEAD: u64 = 300;

impl Weighter<ChunkId, Arc<Held>> for ByBytes {
    fn weight(&self, id: &ChunkId, held: &Arc<Held>) -> u64 {
        (held.bytes.len() + id.object.len()) as u64 + OVERHEAD
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNK: usize = 1000;

    fn id(number: u64) -> ChunkId {
        ChunkId { object: "o".into(), number }
    }

    /// One reader passes over a chunk in four reads. Returns whether the chunk was there.
    fn pass(memory: &Memory, number: u64) -> bool {
        let start = number * CHUNK as u64;
        let was_there = memory.peek(&id(number)).is_some();
        if !was_there {
            memory.insert(id(number), vec![0; CHUNK].into());
        }
        for quarter in 0..4 {
            memory.used(&id(number), 0, start + quarter * 250);
        }
        was_there
    }

    #[test]
    fn a_full_scan_leaves_what_is_used_again() {
        let memory = Memory::new(100 * (CHUNK as u64 + OVERHEAD + 1));
        let working_set = || (0..60).filter(|n| pass(&memory, *n)).count();
        for _ in 0..3 {
            working_set();
        }
        assert_eq!(working_set(), 60);
        assert!(!(1000..2000).any(|n| pass(&memory, n)));
        let left = working_set();
        assert!(left >= 54, "{left} of 60");
        assert!(memory.bytes() <= 100 * (CHUNK as u64 + OVERHEAD + 1));
    }

    #[test]
    fn a_reader_that_goes_on_uses_a_chunk_once() {
        let memory = Memory::new(1 << 20);
        memory.insert(id(1), vec![0; CHUNK].into());
        let reused = |pos| memory.used(&id(1), 0, pos).is_some();
        // One after the other; another reader behind; both go on; from the start.
        assert_eq!(
            [1000, 1200, 1900, 1100, 1950, 1300, 1000].map(reused),
            [false, false, false, true, false, true, true]
        );
    }

    #[test]
    fn readers_of_other_ranges_are_not_the_same_reader_again() {
        let memory = Memory::new(1 << 20);
        memory.insert(id(1), vec![0; CHUNK].into());
        // In whatever order they come: each range once, then each once more.
        let ranges = [1600, 1000, 1900, 1300, 1800, 1100];
        let pass = || ranges.map(|range| memory.used(&id(1), range, range).is_some());
        assert_eq!(pass(), [false; 6]);
        assert_eq!(pass(), [true; 6]);
        // However many there are, little is remembered.
        (0..1000).for_each(|range| assert!(memory.used(&id(1), 2000 + range, 0).is_none()));
        assert!(memory.cache.peek(&id(1)).unwrap().begun.lock().len() <= RANGES);
    }
}
