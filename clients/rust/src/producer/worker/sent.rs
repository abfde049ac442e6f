//! The batches of a partition that were sent and are not over, in their order.

use std::collections::VecDeque;

use bytes::Bytes;
use levee_proto::FormatError;
use levee_proto::record::BatchHeader;
use levee_proto::record::records::{ProducerStamp, stamp_producer};
use tokio::time::Instant;

use super::super::lane::Waiter;
use crate::error::{Error, Result};

/// One of them.
pub(super) struct Sent {
    /// Its place among all batches of the worker.
    number: u64,
    /// Of its present request.
    pub(super) id: u64,
    pub(super) bytes: Bytes,
    deadline: Instant,
    waiter: Waiter,
    /// Sent then, and no answer yet; `None`: must be sent again.
    pub(super) since: Option<Instant>,
    /// An earlier try may have written it.
    unsure: bool,
    /// One in front of it failed for good: any further trouble ends this one too. It may be
    /// written all the same, where the one in front was only given up.
    doomed: Option<Error>,
}

impl Sent {
    pub(super) fn new(
        number: u64,
        id: u64,
        bytes: Bytes,
        deadline: Instant,
        waiter: Waiter,
        now: Instant,
    ) -> Self {
        let (since, unsure, doomed) = (Some(now), false, None);
        Self { number, id, bytes, deadline, waiter, since, unsure, doomed }
    }

    /// Puts it under another name, and gives its number of records. It was never written.
    pub(super) fn restamp(&mut self, stamp: ProducerStamp) -> Result<u32> {
        let damaged = |error: FormatError| Error::corrupt(&error);
        let header = BatchHeader::decode(&self.bytes).map_err(damaged)?;
        self.bytes = stamp_producer(self.bytes.clone(), stamp).map_err(damaged)?;
        Ok(header.record_count)
    }

    fn end(self, outcome: Result<u64>) {
        self.waiter.tell(outcome);
    }
}

/// See the module.
#[derive(Default)]
pub(super) struct SentBatches(VecDeque<Sent>);

impl SentBatches {
    /// How many batches lie between the oldest one that is not over and `next`, both over or not.
    pub(super) fn span(&self, next: u64) -> u64 {
        self.0.front().map_or(0, |oldest| next - oldest.number)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn push(&mut self, batch: Sent) {
        self.0.push_back(batch);
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Sent> {
        self.0.iter_mut()
    }

    pub(super) fn position(&self, id: u64) -> Option<usize> {
        self.0.iter().position(|batch| batch.id == id && batch.since.is_some())
    }

    /// Since when the oldest one without an answer waits for it.
    pub(super) fn waits_since(&self) -> Option<Instant> {
        self.0.iter().filter_map(|batch| batch.since).min()
    }

    pub(super) fn has_retries(&self) -> bool {
        self.0.iter().any(|batch| batch.since.is_none())
    }

    /// All answers are there, and some ask for another try.
    pub(super) fn must_resend(&self) -> bool {
        self.has_retries() && self.waits_since().is_none()
    }

    pub(super) fn is_surely_unwritten(&self, at: usize) -> bool {
        self.0.get(at).is_some_and(|batch| !batch.unsure && batch.doomed.is_none())
    }

    pub(super) fn follows_retry(&self, at: usize) -> bool {
        self.0.iter().take(at).any(|batch| batch.since.is_none())
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.0.front().map(|batch| batch.deadline)
    }

    pub(super) fn succeed(&mut self, at: usize, base_offset: u64) {
        if let Some(batch) = self.0.remove(at) {
            batch.end(Ok(base_offset));
        }
    }

    /// What is told of it is why it was doomed, if it was; whether it may be written is known by
    /// its own tries only, the present one (which is what `error` is about) and those before.
    pub(super) fn fail(&mut self, at: usize, error: &Error) {
        if let Some(batch) = self.0.remove(at) {
            let is_under_way = batch.since.is_some();
            let may_be_written = batch.unsure || (is_under_way && error.may_be_written);
            let error = batch.doomed.as_ref().unwrap_or(error).clone();
            batch.end(Err(Error { may_be_written, ..error }));
        }
    }

    pub(super) fn fail_all(&mut self, error: &Error) {
        while !self.0.is_empty() {
            self.fail(0, error);
        }
    }

    /// Everything behind `at` can only end well by the answer that is under way.
    pub(super) fn doom_behind(&mut self, at: usize, error: &Error) {
        let cause = format!("a batch in front of it failed: {}", error.message);
        let doom = Error { message: cause, may_be_written: false, ..error.clone() };
        for batch in self.0.iter_mut().skip(at + 1) {
            batch.doomed.get_or_insert_with(|| doom.clone());
        }
        // What was to be resent has nothing under way.
        self.end_doomed();
    }

    /// The answer asks for another try.
    pub(super) fn retry_or_fail(&mut self, at: usize, error: &Error) {
        if let Some(batch) = self.0.get_mut(at) {
            batch.since = None;
            batch.unsure |= error.may_be_written;
        }
        self.end_doomed();
    }

    /// No answer will come any more.
    pub(super) fn retry_all(&mut self, error: &Error) {
        for batch in &mut self.0 {
            // Only what was under way may have been written by it.
            batch.unsure |= batch.since.take().is_some() && error.may_be_written;
        }
        self.end_doomed();
    }

    fn end_doomed(&mut self) {
        let mut at = 0;
        while let Some(batch) = self.0.get(at) {
            match batch.doomed.clone() {
                Some(doom) if batch.since.is_none() => self.fail(at, &doom),
                _ => at += 1,
            }
        }
    }
}
