//! Produce: from an encoded batch to its ack.
//!
//! Owns: admission, the deadline, and counting. Does not own: offsets and acks (the partition).

use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use levee_proto::metalog::{DurabilityClass, LaneKind};
use levee_runtime::Mono;

use crate::config::TopicConfig;
use crate::error::{Error, Result};
use crate::node::Node;
use crate::pace::Waiting;
use crate::partition::append::Where;
use crate::partition::{Appended, EndTxn, Ticket};
use crate::topics::is_internal;

/// When an append is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acks {
    /// When it is durable as the topic's class says.
    All,
    /// When it has an offset.
    Leader,
}

/// An append that has its place.
pub struct Pending {
    ticket: Ticket,
    acks: Acks,
    started: Mono,
    limit: Duration,
    bytes: u64,
    records: u64,
    /// None where nobody waits for the ack.
    waiting: Option<Waiting>,
}

impl Node {
    /// Gives a batch its place. Appends of one caller to one partition keep the order of these
    /// calls; `Pending::done` waits for the ack.
    pub async fn append(
        &self,
        topic: &str,
        partition: u32,
        batch: Bytes,
        acks: Acks,
        limit: Duration,
    ) -> Result<Pending> {
        self.append_where((topic, partition), batch, acks, limit, Where::default()).await
    }

    /// As `append`, where something holds.
    pub async fn append_where(
        &self,
        to: (&str, u32),
        batch: Bytes,
        acks: Acks,
        limit: Duration,
        holds: Where,
    ) -> Result<Pending> {
        let bytes = batch.len() as u32;
        let mut placing = pin!(self.place(to, batch, acks, limit, holds));
        let placed = match futures::poll!(&mut placing) {
            Poll::Ready(placed) => placed,
            // Those that wait must leave room for requests that need not.
            Poll::Pending => match self.waiting_bytes.try_acquire_many(bytes) {
                Ok(_room) => placing.await,
                Err(_) => Err(Error::overloaded("half of request.bytes waits already")),
            },
        };
        if let Err(error) = &placed {
            count(error.code.as_str_name());
        }
        placed
    }

    async fn place(
        &self,
        (topic, partition): (&str, u32),
        batch: Bytes,
        acks: Acks,
        limit: Duration,
        holds: Where,
    ) -> Result<Pending> {
        let started = self.host.now();
        if self.is_draining() {
            return Err(Error::shutting_down());
        }
        if is_internal(topic) {
            let why = format!("{topic} is Levee's own: only its coordinators write to it");
            return Err(Error::invalid_argument(why));
        }
        let led = self.partition(topic, partition)?;
        let settings = led.config();
        self.limits
            .admit(&self.host, &self.config, (topic, led.id.topic), &settings, limit)
            .await?;
        let bytes = batch.len() as u64;
        let left = limit.saturating_sub(self.host.now().since(started));
        let ticket = led.append_where(batch, left, holds).await?;
        let records = ticket.appended.end_offset - ticket.appended.base_offset;
        let waiting = (acks == Acks::All).then(|| self.pace.append(lane_of(&settings)));
        Ok(Pending { ticket, acks, started, limit, bytes, records, waiting })
    }

    /// Gives the marker that ends a transaction its place in one partition; `Pending::done` waits
    /// until it is durable. Beside the bounds of appends: it is small, and what waits for it is not.
    pub async fn end_transaction(
        &self,
        topic: &str,
        partition: u32,
        end: &EndTxn,
        limit: Duration,
    ) -> Result<Pending> {
        let started = self.host.now();
        if self.is_draining() {
            return Err(Error::shutting_down());
        }
        let led = self.partition(topic, partition)?;
        let ticket = led.end_transaction(end, limit).await?;
        let waiting = Some(self.pace.append(lane_of(&led.config())));
        let (acks, bytes, records) = (Acks::All, 0, 0);
        Ok(Pending { ticket, acks, started, limit, bytes, records, waiting })
    }
}

fn lane_of(settings: &TopicConfig) -> LaneKind {
    match settings.durability_class {
        DurabilityClass::Object => LaneKind::Object,
        _ => LaneKind::Local,
    }
}

impl Pending {
    /// Waits for the ack, until the deadline of the append.
    pub async fn done(self, node: &Node) -> Result<Appended> {
        let placed = node.host.now();
        let left = self.limit.saturating_sub(placed.since(self.started));
        let outcome = match self.acks {
            Acks::Leader => Ok(self.ticket.appended),
            Acks::All => match node.host.timeout(left, self.ticket.durable()).await {
                Ok(outcome) => outcome,
                Err(_) => Err(Error::timed_out_append(self.limit.as_millis() as u64)),
            },
        };
        if let Some(waiting) = self.waiting {
            waiting.ends();
        }
        match &outcome {
            Ok(appended) => {
                count(if appended.duplicate { "duplicate" } else { "ok" });
                metrics::counter!("levee_append_records_total").increment(self.records);
                metrics::counter!("levee_append_bytes_total").increment(self.bytes);
                let now = node.host.now();
                let took = now.since(self.started).as_secs_f64();
                metrics::histogram!("levee_append_seconds").record(took);
                let waited = now.since(placed).as_secs_f64();
                metrics::histogram!("levee_ack_seconds").record(waited);
            }
            Err(error) => count(error.code.as_str_name()),
        }
        outcome
    }
}

fn count(outcome: &'static str) {
    metrics::counter!("levee_append_requests_total", "outcome" => outcome).increment(1);
}
