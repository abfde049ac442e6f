//! Levee's own protocol.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use levee_client::grpc::AppendRequest;
use levee_client::grpc::list_offsets_request::At;
use levee_client::{Client, Position, Producer, ProducerConfig, ReadConfig, Reader};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{Ack, Driver, Link, Shipment, Source};
use crate::error::{Error, Result};
use crate::workload::ClientKind;

/// An upload of everything that waits.
const FLUSH_LIMIT: Duration = Duration::from_secs(3600);
/// How long the broker may take to accept a stream.
const OPEN_LIMIT: Duration = Duration::from_secs(10);
/// Acks that wait to be looked at.
const ACKS: usize = 1024;

/// See the module.
pub struct Levee {
    /// One connection each.
    clients: Vec<Client>,
}

impl Levee {
    pub async fn connect(address: &str, connections: u32) -> Result<Self> {
        let mut clients = Vec::new();
        for _ in 0..connections.max(1) {
            clients.push(Client::connect(address).await?);
        }
        Ok(Self { clients })
    }

    pub fn client(&self, connection: u32) -> &Client {
        &self.clients[connection as usize % self.clients.len()]
    }
}

#[async_trait]
impl Driver for Levee {
    async fn create_topic(
        &self,
        name: &str,
        partitions: u32,
        settings: &BTreeMap<String, String>,
    ) -> Result<()> {
        self.client(0).manage().create_topic(name, partitions, settings.clone()).await?;
        Ok(())
    }

    async fn delete_topic(&self, name: &str) -> Result<()> {
        self.client(0).manage().delete_topic(name).await?;
        Ok(())
    }

    async fn settings_of(&self, topic: &str) -> Result<BTreeMap<String, String>> {
        let topic = self.client(0).manage().describe_topic(topic).await?;
        Ok(topic.config.into_iter().map(|setting| (setting.name, setting.value)).collect())
    }

    async fn link(&self, connection: u32, kind: ClientKind, depth: usize) -> Result<Link> {
        let client = self.client(connection);
        match kind {
            ClientKind::Stream => stream(client, depth).await,
            ClientKind::Library => library(client, depth).await,
        }
    }

    async fn read(&self, connection: u32, topic: &str, partition: u32) -> Result<Box<dyn Source>> {
        let client = self.client(connection);
        let reader = client.read(topic, partition, Position::Start, ReadConfig::default()).await?;
        Ok(Box::new(Tailing { reader }))
    }

    async fn end(&self, topic: &str, partition: u32) -> Result<u64> {
        let asked = self.client(0).manage().list_offsets(topic, partition, At::End(true)).await?;
        asked.offset.ok_or_else(|| Error::failed("the broker gave no end of a partition"))
    }

    async fn make_cold(&self, topic: &str) -> Result<()> {
        self.client(0).manage().flush(Some(topic), true, FLUSH_LIMIT).await?;
        Ok(())
    }
}

/// One append stream, nothing in between and nothing retried.
async fn stream(client: &Client, depth: usize) -> Result<Link> {
    let (sends, shipments) = mpsc::channel::<Shipment>(depth);
    let requests = ReceiverStream::new(shipments).map(|shipment| AppendRequest {
        id: shipment.id,
        topic: shipment.topic.to_string(),
        partition: shipment.partition,
        batch: shipment.batch,
        ..AppendRequest::default()
    });
    let mut log = client.log();
    let opened = tokio::time::timeout(OPEN_LIMIT, log.append_stream(requests)).await;
    let late = |_| Error::failed(format!("opening an append stream took over {OPEN_LIMIT:?}"));
    let answers = opened.map_err(late)?.map_err(levee_client::Error::from)?.into_inner();
    let acks = answers.map(|answer| {
        let answer = answer.map_err(levee_client::Error::from)?;
        let refused = answer.error.map(|detail| detail.message);
        Ok(Ack { id: answer.id, refused })
    });
    Ok(Link { sends, acks: acks.boxed() })
}

/// The client library's producer: idempotent, and it retries.
async fn library(client: &Client, depth: usize) -> Result<Link> {
    let config = ProducerConfig { linger: Duration::ZERO, ..ProducerConfig::default() };
    let producer = client.producer(config).await?;
    let (sends, shipments) = mpsc::channel(depth);
    let (told, acks) = mpsc::channel(ACKS);
    tokio::spawn(ship(producer, shipments, told));
    Ok(Link { sends, acks: ReceiverStream::new(acks).boxed() })
}

async fn ship(
    producer: Producer,
    mut shipments: mpsc::Receiver<Shipment>,
    told: mpsc::Sender<Result<Ack>>,
) {
    let mut tickets = FuturesUnordered::new();
    let mut open = true;
    while open || !tickets.is_empty() {
        tokio::select! {
            biased;
            Some(ack) = tickets.next(), if !tickets.is_empty() => {
                if told.send(Ok(ack)).await.is_err() {
                    return;
                }
            }
            shipment = shipments.recv(), if open => {
                let Some(Shipment { id, topic, partition, batch }) = shipment else {
                    open = false;
                    continue;
                };
                let sent = producer.send_batch(&topic, partition, batch).await;
                tickets.push(async move {
                    let outcome = match sent {
                        Ok(ticket) => ticket.await.map(drop),
                        Err(error) => Err(error),
                    };
                    Ack { id, refused: outcome.err().map(|error| error.to_string()) }
                });
            }
        }
    }
}

struct Tailing {
    reader: Reader,
}

#[async_trait]
impl Source for Tailing {
    async fn next(&mut self) -> Result<Bytes> {
        Ok(self.reader.next_batches().await?.bytes)
    }

    fn offset(&self) -> u64 {
        self.reader.offset()
    }
}

/// A topic name from any text: what is not allowed becomes `-`.
pub fn topic_name(text: &str) -> Arc<str> {
    let allowed = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' };
    text.chars().map(allowed).take(200).collect::<String>().into()
}
