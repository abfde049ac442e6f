//! One partition's way to the broker: batches in order, some in flight, resent in order.
//!
//! ```text
//! records -> open batch -> waiting batches -> in flight (with sequences) -> acked, in order
//!                                             ^ resent whole after a broken stream
//! ```
//! With idempotence the broker recognises what it has already, so a resend duplicates nothing.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use levee_proto::grpc::{AppendRequest, AppendResponse, ErrorCode};
use levee_proto::record::batch::sequence_add;
use levee_proto::record::records::{BatchBuilder, ProducerStamp, RecordData};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::{ProducerConfig, new_id};
use crate::backoff::Backoff;
use crate::connection::Client;
use crate::error::{Error, Result};

/// Batches in flight: what the broker remembers of a producer.
const IN_FLIGHT: usize = 5;
/// A broker that says nothing for so long is taken to be gone.
const SILENCE: Duration = Duration::from_secs(40);

pub(super) enum Item {
    Record { record: RecordData, told: oneshot::Sender<Result<u64>>, room: OwnedSemaphorePermit },
    Flush(oneshot::Sender<()>),
}

/// Records that share a fate.
struct Batch {
    builder: Option<BatchBuilder>,
    /// Set when it was built, with the sequence it was built with.
    bytes: Option<Bytes>,
    records: Vec<(oneshot::Sender<Result<u64>>, OwnedSemaphorePermit)>,
    /// Of its first record.
    since: Instant,
    id: u64,
}

struct Stream {
    requests: mpsc::Sender<AppendRequest>,
    answers: Streaming<AppendResponse>,
}

pub(super) struct Worker {
    client: Client,
    config: ProducerConfig,
    topic: String,
    partition: u32,
    items: mpsc::UnboundedReceiver<Item>,
    open: Option<Batch>,
    waiting: VecDeque<Batch>,
    in_flight: VecDeque<Batch>,
    /// How many of those in flight are sent on the present stream.
    sent: usize,
    stream: Option<Stream>,
    producer_id: Option<i64>,
    sequence: i32,
    next_id: u64,
    flushes: Vec<oneshot::Sender<()>>,
    backoff: Backoff,
    heard: Instant,
    closed: bool,
}

impl Worker {
    pub(super) fn new(
        client: Client,
        config: ProducerConfig,
        producer_id: Option<i64>,
        (topic, partition): (String, u32),
        items: mpsc::UnboundedReceiver<Item>,
    ) -> Self {
        Self {
            client,
            config,
            topic,
            partition,
            items,
            open: None,
            waiting: VecDeque::new(),
            in_flight: VecDeque::new(),
            sent: 0,
            stream: None,
            producer_id,
            sequence: 0,
            next_id: 0,
            flushes: Vec::new(),
            backoff: Backoff::new(),
            heard: Instant::now(),
            closed: false,
        }
    }

    /// Ends when the producer is gone and everything is acknowledged or given up.
    pub(super) async fn run(mut self) {
        loop {
            self.give_up_old();
            let idle = self.waiting.is_empty() && self.in_flight.is_empty();
            if idle && self.open.is_none() {
                for done in self.flushes.drain(..) {
                    let _ = done.send(());
                }
                if self.closed {
                    return;
                }
            }
            if !idle && let Err(error) = self.pump().await {
                self.broken(&error).await;
                continue;
            }
            self.wait().await;
        }
    }

    /// Sends what may be sent, opening a stream if there is none.
    async fn pump(&mut self) -> Result<()> {
        if self.stream.is_none() {
            self.stream = Some(self.connect().await?);
            self.sent = 0;
            self.heard = Instant::now();
        }
        while self.in_flight.len() < IN_FLIGHT {
            let Some(mut batch) = self.waiting.pop_front() else { break };
            self.build(&mut batch);
            self.in_flight.push_back(batch);
        }
        while let Some(batch) = self.in_flight.get(self.sent) {
            let request = AppendRequest {
                id: batch.id,
                topic: self.topic.clone(),
                partition: self.partition,
                batch: batch.bytes.clone().unwrap_or_default(),
                ..Default::default()
            };
            if self.sent == 0 {
                self.heard = Instant::now();
            }
            let stream = self.stream.as_ref().ok_or_else(Error::closed)?;
            let sent = stream.requests.send(request).await;
            sent.map_err(|_| Error::connection("the append stream ended"))?;
            self.sent += 1;
        }
        Ok(())
    }

    async fn connect(&mut self) -> Result<Stream> {
        if self.config.idempotent && self.producer_id.is_none() {
            self.producer_id = Some(new_id(&self.client).await?);
            self.sequence = 0;
        }
        let (requests, outgoing) = mpsc::channel(IN_FLIGHT);
        let opened = self.client.log().append_stream(ReceiverStream::new(outgoing)).await?;
        Ok(Stream { requests, answers: opened.into_inner() })
    }

    /// Gives a batch its sequence: from here on it is resent as it is.
    fn build(&mut self, batch: &mut Batch) {
        let Some(builder) = batch.builder.take() else { return };
        let count = builder.len() as u32;
        let stamp = self.producer_id.map(|producer_id| ProducerStamp {
            producer_id,
            producer_epoch: 0,
            base_sequence: self.sequence,
        });
        self.sequence = sequence_add(self.sequence, count);
        batch.bytes = Some(builder.build(stamp));
        batch.id = self.next_id;
        self.next_id += 1;
    }

    /// For an answer, a record, or the end of a linger.
    async fn wait(&mut self) {
        let linger = self.open.as_ref().map(|batch| batch.since + self.config.linger);
        let silent = (self.sent > 0).then(|| self.heard + SILENCE);
        let wake = [linger, silent].into_iter().flatten().min();
        let wake = wake.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
        let full = self.waiting.len() >= 2;
        tokio::select! {
            biased;
            answer = answer(&mut self.stream), if self.sent > 0 => match answer {
                Ok(answer) => self.answered(answer).await,
                Err(error) => self.broken(&error).await,
            },
            item = self.items.recv(), if !self.closed && !full => self.take(item),
            () = tokio::time::sleep_until(wake) => {
                if silent.is_some_and(|silent| Instant::now() >= silent) {
                    let why = format!("no answer for {SILENCE:?}");
                    self.broken(&Error::connection(why)).await;
                }
                if linger.is_some_and(|linger| Instant::now() >= linger) {
                    self.seal();
                }
            }
        }
    }

    fn take(&mut self, item: Option<Item>) {
        match item {
            None => {
                self.closed = true;
                self.seal();
            }
            Some(Item::Flush(done)) => {
                self.seal();
                self.flushes.push(done);
            }
            Some(Item::Record { record, told, room }) => {
                let compression = self.config.compression;
                let batch = self.open.get_or_insert_with(|| Batch {
                    builder: Some(BatchBuilder::new(compression)),
                    bytes: None,
                    records: Vec::new(),
                    since: Instant::now(),
                    id: 0,
                });
                batch.records.push((told, room));
                let builder = batch.builder.as_mut();
                let full = builder.is_some_and(|builder| {
                    builder.push(&record);
                    builder.plain_bytes() >= self.config.batch_bytes
                });
                if full {
                    self.seal();
                }
            }
        }
    }

    fn seal(&mut self) {
        self.waiting.extend(self.open.take());
    }

    async fn answered(&mut self, answer: AppendResponse) {
        self.heard = Instant::now();
        let expected = self.in_flight.front().map(|batch| batch.id);
        if expected != Some(answer.id) {
            let why = format!("answer {} in place of {expected:?}", answer.id);
            self.broken(&Error::connection(why)).await;
            return;
        }
        match answer.error {
            None => {
                self.backoff.reset();
                self.sent -= 1;
                if let Some(batch) = self.in_flight.pop_front() {
                    for (number, (told, _room)) in batch.records.into_iter().enumerate() {
                        let _ = told.send(Ok(answer.base_offset + number as u64));
                    }
                }
            }
            Some(detail) => self.broken(&detail.into()).await,
        }
    }

    /// The stream is not used any more: what is in flight is resent, or given up.
    async fn broken(&mut self, error: &Error) {
        self.stream = None;
        self.sent = 0;
        // Without sequences a record that may be written must not be sent again.
        let unsafe_retry = error.may_be_written && !self.config.idempotent;
        if !error.retriable || (unsafe_retry && !self.in_flight.is_empty()) {
            self.fail_in_flight(error);
            return;
        }
        self.backoff.wait().await;
    }

    /// Everything in flight fails together: a gap in the sequences would never be accepted, so the
    /// next batches go under a new producer id.
    fn fail_in_flight(&mut self, error: &Error) {
        let missing = matches!(error.code, ErrorCode::UnknownTopic | ErrorCode::UnknownPartition);
        let failed: Vec<Batch> = match self.in_flight.is_empty() || missing {
            // Not even connected, or nowhere to go: nothing of this partition can be sent.
            true => self.in_flight.drain(..).chain(self.waiting.drain(..)).collect(),
            false => self.in_flight.drain(..).collect(),
        };
        for batch in failed {
            for (told, _room) in batch.records {
                let _ = told.send(Err(error.clone()));
            }
        }
        if self.config.idempotent {
            self.producer_id = None;
        }
    }

    fn give_up_old(&mut self) {
        let limit = self.config.delivery_timeout;
        let oldest = self.in_flight.front().or(self.waiting.front());
        if oldest.is_some_and(|batch| batch.since.elapsed() >= limit) {
            let why = format!("not acknowledged within {limit:?}");
            let error = Error::new(ErrorCode::TimedOut, why, true);
            let error = Error { may_be_written: true, ..error };
            self.stream = None;
            self.sent = 0;
            self.fail_in_flight(&error);
        }
    }
}

async fn answer(stream: &mut Option<Stream>) -> Result<AppendResponse> {
    let Some(stream) = stream else { return std::future::pending().await };
    match stream.answers.message().await? {
        Some(answer) => Ok(answer),
        None => Err(Error::connection("the broker ended the append stream")),
    }
}
