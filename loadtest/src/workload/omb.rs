//! Workload files of the OpenMessaging Benchmark, unchanged.
//!
//! Source: openmessaging-benchmark, `io.openmessaging.benchmark.Workload`: its fields, its
//! defaults, and `producerRate: 0` for "find the highest rate".

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::values::{Rate, Size, Span};
use super::{CatchUp, Keys, Produce, Record, Search, Tail, Topics, Verify, Workload};
use crate::error::{Error, Result};

/// Its clients gather for a millisecond by default in the drivers' files: so many records of a
/// producer's partition go together here.
const LINGER_PER_SECOND: u64 = 1_000;
/// Keys of `KEY_ROUND_ROBIN` there.
const KEYS: u32 = 10_000;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct File {
    name: String,
    topics: u32,
    partitions_per_topic: u32,
    key_distributor: Distributor,
    message_size: u64,
    use_randomized_payloads: bool,
    random_bytes_ratio: f64,
    /// Payloads are cut from one pool here, whatever its size is there.
    #[serde(rename = "randomizedPayloadPoolSize")]
    _pool: u64,
    payload_file: Option<PathBuf>,
    subscriptions_per_topic: u32,
    producers_per_topic: u32,
    /// Every partition has a reader of its own here.
    #[serde(rename = "consumerPerSubscription")]
    _consumers: u32,
    producer_rate: u64,
    #[serde(rename = "consumerBacklogSizeGB")]
    backlog_gb: u64,
    /// The catch-up is read until the end of the phase, not to a share of it.
    #[serde(rename = "backlogDrainRatio")]
    _drain: f64,
    test_duration_minutes: u64,
    warmup_duration_minutes: u64,
}

impl Default for File {
    fn default() -> Self {
        Self {
            name: Workload::default().name,
            topics: 1,
            partitions_per_topic: 1,
            key_distributor: Distributor::NoKey,
            message_size: 1024,
            use_randomized_payloads: false,
            random_bytes_ratio: 0.0,
            _pool: 0,
            payload_file: None,
            subscriptions_per_topic: 1,
            producers_per_topic: 1,
            _consumers: 1,
            producer_rate: 0,
            backlog_gb: 0,
            _drain: 1.0,
            test_duration_minutes: 5,
            warmup_duration_minutes: 1,
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum Distributor {
    NoKey,
    KeyRoundRobin,
    RandomNano,
}

/// `folder` is what a relative `payloadFile` is relative to.
pub fn parse(text: &str, folder: &Path) -> Result<Workload> {
    let file: File =
        serde_saphyr::from_str(text).map_err(|error| Error::usage(error.to_string()))?;
    let partitions = u64::from(file.topics) * u64::from(file.partitions_per_topic);
    let per_partition = file.producer_rate / partitions.max(1) / LINGER_PER_SECOND;
    let most = (1 << 20) / file.message_size.max(1);
    let minutes = |minutes: u64| Span(Duration::from_secs(minutes.saturating_mul(60)));
    let (rate, search) = match file.producer_rate {
        0 => (Rate::Full, Some(Search { from: 10_000, ..Search::default() })),
        rate => (Rate::PerSecond(rate), None),
    };
    let random = if file.use_randomized_payloads { file.random_bytes_ratio } else { 0.0 };
    Ok(Workload {
        name: file.name,
        topics: Topics {
            count: file.topics,
            partitions: file.partitions_per_topic,
            ..Topics::default()
        },
        record: Record {
            bytes: Size(file.message_size),
            random,
            payload_file: file.payload_file.map(|path| folder.join(path)),
            keys: match file.key_distributor {
                Distributor::NoKey => Keys::None,
                Distributor::KeyRoundRobin => Keys::RoundRobin,
                Distributor::RandomNano => Keys::Random,
            },
            key_count: KEYS,
            ..Record::default()
        },
        produce: Produce {
            rate,
            producers: file.producers_per_topic.saturating_mul(file.topics),
            batch_records: per_partition.clamp(1, most.max(1)) as u32,
            ..Produce::default()
        },
        tail: Tail { subscriptions: file.subscriptions_per_topic, ..Tail::default() },
        catch_up: CatchUp {
            bytes: Size(file.backlog_gb.saturating_mul(1 << 30)),
            ..CatchUp::default()
        },
        verify: if file.subscriptions_per_topic > 0 { Verify::Tail } else { Verify::All },
        warm_up: minutes(file.warmup_duration_minutes),
        duration: minutes(file.test_duration_minutes),
        search,
        ..Workload::default()
    })
}
