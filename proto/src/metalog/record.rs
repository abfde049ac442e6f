//! The records of the MetaLog.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};

use super::wire::{Wire, wire_enum, wire_struct};
use crate::codec::{FormatError, Reader};
use crate::ids::{LaneId, Nonce, PartitionId, SessionId, TopicId, Writer};
use crate::keys;

wire_enum! {
    /// What a lane writes to.
    pub enum LaneKind {
        /// Create-once slots in the bucket.
        Object = 0,
        /// Files on the broker's own disk.
        Local = 1,
    }

    /// What an acknowledgement means for a topic.
    pub enum DurabilityClass {
        /// In the bucket.
        Object = 0,
        /// Synced on 2 of 3 disks. Reserved: refused until peers exist.
        Replicated = 1,
        /// Synced on the leader's disk.
        Local = 2,
    }
}

wire_struct! {
    /// Takes the controller's role. The slot it stands in is never deleted.
    pub struct Claim {
        term: u64,
        broker: u32,
        /// Random, of this process.
        incarnation: Nonce,
        /// Where this process can be reached, for messages to people.
        address: String,
    }

    /// The controller leaves on purpose; anybody may claim at once.
    pub struct Resign {
        term: u64,
    }

    /// A broker process begins; its lanes are open from here.
    pub struct SessionOpen {
        session: SessionId,
        incarnation: Nonce,
        /// Names the disk: a `local` lane is recovered only where its store is.
        store_id: Nonce,
        zone: String,
        address: String,
        lanes: Vec<LaneOpen>,
    }

    /// One lane of a session that opens.
    pub struct LaneOpen {
        lane: u16,
        kind: LaneKind,
    }

    /// From here nothing of this session is accepted but what recovery finds.
    pub struct SessionFencing {
        session: SessionId,
        /// Recovery attempt; a newer one makes older ones stale.
        rid: u64,
        reason: String,
    }

    /// What a session tells about itself at least every second.
    pub struct SessionBeat {
        session: SessionId,
        /// Highest group known synced, per local lane.
        synced: Vec<LaneSynced>,
        /// Objects of this session below this number are referenced or garbage.
        upload_floor: u64,
    }

    /// Part of a [`SessionBeat`].
    pub struct LaneSynced {
        lane: u16,
        group_seq: u64,
    }

    /// The lane ends here: entries in `trim..end` count, nothing else of it ever will.
    pub struct LaneClosed {
        lane: LaneId,
        rid: u64,
        /// First slot (object lane) or group (local lane) that is not covered by references.
        trim: u64,
        /// Exclusive.
        end: u64,
    }

    /// Slots or groups of a lane below `trim` are covered by references.
    pub struct LaneTrim {
        lane: LaneId,
        trim: u64,
    }

    /// An operator gave up what a lost disk held of a partition.
    pub struct LossAccepted {
        partition: PartitionId,
        /// First offset that may be lost.
        from: u64,
        /// Where the new leader epoch starts; no offset in between is ever used.
        to: u64,
    }

    /// The right to append.
    pub struct Grant {
        partition: PartitionId,
        leader_epoch: u32,
        lane: LaneId,
        start: u64,
    }

    /// A hand-off entry is durable: the epoch ended at `end`.
    pub struct HandOffDone {
        partition: PartitionId,
        leader_epoch: u32,
        end: u64,
    }

    /// Names an object: from here its bytes are part of the log.
    pub struct ObjectRef {
        /// 1 or 2. L0 objects are named by their lane.
        level: u8,
        writer: Writer,
        seq: u64,
        nonce: Nonce,
        /// Size of the whole object.
        bytes: u64,
        footer_crc: u32,
        /// L2 only.
        single: Option<SingleRange>,
    }

    /// The one range of an L2 object.
    pub struct SingleRange {
        partition: PartitionId,
        leader_epoch: u32,
        base: u64,
        /// Exclusive.
        end: u64,
    }

    /// Which object: a writer never uses a number twice.
    pub struct ObjectId {
        writer: Writer,
        seq: u64,
    }

    /// These objects are no longer part of the log; they go after the grace time.
    pub struct Unref {
        objects: Vec<ObjectId>,
    }

    /// These objects are gone from the bucket.
    pub struct Deleted {
        objects: Vec<ObjectId>,
    }

    /// Slots of a closed or trimmed lane below `below` are gone from the bucket.
    pub struct SlotsDeleted {
        lane: LaneId,
        below: u64,
    }

    /// Work on objects begins; its outputs carry the job as their writer.
    pub struct JobStart {
        /// Never used twice.
        job: u64,
        /// [`JOB_MERGE`], [`JOB_REPAIR`] or [`JOB_COMPACT`]; for people, the fold makes no difference.
        kind: u8,
        session: SessionId,
        inputs: Vec<ObjectId>,
    }

    /// Work on objects ended; its outputs were named in this slot or never will be.
    pub struct JobEnd {
        job: u64,
    }

    /// A topic begins.
    pub struct TopicCreate {
        topic: TopicId,
        name: String,
        partitions: u32,
        config: BTreeMap<String, String>,
        created_ms: i64,
    }

    /// More partitions.
    pub struct TopicGrow {
        topic: TopicId,
        partitions: u32,
    }

    /// Settings of a topic change.
    pub struct TopicConfig {
        topic: TopicId,
        set: BTreeMap<String, String>,
        remove: Vec<String>,
    }

    /// A topic ends; its name is free at once, its data goes after the delay.
    pub struct TopicDelete {
        topic: TopicId,
        deleted_ms: i64,
    }

    /// A deleted topic's data may go.
    pub struct TopicPurge {
        topic: TopicId,
    }

    /// Offsets below are deleted.
    pub struct LogStart {
        partition: PartitionId,
        log_start: u64,
    }

    /// Settings of the cluster.
    pub struct ClusterConfig {
        set: BTreeMap<String, String>,
        remove: Vec<String>,
    }

    /// Every broker can read what this feature level writes.
    pub struct Feature {
        name: String,
        level: u16,
    }

    /// The next block of producer ids is given away.
    pub struct ProducerIds {
        next: u64,
    }
}

macro_rules! records {
    ($($kind:literal $name:ident,)*) => {
        /// One MetaLog record. Kinds are persisted: never renumber, never reuse.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Record {
            $($name($name),)*
            /// A kind of a later release that says it may be skipped. Kept byte for byte.
            Skipped { kind: u16, body: Bytes },
        }

        impl Record {
            pub fn kind(&self) -> u16 {
                match self {
                    $(Self::$name(_) => $kind,)*
                    Self::Skipped { kind, .. } => *kind,
                }
            }

            pub fn name(&self) -> &'static str {
                match self {
                    $(Self::$name(_) => stringify!($name),)*
                    Self::Skipped { .. } => "Skipped",
                }
            }

            fn put_body(&self, out: &mut BytesMut) {
                match self {
                    $(Self::$name(body) => body.put(out),)*
                    Self::Skipped { body, .. } => out.put_slice(body),
                }
            }

            fn get_body(kind: u16, body: &[u8]) -> Result<Self, FormatError> {
                let mut r = Reader::new("metalog record", body);
                Ok(match kind {
                    // Bytes behind the last field belong to a later release: they are ignored.
                    $($kind => Self::$name($name::get(&mut r)?),)*
                    _ if kind & SKIPPABLE != 0 => {
                        Self::Skipped { kind, body: Bytes::copy_from_slice(body) }
                    }
                    _ => return Err(r.error(format!(
                        "kind {kind} is not known to this release and may not be skipped: upgrade Levee"
                    ))),
                })
            }
        }

        $(impl From<$name> for Record {
            fn from(body: $name) -> Self {
                Self::$name(body)
            }
        })*
    };
}

/// Small objects become large ones.
pub const JOB_MERGE: u8 = 1;
/// A damaged object is written again from other copies.
pub const JOB_REPAIR: u8 = 2;
/// Records that later ones of the same key replace are left out.
pub const JOB_COMPACT: u8 = 3;

/// Kinds with this bit change nothing that an older release must know.
pub const SKIPPABLE: u16 = 0x8000;

records! {
    1 Claim,
    2 Resign,
    3 SessionOpen,
    4 SessionFencing,
    5 SessionBeat,
    6 LaneClosed,
    7 LaneTrim,
    8 LossAccepted,
    9 Grant,
    10 HandOffDone,
    11 ObjectRef,
    12 Unref,
    13 Deleted,
    14 SlotsDeleted,
    15 JobStart,
    16 JobEnd,
    17 TopicCreate,
    18 TopicGrow,
    19 TopicConfig,
    20 TopicDelete,
    21 TopicPurge,
    22 LogStart,
    23 ClusterConfig,
    24 Feature,
    25 ProducerIds,
}

/// Bytes before a record's body: kind 2, reserved 2, length 4.
pub(super) const RECORD_HEAD_BYTES: usize = 8;

impl Record {
    pub fn put(&self, out: &mut BytesMut) {
        out.put_u16_le(self.kind());
        out.put_u16_le(0);
        let len_at = out.len();
        out.put_u32_le(0);
        self.put_body(out);
        let len = (out.len() - len_at - 4) as u32;
        out[len_at..len_at + 4].copy_from_slice(&len.to_le_bytes());
    }

    pub fn get(r: &mut Reader<'_>) -> Result<Self, FormatError> {
        let kind = r.u16()?;
        r.u16()?;
        let len = r.count(1)?;
        Self::get_body(kind, r.take(len)?)
    }
}

impl ObjectRef {
    pub fn id(&self) -> ObjectId {
        ObjectId { writer: self.writer, seq: self.seq }
    }

    pub fn key(&self) -> String {
        match &self.single {
            Some(one) => keys::single(
                one.partition,
                one.base,
                one.leader_epoch,
                self.writer,
                self.seq,
                self.nonce,
            ),
            None => keys::shared(self.writer, self.seq, self.nonce),
        }
    }
}

impl Copy for ObjectId {}
impl Eq for ObjectId {}
impl PartialOrd for ObjectId {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for ObjectId {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.writer, self.seq).cmp(&(other.writer, other.seq))
    }
}
impl std::hash::Hash for ObjectId {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (self.writer, self.seq).hash(state);
    }
}
