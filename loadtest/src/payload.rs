//! The batches that are sent: made once as patterns, then copied and stamped.
//!
//! Owns: bytes of records. Does not own: when they go (`schedule`) and where (`producer`).
//! A pattern is an encoded record batch whose keys, stamps, times and checksum are written over,
//! so that a send costs a copy and two checksums instead of an encoding. Compressed batches are
//! encoded anew each time.

use std::io::Read;
use std::ops::Range;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use levee_client::{Compression as Codec, RecordData};
use levee_proto::crc::crc32c;
use levee_proto::record::records::{BatchBuilder, decode_records};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

use crate::error::{Error, Result};
use crate::workload::{Compression, Keys, Workload};

/// Patterns, so that neighbours differ; fewer where batches are large.
const PATTERNS: usize = 8;
const PATTERN_BYTES_MAX: u64 = 64 << 20;
/// Bytes of a payload file that are used.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// Times of unstamped batches are at most this old.
const STALE: Duration = Duration::from_secs(10);
/// In a record batch (Kafka record batch v2).
const CRC: Range<usize> = 17..21;
const CHECKED_FROM: usize = 21;
const FIRST_TIME: Range<usize> = 27..35;
const MAX_TIME: Range<usize> = 35..43;

pub struct Payload {
    patterns: Vec<Pattern>,
    codec: Codec,
    /// Batches that need no stamp, with their age.
    ready: Vec<Mutex<Option<(Instant, Bytes)>>>,
    pub records: u32,
    pub keys: Keys,
}

struct Pattern {
    bytes: Bytes,
    places: Vec<Place>,
}

/// Where a record's key and value are in the batch.
struct Place {
    key: Range<usize>,
    value: Range<usize>,
}

pub const KEY_BYTES: usize = 12;

/// Keys have one width, so that they can be written over.
pub fn key(number: u32) -> [u8; KEY_BYTES] {
    let mut key = *b"key-00000000";
    let mut rest = number;
    for digit in key[4..].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    key
}

impl Payload {
    pub fn new(workload: &Workload) -> Result<Self> {
        let mut noise = Noise::new(workload)?;
        let records = workload.produce.batch_records;
        let sizes: Vec<(u64, u32)> =
            workload.sizes().iter().map(|share| (share.bytes.0, share.weight)).collect();
        let largest = sizes.iter().map(|(bytes, _)| *bytes).max().unwrap_or(1);
        let batch = (largest * u64::from(records)).max(1);
        let count = (PATTERN_BYTES_MAX / batch).clamp(1, PATTERNS as u64);
        let keyed = workload.record.keys != Keys::None;
        let patterns: Vec<_> = (0..count)
            .map(|_| {
                let mut builder = BatchBuilder::new(Codec::None);
                for _ in 0..records {
                    let bytes = pick(&sizes, &mut noise.random);
                    let value = noise.value(bytes);
                    let key = keyed.then(|| Bytes::copy_from_slice(&key(0)));
                    let timestamp_ms = wall_ms();
                    builder.push(&RecordData {
                        timestamp_ms,
                        key,
                        value: Some(value.into()),
                        ..RecordData::default()
                    });
                }
                Pattern::of(builder.build(None))
            })
            .collect::<Result<_>>()?;
        let ready = patterns.iter().map(|_| Mutex::default()).collect();
        let codec = match workload.record.compression {
            Compression::None => Codec::None,
            Compression::Gzip => Codec::Gzip,
            Compression::Snappy => Codec::Snappy,
            Compression::Lz4 => Codec::Lz4,
            Compression::Zstd => Codec::Zstd,
        };
        Ok(Self { patterns, codec, ready, records, keys: workload.record.keys })
    }

    /// A batch whose records are written by `write(number, key, value)`.
    pub fn stamped(&self, number: usize, mut write: impl FnMut(&mut [u8], &mut [u8])) -> Bytes {
        let pattern = &self.patterns[number % self.patterns.len()];
        let mut bytes = BytesMut::from(&pattern.bytes[..]);
        for place in &pattern.places {
            let record = &mut bytes[place.key.start..place.value.end];
            let (head, value) = record.split_at_mut(place.value.start - place.key.start);
            write(&mut head[..place.key.len()], value);
        }
        self.finish(pattern, bytes)
    }

    /// A batch as it is, with a time of the last seconds.
    pub fn plain(&self, number: usize) -> Bytes {
        let number = number % self.patterns.len();
        let mut ready = self.ready[number].lock();
        match &*ready {
            Some((made, bytes)) if made.elapsed() < STALE => bytes.clone(),
            _ => {
                let pattern = &self.patterns[number];
                let bytes = self.finish(pattern, BytesMut::from(&pattern.bytes[..]));
                *ready = Some((Instant::now(), bytes.clone()));
                bytes
            }
        }
    }

    fn finish(&self, pattern: &Pattern, mut bytes: BytesMut) -> Bytes {
        let now = wall_ms();
        if self.codec != Codec::None {
            let bytes = bytes.freeze();
            let mut builder = BatchBuilder::new(self.codec);
            for place in &pattern.places {
                let key = (!place.key.is_empty()).then(|| bytes.slice(place.key.clone()));
                let value = Some(bytes.slice(place.value.clone()));
                let timestamp_ms = now;
                let data = RecordData { timestamp_ms, key, value, ..RecordData::default() };
                builder.push(&data);
            }
            return builder.build(None);
        }
        bytes[FIRST_TIME].copy_from_slice(&now.to_be_bytes());
        bytes[MAX_TIME].copy_from_slice(&now.to_be_bytes());
        let crc = crc32c(&bytes[CHECKED_FROM..]);
        bytes[CRC].copy_from_slice(&crc.to_be_bytes());
        bytes.freeze()
    }
}

impl Pattern {
    /// Decoded records are slices of the batch: where they are says where to write.
    fn of(bytes: Bytes) -> Result<Self> {
        let start = bytes.as_ptr() as usize;
        let range = |part: &Bytes| {
            let from = part.as_ptr() as usize - start;
            from..from + part.len()
        };
        let records = decode_records(&bytes);
        let records = records.map_err(|error| Error::failed(format!("making load: {error}")))?;
        let places = records
            .iter()
            .map(|record| {
                let value = record.data.value.as_ref().map(&range).unwrap_or_default();
                let key = record.data.key.as_ref().map(&range).unwrap_or(value.start..value.start);
                Place { key, value }
            })
            .collect();
        Ok(Self { bytes, places })
    }
}

/// Values: partly random, partly text, or cut from a file.
struct Noise {
    random: StdRng,
    share: f64,
    file: Vec<u8>,
    at: usize,
}

impl Noise {
    fn new(workload: &Workload) -> Result<Self> {
        let mut file = Vec::new();
        if let Some(path) = &workload.record.payload_file {
            let failed = |why: String| {
                Error::usage(format!("record.payload_file {}: {why}", path.display()))
            };
            let open = std::fs::File::open(path).map_err(|error| failed(error.to_string()))?;
            let read = open.take(FILE_BYTES_MAX).read_to_end(&mut file);
            read.map_err(|error| failed(error.to_string()))?;
            if file.is_empty() {
                return Err(failed("is empty".into()));
            }
        }
        let random = StdRng::seed_from_u64(workload.seed);
        Ok(Self { random, share: workload.record.random, file, at: 0 })
    }

    fn value(&mut self, bytes: u64) -> Vec<u8> {
        /// Random and text take turns in runs of this many bytes.
        const RUN: usize = 64;
        let mut value = vec![0; bytes as usize];
        if !self.file.is_empty() {
            for byte in &mut value {
                *byte = self.file[self.at];
                self.at = (self.at + 1) % self.file.len();
            }
            return value;
        }
        for run in value.chunks_mut(RUN) {
            let random = (run.len() as f64 * self.share).round() as usize;
            self.random.fill_bytes(&mut run[..random]);
            for (number, byte) in run[random..].iter_mut().enumerate() {
                *byte = b'a' + (number % 26) as u8;
            }
        }
        value
    }
}

fn pick(sizes: &[(u64, u32)], random: &mut StdRng) -> u64 {
    let total: u32 = sizes.iter().map(|(_, weight)| weight).sum();
    let mut at = random.random_range(0..total.max(1));
    for (bytes, weight) in sizes {
        match at.checked_sub(*weight) {
            None => return *bytes,
            Some(rest) => at = rest,
        }
    }
    1
}

fn wall_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use levee_proto::record::batch::check;

    use super::*;
    use crate::workload::values::Size;
    use crate::workload::{Record, WeightedSize};

    fn payload(record: Record) -> Payload {
        Payload::new(&Workload { record, ..Workload::default() }).unwrap()
    }

    #[test]
    fn stamped_batches_are_batches_with_what_was_written() {
        for compression in [Compression::None, Compression::Lz4] {
            let keys = Keys::RoundRobin;
            let payload = payload(Record { keys, compression, ..Record::default() });
            let mut number = 0;
            let batch = payload.stamped(3, |key_bytes, value| {
                key_bytes.copy_from_slice(&key(number));
                value[0] = number as u8;
                number += 1;
            });
            check(&batch).unwrap();
            let records = decode_records(&batch).unwrap();
            assert_eq!(records.len(), 10);
            for (number, record) in records.iter().enumerate() {
                assert_eq!(record.data.key.as_deref(), Some(&key(number as u32)[..]));
                assert_eq!(record.data.value.as_ref().unwrap()[0], number as u8);
                assert_eq!(record.data.value.as_ref().unwrap().len(), 1024);
            }
        }
        assert_eq!(&key(1234), b"key-00001234");
    }

    #[test]
    fn mixed_sizes_come_by_weight() {
        let share = |bytes, weight| WeightedSize { bytes: Size(bytes), weight };
        let mix = vec![share(100, 9), share(5000, 1)];
        let payload = payload(Record { mix, ..Record::default() });
        let sizes: Vec<_> = (0..8)
            .flat_map(|number| decode_records(&payload.plain(number)).unwrap())
            .map(|record| record.data.value.unwrap().len())
            .collect();
        let large = sizes.iter().filter(|size| **size == 5000).count();
        assert!((1..30).contains(&large), "{large} of {}", sizes.len());
        check(&payload.plain(0)).unwrap();
    }
}
