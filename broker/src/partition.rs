//! One partition log on its leader: offsets, producers, tail, hot segments, acks.
//!
//! Owns: the order of a partition and everything that depends on it. Does not own: what makes it
//! durable (its lane), what is in the bucket (`levee-tiering`), who leads it (the MetaLog).
//!
//! One short lock guards the state; it is never held while waiting. Lanes call back without any
//! lock of theirs, so the order is always: partition lock, then lane queue.

pub mod acks;
pub mod append;
mod check;
pub mod ladder;
pub mod local;
pub mod producers;
pub mod stage;
pub mod tail;
pub mod transactions;
pub mod untiered;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use levee_hot_log::segment::HotSegments;
use levee_proto::ids::{LaneId, PartitionId};
use levee_proto::metalog::DurabilityClass;
use levee_proto::object::{AbortedTxn, ProducerSnapshot};
use levee_runtime::Host;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::config::TopicConfig;
use crate::error::Error;
use acks::Acks;
use ladder::Ladder;
use producers::Producers;
use stage::Stage;
use tail::Tail;
use transactions::Transactions;
use untiered::Untiered;

pub use acks::{Appended, Outcome};
pub use append::Ticket;
pub use local::Local;
pub use stage::Serving;
pub use transactions::{Asked, EndTxn};

/// Producers whose newest record is older than this, by log time, are forgotten (Kafka's
/// `producer.id.expiration.ms`).
pub(crate) const PRODUCER_EXPIRY_MS: i64 = 24 * 3600 * 1000;

/// Memory of all tails of this broker, bytes.
#[derive(Default)]
pub struct TailBytes(AtomicU64);

impl TailBytes {
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
    fn add(&self, bytes: usize) {
        self.0.fetch_add(bytes as u64, Ordering::Relaxed);
    }
    fn sub(&self, bytes: usize) {
        self.0.fetch_sub(bytes as u64, Ordering::Relaxed);
    }
}

/// See the module.
pub struct Partition {
    pub id: PartitionId,
    pub topic: String,
    host: Host,
    inner: Mutex<Inner>,
    config: Mutex<Arc<TopicConfig>>,
    /// Ends that readers and movers wait for; sent on every change.
    ends: watch::Sender<Ends>,
    hot: HotSegments,
    /// One task at a time moves tail to hot segments.
    flushing: AtomicBool,
    /// Its topic is deleted: nothing of it has to be kept.
    gone: AtomicBool,
    tails: Arc<TailBytes>,
}

/// What a long poll looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ends {
    pub log_start: u64,
    pub high_watermark: u64,
    pub last_stable: u64,
    /// Grows with each change of stage.
    pub stage: u64,
    /// The hand-off entry of the present epoch is durable.
    pub handed_off: bool,
}

struct Inner {
    ladder: Ladder,
    stage: Stage,
    producers: Producers,
    transactions: Transactions,
    tail: Tail,
    untiered: Untiered,
    acks: Acks,
    /// The hand-off entry of the present epoch is durable.
    hand_off_durable: bool,
}

impl Inner {
    /// Objects tell of everything below the end of what they cover; what is in memory is read
    /// without them.
    fn forget_aborted(&mut self) {
        let told = self.ladder.tiered_end().min(self.tail.start());
        self.transactions.forget(self.ladder.local_start(), told);
    }
}

/// Where a partition stands, for people and metrics.
#[derive(Debug, Clone)]
pub struct Status {
    pub ladder: Ladder,
    pub state: &'static str,
    pub reason: String,
    pub leader_epoch: u32,
    pub lane: Option<LaneId>,
    /// Of the present grant.
    pub class: Option<DurabilityClass>,
    pub lag_bytes: u64,
    pub lag_ms: u64,
    pub hot_bytes: u64,
    pub producers: usize,
}

impl Partition {
    /// A partition that waits for its grant.
    pub fn new(
        id: PartitionId,
        topic: String,
        host: Host,
        config: Arc<TopicConfig>,
        hot: HotSegments,
        tails: Arc<TailBytes>,
    ) -> Arc<Self> {
        Arc::new(Self {
            id,
            topic,
            host,
            inner: Mutex::new(Inner {
                ladder: Ladder::new(0, 0, None),
                stage: Stage::waiting("its leader has not been chosen yet"),
                producers: Producers::default(),
                transactions: Transactions::default(),
                tail: Tail::default(),
                untiered: Untiered::new(Producers::default()),
                acks: Acks::default(),
                hand_off_durable: false,
            }),
            config: Mutex::new(config),
            ends: watch::Sender::new(Ends::default()),
            hot,
            flushing: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            tails,
        })
    }

    pub fn config(&self) -> Arc<TopicConfig> {
        self.config.lock().clone()
    }

    pub fn set_config(&self, config: Arc<TopicConfig>) {
        *self.config.lock() = config;
    }

    /// Follows the ends of this partition.
    pub fn ends(&self) -> watch::Receiver<Ends> {
        self.ends.subscribe()
    }

    pub fn ladder(&self) -> Ladder {
        self.inner.lock().ladder
    }

    /// The ladder for an answer to a reader: an error where this broker does not lead the
    /// partition, because what it knows of it would be wrong, not late (I9).
    pub fn readable(&self) -> Result<Ladder, Error> {
        let inner = self.inner.lock();
        match inner.stage.unreadable(&self.topic, self.id.partition) {
            None => Ok(inner.ladder),
            Some(why) => Err(why),
        }
    }

    pub fn status(&self) -> Status {
        let inner = self.inner.lock();
        let (state, reason) = inner.stage.describe();
        Status {
            ladder: inner.ladder,
            state,
            reason,
            leader_epoch: inner.stage.leader_epoch(),
            lane: inner.stage.lane(),
            class: inner.stage.class(),
            lag_bytes: inner.untiered.bytes(),
            lag_ms: inner.untiered.age(self.host.now()).as_millis() as u64,
            hot_bytes: self.hot.bytes() + inner.tail.bytes() as u64,
            producers: inner.producers.len(),
        }
    }

    /// Of the present grant; 0 without one.
    pub fn leader_epoch(&self) -> u32 {
        self.inner.lock().stage.leader_epoch()
    }

    pub fn is_serving(&self) -> bool {
        self.inner.lock().stage.serving().is_some()
    }

    pub fn is_handing_off(&self) -> bool {
        self.inner.lock().stage.is_handing_off()
    }

    /// The class of the present grant.
    pub fn class(&self) -> Option<DurabilityClass> {
        self.inner.lock().stage.class()
    }

    pub fn state(&self) -> &'static str {
        self.inner.lock().stage.describe().0
    }

    /// The next part for an upload and its leader epoch; nothing where all that is durable is
    /// covered.
    pub fn cut(&self, max_bytes: u64) -> Option<(u32, untiered::Cut)> {
        let inner = self.inner.lock();
        inner.untiered.cut(max_bytes, inner.ladder.durable_end())
    }

    /// Whether something durable is not in the bucket.
    pub fn has_untiered(&self) -> bool {
        let inner = self.inner.lock();
        inner.ladder.tiered_end() < inner.ladder.durable_end()
    }

    /// Bytes that are not in the bucket, and how long the oldest of them waits.
    pub fn lag(&self) -> (u64, std::time::Duration) {
        let inner = self.inner.lock();
        (inner.untiered.bytes(), inner.untiered.age(self.host.now()))
    }

    /// Memory of what is kept of each batch until the bucket has it, bytes.
    pub fn untiered_memory(&self) -> usize {
        let inner = self.inner.lock();
        inner.untiered.memory() + inner.transactions.memory()
    }

    /// Before a coordinator is asked about a transaction.
    pub fn asked(&self) -> Asked {
        let inner = self.inner.lock();
        let (leader_epoch, log_end) = (inner.stage.leader_epoch(), inner.ladder.log_end());
        Asked { leader_epoch, log_end }
    }

    /// Whether what the coordinator said then still holds for who writes here on a producer's behalf
    /// and is the only one to do so.
    pub fn still_holds(&self, asked: Asked, producer_id: i64, epoch: i16) -> Result<(), Error> {
        if self.leader_epoch() != asked.leader_epoch {
            return Err(Error::not_leader(&self.topic, self.id.partition));
        }
        self.next_sequence(producer_id, epoch)?;
        match self.inner.lock().producers.is_marked(producer_id, asked.log_end) {
            true => Err(Error::transaction_ended(producer_id)),
            false => Ok(()),
        }
    }

    /// Whether this producer has a transaction open here: then its coordinator knows of this
    /// partition, and need not be asked again (KIP-890).
    pub fn ongoing_transaction(&self, producer_id: i64, producer_epoch: i16) -> bool {
        self.inner.lock().producers.is_open(producer_id, producer_epoch)
    }

    /// The sequence that comes next from a producer, for who writes here on its behalf and is the
    /// only one to do so.
    pub fn next_sequence(&self, producer_id: i64, epoch: i16) -> Result<i32, Error> {
        let next = self.inner.lock().producers.next_sequence(producer_id, epoch);
        next.map_err(|known| Error::producer_fenced(producer_id, known, epoch))
    }

    /// What is known of each producer: its newest batches, and its open transaction.
    pub fn producers(&self) -> ProducerSnapshot {
        self.inner.lock().producers.snapshot()
    }

    /// Aborted transactions that overlap some offsets, as far as they are known here, by last
    /// offset; and whether objects may tell of more.
    pub fn aborted(&self, offsets: std::ops::Range<u64>) -> (Vec<AbortedTxn>, bool) {
        let inner = self.inner.lock();
        let is_older = offsets.start < inner.transactions.since();
        (inner.transactions.overlapping(offsets), is_older)
    }

    /// Largest time of what the bucket does not have yet.
    pub fn untiered_max_timestamp(&self) -> Option<i64> {
        self.inner.lock().untiered.max_timestamp()
    }

    /// A reference that covers everything below `end` is committed and can be read.
    pub fn tiered(&self, end: u64) {
        let mut inner = self.inner.lock();
        let end = end.min(inner.ladder.durable_end());
        inner.ladder.tiered(end);
        if let Some(newest_ms) = inner.untiered.release(end) {
            // A record from the future must not make everybody else old.
            let newest_ms = newest_ms.min(self.host.wall_ms());
            let before = newest_ms.saturating_sub(PRODUCER_EXPIRY_MS);
            inner.producers.expire(before);
            inner.untiered.expire(before);
        }
        inner.forget_aborted();
    }

    /// The deletion of everything below `start` is committed (I19).
    pub fn delete_below(&self, start: u64) {
        let mut inner = self.inner.lock();
        let start = start.min(inner.ladder.durable_end());
        inner.ladder.delete_below(start);
        let _ = inner.untiered.release(start);
        self.announce(&inner);
    }

    fn announce(&self, inner: &Inner) {
        self.ends.send_if_modified(|old| {
            let new = Ends {
                log_start: inner.ladder.log_start(),
                high_watermark: inner.ladder.high_watermark(),
                last_stable: inner.ladder.last_stable(),
                stage: inner.stage.number(),
                handed_off: inner.hand_off_durable,
            };
            std::mem::replace(old, new) != new
        });
    }

    /// Nothing that waits here will be acknowledged; the partition serves no appends any more.
    pub fn end(&self, why: &Error) {
        let mut inner = self.inner.lock();
        inner.stage.end(why.clone());
        inner.acks.fail(why);
        self.announce(&inner);
    }
}
