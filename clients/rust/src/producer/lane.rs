//! What waits for one partition and was not sent yet: batches in the order of their records.
//!
//! Owns: gathering records into batches, and when a batch is ready. Does not own: the wire.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use levee_proto::record::records::{BatchBuilder, ProducerStamp, RecordData, stamp_producer};
use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::time::Instant;

use super::ticket::{Outcome, Ticket, outcome};
use super::together::{Together, Told};
use super::{ProducerConfig, after};
use crate::error::{Error, Result};

pub(super) struct Lane {
    pub(super) topic: Arc<str>,
    pub(super) partition: u32,
    config: Arc<ProducerConfig>,
    /// The transaction that all of it is part of.
    pub(super) together: Option<Arc<Together>>,
    /// Something is ready, or will be at another time than was thought.
    pub(super) wake: Notify,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    open: Option<Batch>,
    ready: VecDeque<Batch>,
    /// Of all batches that are not known to be over, oldest first.
    outcomes: VecDeque<Outcome>,
    closed: bool,
    aborted: Option<Error>,
}

/// Records that go together, and who waits for them.
pub(super) struct Batch {
    body: Body,
    pub(super) records: u32,
    /// When the first record came.
    since: Instant,
    /// When it is given up.
    pub(super) deadline: Instant,
    told: Told,
    in_transaction: bool,
    outcome: Outcome,
    room: OwnedSemaphorePermit,
}

enum Body {
    Open(BatchBuilder),
    Encoded(Bytes),
}

impl Batch {
    /// The bytes to send, at most `max` of them; compresses, so not under a lock.
    pub(super) fn encode(
        self,
        stamp: Option<ProducerStamp>,
        max: usize,
    ) -> Result<(Bytes, Waiter)> {
        let bytes = match (self.body, stamp) {
            (Body::Open(builder), stamp) if self.in_transaction => {
                Ok(builder.transactional().build(stamp))
            }
            (Body::Open(builder), stamp) => Ok(builder.build(stamp)),
            (Body::Encoded(bytes), None) => Ok(bytes),
            (Body::Encoded(bytes), Some(stamp)) => stamp_producer(bytes, stamp),
        };
        let waiter = Waiter { told: self.told, _room: self.room };
        let error = match bytes {
            Ok(bytes) if bytes.len() <= max => return Ok((bytes, waiter)),
            Ok(bytes) => Error::batch_too_large(bytes.len(), max),
            Err(error) => Error::invalid(error.to_string()),
        };
        waiter.tell(Err(error.clone()));
        Err(error)
    }

    /// Before compression.
    fn bytes(&self) -> usize {
        match &self.body {
            Body::Open(builder) => builder.plain_bytes(),
            Body::Encoded(bytes) => bytes.len(),
        }
    }

    /// It was never sent, whatever the error says of others.
    pub(super) fn fail(self, error: &Error) {
        self.told.tell(Err(error.of_unsent()));
    }
}

/// Who waits for a batch that is on its way; holds its bytes of the bound.
pub(super) struct Waiter {
    told: Told,
    _room: OwnedSemaphorePermit,
}

impl Waiter {
    pub(super) fn tell(self, outcome: Result<u64>) {
        self.told.tell(outcome);
    }
}

impl Lane {
    pub(super) fn new(
        topic: Arc<str>,
        partition: u32,
        config: Arc<ProducerConfig>,
        together: Option<Arc<Together>>,
    ) -> Self {
        let (wake, state) = (Notify::new(), Mutex::default());
        Self { topic, partition, config, together, wake, state }
    }

    pub(super) fn push(&self, record: &RecordData, room: OwnedSemaphorePermit) -> Result<Ticket> {
        let mut state = self.state.lock();
        state.refuse()?;
        // A large record must not make a batch too large that others are in.
        let bytes = BatchBuilder::bytes_of(record);
        if state.open.as_ref().is_some_and(|open| open.bytes() + bytes > self.config.batch_bytes) {
            state.seal();
        }
        let is_first = state.open.is_none();
        if is_first {
            let body = Body::Open(BatchBuilder::new(self.config.compression));
            let batch = self.batch(body, 0, room, &mut state);
            state.open = Some(batch);
        } else if let Some(open) = &mut state.open {
            open.room.merge(room);
        }
        let open = state.open.as_mut().ok_or_else(Error::closed)?;
        let Body::Open(builder) = &mut open.body else { return Err(Error::closed()) };
        match record.timestamp_ms {
            0 if !self.config.keep_zero_timestamps => {
                builder.push(&RecordData { timestamp_ms: wall_ms(), ..record.clone() });
            }
            _ => builder.push(record),
        }
        let ticket = Ticket::new(open.outcome.clone(), open.records);
        open.records += 1;
        let is_full = builder.plain_bytes() >= self.config.batch_bytes;
        if is_full {
            state.seal();
        }
        drop(state);
        if is_first || is_full {
            self.wake.notify_one();
        }
        Ok(ticket)
    }

    pub(super) fn push_batch(
        &self,
        bytes: Bytes,
        records: u32,
        room: OwnedSemaphorePermit,
    ) -> Result<Ticket> {
        let mut state = self.state.lock();
        state.refuse()?;
        // Records that came before stay before.
        state.seal();
        let batch = self.batch(Body::Encoded(bytes), records, room, &mut state);
        let ticket = Ticket::new(batch.outcome.clone(), 0);
        state.ready.push_back(batch);
        drop(state);
        self.wake.notify_one();
        Ok(ticket)
    }

    fn batch(
        &self,
        body: Body,
        records: u32,
        room: OwnedSemaphorePermit,
        state: &mut State,
    ) -> Batch {
        while state.outcomes.front().is_some_and(|oldest| oldest.peek().is_some()) {
            state.outcomes.pop_front();
        }
        let (told, outcome) = outcome();
        state.outcomes.push_back(outcome.clone());
        let (since, deadline) = (Instant::now(), after(self.config.delivery_timeout));
        let told = Told::new(told, self.together.clone());
        let in_transaction = self.together.is_some();
        Batch { body, records, since, deadline, told, in_transaction, outcome, room }
    }

    /// Makes everything ready; what to wait for.
    pub(super) fn flush(&self) -> Vec<Outcome> {
        let mut state = self.state.lock();
        state.seal();
        self.wake.notify_one();
        state.outcomes.iter().cloned().collect()
    }

    /// Takes nothing more; what is there still goes.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.seal();
        state.closed = true;
        self.wake.notify_one();
    }

    /// Takes nothing more and fails what is there.
    pub(super) fn abort(&self, error: &Error) {
        let mut state = self.state.lock();
        state.seal();
        state.closed = true;
        state.aborted = Some(error.clone());
        self.wake.notify_one();
    }

    pub(super) fn aborted(&self) -> Option<Error> {
        self.state.lock().aborted.clone()
    }

    /// Closed, and nothing is left that was not sent.
    pub(super) fn is_drained(&self) -> bool {
        let state = self.state.lock();
        state.closed && state.ready.is_empty()
    }

    /// When the next batch is ready: now or earlier, at the end of a linger, or nothing waits.
    pub(super) fn ready_at(&self) -> Option<Instant> {
        let state = self.state.lock();
        let first = state.ready.front().map(|batch| batch.since);
        first.or_else(|| state.open.as_ref().map(|batch| batch.since + self.config.linger))
    }

    /// When the oldest batch is given up.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let state = self.state.lock();
        state.ready.front().or(state.open.as_ref()).map(|batch| batch.deadline)
    }

    /// The next batch that is ready.
    pub(super) fn take(&self, now: Instant) -> Option<Batch> {
        let mut state = self.state.lock();
        let lingered = |batch: &Batch| batch.since + self.config.linger <= now;
        if state.ready.is_empty() && state.open.as_ref().is_some_and(lingered) {
            state.seal();
        }
        state.ready.pop_front()
    }

    /// Gives up what waited too long; it was never sent.
    pub(super) fn expire(&self, now: Instant, error: &Error) {
        let mut over = Vec::new();
        {
            let mut state = self.state.lock();
            if state.open.as_ref().is_some_and(|batch| batch.deadline <= now) {
                state.seal();
            }
            while state.ready.front().is_some_and(|batch| batch.deadline <= now) {
                over.extend(state.ready.pop_front());
            }
        }
        over.into_iter().for_each(|batch| batch.fail(error));
    }

    /// Nothing can be sent: fails all that is ready.
    pub(super) fn fail_ready(&self, error: &Error) {
        let failed = std::mem::take(&mut self.state.lock().ready);
        failed.into_iter().for_each(|batch| batch.fail(error));
    }
}

impl State {
    fn seal(&mut self) {
        self.ready.extend(self.open.take());
    }

    fn refuse(&self) -> Result<()> {
        match self.closed {
            true => Err(self.aborted.as_ref().map_or_else(Error::closed, Error::of_unsent)),
            false => Ok(()),
        }
    }
}

fn wall_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
