//! The newest offset of each key, of the part of a log that was not compacted yet.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use levee_proto::ids::PartitionId;
use levee_proto::limits::BATCH_DECODED_BYTES_MAX;
use levee_proto::object::Aborted;
use levee_proto::record::BatchHeader;
use levee_proto::record::rewrite::raw_records;
use sha2::{Digest, Sha256};

use crate::merge::{Copies, Run, RunBatches, Tile, Windows};
use crate::upload::{Batches, SourceError};

const SLOT_BYTES: usize = size_of::<Slot>();
/// A millisecond or two of work.
const PAUSE_BYTES: usize = 128 << 10;
const SLOTS_MIN: usize = 1 << 10;

/// Half of a SHA-256: a client must not be able to make two keys that count as one.
type Hash = [u64; 2];

#[derive(Clone, Copy)]
struct Slot {
    hash: Hash,
    offset: u64,
}

/// No record has it.
const EMPTY: Slot = Slot { hash: [0; 2], offset: u64::MAX };

/// Keys of some partitions by their hash, bounded in bytes: what finds no room waits for another
/// round. Open addressing: 24 bytes a slot, at most three quarters of them taken.
pub struct KeyMap {
    slots: Vec<Slot>,
    len: usize,
    slots_max: usize,
}

impl KeyMap {
    /// In `bytes` of memory; half as much more for a moment while it grows.
    pub fn new(bytes: u64) -> Self {
        let most = (bytes as usize / SLOT_BYTES).max(SLOTS_MIN);
        let slots_max = if most.is_power_of_two() { most } else { most.next_power_of_two() / 2 };
        Self { slots: vec![EMPTY; SLOTS_MIN], len: 0, slots_max }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether so many more keys find room.
    pub fn has_room(&self, keys: usize) -> bool {
        self.len + keys <= self.slots_max / 4 * 3
    }

    /// A record: later ones of its key come later.
    pub fn put(&mut self, partition: PartitionId, key: &[u8], offset: u64) {
        if self.len >= self.slots.len() / 4 * 3 {
            self.grow();
        }
        let hash = hash_of(partition, key);
        let at = place(&self.slots, hash);
        self.len += usize::from(self.slots[at].offset == EMPTY.offset);
        self.slots[at] = Slot { hash, offset };
    }

    /// Offset of the newest record of a key.
    pub fn get(&self, partition: PartitionId, key: &[u8]) -> Option<u64> {
        let found = self.slots[place(&self.slots, hash_of(partition, key))].offset;
        (found != EMPTY.offset).then_some(found)
    }

    fn grow(&mut self) {
        let mut slots = vec![EMPTY; self.slots.len() * 2];
        for slot in self.slots.iter().filter(|slot| slot.offset != EMPTY.offset) {
            let at = place(&slots, slot.hash);
            slots[at] = *slot;
        }
        self.slots = slots;
    }
}

/// The slot of a hash, or the free one where it goes. There is always a free one.
fn place(slots: &[Slot], hash: Hash) -> usize {
    let mask = slots.len() - 1;
    let mut at = hash[0] as usize & mask;
    while slots[at].offset != EMPTY.offset && slots[at].hash != hash {
        at = (at + 1) & mask;
    }
    at
}

fn hash_of(partition: PartitionId, key: &[u8]) -> Hash {
    let mut hasher = Sha256::new();
    hasher.update(partition.topic.0.to_le_bytes());
    hasher.update(partition.partition.to_le_bytes());
    hasher.update(key);
    let digest: [u8; 32] = hasher.finalize().into();
    let word = |at: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&digest[at..at + 8]);
        u64::from_le_bytes(word)
    };
    [word(0), word(8)]
}

/// Puts the keys of some offsets of a partition into the map, as far as they find room; returns up
/// to where they did. `tiles` have their places.
pub async fn map_keys(
    map: &mut KeyMap,
    windows: impl Fn(&Tile) -> Windows,
    copies: &Arc<dyn Copies>,
    partition: PartitionId,
    (tiles, offsets): (&[Tile], Range<u64>),
    aborted: &Aborted,
) -> Result<u64, SourceError> {
    let inside = |tile: &&Tile| tile.end > offsets.start && tile.base < offsets.end;
    for tile in tiles.iter().filter(inside) {
        let own = Tile { input: 0, ..tile.clone() };
        let run = Run { partition, tiles: vec![own] };
        let mut source = RunBatches::new(Arc::new(windows(tile)), copies.clone(), &run);
        while let Some(batches) = source.next(0).await? {
            let mut at = 0;
            while at < batches.len() {
                let header = BatchHeader::decode(&batches[at..]).map_err(damaged)?;
                let batch = batches.slice(at..at + header.bytes as usize);
                pause(at, at + batch.len()).await;
                at += batch.len();
                if header.end_offset() <= offsets.start {
                    continue;
                }
                if header.base_offset >= offsets.end {
                    return Ok(offsets.end);
                }
                if !map.has_room(header.record_count as usize) {
                    return Ok(header.base_offset);
                }
                if !header.is_control() && !aborted.holds(&header) {
                    put_all(map, partition, &batch)?;
                }
            }
        }
    }
    Ok(offsets.end)
}

fn put_all(map: &mut KeyMap, partition: PartitionId, batch: &Bytes) -> Result<(), SourceError> {
    for record in raw_records(batch, BATCH_DECODED_BYTES_MAX).map_err(damaged)? {
        if let Some(key) = &record.key {
            map.put(partition, key, record.offset);
        }
    }
    Ok(())
}

/// Lets others run now and then on the way through some bytes: unpacking and hashing them keeps a
/// processor busy.
pub(super) async fn pause(from: usize, to: usize) {
    if from / PAUSE_BYTES != to / PAUSE_BYTES {
        tokio::task::yield_now().await;
    }
}

pub(super) fn damaged(error: levee_proto::FormatError) -> SourceError {
    SourceError::Damaged(error.to_string())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use levee_proto::ids::TopicId;

    use super::*;

    fn partition(n: u32) -> PartitionId {
        PartitionId { topic: TopicId(7), partition: n }
    }

    #[test]
    fn the_newest_offset_of_each_key_counts() {
        let mut map = KeyMap::new(1 << 20);
        let mut wanted = BTreeMap::new();
        for offset in 0..20_000u64 {
            let (n, key) = ((offset % 3) as u32, format!("key-{}", offset * 7919 % 4001));
            map.put(partition(n), key.as_bytes(), offset);
            wanted.insert((n, key), offset);
        }
        assert_eq!(map.len(), wanted.len());
        for ((n, key), offset) in &wanted {
            assert_eq!(map.get(partition(*n), key.as_bytes()), Some(*offset), "{n} {key}");
        }
        assert_eq!(map.get(partition(0), b"another"), None);
        assert_eq!(map.get(partition(9), b"key-1"), None);
    }

    #[test]
    fn it_is_bounded() {
        let bytes = 1 << 20;
        let mut map = KeyMap::new(bytes);
        let mut count = 0u64;
        while map.has_room(1) {
            map.put(partition(0), &count.to_le_bytes(), count);
            count += 1;
        }
        assert!(count > bytes / 24 / 3, "{count} keys");
        assert!((map.slots.len() * SLOT_BYTES) as u64 <= bytes);
        assert!(!map.has_room(1) && map.has_room(0));
    }
}
