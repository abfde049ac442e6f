//! A target in memory, for tests: with every fault that they ask for.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use levee_proto::record::batch::BatchHeader;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{Ack, Driver, Link, Shipment, Source};
use crate::clock::Clock;
use crate::error::Result;
use crate::workload::ClientKind;

/// Answers at once and keeps what it was sent, but for its faults.
pub struct Fake {
    pub clock: Clock,
    /// Nothing is answered in this time.
    pub stall: Range<u64>,
    /// The first link breaks behind so many sends.
    pub break_after: Option<u64>,
    /// Nanoseconds of work for each send of a link.
    pub work: u64,
    /// What this partition gives is damaged.
    pub damaged: Option<u32>,
    /// This partition has its last batch twice once somebody asks for its end.
    pub doubled: Option<u32>,
    pub links: AtomicU32,
    pub kept: Arc<Mutex<Kept>>,
}

/// Batches by partition, with their offsets in them.
pub type Kept = BTreeMap<u32, Vec<Bytes>>;

impl Fake {
    pub fn new(clock: Clock) -> Self {
        let (links, kept) = Default::default();
        let (break_after, damaged, doubled) = (None, None, None);
        Self { clock, stall: 0..0, break_after, work: 0, damaged, doubled, links, kept }
    }
}

fn end_of(batches: &[Bytes]) -> u64 {
    batches.last().map_or(0, |last| BatchHeader::decode(last).unwrap().end_offset())
}

fn keep(batches: &mut Vec<Bytes>, batch: &Bytes) {
    let mut bytes = BytesMut::from(&batch[..]);
    bytes[..8].copy_from_slice(&end_of(batches).to_be_bytes());
    batches.push(bytes.freeze());
}

struct Reading {
    kept: Arc<Mutex<Kept>>,
    partition: u32,
    is_damaged: bool,
    offset: u64,
    read: usize,
}

#[async_trait]
impl Source for Reading {
    async fn next(&mut self) -> Result<Bytes> {
        let kept = self.kept.lock().get(&self.partition).cloned().unwrap_or_default();
        let Some(batch) = kept.get(self.read) else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            return Ok(Bytes::new());
        };
        self.read += 1;
        self.offset = end_of(&kept[..self.read]);
        let mut bytes = BytesMut::from(&batch[..]);
        *bytes.last_mut().unwrap() ^= u8::from(self.is_damaged);
        Ok(bytes.freeze())
    }

    fn offset(&self) -> u64 {
        self.offset
    }
}

#[async_trait]
impl Driver for Fake {
    async fn create_topic(&self, _: &str, _: u32, _: &BTreeMap<String, String>) -> Result<()> {
        Ok(())
    }

    async fn delete_topic(&self, _: &str) -> Result<()> {
        Ok(())
    }

    async fn settings_of(&self, _: &str) -> Result<BTreeMap<String, String>> {
        Ok(BTreeMap::new())
    }

    async fn link(&self, _: u32, _: ClientKind, depth: usize) -> Result<Link> {
        let (sends, mut shipments) = mpsc::channel::<Shipment>(depth);
        let (told, acks) = mpsc::channel(depth);
        let (clock, stall, work) = (self.clock, self.stall.clone(), self.work);
        let kept = self.kept.clone();
        // When the work of all sends so far is done.
        let mut free = 0;
        let is_first = self.links.fetch_add(1, Ordering::Relaxed) == 0;
        let break_after = self.break_after.filter(|_| is_first);
        tokio::spawn(async move {
            while let Some(shipment) = shipments.recv().await {
                if break_after.is_some_and(|after| shipment.id >= after) {
                    return;
                }
                if work > 0 {
                    free = free.max(clock.now()) + work;
                    clock.until(free).await;
                }
                if stall.contains(&clock.now()) {
                    clock.until(stall.end).await;
                }
                keep(kept.lock().entry(shipment.partition).or_default(), &shipment.batch);
                if told.send(Ok(Ack { id: shipment.id, refused: None })).await.is_err() {
                    return;
                }
            }
        });
        Ok(Link { sends, acks: ReceiverStream::new(acks).boxed() })
    }

    async fn read(&self, _: u32, _: &str, partition: u32) -> Result<Box<dyn Source>> {
        let (kept, is_damaged) = (self.kept.clone(), self.damaged == Some(partition));
        Ok(Box::new(Reading { kept, partition, is_damaged, offset: 0, read: 0 }))
    }

    async fn end(&self, _: &str, partition: u32) -> Result<u64> {
        let mut kept = self.kept.lock();
        let batches = kept.entry(partition).or_default();
        if self.doubled == Some(partition)
            && let Some(last) = batches.last().cloned()
        {
            keep(batches, &last);
        }
        Ok(end_of(batches))
    }

    async fn make_cold(&self, _: &str) -> Result<()> {
        Ok(())
    }
}
