//! Sends one partition's batches over one append stream, in order, until each has its answer.
//!
//! Owns: order, sequences, retries, and what an answer means for the batches behind it. Does not
//! own: gathering (`lane`).
//!
//! The rules that make it exactly once and in order, with `idempotent`:
//! - A batch gets its sequence when it is first sent, and is resent with the same bytes.
//! - After an answer that asks for a retry nothing is sent until all answers are there; then all
//!   that is left is resent in order.
//! - A batch that fails for good leaves a gap in the sequences. What was sent behind it fails too
//!   (the broker refuses it), and what was not sent goes on under a new producer id.
//! - Under an id that the partition does not know, a broker takes sequence 0 only, so the second
//!   batch cannot overtake the first.
//! - A broker that forgot the id refuses what follows. What was surely not written goes under a new
//!   id; what may have been written fails.

mod sent;

use std::sync::Arc;
use std::time::Duration;

use levee_proto::grpc::{AppendRequest, AppendResponse, ErrorCode};
use levee_proto::record::batch::sequence_add;
use levee_proto::record::records::ProducerStamp;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::lane::Lane;
use super::{ProducerConfig, ProducerId, new_id};
use crate::backoff::Backoff;
use crate::connection::Client;
use crate::error::{Error, Result};
use crate::trouble::Trouble;
use sent::{Sent, SentBatches};

/// How long the broker may take to accept a stream.
const OPEN_LIMIT: Duration = Duration::from_secs(10);
/// A broker answers within the request's time; after this much more the stream counts as dead.
const ANSWER_GRACE: Duration = Duration::from_secs(5);
/// A stream without work is given back.
const IDLE_LIMIT: Duration = Duration::from_secs(30);
/// Wakes at least this often to look at deadlines.
const TICK: Duration = Duration::from_secs(1);

pub(super) struct Worker {
    client: Client,
    config: Arc<ProducerConfig>,
    lane: Arc<Lane>,
    /// Sent and not over, in order of sequence.
    sent: SentBatches,
    identity: Option<Identity>,
    next_id: u64,
    next_number: u64,
    backoff: Backoff,
    trouble: Trouble,
}

/// Under which name batches go, and where its sequences stand.
struct Identity {
    id: ProducerId,
    next_sequence: i32,
    /// There is a gap: nothing more goes under it.
    broken: bool,
    /// The broker knows nothing of it any more, and what it refused was not written: that goes
    /// under a new one.
    forgotten: bool,
}

struct Stream {
    requests: mpsc::Sender<AppendRequest>,
    answers: Streaming<AppendResponse>,
}

/// Why a stream is not used any more, other than by an error.
enum Pause {
    Idle,
    /// A new producer id is needed.
    Renew,
    Done,
}

impl Worker {
    pub(super) fn new(
        client: Client,
        config: Arc<ProducerConfig>,
        id: Option<ProducerId>,
        lane: Arc<Lane>,
    ) -> Self {
        let identity = id.map(Identity::new);
        let (sent, backoff, trouble) = (SentBatches::default(), Backoff::new(), client.trouble());
        let (next_id, next_number) = (0, 0);
        Self { client, config, lane, sent, identity, next_id, next_number, backoff, trouble }
    }

    /// Until the lane is closed and everything in it is over.
    pub(super) async fn run(mut self) {
        while self.work_to_come().await {
            match self.stream().await {
                Ok(Pause::Done) => break,
                Ok(Pause::Idle) => {}
                Ok(Pause::Renew) => self.identity = None,
                Err(error) => self.broken(error).await,
            }
        }
        if let Some(error) = self.lane.aborted() {
            self.sent.fail_all(&error);
            self.lane.fail_ready(&error);
        }
    }

    /// Waits for something to send; false at the end.
    async fn work_to_come(&mut self) -> bool {
        loop {
            let woken = self.lane.wake.notified();
            if self.lane.aborted().is_some() {
                return false;
            }
            if !self.sent.is_empty() {
                return true;
            }
            if self.lane.ready_at().is_none() {
                self.trouble.is_over();
            }
            match self.lane.ready_at() {
                Some(at) if at <= Instant::now() => return true,
                Some(at) => {
                    let _ = tokio::time::timeout_at(at, woken).await;
                }
                None if self.lane.is_drained() => return false,
                None => woken.await,
            }
        }
    }

    /// Opens a stream and works it.
    async fn stream(&mut self) -> Result<Pause> {
        if self.config.idempotent && self.identity.is_none() {
            // A transaction has one name, and a gap in it cannot be closed.
            if self.lane.together.is_some() {
                return Err(Error::transaction_failed());
            }
            let mut identity = Identity::new(new_id(&self.client).await?);
            for batch in self.sent.iter_mut() {
                let records = batch.restamp(identity.stamp())?;
                identity.advance(records);
            }
            self.identity = Some(identity);
        }
        let (requests, outgoing) = mpsc::channel(self.config.max_in_flight);
        let mut log = self.client.log();
        let opening = log.append_stream(ReceiverStream::new(outgoing));
        let opened = tokio::time::timeout(OPEN_LIMIT, opening).await;
        let opened =
            opened.map_err(|_| Error::timed_out("opening an append stream", OPEN_LIMIT))?;
        self.work(Stream { requests, answers: opened?.into_inner() }).await
    }

    async fn work(&mut self, mut stream: Stream) -> Result<Pause> {
        let mut resend_at = None;
        let mut busy = Instant::now();
        loop {
            let now = Instant::now();
            self.expire(now);
            if self.lane.aborted().is_some() {
                return Ok(Pause::Done);
            }
            if resend_at.is_none_or(|at| at <= now) {
                resend_at = None;
                self.fill(&stream.requests, now)?;
            }
            if !self.sent.is_empty() {
                busy = now;
            } else if self.identity.as_ref().is_some_and(|identity| identity.broken) {
                return Ok(Pause::Renew);
            } else if self.lane.is_drained() {
                return Ok(Pause::Done);
            } else if now >= busy + IDLE_LIMIT && self.lane.ready_at().is_none() {
                return Ok(Pause::Idle);
            }
            if self.sent.waits_since().is_some_and(|since| now >= since + self.answer_limit()) {
                let limit = self.answer_limit();
                return Err(Error::timed_out("an answer to an append", limit).maybe_written(true));
            }
            tokio::select! {
                biased;
                answer = stream.answers.message() => {
                    let ended = || Error::connection("the broker ended the append stream");
                    self.answered(answer?.ok_or_else(ended)?);
                    if self.sent.must_resend() {
                        if self.identity.as_ref().is_some_and(|identity| identity.forgotten) {
                            return Ok(Pause::Renew);
                        }
                        resend_at = Some(Instant::now() + self.backoff.next_delay());
                    }
                }
                () = self.lane.wake.notified() => {}
                () = tokio::time::sleep_until(self.next_look(now, resend_at)) => {}
            }
        }
    }

    fn answer_limit(&self) -> Duration {
        self.config.request_timeout + ANSWER_GRACE
    }

    /// When to look again although nothing happened.
    fn next_look(&self, now: Instant, resend_at: Option<Instant>) -> Instant {
        let broken = self.identity.as_ref().is_some_and(|identity| identity.broken);
        let can_send = self.has_room() && !broken && !self.sent.has_retries();
        let ready_at = self.lane.ready_at().filter(|_| can_send && resend_at.is_none());
        let deadlines = self.sent.next_deadline().into_iter().chain(self.lane.next_deadline());
        let next = deadlines.chain(resend_at).chain(ready_at).min();
        next.map_or(now + TICK, |next| next.min(now + TICK))
    }

    /// Counted from the oldest batch that is not over: a broker that remembers five batches must
    /// still know that one when it is sent again, however many behind it are over.
    fn has_room(&self) -> bool {
        self.sent.span(self.next_number) < self.config.max_in_flight as u64
    }

    /// Sends what may be sent: first, in order, what must be sent again.
    fn fill(&mut self, requests: &mpsc::Sender<AppendRequest>, now: Instant) -> Result<()> {
        if self.sent.has_retries() {
            if self.sent.waits_since().is_some() {
                return Ok(());
            }
            for batch in self.sent.iter_mut() {
                batch.id = self.next_id;
                batch.since = Some(now);
                self.next_id += 1;
                put(requests, request(&self.lane, &self.config, batch))?;
            }
            return Ok(());
        }
        let broken = self.identity.as_ref().is_some_and(|identity| identity.broken);
        while !broken && self.has_room() {
            let Some(batch) = self.lane.take(now) else { break };
            let (records, deadline) = (batch.records, batch.deadline);
            let stamp = self.identity.as_ref().map(Identity::stamp);
            // What cannot be encoded has told its tickets, and takes no sequence.
            let max = self.config.max_batch_bytes;
            let Ok((bytes, waiter)) = batch.encode(stamp, max) else { continue };
            if let Some(identity) = &mut self.identity {
                identity.advance(records);
            }
            let (number, id) = (self.next_number, self.next_id);
            (self.next_number, self.next_id) = (number + 1, id + 1);
            let batch = Sent::new(number, id, bytes, deadline, waiter, now);
            let request = request(&self.lane, &self.config, &batch);
            self.sent.push(batch);
            put(requests, request)?;
        }
        Ok(())
    }

    fn answered(&mut self, answer: AppendResponse) {
        // An answer to what was given up in the meantime tells nobody anything.
        let Some(at) = self.sent.position(answer.id) else { return };
        let Some(detail) = answer.error else {
            self.backoff.reset();
            self.trouble.is_over();
            self.sent.succeed(at, answer.base_offset);
            return;
        };
        let error = Error::from(detail);
        // Refused because of one in front of it that is resent: so is this one.
        let skips = [ErrorCode::OutOfOrderSequence, ErrorCode::UnknownProducer];
        let follows_retry = skips.contains(&error.code) && self.sent.follows_retry(at);
        let may_retry = self.config.idempotent || !error.may_be_written;
        if error.code == ErrorCode::UnknownProducer
            && at == 0
            && self.lane.together.is_none()
            && self.sent.is_surely_unwritten(at)
            && let Some(identity) = &mut self.identity
        {
            identity.forgotten = true;
            self.sent.retry_or_fail(at, &error);
        } else if (error.retriable && may_retry) || follows_retry {
            tracing::debug!(topic = %self.lane.topic, partition = self.lane.partition, %error,
                "append is tried again");
            self.trouble.is(&error);
            self.sent.retry_or_fail(at, &error);
        } else {
            self.trouble.is_over();
            self.fail(at, error);
        }
    }

    /// One batch fails for good.
    fn fail(&mut self, at: usize, error: Error) {
        if let Some(identity) = &mut self.identity {
            identity.broken = true;
            self.sent.doom_behind(at, &error);
        }
        self.sent.fail(at, &error);
    }

    fn expire(&mut self, now: Instant) {
        let is_over = |deadline| deadline <= now;
        if self.lane.next_deadline().is_some_and(is_over) {
            self.lane.expire(now, &self.given_up());
        }
        while self.sent.next_deadline().is_some_and(is_over) {
            self.fail(0, self.given_up().maybe_written(true));
        }
    }

    fn given_up(&self) -> Error {
        let error = Error::timed_out("delivering the record", self.config.delivery_timeout);
        self.trouble.explain(error)
    }

    /// The stream is gone: what had no answer is sent again over the next one, or fails.
    async fn broken(&mut self, error: Error) {
        if !error.retriable {
            // Nothing of this partition can be delivered. Answers come in the order of requests:
            // what has none was not written by this stream, unless the error says that it may be.
            self.sent.fail_all(&error);
            self.lane.fail_ready(&error);
            self.identity = None;
        } else if self.config.idempotent {
            self.sent.retry_all(&error);
        } else {
            // Without sequences, what may be written must not be sent again.
            self.sent.fail_all(&error.clone().maybe_written(true));
        }
        tracing::debug!(topic = %self.lane.topic, partition = self.lane.partition, %error,
            "append stream broke");
        if error.retriable && (!self.sent.is_empty() || self.lane.ready_at().is_some()) {
            self.trouble.is(&error);
        }
        self.expire(Instant::now());
        let delay = self.backoff.next_delay();
        let aborted = async {
            while self.lane.aborted().is_none() {
                self.lane.wake.notified().await;
            }
        };
        let _ = tokio::time::timeout(delay, aborted).await;
        self.expire(Instant::now());
    }
}

impl Identity {
    fn new(id: ProducerId) -> Self {
        Self { id, next_sequence: 0, broken: false, forgotten: false }
    }

    /// Takes the next sequences.
    fn advance(&mut self, records: u32) {
        self.next_sequence = sequence_add(self.next_sequence, records);
    }

    fn stamp(&self) -> ProducerStamp {
        ProducerStamp {
            producer_id: self.id.id,
            producer_epoch: self.id.epoch,
            base_sequence: self.next_sequence,
        }
    }
}

fn request(lane: &Lane, config: &ProducerConfig, batch: &Sent) -> AppendRequest {
    AppendRequest {
        id: batch.id,
        topic: lane.topic.to_string(),
        partition: lane.partition,
        batch: batch.bytes.clone(),
        records: Vec::new(),
        acks: config.acks.into(),
        timeout_ms: u32::try_from(config.request_timeout.as_millis()).unwrap_or(u32::MAX),
        transactional_id: lane
            .together
            .as_ref()
            .map_or_else(String::new, |together| together.transactional_id.to_string()),
    }
}

/// Never more than are in flight, which is what the channel holds: it is only ever full or closed
/// where the stream is dead.
fn put(requests: &mpsc::Sender<AppendRequest>, request: AppendRequest) -> Result<()> {
    let gone = |_| Error::connection("the append stream takes nothing more");
    requests.try_send(request).map_err(gone)
}
