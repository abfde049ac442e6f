//! Classic groups: requests that are refused, members that come and go one at a time.

use levee_kafka::ErrorCode;
use levee_kafka::messages::join_group_request::JoinGroupRequest;
use levee_kafka::messages::leave_group_request::LeaveGroupRequest;
use levee_kafka::messages::sync_group_request::SyncGroupRequest;

use super::{GROUP, NEW, OK, World, code, join};
use crate::{Answer, Request, Settings};

#[test]
fn a_new_member_is_given_an_id_first_from_version_4_on() {
    let mut world = World::new();
    let token = world.send_join(&join().version(4));
    let answer = world.joined(token);
    assert_eq!(answer.error_code, code(ErrorCode::MemberIdRequired));
    assert_eq!(answer.member_id, "c-0001");
    assert_eq!(world.state(), "Empty");
    // Version 3 is a member at once.
    let token = world.send_join(&join().version(3));
    assert_eq!(world.state(), "PreparingRebalance");
    world.pass(20_000);
    let answer = world.joined(token);
    assert_eq!((answer.error_code, answer.generation_id), (OK, 1));
    assert_eq!(answer.leader, answer.member_id);
    assert_eq!(answer.members.len(), 1);
}

#[test]
fn joins_that_cannot_be_are_refused() {
    let mut world = World::new();
    let refused = |world: &mut World, join: &super::Join, expected| {
        let token = world.send_join(join);
        assert_eq!(world.joined(token).error_code, code(expected));
    };
    let short = super::Join { session_ms: 5_999, ..join() };
    refused(&mut world, &short, ErrorCode::InvalidSessionTimeout);
    let long = super::Join { session_ms: 1_800_001, ..join() };
    refused(&mut world, &long, ErrorCode::InvalidSessionTimeout);
    // The group is not there, so nobody is a member of it.
    refused(&mut world, &join().id("somebody"), ErrorCode::UnknownMemberId);
    assert!(world.groups.groups.is_empty());
    refused(&mut world, &join().protocols(&[]), ErrorCode::InconsistentGroupProtocol);
    world.stable(1);
    let other = join().protocols(&[("sticky", "m")]);
    refused(&mut world, &other, ErrorCode::InconsistentGroupProtocol);
    refused(&mut world, &join().id("somebody"), ErrorCode::UnknownMemberId);
    let nameless = Request::JoinGroup(JoinGroupRequest::default());
    match world.ask(NEW, nameless) {
        Answer::JoinGroup(answer) => assert_eq!(answer.error_code, code(ErrorCode::InvalidGroupId)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn members_join_sync_and_are_stable() {
    let mut world = World::new();
    let ids = world.stable(3);
    assert_eq!(world.state(), "Stable");
    for id in &ids {
        assert_eq!(world.heartbeat(id, 1), OK);
    }
    // Who asks again is told again.
    let token = world.send_sync(&ids[2], 1, &[]);
    assert_eq!(world.synced(token).assignment, ids[2].as_bytes());
    world.check_replay();
}

#[test]
fn the_first_rebalance_waits_as_long_as_members_keep_coming() {
    let mut world = World::new();
    let (_, first) = world.join_new();
    world.pass(2_000);
    let (_, second) = world.join_new();
    // The first delay of 3 s ends, but somebody came: another one.
    world.pass(2_000);
    assert_eq!(world.state(), "PreparingRebalance");
    world.pass(2_000);
    assert_eq!(world.joined(first).members.len() + world.joined(second).members.len(), 2);
    assert_eq!(world.classic().generation, 1);
}

#[test]
fn the_first_rebalance_does_not_wait_beyond_the_rebalance_timeout() {
    let mut world = World::new();
    let mut hasty = super::Join { rebalance_ms: 7_000, ..join().version(3) };
    hasty.session_ms = 6_000;
    let first = world.send_join(&hasty);
    for _ in 0..6 {
        world.pass(1_000);
        world.send_join(&hasty);
    }
    world.pass(1_000);
    assert_eq!(world.joined(first).generation_id, 1);
}

#[test]
fn requests_of_who_is_no_member_are_refused() {
    let mut world = World::new();
    assert_eq!(world.heartbeat("somebody", 1), code(ErrorCode::UnknownMemberId));
    let ids = world.stable(2);
    assert_eq!(world.heartbeat("somebody", 1), code(ErrorCode::UnknownMemberId));
    assert_eq!(world.heartbeat(&ids[0], 0), code(ErrorCode::IllegalGeneration));
    let token = world.send_sync("somebody", 1, &[]);
    assert_eq!(world.synced(token).error_code, code(ErrorCode::UnknownMemberId));
    let token = world.send_sync(&ids[0], 2, &[]);
    assert_eq!(world.synced(token).error_code, code(ErrorCode::IllegalGeneration));
    assert_eq!(world.leave(&[("somebody", None)]), [code(ErrorCode::UnknownMemberId)]);
    let request = SyncGroupRequest {
        group_id: GROUP.into(),
        generation_id: 1,
        member_id: ids[0].clone(),
        protocol_name: Some("sticky".into()),
        ..Default::default()
    };
    match world.ask(NEW, Request::SyncGroup(request)) {
        Answer::SyncGroup(answer) => {
            assert_eq!(answer.error_code, code(ErrorCode::InconsistentGroupProtocol));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn several_leave_at_once_and_an_empty_group_is_durable() {
    let mut world = World::new();
    let ids = world.stable(3);
    let codes = world.leave(&[(&ids[0], None), ("somebody", None), (&ids[1], None)]);
    assert_eq!(codes, [OK, code(ErrorCode::UnknownMemberId), OK]);
    assert_eq!(world.heartbeat(&ids[2], 1), code(ErrorCode::RebalanceInProgress));
    assert_eq!(world.leave(&[(&ids[2], None)]), [OK]);
    assert_eq!((world.state(), world.classic().generation), ("Empty", 2));
    assert_eq!(world.classic().protocol, None);
    assert_eq!(world.heartbeat(&ids[2], 1), code(ErrorCode::UnknownMemberId));
    world.check_replay();
}

#[test]
fn up_to_version_2_one_member_leaves_and_the_error_is_the_answers() {
    let mut world = World::new();
    let ids = world.stable(1);
    let leave = |id: &str| {
        let request = LeaveGroupRequest {
            group_id: GROUP.into(),
            member_id: id.into(),
            ..Default::default()
        };
        Request::LeaveGroup(request)
    };
    for (id, expected) in [("somebody", code(ErrorCode::UnknownMemberId)), (&ids[0], OK)] {
        match world.ask(2, leave(id)) {
            Answer::LeaveGroup(answer) => {
                assert_eq!((answer.error_code, answer.members.len()), (expected, 0));
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(world.state(), "Empty");
}

#[test]
fn a_group_takes_no_more_members_than_it_may() {
    let mut world = World::with(Settings { max_size: 2, ..Settings::default() });
    let joins: Vec<_> = (0..3).map(|_| world.send_join(&join().version(3))).collect();
    let refused = world.joined(joins[2]);
    assert_eq!(refused.error_code, code(ErrorCode::GroupMaxSizeReached));
    world.pass(6_000);
    assert_eq!(world.joined(joins[0]).generation_id, 1);
    assert_eq!(world.joined(joins[1]).generation_id, 1);
    let token = world.send_join(&join());
    assert_eq!(world.joined(token).error_code, code(ErrorCode::GroupMaxSizeReached));
}

#[test]
fn a_member_that_is_not_heard_of_is_out() {
    let mut world = World::new();
    let ids = world.stable(2);
    world.pass(6_000);
    assert_eq!(world.heartbeat(&ids[0], 1), OK);
    world.pass(6_000);
    assert_eq!(world.heartbeat(&ids[0], 1), code(ErrorCode::RebalanceInProgress));
    let token = world.send_join(&join().id(&ids[0]));
    let answer = world.joined(token);
    assert_eq!((answer.error_code, answer.generation_id, answer.members.len()), (OK, 2, 1));
    assert_eq!(world.heartbeat(&ids[1], 1), code(ErrorCode::UnknownMemberId));
}

#[test]
fn an_id_that_never_joins_is_forgotten() {
    let mut world = World::new();
    let ids = world.stable(1);
    let pending = world.send_join(&join());
    assert_eq!(world.joined(pending).error_code, code(ErrorCode::MemberIdRequired));
    // While the id may still come, a rebalance waits for it.
    let token = world.send_join(&join().id(&ids[0]));
    assert!(!world.answers.contains_key(&token));
    world.pass(10_000);
    assert_eq!(world.joined(token).generation_id, 2);
}

#[test]
fn protocols_are_elected() {
    let mut world = World::new();
    let first = join().version(3).protocols(&[("sticky", "s"), ("range", "r")]);
    let second = join().version(3).protocols(&[("range", "r"), ("roundrobin", "x")]);
    let a = world.send_join(&first);
    let b = world.send_join(&second);
    world.pass(20_000);
    let (a, b) = (world.joined(a), world.joined(b));
    assert_eq!(a.protocol_name.as_deref(), Some("range"));
    assert_eq!(b.protocol_name.as_deref(), Some("range"));
    // The leader sees what each said of that protocol.
    let leader = if a.members.is_empty() { b } else { a };
    assert!(leader.members.iter().all(|member| member.metadata == "r"));
}

#[test]
fn a_join_that_says_no_protocol_makes_no_group() {
    let mut world = World::new();
    let token = world.send_join(&join().protocols(&[]));
    assert_eq!(world.joined(token).error_code, code(ErrorCode::InconsistentGroupProtocol));
    assert!(world.groups.groups.is_empty() && world.log.is_empty());
}
