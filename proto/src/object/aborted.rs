//! Aborted transactions whose marker stands in a range: what a reader of committed records skips.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::{BufMut, BytesMut};

use crate::codec::{FormatError, Reader};
use crate::record::BatchHeader;

const WHAT: &str = "aborted transactions";
/// One entry, as this release writes it.
const ENTRY_BYTES: usize = 32;
const HEAD_BYTES: usize = 8;

/// A transaction of one producer that was aborted, by offsets of its partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AbortedTxn {
    pub producer_id: i64,
    /// Of its first record.
    pub first_offset: u64,
    /// Of its marker.
    pub last_offset: u64,
    /// Where the oldest transaction began that was still open then; else the offset after the
    /// marker. Whatever began below had ended.
    pub last_stable_offset: u64,
}

impl AbortedTxn {
    /// Whether a reader of these offsets may meet its records.
    pub fn overlaps(&self, offsets: &Range<u64>) -> bool {
        self.first_offset < offsets.end && self.last_offset >= offsets.start
    }
}

/// Which batches of a read were aborted.
#[derive(Debug, Clone, Default)]
pub struct Aborted {
    /// First offset by producer and last offset.
    by_end: BTreeMap<(i64, u64), u64>,
}

impl Aborted {
    pub fn add(&mut self, producer_id: i64, first_offset: u64, last_offset: u64) {
        self.by_end.insert((producer_id, last_offset), first_offset);
    }

    pub fn holds(&self, batch: &BatchHeader) -> bool {
        if !batch.is_transactional() {
            return false;
        }
        let (id, at) = (batch.producer_id, batch.base_offset);
        let next = self.by_end.range((id, at)..=(id, u64::MAX)).next();
        next.is_some_and(|(_, first)| *first <= at)
    }
}

impl FromIterator<AbortedTxn> for Aborted {
    fn from_iter<T: IntoIterator<Item = AbortedTxn>>(all: T) -> Self {
        let mut aborted = Self::default();
        all.into_iter().for_each(|t| aborted.add(t.producer_id, t.first_offset, t.last_offset));
        aborted
    }
}

/// Bytes of a section.
pub fn encoded_len(count: usize) -> usize {
    if count == 0 { 0 } else { HEAD_BYTES + count * ENTRY_BYTES }
}

/// ```text
/// count 4 | bytes of an entry 2 | reserved 2 |
/// entries, by last offset: producer id 8, first offset 8, last offset 8, last stable offset 8
/// ```
/// A later release may append fields to an entry and raise its size.
pub(super) fn encode(all: &[AbortedTxn], out: &mut BytesMut) {
    out.put_u32_le(all.len() as u32);
    out.put_u16_le(ENTRY_BYTES as u16);
    out.put_u16_le(0);
    for txn in all {
        out.put_i64_le(txn.producer_id);
        out.put_u64_le(txn.first_offset);
        out.put_u64_le(txn.last_offset);
        out.put_u64_le(txn.last_stable_offset);
    }
}

/// The markers must stand in `offsets`, those of the range.
pub(super) fn decode(bytes: &[u8], offsets: &Range<u64>) -> Result<Vec<AbortedTxn>, FormatError> {
    let mut r = Reader::new(WHAT, bytes);
    let count = r.count(ENTRY_BYTES)?;
    let entry_bytes = usize::from(r.u16()?);
    r.take(2)?;
    let Some(skip) = entry_bytes.checked_sub(ENTRY_BYTES) else {
        return Err(r.error(format!("an entry of {entry_bytes} bytes is too small")));
    };
    let mut all: Vec<AbortedTxn> = Vec::with_capacity(count);
    for _ in 0..count {
        let txn = AbortedTxn {
            producer_id: r.i64()?,
            first_offset: r.u64()?,
            last_offset: r.u64()?,
            last_stable_offset: r.u64()?,
        };
        r.take(skip)?;
        let (first, last) = (txn.first_offset, txn.last_offset);
        let ascends = all.last().is_none_or(|before| before.last_offset < last);
        if !ascends || !offsets.contains(&last) || first >= last {
            let why = format!("offsets {first} to {last} in the range {offsets:?}");
            return Err(r.error(why));
        }
        if txn.last_stable_offset > last + 1 {
            let why = format!("last stable offset {} at {last}", txn.last_stable_offset);
            return Err(r.error(why));
        }
        all.push(txn);
    }
    r.end()?;
    Ok(all)
}
