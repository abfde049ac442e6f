//! The 61-byte header of a record batch, read and patched in place.
//!
//! Source: Apache Kafka, "Record Batch" (message format v2, magic 2), big-endian. The crc covers
//! byte 21 to the end, so base offset and leader epoch are stamped without touching it.

use bytes::{BufMut, Bytes, BytesMut};

use super::marker::Marker;
use crate::codec::FormatError;
use crate::crc::crc32c;
use crate::limits::BATCH_BYTES_MAX;

pub const HEADER_BYTES: usize = 61;
/// Base offset, batch length, leader epoch: the part outside the crc that a leader stamps.
pub const PREFIX_BYTES: usize = 16;
/// `batch_length` counts the bytes after itself.
const LENGTH_END: usize = 12;
const WHAT: &str = "record batch";

/// Attribute bit: the timestamp of all records is the broker's.
pub(super) const LOG_APPEND_TIME: i16 = 0x08;
/// Attribute bits: part of a transaction; about the log, not a record of anybody's.
pub const TRANSACTIONAL: i16 = 0x10;
pub const CONTROL: i16 = 0x20;
/// The base timestamp says when tombstones or the marker in the batch may go (KIP-534).
pub const DELETE_HORIZON: i16 = 0x40;

/// No producer id: a producer that is not idempotent.
pub const NO_PRODUCER: i64 = -1;

/// All fields of the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    pub base_offset: u64,
    /// Of the whole batch, header included.
    pub bytes: u32,
    pub leader_epoch: u32,
    pub crc: u32,
    pub attributes: i16,
    pub last_offset_delta: u32,
    pub base_timestamp: i64,
    pub max_timestamp: i64,
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub base_sequence: i32,
    pub record_count: u32,
}

impl BatchHeader {
    /// Reads a header from the start of `bytes`; the batch itself need not be there yet.
    /// Does not check the crc: see [`check`].
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        if bytes.len() < HEADER_BYTES {
            return Err(FormatError::new(
                WHAT,
                0,
                format!("{} bytes, a header has {HEADER_BYTES}", bytes.len()),
            ));
        }
        let i64_at = |at: usize| i64::from_be_bytes(fixed(bytes, at));
        let i32_at = |at: usize| i32::from_be_bytes(fixed(bytes, at));
        let i16_at = |at: usize| i16::from_be_bytes(fixed(bytes, at));
        let magic = bytes[16];
        if magic != 2 {
            return Err(FormatError::new(
                WHAT,
                16,
                format!(
                    "magic {magic}; only record batch v2 is accepted, send with a client newer than Kafka 0.11"
                ),
            ));
        }
        let length = i32_at(8);
        let whole = i64::from(length) + LENGTH_END as i64;
        if whole < HEADER_BYTES as i64 || whole > BATCH_BYTES_MAX as i64 {
            return Err(FormatError::new(
                WHAT,
                8,
                format!("length {length} is outside {HEADER_BYTES}..={BATCH_BYTES_MAX}"),
            ));
        }
        let base_offset = i64_at(0);
        let last_offset_delta = i32_at(23);
        let record_count = i32_at(57);
        if base_offset < 0 {
            return Err(FormatError::new(WHAT, 0, format!("base offset {base_offset}")));
        }
        if last_offset_delta < 0 || record_count < 0 {
            return Err(FormatError::new(
                WHAT,
                23,
                format!("last offset delta {last_offset_delta}, record count {record_count}"),
            ));
        }
        // The sum is an offset everywhere else, so it must stay one.
        if base_offset.checked_add(i64::from(last_offset_delta) + 1).is_none() {
            return Err(FormatError::new(WHAT, 0, format!("base offset {base_offset} overflows")));
        }
        Ok(Self {
            base_offset: base_offset as u64,
            bytes: whole as u32,
            leader_epoch: i32_at(12) as u32,
            crc: i32_at(17) as u32,
            attributes: i16_at(21),
            last_offset_delta: last_offset_delta as u32,
            base_timestamp: i64_at(27),
            max_timestamp: i64_at(35),
            producer_id: i64_at(43),
            producer_epoch: i16_at(51),
            base_sequence: i32_at(53),
            record_count: record_count as u32,
        })
    }

    /// First offset after this batch.
    pub fn end_offset(&self) -> u64 {
        self.base_offset + u64::from(self.last_offset_delta) + 1
    }

    pub fn is_idempotent(&self) -> bool {
        self.producer_id != NO_PRODUCER
    }

    pub fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL != 0
    }

    /// The broker's time, where all records have that (LogAppendTime).
    pub fn append_time(&self) -> Option<i64> {
        (self.attributes & LOG_APPEND_TIME != 0).then_some(self.max_timestamp)
    }

    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL != 0
    }

    /// From when on its tombstones or its marker may go; nothing before compaction saw them.
    pub fn delete_horizon(&self) -> Option<i64> {
        (self.attributes & DELETE_HORIZON != 0).then_some(self.base_timestamp)
    }

    /// Sequence of the last record; sequences wrap from `i32::MAX` to 0 (Kafka).
    pub fn last_sequence(&self) -> i32 {
        sequence_add(self.base_sequence, self.last_offset_delta)
    }
}

/// `sequence + add`, wrapping from `i32::MAX` to 0.
pub fn sequence_add(sequence: i32, add: u32) -> i32 {
    ((i64::from(sequence) + i64::from(add)) % (i64::from(i32::MAX) + 1)) as i32
}

fn fixed<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

/// Reads the header and checks that `bytes` is exactly one whole batch with a right crc.
pub fn check(bytes: &[u8]) -> Result<BatchHeader, FormatError> {
    let header = BatchHeader::decode(bytes)?;
    if bytes.len() != header.bytes as usize {
        return Err(FormatError::new(
            WHAT,
            8,
            format!("says {} bytes, {} are here", header.bytes, bytes.len()),
        ));
    }
    let crc = crc32c(&bytes[21..]);
    if crc != header.crc {
        return Err(FormatError::new(
            WHAT,
            17,
            format!(
                "crc {:08x}, bytes give {crc:08x} (base offset {})",
                header.crc, header.base_offset
            ),
        ));
    }
    Ok(header)
}

/// The whole batches at the start of `bytes`, each checked; stops at a last partial one.
/// Returns how many bytes were whole batches.
pub fn check_run(
    bytes: &[u8],
    mut each: impl FnMut(usize, &BatchHeader) -> bool,
) -> Result<usize, FormatError> {
    let mut at = 0;
    while bytes.len() - at >= HEADER_BYTES {
        let header = BatchHeader::decode(&bytes[at..])?;
        let end = at + header.bytes as usize;
        if end > bytes.len() {
            break;
        }
        check(&bytes[at..end])?;
        if !each(at, &header) {
            return Ok(at);
        }
        at = end;
    }
    Ok(at)
}

/// A batch as the log keeps it: the stamped prefix beside the producer's own bytes, which are
/// shared, not copied.
#[derive(Debug, Clone)]
pub struct StoredBatch {
    prefix: [u8; PREFIX_BYTES],
    /// Everything from byte 16 on, as received.
    rest: Bytes,
    pub header: BatchHeader,
}

impl StoredBatch {
    /// Takes a batch that passed [`check`] and stamps it with its place in the log.
    pub fn stamp(bytes: &Bytes, mut header: BatchHeader, base_offset: u64, epoch: u32) -> Self {
        assert_eq!(bytes.len(), header.bytes as usize, "stamp takes one whole batch");
        header.base_offset = base_offset;
        header.leader_epoch = epoch;
        let mut prefix = [0; PREFIX_BYTES];
        prefix[0..8].copy_from_slice(&(base_offset as i64).to_be_bytes());
        prefix[8..12].copy_from_slice(&(header.bytes as i32 - LENGTH_END as i32).to_be_bytes());
        prefix[12..16].copy_from_slice(&(epoch as i32).to_be_bytes());
        Self { prefix, rest: bytes.slice(PREFIX_BYTES..), header }
    }

    /// A batch that already carries its place (read back from disk or bucket).
    pub fn stamped(bytes: &Bytes, header: BatchHeader) -> Self {
        Self::stamp(bytes, header, header.base_offset, header.leader_epoch)
    }

    pub fn len(&self) -> usize {
        PREFIX_BYTES + self.rest.len()
    }

    pub fn is_empty(&self) -> bool {
        false
    }

    /// How it ends a transaction, where it does.
    pub fn marker(&self) -> Option<Marker> {
        Marker::in_parts(self.header.is_control(), &self.parts())
    }

    /// The two pieces, in order, without a copy.
    pub fn parts(&self) -> [&[u8]; 2] {
        [&self.prefix, &self.rest]
    }

    /// The second of the pieces, to be shared.
    pub fn rest(&self) -> &Bytes {
        &self.rest
    }

    /// The two pieces as shared bytes; only the 16-byte prefix is copied.
    pub fn shared_parts(&self) -> [Bytes; 2] {
        [Bytes::copy_from_slice(&self.prefix), self.rest.clone()]
    }

    pub fn write_to(&self, out: &mut BytesMut) {
        out.put_slice(&self.prefix);
        out.put_slice(&self.rest);
    }

    pub fn to_bytes(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.len());
        self.write_to(&mut out);
        out.freeze()
    }
}
