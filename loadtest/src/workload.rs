//! What a run does, as a file says it. Pure: no clock, no socket.
//!
//! Owns: the fields and their defaults. `loadtest/workloads/README.md` lists them; a test keeps the
//! two together. Does not own: their bounds (`check`), and when each send is due (`schedule`).

mod check;
pub mod file;
mod omb;
pub mod values;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use values::{Rate, Size, Span};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Workload {
    pub name: String,
    pub about: String,
    pub topics: Topics,
    pub record: Record,
    pub produce: Produce,
    pub tail: Tail,
    pub catch_up: CatchUp,
    pub verify: Verify,
    pub warm_up: Span,
    pub duration: Span,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub phases: Vec<Phase>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub search: Option<Search>,
    pub seed: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Topics {
    pub count: u32,
    pub partitions: u32,
    pub settings: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Record {
    pub bytes: Size,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mix: Vec<WeightedSize>,
    pub random: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload_file: Option<PathBuf>,
    pub keys: Keys,
    pub key_count: u32,
    pub compression: Compression,
}

/// So many records of `weight` in all are of `bytes`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WeightedSize {
    pub bytes: Size,
    pub weight: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keys {
    None,
    RoundRobin,
    Random,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Produce {
    pub rate: Rate,
    pub producers: u32,
    pub connections: u32,
    pub batch_records: u32,
    pub arrivals: Arrivals,
    pub in_flight: Size,
    pub in_flight_sends: u32,
    pub client: ClientKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arrivals {
    Even,
    Poisson,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientKind {
    /// One append stream for each producer; nothing is retried.
    Stream,
    /// The client library's idempotent producer, with its retries.
    Library,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tail {
    pub subscriptions: u32,
    pub connections: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CatchUp {
    pub bytes: Size,
    pub cold: bool,
    pub repeat: bool,
    /// Bytes a second of all readers together; none: as fast as it goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<Size>,
    pub connections: u32,
}

/// How records are checked against the chains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verify {
    /// Nothing is stamped or checked.
    Off,
    /// By the tail readers, as they go.
    Tail,
    /// Everything is read back at the end.
    All,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Phase {
    pub name: String,
    pub duration: Span,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    #[serde(default)]
    pub catch_up: bool,
    /// In place of `catch_up.limit`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub catch_up_limit: Option<Size>,
    #[serde(default)]
    pub warm_up: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Search {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99: Option<Span>,
    pub from: u64,
    pub to: u64,
    pub step: Span,
    pub precision: f64,
}

impl Default for Workload {
    fn default() -> Self {
        Self {
            name: "workload".into(),
            about: String::new(),
            topics: Topics::default(),
            record: Record::default(),
            produce: Produce::default(),
            tail: Tail::default(),
            catch_up: CatchUp::default(),
            verify: Verify::All,
            warm_up: seconds(5),
            duration: seconds(30),
            phases: Vec::new(),
            search: None,
            seed: 1,
        }
    }
}

impl Default for Topics {
    fn default() -> Self {
        Self { count: 1, partitions: 16, settings: BTreeMap::new() }
    }
}

impl Default for Record {
    fn default() -> Self {
        Self {
            bytes: Size(1024),
            mix: Vec::new(),
            random: 0.5,
            payload_file: None,
            keys: Keys::None,
            key_count: 10_000,
            compression: Compression::None,
        }
    }
}

impl Default for Produce {
    fn default() -> Self {
        Self {
            rate: Rate::PerSecond(10_000),
            producers: 4,
            connections: 1,
            batch_records: 10,
            arrivals: Arrivals::Even,
            in_flight: Size(32 << 20),
            in_flight_sends: 1024,
            client: ClientKind::Stream,
        }
    }
}

impl Default for Tail {
    fn default() -> Self {
        Self { subscriptions: 0, connections: 1 }
    }
}

impl Default for CatchUp {
    fn default() -> Self {
        Self { bytes: Size(0), cold: true, repeat: true, limit: None, connections: 1 }
    }
}

impl Default for Search {
    fn default() -> Self {
        Self { p99: None, from: 1_000, to: 10_000_000, step: seconds(10), precision: 0.05 }
    }
}

fn seconds(seconds: u64) -> Span {
    Span(Duration::from_secs(seconds))
}

impl Workload {
    /// Sizes of records with their weights.
    pub fn sizes(&self) -> Vec<WeightedSize> {
        match self.record.mix.is_empty() {
            true => vec![WeightedSize { bytes: self.record.bytes, weight: 1 }],
            false => self.record.mix.clone(),
        }
    }

    /// As written, or warm-up and measurement.
    pub fn phases(&self) -> Vec<Phase> {
        if !self.phases.is_empty() {
            return self.phases.clone();
        }
        let catch_up = self.catch_up.bytes.0 > 0;
        let phase = |name: &str, duration, warm_up| Phase {
            name: name.into(),
            duration,
            rate: None,
            catch_up,
            catch_up_limit: None,
            warm_up,
        };
        let mut phases = Vec::new();
        if !self.warm_up.0.is_zero() {
            phases.push(phase("warm-up", self.warm_up, true));
        }
        phases.push(phase("measure", self.duration, false));
        phases
    }

    /// Producers, tail readers and catch-up readers each have connections of their own: what one
    /// kind leaves unread must not hold up the answers to another.
    pub fn connections(&self) -> u32 {
        self.first_catch_up_connection() + self.catch_up.connections
    }

    pub fn producer_connection(&self, producer: u32) -> u32 {
        producer % self.produce.connections
    }

    pub fn tail_connection(&self, reader: u32) -> u32 {
        self.produce.connections + reader % self.tail.connections
    }

    pub fn first_catch_up_connection(&self) -> u32 {
        self.produce.connections + self.tail.connections
    }

    /// Bytes a second of all catch-up readers; nothing: they pause in this phase.
    pub fn catch_up_speed(&self, phase: &Phase) -> Option<u64> {
        let limit = phase.catch_up_limit.or(self.catch_up.limit);
        phase.catch_up.then(|| limit.map_or(u64::MAX, |limit| limit.0))
    }

    /// Records carry their place in a chain, or the time they were due.
    pub fn is_stamped(&self) -> bool {
        self.verify != Verify::Off || self.tail.subscriptions > 0
    }
}
