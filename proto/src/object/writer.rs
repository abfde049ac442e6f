//! Building a tiered object: the caller sends the data on, the writer keeps index and checksums.

use bytes::{Bytes, BytesMut};

use super::aborted::AbortedTxn;
use super::footer::{Footer, Range, RangeKind};
use super::index::{BatchEntry, Index, SparseEntry};
use super::producers::ProducerSnapshot;
use super::trailer::{TRAILER_BYTES, Trailer};
use super::{FOOTER, Level};
use crate::codec::FormatError;
use crate::crc::{Crc32c, crc32c};
use crate::head::{HEAD_BYTES, Head, Kind};
use crate::ids::{Nonce, PartitionId, Writer};
use crate::limits::{FOOTER_BYTES_MAX, RANGE_BYTES_MAX, SPARSE_INDEX_STRIDE};
use crate::record::{BatchHeader, Marker};

/// Order of calls: `new`, then for each range `begin`, `batch`..., `end`; last `finish`.
/// Send the head, then the bytes of each batch in the same order, then what `finish` returns.
pub struct ObjectWriter {
    body_crc: Crc32c,
    pos: u64,
    planned_end: u64,
    footer: Footer,
    open: Option<OpenRange>,
}

struct OpenRange {
    range: Range,
    crc: Crc32c,
    block_crc: Crc32c,
    block_pos: u32,
}

/// What stands in the head of an object beside its nonce.
#[derive(Debug, Clone, Copy)]
pub struct ObjectPlan {
    pub level: Level,
    pub nonce: Nonce,
    pub writer: Writer,
    /// L0: the slot; else the writer's object number.
    pub seq: u64,
    /// L0: the lane number; else 0.
    pub lane: u16,
    /// Bytes of all ranges together; must come out exactly.
    pub data_len: u64,
    /// L0: trim point and body crc of the slot before; else 0.
    pub lane_trim: u64,
    pub prev_slot_crc: u32,
}

impl ObjectWriter {
    /// Returns the writer and the head to send first.
    pub fn new(plan: ObjectPlan) -> (Self, Bytes) {
        let head = Head {
            kind: Kind::Tiered,
            nonce: plan.nonce,
            writer: plan.writer,
            term: 0,
            seq: plan.seq,
            body_len: plan.data_len,
            extra: u32::from(plan.lane),
        }
        .encode();
        let mut body_crc = Crc32c::default();
        body_crc.update(&head);
        let footer = Footer {
            level: plan.level,
            lane_trim: plan.lane_trim,
            prev_slot_crc: plan.prev_slot_crc,
            ranges: Vec::new(),
        };
        let planned_end = HEAD_BYTES as u64 + plan.data_len;
        let pos = HEAD_BYTES as u64;
        let writer = Self { body_crc, pos, planned_end, footer, open: None };
        (writer, Bytes::copy_from_slice(&head))
    }

    pub fn begin(&mut self, partition: PartitionId, leader_epoch: u32, kind: RangeKind, base: u64) {
        assert!(self.open.is_none(), "ranges do not nest");
        let index = match self.footer.level {
            Level::L0 => Index::Full(Vec::new()),
            Level::L1 | Level::L2 => Index::Sparse(Vec::new()),
        };
        self.open = Some(OpenRange {
            range: Range {
                partition,
                leader_epoch,
                kind,
                base,
                end: base,
                pos: self.pos,
                len: 0,
                crc: 0,
                batches: 0,
                records: 0,
                max_timestamp: -1,
                index,
                producers: None,
                aborted: Vec::new(),
                compacted: false,
            },
            crc: Crc32c::default(),
            block_crc: Crc32c::default(),
            block_pos: 0,
        });
    }

    /// Batches of the open range leave offsets out.
    pub fn compacted(&mut self) {
        let open = self.open.as_mut().expect("begin comes before compacted");
        open.range.compacted = true;
    }

    /// The next batch of the open range, in pieces that make it up.
    pub fn batch(&mut self, header: &BatchHeader, parts: &[&[u8]]) {
        let open = self.open.as_mut().expect("begin comes before batch");
        let range = &mut open.range;
        assert!(header.base_offset >= range.end, "batches of a range ascend");
        let pos = range.len as u32;
        range.batches += 1;
        range.records += u64::from(header.record_count);
        range.end = header.end_offset();
        match &mut range.index {
            Index::Full(entries) => {
                let marker = Marker::in_parts(header.is_control(), parts);
                entries.push(BatchEntry::of(header, marker, pos));
            }
            Index::Sparse(entries) => {
                let full = (pos - open.block_pos) as usize >= SPARSE_INDEX_STRIDE;
                if entries.is_empty() || full {
                    if let Some(last) = entries.last_mut() {
                        last.crc = open.block_crc.finish();
                        last.max_timestamp = range.max_timestamp;
                    }
                    open.block_crc = Crc32c::default();
                    open.block_pos = pos;
                    let base_offset = header.base_offset;
                    entries.push(SparseEntry { base_offset, max_timestamp: -1, pos, crc: 0 });
                }
            }
        }
        range.max_timestamp = range.max_timestamp.max(header.max_timestamp);
        let mut len = 0;
        for part in parts {
            open.crc.update(part);
            if self.footer.level != Level::L0 {
                open.block_crc.update(part);
            }
            self.body_crc.update(part);
            len += part.len() as u64;
        }
        assert_eq!(len, u64::from(header.bytes), "the parts are the batch");
        range.len += len;
        self.pos += len;
    }

    /// A transaction whose abort marker stands in the open range; in the order of the markers.
    pub fn aborted(&mut self, txn: AbortedTxn) {
        let open = self.open.as_mut().expect("begin comes before aborted");
        open.range.aborted.push(txn);
    }

    /// Bytes of a range that are not batches (a hand-off's producer state).
    pub fn opaque(&mut self, bytes: &[u8]) {
        let open = self.open.as_mut().expect("begin comes before opaque");
        assert_ne!(open.range.kind, RangeKind::Data, "data ranges hold batches");
        open.crc.update(bytes);
        self.body_crc.update(bytes);
        open.range.len += bytes.len() as u64;
        self.pos += bytes.len() as u64;
    }

    /// Closes the open range. `end` may lie above the last batch where offsets have gaps.
    pub fn end(&mut self, end: u64, producers: Option<ProducerSnapshot>) {
        let mut open = self.open.take().expect("begin comes before end");
        assert!(end >= open.range.end, "a range ends after its last batch");
        assert!(open.range.len <= RANGE_BYTES_MAX, "positions in a range must fit its index");
        let offsets = open.range.base..end;
        let fits = |txn: &AbortedTxn| offsets.contains(&txn.last_offset);
        assert!(open.range.aborted.iter().all(fits), "a marker stands in the range that tells");
        open.range.end = end;
        open.range.crc = open.crc.finish();
        open.range.producers = producers;
        if let Index::Sparse(entries) = &mut open.range.index
            && let Some(last) = entries.last_mut()
        {
            last.crc = open.block_crc.finish();
            last.max_timestamp = open.range.max_timestamp;
        }
        self.footer.ranges.push(open.range);
    }

    /// Footer and trailer, the last bytes of the object, beside what they say. An error where the
    /// footer is larger than a reader takes.
    pub fn finish(self) -> Result<Finished, FormatError> {
        assert!(self.open.is_none(), "the last range was not closed");
        assert_eq!(self.pos, self.planned_end, "data came out as planned");
        let footer_bytes = self.footer.encode();
        if footer_bytes.len() > FOOTER_BYTES_MAX {
            let why = format!("{} bytes, at most {FOOTER_BYTES_MAX}", footer_bytes.len());
            return Err(FormatError::new(FOOTER, 0, why));
        }
        let trailer = Trailer {
            footer_pos: self.pos,
            footer_len: footer_bytes.len() as u32,
            footer_crc: crc32c(&footer_bytes),
            body_crc: self.body_crc.finish(),
        };
        let mut tail = BytesMut::with_capacity(footer_bytes.len() + TRAILER_BYTES);
        tail.extend_from_slice(&footer_bytes);
        tail.extend_from_slice(&trailer.encode());
        let object_len = self.pos + tail.len() as u64;
        Ok(Finished { footer: self.footer, trailer, tail: tail.freeze(), object_len })
    }
}

/// A finished object: what to send last, and what is in it.
pub struct Finished {
    pub footer: Footer,
    pub trailer: Trailer,
    pub tail: Bytes,
    pub object_len: u64,
}
