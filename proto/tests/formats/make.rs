//! Arbitrary values of the formats' types, made from arbitrary bytes, which is what proptest
//! shrinks. Where the bytes run out everything is zero or empty, so every value is finite.

use std::collections::BTreeMap;

use bytes::Bytes;
use levee_proto::head::{Head, Kind};
use levee_proto::ids::{LaneId, Nonce, PartitionId, SessionId, TopicId, Writer};
use levee_proto::metalog::image::{
    Controller, EpochStart, FeatureLevel, Image, Job, Lane, Leader, LostRange, Partition, Session,
    SessionState, Topic, Unreferenced,
};
use levee_proto::metalog::{
    Claim, ClusterConfig, Deleted, Feature, Grant, HandOffDone, JobEnd, JobStart, LaneClosed,
    LaneKind, LaneOpen, LaneSynced, LaneTrim, LogStart, LossAccepted, ObjectId, ObjectRef,
    ProducerIds, Record, Resign, SessionBeat, SessionFencing, SessionOpen, SingleRange, Slot,
    SlotsDeleted, Snapshot, TopicConfig, TopicCreate, TopicDelete, TopicGrow, TopicPurge, Unref,
};
use levee_proto::object::{ProducerBatch, ProducerEntry, ProducerSnapshot};
use levee_proto::record::records::RecordData;

/// Bytes to make values from.
pub(crate) struct Source<'a>(pub(crate) &'a [u8]);

impl Source<'_> {
    pub(crate) fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((first, rest)) => {
                self.0 = rest;
                *first
            }
            None => 0,
        }
    }

    fn bits(&mut self, bytes: usize) -> u128 {
        // Edges are worth more than what stands between them.
        match self.byte() % 8 {
            0 => 0,
            1 => u128::MAX,
            2 => u128::from(self.byte()),
            _ => (0..bytes).fold(0, |all, _| all << 8 | u128::from(self.byte())),
        }
    }

    /// Below `end`, small numbers more often.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        match self.byte() % 4 {
            0 => self.byte() as usize % end,
            _ => (usize::from(self.byte()) << 8 | usize::from(self.byte())) % end,
        }
    }

    pub(crate) fn make<T: Make>(&mut self) -> T {
        T::make(self)
    }
}

pub(crate) trait Make: Sized {
    fn make(source: &mut Source<'_>) -> Self;
}

macro_rules! make_int {
    ($($ty:ty)*) => {$(
        impl Make for $ty {
            fn make(source: &mut Source<'_>) -> Self {
                source.bits(size_of::<$ty>()) as $ty
            }
        }
    )*};
}
make_int! { u8 u16 u32 u64 u128 i16 i32 i64 }

macro_rules! make_struct {
    ($($name:ident { $($field:ident)* })*) => {$(
        impl Make for $name {
            fn make(source: &mut Source<'_>) -> Self {
                Self { $($field: source.make(),)* }
            }
        }
    )*};
}

make_struct! {
    SessionId { broker epoch }
    LaneId { session lane }
    PartitionId { topic partition }
    Head { kind nonce writer term seq body_len extra }
    RecordData { timestamp_ms key value headers }
    Claim { term broker incarnation address }
    Resign { term }
    SessionOpen { session incarnation store_id zone address lanes }
    LaneOpen { lane kind }
    SessionFencing { session rid reason }
    SessionBeat { session synced upload_floor }
    LaneSynced { lane group_seq }
    LaneClosed { lane rid trim end }
    LaneTrim { lane trim }
    LossAccepted { partition from to }
    Grant { partition leader_epoch lane start }
    HandOffDone { partition leader_epoch end }
    ObjectRef { level writer seq nonce bytes footer_crc single }
    SingleRange { partition leader_epoch base end }
    ObjectId { writer seq }
    Unref { objects }
    Deleted { objects }
    SlotsDeleted { lane below }
    JobStart { job kind session inputs }
    JobEnd { job }
    TopicCreate { topic name partitions config created_ms }
    TopicGrow { topic partitions }
    TopicConfig { topic set remove }
    TopicDelete { topic deleted_ms }
    TopicPurge { topic }
    LogStart { partition log_start }
    ClusterConfig { set remove }
    Feature { name level }
    ProducerIds { next }
    Slot { cluster slot term nonce writer prev_crc records }
    Snapshot { cluster slot term nonce writer chain_crc image }
    Controller { broker incarnation address }
    Session { id state incarnation store_id zone address rid upload_floor closed_at }
    Lane { id kind trim end synced deleted_below }
    Topic { id name partitions config created_ms deleted_ms purged }
    Partition { id log_start l2_end leader epochs losses }
    LostRange { from to }
    Leader { epoch lane start handed_off loss_accepted }
    EpochStart { epoch start }
    Unreferenced { object at_slot }
    Job { id kind session inputs }
    FeatureLevel { name level }
    Image {
        term controller sessions lanes topics partitions objects unreferenced jobs config features
        next_producer_id claims
    }
    ProducerBatch { base_offset last_offset_delta base_sequence last_sequence max_timestamp }
}

macro_rules! make_from {
    ($($ty:ident = $make:expr;)*) => {$(
        impl Make for $ty {
            fn make(source: &mut Source<'_>) -> Self {
                let make: fn(&mut Source<'_>) -> $ty = $make;
                make(source)
            }
        }
    )*};
}

make_from! {
    TopicId = |s| TopicId(s.make());
    Nonce = |s| Nonce(s.make());
    Writer = |s| Writer(s.make());
    bool = |s| s.byte() & 1 == 1;
    Kind = |s| Kind::ALL[s.byte() as usize % Kind::ALL.len()];
    LaneKind = |s| [LaneKind::Object, LaneKind::Local][s.byte() as usize % 2];
    SessionState = |s| {
        [SessionState::Open, SessionState::Fencing, SessionState::Closed][s.byte() as usize % 3]
    };
    String = |s| (0..s.below(12)).map(|_| ['a', '.', 'ö', '漢', '\0'][s.byte() as usize % 5]).collect();
    Bytes = |s| (0..s.below(200)).map(|_| s.byte()).collect();
    Record = record;
    ProducerSnapshot = producers;
}

impl<T: Make> Make for Vec<T> {
    fn make(source: &mut Source<'_>) -> Self {
        (0..source.byte() % 4).map(|_| source.make()).collect()
    }
}

impl<T: Make> Make for Option<T> {
    fn make(source: &mut Source<'_>) -> Self {
        source.make::<bool>().then(|| source.make())
    }
}

impl Make for BTreeMap<String, String> {
    fn make(source: &mut Source<'_>) -> Self {
        (0..source.byte() % 4).map(|_| (source.make(), source.make())).collect()
    }
}

impl<A: Make, B: Make> Make for (A, B) {
    fn make(source: &mut Source<'_>) -> Self {
        (source.make(), source.make())
    }
}

/// Any kind, each as likely as the other.
fn record(s: &mut Source<'_>) -> Record {
    match s.byte() % 26 {
        0 => s.make::<Claim>().into(),
        1 => s.make::<Resign>().into(),
        2 => s.make::<SessionOpen>().into(),
        3 => s.make::<SessionFencing>().into(),
        4 => s.make::<SessionBeat>().into(),
        5 => s.make::<LaneClosed>().into(),
        6 => s.make::<LaneTrim>().into(),
        7 => s.make::<LossAccepted>().into(),
        8 => s.make::<Grant>().into(),
        9 => s.make::<HandOffDone>().into(),
        10 => s.make::<ObjectRef>().into(),
        11 => s.make::<Unref>().into(),
        12 => s.make::<Deleted>().into(),
        13 => s.make::<SlotsDeleted>().into(),
        14 => s.make::<JobStart>().into(),
        15 => s.make::<JobEnd>().into(),
        16 => s.make::<TopicCreate>().into(),
        17 => s.make::<TopicGrow>().into(),
        18 => s.make::<TopicConfig>().into(),
        19 => s.make::<TopicDelete>().into(),
        20 => s.make::<TopicPurge>().into(),
        21 => s.make::<LogStart>().into(),
        22 => s.make::<ClusterConfig>().into(),
        23 => s.make::<Feature>().into(),
        24 => s.make::<ProducerIds>().into(),
        _ => Record::Skipped { kind: s.make::<u16>() | 0x8000, body: s.make() },
    }
}

/// Producer ids ascend, and there are at most five batches.
fn producers(s: &mut Source<'_>) -> ProducerSnapshot {
    let ids: std::collections::BTreeSet<i64> = (0..s.byte() % 6).map(|_| s.make()).collect();
    let entry = |producer_id| ProducerEntry {
        producer_id,
        producer_epoch: s.make(),
        coordinator_epoch: s.make(),
        last_timestamp: s.make(),
        // All ones is how the bytes say that there is none.
        open_txn_start: s.make::<Option<u64>>().filter(|start| *start != u64::MAX),
        batches: (0..s.byte() % 6).map(|_| s.make()).collect(),
    };
    ProducerSnapshot { producers: ids.into_iter().map(entry).collect() }
}
