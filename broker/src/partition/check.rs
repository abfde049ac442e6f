//! What a batch must be before it may take an offset: its size, header and frames are looked at,
//! and the keys of what goes to a compacted topic. Nothing else is decoded.

use bytes::Bytes;
use levee_proto::FormatError;
use levee_proto::limits::{BATCH_BYTES_MAX, BATCH_RECORDS_MAX};
use levee_proto::record::batch::{NO_PRODUCER, TRANSACTIONAL};
use levee_proto::record::codecs::Compression;
use levee_proto::record::records::check_count;
use levee_proto::record::rewrite::keyless;
use levee_proto::record::{BatchHeader, batch};
use levee_runtime::Host;

use crate::config::{TimestampType, TopicConfig};
use crate::error::{Error, Result};

/// Attribute bits that a producer may set: the compression, and that it is in a transaction.
const COMPRESSION: i16 = 0x07;
const ATTRIBUTES: i16 = COMPRESSION | TRANSACTIONAL;

/// Unpacked in less than a millisecond.
const LITTLE_BYTES: usize = 256 << 10;

/// The header of a batch that may be appended.
pub(super) fn check(
    host: &Host,
    topic: &str,
    bytes: &Bytes,
    config: &TopicConfig,
    wall_ms: i64,
) -> Result<BatchHeader> {
    let header =
        batch::check(bytes).map_err(|error| Error::corrupt_batch(format!("{topic}: {error}")))?;
    let max = config.max_message_bytes;
    if u64::from(header.bytes) > max {
        return Err(Error::batch_too_large(u64::from(header.bytes), max));
    }
    match wrong(&header, config, wall_ms) {
        Some(why) => return Err(Error::invalid_argument(format!("batch for {topic}: {why}"))),
        None if header.attributes & COMPRESSION == Compression::None as i16 => {
            check_count(bytes, &header)
                .map_err(|error| Error::corrupt_batch(format!("{topic}: {error}")))?;
        }
        None => {}
    }
    if config.cleanup_policy.compacts() {
        let keyless = all_keyless(host, bytes)
            .map_err(|error| Error::corrupt_batch(format!("{topic}: {error}")))?;
        if !keyless.is_empty() {
            return Err(Error::keyless(topic, keyless));
        }
    }
    Ok(header)
}

/// Records without a key. Unpacked right here, as batches take their places in the order in which
/// their appends begin; much of it while other requests go on elsewhere.
fn all_keyless(host: &Host, bytes: &Bytes) -> std::result::Result<Vec<u32>, FormatError> {
    // What a batch unpacks to is known when it was: again, where that is more than a little.
    let is_little = bytes.len() <= LITTLE_BYTES;
    let little = is_little.then(|| keyless(bytes, LITTLE_BYTES)).and_then(Result::ok);
    little.map_or_else(|| host.busy(|| keyless(bytes, BATCH_BYTES_MAX)), Ok)
}

/// What no reader would understand, or what would harm the log.
fn wrong(header: &BatchHeader, config: &TopicConfig, wall_ms: i64) -> Option<String> {
    let (attributes, records) = (header.attributes, header.record_count);
    if attributes & !ATTRIBUTES != 0 {
        return Some(format!("attributes {attributes:#06x} are not a producer's to set"));
    }
    if let Err(error) = Compression::of(attributes) {
        return Some(format!("{error}; none, gzip, snappy, lz4 and zstd are known"));
    }
    if records == 0 || records != header.last_offset_delta + 1 {
        return Some(format!("{records} records, last offset delta {}", header.last_offset_delta));
    }
    if records as usize > BATCH_RECORDS_MAX {
        return Some(format!("{records} records are above the most of one, {BATCH_RECORDS_MAX}"));
    }
    if header.producer_id < NO_PRODUCER
        || (header.is_idempotent() && (header.producer_epoch < 0 || header.base_sequence < 0))
    {
        return Some(format!(
            "producer id {}, epoch {}, sequence {}: none, or all three from 0 on",
            header.producer_id, header.producer_epoch, header.base_sequence
        ));
    }
    if header.is_transactional() && !header.is_idempotent() {
        return Some("it is part of a transaction and has no producer id".into());
    }
    if header.max_timestamp < -1 {
        return Some(format!("timestamp {}, where -1 means none", header.max_timestamp));
    }
    if config.message_timestamp_type == TimestampType::LogAppendTime {
        // It is not kept.
        return None;
    }
    let ahead = i128::from(header.max_timestamp) - i128::from(wall_ms);
    let max = config.message_timestamp_after_max_ms?.as_millis() as i128;
    (ahead > max).then(|| {
        let max = "message.timestamp.after.max.ms";
        format!("timestamp {} is {ahead} ms ahead, above {max}", header.max_timestamp)
    })
}

#[cfg(test)]
mod tests {
    use levee_proto::record::records::{BatchBuilder, RecordData};
    use levee_runtime::real::RealWorld;

    use super::*;

    /// Two records, the second without a key; `bytes` of values.
    fn batch(codec: Compression, bytes: usize) -> Bytes {
        let mut builder = BatchBuilder::new(codec);
        for key in [Some("a".into()), None] {
            let value = Some(vec![b'x'; bytes / 2].into());
            builder.push(&RecordData { key, value, ..RecordData::default() });
        }
        builder.build(None)
    }

    /// However large it is, and however small when it is packed.
    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn records_without_a_key_are_found() {
        let host = RealWorld::host();
        for codec in Compression::ALL {
            for bytes in [10, 1 << 20, 60 << 20] {
                let batch = batch(codec, bytes);
                assert_eq!(all_keyless(&host, &batch).unwrap(), [1], "{codec:?}, {bytes} bytes");
            }
        }
        let bomb = batch(Compression::Zstd, 2 * BATCH_BYTES_MAX);
        assert!(all_keyless(&host, &bomb).is_err(), "more than a batch may unpack to");
    }
}
