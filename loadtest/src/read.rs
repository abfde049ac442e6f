//! Reads: all partitions side by side, raw batches.

use std::time::Instant;

use levee_client::{Client, Position, ReadConfig};

use crate::Error;
use crate::broker::Broker;
use crate::report::Row;

/// From the start to the end.
pub async fn all(
    client: &Client,
    topic: &str,
    partitions: u32,
    broker: &Broker,
) -> Result<Row, Error> {
    from(client, topic, partitions, broker, |_| Position::Start).await
}

/// The newest twentieth: what is in memory.
pub async fn tail(
    client: &Client,
    topic: &str,
    partitions: u32,
    broker: &Broker,
) -> Result<Row, Error> {
    from(client, topic, partitions, broker, |end| Position::Offset(end - end / 20)).await
}

async fn from(
    client: &Client,
    topic: &str,
    partitions: u32,
    broker: &Broker,
    position: impl Fn(u64) -> Position,
) -> Result<Row, Error> {
    let mut readers = Vec::new();
    for partition in 0..partitions {
        let config = ReadConfig::default();
        let end = client.read(topic, partition, Position::End, config.clone()).await?.offset();
        let reader = client.read(topic, partition, position(end), config).await?;
        readers.push((reader, end));
    }
    let (cpu, started) = (broker.cpu(), Instant::now());
    let mut tasks = Vec::new();
    for (mut reader, end) in readers {
        tasks.push(tokio::spawn(async move {
            let mut bytes = 0;
            while reader.offset() < end {
                bytes += reader.next_batches().await?.bytes.len() as u64;
            }
            Ok::<u64, levee_client::Error>(bytes)
        }));
    }
    let mut bytes = 0;
    for task in tasks {
        bytes += task.await??;
    }
    Ok(Row::read(bytes, started.elapsed(), broker.cpu() - cpu))
}
