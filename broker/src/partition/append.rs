//! Appending: check, assign, hand to the lane; and what the lane says later.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use levee_hot_log::lane::{Entry, EntryOwner, LaneEnd, Payload, Reservation};
use levee_proto::ids::LaneId;
use levee_proto::record::records::stamp_append_time;
use levee_proto::record::{BatchHeader, Marker, StoredBatch};
use tokio::sync::oneshot;

use super::acks::{Appended, Outcome};
use super::check::check;
use super::producers::{Ended, Producers, Verdict};
use super::stage::Serving;
use super::transactions::{Asked, EndTxn, Transactions};
use super::untiered::Untiered;
use super::{Inner, Partition};
use crate::config::TimestampType;
use crate::error::Error;

/// What must hold where a batch gets its offset.
#[derive(Debug, Clone, Copy, Default)]
pub struct Where {
    pub leader_epoch: Option<u32>,
    /// No marker of its producer stands here or above.
    unmarked_from: Option<u64>,
}

impl Where {
    pub fn in_epoch(epoch: u32) -> Self {
        Self { leader_epoch: Some(epoch), unmarked_from: None }
    }

    fn is_broken(self, batch: &BatchHeader, producers: &Producers) -> bool {
        self.unmarked_from.is_some_and(|from| producers.is_marked(batch.producer_id, from))
    }
}

impl From<Asked> for Where {
    fn from(asked: Asked) -> Self {
        let Asked { leader_epoch, log_end } = asked;
        Self { leader_epoch: Some(leader_epoch), unmarked_from: Some(log_end) }
    }
}

/// An append that has its place; resolves when it is durable, or never will be.
pub struct Ticket {
    /// Where the batch stands, durable or not.
    pub appended: Appended,
    outcome: oneshot::Receiver<Outcome>,
}

impl Ticket {
    /// Waits for durability. The partition always answers; a closed channel means that it is gone.
    pub async fn durable(self) -> Outcome {
        self.outcome.await.unwrap_or_else(|_| Err(Error::session_ended("the partition is gone")))
    }
}

impl Partition {
    /// Appends one encoded batch. Returns once it has an offset; waits at most `limit` for room
    /// in the lane or for a hand-off to end, and then nothing was written.
    pub async fn append(self: &Arc<Self>, bytes: Bytes, limit: Duration) -> Result<Ticket, Error> {
        self.append_where(bytes, limit, Where::default()).await
    }

    /// As `append`, where something holds: else nothing is written.
    pub async fn append_where(
        self: &Arc<Self>,
        bytes: Bytes,
        limit: Duration,
        holds: Where,
    ) -> Result<Ticket, Error> {
        let (config, now_ms) = (self.config(), self.host.wall_ms());
        let header = check(&self.host, &self.topic, &bytes, &config, now_ms)?;
        let (bytes, header) = match config.message_timestamp_type {
            TimestampType::CreateTime => (bytes, header),
            TimestampType::LogAppendTime => timed(&bytes, now_ms)?,
        };
        self.place(bytes, header, None, limit, holds).await
    }

    /// Appends the marker that ends a producer's transaction. As `append`; a marker that says what
    /// one before it said changes nothing, and is answered when that one is durable.
    pub async fn end_transaction(
        self: &Arc<Self>,
        end: &EndTxn,
        limit: Duration,
    ) -> Result<Ticket, Error> {
        let (id, epoch) = (end.producer_id, end.producer_epoch);
        if id < 0 || epoch < 0 {
            let why = format!("a marker for producer id {id}, epoch {epoch}: both from 0 on");
            return Err(Error::invalid_argument(why));
        }
        let marker = Marker { commit: end.commit, coordinator_epoch: end.coordinator_epoch };
        let bytes = marker.batch(id, epoch, self.host.wall_ms());
        let header = BatchHeader::decode(&bytes)
            .map_err(|error| Error::internal(format!("a marker that no reader takes: {error}")))?;
        self.place(bytes, header, Some(end), limit, Where::default()).await
    }

    async fn place(
        self: &Arc<Self>,
        bytes: Bytes,
        header: BatchHeader,
        end: Option<&EndTxn>,
        limit: Duration,
        holds: Where,
    ) -> Result<Ticket, Error> {
        let started = self.host.now();
        loop {
            let left = limit.saturating_sub(self.host.now().since(started));
            let serving = self.wait_serving(left).await?;
            if holds.leader_epoch.is_some_and(|epoch| epoch != serving.leader_epoch) {
                return Err(Error::not_leader(&self.topic, self.id.partition));
            }
            let left = limit.saturating_sub(self.host.now().since(started));
            let room = match self.host.timeout(left, serving.lane.reserve(bytes.len())).await {
                Ok(room) => room?,
                Err(_) => {
                    return Err(Error::overloaded(format!("the WAL had no room for {limit:?}")));
                }
            };
            // The grant may have changed while room was awaited.
            if let Some(done) = self.assign(&bytes, header, (end, holds), &serving, room) {
                return done;
            }
        }
    }

    async fn wait_serving(&self, limit: Duration) -> Result<Serving, Error> {
        let mut ends = self.ends.subscribe();
        let serving = async {
            loop {
                {
                    let inner = self.inner.lock();
                    if let Some(serving) = inner.stage.serving() {
                        return Ok(serving.clone());
                    }
                    if let Some(why) = inner.stage.ended() {
                        return Err(why);
                    }
                    if !inner.stage.is_handing_off() {
                        let (_, why) = inner.stage.describe();
                        return Err(Error::partition_unavailable(
                            &self.topic,
                            self.id.partition,
                            &why,
                        ));
                    }
                }
                if ends.changed().await.is_err() {
                    return Err(Error::session_ended("the partition is gone"));
                }
            }
        };
        match self.host.timeout(limit, serving).await {
            Ok(serving) => serving,
            Err(_) => Err(Error::partition_unavailable(&self.topic, self.id.partition, "it moves")),
        }
    }

    /// Under the lock: judge, assign, remember, hand over. `None`: the grant changed, try again.
    fn assign(
        self: &Arc<Self>,
        bytes: &Bytes,
        header: BatchHeader,
        (ends, holds): (Option<&EndTxn>, Where),
        expected: &Serving,
        reservation: Reservation,
    ) -> Option<Result<Ticket, Error>> {
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        let serving = inner.stage.serving()?;
        if serving.leader_epoch != expected.leader_epoch {
            return None;
        }
        let verdict = match ends {
            None => inner.producers.judge(&header),
            Some(end) => inner.producers.judge_end(end),
        };
        match verdict {
            Verdict::New if holds.is_broken(&header, &inner.producers) => {
                return Some(Err(Error::transaction_ended(header.producer_id)));
            }
            Verdict::New => {}
            Verdict::Duplicate { base_offset, end_offset } => {
                return Some(Ok(join(inner, base_offset, end_offset)));
            }
            Verdict::Ended => {
                let end = inner.ladder.log_end();
                return Some(Ok(join(inner, end, end)));
            }
            refused => return Some(Err(refusal(&header, refused))),
        }
        let base = inner.ladder.log_end();
        let epoch = serving.leader_epoch;
        let stored = StoredBatch::stamp(bytes, header, base, epoch);
        let (end, marker) = (stored.header.end_offset(), stored.marker());
        let append_time_ms = stored.header.append_time();
        let ended = marker.and_then(|marker| inner.producers.ended_by(&stored.header, marker));
        let entry = Entry {
            partition: self.id,
            leader_epoch: epoch,
            base,
            end,
            payload: Payload::Batch(stored.clone()),
            aborted: ended.and_then(Ended::aborted),
            lazy_sync: self.config().lazy_sync(),
            owner: self.clone(),
            reservation,
        };
        // Nothing is remembered of a batch that the lane does not take.
        if let Err(why) = serving.lane.append(entry) {
            return Some(Err(Error::session_ended(why)));
        }
        inner.ladder.assign(end);
        inner.producers.appended(&stored.header, marker);
        ended.into_iter().for_each(|ended| inner.transactions.ended(ended));
        inner.untiered.push(stored.header, marker, self.host.now());
        self.tails.add(super::tail::memory(&stored));
        inner.tail.push(stored);
        let appended = Appended {
            base_offset: base,
            end_offset: end,
            leader_epoch: epoch,
            log_start: inner.ladder.log_start(),
            duplicate: false,
            append_time_ms,
        };
        Some(Ok(Ticket { appended, outcome: inner.acks.wait(appended) }))
    }

    /// Starts serving a grant. `known`: producer state at its start, where this leader is new.
    pub fn serve(&self, serving: Serving, log_start: u64, known: Option<Producers>) {
        let mut inner = self.inner.lock();
        if let Some(producers) = known {
            // I15: snapshot and fold of all records up to the start.
            let unstable = producers.first_open();
            inner.ladder = super::Ladder::new(log_start, serving.start, unstable);
            inner.transactions = Transactions::new(serving.start);
            inner.tail = super::Tail::new(serving.start);
            inner.untiered = Untiered::new(producers.clone());
            inner.producers = producers;
        }
        assert_eq!(inner.ladder.log_end(), serving.start, "I4: offsets tile across epochs");
        inner.hand_off_durable = false;
        inner.stage.serve(serving);
        self.announce(&inner);
    }

    /// Says why the partition cannot be served yet.
    pub fn wait(&self, why: &str) {
        let mut inner = self.inner.lock();
        inner.stage.wait(why);
        self.announce(&inner);
    }

    /// Appends the last entry of this epoch to its lane; false where nothing is served.
    pub fn hand_off(self: &Arc<Self>) -> bool {
        let mut inner = self.inner.lock();
        let Some(serving) = inner.stage.hand_off() else { return false };
        let mut snapshot = BytesMut::new();
        inner.producers.snapshot().encode(&mut snapshot);
        let end = inner.ladder.log_end();
        // An ended lane ends the session; there is nobody left to hand off to.
        let _ = serving.lane.append(Entry {
            partition: self.id,
            leader_epoch: serving.leader_epoch,
            base: end,
            end,
            payload: Payload::HandOff(snapshot.freeze()),
            aborted: None,
            lazy_sync: false,
            owner: self.clone(),
            reservation: Reservation::none(),
        });
        self.announce(&inner);
        true
    }

    /// The epoch whose hand-off is durable and where it ended, until the next grant.
    pub fn handed_off(&self) -> Option<(u32, u64)> {
        let inner = self.inner.lock();
        let done = inner.stage.is_handing_off()
            && inner.hand_off_durable
            && inner.ladder.durable_end() == inner.ladder.log_end();
        done.then(|| (inner.stage.leader_epoch(), inner.ladder.log_end()))
    }
}

fn refusal(header: &BatchHeader, verdict: Verdict) -> Error {
    let producer = header.producer_id;
    match verdict {
        Verdict::Unknown { got } => Error::unknown_producer(producer, got),
        Verdict::OutOfOrder { expected, got } => {
            Error::out_of_order_sequence(producer, expected, got)
        }
        Verdict::ForgottenDuplicate { got } => Error::duplicate_sequence(producer, got),
        Verdict::Fenced { epoch, got } => Error::producer_fenced(producer, epoch, got),
        Verdict::Outside { open } => Error::outside_of_transaction(producer, open),
        Verdict::CoordinatorFenced { epoch, got } => {
            Error::coordinator_fenced(producer, epoch, got)
        }
        Verdict::New | Verdict::Duplicate { .. } | Verdict::Ended => {
            unreachable!("{verdict:?} is not a refusal")
        }
    }
}

/// A batch whose records have the broker's time.
fn timed(bytes: &Bytes, now_ms: i64) -> Result<(Bytes, BatchHeader), Error> {
    let bytes = stamp_append_time(bytes, now_ms);
    let header = BatchHeader::decode(&bytes)
        .map_err(|error| Error::internal(format!("a time that no reader takes: {error}")))?;
    Ok((bytes, header))
}

/// A duplicate of a batch that is pending gets the original's outcome; of a durable one, its place.
fn join(inner: &mut Inner, base_offset: u64, end_offset: u64) -> Ticket {
    let appended = Appended {
        base_offset,
        end_offset,
        leader_epoch: inner.stage.leader_epoch(),
        log_start: inner.ladder.log_start(),
        duplicate: true,
        append_time_ms: None,
    };
    let outcome = inner.acks.wait(appended);
    inner.acks.release(inner.ladder.durable_end(), inner.ladder.log_start());
    Ticket { appended, outcome }
}

impl EntryOwner for Partition {
    fn durable(&self, _lane: LaneId, _position: u64, end: u64, hand_off: bool) {
        let mut inner = self.inner.lock();
        inner.transactions.durable(end);
        let unstable = inner.transactions.first_unstable(&inner.producers);
        inner.ladder.durable(end, unstable);
        inner.hand_off_durable |= hand_off;
        let log_start = inner.ladder.log_start();
        inner.acks.release(end, log_start);
        self.announce(&inner);
    }

    fn failed(&self, lane: LaneId, _end: u64, why: &LaneEnd) {
        self.end(&Error::session_ended(format!("lane {lane} {why}")).maybe_written());
    }

    fn is_covered(&self, _leader_epoch: u32, end: u64, hand_off: bool) -> bool {
        // A deleted topic holds no lane back.
        if self.gone.load(Ordering::Acquire) {
            return true;
        }
        let inner = self.inner.lock();
        // A hand-off is covered once the next grant is in use.
        inner.ladder.tiered_end() >= end && !(hand_off && inner.stage.is_handing_off())
    }
}
