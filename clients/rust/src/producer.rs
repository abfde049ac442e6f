//! Appending records: batches by time and size, bytes bounded, retried until acknowledged.
//!
//! Owns: which partition a record goes to and how much may wait. Does not own: what waits for one
//! partition (`lane`), and its order and retries on the wire (`worker`).

mod lane;
mod ticket;
mod together;
mod topic;
mod worker;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use levee_proto::grpc::InitProducerRequest;
use levee_proto::limits::{BATCH_BYTES_MAX, PRODUCER_BATCHES};
use levee_proto::record::batch::{HEADER_BYTES, check};
use levee_proto::record::codecs::Compression;
use levee_proto::record::records::{BatchBuilder, RecordData};
use parking_lot::RwLock;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::admin::within;
use crate::connection::Client;
use crate::error::{Error, Result};
use lane::Lane;
use topic::Topic;
use worker::Worker;

pub use levee_proto::grpc::Acks;
pub use ticket::Ticket;
pub(crate) use together::Together;

/// How a producer gathers, waits and gives up.
#[derive(Debug, Clone)]
pub struct ProducerConfig {
    /// How long the first record of a batch waits for company. Default 5 ms.
    pub linger: Duration,
    /// Bytes of records at which a batch is full. Default 256 KiB.
    pub batch_bytes: usize,
    /// Bytes of the largest batch that is sent, as it goes over the wire: `max.message.bytes` of
    /// the topic, where that is known. A record above it is refused here, and nothing else with it.
    /// Default 64 MiB, what a broker takes at most.
    pub max_batch_bytes: usize,
    /// Bytes of records that may wait for their acks; then `send` waits. Default 32 MiB.
    pub max_unacked_bytes: usize,
    pub compression: Compression,
    /// A retry never duplicates and never reorders. Without it, a record that may have been
    /// written is not sent again: its ticket fails and says so. Default true.
    pub idempotent: bool,
    /// When a record is given up, tries included. Default 120 s.
    pub delivery_timeout: Duration,
    /// How long the broker may take to answer one append before it is asked again. Default 30 s.
    pub request_timeout: Duration,
    pub acks: Acks,
    /// Batches of one partition under way, at most 5 with `idempotent` (what a broker remembers).
    /// Default 5.
    pub max_in_flight: usize,
    /// A record's timestamp of 0 is taken for 1970, not for now: for records that have been in a
    /// log before. Default false.
    pub keep_zero_timestamps: bool,
}

impl Default for ProducerConfig {
    fn default() -> Self {
        Self {
            linger: Duration::from_millis(5),
            batch_bytes: 256 << 10,
            max_batch_bytes: BATCH_BYTES_MAX,
            max_unacked_bytes: 32 << 20,
            compression: Compression::None,
            idempotent: true,
            delivery_timeout: Duration::from_secs(120),
            request_timeout: Duration::from_secs(30),
            acks: Acks::All,
            max_in_flight: PRODUCER_BATCHES,
            keep_zero_timestamps: false,
        }
    }
}

impl ProducerConfig {
    /// Of several records no batch is made that is too large, also of bytes that compression makes
    /// more of: the codecs' frames take some tens of bytes, and some for each 32 KiB.
    fn fitted(self) -> Self {
        const FRAME: usize = 64;
        let max = self.max_batch_bytes;
        let largest = match self.compression {
            Compression::None => max,
            _ => max.saturating_sub(max / 128 + FRAME).max(1),
        };
        Self { batch_bytes: self.batch_bytes.min(largest), ..self }
    }

    pub(crate) fn check(&self) -> Result<()> {
        let wrong = |what: &str| Err(Error::invalid(format!("producer setting {what}")));
        if !(1..=BATCH_BYTES_MAX / 2).contains(&self.batch_bytes) {
            return wrong("batch_bytes must be 1 to 32 MiB");
        }
        if !(1..=BATCH_BYTES_MAX).contains(&self.max_batch_bytes) {
            return wrong("max_batch_bytes must be 1 to 64 MiB");
        }
        if !(1..=u32::MAX as usize).contains(&self.max_unacked_bytes) {
            return wrong("max_unacked_bytes must be 1 to 4 GiB");
        }
        let most = if self.idempotent { PRODUCER_BATCHES } else { 1024 };
        if !(1..=most).contains(&self.max_in_flight) {
            return wrong("max_in_flight must be 1 to 5, or to 1024 without idempotence");
        }
        if self.delivery_timeout.is_zero() || self.request_timeout < Duration::from_millis(1) {
            return wrong("timeouts must not be zero");
        }
        Ok(())
    }
}

/// Cheap to clone. Records of one caller to one partition keep their order. When the last clone is
/// dropped, what was sent goes on in the background until it is acknowledged or given up.
#[derive(Clone)]
pub struct Producer {
    shared: Arc<Shared>,
}

struct Shared {
    client: Client,
    config: Arc<ProducerConfig>,
    room: Arc<Semaphore>,
    /// All partitions begin under this id; one that fails goes on under its own.
    id: Option<ProducerId>,
    together: Option<Arc<Together>>,
    topics: RwLock<BTreeMap<String, Arc<Topic>>>,
}

/// What a broker knows a producer by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ProducerId {
    pub(crate) id: i64,
    pub(crate) epoch: i16,
}

impl Client {
    pub async fn producer(&self, config: ProducerConfig) -> Result<Producer> {
        Producer::open(self.clone(), config).await
    }
}

impl Producer {
    pub(crate) async fn open(client: Client, config: ProducerConfig) -> Result<Self> {
        config.check()?;
        let id = match config.idempotent {
            true => Some(new_id(&client).await?),
            false => None,
        };
        Ok(Self::with(client, config, id, None))
    }

    /// For the records of one transaction.
    pub(crate) fn in_transaction(
        client: Client,
        config: ProducerConfig,
        id: ProducerId,
        together: Arc<Together>,
    ) -> Self {
        Self::with(client, config, Some(id), Some(together))
    }

    fn with(
        client: Client,
        config: ProducerConfig,
        id: Option<ProducerId>,
        together: Option<Arc<Together>>,
    ) -> Self {
        let room = Arc::new(Semaphore::new(config.max_unacked_bytes));
        let topics = RwLock::default();
        let config = Arc::new(config.fitted());
        let shared = Shared { client, config, room, id, together, topics };
        Self { shared: Arc::new(shared) }
    }

    /// Takes a record; waits while too many bytes are unacknowledged. Without `partition` the key
    /// decides as in Kafka's own client; records without a key go in turn, a batch at a time.
    pub async fn send(
        &self,
        topic: &str,
        partition: Option<u32>,
        record: RecordData,
    ) -> Result<Ticket> {
        let bytes = size(&record);
        if bytes > BATCH_BYTES_MAX / 2 {
            return Err(Error::invalid(format!("a record of {bytes} bytes is above 32 MiB")));
        }
        self.check_fits(&record)?;
        let room = self.room(bytes).await?;
        let topic = self.topic(topic);
        let partition = match partition {
            Some(partition) => partition,
            None => topic.choose(&self.shared.client, &record, self.batch_bytes()).await?,
        };
        self.lane(&topic, partition)?.push(&record, room)
    }

    /// Takes one encoded record batch (Kafka record batch v2) as it is; with `idempotent` it is
    /// given a sequence, so it must not carry one. The ticket is for its first record.
    pub async fn send_batch(&self, topic: &str, partition: u32, batch: Bytes) -> Result<Ticket> {
        let header = check(&batch).map_err(|error| Error::invalid(error.to_string()))?;
        if header.is_idempotent() && self.shared.config.idempotent {
            let why = "the batch has a producer id; send it with a producer without `idempotent`";
            return Err(Error::invalid(why));
        }
        let room = self.room(batch.len()).await?;
        let topic = self.topic(topic);
        self.lane(&topic, partition)?.push_batch(batch, header.last_offset_delta + 1, room)
    }

    /// Waits until everything that was sent before is acknowledged or given up; tickets say which.
    pub async fn flush(&self) {
        for outcome in self.lanes().iter().flat_map(|lane| lane.flush()).collect::<Vec<_>>() {
            let _ = outcome.await;
        }
    }

    /// As `flush`; an error where something was not delivered.
    pub(crate) async fn settle(&self) -> Result<()> {
        for outcome in self.lanes().iter().flat_map(|lane| lane.flush()).collect::<Vec<_>>() {
            outcome.await.unwrap_or_else(|_| Err(Error::closed()))?;
        }
        // What was over before.
        let failed = self.shared.together.as_ref().and_then(|together| together.failed());
        failed.map_or(Ok(()), |error| Err(error.clone()))
    }

    /// Takes nothing more, and waits for what was sent; fails what is not acknowledged by then.
    pub async fn close(&self, limit: Duration) -> Result<()> {
        self.shared.room.close();
        let flushed = tokio::time::timeout(limit, self.flush()).await;
        let lanes = self.lanes();
        match flushed {
            Ok(()) => {
                lanes.iter().for_each(|lane| lane.close());
                Ok(())
            }
            Err(_) => {
                let error = Error::timed_out("closing the producer", limit).maybe_written(true);
                lanes.iter().for_each(|lane| lane.abort(&error));
                Err(error)
            }
        }
    }

    /// Compressed it may still fit, which its batch shows.
    fn check_fits(&self, record: &RecordData) -> Result<()> {
        let ProducerConfig { compression, max_batch_bytes, .. } = *self.shared.config;
        let about = HEADER_BYTES + BatchBuilder::bytes_of(record);
        if compression != Compression::None || about <= max_batch_bytes {
            return Ok(());
        }
        let mut alone = BatchBuilder::new(compression);
        alone.push(record);
        match alone.plain_bytes() {
            bytes if bytes > max_batch_bytes => Err(Error::batch_too_large(bytes, max_batch_bytes)),
            _ => Ok(()),
        }
    }

    fn batch_bytes(&self) -> usize {
        self.shared.config.batch_bytes
    }

    async fn room(&self, bytes: usize) -> Result<OwnedSemaphorePermit> {
        let config = &self.shared.config;
        let bytes = bytes.clamp(1, config.max_unacked_bytes) as u32;
        let room = self.shared.room.clone().acquire_many_owned(bytes);
        room.await.map_err(|_| Error::closed())
    }

    fn topic(&self, name: &str) -> Arc<Topic> {
        if let Some(known) = self.shared.topics.read().get(name) {
            return known.clone();
        }
        let mut topics = self.shared.topics.write();
        topics.entry(name.to_owned()).or_insert_with(|| self.new_topic(name)).clone()
    }

    fn new_topic(&self, name: &str) -> Arc<Topic> {
        Arc::new(Topic::new(name, self.shared.together.clone()))
    }

    /// Something was sent, whatever became of it.
    pub(crate) fn is_used(&self) -> bool {
        !self.lanes().is_empty()
    }

    /// Takes nothing more, and fails what is not acknowledged.
    pub(crate) fn abort(&self, error: &Error) {
        self.shared.room.close();
        self.lanes().iter().for_each(|lane| lane.abort(error));
    }

    /// What waits for a partition; the first record to it starts its worker.
    fn lane(&self, topic: &Topic, partition: u32) -> Result<Arc<Lane>> {
        if self.shared.room.is_closed() {
            return Err(Error::closed());
        }
        Ok(topic.lane(
            partition,
            |lane| {
                let (client, config) = (self.shared.client.clone(), self.shared.config.clone());
                tokio::spawn(Worker::new(client, config, self.shared.id, lane).run());
            },
            &self.shared.config,
        ))
    }

    fn lanes(&self) -> Vec<Arc<Lane>> {
        self.shared.topics.read().values().flat_map(|topic| topic.lanes()).collect()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        for topic in self.topics.get_mut().values() {
            topic.lanes().iter().for_each(|lane| lane.close());
        }
    }
}

/// Bytes that a record holds of the bound.
fn size(record: &RecordData) -> usize {
    /// Lengths, deltas, and the bookkeeping of a record that waits.
    const AROUND: usize = 32;
    let len = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
    let headers: usize = record.headers.iter().map(|(key, value)| 8 + key.len() + len(value)).sum();
    AROUND + len(&record.key) + len(&record.value) + headers
}

async fn new_id(client: &Client) -> Result<ProducerId> {
    const LIMIT: Duration = Duration::from_secs(10);
    let mut log = client.log();
    let asked = log.init_producer(InitProducerRequest {});
    let got = within(LIMIT, "getting a producer id", asked).await?;
    let epoch = i16::try_from(got.producer_epoch);
    let epoch = epoch.map_err(|_| Error::connection("the broker gave an impossible epoch"))?;
    Ok(ProducerId { id: got.producer_id, epoch })
}

/// Saturating: a limit of years must not overflow the clock.
fn after(limit: Duration) -> Instant {
    const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
    Instant::now() + limit.min(YEAR)
}
