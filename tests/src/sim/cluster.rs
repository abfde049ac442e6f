//! Simulated brokers, and a load on them that remembers every ack.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use levee_broker::config::BrokerConfig;
use levee_broker::fetch::{Fetch, Isolation};
use levee_broker::node::Node;
use levee_broker::node::start::{Started, start};
use levee_broker::produce::Acks;
use levee_broker::upkeep::beside;
use levee_broker::upkeep::retention::delete_records;
use levee_proto::head::HEAD_BYTES;
use levee_proto::keys::object_of;
use levee_proto::object::Trailer;
use levee_proto::record::batch::check_run;
use levee_proto::record::codecs::Compression;
use levee_proto::record::records::{BatchBuilder, ProducerStamp, RecordData, decode_records};
use levee_runtime::sim::{Sim, SimHost};
use levee_tiering::audit::{Audit, audit};
use levee_tiering::budget::Budget;
use levee_tiering::metalog::MetaLog;
use levee_tiering::store::{Deadlines, Store};
use parking_lot::Mutex;

use super::store::SimStore;

/// The broker that clients reach: one address, whoever is behind it.
#[derive(Clone)]
pub struct Cluster {
    pub sim: Sim,
    pub bucket: SimStore,
    settings: Arc<Vec<(String, String)>>,
    /// What settings cannot say: sizes below their bounds.
    tweak: fn(&Sim, &mut BrokerConfig),
    serving: Arc<Mutex<Option<Arc<Node>>>>,
}

impl Cluster {
    pub fn new(sim: &Sim, settings: &[(&str, &str)]) -> Self {
        let settings = settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Self {
            sim: sim.clone(),
            bucket: SimStore::new(sim),
            settings: Arc::new(settings),
            tweak: |_, _| {},
            serving: Arc::default(),
        }
    }

    /// The same cluster, where the next start has other settings.
    pub fn with_settings(&self, settings: &[(&str, &str)]) -> Self {
        let settings = settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Self { settings: Arc::new(settings), ..self.clone() }
    }

    /// With sizes below their bounds.
    pub fn tweaked(self, tweak: fn(&Sim, &mut BrokerConfig)) -> Self {
        Self { tweak, ..self }
    }

    /// Objects of some kilobytes: what takes a day elsewhere happens in a minute. How many become
    /// one, and when a partition gets an object of its own, is another at each start.
    pub fn with_small_objects(mut self) -> Self {
        self.tweak = |sim, config| {
            config.tier_object_bytes = 32 << 10;
            config.tier_l2_bytes = 8 << (10 + sim.below(3));
            config.merge_interval = Duration::from_secs(1);
            config.merge_fan_in = 2 + sim.below(3) as u32;
        };
        self
    }

    /// Metadata, listing and footers add up.
    pub async fn audit(&self) -> Audit {
        let audit = self.findings().await;
        assert!(audit.is_clean(), "{:?}", audit.findings);
        audit
    }

    /// Flips a bit in the first shared object; returns its key.
    pub async fn rot(&self, at: usize) -> String {
        let keys = self.bucket.keys().await;
        let key = keys.into_iter().find(|key| key.contains("/shared/")).expect("an object");
        self.heal(&key, at).await;
        key
    }

    /// Flips a bit; twice, and it is as it was.
    pub async fn heal(&self, key: &str, at: usize) {
        // It may have been replaced and deleted.
        let Some(mut bytes) = self.bucket.peek(key).await else { return };
        bytes[at] ^= 1;
        self.bucket.plant(key, bytes).await;
    }

    /// Flips a bit somewhere in the data of some object; returns where, to heal it.
    pub async fn rot_some(&self) -> Option<(String, usize)> {
        let keys = self.bucket.keys().await;
        let objects: Vec<&String> = keys.iter().filter(|key| object_of(key).is_some()).collect();
        let key = (*objects.get(self.sim.below(objects.len() as u64) as usize)?).clone();
        let bytes = self.bucket.peek(&key).await?;
        let trailer = Trailer::decode(&bytes, bytes.len() as u64).expect("a whole object");
        let data = trailer.footer_pos - HEAD_BYTES as u64;
        let at = HEAD_BYTES + self.sim.below(data) as usize;
        self.sim.note(format!("{key} rots at {at}"));
        self.heal(&key, at).await;
        Some((key, at))
    }

    /// What an audit finds. Asks the bucket itself, without its faults.
    pub async fn findings(&self) -> Audit {
        let host = self.sim.host("auditor").start();
        let store = Store::over(Arc::new(self.bucket.clone()), "", host.clone(), "sim");
        let cluster = MetaLog::identify(&store, &host).await.expect("it is there");
        let log = MetaLog::open(store.clone(), host.clone(), cluster.id);
        let budget = Budget::new(host, u64::MAX, u64::MAX);
        audit(&log, &store, &budget).await.expect("it is readable")
    }

    /// Starts a broker process on a host and makes it the one that clients reach.
    pub async fn start(&self, machine: &SimHost, store: &SimStore) -> Arc<Node> {
        self.try_start(machine, store).await.expect("not killed while it starts")
    }

    /// As `start`; nothing where the process was killed while it started.
    pub async fn try_start(&self, machine: &SimHost, store: &SimStore) -> Option<Arc<Node>> {
        let host = machine.start();
        // The folder of `dev` is a bucket far away here.
        let mut set = vec![("cache.disk.bytes", "64MiB")];
        set.extend(self.settings.iter().map(|(k, v)| (k.as_str(), v.as_str())));
        let mut config = BrokerConfig::dev(Path::new("/data"), &set).expect("settings hold");
        // Filling large files with zeros would be most of a run.
        config.wal_file_bytes = 256 << 10;
        (self.tweak)(&self.sim, &mut config);
        let store = Store::over(Arc::new(store.clone()), "", host.clone(), "sim").with_deadlines(
            Deadlines { request: Duration::from_secs(3), operation: Duration::from_secs(20) },
        );
        let (name, world) = (machine.name().to_owned(), host.clone());
        let starting = host.spawn("broker", async move {
            let started = start(&world, config, store, name).await;
            started.map(|started: Started| {
                let beside = beside(&started.node);
                let node = started.node.clone();
                // Lives as long as the process: its lock and its controller with it.
                let held = (started, beside);
                drop(world.spawn("held", async move {
                    std::future::pending::<()>().await;
                    drop(held);
                }));
                node
            })
        });
        let node = starting.await?.expect("it starts");
        self.sim.note(format!("{} serves as {}", machine.name(), node.session));
        *self.serving.lock() = Some(node.clone());
        Some(node)
    }

    pub fn node(&self) -> Option<Arc<Node>> {
        self.serving.lock().clone()
    }

    /// Runs a request inside the process that serves; nothing where it dies over it.
    pub async fn ask<T, F>(&self, request: impl FnOnce(Arc<Node>) -> F) -> Option<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let node = self.node()?;
        node.host.spawn("request", request(node.clone())).await
    }

    pub async fn create(&self, topic: &'static str, partitions: u32, class: &'static str) {
        let config = [("durability.class".to_owned(), class.to_owned())].into();
        let made = self
            .ask(|node| async move { node.create_topic(topic, partitions, config).await })
            .await
            .expect("it serves");
        made.expect("the topic is made");
    }
}

/// Numbered records to one partition, one after the other, retried until they are acknowledged.
#[derive(Clone)]
pub struct SimLoad {
    cluster: Cluster,
    topic: &'static str,
    partition: u32,
    producer: i64,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    /// Number to offset.
    acked: BTreeMap<u64, u64>,
    refused: Option<String>,
    stop: bool,
    /// Records below it were deleted on request.
    deleted_to: u64,
    /// The smallest size that retention ever left.
    keeps: Option<u64>,
    /// Offset of the record of the silent producer.
    whisper: Option<u64>,
}

/// Number of the record of the silent producer.
const WHISPER: u64 = 0;

/// What reading a partition from end to end gave.
struct Found {
    log_start: u64,
    /// Offset and number of each record.
    records: Vec<(u64, u64)>,
    bytes: u64,
}

impl SimLoad {
    pub fn start(cluster: &Cluster, topic: &'static str, partition: u32) -> Self {
        let producer = 1000 + i64::from(partition);
        let load =
            Self { cluster: cluster.clone(), topic, partition, producer, inner: Arc::default() };
        tokio::spawn(load.clone().run());
        load
    }

    fn batch(&self, number: u64) -> Bytes {
        let mut builder = BatchBuilder::new(Compression::None);
        builder.push(&RecordData {
            timestamp_ms: 1_800_000_000_000 + self.cluster.sim.elapsed_ms() as i64,
            key: Some(number.to_string().into()),
            value: Some(vec![number as u8; 20 + (number % 300) as usize].into()),
            ..RecordData::default()
        });
        builder.build(Some(ProducerStamp {
            producer_id: self.producer,
            producer_epoch: 0,
            base_sequence: number as i32 - 1,
        }))
    }

    async fn run(self) {
        // Number 0 is the silent producer's.
        let mut number = 1;
        while !self.inner.lock().stop {
            let batch = self.batch(number);
            let (topic, partition) = (self.topic, self.partition);
            let limit = Duration::from_secs(5);
            let asked = self.cluster.ask(|node| async move {
                let pending = node.append(topic, partition, batch, Acks::All, limit).await?;
                pending.done(&node).await
            });
            // A client does not wait for ever for a process that stands still.
            match tokio::time::timeout(Duration::from_secs(10), asked).await {
                Ok(Some(Ok(appended))) => {
                    self.inner.lock().acked.insert(number, appended.base_offset);
                    number += 1;
                    // A steady load: virtual hours must not become millions of appends.
                    let pause = 10 + self.cluster.sim.below(90);
                    tokio::time::sleep(Duration::from_millis(pause)).await;
                }
                Ok(Some(Err(error))) if !error.retriable => {
                    self.inner.lock().refused = Some(error.to_string());
                    return;
                }
                Ok(Some(Err(_)) | None) | Err(_) => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    pub fn acks(&self) -> usize {
        self.inner.lock().acked.len()
    }

    /// Waits for so many more acks, in virtual time.
    pub async fn progress(&self, more: usize) {
        let goal = self.acks() + more;
        for _ in 0..200_000 {
            if self.acks() >= goal {
                return;
            }
            let refused = self.inner.lock().refused.clone();
            assert_eq!(refused, None, "{} {}", self.topic, self.partition);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("no {more} acks of {} {} in time", self.topic, self.partition);
    }

    pub fn stop(&self) {
        self.inner.lock().stop = true;
    }

    /// Stops, and verifies once what is under way has come to rest.
    pub async fn finish(&self) {
        self.stop();
        tokio::time::sleep(Duration::from_secs(15)).await;
        self.verify().await;
    }

    /// From now on records below `offset` may be gone.
    pub fn deletes_to(&self, offset: u64) {
        let mut inner = self.inner.lock();
        inner.deleted_to = inner.deleted_to.max(offset);
    }

    /// One record of a producer that is silent afterwards; `verify` lets it try again.
    pub async fn whisper(&self) {
        let appended = self.whispered().await.expect("it is appended");
        self.inner.lock().whisper = Some(appended);
    }

    async fn whispered(&self) -> Result<u64, String> {
        let mut builder = BatchBuilder::new(Compression::None);
        let key = Some(WHISPER.to_string().into());
        let timestamp_ms = 1_800_000_000_000;
        builder.push(&RecordData { timestamp_ms, key, ..RecordData::default() });
        let producer_id = self.producer + 500;
        let batch =
            builder.build(Some(ProducerStamp { producer_id, producer_epoch: 0, base_sequence: 0 }));
        let (topic, partition) = (self.topic, self.partition);
        let limit = Duration::from_secs(20);
        let asked = self.cluster.ask(|node| async move {
            let pending = node.append(topic, partition, batch, Acks::All, limit).await?;
            pending.done(&node).await
        });
        match asked.await {
            Some(Ok(appended)) => Ok(appended.base_offset),
            Some(Err(error)) => Err(error.to_string()),
            None => Err("the process died".into()),
        }
    }

    /// Deletes records below an offset that the dice choose.
    pub async fn delete_some(&self, sim: &Sim) {
        let before = sim.below(self.newest() + 1);
        self.deletes_to(before);
        sim.note(format!("{} {}: records below {before} go", self.topic, self.partition));
        let (topic, partition) = (self.topic, self.partition);
        let deleted = self.cluster.ask(|node| async move {
            let led = node.partition(topic, partition)?;
            delete_records(&node, &led, before).await
        });
        // In trouble it may fail, or happen without an answer.
        drop(tokio::time::timeout(Duration::from_secs(20), deleted).await);
    }

    /// From now on the oldest records may be gone where this many bytes are left.
    pub fn retains(&self, bytes: u64) {
        let mut inner = self.inner.lock();
        inner.keeps = Some(inner.keeps.map_or(bytes, |keeps| keeps.min(bytes)));
    }

    /// Offset of the newest acknowledged record.
    pub fn newest(&self) -> u64 {
        self.inner.lock().acked.values().next_back().copied().unwrap_or(0)
    }

    /// Reads everything: each acknowledged record is there once, at its offset, in order; nothing
    /// is gone but what may be.
    pub async fn verify(&self) {
        let found = self.read_all().await;
        self.judge(&found);
        let whisper = self.inner.lock().whisper;
        if let Some(offset) = whisper {
            let again = self.whispered().await;
            let name = format!("{} {}", self.topic, self.partition);
            assert_eq!(again, Ok(offset), "{name}: a silent producer tries again");
        }
    }

    fn judge(&self, found: &Found) {
        let Found { log_start, records, bytes } = found;
        let mut places: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for (offset, number) in records {
            places.entry(*number).or_default().push(*offset);
        }
        let inner = self.inner.lock();
        let name = format!("{} {}", self.topic, self.partition);
        assert_eq!(inner.refused, None);
        let whisper = inner.whisper.iter().map(|offset| (&WHISPER, offset));
        let acked = inner.acked.iter().chain(whisper);
        for (number, offset) in acked.filter(|(_, offset)| *offset >= log_start) {
            assert_eq!(places.get(number), Some(&vec![*offset]), "{name} number {number}");
        }
        assert!(places.values().all(|places| places.len() == 1), "duplicates: {places:?}");
        let numbers = records.iter().map(|(_, number)| *number);
        let numbers: Vec<u64> = numbers.filter(|number| *number != WHISPER).collect();
        assert!(numbers.is_sorted(), "{name}: order {numbers:?}");
        let mut offsets = records.iter().map(|(offset, _)| *offset);
        let dense = *log_start..log_start + records.len() as u64;
        assert!(offsets.by_ref().eq(dense), "{name}: offsets have gaps");
        assert!(!inner.acked.is_empty(), "{name}: nothing was acknowledged");
        let may_start = *log_start <= inner.deleted_to || inner.keeps.is_some_and(|k| k <= *bytes);
        assert!(may_start, "{name} starts at {log_start} with {bytes} bytes left");
    }

    async fn read_all(&self) -> Found {
        let (topic, partition) = (self.topic, self.partition);
        let ladder = self.cluster.ask(move |node| async move {
            node.partition(topic, partition).and_then(|led| led.readable())
        });
        let log_start = ladder.await.expect("it serves").expect("it is led").log_start();
        let mut found = Found { log_start, records: Vec::new(), bytes: 0 };
        let mut offset = log_start;
        loop {
            let (topic, partition) = (self.topic, self.partition);
            let read = self.cluster.ask(|node| async move {
                let led = node.partition(topic, partition)?;
                let fetch = Fetch {
                    offset,
                    max_bytes: 1 << 16,
                    min_bytes: 0,
                    wait: Duration::ZERO,
                    isolation: Isolation::ReadUncommitted,
                };
                node.fetch(&led, &fetch).await
            });
            let read = read.await.expect("it serves").expect("it reads");
            let batches = read.batches.into_bytes();
            let walked = check_run(&batches, |at, header| {
                let batch = batches.slice(at..at + header.bytes as usize);
                found.bytes += batch.len() as u64;
                for record in decode_records(&batch).expect("records") {
                    let key = record.data.key.expect("a key");
                    let text = String::from_utf8(key.to_vec()).expect("text");
                    if record.offset >= offset {
                        found.records.push((record.offset, text.parse().expect("a number")));
                    }
                }
                true
            });
            assert_eq!(walked.expect("whole batches"), batches.len());
            if read.next_offset >= read.high_watermark {
                return found;
            }
            offset = read.next_offset;
        }
    }
}
