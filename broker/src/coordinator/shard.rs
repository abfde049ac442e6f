//! One partition of a coordinator's topic, and the state machine that it is the log of.
//!
//! Owns: reading the partition back, calling the machine, appending what it says, and answering when
//! that is durable. Does not own: what the machine decides.
//!
//! ```text
//! leader epoch begins -> read everything -> serve: call -> machine -> records -> append -> durable -> answer
//!                              ^                                                  |
//!                              +---- an append that fails: memory is no fold of the log any more
//! ```
//!
//! The machine is ahead of the log by what is being written; nobody hears of it before it is durable,
//! because answers are given in order and each waits for all records before it. Appends name the
//! leader epoch in which the partition was read, so that a shard that is not the only writer any
//! more writes nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{FuturesOrdered, FuturesUnordered, StreamExt};
use levee_kafka::ErrorCode;
use levee_proto::FormatError;
use levee_proto::limits::BATCH_DECODED_BYTES_MAX;
use levee_proto::record::batch::check_run;
use levee_proto::record::records::{DecodedRecord, ProducerStamp, Records};
use levee_proto::record::{BatchHeader, Marker};
use levee_runtime::backoff::Backoff;
use tokio::sync::{mpsc, oneshot, watch};

use super::batches::batches;
use super::stock::Stock;
use crate::error::Error;
use crate::fetch::{Fetch, Isolation};
use crate::kafka::code;
use crate::node::Node;
use crate::partition::append::{Ticket, Where};
use crate::partition::{Asked, EndTxn, Partition};

/// Names a call to the machine.
pub(crate) type Token = u64;

/// What a call, or time, leads to.
pub(crate) struct Effects<M: Machine> {
    /// Keys and values to append; no value: a tombstone.
    pub(crate) records: Vec<(Bytes, Option<Bytes>)>,
    /// Where a batch may end, beside behind the last record.
    pub(crate) cuts: Vec<usize>,
    /// Id and epoch of the producer whose transaction the records are part of.
    pub(crate) producer: Option<(i64, i16)>,
    /// Given when the records, and all before them, are durable.
    pub(crate) answers: Vec<(Token, M::Answer)>,
    /// Done then.
    pub(crate) deeds: Vec<M::Deed>,
}

/// A state machine whose memory is the fold of its records. `now`: milliseconds since 1970.
pub(crate) trait Machine: Send + Sized + 'static {
    type Call: Send + 'static;
    type Answer: Send + 'static;
    /// What is to be done elsewhere once its reason is durable.
    type Deed: Send + 'static;

    /// A record of the log, in order.
    fn replay(&mut self, header: &BatchHeader, record: DecodedRecord) -> Result<(), String>;
    /// All of the log was read.
    fn loaded(&mut self, now: i64) -> Effects<Self>;
    fn call(&mut self, now: i64, token: Token, call: Self::Call) -> Effects<Self>;
    /// When `tick` wants to be called.
    fn deadline(&self) -> Option<i64>;
    fn tick(&mut self, now: i64) -> Effects<Self>;
    /// A marker stands in this log.
    fn transaction_ended(&mut self, producer_id: i64, commit: bool);
    /// How many producer ids it wants before it is called.
    fn producer_ids_wanted(&self) -> usize {
        0
    }
    fn give_producer_id(&mut self, _id: i64) {}
    /// The transaction that what a call writes would be part of.
    fn joining(_call: &Self::Call) -> Option<Joining> {
        None
    }
    /// What a deed comes to, each as a call. Dropped where the shard ends.
    fn perform(&self, deed: Self::Deed) -> Vec<BoxFuture<'static, Self::Call>>;
}

/// Who writes as part of a transaction, and what says that it is under way.
pub(crate) struct Joining {
    pub(crate) producer_id: i64,
    pub(crate) producer_epoch: i16,
    pub(crate) asked: Option<Asked>,
}

/// Calls that wait for a shard.
const QUEUE: usize = 1024;
/// How long a caller waits for a shard that is being read, or has much to do.
const LOAD_PATIENCE: Duration = Duration::from_secs(3);
/// How long an append waits for room in its lane.
const APPEND_LIMIT: Duration = Duration::from_secs(10);
/// Between two looks at the clock, which may be set.
const TICK_MAX: Duration = Duration::from_secs(1);
const READ_BYTES: usize = 1 << 20;
const RELOAD_FIRST: Duration = Duration::from_millis(50);
const RELOAD_MAX: Duration = Duration::from_secs(5);

enum Command<M: Machine> {
    Call {
        call: M::Call,
        answer: oneshot::Sender<Result<M::Answer, ErrorCode>>,
    },
    /// Ends a transaction in this partition; answered when the marker is durable.
    End {
        end: EndTxn,
        done: oneshot::Sender<Result<(), Error>>,
    },
}

/// The way to a shard.
pub(crate) struct Shard<M: Machine> {
    calls: mpsc::Sender<Command<M>>,
    /// All of the partition is read.
    loaded: watch::Receiver<bool>,
    /// The leader epoch in which it serves.
    pub(crate) epoch: u32,
}

impl<M: Machine> Shard<M> {
    /// Starts to read the partition, and serves it until this leader epoch is over.
    pub(crate) fn start(
        node: Arc<Node>,
        partition: Arc<Partition>,
        epoch: u32,
        new: impl Fn(usize) -> Option<M> + Send + 'static,
    ) -> Arc<Self> {
        let (calls, queue) = mpsc::channel(QUEUE);
        let (ready, loaded) = watch::channel(false);
        let host = node.host.clone();
        drop(host.spawn("coordinator", async move {
            let mut serving = Serving { node, partition, epoch, queue, ready };
            let mut again = Backoff::new(RELOAD_FIRST, RELOAD_MAX);
            while serving.is_leader() && !serving.queue.is_closed() {
                let Some(machine) = new(serving.batch_max()) else { return };
                if let Err(error) = serving.run(machine).await {
                    let (topic, number) = (&serving.partition.topic, serving.partition.id.partition);
                    tracing::warn!(%topic, number, %error, "a coordinator reads its partition again");
                    again.wait(&serving.node.host).await;
                }
            }
        }));
        Arc::new(Self { calls, loaded, epoch })
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.calls.is_closed()
    }

    /// Asks, and waits for an answer that is durable with all that it rests on.
    pub(crate) async fn call(&self, node: &Node, call: M::Call) -> Result<M::Answer, ErrorCode> {
        let (answer, answered) = oneshot::channel();
        let mut loaded = self.loaded.clone();
        let sent = async {
            loaded.wait_for(|loaded| *loaded).await.ok()?;
            self.calls.send(Command::Call { call, answer }).await.ok()
        };
        match node.host.timeout(LOAD_PATIENCE, sent).await {
            Ok(Some(())) => {}
            Ok(None) => return Err(ErrorCode::NotCoordinator),
            Err(_) => return Err(ErrorCode::CoordinatorLoadInProgress),
        }
        // A shard that ends drops what waits for it.
        answered.await.unwrap_or(Err(ErrorCode::NotCoordinator))
    }

    /// Writes the marker that ends a transaction in this partition, in the order of everything else
    /// that its machine does.
    pub(crate) async fn end_transaction(&self, end: EndTxn) -> Result<(), Error> {
        let gone = || Error::session_ended("the coordinator moved");
        let (done, is_done) = oneshot::channel();
        let mut loaded = self.loaded.clone();
        loaded.wait_for(|loaded| *loaded).await.map_err(|_| gone())?;
        self.calls.send(Command::End { end, done }).await.map_err(|_| gone())?;
        is_done.await.unwrap_or_else(|_| Err(gone()))
    }
}

/// A shard while its leader epoch lasts.
struct Serving<M: Machine> {
    node: Arc<Node>,
    partition: Arc<Partition>,
    epoch: u32,
    queue: mpsc::Receiver<Command<M>>,
    ready: watch::Sender<bool>,
}

/// What waits for its records.
struct Held<M: Machine> {
    answers: Vec<(Token, M::Answer)>,
    deeds: Vec<M::Deed>,
    ended: Option<oneshot::Sender<Result<(), Error>>>,
}

/// In the order of the log; each with whether its records are durable.
type Pending<M> = FuturesOrdered<BoxFuture<'static, (Result<(), Error>, Held<M>)>>;
type Waiting<M> = BTreeMap<Token, oneshot::Sender<Result<<M as Machine>::Answer, ErrorCode>>>;
type Deeds<M> = FuturesUnordered<BoxFuture<'static, <M as Machine>::Call>>;

impl<M: Machine> Serving<M> {
    fn is_leader(&self) -> bool {
        self.partition.leader_epoch() == self.epoch && !self.node.is_ended()
    }

    /// Largest batch that the partition takes now.
    fn batch_max(&self) -> usize {
        self.partition.config().max_message_bytes as usize
    }

    /// Reads everything and serves. `Ok`: the leader epoch is over; `Err`: what is in memory is not
    /// what the log says.
    async fn run(&mut self, mut machine: M) -> Result<(), Error> {
        self.ready.send_replace(false);
        self.load(&mut machine).await?;
        let mut pending: Pending<M> = FuturesOrdered::new();
        let mut waiting: Waiting<M> = BTreeMap::new();
        let mut deeds: Deeds<M> = FuturesUnordered::new();
        let (mut ends, mut next_token) = (self.partition.ends(), 0);
        let mut stock = Stock::default();
        let effects = machine.loaded(self.node.host.wall_ms());
        self.take(effects, None, &mut waiting, &mut pending).await?;
        self.ready.send_replace(true);
        let (node, host) = (self.node.clone(), self.node.host.clone());
        let fetch_id = || producer_id(node.clone());
        loop {
            let due = machine.deadline().map(|at| at.saturating_sub(host.wall_ms()).max(0));
            let due = due.map_or(TICK_MAX, |ms| Duration::from_millis(ms as u64).min(TICK_MAX));
            let (call, answer) = tokio::select! {
                biased;
                Some((durable, held)) = pending.next() => {
                    durable?;
                    held.deeds.into_iter().for_each(|deed| deeds.extend(machine.perform(deed)));
                    give::<M>(held.answers, &mut waiting);
                    let _ = held.ended.map(|done| done.send(Ok(())));
                    continue;
                }
                id = stock.next(machine.producer_ids_wanted(), &host, fetch_id) => {
                    id.into_iter().for_each(|id| machine.give_producer_id(id));
                    continue;
                }
                Some(call) = deeds.next() => (call, None),
                _ = ends.changed() => {
                    if !self.is_leader() && pending.is_empty() {
                        return Ok(());
                    }
                    continue;
                }
                command = self.queue.recv() => match command {
                    // Nobody can ask any more: this shard was replaced.
                    None => return Ok(()),
                    Some(_) if !self.is_leader() => return Ok(()),
                    Some(Command::Call { answer, .. }) if answer.is_closed() => continue,
                    Some(Command::Call { call, answer }) => match self.refused(&call) {
                        None => (call, Some(answer)),
                        Some(code) => {
                            let _ = answer.send(Err(code));
                            continue;
                        }
                    },
                    Some(Command::End { end, done }) => {
                        self.end(&mut machine, &end, done, &mut pending).await?;
                        continue;
                    }
                },
                () = host.sleep(due) => {
                    if !self.is_leader() {
                        return Ok(());
                    }
                    let effects = machine.tick(host.wall_ms());
                    self.take(effects, None, &mut waiting, &mut pending).await?;
                    continue;
                }
            };
            next_token += 1;
            answer.into_iter().for_each(|answer| drop(waiting.insert(next_token, answer)));
            let effects = machine.call(host.wall_ms(), next_token, call);
            self.take(effects, Some(next_token), &mut waiting, &mut pending).await?;
        }
    }

    /// Why what a call would write could not be appended: its transaction ended, or another producer
    /// took over, while it was on its way. An append that fails would cost all others their state.
    fn refused(&self, call: &M::Call) -> Option<ErrorCode> {
        let Joining { producer_id, producer_epoch, asked } = M::joining(call)?;
        let holds = match asked {
            Some(asked) => self.partition.still_holds(asked, producer_id, producer_epoch),
            None => self.partition.next_sequence(producer_id, producer_epoch).map(drop),
        };
        holds.err().map(|error| code(&error))
    }

    /// Appends the records and puts the answers behind them.
    async fn take(
        &self,
        effects: Effects<M>,
        asker: Option<Token>,
        waiting: &mut Waiting<M>,
        pending: &mut Pending<M>,
    ) -> Result<(), Error> {
        let Effects { records, cuts, producer, answers, deeds } = effects;
        let (now_ms, max) = (self.node.host.wall_ms(), self.batch_max());
        let batches = batches(records, &cuts, now_ms, max).map_err(|bytes| {
            // The machine must not come to this. Who asked for it would ask again when the partition
            // is read again, and again: it is told that this is no use.
            for token in answers.iter().map(|(token, _)| *token).chain(asker) {
                let refused = Err(ErrorCode::UnknownServerError);
                let _ = waiting.remove(&token).map(|asker| asker.send(refused));
            }
            let (topic, number) = (&self.partition.topic, self.partition.id.partition);
            tracing::error!(%topic, number, bytes, max, "a coordinator made too large a batch");
            Error::batch_too_large(bytes as u64, max as u64)
        })?;
        let mut tickets = Vec::with_capacity(batches.len());
        for builder in batches {
            let batch = match producer {
                None => builder.build(None),
                Some((producer_id, producer_epoch)) => {
                    let base_sequence =
                        self.partition.next_sequence(producer_id, producer_epoch)?;
                    let stamp = ProducerStamp { producer_id, producer_epoch, base_sequence };
                    builder.transactional().build(Some(stamp))
                }
            };
            let place = Where::in_epoch(self.epoch);
            tickets.push(self.partition.append_where(batch, APPEND_LIMIT, place).await?);
        }
        let held = Held { answers, deeds, ended: None };
        if !tickets.is_empty() || !held.answers.is_empty() || !held.deeds.is_empty() {
            pending.push_back(Box::pin(async move { (durable(tickets).await, held) }));
        }
        Ok(())
    }

    /// Appends the marker that ends a transaction. One that is refused changes nothing.
    async fn end(
        &self,
        machine: &mut M,
        end: &EndTxn,
        done: oneshot::Sender<Result<(), Error>>,
        pending: &mut Pending<M>,
    ) -> Result<(), Error> {
        let ticket = match self.partition.end_transaction(end, APPEND_LIMIT).await {
            Ok(ticket) => ticket,
            Err(error) => {
                let _ = done.send(Err(error));
                return Ok(());
            }
        };
        machine.transaction_ended(end.producer_id, end.commit);
        let held = Held { answers: Vec::new(), deeds: Vec::new(), ended: Some(done) };
        pending.push_back(Box::pin(async move { (ticket.durable().await.map(drop), held) }));
        Ok(())
    }

    /// Replays the log up to where it ends now, which no other can move in this epoch.
    async fn load(&self, machine: &mut M) -> Result<(), Error> {
        let node = &self.node;
        let ladder = self.partition.readable()?;
        let (mut offset, end) = (ladder.log_start(), ladder.log_end());
        let ahead = node.tiers.reader.read_ahead();
        let began = node.host.now();
        while offset < end {
            let (wait, isolation) = (node.config.request_timeout, Isolation::ReadUncommitted);
            let fetch = Fetch { offset, max_bytes: READ_BYTES, min_bytes: 1, wait, isolation };
            let found = node.fetch_ahead(&self.partition, &fetch, Some(&ahead)).await?;
            replay(machine, &found.batches.into_bytes(), offset)?;
            if found.next_offset <= offset && !self.is_leader() {
                return Err(Error::not_leader(&self.partition.topic, self.partition.id.partition));
            }
            offset = found.next_offset;
        }
        let took_ms = node.host.now().since(began).as_millis() as u64;
        let (topic, number) = (&self.partition.topic, self.partition.id.partition);
        tracing::debug!(%topic, number, end, took_ms, "a coordinator has read its partition");
        Ok(())
    }
}

fn give<M: Machine>(answers: Vec<(Token, M::Answer)>, waiting: &mut Waiting<M>) {
    for (token, answer) in answers {
        // Who asked may have gone.
        let _ = waiting.remove(&token).map(|asker| asker.send(Ok(answer)));
    }
}

async fn producer_id(node: Arc<Node>) -> Result<i64, Error> {
    node.producer_id().await
}

async fn durable(tickets: Vec<Ticket>) -> Result<(), Error> {
    for ticket in tickets {
        ticket.durable().await?;
    }
    Ok(())
}

fn replay<M: Machine>(machine: &mut M, batches: &Bytes, from: u64) -> Result<(), Error> {
    let mut bad = None;
    let walked = check_run(batches, |at, header| {
        let batch = batches.slice(at..at + header.bytes as usize);
        let replayed = match header.is_control() {
            true => Marker::of(&batch).map(|marker| {
                if let Some(marker) = marker {
                    machine.transaction_ended(header.producer_id, marker.commit);
                }
            }),
            false => replay_batch(machine, header, &batch, from),
        };
        bad = replayed.err();
        bad.is_none()
    });
    match walked.err().or(bad) {
        None => Ok(()),
        Some(error) => Err(Error::corrupt_data(error)),
    }
}

fn replay_batch<M: Machine>(
    machine: &mut M,
    header: &BatchHeader,
    batch: &Bytes,
    from: u64,
) -> Result<(), FormatError> {
    for record in Records::of(batch, BATCH_DECODED_BYTES_MAX)? {
        let record = record?;
        if record.offset < from {
            continue;
        }
        let offset = record.offset;
        if let Err(why) = machine.replay(header, record) {
            // One record that cannot be read must not take everything else away.
            tracing::warn!(offset, why, "a coordinator's record is passed over");
        }
    }
    Ok(())
}
