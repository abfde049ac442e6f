//! Rebalances that meet each other, and members that stop in the middle of one.

use levee_kafka::ErrorCode;

use super::{OK, World, code, join};

#[test]
fn a_new_member_begins_a_rebalance_and_the_others_rejoin() {
    let mut world = World::new();
    let ids = world.stable(2);
    let (third, waits) = world.join_new();
    assert_eq!(world.state(), "PreparingRebalance");
    let others: Vec<_> = ids.iter().map(|id| world.send_join(&join().id(id))).collect();
    // The last one ends it: nobody waits for a timeout.
    let answers = [world.joined(waits), world.joined(others[0]), world.joined(others[1])];
    assert!(answers.iter().all(|a| a.error_code == OK && a.generation_id == 2));
    assert_eq!(answers[1].members.len(), 3);
    assert_eq!(answers[0].leader, ids[0]);
    let all = [ids[0].clone(), ids[1].clone(), third];
    world.sync_all(&all, 2);
    world.check_replay();
}

#[test]
fn who_does_not_rejoin_in_time_is_out() {
    let mut world = World::new();
    let ids = world.stable(2);
    let (_, waits) = world.join_new();
    let rejoined = world.send_join(&join().id(&ids[0]));
    // It is heard of, but does not join for as long as the longest rebalance timeout.
    for _ in 0..12 {
        assert_eq!(world.heartbeat(&ids[1], 1), code(ErrorCode::RebalanceInProgress));
        world.pass(5_000);
    }
    assert_eq!(world.joined(waits).generation_id, 2);
    assert_eq!(world.joined(rejoined).members.len(), 2);
    assert_eq!(world.heartbeat(&ids[1], 2), code(ErrorCode::UnknownMemberId));
}

#[test]
fn the_leader_may_be_the_one_that_is_out() {
    let mut world = World::new();
    let ids = world.stable(2);
    let token = world.send_join(&join().id(&ids[1]).protocols(&[("range", "other")]));
    world.pass(60_000);
    let answer = world.joined(token);
    assert_eq!((answer.generation_id, &answer.leader), (2, &ids[1]));
    assert_eq!(answer.members.len(), 1);
}

#[test]
fn a_rebalance_in_the_middle_of_another_sends_everybody_back_to_join() {
    let mut world = World::new();
    let ids = world.stable(3);
    let rejoins: Vec<_> = ids.iter().map(|id| world.send_join(&join().id(id))).collect();
    rejoins.iter().for_each(|token| assert_eq!(world.joined(*token).generation_id, 2));
    let waiting = world.send_sync(&ids[1], 2, &[]);
    // Before the leader assigned somebody new comes.
    let (fourth, joins) = world.join_new();
    assert_eq!(world.synced(waiting).error_code, code(ErrorCode::RebalanceInProgress));
    let late = world.send_sync(&ids[0], 2, &[]);
    assert_eq!(world.synced(late).error_code, code(ErrorCode::RebalanceInProgress));
    let rejoins: Vec<_> = ids.iter().map(|id| world.send_join(&join().id(id))).collect();
    for token in rejoins.into_iter().chain([joins]) {
        let answer = world.joined(token);
        assert_eq!((answer.error_code, answer.generation_id), (OK, 3));
    }
    let mut all = ids;
    all.push(fourth);
    world.sync_all(&all, 3);
    assert_eq!(world.state(), "Stable");
    world.check_replay();
}

#[test]
fn many_rebalances_follow_each_other_and_nobody_becomes_unknown() {
    let mut world = World::new();
    let mut ids = world.stable(1);
    for generation in 2..12 {
        let (id, joins) = world.join_new();
        let rejoins: Vec<_> = ids.iter().map(|id| world.send_join(&join().id(id))).collect();
        for token in rejoins.into_iter().chain([joins]) {
            assert_eq!(world.joined(token).generation_id, generation);
        }
        ids.push(id);
        if generation % 2 == 0 {
            world.sync_all(&ids, generation);
        }
    }
    assert!(ids.iter().all(|id| world.heartbeat(id, 11) == OK));
}

#[test]
fn a_leader_that_joins_forces_a_rebalance_and_a_follower_does_not() {
    let mut world = World::new();
    let ids = world.stable(2);
    let token = world.send_join(&join().id(&ids[1]));
    let answer = world.joined(token);
    assert_eq!((answer.generation_id, answer.members.len()), (1, 0));
    assert_eq!(answer.leader, ids[0]);
    assert_eq!(world.state(), "Stable");
    let token = world.send_join(&join().id(&ids[0]));
    assert_eq!(world.state(), "PreparingRebalance");
    let other = world.send_join(&join().id(&ids[1]));
    assert_eq!(world.joined(token).generation_id, 2);
    assert_eq!(world.joined(other).generation_id, 2);
}

#[test]
fn a_follower_that_changed_forces_a_rebalance() {
    let mut world = World::new();
    let ids = world.stable(2);
    let token = world.send_join(&join().id(&ids[1]).protocols(&[("range", "other topics")]));
    assert_eq!(world.state(), "PreparingRebalance");
    assert_eq!(world.heartbeat(&ids[0], 1), code(ErrorCode::RebalanceInProgress));
    world.send_join(&join().id(&ids[0]));
    assert_eq!(world.joined(token).generation_id, 2);
}

#[test]
fn who_missed_the_answer_to_its_join_gets_it_again() {
    let mut world = World::new();
    let (id, first) = world.join_new();
    world.pass(3_000);
    let answer = world.joined(first);
    assert_eq!(world.state(), "CompletingRebalance");
    let again = world.send_join(&join().id(&id));
    assert_eq!(world.joined(again), answer);
    let changed = world.send_join(&join().id(&id).protocols(&[("range", "other")]));
    assert_eq!(world.joined(changed).generation_id, 2);
}

#[test]
fn a_join_that_is_repeated_ends_the_one_that_waits() {
    let mut world = World::new();
    let ids = world.stable(2);
    let first = world.send_join(&join().id(&ids[0]));
    let second = world.send_join(&join().id(&ids[0]));
    assert_eq!(world.joined(first).error_code, code(ErrorCode::RebalanceInProgress));
    world.send_join(&join().id(&ids[1]));
    assert_eq!(world.joined(second).generation_id, 2);
    let first = world.send_sync(&ids[1], 2, &[]);
    let second = world.send_sync(&ids[1], 2, &[]);
    assert_eq!(world.synced(first).error_code, code(ErrorCode::RebalanceInProgress));
    world.send_sync(&ids[0], 2, &[(&ids[1], "a")]);
    assert_eq!(world.synced(second).assignment, "a");
}

#[test]
fn a_member_that_never_syncs_is_out() {
    let mut world = World::new();
    let (a, first) = world.join_new();
    let (b, second) = world.join_new();
    world.pass(6_000);
    let leader = world.joined(first).leader;
    world.joined(second);
    let other = if leader == a { b } else { a };
    let token = world.send_sync(&leader, 1, &[]);
    assert_eq!(world.synced(token).error_code, OK);
    for _ in 0..12 {
        assert_eq!(world.heartbeat(&other, 1), OK);
        assert_eq!(world.heartbeat(&leader, 1), OK);
        world.pass(5_000);
    }
    assert_eq!(world.state(), "PreparingRebalance");
    assert_eq!(world.heartbeat(&other, 1), code(ErrorCode::UnknownMemberId));
    let token = world.send_join(&join().id(&leader));
    assert_eq!(world.joined(token).members.len(), 1);
}

#[test]
fn a_leader_that_never_assigns_is_out() {
    let mut world = World::new();
    let (_, first) = world.join_new();
    let (_, second) = world.join_new();
    world.pass(6_000);
    let answers = [world.joined(first), world.joined(second)];
    let leader = answers[0].leader.clone();
    let other = answers.iter().map(|a| a.member_id.clone()).find(|id| *id != leader).unwrap();
    let waits = world.send_sync(&other, 1, &[]);
    for _ in 0..12 {
        assert_eq!(world.heartbeat(&leader, 1), OK);
        world.pass(5_000);
    }
    assert_eq!(world.synced(waits).error_code, code(ErrorCode::RebalanceInProgress));
    let token = world.send_join(&join().id(&other));
    assert_eq!(world.joined(token).leader, other);
    assert_eq!(world.heartbeat(&leader, 1), code(ErrorCode::UnknownMemberId));
}

#[test]
fn who_leaves_while_it_waits_is_answered() {
    let mut world = World::new();
    let ids = world.stable(2);
    let joins = world.send_join(&join().id(&ids[0]));
    assert_eq!(world.leave(&[(&ids[0], None)]), [OK]);
    assert_eq!(world.joined(joins).error_code, code(ErrorCode::UnknownMemberId));
    let joins = world.send_join(&join().id(&ids[1]));
    assert_eq!(world.joined(joins).generation_id, 2);
}

#[test]
fn a_new_member_does_not_wait_for_ever() {
    let mut world = World::new();
    let ids = world.stable(1);
    let token = world.send_join(&super::Join { rebalance_ms: 900_000, ..join().version(3) });
    for _ in 0..59 {
        world.pass(5_000);
        assert_eq!(world.heartbeat(&ids[0], 1), code(ErrorCode::RebalanceInProgress));
    }
    world.pass(5_000);
    assert_eq!(world.joined(token).error_code, code(ErrorCode::UnknownMemberId));
}
