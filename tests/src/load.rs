//! A load that remembers every ack, and the judgement of what the log holds.
//!
//! In the manner of Jepsen's Kafka workload: unique values, their outcomes, and what reads show.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use levee_client::grpc::CreateTopicRequest;
use levee_client::{Client, Position, Producer, ProducerConfig, ReadConfig, RecordData};
use levee_proto::crc::crc32c;
use levee_proto::record::batch::check_run;
use levee_proto::record::records::decode_records;
use parking_lot::Mutex;
use tokio::task::JoinHandle;

/// Makes a topic with these settings.
pub async fn create(client: &Client, name: &str, partitions: u32, config: &[(&str, &str)]) {
    let config = config.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let request = CreateTopicRequest { name: name.into(), partitions, config };
    client.admin().create_topic(request).await.expect("the topic is made");
}

/// What was sent to one partition, by number.
#[derive(Default)]
struct Sent {
    /// Number to offset and checksum.
    acked: BTreeMap<u64, (u64, u32)>,
    /// Definitely or maybe not written.
    refused: BTreeMap<u64, String>,
}

/// See the module.
#[derive(Clone)]
pub struct Load {
    inner: Arc<Inner>,
}

struct Inner {
    topic: String,
    partitions: Vec<Mutex<Sent>>,
    acks: AtomicU64,
    stop: AtomicBool,
}

/// What the log holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Findings {
    pub acked: u64,
    pub found: u64,
    /// The first examples of what is wrong.
    pub wrong: Vec<String>,
}

impl Load {
    pub fn new(topic: &str, partitions: u32) -> Self {
        let inner = Inner {
            topic: topic.to_owned(),
            partitions: (0..partitions).map(|_| Mutex::default()).collect(),
            acks: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        };
        Self { inner: Arc::new(inner) }
    }

    /// One task for each partition sends numbered records until `stop`, as fast as acks come.
    pub async fn start(&self, client: &Client) -> Vec<JoinHandle<()>> {
        let config = ProducerConfig {
            linger: Duration::from_millis(2),
            batch_bytes: 16 << 10,
            max_unacked_bytes: 1 << 20,
            ..ProducerConfig::default()
        };
        let producer = client.producer(config).await.expect("a producer");
        let count = self.inner.partitions.len() as u32;
        let send = |partition| tokio::spawn(self.clone().send(producer.clone(), partition));
        (0..count).map(send).collect()
    }

    async fn send(self, producer: Producer, partition: u32) {
        let inner = &self.inner;
        let mut number = 0u64;
        let mut waits = Vec::new();
        while !inner.stop.load(Ordering::Relaxed) {
            let value = vec![number as u8; 50 + (number % 700) as usize];
            let crc = crc32c(&value);
            let record = RecordData {
                key: Some(number.to_string().into()),
                value: Some(value.into()),
                ..RecordData::default()
            };
            let ticket = producer.send(&inner.topic, Some(partition), record).await;
            let ticket = ticket.expect("a record is taken");
            let load = self.clone();
            waits.push(tokio::spawn(async move {
                let outcome = ticket.await;
                let mut sent = load.inner.partitions[partition as usize].lock();
                match outcome {
                    Ok(offset) => {
                        sent.acked.insert(number, (offset, crc));
                        load.inner.acks.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(error) => drop(sent.refused.insert(number, error.to_string())),
                }
            }));
            number += 1;
            if number.is_multiple_of(64) {
                tokio::task::yield_now().await;
            }
        }
        for wait in waits {
            wait.await.expect("a ticket is told");
        }
    }

    pub fn acks(&self) -> u64 {
        self.inner.acks.load(Ordering::Relaxed)
    }

    /// Records that were not acknowledged, and why the first one was not.
    pub fn refused(&self) -> (usize, Option<String>) {
        let mut count = 0;
        let mut first = None;
        for partition in &self.inner.partitions {
            let sent = partition.lock();
            count += sent.refused.len();
            first = first.or_else(|| sent.refused.values().next().cloned());
        }
        (count, first)
    }

    /// Waits for so many more acks.
    pub async fn progress(&self, more: u64) {
        let goal = self.acks() + more;
        let started = tokio::time::Instant::now();
        while self.acks() < goal {
            let late = started.elapsed() > Duration::from_secs(60);
            assert!(!late, "{more} more acks within 60 s: {} of {goal}", self.acks());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Tells the tasks to end; nobody waits for them.
    pub fn stop_now(&self) {
        self.inner.stop.store(true, Ordering::Relaxed);
    }

    pub async fn stop(&self, tasks: Vec<JoinHandle<()>>) {
        self.inner.stop.store(true, Ordering::Relaxed);
        for task in tasks {
            task.await.expect("a load ends");
        }
    }

    /// Reads everything and compares; `tasks` must have ended.
    pub async fn check(&self, client: &Client) -> Findings {
        let mut findings = Findings::default();
        for partition in 0..self.inner.partitions.len() as u32 {
            let found = read_all(client, &self.inner.topic, partition).await;
            let sent = self.inner.partitions[partition as usize].lock();
            judge(partition, &sent, &found, &mut findings);
        }
        findings
    }

    /// As `check`, and nothing may be wrong.
    pub async fn verify(&self, client: &Client) -> Findings {
        let findings = self.check(client).await;
        assert!(findings.wrong.is_empty(), "{findings:#?}");
        assert!(findings.acked > 0, "something was acknowledged");
        findings
    }
}

type Found = Vec<(u64, u64, u32)>;

/// Offset, number and checksum of every record.
pub async fn read_all(client: &Client, topic: &str, partition: u32) -> Found {
    let from = Position::Start;
    let reader = client.read(topic, partition, from, ReadConfig::default()).await;
    let mut reader = reader.expect("a reader");
    let mut found = Vec::new();
    loop {
        let from = reader.offset();
        let batches = reader.next_batches().await.expect("batches");
        let bytes = batches.bytes.clone();
        let whole = check_run(&bytes, |at, header| {
            let batch = bytes.slice(at..at + header.bytes as usize);
            for record in decode_records(&batch).expect("records decode") {
                let key = record.data.key.expect("a key");
                let number = std::str::from_utf8(&key).expect("text").parse().expect("a number");
                if record.offset >= from {
                    let value = record.data.value.unwrap_or_default();
                    found.push((record.offset, number, crc32c(&value)));
                }
            }
            true
        });
        assert_eq!(whole.expect("batches are whole"), bytes.len());
        if batches.next_offset >= batches.high_watermark {
            return found;
        }
    }
}

fn judge(partition: u32, sent: &Sent, found: &Found, findings: &mut Findings) {
    let mut wrong = |what: String| {
        if findings.wrong.len() < 20 {
            findings.wrong.push(format!("partition {partition}: {what}"));
        }
    };
    let mut by_number: BTreeMap<u64, Vec<(u64, u32)>> = BTreeMap::new();
    let mut newest = None;
    let mut last_offset = None;
    for (offset, number, crc) in found {
        by_number.entry(*number).or_default().push((*offset, *crc));
        if newest.is_some_and(|newest| newest > *number) {
            wrong(format!("number {number} at {offset} comes after {newest:?}"));
        }
        if last_offset.is_some_and(|last: u64| last + 1 != *offset) {
            wrong(format!("offset {offset} follows {last_offset:?}"));
        }
        newest = newest.max(Some(*number));
        last_offset = Some(*offset);
    }
    for (number, places) in &by_number {
        if places.len() > 1 {
            wrong(format!("number {number} is at {places:?}"));
        }
    }
    for (number, place) in &sent.acked {
        match by_number.get(number).and_then(|places| places.first()) {
            None => wrong(format!("number {number} was acked at {} and is lost", place.0)),
            Some(there) if there != place => {
                wrong(format!("number {number} was acked as {place:?} and is {there:?}"));
            }
            Some(_) => {}
        }
    }
    findings.acked += sent.acked.len() as u64;
    findings.found += found.len() as u64;
}
