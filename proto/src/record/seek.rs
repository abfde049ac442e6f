//! Finding whole batches in a stretch of bytes that begins at a batch.

use super::batch::{BatchHeader, HEADER_BYTES, check};
use crate::codec::FormatError;
use crate::limits::SPARSE_INDEX_STRIDE;

/// What a stretch of bytes gives to a read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seek {
    /// These bytes are whole checked batches, the first one holding the offset or above it.
    Batches(std::ops::Range<usize>),
    /// Go on at `from` with at least `bytes`.
    Needs { from: usize, bytes: usize },
}

/// What batches must be that stand behind each other in a file or object. A batch's own crc does
/// not cover its offset and epoch, so they are held against where it stands (I17).
#[derive(Debug, Clone, Copy)]
pub struct Run {
    /// Base offset of the next batch: they leave nothing out, unless they were compacted.
    pub next: u64,
    /// Exclusive.
    pub end: u64,
    pub leader_epoch: u32,
    /// Offsets may be left out: of a compacted range.
    pub compacted: bool,
}

impl Run {
    fn check(&self, at: usize, header: &BatchHeader) -> Result<(), FormatError> {
        let (base, end, epoch) = (header.base_offset, header.end_offset(), header.leader_epoch);
        let follows = base == self.next || (self.compacted && base > self.next);
        if follows && end <= self.end && epoch == self.leader_epoch {
            return Ok(());
        }
        let Self { next, end: last, leader_epoch, .. } = self;
        let why = format!(
            "offsets {base}..{end} of epoch {epoch} where {next}..{last} of epoch {leader_epoch} \
             must be"
        );
        Err(FormatError::new("record batches", at, why))
    }
}

/// Whole batches from the one that holds `offset` on, up to `max_bytes`, at least one. `run` is of
/// the batch that `bytes` begin with, and afterwards of what follows on the answer.
pub fn seek(
    bytes: &[u8],
    run: &mut Run,
    offset: u64,
    max_bytes: usize,
) -> Result<Seek, FormatError> {
    let (mut at, mut start) = (0, None);
    while bytes.len() - at >= HEADER_BYTES {
        let header = BatchHeader::decode(&bytes[at..])?;
        run.check(at, &header)?;
        let len = header.bytes as usize;
        let is_whole = at + len <= bytes.len();
        if header.end_offset() <= offset {
            run.next = header.end_offset();
            if !is_whole {
                return Ok(Seek::Needs { from: at + len, bytes: SPARSE_INDEX_STRIDE });
            }
            at += len;
            continue;
        }
        let full = start.is_some_and(|start: usize| at + len - start > max_bytes);
        if full || (start.is_some() && !is_whole) {
            break;
        }
        if !is_whole {
            return Ok(Seek::Needs { from: at, bytes: len });
        }
        check(&bytes[at..at + len])?;
        start.get_or_insert(at);
        run.next = header.end_offset();
        at += len;
    }
    Ok(match start {
        Some(start) => Seek::Batches(start..at),
        None => Seek::Needs { from: at, bytes: SPARSE_INDEX_STRIDE },
    })
}

/// Reads on until the batches are whole: where to read next, given what was read. `pos` and `len`
/// say where `bytes` stood in something that ends at `end`.
pub fn next_read(
    (pos, len, end): (u64, u64, u64),
    from: usize,
    bytes: usize,
) -> Result<(u64, u64), FormatError> {
    let next = pos + from as u64;
    // Everything was there already, or nothing new would come.
    let stuck = from == 0 && (bytes as u64 <= len || pos + len >= end);
    if stuck || next + HEADER_BYTES as u64 > end {
        let why = format!("needs {bytes} bytes at {next}, the end is at {end}");
        return Err(FormatError::new("record batches", from, why));
    }
    Ok((next, (bytes as u64).min(end - next)))
}
