//! One fixed value of each format: what the golden files hold. Every field has another value, so
//! that two fields which change places are seen. Never change a value of a released version.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use levee_proto::crc::crc32c;
use levee_proto::head::{Head, Kind};
use levee_proto::ids::{LaneId, Nonce, PartitionId, SessionId, TopicId, Writer};
use levee_proto::metalog::image::{
    Controller, EpochStart, FeatureLevel, Image, Job, Lane, Leader, LostRange, Partition, Session,
    SessionState, Topic, Unreferenced,
};
use levee_proto::metalog::{
    Boundary, Claim, ClusterConfig, Deleted, Feature, Grant, HandOffDone, JobEnd, JobStart,
    LaneClosed, LaneKind, LaneOpen, LaneSynced, LaneTrim, LogStart, LossAccepted, ObjectId,
    ObjectRef, ProducerIds, Record, Resign, SessionBeat, SessionFencing, SessionOpen, SingleRange,
    Slot, SlotsDeleted, Snapshot, TopicConfig, TopicCreate, TopicDelete, TopicGrow, TopicPurge,
    Unref,
};
use levee_proto::object::writer::{Finished, ObjectPlan};
use levee_proto::object::{
    AbortedTxn, Level, ObjectWriter, ProducerBatch, ProducerEntry, ProducerSnapshot, RangeKind,
};
use levee_proto::record::codecs::Compression;
use levee_proto::record::records::{BatchBuilder, ProducerStamp, RecordData};
use levee_proto::record::rewrite::{raw_records, rewrite};
use levee_proto::record::{Marker, StoredBatch, batch};
use levee_proto::wal::{GroupEntry, GroupHead};

pub(crate) const TOPIC: TopicId = TopicId(0x0123_4567_89ab_cdef_0011_2233_4455_6677);
pub(crate) const SESSION: SessionId = SessionId { broker: 0x0a0b_0c0d, epoch: 0x0102_0304 };
pub(crate) const LANE: LaneId = LaneId { session: SESSION, lane: 0x0506 };
pub(crate) const NONCE: Nonce = Nonce(0xf0e0_d0c0_b0a0_9080_7060_5040_3020_1000);
const STORE: Nonce = Nonce(0xff);
const CLUSTER: Nonce = Nonce(0xc1c2_c3c4_c5c6_c7c8_c9ca_cbcc_cdce_cfc0);

pub(crate) fn partition(partition: u32) -> PartitionId {
    PartitionId { topic: TOPIC, partition }
}

pub(crate) fn head() -> Head {
    Head {
        kind: Kind::Fence,
        nonce: NONCE,
        writer: Writer::session(SESSION),
        term: 0x1112_1314_1516_1718,
        seq: 0x2122_2324_2526_2728,
        body_len: 0x3132_3334_3536_3738,
        extra: 0x4142_4344,
    }
}

pub(crate) fn record_data() -> Vec<RecordData> {
    let at = 1_700_000_000_000;
    let headers = vec![("trace".into(), Some("abc".into())), ("empty".into(), None)];
    vec![
        RecordData {
            timestamp_ms: at,
            key: Some("key".into()),
            value: Some("value".into()),
            headers,
        },
        RecordData { timestamp_ms: at - 70, key: None, value: Some("".into()), headers: vec![] },
        RecordData { timestamp_ms: at + 9000, key: Some("k".into()), value: None, headers: vec![] },
    ]
}

/// As a producer sends it.
pub(crate) fn batch(codec: Compression) -> Bytes {
    let mut builder = BatchBuilder::new(codec);
    record_data().iter().for_each(|record| builder.push(record));
    let stamp =
        ProducerStamp { producer_id: 0x7172, producer_epoch: 0x0b0c, base_sequence: 0x0102_0304 };
    builder.build(Some(stamp))
}

/// As the log keeps it.
pub(crate) fn stored(base_offset: u64, epoch: u32) -> StoredBatch {
    let bytes = batch(Compression::None);
    let header = batch::check(&bytes).unwrap();
    StoredBatch::stamp(&bytes, header, base_offset, epoch)
}

pub(crate) fn producers() -> ProducerSnapshot {
    let batch = |base_offset, base_sequence| ProducerBatch {
        base_offset,
        last_offset_delta: 2,
        base_sequence,
        last_sequence: base_sequence + 2,
        max_timestamp: 1_700_000_009_000,
    };
    ProducerSnapshot {
        producers: vec![
            ProducerEntry {
                producer_id: 5,
                producer_epoch: 1,
                coordinator_epoch: -1,
                last_timestamp: 1_700_000_000_123,
                open_txn_start: None,
                batches: vec![],
            },
            ProducerEntry {
                producer_id: 0x7172,
                producer_epoch: 0x0b0c,
                coordinator_epoch: 77,
                last_timestamp: 1_700_000_009_000,
                open_txn_start: Some(103),
                batches: vec![batch(100, 0x0102_0304), batch(103, 0x0102_0307)],
            },
        ],
    }
}

/// A slot of a lane: two batches of one partition, one of another, and a hand-off.
pub(crate) fn object_l0() -> (Bytes, Finished) {
    let (a, b, c) = (stored(100, 7), stored(103, 7), stored(40, 3));
    let mut state = BytesMut::new();
    producers().encode(&mut state);
    let plan = ObjectPlan {
        level: Level::L0,
        nonce: NONCE,
        writer: Writer::session(SESSION),
        seq: 9,
        lane: LANE.lane,
        data_len: (a.len() + b.len() + c.len() + state.len()) as u64,
        lane_trim: 6,
        prev_slot_crc: 0xdead_beef,
    };
    let (mut writer, head) = ObjectWriter::new(plan);
    let mut out = BytesMut::from(&head[..]);
    writer.begin(partition(1), 7, RangeKind::Data, 100);
    for batch in [&a, &b] {
        writer.batch(&batch.header, &batch.parts());
        batch.write_to(&mut out);
    }
    writer.end(106, None);
    writer.begin(partition(2), 3, RangeKind::Data, 40);
    writer.batch(&c.header, &c.parts());
    c.write_to(&mut out);
    writer.end(43, None);
    writer.begin(partition(1), 7, RangeKind::HandOff, 106);
    writer.opaque(&state);
    out.put_slice(&state);
    writer.end(106, None);
    let finished = writer.finish().unwrap();
    out.put_slice(&finished.tail);
    (out.freeze(), finished)
}

/// A shared object: the first partition carries producer state, the second a gap at its end.
pub(crate) fn object_l1() -> (Bytes, Finished) {
    let (a, b) = (stored(100, 7), stored(40, 3));
    let plan = ObjectPlan {
        level: Level::L1,
        nonce: NONCE,
        writer: Writer::job(0x0506_0708),
        seq: 4,
        lane: 0,
        data_len: (a.len() + b.len()) as u64,
        lane_trim: 0,
        prev_slot_crc: 0,
    };
    let (mut writer, head) = ObjectWriter::new(plan);
    let mut out = BytesMut::from(&head[..]);
    writer.begin(partition(1), 7, RangeKind::Data, 100);
    writer.batch(&a.header, &a.parts());
    a.write_to(&mut out);
    writer.end(103, Some(producers()));
    writer.begin(partition(2), 3, RangeKind::Data, 40);
    writer.batch(&b.header, &b.parts());
    b.write_to(&mut out);
    writer.end(50, None);
    let finished = writer.finish().unwrap();
    out.put_slice(&finished.tail);
    (out.freeze(), finished)
}

/// A compacted range: offsets 100 to 102 stand in a batch, one record of it and 103 to 109 are gone.
pub(crate) fn object_compacted() -> (Bytes, Finished) {
    let whole = stored(100, 7);
    let records = raw_records(&whole.to_bytes(), 1 << 20).unwrap();
    let less = rewrite(&whole.header, &records[1..], Some(1_700_000_123_000));
    let header = batch::check(&less).unwrap();
    let plan = ObjectPlan {
        level: Level::L2,
        nonce: NONCE,
        writer: Writer::job(0x0506_0709),
        seq: 0,
        lane: 0,
        data_len: less.len() as u64,
        lane_trim: 0,
        prev_slot_crc: 0,
    };
    let (mut writer, head) = ObjectWriter::new(plan);
    let mut out = BytesMut::from(&head[..]);
    writer.begin(partition(1), 7, RangeKind::Data, 90);
    writer.compacted();
    writer.batch(&header, &[&less]);
    out.put_slice(&less);
    writer.end(110, Some(producers()));
    let finished = writer.finish().unwrap();
    out.put_slice(&finished.tail);
    (out.freeze(), finished)
}

pub(crate) fn aborted() -> Vec<AbortedTxn> {
    let txn = |first_offset, last_offset, last_stable_offset| AbortedTxn {
        producer_id: 0x7172,
        first_offset,
        last_offset,
        last_stable_offset,
    };
    vec![txn(90, 100, 101), txn(101, 104, 102)]
}

pub(crate) const MARKER: Marker = Marker { commit: false, coordinator_epoch: 0x0304_0506 };

/// As a partition appends it.
pub(crate) fn marker(base_offset: u64) -> StoredBatch {
    let bytes = MARKER.batch(0x7172, 0x0b0c, 1_700_000_009_000);
    let header = batch::check(&bytes).unwrap();
    StoredBatch::stamp(&bytes, header, base_offset, 7)
}

/// Markers and aborted transactions, at a level: slots index each batch.
pub(crate) fn object_txn(level: Level) -> (Bytes, Finished) {
    let batches = [marker(100), stored(101, 7), marker(104)];
    let plan = ObjectPlan {
        level,
        nonce: NONCE,
        writer: Writer::session(SESSION),
        seq: 10,
        lane: 0,
        data_len: batches.iter().map(|batch| batch.len() as u64).sum(),
        lane_trim: 0,
        prev_slot_crc: 0,
    };
    let (mut writer, head) = ObjectWriter::new(plan);
    let mut out = BytesMut::from(&head[..]);
    writer.begin(partition(1), 7, RangeKind::Data, 100);
    for batch in &batches {
        writer.batch(&batch.header, &batch.parts());
        batch.write_to(&mut out);
    }
    aborted().into_iter().for_each(|txn| writer.aborted(txn));
    writer.end(105, (level == Level::L1).then(producers));
    let finished = writer.finish().unwrap();
    out.put_slice(&finished.tail);
    (out.freeze(), finished)
}

/// A whole group without the zeros behind it.
pub(crate) fn wal_group() -> (GroupHead, Vec<(GroupEntry, Bytes)>, Bytes) {
    let data = stored(100, 7).to_bytes();
    let mut state = BytesMut::new();
    producers().encode(&mut state);
    let entry = |len, base, end, kind| GroupEntry {
        partition: partition(1),
        leader_epoch: 7,
        base,
        end,
        len: len as u32,
        kind,
    };
    let entries = vec![
        (entry(data.len(), 100, 103, RangeKind::Data), data),
        (entry(state.len(), 103, 103, RangeKind::HandOff), state.freeze()),
    ];
    let mut body = BytesMut::new();
    entries.iter().for_each(|(entry, _)| entry.encode(&mut body));
    entries.iter().for_each(|(_, bytes)| body.put_slice(bytes));
    let head = GroupHead {
        lane: LANE,
        file_seq: 0x1112_1314_1516_1718,
        group_seq: 0x2122_2324_2526_2728,
        synced_seq: 0x2122_2324_2526_2727,
        prev_crc: 0x5152_5354,
        entries: 2,
        data_len: entries.iter().map(|(_, bytes)| bytes.len() as u32).sum(),
        body_crc: crc32c(&body),
        salt: 0x6162_6364,
    };
    let mut out = BytesMut::from(&head.encode()[..]);
    out.put_slice(&body);
    (head, entries, out.freeze())
}

fn config() -> BTreeMap<String, String> {
    [("class", "object"), ("retention_ms", "604800000")]
        .map(|(key, value)| (key.into(), value.into()))
        .into()
}

fn object_ids() -> Vec<ObjectId> {
    vec![
        ObjectId { writer: Writer::session(SESSION), seq: 3 },
        ObjectId { writer: Writer::job(8), seq: 4 },
    ]
}

fn object_refs() -> Vec<ObjectRef> {
    let single = SingleRange { partition: partition(2), leader_epoch: 3, base: 40, end: 50 };
    let l1 = ObjectRef {
        level: 1,
        writer: Writer::session(SESSION),
        seq: 3,
        nonce: NONCE,
        bytes: 33_554_432,
        footer_crc: 0x7172_7374,
        single: None,
    };
    let l2 =
        ObjectRef { level: 2, writer: Writer::job(8), seq: 4, single: Some(single), ..l1.clone() };
    vec![l1, l2]
}

/// Every kind once, in the order of their numbers, and one of a later release.
pub(crate) fn records() -> Vec<Record> {
    let [l1, l2]: [ObjectRef; 2] = object_refs().try_into().unwrap();
    let (session, lane, partition) = (SESSION, LANE, partition(9));
    let mut records: Vec<Record> = vec![
        Claim { term: 11, broker: 12, incarnation: NONCE, address: "127.0.0.1:9092".into() }.into(),
        Resign { term: 13 }.into(),
        SessionOpen {
            session,
            incarnation: NONCE,
            store_id: STORE,
            zone: "eu-1a".into(),
            address: "böker:9092".into(),
            lanes: vec![
                LaneOpen { lane: 0, kind: LaneKind::Object },
                LaneOpen { lane: 1, kind: LaneKind::Local },
            ],
        }
        .into(),
        SessionFencing { session, rid: 14, reason: "silent for 6 s".into() }.into(),
        SessionBeat {
            session,
            synced: vec![LaneSynced { lane: 1, group_seq: 15 }],
            upload_floor: 16,
        }
        .into(),
        LaneClosed { lane, rid: 17, trim: 18, end: 19 }.into(),
        LaneTrim { lane, trim: 20 }.into(),
        LossAccepted { partition, from: 21, to: 22 }.into(),
        Grant { partition, leader_epoch: 23, lane, start: 24 }.into(),
        HandOffDone { partition, leader_epoch: 25, end: 26 }.into(),
        l1.into(),
        Unref { objects: object_ids() }.into(),
        Deleted { objects: vec![] }.into(),
        SlotsDeleted { lane, below: 27 }.into(),
        JobStart { job: 28, kind: 29, session, inputs: object_ids() }.into(),
        JobEnd { job: 30 }.into(),
        TopicCreate {
            topic: TOPIC,
            name: "orders".into(),
            partitions: 31,
            config: config(),
            created_ms: 1_700_000_000_032,
        }
        .into(),
        TopicGrow { topic: TOPIC, partitions: 33 }.into(),
        TopicConfig { topic: TOPIC, set: config(), remove: vec!["segment_bytes".into()] }.into(),
        TopicDelete { topic: TOPIC, deleted_ms: 1_700_000_000_034 }.into(),
        TopicPurge { topic: TOPIC }.into(),
        LogStart { partition, log_start: 35 }.into(),
        ClusterConfig { set: config(), remove: vec!["quota".into()] }.into(),
        Feature { name: "compaction".into(), level: 36 }.into(),
        ProducerIds { next: 37 }.into(),
        Record::Skipped { kind: 0x8001, body: Bytes::from_static(b"of a later release") },
    ];
    // The second form of a reference: with the one range of an L2 object.
    records.push(l2.into());
    records
}

pub(crate) fn slot() -> Slot {
    Slot {
        cluster: CLUSTER,
        slot: 41,
        term: 42,
        nonce: NONCE,
        writer: Writer::session(SessionId { broker: 12, epoch: 0 }),
        prev_crc: 0x8182_8384,
        records: records(),
    }
}

pub(crate) fn boundary() -> Boundary {
    Boundary { slot: 43, term: 44, nonce: NONCE, writer: Writer::session(SESSION) }
}

pub(crate) fn image() -> Image {
    let leader =
        Leader { epoch: 7, lane: LANE, start: 61, handed_off: Some(62), loss_accepted: Some(63) };
    let lane = Lane {
        id: LANE,
        kind: LaneKind::Local,
        trim: 54,
        end: Some(55),
        synced: 56,
        deleted_below: 57,
    };
    let [l1, l2]: [ObjectRef; 2] = object_refs().try_into().unwrap();
    Image {
        term: 50,
        controller: Some(Controller {
            broker: 12,
            incarnation: NONCE,
            address: "127.0.0.1:9092".into(),
        }),
        sessions: vec![Session {
            id: SESSION,
            state: SessionState::Fencing,
            incarnation: NONCE,
            store_id: STORE,
            zone: "eu-1a".into(),
            address: "böker:9092".into(),
            rid: 51,
            upload_floor: 52,
            closed_at: 53,
        }],
        lanes: vec![lane.clone(), Lane { end: None, ..lane }],
        topics: vec![Topic {
            id: TOPIC,
            name: "orders".into(),
            partitions: 58,
            config: config(),
            created_ms: 1_700_000_000_059,
            deleted_ms: Some(1_700_000_000_060),
            purged: true,
        }],
        partitions: vec![
            Partition {
                id: partition(1),
                log_start: 64,
                l2_end: 65,
                leader: Some(leader),
                epochs: vec![
                    EpochStart { epoch: 6, start: 66 },
                    EpochStart { epoch: 7, start: 61 },
                ],
                losses: vec![LostRange { from: 67, to: 68 }],
            },
            Partition {
                id: partition(2),
                log_start: 0,
                l2_end: 0,
                leader: None,
                epochs: vec![],
                losses: vec![],
            },
        ],
        objects: vec![l1],
        unreferenced: vec![Unreferenced { object: l2, at_slot: 69 }],
        jobs: vec![Job { id: 70, kind: 71, session: SESSION, inputs: object_ids() }],
        config: config(),
        features: vec![FeatureLevel { name: "compaction".into(), level: 72 }],
        next_producer_id: 73,
        claims: vec![74, 75],
    }
}

pub(crate) fn snapshot() -> Snapshot {
    Snapshot {
        cluster: CLUSTER,
        slot: 45,
        term: 46,
        nonce: NONCE,
        writer: Writer::session(SESSION),
        chain_crc: 0x9192_9394,
        image: image(),
    }
}
