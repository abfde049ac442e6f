//! Committed offsets.

use bytes::Bytes;
use levee_kafka::messages::consumer_protocol_subscription::ConsumerProtocolSubscription;
use levee_kafka::messages::offset_fetch_request::{
    OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use levee_kafka::{ErrorCode, Message, Uuid, Writer};

use super::consumer_client::{client, settle};
use super::offsets_client::{By, NOBODY, commit_request};
use super::{GROUP, OK, World, code};
use crate::{Answer, Request};

const DAY: i64 = 24 * 3_600_000;

fn world() -> World {
    let mut world = World::new();
    world.topic("t", 4);
    world
}

#[test]
fn who_is_no_member_commits_to_a_group_without_members() {
    let mut world = world();
    assert_eq!(world.commit(NOBODY, 0, 42), OK);
    let got = world.fetch_one(true, 0);
    assert_eq!((got.committed_offset, got.committed_leader_epoch), (42, 7));
    assert_eq!(got.metadata.as_deref(), Some("meta"));
    let none = world.fetch_one(true, 1);
    assert_eq!((none.committed_offset, none.error_code), (-1, OK));
    assert_eq!(none.metadata.as_deref(), Some(""));
    world.check_replay();
    world.fail_over();
    assert_eq!(world.offset(0), 42);
}

#[test]
fn a_group_that_is_not_there_has_no_generations() {
    let mut world = world();
    let request = || commit_request(By("m", None, 3), "t", &[(0, 1)]);
    assert_eq!(world.commit_with(8, request()), code(ErrorCode::IllegalGeneration));
    assert_eq!(world.commit_with(9, request()), code(ErrorCode::GroupIdNotFound));
    assert!(world.groups.groups.is_empty());
}

#[test]
fn classic_members_commit_in_their_generation() {
    let mut world = world();
    let ids = world.stable(1);
    let id = ids[0].as_str();
    assert_eq!(world.commit(By(id, None, 1), 0, 5), OK);
    assert_eq!(world.commit(By(id, None, 0), 0, 6), code(ErrorCode::IllegalGeneration));
    assert_eq!(world.commit(By("x", None, 1), 0, 6), code(ErrorCode::UnknownMemberId));
    assert_eq!(world.commit(NOBODY, 0, 6), code(ErrorCode::UnknownMemberId));
    // A commit is as good as a heartbeat.
    for _ in 0..3 {
        world.pass(8_000);
        assert_eq!(world.commit(By(id, None, 1), 0, 7), OK);
    }
    // While the others join a member may still commit what it did; before it is assigned not.
    let (_, joins) = world.join_new();
    assert_eq!(world.commit(By(id, None, 1), 0, 8), OK);
    world.send_join(&super::join().id(id));
    assert_eq!(world.joined(joins).generation_id, 2);
    assert_eq!(world.commit(By(id, None, 2), 0, 9), code(ErrorCode::RebalanceInProgress));
    assert_eq!(world.offset(0), 8);
    world.check_replay();
}

#[test]
fn members_of_consumer_groups_commit_in_their_epoch_or_since_they_have_the_partition() {
    let mut world = world();
    let (mut a, mut b) = (client("a", &["t"]), client("b", &["t"]));
    a.join(&mut world);
    a.follow();
    let by = |epoch| By("a", None, epoch);
    assert_eq!(world.commit(by(1), 0, 1), OK);
    let stale = code(ErrorCode::StaleMemberEpoch);
    assert_eq!(world.commit(by(2), 0, 1), stale);
    assert_eq!(world.commit(By("x", None, 1), 0, 1), code(ErrorCode::UnknownMemberId));
    assert_eq!(world.commit(NOBODY, 0, 1), code(ErrorCode::UnknownMemberId));
    let old = commit_request(by(1), "t", &[(0, 1)]);
    assert_eq!(world.commit_with(8, old), code(ErrorCode::UnsupportedVersion));
    b.join(&mut world);
    let mut both = [a, b];
    settle(&mut world, &mut both);
    assert_eq!(both[0].epoch, 2);
    let topic = world.topics["t"].id;
    let kept = (0..4).find(|p| both[0].owned.contains(&(topic, *p))).unwrap();
    let lost = (0..4).find(|p| !both[0].owned.contains(&(topic, *p))).unwrap();
    assert_eq!(world.commit(by(1), kept, 2), OK);
    assert_eq!(world.commit(by(1), lost, 2), stale);
    assert_eq!(world.commit(By("b", None, 1), lost, 2), stale);
    assert_eq!(world.commit(By("b", None, 2), lost, 2), OK);
    world.check_replay();
}

#[test]
fn metadata_has_a_limit() {
    let mut world = world();
    for (length, expected) in [(4_096, OK), (4_097, code(ErrorCode::OffsetMetadataTooLarge))] {
        let mut request = commit_request(NOBODY, "t", &[(0, 1)]);
        request.topics[0].partitions[0].committed_metadata = Some("x".repeat(length));
        assert_eq!(world.commit_with(9, request), expected);
    }
    assert_eq!(world.fetch_one(false, 0).metadata.map(|text| text.len()), Some(4_096));
}

#[test]
fn topics_are_named_or_have_ids() {
    let mut world = world();
    let id = world.topics["t"].id;
    let unknown = commit_request(NOBODY, "nothing", &[(0, 1)]);
    assert_eq!(world.commit_with(9, unknown), code(ErrorCode::UnknownTopicOrPartition));
    let mut by_id = commit_request(NOBODY, "", &[(0, 8)]);
    assert_eq!(world.commit_with(10, by_id.clone()), code(ErrorCode::UnknownTopicId));
    by_id.topics[0].topic_id = id;
    assert_eq!(world.commit_with(10, by_id), OK);
    assert_eq!(world.offset(0), 8);
    let mut fetch = |version, topics| {
        let group =
            OffsetFetchRequestGroup { group_id: GROUP.into(), topics, ..Default::default() };
        world.fetch_group(version, false, group).topics
    };
    let asked = |topic_id| {
        let partition_indexes = vec![0];
        Some(vec![OffsetFetchRequestTopics { topic_id, partition_indexes, ..Default::default() }])
    };
    let got = fetch(10, asked(id));
    assert_eq!((got[0].topic_id, got[0].partitions[0].committed_offset), (id, 8));
    let got = fetch(10, asked(Uuid::from(5)));
    assert_eq!(got[0].partitions[0].error_code, code(ErrorCode::UnknownTopicId));
    // All of them.
    let got = fetch(10, None);
    assert_eq!((got.len(), got[0].topic_id), (1, id));
    let got = fetch(9, None);
    assert_eq!((got.len(), got[0].name.as_str(), got[0].partitions.len()), (1, "t", 1));
}

#[test]
fn an_offset_for_a_topic_that_was_made_again_is_not_the_new_ones() {
    let mut world = world();
    let before = world.topics["t"].id;
    world.topic_ids.insert("t".into(), before);
    assert_eq!((world.commit(NOBODY, 0, 42), world.offset(0)), (OK, 42));
    world.topics.remove("t");
    assert_eq!(world.commit(NOBODY, 0, 43), code(ErrorCode::UnknownTopicOrPartition));
    let after = world.topic("t", 4);
    assert_ne!(after, before);
    let unknown = code(ErrorCode::UnknownTopicId);
    assert_eq!(world.commit(NOBODY, 0, 43), unknown);
    assert_eq!(world.txn_commit(7, NOBODY, 0, 43), unknown);
    assert_eq!(world.offset(0), -1);
    world.topic_ids.insert("t".into(), after);
    assert_eq!((world.commit(NOBODY, 0, 1), world.offset(0)), (OK, 1));
    world.check_replay();
}

#[test]
fn up_to_version_7_one_group_is_fetched() {
    let mut world = world();
    world.commit(NOBODY, 1, 42);
    let request =
        |topics| OffsetFetchRequest { group_id: GROUP.into(), topics, ..Default::default() };
    let named = OffsetFetchRequestTopic { name: "t".into(), partition_indexes: vec![0, 1] };
    match world.ask(1, Request::OffsetFetch(request(Some(vec![named])))) {
        Answer::OffsetFetch(answer) => {
            let offsets: Vec<i64> =
                answer.topics[0].partitions.iter().map(|p| p.committed_offset).collect();
            assert_eq!(offsets, [-1, 42]);
        }
        other => panic!("{other:?}"),
    }
    match world.ask(5, Request::OffsetFetch(request(None))) {
        Answer::OffsetFetch(answer) => {
            assert_eq!(answer.topics[0].partitions.len(), 1);
            assert!(answer.groups.is_empty());
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_member_that_fetches_must_be_one() {
    let mut world = world();
    let mut a = client("a", &["t"]);
    a.join(&mut world);
    let mut fetch = |member: Option<&str>, member_epoch| {
        let group = OffsetFetchRequestGroup {
            group_id: GROUP.into(),
            member_id: member.map(Into::into),
            member_epoch,
            topics: None,
        };
        world.fetch_group(9, true, group).error_code
    };
    assert_eq!(fetch(None, -1), OK);
    assert_eq!(fetch(Some("a"), 1), OK);
    assert_eq!(fetch(Some("a"), 0), code(ErrorCode::StaleMemberEpoch));
    assert_eq!(fetch(Some("x"), 1), code(ErrorCode::UnknownMemberId));
}

/// What the Java consumer says when it joins.
fn subscription(topics: &[&str]) -> Bytes {
    let mut w = Writer::new();
    w.i16(1);
    let topics = topics.iter().map(|topic| (*topic).to_owned()).collect();
    let user_data = Some(Bytes::new());
    ConsumerProtocolSubscription { topics, user_data, ..Default::default() }.encode(&mut w, 1);
    w.into_bytes()
}

/// A stable group of one consumer that reads `t`.
fn reader(world: &mut World) -> String {
    let metadata: &'static [u8] = Box::leak(subscription(&["t"]).to_vec().into_boxed_slice());
    let text = std::str::from_utf8(metadata).unwrap();
    let join = super::join().version(3).protocols(&[("range", text)]);
    let token = world.send_join(&join);
    world.pass(5_000);
    let id = world.joined(token).member_id;
    world.sync_all(std::slice::from_ref(&id), 1);
    id
}

#[test]
fn offsets_are_deleted_but_not_of_topics_that_are_read() {
    let mut world = world();
    world.topic("u", 1);
    assert_eq!(world.delete_offset("t", 0).0, code(ErrorCode::GroupIdNotFound));
    world.commit(NOBODY, 0, 1);
    world.commit_with(9, commit_request(NOBODY, "u", &[(0, 1)]));
    reader(&mut world);
    let read = code(ErrorCode::GroupSubscribedToTopic);
    assert_eq!(world.delete_offset("t", 0), (OK, Some(read)));
    assert_eq!(world.delete_offset("u", 0), (OK, Some(OK)));
    assert_eq!(world.delete_offset("u", 0), (OK, Some(OK)));
    assert_eq!(world.offset(0), 1);
    world.check_replay();
}

#[test]
fn groups_are_deleted_when_nobody_is_in_them() {
    let mut world = world();
    assert_eq!(world.delete_group(), code(ErrorCode::GroupIdNotFound));
    let ids = world.stable(1);
    world.commit(By(&ids[0], None, 1), 0, 1);
    assert_eq!(world.delete_group(), code(ErrorCode::NonEmptyGroup));
    world.leave(&[(&ids[0], None)]);
    assert_eq!(world.delete_group(), OK);
    assert_eq!(world.offset(0), -1);
    world.check_replay();
    assert!(world.replayed(&world.log).groups.is_empty());
    // The same for a consumer group.
    let mut a = client("a", &["t"]);
    a.join(&mut world);
    assert_eq!(world.delete_group(), code(ErrorCode::NonEmptyGroup));
    a.leave(&mut world, -1);
    assert_eq!(world.delete_group(), OK);
    world.check_replay();
    assert!(world.replayed(&world.log).groups.is_empty());
}

#[test]
fn who_asks_for_the_same_again_is_not_told_it_twice() {
    let mut world = world();
    world.commit(NOBODY, 0, 1);
    let topic = |partition_indexes: &[i32]| OffsetFetchRequestTopics {
        name: "t".into(),
        partition_indexes: partition_indexes.to_vec(),
        ..Default::default()
    };
    let group = OffsetFetchRequestGroup {
        group_id: GROUP.into(),
        topics: Some(vec![topic(&[0, 1, 0, 0]), topic(&[0, 2])]),
        ..Default::default()
    };
    let answer = world.fetch_group(9, false, group);
    let told = answer.topics.iter().flat_map(|t| t.partitions.iter().map(|p| p.partition_index));
    assert_eq!(told.collect::<Vec<_>>(), [0, 1, 2]);
}

#[test]
fn offsets_of_topics_that_are_gone_are_not_told_and_go_too() {
    let mut world = world();
    let ids = world.stable(1);
    world.commit(By(&ids[0], None, 1), 0, 1);
    let id = world.topics["t"].id;
    // Another topic of the same name.
    world.topics.get_mut("t").unwrap().id = Uuid::from(9);
    assert_eq!(world.offset(0), -1);
    world.topics.get_mut("t").unwrap().id = id;
    assert_eq!(world.offset(0), 1);
    world.topics.get_mut("t").unwrap().id = Uuid::from(9);
    world.pass(600_000);
    world.topics.get_mut("t").unwrap().id = id;
    assert_eq!(world.offset(0), -1);
    world.check_replay();
}

#[test]
fn offsets_of_who_is_no_member_end_a_while_after_they_were_committed() {
    let mut world = world();
    world.commit(NOBODY, 0, 1);
    world.pass(4 * DAY);
    world.commit(NOBODY, 1, 1);
    world.pass(4 * DAY);
    assert_eq!((world.offset(0), world.offset(1)), (-1, 1));
    world.check_replay();
    world.pass(4 * DAY);
    assert!(world.groups.groups.is_empty());
    world.check_replay();
}

#[test]
fn offsets_of_a_group_end_a_while_after_its_last_member_left() {
    let mut world = world();
    let id = reader(&mut world);
    world.commit(By(&id, None, 1), 0, 1);
    for _ in 0..10 * DAY / 9_000 {
        world.pass(9_000);
        assert_eq!(world.heartbeat(&id, 1), OK);
    }
    assert_eq!(world.offset(0), 1);
    world.leave(&[(&id, None)]);
    world.pass(6 * DAY);
    assert_eq!(world.offset(0), 1);
    // A move of the coordinator does not begin the time anew.
    world.fail_over();
    world.pass(2 * DAY);
    assert_eq!(world.offset(0), -1);
    assert!(world.groups.groups.is_empty());
    world.check_replay();
}

#[test]
fn offsets_of_topics_that_a_stable_group_does_not_read_end() {
    let mut world = world();
    world.topic("u", 1);
    let id = reader(&mut world);
    let by = By(&id, None, 1);
    assert_eq!(world.commit_with(9, commit_request(by, "u", &[(0, 1)])), OK);
    world.commit(by, 0, 1);
    for _ in 0..8 * DAY / 9_000 {
        world.pass(9_000);
        world.heartbeat(&id, 1);
    }
    let group = OffsetFetchRequestGroup { group_id: GROUP.into(), ..Default::default() };
    let left = world.fetch_group(9, false, group).topics;
    assert_eq!(left.iter().map(|topic| topic.name.as_str()).collect::<Vec<_>>(), ["t"]);
}

#[test]
fn an_old_commit_may_say_how_long_it_is_kept() {
    let mut world = world();
    let mut request = commit_request(NOBODY, "t", &[(0, 1)]);
    request.retention_time_ms = DAY;
    assert_eq!(world.commit_with(4, request), OK);
    world.check_replay();
    world.pass(DAY - 1_000_000);
    assert_eq!(world.offset(0), 1);
    world.pass(2_000_000);
    assert_eq!(world.offset(0), -1);
}

#[test]
fn many_offsets_end_in_batches_that_have_a_bound() {
    let mut world = world();
    for at in 0..30 {
        let offsets: Vec<(i32, i64)> = (0..100).map(|partition| (partition, 1)).collect();
        let mut request = commit_request(NOBODY, "t", &offsets);
        request.group_id = format!("g{at}");
        world.commit_with(9, request);
    }
    world.now += 8 * DAY;
    let mut ticks = 0;
    while !world.groups.groups.is_empty() {
        world.now = world.groups.deadline().unwrap().max(world.now);
        let effects = world.groups.tick(world.now, &world.topics);
        assert!(effects.records.len() <= 1_100);
        world.take(effects);
        ticks += 1;
    }
    assert!(ticks >= 3);
    world.check_replay();
}
