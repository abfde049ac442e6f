//! A snapshot: the whole folded state at one slot.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};

use super::record::{DurabilityClass, LaneKind, ObjectId, ObjectRef};
use super::wire::{Wire, wire_enum, wire_struct};
use crate::codec::{FormatError, Reader};
use crate::crc::crc32c;
use crate::head::{HEAD_BYTES, Head, Kind};
use crate::ids::{LaneId, Nonce, PartitionId, SessionId, TopicId, Writer};
use crate::limits::SNAPSHOT_BYTES_MAX;

wire_enum! {
    /// Where a session is in its life. It only moves forward.
    pub enum SessionState {
        Open = 0,
        Fencing = 1,
        Closed = 2,
    }
}

wire_struct! {
    /// Everything that the MetaLog says, folded. Sorted by id, so equal states give equal bytes.
    pub struct Image {
        term: u64,
        controller: Option<Controller>,
        sessions: Vec<Session>,
        lanes: Vec<Lane>,
        topics: Vec<Topic>,
        partitions: Vec<Partition>,
        objects: Vec<ObjectRef>,
        unreferenced: Vec<Unreferenced>,
        jobs: Vec<Job>,
        config: BTreeMap<String, String>,
        features: Vec<FeatureLevel>,
        next_producer_id: u64,
        /// Slots that hold a Claim: they are never deleted (I21).
        claims: Vec<u64>,
    }

    /// The process that won the newest term and has not resigned.
    pub struct Controller {
        broker: u32,
        incarnation: Nonce,
        address: String,
    }

    pub struct Session {
        id: SessionId,
        state: SessionState,
        incarnation: Nonce,
        store_id: Nonce,
        zone: String,
        address: String,
        /// Newest recovery attempt; 0 while open.
        rid: u64,
        upload_floor: u64,
        /// Slot at which it closed; 0 before.
        closed_at: u64,
    }

    pub struct Lane {
        id: LaneId,
        kind: LaneKind,
        trim: u64,
        /// Exclusive; none while the lane is not closed.
        end: Option<u64>,
        /// Local lanes: highest group in a heartbeat.
        synced: u64,
        /// Object lanes: slots below are gone from the bucket.
        deleted_below: u64,
    }

    pub struct Topic {
        id: TopicId,
        name: String,
        partitions: u32,
        config: BTreeMap<String, String>,
        created_ms: i64,
        deleted_ms: Option<i64>,
        purged: bool,
    }

    pub struct Partition {
        id: PartitionId,
        log_start: u64,
        /// Everything below is in L2 objects.
        l2_end: u64,
        /// None before the first grant.
        leader: Option<Leader>,
        /// Oldest first; those that end at or below log_start are dropped but the last.
        epochs: Vec<EpochStart>,
        /// What an operator gave up; no record of these offsets ever comes back.
        losses: Vec<LostRange>,
    }

    /// Offsets that were given up.
    pub struct LostRange {
        from: u64,
        /// Exclusive.
        to: u64,
    }

    /// The newest grant of a partition.
    pub struct Leader {
        epoch: u32,
        lane: LaneId,
        start: u64,
        /// Where the epoch ended, once its hand-off is durable.
        handed_off: Option<u64>,
        /// Where the next epoch starts, once an operator gave up what the lane's disk held.
        loss_accepted: Option<u64>,
    }

    pub struct EpochStart {
        epoch: u32,
        start: u64,
    }

    /// An object on its way out.
    pub struct Unreferenced {
        object: ObjectRef,
        /// Slot of the Unref record.
        at_slot: u64,
    }

    pub struct Job {
        id: u64,
        kind: u8,
        session: SessionId,
        inputs: Vec<ObjectId>,
    }

    pub struct FeatureLevel {
        name: String,
        level: u16,
    }
}

impl DurabilityClass {
    pub const ALL: [Self; 3] = [Self::Object, Self::Replicated, Self::Local];

    /// As users write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Object => "object",
            Self::Replicated => "replicated",
            Self::Local => "local",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.name() == name)
    }
}

/// A state and the place in the log that it stands for.
///
/// ```text
/// head 64 (seq = slot, extra = chain crc at slot) | cluster 16 | plain len 8 | zstd image | crc 4
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    pub cluster: Nonce,
    /// State after this slot.
    pub slot: u64,
    pub term: u64,
    pub nonce: Nonce,
    pub writer: Writer,
    pub chain_crc: u32,
    pub image: Image,
}

const WHAT: &str = "metalog snapshot";

impl Snapshot {
    pub fn encode(&self) -> Bytes {
        let mut plain = BytesMut::new();
        self.image.put(&mut plain);
        let packed = zstd::bulk::compress(&plain, 3).expect("zstd compresses to memory");
        let head = Head {
            kind: Kind::MetaSnapshot,
            nonce: self.nonce,
            writer: self.writer,
            term: self.term,
            seq: self.slot,
            body_len: (16 + 8 + packed.len()) as u64,
            extra: self.chain_crc,
        };
        let mut out = BytesMut::with_capacity(HEAD_BYTES + packed.len() + 28);
        out.put_slice(&head.encode());
        out.put_u128_le(self.cluster.0);
        out.put_u64_le(plain.len() as u64);
        out.put_slice(&packed);
        let crc = crc32c(&out);
        out.put_u32_le(crc);
        out.freeze()
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let head = Head::expect(Kind::MetaSnapshot, bytes)?;
        let crc_at = bytes
            .len()
            .checked_sub(4)
            .filter(|at| *at >= HEAD_BYTES + 24)
            .ok_or_else(|| FormatError::new(WHAT, HEAD_BYTES, "no body"))?;
        if bytes[crc_at..] != crc32c(&bytes[..crc_at]).to_le_bytes() {
            return Err(FormatError::new(WHAT, crc_at, "crc mismatch"));
        }
        let mut r = Reader::new(WHAT, &bytes[HEAD_BYTES..crc_at]);
        let cluster = Nonce(r.u128()?);
        let plain_len = r.u64()? as usize;
        let packed = r.take(r.remaining())?;
        if plain_len > SNAPSHOT_BYTES_MAX {
            return Err(FormatError::new(WHAT, 80, format!("{plain_len} bytes unpacked")));
        }
        let plain = unpack(packed, plain_len)?;
        let mut r = Reader::new(WHAT, &plain);
        let image = Image::get(&mut r)?;
        Ok(Self {
            cluster,
            slot: head.seq,
            term: head.term,
            nonce: head.nonce,
            writer: head.writer,
            chain_crc: head.extra,
            image,
        })
    }
}

/// Unpacks no more than `len` bytes and grows with what really comes out.
fn unpack(packed: &[u8], len: usize) -> Result<Vec<u8>, FormatError> {
    use std::io::Read;
    let bad = |why: String| FormatError::new(WHAT, 88, why);
    let mut plain = Vec::new();
    zstd::stream::read::Decoder::new(packed)
        .and_then(|decoder| decoder.take(len as u64 + 1).read_to_end(&mut plain))
        .map_err(|error| bad(format!("zstd: {error}")))?;
    if plain.len() != len {
        return Err(bad(format!("unpacks to {} bytes, says {len}", plain.len())));
    }
    Ok(plain)
}
