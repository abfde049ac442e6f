//! Static members of consumer groups.

use levee_kafka::ErrorCode;

use super::consumer_client::{Client, client, settle};
use super::{OK, World, code};

fn of(instance: &str, id: &str) -> Client {
    Client { instance: Some(instance.into()), ..client(id, &["t"]) }
}

fn settled(world: &mut World) -> [Client; 2] {
    world.topic("t", 6);
    let mut both = [of("i", "a"), of("j", "b")];
    both.iter_mut().for_each(|client| drop(client.join(world)));
    settle(world, &mut both);
    both
}

#[test]
fn an_instance_that_is_there_is_not_released() {
    let mut world = World::new();
    settled(&mut world);
    let unreleased = code(ErrorCode::UnreleasedInstanceId);
    assert_eq!(of("i", "z").join(&mut world).error_code, unreleased);
}

#[test]
fn a_static_member_that_comes_back_gets_what_it_had_without_a_new_epoch() {
    let mut world = World::new();
    let [mut a, mut b] = settled(&mut world);
    let epoch = world.consumer().epoch;
    assert_eq!(a.leave(&mut world, -2), OK);
    // Nobody gets its partitions meanwhile.
    b.beat(&mut world);
    assert_eq!(b.owned.len(), 3);
    let mut again = of("i", "z");
    assert_eq!(again.join(&mut world).member_epoch, epoch);
    assert_eq!(again.told, a.owned);
    assert_eq!(world.consumer().epoch, epoch);
    // The process before is out.
    let fenced = code(ErrorCode::FencedInstanceId);
    assert_eq!(a.beat(&mut world).error_code, fenced);
    assert_eq!(a.leave(&mut world, -1), fenced);
    again.follow();
    settle(&mut world, &mut [again, b]);
    world.check_replay();
}

#[test]
fn a_static_member_that_does_not_come_back_is_out_when_its_session_ends() {
    let mut world = World::new();
    let [mut a, mut b] = settled(&mut world);
    a.leave(&mut world, -2);
    world.pass(40_000);
    b.beat(&mut world);
    world.pass(6_000);
    b.beat(&mut world);
    assert_eq!(b.owned.len(), 6);
    assert_eq!(of("i", "z").join(&mut world).error_code, OK);
    world.check_replay();
}

#[test]
fn a_static_member_may_leave_for_good() {
    let mut world = World::new();
    let [mut a, mut b] = settled(&mut world);
    assert_eq!(a.leave(&mut world, -1), OK);
    b.beat(&mut world);
    assert_eq!(b.owned.len(), 6);
}

#[test]
fn the_same_process_may_repeat_its_join() {
    let mut world = World::new();
    let [mut a, _] = settled(&mut world);
    let had = a.owned.clone();
    assert_eq!(a.join(&mut world).error_code, OK);
    assert_eq!(a.told, had);
}

#[test]
fn who_is_away_is_fenced_until_it_joins() {
    let mut world = World::new();
    let [mut a, _] = settled(&mut world);
    a.leave(&mut world, -2);
    assert_eq!(a.beat(&mut world).error_code, code(ErrorCode::FencedMemberEpoch));
    assert_eq!(a.join(&mut world).error_code, OK);
    assert_eq!(a.told.len(), 3);
    world.check_replay();
}

#[test]
fn an_admin_removes_members_by_instance_or_id() {
    let mut world = World::new();
    let [a, b] = settled(&mut world);
    let mut c = client("c", &["t"]);
    c.join(&mut world);
    let epoch = world.consumer().epoch;
    let unknown = code(ErrorCode::UnknownMemberId);
    let fenced = code(ErrorCode::FencedInstanceId);
    let codes = world.leave(&[
        ("", Some("i")),
        ("x", Some("j")),
        ("", Some("nobody")),
        ("nobody", None),
        ("c", None),
    ]);
    assert_eq!(codes, [OK, fenced, unknown, unknown, OK]);
    // One new epoch for all of them.
    assert_eq!(world.consumer().epoch, epoch + 1);
    assert_eq!(world.consumer().members.keys().collect::<Vec<_>>(), [&b.id]);
    assert_eq!(a.clone().beat(&mut world).error_code, unknown);
    world.check_replay();
}
