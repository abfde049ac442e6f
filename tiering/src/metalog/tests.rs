//! The fold against the invariants it must hold.

use std::collections::BTreeMap;

use levee_proto::ids::{LaneId, Nonce, PartitionId, SessionId, TopicId, Writer};
use levee_proto::metalog::image::SessionState;
use levee_proto::metalog::*;

use super::MetaState;

const TOPIC: TopicId = TopicId(7);
const OBJECT: u16 = 0;

fn session(epoch: u32) -> SessionId {
    SessionId { broker: 1, epoch }
}

fn lane(epoch: u32) -> LaneId {
    LaneId { session: session(epoch), lane: OBJECT }
}

fn p0() -> PartitionId {
    PartitionId { topic: TOPIC, partition: 0 }
}

fn claim(term: u64) -> Record {
    Claim { term, broker: 1, incarnation: Nonce(term.into()), address: "a".into() }.into()
}

fn open(epoch: u32) -> Record {
    let lanes = vec![LaneOpen { lane: OBJECT, kind: LaneKind::Object }];
    let incarnation = Nonce(epoch.into());
    let (zone, address) = (String::new(), String::new());
    let store_id = Nonce(1);
    SessionOpen { session: session(epoch), incarnation, store_id, zone, address, lanes }.into()
}

fn fencing(epoch: u32, rid: u64) -> Record {
    SessionFencing { session: session(epoch), rid, reason: "test".into() }.into()
}

fn closed(epoch: u32, rid: u64, end: u64) -> Record {
    LaneClosed { lane: lane(epoch), rid, trim: 0, end }.into()
}

fn grant(leader_epoch: u32, on: u32, start: u64) -> Record {
    Grant { partition: p0(), leader_epoch, lane: lane(on), start }.into()
}

fn object(epoch: u32, seq: u64) -> ObjectRef {
    ObjectRef {
        level: 1,
        writer: Writer::session(session(epoch)),
        seq,
        nonce: Nonce(1),
        bytes: 1,
        footer_crc: 0,
        single: None,
    }
}

fn topic() -> Record {
    let config = BTreeMap::new();
    let name = "orders".into();
    TopicCreate { topic: TOPIC, name, partitions: 2, config, created_ms: 0 }.into()
}

/// A state with one open session that leads partition 0 in epoch 1 from offset 0.
fn led() -> MetaState {
    let mut state = MetaState::new(Nonce(42));
    for record in [claim(1), open(1), topic(), grant(1, 1, 0)] {
        state.apply(1, &record).unwrap();
    }
    state
}

/// `record` must be refused, must say why, and must change nothing.
fn refused(state: &MetaState, record: Record, why: &str) {
    let mut after = state.clone();
    let error = after.apply(9, &record).expect_err("should be refused");
    assert!(error.to_string().contains(why), "{error} does not say {why:?}");
    assert_eq!(&after, state, "a refused record changes nothing");
}

fn slot(state: &MetaState, term: u64, records: Vec<Record>) -> Slot {
    Slot {
        cluster: state.cluster,
        slot: state.head + 1,
        term,
        nonce: Nonce(5),
        writer: Writer(0),
        prev_crc: state.chain_crc,
        records,
    }
}

#[test]
fn i1_slots_are_contiguous_and_chained() {
    let mut state = MetaState::new(Nonce(42));
    let first = slot(&state, 1, vec![claim(1)]);
    let crc = first.encode().1;
    state.apply_slot(&first, crc).unwrap();
    let good = slot(&state, 1, vec![]);
    for broken in [
        Slot { slot: 3, ..good.clone() },
        Slot { prev_crc: crc ^ 1, ..good.clone() },
        Slot { cluster: Nonce(43), ..good.clone() },
        Slot { term: 2, ..good.clone() },
        Slot { term: 2, records: vec![claim(3)], ..good.clone() },
    ] {
        let mut after = state.clone();
        after.apply_slot(&broken, 0).expect_err("broken chain");
    }
    state.apply_slot(&good, good.encode().1).unwrap();
    let next = slot(&state, 2, vec![claim(2)]);
    state.apply_slot(&next, next.encode().1).unwrap();
    assert_eq!((state.head, state.term), (3, 2));
    assert_eq!(state.claims, [1, 3]);
}

#[test]
fn i3_one_open_session_per_broker_and_none_resumed() {
    let mut state = led();
    refused(&state, open(2), "is open");
    state.apply(2, &fencing(1, 1)).unwrap();
    refused(&state, open(1), "after epoch 1");
    state.apply(3, &open(2)).unwrap();
    refused(&state, grant(2, 1, 0), "is Fencing");
}

#[test]
fn i3_a_fenced_session_commits_nothing() {
    let mut state = led();
    state.apply(2, &object(1, 0).into()).unwrap();
    state.apply(2, &fencing(1, 1)).unwrap();
    refused(&state, object(1, 1).into(), "is Fencing");
    refused(&state, LaneTrim { lane: lane(1), trim: 3 }.into(), "of b1.e1.l0");
    let beat = SessionBeat { session: session(1), synced: vec![], upload_floor: 1 };
    refused(&state, beat.into(), "is Fencing");
}

#[test]
fn i4_epochs_increase_and_offsets_tile() {
    let mut state = led();
    refused(&state, grant(1, 1, 0), "epoch 1 after 1");
    // Still led: neither handed off nor on a closed lane.
    refused(&state, grant(2, 1, 0), "0 after 0");
    let hand_off = HandOffDone { partition: p0(), leader_epoch: 1, end: 10 };
    state.apply(2, &hand_off.clone().into()).unwrap();
    refused(&state, hand_off.into(), "epoch 1");
    refused(&state, grant(2, 1, 9), "9 at 10");
    refused(&state, grant(2, 1, 11), "11 at 10");
    state.apply(3, &grant(2, 1, 10)).unwrap();
    let partition = &state.partitions[&p0()];
    let epochs: Vec<_> = partition.epochs.iter().map(|e| (e.epoch, e.start)).collect();
    assert_eq!(epochs, [(1, 0), (2, 10)]);
}

#[test]
fn i7_i8_a_lane_closes_once_and_only_for_the_newest_recovery() {
    let mut state = led();
    state.apply(2, &fencing(1, 1)).unwrap();
    state.apply(3, &fencing(1, 2)).unwrap();
    refused(&state, closed(1, 1, 5), "rid 1");
    state.apply(4, &closed(1, 2, 5)).unwrap();
    assert_eq!(state.sessions[&session(1)].state, SessionState::Closed);
    refused(&state, closed(1, 2, 6), "rid 2");
    state.apply(5, &open(2)).unwrap();
    state.apply(6, &grant(2, 2, 5)).unwrap();
}

#[test]
fn i12_an_object_number_is_used_once() {
    let mut state = led();
    state.apply(2, &object(1, 0).into()).unwrap();
    refused(&state, object(1, 0).into(), "is known");
    state.apply(3, &Unref { objects: vec![object(1, 0).id()] }.into()).unwrap();
    refused(&state, object(1, 0).into(), "is known");
    let beat = SessionBeat { session: session(1), synced: vec![], upload_floor: 4 };
    state.apply(4, &beat.into()).unwrap();
    refused(&state, object(1, 3).into(), "below 4");
}

#[test]
fn i13_only_what_is_unreferenced_is_deleted() {
    let mut state = led();
    state.apply(2, &object(1, 0).into()).unwrap();
    refused(&state, Deleted { objects: vec![object(1, 0).id()] }.into(), "not unreferenced");
    refused(&state, Unref { objects: vec![object(1, 9).id()] }.into(), "b1.e1.9");
}

#[test]
fn a_lost_disk_moves_on_only_where_the_operator_said_so() {
    let mut state = led();
    state.apply(2, &fencing(1, 1)).unwrap();
    state.apply(3, &open(2)).unwrap();
    refused(&state, grant(2, 2, 100), "100 after 0");
    let loss = LossAccepted { partition: p0(), from: 3, to: 100 };
    state.apply(4, &loss.into()).unwrap();
    refused(&state, grant(2, 2, 99), "99 at 100");
    state.apply(5, &grant(2, 2, 100)).unwrap();
}

#[test]
fn log_start_never_goes_back_and_trims_epochs() {
    let mut state = led();
    let hand_off = HandOffDone { partition: p0(), leader_epoch: 1, end: 10 };
    state.apply(2, &hand_off.into()).unwrap();
    state.apply(3, &grant(2, 1, 10)).unwrap();
    state.apply(4, &LogStart { partition: p0(), log_start: 15 }.into()).unwrap();
    refused(&state, LogStart { partition: p0(), log_start: 14 }.into(), "14 after 15");
    assert_eq!(state.partitions[&p0()].epochs.len(), 1);
}

#[test]
fn a_deleted_topic_frees_its_name_and_goes_after_the_purge() {
    let mut state = led();
    refused(&state, topic(), "exists");
    refused(&state, TopicPurge { topic: TOPIC }.into(), "is not deleted");
    state.apply(2, &TopicDelete { topic: TOPIC, deleted_ms: 1 }.into()).unwrap();
    assert!(state.topic_named("orders").is_none());
    state.apply(3, &TopicPurge { topic: TOPIC }.into()).unwrap();
    assert!(state.partitions.is_empty() && state.topics.is_empty());
}

#[test]
fn a_snapshot_is_the_state() {
    let mut state = led();
    state.apply(2, &object(1, 0).into()).unwrap();
    state.apply(2, &object(1, 1).into()).unwrap();
    state.apply(3, &Unref { objects: vec![object(1, 1).id()] }.into()).unwrap();
    state.apply(4, &Feature { name: "f".into(), level: 1 }.into()).unwrap();
    state.head = 4;
    let snapshot = Snapshot {
        cluster: state.cluster,
        slot: state.head,
        term: state.term,
        nonce: Nonce(8),
        writer: Writer(0),
        chain_crc: 0,
        image: state.image(),
    };
    let read = Snapshot::decode(&snapshot.encode()).unwrap();
    assert_eq!(MetaState::from_snapshot(read), state);
}

fn job(number: u64, inputs: &[u64]) -> Record {
    let inputs = inputs.iter().map(|seq| object(1, *seq).id()).collect();
    JobStart { job: number, kind: JOB_MERGE, session: session(1), inputs }.into()
}

/// F24: an object is held by one job, of a session that lives; what a job wrote counts only while
/// the job runs, and only for what it replaces.
#[test]
fn f24_a_job_replaces_what_it_holds_or_nothing() {
    let mut state = led();
    for seq in 0..3 {
        state.apply(2, &object(1, seq).into()).unwrap();
    }
    refused(&state, job(7, &[0, 9]), "not referenced");
    state.apply(3, &job(7, &[0, 1])).unwrap();
    refused(&state, job(7, &[2]), "runs");
    refused(&state, job(8, &[1, 2]), "held by another job");
    let output = ObjectRef { writer: Writer::job(7), ..object(1, 0) };
    let zombie = ObjectRef { writer: Writer::job(8), ..object(1, 0) };
    refused(&state, zombie.into(), "no job 8");

    // One of its inputs goes another way: the exchange is refused.
    let mut elsewhere = state.clone();
    let other = Unref { objects: vec![object(1, 1).id()] };
    elsewhere.apply(4, &other.into()).unwrap();
    let inputs: Record = Unref { objects: vec![object(1, 0).id(), object(1, 1).id()] }.into();
    refused(&elsewhere, inputs.clone(), "1");

    for record in [output.clone().into(), inputs, JobEnd { job: 7 }.into()] {
        state.apply(4, &record).unwrap();
    }
    assert_eq!(state.objects.keys().copied().collect::<Vec<_>>(), [object(1, 2).id(), output.id()]);
    let late = ObjectRef { writer: Writer::job(7), ..object(1, 1) };
    refused(&state, late.into(), "no job 7");
    state.apply(5, &job(8, &[2])).unwrap();
    state.apply(6, &fencing(1, 1)).unwrap();
    assert!(state.jobs.is_empty(), "jobs go with their session");
    refused(&state, job(9, &[2]), "Fencing");
}
