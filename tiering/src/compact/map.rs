//! The newest offset of each key, of the part of a log that was not compacted yet.

use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use bytes::Bytes;
use levee_proto::FormatError;
use levee_proto::ids::PartitionId;
use levee_proto::limits::BATCH_DECODED_BYTES_MAX;
use levee_proto::object::Aborted;
use levee_proto::record::BatchHeader;
use levee_proto::record::rewrite::raw_records;
use levee_runtime::Host;
use sha2::{Digest, Sha256};

use super::{Unread, Why};
use crate::merge::{Copies, Run, RunBatches, Tile, Windows};
use crate::upload::Batches;

const SLOT_BYTES: usize = size_of::<Slot>();
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

    /// How many newest records stand at some offsets.
    pub fn count(&self, offsets: Range<u64>) -> u64 {
        let is_one = |slot: &&Slot| slot.offset != EMPTY.offset && offsets.contains(&slot.offset);
        self.slots.iter().filter(is_one).count() as u64
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

/// What of a partition was not compacted yet.
pub struct Dirty<'a> {
    pub partition: PartitionId,
    /// They have their places.
    pub tiles: &'a [Tile],
    pub offsets: Range<u64>,
    pub aborted: &'a Aborted,
}

/// Puts the keys of what is dirty into the map, as far as they find room; returns up to where they
/// did.
pub async fn map_keys(
    host: &Host,
    map: &mut KeyMap,
    windows: impl Fn(&Tile) -> Windows,
    copies: &Arc<dyn Copies>,
    dirty: Dirty<'_>,
) -> Result<u64, Unread> {
    let (partition, offsets) = (dirty.partition, &dirty.offsets);
    let inside = |tile: &&Tile| tile.end > offsets.start && tile.base < offsets.end;
    for tile in dirty.tiles.iter().filter(inside) {
        let own = Tile { input: 0, ..tile.clone() };
        let run = Run { partition, tiles: vec![own] };
        let mut source = RunBatches::new(Arc::new(windows(tile)), copies.clone(), &run);
        let mut offset = tile.base;
        let unread = |offset, why| Unread { partition, offset, why };
        while let Some(batches) =
            source.next(0).await.map_err(|error| unread(offset, Why::of(error, tile.input)))?
        {
            let full = host.busy(|| put_all(map, &dirty, &batches));
            match full.map_err(|(at, error)| unread(at, Why::Packed(error)))? {
                ControlFlow::Continue(end) => offset = end,
                ControlFlow::Break(end) => return Ok(end),
            }
        }
    }
    Ok(offsets.end)
}

/// The offset behind some batches; or the end of what is dirty, or where there is no more room.
fn put_all(
    map: &mut KeyMap,
    dirty: &Dirty<'_>,
    batches: &Bytes,
) -> Result<ControlFlow<u64, u64>, (u64, FormatError)> {
    let mut end = dirty.offsets.start;
    for batch in each_batch(batches) {
        let (header, batch) = batch.map_err(|error| (end, error))?;
        end = header.end_offset();
        if end <= dirty.offsets.start {
            continue;
        }
        if header.base_offset >= dirty.offsets.end {
            return Ok(ControlFlow::Break(dirty.offsets.end));
        }
        if !map.has_room(header.record_count as usize) {
            return Ok(ControlFlow::Break(header.base_offset));
        }
        if !header.is_control() && !dirty.aborted.holds(&header) {
            let records = raw_records(&batch, BATCH_DECODED_BYTES_MAX);
            for record in records.map_err(|error| (header.base_offset, error))? {
                if let Some(key) = &record.key {
                    map.put(dirty.partition, key, record.offset);
                }
            }
        }
    }
    Ok(ControlFlow::Continue(end))
}

/// Whole batches, one after the other.
pub(super) fn each_batch(
    batches: &Bytes,
) -> impl Iterator<Item = Result<(BatchHeader, Bytes), FormatError>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let left = batches.get(at..).filter(|left| !left.is_empty())?;
        let header = BatchHeader::decode(left);
        at = header.as_ref().map_or(batches.len(), |header| at + header.bytes as usize);
        Some(header.map(|header| (header, batches.slice(at - header.bytes as usize..at))))
    })
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
        let above = wanted.values().filter(|offset| **offset >= 19_000).count() as u64;
        assert_eq!(map.count(19_000..u64::MAX), above);
        assert_eq!(map.count(0..19_000) + above, map.len() as u64);
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
