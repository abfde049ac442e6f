//! Footer and trailer of a tiered object: which bytes belong to which offsets.

use bytes::{BufMut, Bytes, BytesMut};

use super::Level;
use super::producers::ProducerSnapshot;
use crate::codec::{FormatError, Reader};
use crate::crc::crc32c;
use crate::ids::{PartitionId, TopicId};
use crate::limits::{FOOTER_BYTES_MAX, OBJECT_BYTES_MAX, RANGE_BYTES_MAX};
use crate::record::BatchHeader;

pub const TRAILER_BYTES: usize = 24;
const TRAILER_MAGIC: [u8; 4] = *b"LVTE";
const WHAT: &str = "object footer";
const RANGE_BYTES: usize = 96;
const BATCH_ENTRY_BYTES: usize = 48;
const SPARSE_ENTRY_BYTES: usize = 24;
const SECTION_BYTES: usize = 16;
const SECTION_PRODUCERS: u16 = 1;
/// Aborted transactions; reserved for the transaction issue, kept and ignored until then.
#[allow(dead_code)]
const SECTION_ABORTED: u16 = 2;

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
}

/// Where batches stand in a range.
#[derive(Debug, Clone, PartialEq)]
pub enum Index {
    /// Every batch: enough to rebuild producer state without reading data.
    Full(Vec<BatchEntry>),
    /// One entry for about 64 KiB.
    Sparse(Vec<SparseEntry>),
}

/// One batch, as much as recovery needs to know of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchEntry {
    pub base_offset: u64,
    pub last_offset_delta: u32,
    /// From the start of the range.
    pub pos: u32,
    pub len: u32,
    pub records: u32,
    pub attributes: i16,
    pub producer_epoch: i16,
    pub base_sequence: i32,
    pub producer_id: i64,
    pub max_timestamp: i64,
}

/// A block of batches: its first offset, where it starts, and the crc of its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SparseEntry {
    pub base_offset: u64,
    /// Largest timestamp of this block and all before it in the range.
    pub max_timestamp: i64,
    /// From the start of the range; the block ends where the next one starts.
    pub pos: u32,
    pub crc: u32,
}

impl BatchEntry {
    pub fn of(header: &BatchHeader, pos: u32) -> Self {
        Self {
            base_offset: header.base_offset,
            last_offset_delta: header.last_offset_delta,
            pos,
            len: header.bytes,
            records: header.record_count,
            attributes: header.attributes,
            producer_epoch: header.producer_epoch,
            base_sequence: header.base_sequence,
            producer_id: header.producer_id,
            max_timestamp: header.max_timestamp,
        }
    }

    pub fn end_offset(&self) -> u64 {
        self.base_offset + u64::from(self.last_offset_delta) + 1
    }

    /// The header as far as producer state needs it; base time, epoch and crc are not known here.
    pub fn header(&self) -> BatchHeader {
        BatchHeader {
            base_offset: self.base_offset,
            bytes: self.len,
            leader_epoch: 0,
            crc: 0,
            attributes: self.attributes,
            last_offset_delta: self.last_offset_delta,
            base_timestamp: self.max_timestamp,
            max_timestamp: self.max_timestamp,
            producer_id: self.producer_id,
            producer_epoch: self.producer_epoch,
            base_sequence: self.base_sequence,
            record_count: self.records,
        }
    }
}

impl Range {
    /// Byte position in the range of a block that holds `offset` or ends before it.
    pub fn seek(&self, offset: u64) -> u32 {
        match &self.index {
            Index::Full(batches) => {
                let at = batches.partition_point(|b| b.end_offset() <= offset);
                batches.get(at).map_or(self.len as u32, |b| b.pos)
            }
            Index::Sparse(blocks) => {
                let after = blocks.partition_point(|b| b.base_offset <= offset);
                after.checked_sub(1).map_or(0, |at| blocks[at].pos)
            }
        }
    }

    /// Byte position of the first block that may hold a record at or after `timestamp`.
    pub fn seek_time(&self, timestamp: i64) -> Option<u32> {
        if self.max_timestamp < timestamp {
            return None;
        }
        match &self.index {
            Index::Full(batches) => {
                batches.iter().find(|b| b.max_timestamp >= timestamp).map(|b| b.pos)
            }
            Index::Sparse(blocks) => {
                let at = blocks.partition_point(|b| b.max_timestamp < timestamp);
                blocks.get(at).map(|b| b.pos)
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
    ///  0 level 1 | 1 reserved 3 | 4 prev_slot_crc 4 | 8 lane_trim 8 | 16 range count 4 |
    /// 20 section count 4 | ranges 96 each | sections 16 each | index and section bytes
    /// ```
    pub fn encode(&self) -> Bytes {
        let mut fixed = BytesMut::new();
        let mut sections = BytesMut::new();
        let mut heap = BytesMut::new();
        let mut section_count = 0u32;
        for (number, range) in self.ranges.iter().enumerate() {
            encode_range(range, &mut fixed, &mut heap);
            if let Some(producers) = &range.producers {
                let at = heap.len();
                producers.encode(&mut heap);
                sections.put_u32_le(number as u32);
                sections.put_u16_le(SECTION_PRODUCERS);
                sections.put_u16_le(0);
                sections.put_u32_le(at as u32);
                sections.put_u32_le((heap.len() - at) as u32);
                section_count += 1;
            }
        }
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
        let mut r = Reader::new(WHAT, bytes);
        let level = r.u8()?;
        let level = Level::from_u8(level).ok_or_else(|| r.error(format!("level {level}")))?;
        r.take(3)?;
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
        for raw in fixed.chunks_exact(RANGE_BYTES) {
            ranges.push(decode_range(raw, heap)?);
        }
        for raw in sections.chunks_exact(SECTION_BYTES) {
            decode_section(raw, heap, &mut ranges)?;
        }
        Ok(Self { level, lane_trim, prev_slot_crc, ranges })
    }
}

/// ```text
///  0 topic 16 | 16 partition 4 | 20 leader epoch 4 | 24 base 8 | 32 end 8 | 40 pos 8 | 48 len 8 |
/// 56 max timestamp 8 | 64 records 8 | 72 crc 4 | 76 batches 4 | 80 kind 1 | 81 index kind 1 |
/// 82 reserved 2 | 84 index pos 4 | 88 index count 4 | 92 reserved 4
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
    let (kind, count) = match &range.index {
        Index::Full(entries) => (0, entries.len()),
        Index::Sparse(entries) => (1, entries.len()),
    };
    out.put_u8(kind);
    out.put_u16_le(0);
    out.put_u32_le(heap.len() as u32);
    out.put_u32_le(count as u32);
    out.put_u32_le(0);
    match &range.index {
        Index::Full(entries) => entries.iter().for_each(|e| encode_batch_entry(e, heap)),
        Index::Sparse(entries) => {
            for e in entries {
                heap.put_u64_le(e.base_offset);
                heap.put_i64_le(e.max_timestamp);
                heap.put_u32_le(e.pos);
                heap.put_u32_le(e.crc);
            }
        }
    }
}

pub(crate) fn encode_batch_entry(e: &BatchEntry, out: &mut BytesMut) {
    out.put_u64_le(e.base_offset);
    out.put_u32_le(e.last_offset_delta);
    out.put_u32_le(e.pos);
    out.put_u32_le(e.len);
    out.put_u32_le(e.records);
    out.put_i16_le(e.attributes);
    out.put_i16_le(e.producer_epoch);
    out.put_i32_le(e.base_sequence);
    out.put_i64_le(e.producer_id);
    out.put_i64_le(e.max_timestamp);
}

fn decode_range(raw: &[u8], heap: &[u8]) -> Result<Range, FormatError> {
    let mut r = Reader::new(WHAT, raw);
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
    r.u16()?;
    let index_pos = r.u32()? as usize;
    let index_count = r.u32()? as usize;
    r.u32()?;
    r.end()?;
    let mut index = Reader::new(WHAT, heap);
    index.take(index_pos)?;
    let index = match index_kind {
        0 => Index::Full(decode_batch_entries(&mut index, index_count, base, end, len)?),
        1 => Index::Sparse(decode_sparse_entries(&mut index, index_count, len)?),
        other => return Err(index.error(format!("index kind {other}"))),
    };
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
    })
}

fn decode_batch_entries(
    r: &mut Reader<'_>,
    count: usize,
    base: u64,
    end: u64,
    len: u64,
) -> Result<Vec<BatchEntry>, FormatError> {
    if count.saturating_mul(BATCH_ENTRY_BYTES) > r.remaining() {
        return Err(r.error(format!("index claims {count} batches")));
    }
    let mut out = Vec::with_capacity(count);
    let mut offset = base;
    for _ in 0..count {
        let e = BatchEntry {
            base_offset: r.u64()?,
            last_offset_delta: r.u32()?,
            pos: r.u32()?,
            len: r.u32()?,
            records: r.u32()?,
            attributes: r.i16()?,
            producer_epoch: r.i16()?,
            base_sequence: r.i32()?,
            producer_id: r.i64()?,
            max_timestamp: r.i64()?,
        };
        let in_order = e.base_offset >= offset && e.base_offset < end;
        if !in_order || e.end_offset() > end {
            return Err(r.error(format!("batch at offset {} in {offset}..{end}", e.base_offset)));
        }
        if u64::from(e.pos) + u64::from(e.len) > len {
            return Err(r.error(format!("batch of {} bytes at {} of {len}", e.len, e.pos)));
        }
        offset = e.end_offset();
        out.push(e);
    }
    Ok(out)
}

fn decode_sparse_entries(
    r: &mut Reader<'_>,
    count: usize,
    len: u64,
) -> Result<Vec<SparseEntry>, FormatError> {
    if count.saturating_mul(SPARSE_ENTRY_BYTES) > r.remaining() {
        return Err(r.error(format!("index claims {count} blocks")));
    }
    let mut out: Vec<SparseEntry> = Vec::with_capacity(count);
    for _ in 0..count {
        let e = SparseEntry {
            base_offset: r.u64()?,
            max_timestamp: r.i64()?,
            pos: r.u32()?,
            crc: r.u32()?,
        };
        let after_last = out.last().is_none_or(|l| l.base_offset < e.base_offset && l.pos < e.pos);
        if !after_last || u64::from(e.pos) > len {
            return Err(r.error(format!("block of offset {} at {}", e.base_offset, e.pos)));
        }
        out.push(e);
    }
    Ok(out)
}

fn decode_section(raw: &[u8], heap: &[u8], ranges: &mut [Range]) -> Result<(), FormatError> {
    let mut r = Reader::new(WHAT, raw);
    let number = r.u32()? as usize;
    let kind = r.u16()?;
    r.u16()?;
    let (pos, len) = (r.u32()? as usize, r.u32()? as usize);
    let mut bytes = Reader::new(WHAT, heap);
    bytes.take(pos)?;
    let bytes = bytes.take(len)?;
    if number >= ranges.len() {
        return Err(r.error(format!("section of range {number}")));
    }
    // Other kinds belong to later releases and change nothing here.
    if kind == SECTION_PRODUCERS {
        ranges[number].producers = Some(ProducerSnapshot::decode(bytes)?);
    }
    Ok(())
}

/// The last 24 bytes of an object.
/// ```text
///  0 footer pos 8 | 8 footer len 4 | 12 footer crc 4 | 16 body crc 4 | 20 magic "LVTE"
/// ```
/// The body crc covers head and data: byte 0 to the footer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trailer {
    pub footer_pos: u64,
    pub footer_len: u32,
    pub footer_crc: u32,
    pub body_crc: u32,
}

impl Trailer {
    pub fn encode(&self) -> [u8; TRAILER_BYTES] {
        let mut out = [0; TRAILER_BYTES];
        out[0..8].copy_from_slice(&self.footer_pos.to_le_bytes());
        out[8..12].copy_from_slice(&self.footer_len.to_le_bytes());
        out[12..16].copy_from_slice(&self.footer_crc.to_le_bytes());
        out[16..20].copy_from_slice(&self.body_crc.to_le_bytes());
        out[20..24].copy_from_slice(&TRAILER_MAGIC);
        out
    }

    /// `tail` is the end of an object of `object_len` bytes.
    pub fn decode(tail: &[u8], object_len: u64) -> Result<Self, FormatError> {
        let what = "object trailer";
        let start = tail.len().checked_sub(TRAILER_BYTES).ok_or_else(|| {
            FormatError::new(what, 0, format!("{} bytes, it has {TRAILER_BYTES}", tail.len()))
        })?;
        let mut r = Reader::new(what, &tail[start..]);
        let trailer = Self {
            footer_pos: r.u64()?,
            footer_len: r.u32()?,
            footer_crc: r.u32()?,
            body_crc: r.u32()?,
        };
        if r.take(4)? != TRAILER_MAGIC {
            return Err(FormatError::new(what, 20, "wrong magic: torn or not a tiered object"));
        }
        let end = trailer
            .footer_pos
            .checked_add(u64::from(trailer.footer_len))
            .and_then(|end| end.checked_add(TRAILER_BYTES as u64));
        if end != Some(object_len) || trailer.footer_len as usize > FOOTER_BYTES_MAX {
            return Err(FormatError::new(
                what,
                0,
                format!(
                    "footer of {} bytes at {} in an object of {object_len}",
                    trailer.footer_len, trailer.footer_pos
                ),
            ));
        }
        Ok(trailer)
    }

    /// Checks the crc of the footer and decodes it.
    pub fn footer(&self, bytes: &[u8]) -> Result<Footer, FormatError> {
        if bytes.len() != self.footer_len as usize || crc32c(bytes) != self.footer_crc {
            return Err(FormatError::new(WHAT, 0, "crc mismatch"));
        }
        Footer::decode(bytes)
    }
}
