//! The Levee client: appending with batching, back-pressure, retries and idempotence; reading with
//! credits and resumption; groups of consumers; transactions; administration.
//!
//! Owns: the public protocol from a client's side. Does not own: anything of a broker.
//!
//! ```no_run
//! # async fn example() -> Result<(), levee_client::Error> {
//! use levee_client::{Client, Position, ProducerConfig, ReadConfig, RecordData};
//!
//! let client = Client::connect("http://127.0.0.1:9644").await?;
//! let producer = client.producer(ProducerConfig::default()).await?;
//! let record = RecordData { value: Some("hello".into()), ..RecordData::default() };
//! let ticket = producer.send("events", Some(0), record).await?;
//! println!("at offset {}", ticket.await?);
//! let mut reader = client.read("events", 0, Position::Start, ReadConfig::default()).await?;
//! let first = reader.next().await?;
//! # Ok(()) }
//! ```

// A client runs on tokio itself: no simulated world here.
#![allow(clippy::disallowed_methods)]

mod error;
mod backoff;
mod trouble;
mod connection;
mod seat;
mod admin;
mod consumer;
mod groups;
mod offsets;
mod partitioner;
mod producer;
mod reader;
mod transactions;

pub use admin::Admin;
pub use connection::Client;
pub use consumer::{Consumer, ConsumerConfig, Event, Membership, Records};
pub use error::{Error, ErrorKind};
pub use levee_proto::grpc;
pub use levee_proto::record::codecs::Compression;
pub use levee_proto::record::records::{DecodedRecord, RecordData};
pub use offsets::{Offsets, TopicIds, TopicPartition};
pub use partitioner::by_key as partition_of_key;
pub use producer::{Acks, Producer, ProducerConfig, Ticket};
pub use reader::{Batches, Position, ReadConfig, Reader};
pub use transactions::{Transaction, TransactionConfig, TransactionalProducer};
