//! The index of a range: where its batches, or blocks of them, stand.
//!
//! Owns: the two kinds of index, their bytes and their checks. Does not own: the range itself.

use std::ops::Range;

use bytes::{BufMut, BytesMut};

use super::FOOTER;
use crate::codec::{FormatError, Reader};
use crate::record::{BatchHeader, Marker};

const BATCH_ENTRY_BYTES: usize = 48;
pub(super) const SPARSE_ENTRY_BYTES: usize = 24;

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
    /// Of the batch; of a marker also whether it commits or aborts.
    pub attributes: i16,
    pub producer_epoch: i16,
    /// Of a marker, which has none, the epoch of the coordinator.
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

/// Attribute bits of an entry that no batch has: what a marker says.
const MARKER_ABORTS: i16 = 1 << 13;
const MARKER_COMMITS: i16 = 1 << 14;

impl BatchEntry {
    /// `marker`: what the batch says where it ends a transaction.
    pub fn of(header: &BatchHeader, marker: Option<Marker>, pos: u32) -> Self {
        let said = match marker {
            None => 0,
            Some(Marker { commit: false, .. }) => MARKER_ABORTS,
            Some(Marker { commit: true, .. }) => MARKER_COMMITS,
        };
        Self {
            base_offset: header.base_offset,
            last_offset_delta: header.last_offset_delta,
            pos,
            len: header.bytes,
            records: header.record_count,
            attributes: header.attributes & !(MARKER_ABORTS | MARKER_COMMITS) | said,
            producer_epoch: header.producer_epoch,
            base_sequence: marker.map_or(header.base_sequence, |marker| marker.coordinator_epoch),
            producer_id: header.producer_id,
            max_timestamp: header.max_timestamp,
        }
    }

    pub fn end_offset(&self) -> u64 {
        self.base_offset + u64::from(self.last_offset_delta) + 1
    }

    /// How the batch ends a transaction, where it does.
    pub fn marker(&self) -> Option<Marker> {
        let commit = self.attributes & MARKER_COMMITS != 0;
        let is_one = commit || self.attributes & MARKER_ABORTS != 0;
        is_one.then_some(Marker { commit, coordinator_epoch: self.base_sequence })
    }

    /// The header as far as producer state needs it; base time, epoch and crc are not known here.
    pub fn header(&self) -> BatchHeader {
        let is_marker = self.marker().is_some();
        BatchHeader {
            base_offset: self.base_offset,
            bytes: self.len,
            leader_epoch: 0,
            crc: 0,
            attributes: self.attributes & !(MARKER_ABORTS | MARKER_COMMITS),
            last_offset_delta: self.last_offset_delta,
            base_timestamp: self.max_timestamp,
            max_timestamp: self.max_timestamp,
            producer_id: self.producer_id,
            producer_epoch: self.producer_epoch,
            base_sequence: if is_marker { -1 } else { self.base_sequence },
            record_count: self.records,
        }
    }
}

const FULL: u8 = 0;
const SPARSE: u8 = 1;

impl Index {
    pub(super) fn kind(&self) -> u8 {
        match self {
            Self::Full(_) => FULL,
            Self::Sparse(_) => SPARSE,
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Full(batches) => batches.len(),
            Self::Sparse(blocks) => blocks.len(),
        }
    }

    /// Bytes of an index, without overflow on any target: entries are small and counts `u32`.
    pub(super) fn encoded_len(kind: u8, count: usize) -> Result<usize, FormatError> {
        match kind {
            FULL => Ok(count.saturating_mul(BATCH_ENTRY_BYTES)),
            SPARSE => Ok(count.saturating_mul(SPARSE_ENTRY_BYTES)),
            other => Err(FormatError::new(FOOTER, 0, format!("index kind {other}"))),
        }
    }

    /// ```text
    /// full, an entry:   0 base offset 8 | 8 last offset delta 4 | 12 pos 4 | 16 len 4 |
    ///   20 records 4 | 24 attributes 2 | 26 producer epoch 2 | 28 base sequence 4 |
    ///   32 producer id 8 | 40 max timestamp 8
    /// sparse, an entry: 0 base offset 8 | 8 max timestamp 8 | 16 pos 4 | 20 crc 4
    /// ```
    pub(super) fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::Full(batches) => batches.iter().for_each(|e| encode_batch_entry(e, out)),
            Self::Sparse(blocks) => {
                for e in blocks {
                    out.put_u64_le(e.base_offset);
                    out.put_i64_le(e.max_timestamp);
                    out.put_u32_le(e.pos);
                    out.put_u32_le(e.crc);
                }
            }
        }
    }

    /// `bytes` are exactly the entries; the range they belong to holds `offsets` in `len` bytes.
    pub(super) fn decode(
        kind: u8,
        bytes: &[u8],
        offsets: Range<u64>,
        len: u64,
    ) -> Result<Self, FormatError> {
        match kind {
            FULL => decode_batch_entries(bytes, offsets, len).map(Self::Full),
            _ => decode_sparse_entries(bytes, offsets, len).map(Self::Sparse),
        }
    }
}

fn encode_batch_entry(e: &BatchEntry, out: &mut BytesMut) {
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

fn decode_batch_entries(
    bytes: &[u8],
    offsets: Range<u64>,
    len: u64,
) -> Result<Vec<BatchEntry>, FormatError> {
    let mut r = Reader::new(FOOTER, bytes);
    let mut out = Vec::with_capacity(bytes.len() / BATCH_ENTRY_BYTES);
    let (mut offset, mut free) = (offsets.start, 0);
    while r.remaining() > 0 {
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
        let in_order = e.base_offset >= offset && e.base_offset < offsets.end;
        if !in_order || e.end_offset() > offsets.end {
            let why = format!("batch at offset {} in {offset}..{}", e.base_offset, offsets.end);
            return Err(r.error(why));
        }
        let end = u64::from(e.pos) + u64::from(e.len);
        if u64::from(e.pos) < free || end > len {
            return Err(r.error(format!("batch of {} bytes at {} in {free}..{len}", e.len, e.pos)));
        }
        (offset, free) = (e.end_offset(), end);
        out.push(e);
    }
    Ok(out)
}

fn decode_sparse_entries(
    bytes: &[u8],
    offsets: Range<u64>,
    len: u64,
) -> Result<Vec<SparseEntry>, FormatError> {
    let mut r = Reader::new(FOOTER, bytes);
    let mut out: Vec<SparseEntry> = Vec::with_capacity(bytes.len() / SPARSE_ENTRY_BYTES);
    while r.remaining() > 0 {
        let e = SparseEntry {
            base_offset: r.u64()?,
            max_timestamp: r.i64()?,
            pos: r.u32()?,
            crc: r.u32()?,
        };
        // A seek goes by offset or by timestamp: both must ascend, or it would pass by its block.
        let ascends = out.last().is_none_or(|l| {
            l.base_offset < e.base_offset && l.pos < e.pos && l.max_timestamp <= e.max_timestamp
        });
        if !ascends || !offsets.contains(&e.base_offset) || u64::from(e.pos) >= len {
            return Err(r.error(format!("block of offset {} at {}", e.base_offset, e.pos)));
        }
        out.push(e);
    }
    Ok(out)
}
