//! Scrub: reading an object again, all of it, and saying exactly which part of it is damaged.

use std::ops::Range as Bytes;

use levee_proto::crc::crc32c;
use levee_proto::ids::PartitionId;
use levee_proto::object::{Footer, Index, Range};

use crate::budget::Budget;
use crate::store::{Store, StoreError};

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
    base: u64,
    end: u64,
    bytes: Bytes<u64>,
    crc: u32,
}

/// Reads the data of an object within the budgets; nothing is kept of it. An object that is gone
/// is damaged from end to end.
pub async fn scrub(
    store: &Store,
    budgets: &[&Budget],
    key: &str,
    footer: &Footer,
) -> Result<Vec<Damage>, StoreError> {
    let mut damages: Vec<Damage> = Vec::new();
    for range in &footer.ranges {
        for blocks in reads(blocks(range)) {
            let (first, last) = match (blocks.first(), blocks.last()) {
                (Some(first), Some(last)) => (first.bytes.start, last.bytes.end),
                _ => continue,
            };
            for budget in budgets {
                budget.take(last - first).await;
            }
            let read = store.get_range(key, first..last).await?;
            for block in blocks {
                let at = (block.bytes.start - first) as usize..(block.bytes.end - first) as usize;
                let is_whole = read.as_ref().is_some_and(|read| crc32c(&read[at]) == block.crc);
                if !is_whole {
                    add(&mut damages, range.partition, block);
                }
            }
        }
    }
    Ok(damages)
}

fn blocks(range: &Range) -> Vec<Block> {
    let whole = || Block {
        base: range.base,
        end: range.end,
        bytes: range.pos..range.pos + range.len,
        crc: range.crc,
    };
    match &range.index {
        // Every batch has its own crc inside; slots are small.
        Index::Full(_) => vec![whole()],
        Index::Sparse(entries) => {
            let next = |at: usize| entries.get(at + 1);
            let block = |(at, entry): (usize, &levee_proto::object::SparseEntry)| Block {
                base: entry.base_offset,
                end: next(at).map_or(range.end, |next| next.base_offset),
                bytes: range.pos + u64::from(entry.pos)
                    ..range.pos + next(at).map_or(range.len, |next| u64::from(next.pos)),
                crc: entry.crc,
            };
            entries.iter().enumerate().map(block).collect()
        }
    }
}

/// Blocks that are read together.
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

fn add(damages: &mut Vec<Damage>, partition: PartitionId, block: Block) {
    match damages.last_mut() {
        Some(last) if last.partition == partition && last.bytes.end == block.bytes.start => {
            (last.end, last.bytes.end) = (block.end, block.bytes.end);
        }
        _ => {
            let Block { base, end, bytes, .. } = block;
            damages.push(Damage { partition, base, end, bytes });
        }
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
