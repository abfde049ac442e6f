//! Simulated brokers, and a load on them that remembers every ack.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use levee_broker::beside::beside;
use levee_broker::config::BrokerConfig;
use levee_broker::fetch::Fetch;
use levee_broker::node::Node;
use levee_broker::node::start::{Started, start};
use levee_broker::produce::Acks;
use levee_proto::record::batch::check_run;
use levee_proto::record::codecs::Compression;
use levee_proto::record::records::{BatchBuilder, ProducerStamp, RecordData, decode_records};
use levee_runtime::sim::{Sim, SimHost};
use levee_tiering::store::{Deadlines, Store};
use parking_lot::Mutex;

use super::store::SimStore;

/// The broker that clients reach: one address, whoever is behind it.
#[derive(Clone)]
pub struct Cluster {
    pub sim: Sim,
    pub bucket: SimStore,
    settings: Arc<Vec<(String, String)>>,
    serving: Arc<Mutex<Option<Arc<Node>>>>,
}

impl Cluster {
    pub fn new(sim: &Sim, settings: &[(&str, &str)]) -> Self {
        let settings = settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Self {
            sim: sim.clone(),
            bucket: SimStore::new(sim),
            settings: Arc::new(settings),
            serving: Arc::default(),
        }
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
        let config = BrokerConfig::dev(Path::new("/data"), &set).expect("settings hold");
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
            base_sequence: number as i32,
        }))
    }

    async fn run(self) {
        let mut number = 0;
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

    /// Reads everything: each acknowledged record is there once, at its offset, in order.
    pub async fn verify(&self) {
        let found = self.read_all().await;
        let mut places: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for (offset, number) in &found {
            places.entry(*number).or_default().push(*offset);
        }
        let inner = self.inner.lock();
        assert_eq!(inner.refused, None);
        for (number, offset) in &inner.acked {
            assert_eq!(places.get(number), Some(&vec![*offset]), "{} number {number}", self.topic);
        }
        assert!(places.values().all(|places| places.len() == 1), "duplicates: {places:?}");
        let numbers: Vec<u64> = found.iter().map(|(_, number)| *number).collect();
        assert!(numbers.is_sorted(), "{}: order {numbers:?}", self.topic);
        let dense = found.windows(2).all(|pair| pair[0].0 + 1 == pair[1].0);
        assert!(dense, "{}: offsets have gaps", self.topic);
        assert!(!inner.acked.is_empty(), "{}: nothing was acknowledged", self.topic);
    }

    async fn read_all(&self) -> Vec<(u64, u64)> {
        let mut found = Vec::new();
        let mut offset = 0;
        loop {
            let (topic, partition) = (self.topic, self.partition);
            let read = self.cluster.ask(|node| async move {
                let led = node.partition(topic, partition)?;
                let fetch =
                    Fetch { offset, max_bytes: 1 << 16, min_bytes: 0, wait: Duration::ZERO };
                node.fetch(&led, &fetch).await
            });
            let read = read.await.expect("it serves").expect("it reads");
            let walked = check_run(&read.batches, |at, header| {
                let batch = read.batches.slice(at..at + header.bytes as usize);
                for record in decode_records(&batch).expect("records") {
                    let key = record.data.key.expect("a key");
                    let text = String::from_utf8(key.to_vec()).expect("text");
                    if record.offset >= offset {
                        found.push((record.offset, text.parse().expect("a number")));
                    }
                }
                true
            });
            assert_eq!(walked.expect("whole batches"), read.batches.len());
            if read.next_offset >= read.high_watermark {
                return found;
            }
            offset = read.next_offset;
        }
    }
}
