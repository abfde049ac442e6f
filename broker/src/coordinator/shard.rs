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
use futures::stream::{FuturesOrdered, StreamExt};
use levee_kafka::ErrorCode;
use levee_proto::limits::BATCH_DECODED_BYTES_MAX;
use levee_proto::record::BatchHeader;
use levee_proto::record::batch::check_run;
use levee_proto::record::codecs::Compression;
use levee_proto::record::records::{BatchBuilder, DecodedRecord, RecordData, Records};
use levee_runtime::backoff::Backoff;
use tokio::sync::{mpsc, oneshot, watch};

use crate::error::{Error, Result};
use crate::fetch::{Fetch, Isolation};
use crate::node::Node;
use crate::partition::Partition;

/// Names a call to the machine.
pub(crate) type Token = u64;

/// What a call, or time, leads to.
pub(crate) struct Effects<A> {
    /// Keys and values to append as one batch; no value: a tombstone.
    pub(crate) records: Vec<(Bytes, Option<Bytes>)>,
    /// Given when the records, and all before them, are durable.
    pub(crate) answers: Vec<(Token, A)>,
}

/// A state machine whose memory is the fold of its records.
pub(crate) trait Machine: Send + 'static {
    type Call: Send + 'static;
    type Answer: Send + 'static;

    /// A record of the log, in order.
    fn replay(
        &mut self,
        header: &BatchHeader,
        record: DecodedRecord,
    ) -> std::result::Result<(), String>;
    /// All of the log was read. `now`: milliseconds since 1970, here and below.
    fn loaded(&mut self, now: i64) -> Effects<Self::Answer>;
    fn call(&mut self, now: i64, token: Token, call: Self::Call) -> Effects<Self::Answer>;
    /// When `tick` wants to be called.
    fn deadline(&self) -> Option<i64>;
    fn tick(&mut self, now: i64) -> Effects<Self::Answer>;
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

struct Command<M: Machine> {
    call: M::Call,
    answer: oneshot::Sender<std::result::Result<M::Answer, ErrorCode>>,
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
        new: impl Fn() -> M + Send + 'static,
    ) -> Arc<Self> {
        let (calls, queue) = mpsc::channel(QUEUE);
        let (ready, loaded) = watch::channel(false);
        let host = node.host.clone();
        drop(host.spawn("coordinator", async move {
            let mut serving = Serving { node, partition, epoch, queue, ready };
            let mut again = Backoff::new(RELOAD_FIRST, RELOAD_MAX);
            while serving.is_leader() {
                if let Err(error) = serving.run(new()).await {
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
    pub(crate) async fn call(
        &self,
        node: &Node,
        call: M::Call,
    ) -> std::result::Result<M::Answer, ErrorCode> {
        let (answer, answered) = oneshot::channel();
        let mut loaded = self.loaded.clone();
        let sent = async {
            loaded.wait_for(|loaded| *loaded).await.ok()?;
            self.calls.send(Command { call, answer }).await.ok()
        };
        match node.host.timeout(LOAD_PATIENCE, sent).await {
            Ok(Some(())) => {}
            Ok(None) => return Err(ErrorCode::NotCoordinator),
            Err(_) => return Err(ErrorCode::CoordinatorLoadInProgress),
        }
        // A shard that ends drops what waits for it.
        answered.await.unwrap_or(Err(ErrorCode::NotCoordinator))
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

/// Answers that wait for their records; whether those are durable.
type Pending<A> = FuturesOrdered<BoxFuture<'static, (Result<()>, Vec<(Token, A)>)>>;
type Waiting<A> = BTreeMap<Token, oneshot::Sender<std::result::Result<A, ErrorCode>>>;

impl<M: Machine> Serving<M> {
    fn is_leader(&self) -> bool {
        self.partition.leader_epoch() == self.epoch && !self.node.is_ended()
    }

    /// Reads everything and serves. `Ok`: the leader epoch is over; `Err`: what is in memory is not
    /// what the log says.
    async fn run(&mut self, mut machine: M) -> Result<()> {
        self.ready.send_replace(false);
        self.load(&mut machine).await?;
        let mut pending: Pending<M::Answer> = FuturesOrdered::new();
        let mut waiting: Waiting<M::Answer> = BTreeMap::new();
        let (mut ends, mut next_token) = (self.partition.ends(), 0);
        let effects = machine.loaded(self.node.host.wall_ms());
        self.take(effects, &mut pending).await?;
        self.ready.send_replace(true);
        loop {
            let host = self.node.host.clone();
            let due = machine.deadline().map(|at| at.saturating_sub(host.wall_ms()).max(0));
            let due = due.map_or(TICK_MAX, |ms| Duration::from_millis(ms as u64).min(TICK_MAX));
            tokio::select! {
                biased;
                Some((durable, answers)) = pending.next() => {
                    durable?;
                    for (token, answer) in answers {
                        // Who asked may have gone.
                        let _ = waiting.remove(&token).map(|asker| asker.send(Ok(answer)));
                    }
                }
                _ = ends.changed() => if !self.is_leader() && pending.is_empty() {
                    return Ok(());
                },
                command = self.queue.recv() => {
                    // Nobody can ask any more: this shard was replaced.
                    let Some(Command { call, answer }) = command else { return Ok(()) };
                    if !self.is_leader() {
                        return Ok(());
                    }
                    if answer.is_closed() {
                        continue;
                    }
                    next_token += 1;
                    waiting.insert(next_token, answer);
                    let effects = machine.call(host.wall_ms(), next_token, call);
                    self.take(effects, &mut pending).await?;
                }
                () = host.sleep(due) => {
                    if !self.is_leader() {
                        return Ok(());
                    }
                    let effects = machine.tick(host.wall_ms());
                    self.take(effects, &mut pending).await?;
                }
            }
        }
    }

    /// Appends the records and puts the answers behind them.
    async fn take(
        &self,
        effects: Effects<M::Answer>,
        pending: &mut Pending<M::Answer>,
    ) -> Result<()> {
        let Effects { records, answers } = effects;
        if records.is_empty() {
            if !answers.is_empty() {
                pending.push_back(Box::pin(async move { (Ok(()), answers) }));
            }
            return Ok(());
        }
        let mut builder = BatchBuilder::new(Compression::None);
        let timestamp_ms = self.node.host.wall_ms();
        for (key, value) in records {
            let key = Some(key);
            builder.push(&RecordData { timestamp_ms, key, value, ..RecordData::default() });
        }
        let batch = builder.build(None);
        let ticket = self.partition.append_in(batch, APPEND_LIMIT, Some(self.epoch)).await?;
        pending.push_back(Box::pin(async move { (ticket.durable().await.map(drop), answers) }));
        Ok(())
    }

    /// Replays the log up to where it ends now, which no other can move in this epoch.
    async fn load(&self, machine: &mut M) -> Result<()> {
        let node = &self.node;
        let ladder = self.partition.readable()?;
        let (mut offset, end) = (ladder.log_start(), ladder.log_end());
        let ahead = node.tiers.reader.read_ahead();
        let began = node.host.now();
        while offset < end {
            let wait = node.config.request_timeout;
            let isolation = Isolation::ReadUncommitted;
            let fetch = Fetch { offset, max_bytes: READ_BYTES, min_bytes: 1, wait, isolation };
            let found = node.fetch_ahead(&self.partition, &fetch, Some(&ahead)).await?;
            replay(machine, &found.batches, offset)?;
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

fn replay<M: Machine>(machine: &mut M, batches: &Bytes, from: u64) -> Result<()> {
    let mut bad = None;
    let walked = check_run(batches, |at, header| {
        // Markers of transactions; nothing transactional is in these topics yet.
        if header.is_control() {
            return true;
        }
        let batch = batches.slice(at..at + header.bytes as usize);
        let replayed = Records::of(&batch, BATCH_DECODED_BYTES_MAX).and_then(|records| {
            for record in records {
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
        });
        bad = replayed.err();
        bad.is_none()
    });
    match walked.err().or(bad) {
        None => Ok(()),
        Some(error) => Err(Error::corrupt_data(error)),
    }
}
