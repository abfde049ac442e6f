//! A target in memory, for tests: it keeps nothing.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use futures::StreamExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{Ack, Driver, Link, Shipment, Source};
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::workload::ClientKind;

/// Answers at once, but for one time in which it answers nothing; or breaks its first link; or
/// takes its time for each send.
pub struct Fake {
    pub clock: Clock,
    pub stall: Range<u64>,
    pub break_after: Option<u64>,
    /// Nanoseconds of work for each send of a link.
    pub work: u64,
    pub links: AtomicU32,
}

impl Fake {
    pub fn new(clock: Clock) -> Self {
        Self { clock, stall: 0..0, break_after: None, work: 0, links: AtomicU32::default() }
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

    async fn class_of(&self, _: &str) -> Result<String> {
        Ok("fake".into())
    }

    async fn link(&self, _: u32, _: ClientKind, depth: usize) -> Result<Link> {
        let (sends, mut shipments) = mpsc::channel::<Shipment>(depth);
        let (told, acks) = mpsc::channel(depth);
        let (clock, stall, work) = (self.clock, self.stall.clone(), self.work);
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
                if told.send(Ok(Ack { id: shipment.id, refused: None })).await.is_err() {
                    return;
                }
            }
        });
        Ok(Link { sends, acks: ReceiverStream::new(acks).boxed() })
    }

    async fn read(&self, _: u32, _: &str, _: u32) -> Result<Box<dyn Source>> {
        Err(Error::failed("nothing is kept"))
    }

    async fn end(&self, _: &str, _: u32) -> Result<u64> {
        Ok(0)
    }

    async fn make_cold(&self, _: &str) -> Result<()> {
        Ok(())
    }
}
