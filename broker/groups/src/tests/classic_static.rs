//! Static members of classic groups.

use levee_kafka::ErrorCode;

use crate::Settings;

use super::{OK, World, code, join};

/// A stable group of static members `i0`, `i1`, ...; the first one leads.
fn stable(world: &mut World, members: usize) -> Vec<(String, String)> {
    let joins: Vec<_> = (0..members)
        .map(|at| (format!("i{at}"), world.send_join(&join().instance(&format!("i{at}")))))
        .collect();
    world.pass(10_000);
    let mut found: Vec<(String, String)> = Vec::new();
    let mut leader = String::new();
    for (instance, token) in joins {
        let answer = world.joined(token);
        assert_eq!((answer.error_code, answer.generation_id), (OK, 1));
        leader = answer.leader;
        found.push((instance, answer.member_id));
    }
    found.sort_by_key(|(_, id)| *id != leader);
    let given: Vec<(&str, &str)> =
        found.iter().map(|(instance, id)| (id.as_str(), instance.as_str())).collect();
    world.send_sync_as(&found[0].1, Some(&found[0].0), 1, &given);
    for (instance, id) in &found {
        let token = world.send_sync_as(id, Some(instance), 1, &[]);
        assert_eq!(world.synced(token).assignment, instance.as_bytes());
    }
    found
}

#[test]
fn a_static_member_needs_no_id_first() {
    let mut world = World::new();
    let members = stable(&mut world, 2);
    assert!(members.iter().all(|(instance, id)| id.starts_with(&format!("{instance}-"))));
    world.check_replay();
}

#[test]
fn a_static_member_that_comes_back_makes_no_rebalance_and_fences_the_one_before() {
    let mut world = World::new();
    let members = stable(&mut world, 2);
    let (instance, old) = members[1].clone();
    let token = world.send_join(&join().instance(&instance));
    let answer = world.joined(token);
    assert_eq!((answer.error_code, answer.generation_id), (OK, 1));
    assert_ne!(answer.member_id, old);
    assert!(!answer.skip_assignment && answer.members.is_empty());
    assert_eq!(world.state(), "Stable");
    let token = world.send_sync_as(&answer.member_id, Some(&instance), 1, &[]);
    assert_eq!(world.synced(token).assignment, instance.as_bytes());
    let fenced = code(ErrorCode::FencedInstanceId);
    assert_eq!(world.heartbeat_as(&old, Some(&instance), 1), fenced);
    let token = world.send_sync_as(&old, Some(&instance), 1, &[]);
    assert_eq!(world.synced(token).error_code, fenced);
    let token = world.send_join(&join().instance(&instance).id(&old));
    assert_eq!(world.joined(token).error_code, fenced);
    assert_eq!(world.leave(&[(&old, Some(&instance))]), [fenced]);
    world.check_replay();
}

#[test]
fn a_leader_that_comes_back_is_told_not_to_assign() {
    let mut world = World::new();
    let members = stable(&mut world, 2);
    let (instance, old) = members[0].clone();
    let token = world.send_join(&join().instance(&instance));
    let answer = world.joined(token);
    assert!(answer.skip_assignment);
    assert_eq!((answer.members.len(), &answer.leader), (2, &answer.member_id));
    // Before version 9 it is told that its predecessor leads, which comes to the same.
    let before = answer.member_id;
    let token = world.send_join(&join().instance(&instance).version(8));
    let answer = world.joined(token);
    assert_eq!((answer.leader.as_str(), answer.members.len()), (before.as_str(), 0));
    assert_ne!(before, old);
    assert!(!answer.skip_assignment);
}

#[test]
fn a_static_member_that_comes_back_with_other_protocols_makes_a_rebalance() {
    let mut world = World::new();
    let first = join().instance("a").protocols(&[("range", "r"), ("sticky", "s")]);
    let token = world.send_join(&first);
    world.pass(5_000);
    let id = world.joined(token).member_id;
    let token = world.send_sync_as(&id, Some("a"), 1, &[]);
    assert_eq!(world.synced(token).error_code, OK);
    let changed = join().instance("a").protocols(&[("sticky", "s"), ("range", "r")]);
    let token = world.send_join(&changed);
    let answer = world.joined(token);
    assert_eq!((answer.generation_id, answer.protocol_name.as_deref()), (2, Some("sticky")));
}

#[test]
fn while_members_wait_for_an_assignment_a_static_member_comes_back_with_a_rebalance() {
    let mut world = World::new();
    let a = world.send_join(&join().instance("a"));
    let b = world.send_join(&join().instance("b"));
    world.pass(10_000);
    let (a, b) = (world.joined(a).member_id, world.joined(b).member_id);
    let waits = world.send_sync_as(&b, Some("b"), 1, &[]);
    let back = world.send_join(&join().instance("b"));
    // Its predecessor's sync is fenced, not lost.
    assert_eq!(world.synced(waits).error_code, code(ErrorCode::FencedInstanceId));
    let other = world.send_join(&join().instance("a").id(&a));
    assert_eq!(world.joined(back).generation_id, 2);
    assert_eq!(world.joined(other).generation_id, 2);
}

#[test]
fn a_static_member_that_does_not_rejoin_stays_until_its_session_ends() {
    let mut world = World::new();
    let members = stable(&mut world, 2);
    let (gone, stays) = (&members[0], &members[1]);
    let token =
        world.send_join(&join().instance(&stays.0).id(&stays.1).protocols(&[("range", "changed")]));
    world.pass(9_000);
    assert!(!world.answers.contains_key(&token));
    world.pass(2_000);
    let answer = world.joined(token);
    assert_eq!((answer.generation_id, answer.members.len()), (2, 1));
    let unknown = code(ErrorCode::UnknownMemberId);
    assert_eq!(world.heartbeat_as(&gone.1, Some(&gone.0), 1), unknown);
}

#[test]
fn a_static_member_comes_back_to_a_full_group() {
    let mut world = World::with(Settings { max_size: 2, ..Settings::default() });
    let members = stable(&mut world, 2);
    let token = world.send_join(&join().instance(&members[1].0));
    assert_eq!(world.joined(token).error_code, OK);
    let token = world.send_join(&join().instance("another"));
    assert_eq!(world.joined(token).error_code, code(ErrorCode::GroupMaxSizeReached));
}

#[test]
fn an_admin_removes_a_static_member_by_its_instance() {
    let mut world = World::new();
    let members = stable(&mut world, 2);
    let codes = world.leave(&[("", Some(&members[1].0)), ("", Some("nobody")), ("", None)]);
    let unknown = code(ErrorCode::UnknownMemberId);
    assert_eq!(codes, [OK, unknown, unknown]);
    assert_eq!(world.state(), "PreparingRebalance");
}

#[test]
fn two_processes_with_one_instance_fence_each_other_in_a_join() {
    let mut world = World::new();
    let first = world.send_join(&join().instance("a"));
    let second = world.send_join(&join().instance("a"));
    assert_eq!(world.joined(first).error_code, code(ErrorCode::FencedInstanceId));
    world.pass(10_000);
    assert_eq!(world.joined(second).members.len(), 1);
}
