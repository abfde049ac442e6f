//! Records in a batch: building a batch from records, and reading them back.
//!
//! Source: Apache Kafka, "Record" (message format v2): zigzag varints (protocol buffers), deltas
//! against the header.

use bytes::{BufMut, Bytes, BytesMut};

use super::batch::{
    BatchHeader, CONTROL, HEADER_BYTES, LOG_APPEND_TIME, NO_PRODUCER, TRANSACTIONAL, check,
};
use super::codecs::Compression;
use crate::codec::FormatError;
use crate::crc::crc32c;
use crate::limits::{BATCH_BYTES_MAX, BATCH_DECODED_BYTES_MAX};

const WHAT: &str = "record";

/// A record without a place.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RecordData {
    /// Milliseconds since 1970.
    pub timestamp_ms: i64,
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
    pub headers: Vec<(String, Option<Bytes>)>,
}

/// A record with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodedRecord {
    pub offset: u64,
    pub data: RecordData,
}

/// Who sends, for idempotent appends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerStamp {
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub base_sequence: i32,
}

/// Gathers records into one batch.
pub struct BatchBuilder {
    compression: Compression,
    /// Beside the compression.
    attributes: i16,
    body: BytesMut,
    count: u32,
    first_timestamp: i64,
    max_timestamp: i64,
}

impl BatchBuilder {
    pub fn new(compression: Compression) -> Self {
        Self {
            compression,
            attributes: 0,
            body: BytesMut::new(),
            count: 0,
            first_timestamp: 0,
            max_timestamp: -1,
        }
    }

    /// The batch is part of its producer's transaction.
    pub fn transactional(self) -> Self {
        Self { attributes: self.attributes | TRANSACTIONAL, ..self }
    }

    /// For the record that ends a transaction.
    pub(super) fn control() -> Self {
        Self { attributes: CONTROL | TRANSACTIONAL, ..Self::new(Compression::None) }
    }

    pub fn len(&self) -> usize {
        self.count as usize
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Size of the batch before compression.
    pub fn plain_bytes(&self) -> usize {
        HEADER_BYTES + self.body.len()
    }

    /// Most bytes that a record can take in a batch.
    pub fn bytes_of(record: &RecordData) -> usize {
        /// A length or a delta.
        const VARINT_MAX: usize = 10;
        let opt = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len) + VARINT_MAX;
        let headers = record.headers.iter();
        let headers: usize = headers.map(|(key, v)| key.len() + VARINT_MAX + opt(v)).sum();
        1 + 4 * VARINT_MAX + opt(&record.key) + opt(&record.value) + headers
    }

    pub fn push(&mut self, record: &RecordData) {
        if self.count == 0 {
            self.first_timestamp = record.timestamp_ms;
        }
        self.max_timestamp = self.max_timestamp.max(record.timestamp_ms);
        let delta = record.timestamp_ms.wrapping_sub(self.first_timestamp);
        let mut headers_bytes = varint_len(record.headers.len() as i64);
        for (key, value) in &record.headers {
            headers_bytes += varint_len(key.len() as i64) + key.len() + bytes_len(value.as_ref());
        }
        let len = 1
            + varint_len(delta)
            + varint_len(i64::from(self.count))
            + bytes_len(record.key.as_ref())
            + bytes_len(record.value.as_ref())
            + headers_bytes;
        let out = &mut self.body;
        put_varint(out, len as i64);
        out.put_i8(0);
        put_varint(out, delta);
        put_varint(out, i64::from(self.count));
        put_bytes(out, record.key.as_ref());
        put_bytes(out, record.value.as_ref());
        put_varint(out, record.headers.len() as i64);
        for (key, value) in &record.headers {
            put_varint(out, key.len() as i64);
            out.put_slice(key.as_bytes());
            put_bytes(out, value.as_ref());
        }
        self.count += 1;
    }

    /// The batch, with base offset 0 and a right crc. It must hold a record.
    pub fn build(self, producer: Option<ProducerStamp>) -> Bytes {
        assert!(self.count > 0, "a batch holds at least one record");
        let none =
            ProducerStamp { producer_id: NO_PRODUCER, producer_epoch: -1, base_sequence: -1 };
        let stamp = producer.unwrap_or(none);
        let records = match self.compression {
            Compression::None => self.body.freeze(),
            codec => codec.compress(&self.body).into(),
        };
        let mut out = BytesMut::with_capacity(HEADER_BYTES + records.len());
        out.put_i64(0);
        out.put_i32((HEADER_BYTES - 12 + records.len()) as i32);
        out.put_i32(0);
        out.put_i8(2);
        out.put_u32(0);
        out.put_i16(self.compression as i16 | self.attributes);
        out.put_i32(self.count as i32 - 1);
        out.put_i64(self.first_timestamp);
        out.put_i64(self.max_timestamp);
        out.put_i64(stamp.producer_id);
        out.put_i16(stamp.producer_epoch);
        out.put_i32(stamp.base_sequence);
        out.put_i32(self.count as i32);
        out.put_slice(&records);
        let crc = crc32c(&out[21..]);
        out[17..21].copy_from_slice(&crc.to_be_bytes());
        out.freeze()
    }
}

/// Names the sender of a batch that was built without one, and makes the crc right again.
/// Copies the batch unless `batch` is the only handle to its bytes.
pub fn stamp_producer(batch: Bytes, stamp: ProducerStamp) -> Result<Bytes, FormatError> {
    // The crc is written anew below: it must not hide that the bytes were damaged before.
    check(&batch)?;
    let mut out = batch.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
    out[43..51].copy_from_slice(&stamp.producer_id.to_be_bytes());
    out[51..53].copy_from_slice(&stamp.producer_epoch.to_be_bytes());
    out[53..57].copy_from_slice(&stamp.base_sequence.to_be_bytes());
    let crc = crc32c(&out[21..]);
    out[17..21].copy_from_slice(&crc.to_be_bytes());
    Ok(out.freeze())
}

/// Gives all records of a batch the broker's time, and makes the crc right again. The batch is
/// checked. Copies it.
pub fn stamp_append_time(batch: &[u8], now_ms: i64) -> Bytes {
    let mut out = BytesMut::from(batch);
    let attributes = i16::from_be_bytes([out[21], out[22]]) | LOG_APPEND_TIME;
    out[21..23].copy_from_slice(&attributes.to_be_bytes());
    out[35..43].copy_from_slice(&now_ms.to_be_bytes());
    let crc = crc32c(&out[21..]);
    out[17..21].copy_from_slice(&crc.to_be_bytes());
    out.freeze()
}

/// Bytes of the shortest record: a batch that claims more records than fit lies.
pub(super) const RECORD_BYTES_MIN: usize = 7;

/// Reads all records of one whole batch, whose crc is checked. Control batches have none.
pub fn decode_records(batch: &Bytes) -> Result<Vec<DecodedRecord>, FormatError> {
    Records::of(batch, BATCH_DECODED_BYTES_MAX)?.collect()
}

/// The records of one whole batch, one after the other. Ends at the first error.
pub struct Records {
    header: BatchHeader,
    plain: Bytes,
    at: usize,
    left: u32,
}

impl Records {
    /// Checks the crc and unpacks, to at most `max` bytes.
    pub fn of(batch: &Bytes, max: usize) -> Result<Self, FormatError> {
        let header = check(batch)?;
        if header.is_control() {
            return Ok(Self { header, plain: Bytes::new(), at: 0, left: 0 });
        }
        let codec = Compression::of(header.attributes)?;
        let plain = codec.decompress(&batch.slice(HEADER_BYTES..), max)?;
        if header.record_count as usize > plain.len() / RECORD_BYTES_MIN {
            let why = format!("{} records in {} bytes", header.record_count, plain.len());
            return Err(FormatError::new(WHAT, 0, why));
        }
        Ok(Self { header, plain, at: 0, left: header.record_count })
    }

    /// Bytes that it holds.
    pub fn plain_bytes(&self) -> usize {
        self.plain.len()
    }
}

impl Iterator for Records {
    type Item = Result<DecodedRecord, FormatError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            let behind = self.plain.len() - self.at;
            let why = format!("{behind} bytes behind the last one");
            let at = std::mem::replace(&mut self.at, self.plain.len());
            return (behind > 0).then(|| Err(FormatError::new(WHAT, at, why)));
        }
        self.left -= 1;
        let mut cursor = Cursor { bytes: &self.plain, at: self.at };
        let record = cursor.record(&self.header);
        self.at = cursor.at;
        if record.is_err() {
            (self.left, self.at) = (0, self.plain.len());
        }
        Some(record)
    }
}

/// Whether a batch without compression holds as many records as its header says, each with its
/// own offset. Looks at lengths only.
pub fn check_count(batch: &Bytes, header: &BatchHeader) -> Result<(), FormatError> {
    let plain = batch.slice(HEADER_BYTES..);
    let mut cursor = Cursor { bytes: &plain, at: 0 };
    for number in 0..i64::from(header.record_count) {
        let len = cursor.length()?.ok_or_else(|| cursor.error("no length"))?;
        let end = cursor.at.checked_add(len).filter(|end| *end <= plain.len());
        let end = end.ok_or_else(|| cursor.error(format!("needs {len} bytes")))?;
        cursor.byte()?;
        cursor.varint()?;
        let delta = cursor.varint()?;
        if delta != number || cursor.at > end {
            return Err(cursor.error(format!("record {number} has offset delta {delta}")));
        }
        cursor.at = end;
    }
    match plain.len() - cursor.at {
        0 => Ok(()),
        behind => Err(cursor.error(format!("{behind} bytes behind the last one"))),
    }
}

/// The first record of a whole batch without compression, of a control batch too.
pub(super) fn plain_record(batch: &Bytes) -> Result<RecordData, FormatError> {
    let header = BatchHeader::decode(batch)?;
    let plain = batch.slice(HEADER_BYTES..);
    Ok(Cursor { bytes: &plain, at: 0 }.record(&header)?.data)
}

pub(super) struct Cursor<'a> {
    pub(super) bytes: &'a Bytes,
    pub(super) at: usize,
}

impl Cursor<'_> {
    pub(super) fn error(&self, why: impl Into<String>) -> FormatError {
        FormatError::new(WHAT, self.at, why)
    }

    pub(super) fn byte(&mut self) -> Result<u8, FormatError> {
        let byte = self.bytes.get(self.at).copied().ok_or_else(|| self.error("ends early"))?;
        self.at += 1;
        Ok(byte)
    }

    pub(super) fn varint(&mut self) -> Result<i64, FormatError> {
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte & 0x80 == 0 {
                return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
            }
        }
        Err(self.error("number has more than ten bytes"))
    }

    fn take(&mut self, len: usize) -> Result<Bytes, FormatError> {
        let end = self.at.checked_add(len).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or_else(|| self.error(format!("needs {len} bytes")))?;
        let taken = self.bytes.slice(self.at..end);
        self.at = end;
        Ok(taken)
    }

    pub(super) fn length(&mut self) -> Result<Option<usize>, FormatError> {
        match self.varint()? {
            -1 => Ok(None),
            len if (0..=BATCH_DECODED_BYTES_MAX as i64).contains(&len) => Ok(Some(len as usize)),
            len => Err(self.error(format!("length {len}"))),
        }
    }

    pub(super) fn optional(&mut self) -> Result<Option<Bytes>, FormatError> {
        self.length()?.map(|len| self.take(len)).transpose()
    }

    fn record(&mut self, header: &BatchHeader) -> Result<DecodedRecord, FormatError> {
        let len = self.length()?.ok_or_else(|| self.error("no length"))?;
        let end = self.at + len;
        self.byte()?;
        let timestamp_delta = self.varint()?;
        let offset_delta = self.varint()?;
        if !(0..=i64::from(header.last_offset_delta)).contains(&offset_delta) {
            return Err(self.error(format!("offset delta {offset_delta}")));
        }
        let (key, value) = (self.optional()?, self.optional()?);
        let count = self.length()?.unwrap_or(0);
        if count > end.saturating_sub(self.at) {
            return Err(self.error(format!("{count} headers")));
        }
        // Room grows with what is really there: a claim costs 2 bytes, room for it 56.
        let mut headers = Vec::with_capacity(count.min(16));
        for _ in 0..count {
            let key = self.optional()?.ok_or_else(|| self.error("header without a name"))?;
            let key = String::from_utf8(key.to_vec());
            let key = key.map_err(|_| self.error("name of a header is not UTF-8"))?;
            headers.push((key, self.optional()?));
        }
        if self.at != end {
            return Err(self.error(format!("ends at {} in place of {end}", self.at)));
        }
        let own_time = header.base_timestamp.wrapping_add(timestamp_delta);
        let timestamp_ms = header.append_time().unwrap_or(own_time);
        let offset = header.base_offset + offset_delta as u64;
        Ok(DecodedRecord { offset, data: RecordData { timestamp_ms, key, value, headers } })
    }
}

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

pub(super) fn varint_len(value: i64) -> usize {
    (64 - (zigzag(value) | 1).leading_zeros() as usize).div_ceil(7)
}

pub(super) fn put_varint(out: &mut BytesMut, value: i64) {
    let mut left = zigzag(value);
    while left >= 0x80 {
        out.put_u8(left as u8 | 0x80);
        left >>= 7;
    }
    out.put_u8(left as u8);
}

fn bytes_len(bytes: Option<&Bytes>) -> usize {
    bytes.map_or(1, |b| varint_len(b.len() as i64) + b.len())
}

fn put_bytes(out: &mut BytesMut, bytes: Option<&Bytes>) {
    match bytes {
        None => put_varint(out, -1),
        Some(bytes) => {
            put_varint(out, bytes.len() as i64);
            out.put_slice(bytes);
        }
    }
}

const _: () = assert!(BATCH_BYTES_MAX < i32::MAX as usize, "lengths of a batch are i32");

#[cfg(test)]
mod tests {
    use super::*;

    fn some(n: usize) -> RecordData {
        RecordData {
            timestamp_ms: 1_700_000_000_000 + (n as i64 * 37) % 1000 - 500,
            key: (!n.is_multiple_of(3)).then(|| Bytes::from(format!("key-{n}"))),
            value: (!n.is_multiple_of(5)).then(|| Bytes::from(vec![n as u8; n * 7 % 300])),
            headers: (0..n % 3).map(|h| (format!("h{h}"), (h > 0).then(|| "v".into()))).collect(),
        }
    }

    #[test]
    fn every_codec_gives_back_what_went_in() {
        for codec in Compression::ALL {
            let records: Vec<_> = (0..200).map(some).collect();
            let mut builder = BatchBuilder::new(codec);
            records.iter().for_each(|record| builder.push(record));
            let stamp = ProducerStamp { producer_id: 7, producer_epoch: 1, base_sequence: 40 };
            let batch = builder.build(Some(stamp));
            let header = check(&batch).unwrap();
            assert_eq!((header.record_count, header.last_sequence()), (200, 239), "{codec:?}");
            let decoded = decode_records(&batch).unwrap();
            let offsets: Vec<_> = decoded.iter().map(|d| d.offset).collect();
            assert_eq!(offsets, (0..200).collect::<Vec<_>>());
            let back: Vec<_> = decoded.into_iter().map(|d| d.data).collect();
            assert_eq!(back, records, "{codec:?}");
        }
    }

    #[test]
    fn a_wrong_count_is_found_without_decoding() {
        let mut builder = BatchBuilder::new(Compression::None);
        (0..20).map(some).for_each(|record| builder.push(&record));
        let size: usize = (0..20).map(|n| BatchBuilder::bytes_of(&some(n))).sum();
        assert!(builder.plain_bytes() <= HEADER_BYTES + size);
        let batch = builder.build(None);
        let header = check(&batch).unwrap();
        check_count(&batch, &header).unwrap();
        for record_count in [19, 21, u32::MAX] {
            check_count(&batch, &BatchHeader { record_count, ..header }).unwrap_err();
        }
    }

    #[test]
    fn a_stamp_changes_the_sender_and_nothing_else() {
        let mut builder = BatchBuilder::new(Compression::None);
        (0..3).map(some).for_each(|record| builder.push(&record));
        let plain = builder.build(None);
        let stamp = ProducerStamp { producer_id: 9, producer_epoch: 2, base_sequence: 17 };
        let stamped = stamp_producer(plain.clone(), stamp).unwrap();
        let header = check(&stamped).unwrap();
        let sender = (header.producer_id, header.producer_epoch, header.base_sequence);
        assert_eq!(sender, (9, 2, 17));
        assert_eq!(decode_records(&stamped).unwrap(), decode_records(&plain).unwrap());
        let mut damaged = plain.to_vec();
        damaged[70] ^= 1;
        assert!(stamp_producer(damaged.into(), stamp).is_err());
    }

    /// With a right crc, so that the records themselves are what is wrong.
    fn with_crc(bytes: &[u8]) -> Bytes {
        let mut bytes = bytes.to_vec();
        let crc = crc32c(&bytes[21..]);
        bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        bytes.into()
    }

    #[test]
    fn changed_bytes_never_panic_and_never_unpack_without_bound() {
        for codec in Compression::ALL {
            let mut builder = BatchBuilder::new(codec);
            (0..20).map(some).for_each(|record| builder.push(&record));
            let batch = builder.build(None).to_vec();
            for at in 21..batch.len() {
                for change in [1, 0x80, 0xff] {
                    let mut bad = batch.clone();
                    bad[at] ^= change;
                    // Any answer is fine, as long as it is one.
                    drop(decode_records(&with_crc(&bad)));
                }
            }
        }
        let bomb = Compression::Zstd.compress(&vec![0; 1 << 20]);
        assert!(Compression::Zstd.decompress(&bomb.into(), 1000).is_err());
    }
}
