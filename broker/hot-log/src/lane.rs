//! The lane: what makes an acknowledgement durable. One contract, several media.
//!
//! ```text
//!            trim                durable_end              next
//!   ----------|======================|- - - - - - - - - - -|
//!   covered   | durable, completed   | assigned, in flight |
//! ```
//! Positions are slots (object lane) or groups (local lane); each holds entries of many partitions.
//!
//! The contract, held by every implementation and checked by one suite (`tests/tests/lanes.rs`):
//! - `append` MUST NOT wait. The order of `append` calls is the order of entries in the lane.
//! - Completion MUST come in that order, for successes and failures alike, and exactly once per
//!   entry that was taken: `EntryOwner::durable` or `EntryOwner::failed`, from the lane's own task
//!   and under none of its locks, because owners append while they hold theirs.
//! - `durable` MUST NOT be called before the entry and all entries before it are durable as the
//!   lane's kind promises, and never after the lane ended (I5).
//! - No decision about completion may read a clock.
//! - A lane whose medium gives no answer is *stalled*: it completes nothing, refuses `reserve`,
//!   keeps what it has and goes on by itself when the medium is back. Stalling never ends it.
//! - A lane ends only when it lost a slot (fenced) or its disk failed (I18). Then everything that
//!   is not complete fails, and it never completes anything again.
//! - Bytes that wait in a lane are bounded: the reservation is taken before an offset is assigned
//!   and rides in the entry until it completes.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use levee_proto::ids::{LaneId, PartitionId};
use levee_proto::metalog::LaneKind;
use levee_proto::object::AbortedTxn;
use levee_proto::record::StoredBatch;
use tokio::sync::{OwnedSemaphorePermit, watch};

pub use crate::book::Book;

/// One thing to make durable for one partition.
pub struct Entry {
    pub partition: PartitionId,
    pub leader_epoch: u32,
    pub base: u64,
    /// Exclusive; equal to `base` for a hand-off.
    pub end: u64,
    pub payload: Payload,
    /// The transaction that the batch aborts: its marker tells no first offset.
    pub aborted: Option<AbortedTxn>,
    /// Complete when written, sync within the lane's flush interval (local lanes only).
    pub lazy_sync: bool,
    pub owner: Arc<dyn EntryOwner>,
    pub reservation: Reservation,
}

/// What an entry holds.
#[derive(Debug, Clone)]
pub enum Payload {
    Batch(StoredBatch),
    /// The last entry of the partition in this lane: its encoded producer snapshot.
    HandOff(Bytes),
}

impl Payload {
    pub fn len(&self) -> usize {
        match self {
            Self::Batch(batch) => batch.len(),
            Self::HandOff(bytes) => bytes.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Who hears what became of an entry; in practice a partition. Calls must be quick: they run on
/// the lane's own task.
pub trait EntryOwner: Send + Sync {
    /// All entries of this partition in this lane up to `end` are durable. `position` is the slot
    /// or group that holds the last one. `hand_off` where the entry was one.
    fn durable(&self, lane: LaneId, position: u64, end: u64, hand_off: bool);
    /// The entry that ends at `end`, and with it all later ones, will never complete.
    fn failed(&self, lane: LaneId, end: u64, why: &LaneEnd);
    /// Everything of `leader_epoch` below `end` is covered by committed references, so the lane
    /// need not keep it (I10).
    fn is_covered(&self, leader_epoch: u32, end: u64, hand_off: bool) -> bool;
}

/// Room in a lane, given back when dropped.
pub struct Reservation {
    _permit: Option<OwnedSemaphorePermit>,
}

impl Reservation {
    pub fn new(permit: OwnedSemaphorePermit) -> Self {
        Self { _permit: Some(permit) }
    }

    /// For entries that must never be refused (hand-offs).
    pub fn none() -> Self {
        Self { _permit: None }
    }
}

/// Where a lane stands. It moves Open <-> Stalled, and from either to Ended, for ever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LaneState {
    Open,
    /// The medium does not answer; the text says what it last did.
    Stalled(String),
    Ended(LaneEnd),
}

/// Why a lane ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LaneEnd {
    /// Somebody else wrote this position: this session was fenced.
    Fenced { position: u64, by: String },
    /// The disk failed a write or a sync; nothing unsynced may be believed.
    Disk(String),
    /// Closed on purpose.
    Closed,
}

impl fmt::Display for LaneEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fenced { position, by } => write!(f, "fenced at position {position} by {by}"),
            Self::Disk(why) => write!(f, "disk failed: {why}"),
            Self::Closed => f.write_str("closed"),
        }
    }
}

/// Why `reserve` gave no room. Nothing was written in either case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    Stalled(String),
    Ended(LaneEnd),
}

/// See the module for the contract.
#[async_trait]
pub trait Lane: Send + Sync {
    fn id(&self) -> LaneId;
    fn kind(&self) -> LaneKind;
    /// Waits for room of `bytes`; refuses at once while stalled or ended.
    async fn reserve(&self, bytes: usize) -> Result<Reservation, Refused>;
    /// Takes an entry, or says why the lane ended; then nothing was taken and nobody is called.
    fn append(&self, entry: Entry) -> Result<(), LaneEnd>;
    fn state(&self) -> watch::Receiver<LaneState>;
    /// First position that holds an entry which is not covered: the trim to propose.
    fn covered(&self) -> u64;
    /// The trim is committed in the MetaLog: positions below are not needed any more.
    fn trimmed(&self, to: u64);
    /// First position that holds nothing that was completed.
    fn next_position(&self) -> u64;
    /// Writes out what waits, completes it, and ends as `Closed`. Gives up when the medium is away
    /// for longer than `drain`.
    async fn close(&self, drain: std::time::Duration);
}
