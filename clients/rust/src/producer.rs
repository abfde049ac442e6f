//! Appending records: batches by time and size, bytes bounded, retried until acknowledged.
//!
//! Owns: which partition a record goes to and how much may wait. Does not own: the order and the
//! retries of one partition (`worker`).

mod worker;

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use levee_proto::grpc::InitProducerRequest;
use levee_proto::record::codecs::Compression;
use levee_proto::record::records::RecordData;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::connection::Client;
use crate::error::{Error, Result};
use crate::partitioner::by_key;
use worker::{Item, Worker};

/// How a producer gathers and gives up.
#[derive(Debug, Clone)]
pub struct ProducerConfig {
    /// How long the first record of a batch waits for company. Default 5 ms.
    pub linger: Duration,
    /// Bytes of records at which a batch is full. Default 256 KiB.
    pub batch_bytes: usize,
    /// Bytes of records that may wait for their acks; then `send` waits. Default 32 MiB.
    pub max_unacked_bytes: usize,
    pub compression: Compression,
    /// A retry never duplicates. Default true.
    pub idempotent: bool,
    /// When a record is given up, tries included. Default 120 s.
    pub delivery_timeout: Duration,
}

impl Default for ProducerConfig {
    fn default() -> Self {
        Self {
            linger: Duration::from_millis(5),
            batch_bytes: 256 << 10,
            max_unacked_bytes: 32 << 20,
            compression: Compression::None,
            idempotent: true,
            delivery_timeout: Duration::from_secs(120),
        }
    }
}

/// Resolves to the record's offset once it is as durable as its topic's class says.
pub struct Ticket(oneshot::Receiver<Result<u64>>);

impl Future for Ticket {
    type Output = Result<u64>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|told| told.unwrap_or_else(|_| Err(Error::closed())))
    }
}

/// Cheap to clone. Records of one caller to one partition keep their order.
#[derive(Clone)]
pub struct Producer {
    shared: Arc<Shared>,
}

struct Shared {
    client: Client,
    config: ProducerConfig,
    room: Arc<Semaphore>,
    producer_id: Option<i64>,
    partitions: Mutex<BTreeMap<String, u32>>,
    workers: Mutex<BTreeMap<(String, u32), mpsc::UnboundedSender<Item>>>,
    turn: AtomicU32,
}

impl Producer {
    pub(crate) async fn open(client: Client, config: ProducerConfig) -> Result<Self> {
        let producer_id = match config.idempotent {
            true => Some(new_id(&client).await?),
            false => None,
        };
        let room = Arc::new(Semaphore::new(config.max_unacked_bytes.max(1)));
        let shared = Shared {
            client,
            config,
            room,
            producer_id,
            partitions: Mutex::default(),
            workers: Mutex::default(),
            turn: AtomicU32::new(0),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Takes a record; its time is now where it has none (0). Waits while too many bytes are unacknowledged. Without `partition` the key
    /// decides, or it goes in turn.
    pub async fn send(
        &self,
        topic: &str,
        partition: Option<u32>,
        record: RecordData,
    ) -> Result<Ticket> {
        let shared = &self.shared;
        let bytes = size(&record).min(shared.config.max_unacked_bytes.max(1)) as u32;
        let room = shared.room.clone().acquire_many_owned(bytes).await;
        let room = room.map_err(|_| Error::closed())?;
        let partition = match partition {
            Some(partition) => partition,
            None => self.choose(topic, &record).await?,
        };
        let mut record = record;
        if record.timestamp_ms == 0 {
            record.timestamp_ms = now_ms();
        }
        let (told, ticket) = oneshot::channel();
        let item = Item::Record { record, told, room };
        self.worker(topic, partition).send(item).map_err(|_| Error::closed())?;
        Ok(Ticket(ticket))
    }

    async fn choose(&self, topic: &str, record: &RecordData) -> Result<u32> {
        let known = self.shared.partitions.lock().get(topic).copied();
        let count = match known {
            Some(count) => count,
            None => {
                let count = self.shared.client.partitions(topic).await?.max(1);
                self.shared.partitions.lock().insert(topic.to_owned(), count);
                count
            }
        };
        Ok(match &record.key {
            Some(key) => by_key(key, count),
            None => self.shared.turn.fetch_add(1, Ordering::Relaxed) % count,
        })
    }

    fn worker(&self, topic: &str, partition: u32) -> mpsc::UnboundedSender<Item> {
        let mut workers = self.shared.workers.lock();
        let key = (topic.to_owned(), partition);
        if let Some(known) = workers.get(&key).filter(|known| !known.is_closed()) {
            return known.clone();
        }
        let (send, receive) = mpsc::unbounded_channel();
        let (client, config) = (self.shared.client.clone(), self.shared.config.clone());
        let id = self.shared.producer_id;
        tokio::spawn(Worker::new(client, config, id, key.clone(), receive).run());
        workers.insert(key, send.clone());
        send
    }

    /// Waits until everything that was sent before is acknowledged or given up.
    pub async fn flush(&self) {
        let waits: Vec<_> = {
            let workers = self.shared.workers.lock();
            let ask = |worker: &mpsc::UnboundedSender<Item>| {
                let (done, wait) = oneshot::channel();
                worker.send(Item::Flush(done)).is_ok().then_some(wait)
            };
            workers.values().filter_map(ask).collect()
        };
        for wait in waits {
            let _ = wait.await;
        }
    }
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Bytes that a record holds of the bound.
fn size(record: &RecordData) -> usize {
    let len = |bytes: &Option<bytes::Bytes>| bytes.as_ref().map_or(0, bytes::Bytes::len);
    let headers: usize = record.headers.iter().map(|(key, value)| key.len() + len(value)).sum();
    32 + len(&record.key) + len(&record.value) + headers
}

pub(crate) async fn new_id(client: &Client) -> Result<i64> {
    let answer = client.log().init_producer(InitProducerRequest {}).await?;
    Ok(answer.into_inner().producer_id)
}
