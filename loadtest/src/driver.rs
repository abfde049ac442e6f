//! What a load is driven through: one trait, so that other protocols can be driven too.
//!
//! Its unit is the encoded record batch (Kafka record batch v2), which Levee's own protocol and
//! Kafka's both carry as it is.

#[cfg(test)]
pub mod fake;
pub mod levee;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use tokio::sync::mpsc;

use crate::error::Result;
use crate::workload::ClientKind;

/// See the module.
#[async_trait]
pub trait Driver: Send + Sync + 'static {
    async fn create_topic(
        &self,
        name: &str,
        partitions: u32,
        settings: &BTreeMap<String, String>,
    ) -> Result<()>;

    async fn delete_topic(&self, name: &str) -> Result<()>;

    /// The topic's settings as the target says them, defaults included.
    async fn settings_of(&self, topic: &str) -> Result<BTreeMap<String, String>>;

    /// Opens the way for one producer. Sends of one partition arrive in their order.
    async fn link(&self, connection: u32, kind: ClientKind, depth: usize) -> Result<Link>;

    /// Reads a partition on from its start.
    async fn read(&self, connection: u32, topic: &str, partition: u32) -> Result<Box<dyn Source>>;

    /// The offset behind the newest record that can be read.
    async fn end(&self, topic: &str, partition: u32) -> Result<u64>;

    /// Everything of the topic goes to the bucket, and its local copies go.
    async fn make_cold(&self, topic: &str) -> Result<()>;
}

/// One producer's way to the target. Ends when `sends` is dropped and all answers are there.
pub struct Link {
    /// Has room for `depth` sends.
    pub sends: mpsc::Sender<Shipment>,
    /// An error is about all sends without an answer: their outcome is unknown.
    pub acks: BoxStream<'static, Result<Ack>>,
}

/// One send.
#[derive(Debug)]
pub struct Shipment {
    /// Grows from one send of a link to the next; comes back in the ack.
    pub id: u64,
    pub topic: Arc<str>,
    pub partition: u32,
    pub batch: Bytes,
}

/// The answer to one send.
#[derive(Debug)]
pub struct Ack {
    pub id: u64,
    /// Why it was not acknowledged; it may have been written.
    pub refused: Option<String>,
}

/// A partition that is read.
#[async_trait]
pub trait Source: Send {
    /// Whole record batches with right checksums, none below what was given before; an answer
    /// without bytes is a sign of life. Never waits longer than some seconds.
    async fn next(&mut self) -> Result<Bytes>;

    /// The offset that comes next.
    fn offset(&self) -> u64;
}
