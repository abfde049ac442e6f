//! Scrub: reading an object again, all of it, and saying exactly which part of it is damaged.

use std::ops::Range as Bytes;

use levee_proto::crc::crc32c;
use levee_proto::ids::PartitionId;
use levee_proto::object::{Footer, Index, Range, SparseEntry};

use crate::budget::Budget;
use crate::store::{Kind, Store, StoreError};

/// Bytes of one read.
const READ_BYTES: u64 = 8 << 20;

/// A stretch of an object that is not what was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    pub partition: PartitionId,
    /// Offsets of the batches in it, as the footer knows them: blocks of about 64 KiB.
    pub base: u64,
    pub end: u64,
    /// Bytes of the object.
    pub bytes: Bytes<u64>,
}

/// What has a checksum of its own.
struct Block {
    partition: PartitionId,
    base: u64,
    end: u64,
    bytes: Bytes<u64>,
    crc: u32,
}

/// Reads the data of an object within the budgets; nothing is kept of it. An object that is gone
/// or too short is damaged to its end.
pub async fn scrub(
    store: &Store,
    budgets: &[&Budget],
    key: &str,
    footer: &Footer,
) -> Result<Vec<Damage>, StoreError> {
    let mut damages: Vec<Damage> = Vec::new();
    let mut all: Vec<Block> = footer.ranges.iter().flat_map(blocks).collect();
    all.sort_by_key(|block| block.bytes.start);
    for blocks in reads(all) {
        let (Some(first), Some(last)) = (blocks.first(), blocks.last()) else { continue };
        let (first, last) = (first.bytes.start, last.bytes.end);
        for budget in budgets {
            budget.take(last - first).await;
        }
        let mut damaged = damaged(store, key, first..last, blocks).await?;
        if !damaged.is_empty() {
            // Bytes are damaged on their way as well.
            damaged = self::damaged(store, key, first..last, damaged).await?;
        }
        damaged.into_iter().for_each(|block| add(&mut damages, block));
    }
    Ok(damages)
}

/// Those of some blocks that are not what was written, after one read.
async fn damaged(
    store: &Store,
    key: &str,
    span: Bytes<u64>,
    mut blocks: Vec<Block>,
) -> Result<Vec<Block>, StoreError> {
    let read = match store.get_range(key, span.clone()).await {
        Ok(read) => read,
        Err(error) if error.kind == Kind::Short => None,
        Err(error) => return Err(error),
    };
    blocks.retain(|block| {
        let at = (block.bytes.start - span.start) as usize..(block.bytes.end - span.start) as usize;
        read.as_ref().is_none_or(|read| crc32c(&read[at]) != block.crc)
    });
    Ok(blocks)
}

fn blocks(range: &Range) -> Vec<Block> {
    let block = |base, end, from: u64, to: u64, crc| {
        let bytes = range.pos + from..range.pos + to;
        Block { partition: range.partition, base, end, bytes, crc }
    };
    match &range.index {
        // Of slots: they are small.
        Index::Full(_) => vec![block(range.base, range.end, 0, range.len, range.crc)],
        Index::Sparse(entries) => {
            let next = |at: usize| entries.get(at + 1);
            let entry = |(at, entry): (usize, &SparseEntry)| {
                let end = next(at).map_or(range.end, |next| next.base_offset);
                let to = next(at).map_or(range.len, |next| u64::from(next.pos));
                block(entry.base_offset, end, u64::from(entry.pos), to, entry.crc)
            };
            entries.iter().enumerate().map(entry).collect()
        }
    }
}

/// Blocks that are read together: whatever partitions they are of.
fn reads(blocks: Vec<Block>) -> Vec<Vec<Block>> {
    let mut reads: Vec<Vec<Block>> = Vec::new();
    for block in blocks {
        let fits = |read: &&mut Vec<Block>| {
            read.first().is_some_and(|first| block.bytes.end - first.bytes.start <= READ_BYTES)
        };
        match reads.last_mut().filter(fits) {
            Some(read) => read.push(block),
            None => reads.push(vec![block]),
        }
    }
    reads
}

fn add(damages: &mut Vec<Damage>, block: Block) {
    let Block { partition, base, end, bytes, .. } = block;
    match damages.last_mut() {
        Some(last) if last.partition == partition && last.bytes.end == bytes.start => {
            (last.end, last.bytes.end) = (end, bytes.end);
        }
        _ => damages.push(Damage { partition, base, end, bytes }),
    }
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { partition, base, end, bytes } = self;
        write!(
            f,
            "{partition}: offsets {base} to {end} (exclusive), bytes {} to {}",
            bytes.start, bytes.end
        )
    }
}
