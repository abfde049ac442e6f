//! Nothing that a client says, and nothing that time does, leads to a batch that the partition does
//! not take: `World::take` holds every one of them against the bound.

use bytes::Bytes;
use levee_kafka::ErrorCode;
use levee_kafka::messages::offset_delete_request::{
    OffsetDeleteRequest, OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};

use super::consumer_client::{Client, client, heartbeat, settle};
use super::offsets_client::{By, NOBODY, commit_request};
use super::{Entry, GROUP, OK, World, code, join};
use crate::settings::record_bytes;
use crate::{Answer, Effects, Request, Settings};

const BATCH: usize = 64 << 10;
const DAY: i64 = 24 * 3_600_000;

fn world() -> World {
    let mut world = World::with(Settings { max_batch_bytes: BATCH, ..Settings::default() });
    world.topic("t", 4);
    world
}

fn bytes_of(effects: &Effects) -> usize {
    effects.records.iter().map(|(key, value)| record_bytes(key, value.as_deref())).sum()
}

fn text(bytes: usize) -> &'static str {
    Box::leak("x".repeat(bytes).into_boxed_str())
}

fn pattern(pattern: &str) -> Client {
    Client { regex: Some(pattern.into()), topics: None, ..client("", &[]) }
}

/// Members with ids of 60 bytes, all of whom read `t`.
fn members(world: &mut World, count: usize) -> Vec<Client> {
    members_of(world, count, 60)
}

fn members_of(world: &mut World, count: usize, id_bytes: usize) -> Vec<Client> {
    let id = |at| format!("{at:0>id_bytes$}");
    let mut all: Vec<_> = (0..count).map(|at| client(&id(at), &["t"])).collect();
    for member in &mut all {
        assert_eq!(member.join(world).error_code, OK);
        member.follow();
    }
    all
}

#[test]
fn a_commit_that_fits_no_batch_commits_nothing() {
    let mut world = world();
    let ids = world.stable(1);
    let by = By(&ids[0], None, 1);
    let logged = world.log.len();
    let offsets: Vec<_> = (0..40).map(|partition| (partition, 1)).collect();
    let mut request = commit_request(by, "t", &offsets);
    for partition in &mut request.topics[0].partitions {
        partition.committed_metadata = Some("x".repeat(4_096));
    }
    match world.ask(9, Request::OffsetCommit(request.clone())) {
        Answer::OffsetCommit(answer) => {
            let codes: Vec<_> =
                answer.topics[0].partitions.iter().map(|partition| partition.error_code).collect();
            assert_eq!(codes, vec![code(ErrorCode::InvalidCommitOffsetSize); 40]);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!((world.log.len(), world.offset(0)), (logged, -1));
    request.topics[0].partitions.truncate(10);
    assert_eq!(world.commit_with(9, request), OK);
    world.check_replay();
}

#[test]
fn a_commit_in_a_transaction_that_fits_no_batch_commits_nothing() {
    use levee_kafka::messages::txn_offset_commit_request as txn;
    let mut world = world();
    let each = (0..2_000).map(|partition_index| txn::TxnOffsetCommitRequestPartition {
        partition_index,
        committed_offset: 1,
        ..Default::default()
    });
    let topic = txn::TxnOffsetCommitRequestTopic { name: "t".into(), partitions: each.collect() };
    let mut request = txn::TxnOffsetCommitRequest {
        group_id: GROUP.into(),
        producer_id: 7,
        generation_id: -1,
        topics: vec![topic],
        ..Default::default()
    };
    let mut ask = |request: &txn::TxnOffsetCommitRequest| match world
        .ask(5, Request::TxnOffsetCommit(request.clone()))
    {
        Answer::TxnOffsetCommit(answer) => answer.topics[0].partitions[0].error_code,
        other => panic!("{other:?}"),
    };
    assert_eq!(ask(&request), code(ErrorCode::InvalidCommitOffsetSize));
    request.topics[0].partitions.truncate(100);
    assert_eq!(ask(&request), OK);
    world.end_transaction(7, true);
    assert_eq!((world.offset(99), world.offset(100)), (1, -1));
    world.check_replay();
}

#[test]
fn a_member_for_whom_the_group_has_no_room_does_not_join() {
    let mut world = world();
    let large = join().version(3).protocols(&[("range", text(18 << 10))]);
    let first: Vec<_> = (0..3).map(|_| world.send_join(&large)).collect();
    let fourth = world.send_join(&large);
    assert_eq!(world.joined(fourth).error_code, code(ErrorCode::GroupMaxSizeReached));
    world.pass(10_000);
    let mut ids: Vec<_> = first.iter().map(|token| world.joined(*token).member_id).collect();
    let leader = world.classic().to_value().leader.unwrap();
    ids.sort_by_key(|id| *id != leader);
    world.sync_all(&ids, 1);
    // It may not grow later either.
    let larger = join().id(&ids[1]).protocols(&[("range", text(30 << 10))]);
    let token = world.send_join(&larger);
    assert_eq!(world.joined(token).error_code, code(ErrorCode::GroupMaxSizeReached));
    assert_eq!((world.state(), world.heartbeat(&ids[0], 1)), ("Stable", OK));
    world.check_replay();
}

#[test]
fn an_instance_that_comes_back_with_too_much_is_refused() {
    let mut world = world();
    let token = world.send_join(&join().instance("i"));
    world.pass(5_000);
    let id = world.joined(token).member_id;
    world.send_sync_as(&id, Some("i"), 1, &[(&id, "a")]);
    let logged = world.log.len();
    let token = world.send_join(&join().instance("i").protocols(&[("range", text(BATCH))]));
    assert_eq!(world.joined(token).error_code, code(ErrorCode::GroupMaxSizeReached));
    assert_eq!((world.log.len(), world.heartbeat_as(&id, Some("i"), 1)), (logged, OK));
    world.check_replay();
}

#[test]
fn a_leader_that_assigns_too_much_is_refused() {
    let mut world = world();
    let (id, token) = world.join_new();
    world.pass(5_000);
    assert_eq!(world.joined(token).error_code, OK);
    let logged = world.log.len();
    let token = world.send_sync(&id, 1, &[(&id, text(BATCH))]);
    assert_eq!(world.synced(token).error_code, code(ErrorCode::UnknownServerError));
    assert_eq!((world.log.len(), world.state()), (logged, "CompletingRebalance"));
    let token = world.send_sync(&id, 1, &[(&id, "less")]);
    assert_eq!(world.synced(token).error_code, OK);
    world.check_replay();
}

#[test]
fn what_members_say_is_kept_without_the_frame_that_it_came_in() {
    let mut world = world();
    let frame = Bytes::from(vec![b'm'; 1 << 20]);
    let mut request = join().version(3).request();
    let Request::JoinGroup(join) = &mut request else { panic!("no join") };
    join.protocols[0].metadata = frame.slice(10..20);
    let token = world.send(3, request);
    world.pass(5_000);
    let id = world.joined(token).member_id;
    let kept = world.classic().members[&id].metadata("range").unwrap().clone();
    assert_eq!(kept, frame[10..20]);
    let inside = frame.as_ptr_range();
    assert!(!inside.contains(&kept.as_ptr()), "it holds a frame of 1 MiB");
}

#[test]
fn names_that_records_have_no_room_for_are_refused() {
    let mut world = world();
    let invalid = code(ErrorCode::InvalidRequest);
    let long = text(40_000);
    for join in [join().instance(text(250)), join().protocols(&[(long, "m")])] {
        let token = world.send_join(&join);
        assert_eq!(world.joined(token).error_code, invalid);
    }
    let mut request = join().request();
    let Request::JoinGroup(join) = &mut request else { panic!("no join") };
    join.protocol_type = long.into();
    let token = world.send(9, request);
    assert_eq!(world.joined(token).error_code, invalid);
    let a = || client("a", &["t"]);
    for wrong in [
        Client { id: long.into(), ..a() },
        Client { instance: Some(text(250).into()), ..a() },
        Client { topics: Some(vec![text(250).into()]), ..a() },
    ] {
        assert_eq!(heartbeat(&mut world, wrong.full()).error_code, invalid);
    }
    let mut request = a().full();
    request.rack_id = Some(long.into());
    assert_eq!(heartbeat(&mut world, request).error_code, invalid);
    assert!(world.groups.groups.is_empty() && world.log.is_empty());
}

#[test]
fn the_name_of_a_client_is_for_people_and_may_be_cut() {
    let mut world = world();
    world.client_id = "c".repeat(40_000);
    let ids = world.stable(2);
    assert!(ids.iter().all(|id| id.len() < 2_000));
    world.check_replay();
    world.fail_over();
    assert_eq!(world.heartbeat(&ids[0], 1), OK);
}

#[test]
fn a_subscription_that_fits_no_record_is_refused() {
    let mut world = world();
    let names: Vec<String> = (0..1_000).map(|at| format!("topic-{at}")).collect();
    let mut a = client("a", &["t"]);
    a.join(&mut world);
    let mut request = a.full();
    request.subscribed_topic_names = Some(names);
    assert_eq!(heartbeat(&mut world, request).error_code, code(ErrorCode::InvalidRequest));
    assert_eq!(a.beat(&mut world).error_code, OK);
    world.check_replay();
}

#[test]
fn patterns_that_match_more_than_a_batch_are_refused() {
    let mut world = world();
    for at in 0..30 {
        world.topic(&format!("a{at:0>199}"), 1);
    }
    let mut joined = Vec::new();
    for at in 0..20 {
        let mut member = Client { id: format!("m{at}"), ..pattern(&format!(".*|{at}")) };
        match member.join(&mut world).error_code {
            OK => joined.push(member),
            refused => assert_eq!(refused, code(ErrorCode::InvalidRequest)),
        }
    }
    assert!((1..20).contains(&joined.len()), "{}", joined.len());
    settle(&mut world, &mut joined);
    // What they match grows beyond that: they go on with what they have.
    let owned: usize = joined.iter().map(|member| member.owned.len()).sum();
    for at in 0..30 {
        world.topic(&format!("b{at:0>199}"), 1);
    }
    settle(&mut world, &mut joined);
    assert_eq!(joined.iter().map(|member| member.owned.len()).sum::<usize>(), owned);
    let mut late = Client { id: "late".into(), ..pattern(".*|late") };
    assert_eq!(late.join(&mut world).error_code, code(ErrorCode::InvalidRequest));
    world.check_replay();
}

#[test]
fn who_would_read_more_than_a_record_holds_is_out() {
    let mut world = world();
    world.topic("many", 10_000);
    let mut all = client("all", &["many"]);
    assert_eq!(all.join(&mut world).error_code, code(ErrorCode::InvalidRequest));
    world.topic("u", 1);
    let mut both = vec![client("a", &["t"]), client("u", &["t", "u"])];
    both.iter_mut().for_each(|member| _ = member.join(&mut world));
    settle(&mut world, &mut both);
    world.topic("u", 10_000);
    // The other member notices.
    assert_eq!(both[0].beat(&mut world).error_code, OK);
    assert_eq!(both[1].beat(&mut world).error_code, code(ErrorCode::UnknownMemberId));
    assert_eq!(both[1].join(&mut world).error_code, code(ErrorCode::InvalidRequest));
    both.truncate(1);
    settle(&mut world, &mut both);
    assert_eq!(both[0].owned.len(), 4);
    world.check_replay();
}

#[test]
fn a_target_of_many_members_is_several_batches() {
    let mut world = world();
    let mut all = members_of(&mut world, 300, 500);
    settle(&mut world, &mut all);
    world.topic("t", 300);
    let effects = world.effects(1, Request::ConsumerGroupHeartbeat(all[0].plain()));
    let bytes = bytes_of(&effects);
    assert!(bytes > BATCH && effects.cuts.len() > 1, "{bytes} bytes, cut at {:?}", effects.cuts);
    world.take(effects);
    settle(&mut world, &mut all);
    world.check_replay();
}

/// Wherever the log ends within a step, members get on from there.
#[test]
fn a_target_that_was_written_in_part_is_made_again() {
    let mut world = world();
    let mut all = members(&mut world, 20);
    settle(&mut world, &mut all);
    world.topic("t", 40);
    let before = world.log.len();
    let (log, cuts) = {
        let effects = world.effects(1, Request::ConsumerGroupHeartbeat(all[0].plain()));
        (effects.records, effects.cuts)
    };
    assert!(cuts.len() > 3, "{cuts:?}");
    for cut in cuts {
        let mut other = World::with(world.groups.settings.clone());
        other.topics.clone_from(&world.topics);
        other.log = world.log[..before].to_vec();
        let part = log[..cut].iter().cloned();
        other.log.extend(part.map(|(key, value)| Entry::Record(key, value, None)));
        other.fail_over();
        let mut all = all.clone();
        settle(&mut other, &mut all);
        assert_eq!(all.iter().map(|member| member.owned.len()).sum::<usize>(), 40);
    }
}

#[test]
fn many_members_leave_at_once() {
    let mut world = world();
    let all = members(&mut world, 600);
    let ids: Vec<_> = all[1..].iter().map(|member| (member.id.as_str(), None)).collect();
    assert!(world.leave(&ids).iter().all(|code| *code == OK));
    let mut left = all[..1].to_vec();
    settle(&mut world, &mut left);
    assert_eq!(left[0].owned.len(), 4);
    world.check_replay();
}

#[test]
fn many_sessions_end_at_once() {
    let mut world = world();
    members(&mut world, 600);
    world.now += 60_000;
    let mut ticks = 0;
    while world.groups.timers.next().is_some_and(|at| at <= world.now) {
        let effects = world.groups.tick(world.now, &world.topics);
        assert!(bytes_of(&effects) <= BATCH + BATCH / 8);
        world.take(effects);
        ticks += 1;
    }
    assert!(ticks > 1 && world.consumer().members.is_empty());
    world.check_replay();
}

fn many_offsets(world: &mut World) {
    for from in (0..6_000).step_by(300) {
        let offsets: Vec<_> = (from..from + 300).map(|partition| (partition, 1)).collect();
        assert_eq!(world.commit_with(9, commit_request(NOBODY, "t", &offsets)), OK);
    }
}

#[test]
fn many_offsets_end_with_their_group() {
    let mut world = world();
    many_offsets(&mut world);
    assert_eq!(world.delete_group(), OK);
    assert!(world.groups.groups.is_empty());
    world.check_replay();
}

#[test]
fn many_offsets_are_deleted_at_once() {
    let mut world = world();
    many_offsets(&mut world);
    let each = (0..6_000).map(|partition_index| OffsetDeleteRequestPartition { partition_index });
    let topic = OffsetDeleteRequestTopic { name: "t".into(), partitions: each.collect() };
    let request = OffsetDeleteRequest { group_id: GROUP.into(), topics: vec![topic] };
    world.ask(0, Request::OffsetDelete(request));
    assert_eq!((world.offset(0), world.offset(5_999)), (-1, -1));
    world.check_replay();
}

#[test]
fn many_offsets_of_one_group_end_in_several_ticks() {
    let mut world = world();
    many_offsets(&mut world);
    world.now += 8 * DAY;
    let mut ticks = 0;
    while !world.groups.groups.is_empty() {
        world.now = world.groups.deadline().unwrap().max(world.now);
        let effects = world.groups.tick(world.now, &world.topics);
        assert!(effects.records.len() <= 1_001);
        world.take(effects);
        ticks += 1;
    }
    assert_eq!(ticks, 6);
    world.check_replay();
}
