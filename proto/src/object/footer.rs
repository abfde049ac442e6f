//! Footer of a tiered object: which bytes belong to which offsets.
//!
//! Owns: ranges and sections. Does not own: what is in an index (`index`), the trailer (`trailer`).

use bytes::{BufMut, Bytes, BytesMut};

use super::aborted::{self, AbortedTxn};
use super::index::{Index, SPARSE_ENTRY_BYTES, SparseEntry};
use super::producers::ProducerSnapshot;
use super::{FOOTER, Level};
use crate::codec::{FormatError, Reader};
use crate::ids::{PartitionId, TopicId};
use crate::limits::{OBJECT_BYTES_MAX, RANGE_BYTES_MAX, SPARSE_INDEX_STRIDE};

const RANGE_BYTES: usize = 96;
const SECTION_BYTES: usize = 16;
const SECTION_PRODUCERS: u16 = 1;
const SECTION_ABORTED: u16 = 2;
/// Flag of a range: see [`Range::compacted`]. In the low byte, as readers that do not know it would
/// take what was left out for lost.
const COMPACTED: u16 = 1;

/// What a range holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RangeKind {
    /// Record batches.
    Data,
    /// The last entry of a partition in a lane; its bytes are a [`ProducerSnapshot`].
    HandOff,
}

/// One partition's bytes in an object. `base..end` are offsets, `pos..pos + len` are bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct Range {
    pub partition: PartitionId,
    pub leader_epoch: u32,
    pub kind: RangeKind,
    pub base: u64,
    /// Exclusive.
    pub end: u64,
    pub pos: u64,
    pub len: u64,
    pub crc: u32,
    pub batches: u32,
    pub records: u64,
    /// -1 where no record has a timestamp.
    pub max_timestamp: i64,
    pub index: Index,
    /// Producer state at `end`; L1 and L2 carry it, L0 does not.
    pub producers: Option<ProducerSnapshot>,
    /// Transactions whose abort marker stands in the range, by its offset.
    pub aborted: Vec<AbortedTxn>,
    /// Records that later ones replace were left out: its batches ascend, and need not fill it.
    pub compacted: bool,
}

/// At most what a range of an L1 or L2 object adds to its footer.
pub fn footer_bytes(data: u64, producers: Option<&ProducerSnapshot>, aborted: usize) -> u64 {
    let blocks = data / SPARSE_INDEX_STRIDE as u64 + 1;
    let producers = producers.map_or(0, |all| all.encoded_len() as u64);
    let sections = producers + aborted::encoded_len(aborted) as u64;
    (RANGE_BYTES + 2 * SECTION_BYTES) as u64 + blocks * SPARSE_ENTRY_BYTES as u64 + sections
}

impl Range {
    /// Byte position in the range of a block that holds `offset` or ends before it.
    pub fn seek(&self, offset: u64) -> u32 {
        self.block(offset).0
    }

    /// As `seek`, and the offset that the block begins with.
    pub fn block(&self, offset: u64) -> (u32, u64) {
        match &self.index {
            Index::Full(batches) => {
                let at = batches.partition_point(|b| b.end_offset() <= offset);
                batches.get(at).map_or((self.len as u32, self.end), |b| (b.pos, b.base_offset))
            }
            Index::Sparse(blocks) => {
                let after = blocks.partition_point(|b| b.base_offset <= offset);
                let block = after.checked_sub(1).map(|at| &blocks[at]);
                block.map_or((0, self.base), |b| (b.pos, b.base_offset))
            }
        }
    }

    /// Up to where all records are older than `before_ms`, block by block, and how old the block
    /// after that may get. Records without timestamps are never old.
    pub fn older(&self, before_ms: i64) -> (u64, i64) {
        let Index::Sparse(blocks) = &self.index else { return (self.base, self.max_timestamp) };
        // Each block says the largest timestamp of all up to it.
        let old = blocks.partition_point(|b| (0..before_ms).contains(&b.max_timestamp));
        match blocks.get(old) {
            Some(block) if old > 0 => (block.base_offset, block.max_timestamp),
            Some(block) => (self.base, block.max_timestamp),
            None => (self.end, self.max_timestamp),
        }
    }

    /// The last block border at or after `start` with at least `keep` bytes behind it.
    pub fn border_with(&self, start: u64, keep: u64) -> u64 {
        let Index::Sparse(blocks) = &self.index else { return start };
        let behind = |pos: u32| self.len - u64::from(pos);
        let fits = |b: &&SparseEntry| b.base_offset > start && behind(b.pos) >= keep;
        blocks.iter().rev().find(fits).map_or(start, |block| block.base_offset)
    }

    /// First offset of the first block that may hold a record at or after `timestamp`.
    pub fn seek_time(&self, timestamp: i64) -> Option<u64> {
        match &self.index {
            Index::Full(batches) => {
                batches.iter().find(|b| b.max_timestamp >= timestamp).map(|b| b.base_offset)
            }
            Index::Sparse(blocks) => {
                blocks.iter().find(|b| b.max_timestamp >= timestamp).map(|b| b.base_offset)
            }
        }
    }
}

/// Everything an object says about its data.
#[derive(Debug, Clone, PartialEq)]
pub struct Footer {
    pub level: Level,
    /// L0: slots below it were trimmed when this one was written; else 0.
    pub lane_trim: u64,
    /// L0: body crc of the slot before, 0 for the first; else 0.
    pub prev_slot_crc: u32,
    pub ranges: Vec<Range>,
}

impl Footer {
    /// ```text
    ///  0 level 1 | 1 flags 1 | 2 reserved 2 | 4 prev_slot_crc 4 | 8 lane_trim 8 | 16 range count 4 |
    /// 20 section count 4 | ranges 96 each | sections 16 each | index and section bytes
    /// ```
    /// Flags are 0 and an unknown one is refused. A section: range number 4 | kind 2 | flags 2 |
    /// pos 4 | len 4; a kind that is not known is skipped, unless a low flag says it must be known.
    pub fn encode(&self) -> Bytes {
        let mut fixed = BytesMut::new();
        let mut sections = BytesMut::new();
        let mut heap = BytesMut::new();
        let mut section = |number: usize, kind: u16, at: usize, end: usize| {
            sections.put_u32_le(number as u32);
            sections.put_u16_le(kind);
            sections.put_u16_le(0);
            sections.put_u32_le(at as u32);
            sections.put_u32_le((end - at) as u32);
        };
        for (number, range) in self.ranges.iter().enumerate() {
            encode_range(range, &mut fixed, &mut heap);
            if let Some(producers) = &range.producers {
                let at = heap.len();
                producers.encode(&mut heap);
                section(number, SECTION_PRODUCERS, at, heap.len());
            }
            if !range.aborted.is_empty() {
                let at = heap.len();
                aborted::encode(&range.aborted, &mut heap);
                section(number, SECTION_ABORTED, at, heap.len());
            }
        }
        let section_count = (sections.len() / SECTION_BYTES) as u32;
        let mut out = BytesMut::with_capacity(24 + fixed.len() + sections.len() + heap.len());
        out.put_u8(self.level as u8);
        out.put_bytes(0, 3);
        out.put_u32_le(self.prev_slot_crc);
        out.put_u64_le(self.lane_trim);
        out.put_u32_le(self.ranges.len() as u32);
        out.put_u32_le(section_count);
        out.put_slice(&fixed);
        out.put_slice(&sections);
        out.put_slice(&heap);
        out.freeze()
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut r = Reader::new(FOOTER, bytes);
        let level = r.u8()?;
        let level = Level::from_u8(level).ok_or_else(|| r.error(format!("level {level}")))?;
        let flags = r.u8()?;
        if flags != 0 {
            return Err(r.error(format!("unknown flags {flags:#04x}")));
        }
        r.take(2)?;
        let prev_slot_crc = r.u32()?;
        let lane_trim = r.u64()?;
        let range_count = r.count(RANGE_BYTES)?;
        let section_count = r.count(SECTION_BYTES)?;
        if range_count * RANGE_BYTES + section_count * SECTION_BYTES > r.remaining() {
            return Err(r.error("ranges and sections do not fit"));
        }
        let fixed = r.take(range_count * RANGE_BYTES)?;
        let sections = r.take(section_count * SECTION_BYTES)?;
        let heap = r.take(r.remaining())?;
        let mut ranges = Vec::with_capacity(range_count);
        let mut indexes = Heap { bytes: heap, floor: 0 };
        for raw in fixed.chunks_exact(RANGE_BYTES) {
            ranges.push(decode_range(raw, &mut indexes)?);
        }
        let mut producers = Heap { bytes: heap, floor: 0 };
        let mut aborted = Heap { bytes: heap, floor: 0 };
        for raw in sections.chunks_exact(SECTION_BYTES) {
            decode_section(raw, &mut producers, &mut aborted, &mut ranges)?;
        }
        Ok(Self { level, lane_trim, prev_slot_crc, ranges })
    }
}

/// The bytes behind the fixed parts. Pieces of one sort ascend and do not overlap: else a small
/// footer could name the same bytes many times over and unpack to something huge.
struct Heap<'a> {
    bytes: &'a [u8],
    floor: usize,
}

impl<'a> Heap<'a> {
    fn piece(&mut self, pos: usize, len: usize) -> Result<&'a [u8], FormatError> {
        let end = pos.checked_add(len).filter(|end| *end <= self.bytes.len());
        match end {
            Some(end) if pos >= self.floor => {
                self.floor = end;
                Ok(&self.bytes[pos..end])
            }
            _ => {
                let (floor, all) = (self.floor, self.bytes.len());
                let why = format!("{len} bytes at {pos} of the heap, free are {floor}..{all}");
                Err(FormatError::new(FOOTER, 0, why))
            }
        }
    }
}

/// ```text
///  0 topic 16 | 16 partition 4 | 20 leader epoch 4 | 24 base 8 | 32 end 8 | 40 pos 8 | 48 len 8 |
/// 56 max timestamp 8 | 64 records 8 | 72 crc 4 | 76 batches 4 | 80 kind 1 | 81 index kind 1 |
/// 82 flags 2 | 84 index pos 4 | 88 index count 4 | 92 reserved 4
/// ```
fn encode_range(range: &Range, out: &mut BytesMut, heap: &mut BytesMut) {
    out.put_u128_le(range.partition.topic.0);
    out.put_u32_le(range.partition.partition);
    out.put_u32_le(range.leader_epoch);
    out.put_u64_le(range.base);
    out.put_u64_le(range.end);
    out.put_u64_le(range.pos);
    out.put_u64_le(range.len);
    out.put_i64_le(range.max_timestamp);
    out.put_u64_le(range.records);
    out.put_u32_le(range.crc);
    out.put_u32_le(range.batches);
    out.put_u8(match range.kind {
        RangeKind::Data => 0,
        RangeKind::HandOff => 1,
    });
    out.put_u8(range.index.kind());
    out.put_u16_le(if range.compacted { COMPACTED } else { 0 });
    out.put_u32_le(heap.len() as u32);
    out.put_u32_le(range.index.len() as u32);
    out.put_u32_le(0);
    range.index.encode(heap);
}

fn decode_range(raw: &[u8], heap: &mut Heap<'_>) -> Result<Range, FormatError> {
    let mut r = Reader::new(FOOTER, raw);
    let topic = TopicId(r.u128()?);
    let partition = PartitionId { topic, partition: r.u32()? };
    let leader_epoch = r.u32()?;
    let (base, end, pos, len) = (r.u64()?, r.u64()?, r.u64()?, r.u64()?);
    let max_timestamp = r.i64()?;
    let records = r.u64()?;
    let crc = r.u32()?;
    let batches = r.u32()?;
    let kind = match r.u8()? {
        0 => RangeKind::Data,
        1 => RangeKind::HandOff,
        other => return Err(r.error(format!("range kind {other}"))),
    };
    if base > end || end > i64::MAX as u64 {
        return Err(r.error(format!("{partition}: offsets {base}..{end}")));
    }
    let fits = pos.checked_add(len).is_some_and(|end| end <= OBJECT_BYTES_MAX);
    if !fits || len > RANGE_BYTES_MAX {
        return Err(r.error(format!("{partition}: {len} bytes at {pos}")));
    }
    let index_kind = r.u8()?;
    let flags = r.u16()?;
    if flags & 0xff & !COMPACTED != 0 {
        return Err(r.error(format!("{partition}: unknown flags {flags:#06x}")));
    }
    let index_pos = r.u32()? as usize;
    let index_count = r.u32()? as usize;
    r.u32()?;
    r.end()?;
    let index_len = Index::encoded_len(index_kind, index_count)?;
    let entries = heap.piece(index_pos, index_len)?;
    let index = Index::decode(index_kind, entries, base..end, len)?;
    if matches!(&index, Index::Full(all) if all.len() != batches as usize) {
        let why = format!("{partition}: {index_count} of {batches} batches in a full index");
        return Err(FormatError::new(FOOTER, 0, why));
    }
    Ok(Range {
        partition,
        leader_epoch,
        kind,
        base,
        end,
        pos,
        len,
        crc,
        batches,
        records,
        max_timestamp,
        index,
        producers: None,
        aborted: Vec::new(),
        compacted: flags & COMPACTED != 0,
    })
}

fn decode_section(
    raw: &[u8],
    producers: &mut Heap<'_>,
    aborted: &mut Heap<'_>,
    ranges: &mut [Range],
) -> Result<(), FormatError> {
    let mut r = Reader::new(FOOTER, raw);
    let number = r.u32()? as usize;
    let kind = r.u16()?;
    let flags = r.u16()?;
    let (pos, len) = (r.u32()? as usize, r.u32()? as usize);
    if flags & 0xff != 0 {
        return Err(r.error(format!("section of kind {kind} has unknown flags {flags:#06x}")));
    }
    // Other kinds belong to later releases, which may give their number and bytes another meaning.
    let what = match kind {
        SECTION_PRODUCERS => "producer state",
        SECTION_ABORTED => "aborted transactions",
        _ => return Ok(()),
    };
    let Some(range) = ranges.get_mut(number) else {
        return Err(r.error(format!("{what} of range {number}, there is none")));
    };
    match kind {
        SECTION_PRODUCERS if range.producers.is_none() => {
            range.producers = Some(ProducerSnapshot::decode(producers.piece(pos, len)?)?);
        }
        SECTION_ABORTED if range.aborted.is_empty() => {
            let offsets = range.base..range.end;
            range.aborted = aborted::decode(aborted.piece(pos, len)?, &offsets)?;
        }
        _ => return Err(r.error(format!("second {what} of range {number}"))),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Blocks of ten offsets and a hundred bytes, a second apart.
    fn range(blocks: u64) -> Range {
        let entry = |n: u64| SparseEntry {
            base_offset: 50 + n * 10,
            max_timestamp: (1 + n as i64) * 1000,
            pos: n as u32 * 100,
            crc: 0,
        };
        Range {
            partition: PartitionId { topic: TopicId(1), partition: 0 },
            leader_epoch: 1,
            kind: RangeKind::Data,
            base: 50,
            end: 50 + blocks * 10,
            pos: 64,
            len: blocks * 100,
            crc: 0,
            batches: 1,
            records: 1,
            max_timestamp: blocks as i64 * 1000,
            index: Index::Sparse((0..blocks).map(entry).collect()),
            producers: None,
            aborted: Vec::new(),
            compacted: false,
        }
    }

    #[test]
    fn retention_goes_by_blocks() {
        let range = range(5);
        assert_eq!(range.older(1000), (50, 1000), "none is older");
        assert_eq!(range.older(1001), (60, 2000));
        assert_eq!(range.older(3500), (80, 4000));
        assert_eq!(range.older(9999), (100, 5000), "all of them");
        assert_eq!(range.border_with(50, 450), 50);
        assert_eq!(range.border_with(50, 400), 60);
        assert_eq!(range.border_with(50, 1), 90);
        assert_eq!(range.border_with(95, 1), 95, "never back");
        let Index::Sparse(mut blocks) = range.index.clone() else { panic!("sparse") };
        blocks.iter_mut().for_each(|block| block.max_timestamp = -1);
        let timeless = Range { index: Index::Sparse(blocks), ..range };
        assert_eq!(timeless.older(9999), (50, -1));
    }
}
