//! A Kafka client that says exactly what a test wants it to say.

use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use levee_kafka::frame::{self, Header};
use levee_kafka::messages::ApiKey;
use levee_kafka::messages::create_topics_request::{
    CreatableTopic, CreatableTopicConfig, CreateTopicsRequest,
};
use levee_kafka::messages::fetch_request::{FetchPartition, FetchRequest, FetchTopic};
use levee_kafka::messages::fetch_response::PartitionData;
use levee_kafka::messages::produce_request::{
    PartitionProduceData, ProduceRequest, TopicProduceData,
};
use levee_kafka::messages::produce_response::PartitionProduceResponse;
use levee_kafka::{Api, Message, Reader, Request};
use levee_proto::record::BatchHeader;
use levee_proto::record::codecs::Compression;
use levee_proto::record::records::{BatchBuilder, ProducerStamp, RecordData};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longer than any answer should take.
const LIMIT: Duration = Duration::from_secs(60);

/// One connection.
pub struct Wire {
    address: String,
    stream: TcpStream,
    next: AtomicI32,
}

impl Wire {
    pub async fn connect(address: &str) -> Self {
        let stream = TcpStream::connect(address).await.expect("the broker listens");
        stream.set_nodelay(true).expect("a TCP socket");
        Self { address: address.to_owned(), stream, next: AtomicI32::new(1) }
    }

    /// Sends a request and leaves its answer for later; returns its correlation number.
    pub async fn send<R: Request>(&mut self, version: i16, request: &R) -> i32 {
        let correlation = self.next.fetch_add(1, Ordering::Relaxed);
        let client_id = Some("test".to_owned());
        let header = Header { key: R::KEY, version, correlation, client_id };
        let bytes = frame::request(&header, request).concat();
        self.stream.write_all(&bytes).await.expect("the connection is open");
        correlation
    }

    pub async fn send_raw(&mut self, bytes: &[u8]) {
        // The broker may have closed it already.
        let _ = self.stream.write_all(bytes).await;
    }

    /// The next answer, whole; nothing where the broker closed the connection.
    pub async fn receive_raw(&mut self) -> Option<Bytes> {
        let read = async {
            let length = self.stream.read_i32().await.ok()?;
            let mut bytes = vec![0; length as usize];
            self.stream.read_exact(&mut bytes).await.ok()?;
            Some(Bytes::from(bytes))
        };
        tokio::time::timeout(LIMIT, read).await.expect("an answer in time")
    }

    /// Asks until there is an answer, over new connections where the broker closes one: as clients do.
    pub async fn insist<R: Request>(&mut self, version: i16, request: &R) -> R::Response {
        for _ in 0..10 {
            let sent = self.send(version, request).await;
            if let Some(bytes) = self.receive_raw().await {
                let (correlation, response) = decode::<R>(version, bytes);
                assert_eq!(correlation, sent, "answers come in the order of requests");
                return response;
            }
            *self = Self::connect(&self.address).await;
        }
        panic!("the broker closes every connection");
    }

    /// The next answer, which is that to a request of type `R`.
    pub async fn receive<R: Request>(&mut self, version: i16) -> (i32, R::Response) {
        let bytes = self.receive_raw().await.expect("the connection is open");
        decode::<R>(version, bytes)
    }

    pub async fn ask<R: Request>(&mut self, version: i16, request: &R) -> R::Response {
        let sent = self.send(version, request).await;
        let (correlation, response) = self.receive::<R>(version).await;
        assert_eq!(correlation, sent, "answers come in the order of requests");
        response
    }

    /// Whether the broker closes the connection without another word.
    pub async fn is_closed(&mut self) -> bool {
        self.receive_raw().await.is_none()
    }

    pub async fn create(&mut self, name: &str, partitions: i32, configs: &[(&str, &str)]) {
        let config = |(name, value): &(&str, &str)| CreatableTopicConfig {
            name: (*name).to_owned(),
            value: Some((*value).to_owned()),
        };
        let topic = CreatableTopic {
            name: name.to_owned(),
            num_partitions: partitions,
            replication_factor: -1,
            configs: configs.iter().map(config).collect(),
            ..Default::default()
        };
        let request =
            CreateTopicsRequest { topics: vec![topic], timeout_ms: 30_000, ..Default::default() };
        let answer = self.ask(7, &request).await;
        assert_eq!(answer.topics[0].error_code, 0, "{answer:?}");
    }

    /// Appends one batch; version 12, acks of all.
    pub async fn produce(
        &mut self,
        topic: &str,
        partition: i32,
        batch: Bytes,
    ) -> PartitionProduceResponse {
        let mut answer = self.ask(12, &produce(topic, partition, batch, -1)).await;
        answer.responses.remove(0).partition_responses.remove(0)
    }

    /// Data batches of a partition from an offset on as a client finds them that knows batches
    /// only, and the end.
    pub async fn read_from(
        &mut self,
        topic: &str,
        partition: i32,
        mut offset: i64,
    ) -> (Vec<BatchHeader>, i64) {
        let mut batches = Vec::new();
        loop {
            let found = self.fetch(topic, partition, offset).await;
            assert_eq!(found.error_code, 0, "{topic} from {offset}");
            let bytes = found.records.map(|records| records.into_bytes()).unwrap_or_default();
            let mut at = 0;
            while at < bytes.len() {
                let header = BatchHeader::decode(&bytes[at..]).unwrap();
                assert!(header.end_offset() as i64 > offset, "{topic}: a batch below {offset}");
                (at, offset) = (at + header.bytes as usize, header.end_offset() as i64);
                if !header.is_control() {
                    batches.push(header);
                }
            }
            if bytes.is_empty() {
                assert_eq!(offset, found.high_watermark, "{topic}: stuck");
                return (batches, offset);
            }
        }
    }

    /// Reads one partition without a session; version 12.
    pub async fn fetch(&mut self, topic: &str, partition: i32, offset: i64) -> PartitionData {
        let mut answer = self.ask(12, &fetch(topic, partition, offset)).await;
        answer.responses.remove(0).partitions.remove(0)
    }
}

fn decode<R: Request>(version: i16, bytes: Bytes) -> (i32, R::Response) {
    let mut r = Reader::new(bytes);
    let correlation = r.i32().unwrap();
    let flexible = Api::of(R::KEY).is_some_and(|api| api.is_flexible(version));
    if flexible && R::KEY != ApiKey::ApiVersions as i16 {
        r.tags(|_, _| Ok(false)).unwrap();
    }
    let response = R::Response::decode(&mut r, version).unwrap();
    r.end().unwrap();
    (correlation, response)
}

pub fn produce(topic: &str, index: i32, batch: Bytes, acks: i16) -> ProduceRequest {
    let partition = PartitionProduceData { index, records: Some(batch.into()) };
    let topic = TopicProduceData {
        name: topic.to_owned(),
        partition_data: vec![partition],
        ..Default::default()
    };
    ProduceRequest { acks, timeout_ms: 30_000, topic_data: vec![topic], ..Default::default() }
}

/// Of one partition, without a session and without waiting.
pub fn fetch(topic: &str, partition: i32, fetch_offset: i64) -> FetchRequest {
    let partition = FetchPartition {
        partition,
        fetch_offset,
        partition_max_bytes: 1 << 20,
        ..Default::default()
    };
    let topic =
        FetchTopic { topic: topic.to_owned(), partitions: vec![partition], ..Default::default() };
    FetchRequest { min_bytes: 1, topics: vec![topic], ..Default::default() }
}

/// A batch of so many records.
pub fn batch(records: usize) -> Bytes {
    let values: Vec<String> = (0..records).map(|n| format!("value {n}")).collect();
    batch_of(values.iter().map(|value| (None, Some(value.as_str()))), None)
}

/// Of an idempotent producer.
pub fn stamped(records: usize, producer_id: i64, producer_epoch: i16, base_sequence: i32) -> Bytes {
    let values: Vec<String> = (0..records).map(|n| format!("value {n}")).collect();
    let stamp = ProducerStamp { producer_id, producer_epoch, base_sequence };
    batch_of(values.iter().map(|value| (None, Some(value.as_str()))), Some(stamp))
}

pub fn batch_of<'a>(
    records: impl Iterator<Item = (Option<&'a str>, Option<&'a str>)>,
    producer: Option<ProducerStamp>,
) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    for (key, value) in records {
        let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        builder.push(&RecordData {
            timestamp_ms: 1_700_000_000_000,
            key: key.map(bytes),
            value: value.map(bytes),
            ..RecordData::default()
        });
    }
    builder.build(producer)
}
