//! A batch without some of its records: what compaction writes.
//!
//! Offsets, sequences, the sender and the codec stay; what is kept is copied byte for byte, so that
//! nothing of a record can change. Does not own: which records go.

use bytes::{BufMut, Bytes, BytesMut};

use super::batch::{BatchHeader, DELETE_HORIZON, HEADER_BYTES, check};
use super::codecs::Compression;
use super::records::{Cursor, RECORD_BYTES_MIN, put_varint, varint_len};
use crate::codec::FormatError;
use crate::crc::crc32c;

const WHAT: &str = "record";
/// Bits of the attributes that say the codec.
const CODEC: i16 = 7;

/// A record as it stands in its batch, of a control batch too.
#[derive(Debug, Clone)]
pub struct RawRecord {
    pub offset: u64,
    pub key: Option<Bytes>,
    /// It has no value: its key is deleted.
    pub is_tombstone: bool,
    timestamp_delta: i64,
    attributes: u8,
    /// From the offset delta on.
    rest: Bytes,
}

/// All records of one whole batch, whose crc is checked; unpacked to at most `max` bytes.
pub fn raw_records(batch: &Bytes, max: usize) -> Result<Vec<RawRecord>, FormatError> {
    let mut records = Vec::new();
    each_record(batch, max, |_, record| records.push(record))?;
    Ok(records)
}

/// Records of one whole batch that have no key, by their place in it.
pub fn keyless(batch: &Bytes, max: usize) -> Result<Vec<u32>, FormatError> {
    let mut found = Vec::new();
    each_record(batch, max, |place, record| {
        if record.key.is_none() {
            found.push(place);
        }
    })?;
    Ok(found)
}

fn each_record(
    batch: &Bytes,
    max: usize,
    mut each: impl FnMut(u32, RawRecord),
) -> Result<(), FormatError> {
    let header = check(batch)?;
    let codec = Compression::of(header.attributes)?;
    let plain = match header.record_count {
        0 => Bytes::new(),
        _ => codec.decompress(&batch.slice(HEADER_BYTES..), max)?,
    };
    if header.record_count as usize > plain.len() / RECORD_BYTES_MIN {
        let why = format!("{} records in {} bytes", header.record_count, plain.len());
        return Err(FormatError::new(WHAT, 0, why));
    }
    let (mut cursor, mut next) = (Cursor { bytes: &plain, at: 0 }, 0);
    for place in 0..header.record_count {
        let (delta, record) = raw_record(&mut cursor, &header)?;
        if delta < next {
            return Err(cursor.error(format!("offset delta {delta} where {next} is the least")));
        }
        next = delta + 1;
        each(place, record);
    }
    match plain.len() - cursor.at {
        0 => Ok(()),
        behind => Err(cursor.error(format!("{behind} bytes behind the last one"))),
    }
}

fn raw_record(
    cursor: &mut Cursor<'_>,
    header: &BatchHeader,
) -> Result<(i64, RawRecord), FormatError> {
    let len = cursor.length()?.ok_or_else(|| cursor.error("no length"))?;
    let end = cursor.at.checked_add(len).filter(|end| *end <= cursor.bytes.len());
    let end = end.ok_or_else(|| cursor.error(format!("needs {len} bytes")))?;
    let attributes = cursor.byte()?;
    let timestamp_delta = cursor.varint()?;
    let from = cursor.at;
    let delta = cursor.varint()?;
    if !(0..=i64::from(header.last_offset_delta)).contains(&delta) {
        return Err(cursor.error(format!("offset delta {delta}")));
    }
    let key = cursor.optional()?;
    let is_tombstone = cursor.optional()?.is_none();
    if cursor.at > end {
        return Err(cursor.error(format!("ends at {} in place of {end}", cursor.at)));
    }
    let rest = cursor.bytes.slice(from..end);
    cursor.at = end;
    let offset = header.base_offset + delta as u64;
    Ok((delta, RawRecord { offset, key, is_tombstone, timestamp_delta, attributes, rest }))
}

/// The batch with these of its records; `horizon`: its delete horizon. Without a record it is the
/// header alone: the offsets it stands for.
pub fn rewrite(header: &BatchHeader, kept: &[RawRecord], horizon: Option<i64>) -> Bytes {
    let base_timestamp = horizon.unwrap_or(header.base_timestamp);
    let shift = header.base_timestamp.wrapping_sub(base_timestamp);
    let mut body = BytesMut::new();
    for record in kept {
        let delta = record.timestamp_delta.wrapping_add(shift);
        put_varint(&mut body, (1 + varint_len(delta) + record.rest.len()) as i64);
        body.put_u8(record.attributes);
        put_varint(&mut body, delta);
        body.put_slice(&record.rest);
    }
    let mut attributes = header.attributes & !DELETE_HORIZON;
    if horizon.is_some() {
        attributes |= DELETE_HORIZON;
    }
    if kept.is_empty() {
        attributes &= !CODEC;
    }
    let packed = match Compression::of(attributes) {
        Ok(Compression::None) | Err(_) => body.freeze(),
        Ok(codec) => codec.compress(&body).into(),
    };
    let mut out = BytesMut::with_capacity(HEADER_BYTES + packed.len());
    out.put_u64(header.base_offset);
    out.put_i32((HEADER_BYTES - 12 + packed.len()) as i32);
    out.put_u32(header.leader_epoch);
    out.put_i8(2);
    out.put_u32(0);
    out.put_i16(attributes);
    out.put_u32(header.last_offset_delta);
    out.put_i64(base_timestamp);
    out.put_i64(max_timestamp(header, kept));
    out.put_i64(header.producer_id);
    out.put_i16(header.producer_epoch);
    out.put_i32(header.base_sequence);
    out.put_u32(kept.len() as u32);
    out.put_slice(&packed);
    let crc = crc32c(&out[21..]);
    out[17..21].copy_from_slice(&crc.to_be_bytes());
    out.freeze()
}

fn max_timestamp(header: &BatchHeader, kept: &[RawRecord]) -> i64 {
    let time = |record: &RawRecord| header.base_timestamp.wrapping_add(record.timestamp_delta);
    match kept.iter().map(time).max() {
        // The broker's time is that of all records alike.
        Some(newest) if header.append_time().is_none() => newest,
        _ => header.max_timestamp,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::BATCH_DECODED_BYTES_MAX;
    use crate::record::StoredBatch;
    use crate::record::records::{BatchBuilder, ProducerStamp, RecordData, decode_records};

    const STAMP: ProducerStamp =
        ProducerStamp { producer_id: 7, producer_epoch: 1, base_sequence: 40 };

    fn batch(codec: Compression) -> Bytes {
        let mut builder = BatchBuilder::new(codec);
        for n in 0..20u64 {
            builder.push(&RecordData {
                timestamp_ms: 1_700_000_000_000 + (n as i64 * 37) % 100 - 50,
                key: Some(format!("key-{n}").into()),
                value: (n % 5 > 0).then(|| vec![n as u8; n as usize * 9].into()),
                headers: (0..n % 3).map(|h| (format!("h{h}"), Some("v".into()))).collect(),
            });
        }
        let plain = builder.build(Some(STAMP));
        StoredBatch::stamp(&plain, check(&plain).unwrap(), 1000, 9).to_bytes()
    }

    #[test]
    fn what_is_kept_is_as_it_was() {
        for codec in Compression::ALL {
            let batch = batch(codec);
            let header = check(&batch).unwrap();
            let before = decode_records(&batch).unwrap();
            for horizon in [None, Some(1_800_000_000_000)] {
                let raw = raw_records(&batch, BATCH_DECODED_BYTES_MAX).unwrap();
                assert_eq!(raw.iter().filter(|r| r.is_tombstone).count(), 4);
                let kept: Vec<RawRecord> = raw.into_iter().filter(|r| r.offset % 3 == 0).collect();
                let less = rewrite(&header, &kept, horizon);
                let now = check(&less).unwrap();
                assert_eq!(now.delete_horizon(), horizon);
                assert_eq!(
                    (now.base_offset, now.end_offset(), now.leader_epoch, now.attributes & CODEC),
                    (1000, 1020, 9, codec as i16),
                );
                assert_eq!((now.producer_id, now.producer_epoch, now.base_sequence), (7, 1, 40));
                let after = decode_records(&less).unwrap();
                let wanted: Vec<_> = before.iter().filter(|r| r.offset % 3 == 0).cloned().collect();
                assert_eq!(after, wanted, "{codec:?}");
                let newest = wanted.iter().map(|r| r.data.timestamp_ms).max();
                assert_eq!(Some(now.max_timestamp), newest);
                // Once more, with nothing to leave out: the same records, the same horizon.
                let again = raw_records(&less, BATCH_DECODED_BYTES_MAX).unwrap();
                let again = rewrite(&now, &again, now.delete_horizon());
                assert_eq!(decode_records(&again).unwrap(), wanted);
            }
        }
    }

    #[test]
    fn without_records_the_header_stays() {
        for codec in Compression::ALL {
            let header = check(&batch(codec)).unwrap();
            let empty = rewrite(&header, &[], None);
            let now = check(&empty).unwrap();
            assert_eq!((now.record_count, now.bytes as usize), (0, HEADER_BYTES));
            assert_eq!((now.base_offset, now.end_offset()), (1000, 1020));
            assert_eq!(now.last_sequence(), header.last_sequence());
            assert!(decode_records(&empty).unwrap().is_empty());
            assert!(raw_records(&empty, 0).unwrap().is_empty());
        }
    }

    #[test]
    fn changed_bytes_never_panic() {
        for codec in Compression::ALL {
            let whole = batch(codec).to_vec();
            for at in 21..whole.len() {
                let mut bad = whole.clone();
                bad[at] ^= 0x80;
                let crc = crc32c(&bad[21..]);
                bad[17..21].copy_from_slice(&crc.to_be_bytes());
                drop(raw_records(&bad.into(), 1 << 20));
            }
        }
    }
}
