//! A move of the coordinator is not a rebalance; what a log may hold is read or refused.

use bytes::Bytes;
use levee_kafka::ErrorCode;

use super::consumer_client::{client, settle};
use super::{OK, World, code, join};
use crate::{Groups, ReplayError, Settings};

#[test]
fn classic_members_go_on_in_their_generation() {
    let mut world = World::new();
    let ids = world.stable(3);
    world.fail_over();
    assert_eq!(world.state(), "Stable");
    for id in &ids {
        assert_eq!(world.heartbeat(id, 1), OK);
        let token = world.send_sync(id, 1, &[]);
        assert_eq!(world.synced(token).assignment, id.as_bytes());
    }
    // A follower that joins because it lost its connection changes nothing either.
    let token = world.send_join(&join().id(&ids[1]));
    assert_eq!(world.joined(token).generation_id, 1);
    // Sessions began anew, and end.
    world.pass(9_999);
    assert_eq!(world.state(), "Stable");
    world.pass(1);
    assert_eq!(world.state(), "Empty");
}

#[test]
fn a_rebalance_that_a_move_interrupts_is_done_again() {
    let mut world = World::new();
    let ids = world.stable(2);
    let tokens: Vec<_> = ids.iter().map(|id| world.send_join(&join().id(id))).collect();
    tokens.iter().for_each(|token| assert_eq!(world.joined(*token).generation_id, 2));
    world.fail_over();
    let token = world.send_sync(&ids[0], 2, &[]);
    assert_eq!(world.synced(token).error_code, code(ErrorCode::IllegalGeneration));
    let tokens: Vec<_> = ids.iter().map(|id| world.send_join(&join().id(id))).collect();
    tokens.iter().for_each(|token| assert_eq!(world.joined(*token).generation_id, 2));
}

#[test]
fn consumer_groups_go_on_in_the_middle_of_a_rebalance() {
    let mut world = World::new();
    world.topic("t", 6);
    let (mut a, mut b) = (client("a", &["t"]), client("b", &["t"]));
    a.join(&mut world);
    a.follow();
    b.join(&mut world);
    let answer = a.send(&mut world, a.plain());
    assert!(answer.assignment.is_some());
    world.fail_over();
    let epoch = world.consumer().epoch;
    // What was told is not asked back again, and goes on.
    a.follow();
    a.beat(&mut world);
    b.beat(&mut world);
    assert_eq!((a.epoch, b.owned.len(), world.consumer().epoch), (epoch, 3, epoch));
    settle(&mut world, &mut [a, b]);
    world.check_replay();
}

#[test]
fn a_member_that_must_give_back_has_its_time_again_after_a_move() {
    let mut world = World::new();
    world.topic("t", 6);
    let (mut a, mut b) = (client("a", &["t"]), client("b", &["t"]));
    a.join(&mut world);
    a.follow();
    b.join(&mut world);
    a.send(&mut world, a.plain());
    world.pass(20_000);
    world.fail_over();
    world.pass(20_000);
    assert_eq!(a.send(&mut world, a.plain()).error_code, OK);
    world.pass(10_001);
    assert_eq!(a.send(&mut world, a.plain()).error_code, code(ErrorCode::UnknownMemberId));
}

#[test]
fn records_that_are_not_known_are_left_alone() {
    let mut groups = Groups::new(Settings::default());
    for kind in [4i16, 9, 15, 17, 200] {
        let key = Bytes::copy_from_slice(&kind.to_be_bytes());
        assert_eq!(groups.replay(key, Some(Bytes::from_static(b"x")), None), Ok(()));
    }
    assert!(groups.groups.is_empty());
}

#[test]
fn records_that_are_broken_are_refused() {
    let mut groups = Groups::new(Settings::default());
    let mut replay = |key: &[u8], value: &[u8]| {
        let (key, value) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
        groups.replay(key, Some(value), None).unwrap_err()
    };
    assert_eq!(replay(&[0], &[]), ReplayError::ShortKey(1));
    let group = [0, 2, 0, 1, b'g'];
    let record = "GroupMetadataValue";
    assert_eq!(replay(&group, &[3]), ReplayError::ShortValue { record });
    let newer = ReplayError::Version { record, version: 9, newest: 4 };
    assert_eq!(replay(&group, &[0, 9]), newer);
    assert_eq!(newer.to_string(), "GroupMetadataValue has version 9; this broker reads up to 4");
    assert!(matches!(replay(&group, &[0, 3, 0]), ReplayError::Malformed { .. }));
    assert!(matches!(replay(&[0, 2, 0, 9], &[0, 3]), ReplayError::Malformed { .. }));
}

#[test]
fn records_are_as_kafka_writes_them() {
    let mut world = World::new();
    world.topic("t", 1);
    world.commit(super::offsets_client::NOBODY, 0, 42);
    let super::Entry::Record(key, Some(value), None) = &world.log[0] else { panic!() };
    // Key 1: group, topic, partition. Value 4: offset, leader epoch, metadata, time, tagged id.
    assert_eq!(key[..], *b"\0\x01\0\x01g\0\x01t\0\0\0\0");
    assert_eq!(value[..14], *b"\0\x04\0\0\0\0\0\0\0\x2a\0\0\0\x07");
    let ids = world.stable(1);
    let last = world.log.last().unwrap();
    let super::Entry::Record(key, Some(value), None) = last else { panic!() };
    // Key 2: group. Value 3: protocol type, generation, protocol, leader, time, members.
    assert_eq!(key[..], *b"\0\x02\0\x01g");
    assert_eq!(value[..25], *b"\0\x03\0\x08consumer\0\0\0\x01\0\x05range\0\x06");
    assert_eq!(&value[25..31], ids[0].as_bytes());
}

#[test]
fn members_of_consumer_groups_are_not_taken_for_classic_ones() {
    let mut world = World::new();
    world.topic("t", 1);
    client("a", &["t"]).join(&mut world);
    let super::Entry::Record(key, Some(value), None) = &world.log[0] else { panic!() };
    // Key 5: group, member. Where the tagged field of classic members is left out Kafka reads an
    // empty one, so its absence is written: one tag, number 0, one byte, 0.
    assert_eq!(key[..], *b"\0\x05\0\x01g\0\x01a");
    assert!(value.ends_with(b"\x01\0\x01\0"));
}
