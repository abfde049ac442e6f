//! Appends: at full speed with encoded batches, and at a steady rate for latencies.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use levee_client::grpc::AppendRequest;
use levee_client::{Client, Compression, RecordData};
use levee_proto::record::records::BatchBuilder;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;

use crate::broker::Broker;
use crate::report::Row;
use crate::{Bench, Error};

/// Batches of one partition that wait for their acks at full speed.
const IN_FLIGHT: usize = 8;

pub struct Load {
    seconds: u64,
    partitions: u32,
    rate: u64,
    record: usize,
    batch: usize,
}

impl Load {
    pub fn new(bench: &Bench) -> Self {
        Self {
            seconds: bench.seconds,
            partitions: bench.partitions,
            rate: bench.rate,
            record: bench.record,
            batch: bench.batch,
        }
    }

    /// Half noise, half text: neither the best nor the worst for anybody.
    fn encoded(&self, records: usize) -> Bytes {
        let mut builder = BatchBuilder::new(Compression::None);
        let mut noise = 0x9e37_79b9_7f4a_7c15u64;
        for number in 0..records {
            let value: Vec<u8> = (0..self.record)
                .map(|at| {
                    noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    if at % 2 == 0 { (noise >> 33) as u8 } else { b'a' + (at % 26) as u8 }
                })
                .collect();
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            builder.push(&RecordData {
                timestamp_ms: now.unwrap_or_default().as_millis() as i64,
                key: Some(number.to_string().into()),
                value: Some(value.into()),
                ..RecordData::default()
            });
        }
        builder.build(None)
    }

    /// As fast as acks come; one stream for each partition.
    pub async fn full_speed(
        &self,
        client: &Client,
        topic: &str,
        broker: &Broker,
    ) -> Result<Row, Error> {
        let batch = self.encoded(self.batch);
        let until = Instant::now() + Duration::from_secs(self.seconds);
        let (cpu, started) = (broker.cpu(), Instant::now());
        let mut tasks = Vec::new();
        for partition in 0..self.partitions {
            let (client, topic, batch) = (client.clone(), topic.to_owned(), batch.clone());
            tasks.push(tokio::spawn(async move {
                pump(&client, &topic, partition, &batch, until).await
            }));
        }
        let mut acks = 0;
        let mut latency = Histogram::<u64>::new(3)?;
        for task in tasks {
            let (more, seen) = task.await??;
            acks += more;
            latency.add(seen)?;
        }
        let bytes = acks * batch.len() as u64;
        let took = started.elapsed();
        Ok(Row::produced(acks * self.batch as u64, bytes, took, broker.cpu() - cpu, &latency))
    }

    /// A fixed rate: what is late counts from when it was due.
    pub async fn steady(
        &self,
        client: &Client,
        topic: &str,
        broker: &Broker,
    ) -> Result<Row, Error> {
        const TICK: Duration = Duration::from_millis(10);
        let per_tick =
            (self.rate as f64 * TICK.as_secs_f64() / f64::from(self.partitions)).max(1.0);
        let records = per_tick.round() as usize;
        let batch = self.encoded(records);
        let ticks = self.seconds * 1000 / TICK.as_millis() as u64;
        let (cpu, started) = (broker.cpu(), Instant::now());
        let mut tasks = Vec::new();
        for partition in 0..self.partitions {
            let (client, topic, batch) = (client.clone(), topic.to_owned(), batch.clone());
            let offset = TICK * partition / self.partitions;
            tasks.push(tokio::spawn(async move {
                paced(&client, &topic, partition, &batch, ticks, TICK, offset).await
            }));
        }
        let mut latency = Histogram::<u64>::new(3)?;
        for task in tasks {
            latency.add(task.await??)?;
        }
        let acks = ticks * u64::from(self.partitions);
        let bytes = acks * batch.len() as u64;
        let took = started.elapsed();
        Ok(Row::produced(acks * records as u64, bytes, took, broker.cpu() - cpu, &latency))
    }

    pub async fn one(&self, client: &Client, topic: &str) -> Result<(), Error> {
        let request =
            AppendRequest { topic: topic.into(), batch: self.encoded(1), ..Default::default() };
        client.log().append(request).await?;
        Ok(())
    }
}

async fn pump(
    client: &Client,
    topic: &str,
    partition: u32,
    batch: &Bytes,
    until: Instant,
) -> Result<(u64, Histogram<u64>), Error> {
    let (send, requests) = mpsc::channel(IN_FLIGHT);
    let room = Arc::new(Semaphore::new(IN_FLIGHT));
    let mut answers = client.log().append_stream(ReceiverStream::new(requests)).await?.into_inner();
    let (sent, mut times) = mpsc::unbounded_channel::<Instant>();
    let (topic, batch, free) = (topic.to_owned(), batch.clone(), room.clone());
    let sender = tokio::spawn(async move {
        let mut id = 0;
        while Instant::now() < until {
            let Ok(permit) = free.acquire().await else { return };
            permit.forget();
            let (topic, batch) = (topic.clone(), batch.clone());
            let request = AppendRequest { id, topic, partition, batch, ..Default::default() };
            id += 1;
            let _ = sent.send(Instant::now());
            if send.send(request).await.is_err() {
                return;
            }
        }
    });
    let mut acks = 0;
    let mut latency = Histogram::<u64>::new(3)?;
    while let Some(answer) = answers.message().await? {
        room.add_permits(1);
        if let Some(error) = answer.error {
            return Err(error.message.into());
        }
        acks += 1;
        if let Some(at) = times.recv().await {
            latency.record(at.elapsed().as_micros() as u64)?;
        }
    }
    sender.await?;
    Ok((acks, latency))
}

async fn paced(
    client: &Client,
    topic: &str,
    partition: u32,
    batch: &Bytes,
    ticks: u64,
    tick: Duration,
    offset: Duration,
) -> Result<Histogram<u64>, Error> {
    let (send, requests) = mpsc::channel(1024);
    let mut answers = client.log().append_stream(ReceiverStream::new(requests)).await?.into_inner();
    let first = tokio::time::Instant::now() + Duration::from_millis(100) + offset;
    let (topic, batch) = (topic.to_owned(), batch.clone());
    let sender = tokio::spawn(async move {
        for id in 0..ticks {
            tokio::time::sleep_until(first + tick * id as u32).await;
            let (topic, batch) = (topic.clone(), batch.clone());
            let request = AppendRequest { id, topic, partition, batch, ..Default::default() };
            if send.send(request).await.is_err() {
                return;
            }
        }
    });
    let mut latency = Histogram::<u64>::new(3)?;
    while let Some(answer) = answers.message().await? {
        if let Some(error) = answer.error {
            return Err(error.message.into());
        }
        let due = first + tick * answer.id as u32;
        latency.record(due.elapsed().as_micros() as u64)?;
    }
    sender.await?;
    Ok(latency)
}
