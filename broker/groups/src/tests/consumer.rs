//! Consumer groups (KIP-848): joins, reconciliation, fencing, patterns.

use levee_kafka::ErrorCode;

use super::consumer_client::{Client, client, heartbeat, heartbeat_by, settle};
use super::{GROUP, OK, World, code};
use crate::Settings;

fn world() -> World {
    let mut world = World::new();
    world.topic("t", 6);
    world
}

#[test]
fn one_member_gets_everything_at_once() {
    let mut world = world();
    let mut a = client("a", &["t"]);
    let answer = a.join(&mut world);
    assert_eq!((answer.error_code, answer.member_epoch), (OK, 1));
    assert_eq!(answer.member_id.as_deref(), Some("a"));
    assert_eq!(answer.heartbeat_interval_ms, 5_000);
    assert_eq!(a.told.len(), 6);
    // Nothing changes: nothing is said.
    a.follow();
    assert_eq!(a.beat(&mut world).assignment, None);
    // Who tells all is told all.
    let answer = a.send(&mut world, a.full());
    assert_eq!(answer.assignment.map(|a| a.topic_partitions[0].partitions.len()), Some(6));
    world.check_replay();
}

#[test]
fn partitions_are_given_back_before_others_get_them() {
    let mut world = world();
    let (mut a, mut b) = (client("a", &["t"]), client("b", &["t"]));
    a.join(&mut world);
    a.follow();
    b.join(&mut world);
    assert_eq!((b.epoch, b.told.len()), (2, 0));
    let answer = a.send(&mut world, a.plain());
    assert_eq!((answer.member_epoch, a.told.len()), (1, 3));
    assert_eq!(world.consumer().state_name(), "Reconciling");
    // It has them still.
    assert_eq!(b.beat(&mut world).assignment, None);
    let answer = a.beat(&mut world);
    assert_eq!(answer.member_epoch, 1);
    // `beat` followed: now it says that it gave them back.
    assert_eq!(a.beat(&mut world).member_epoch, 2);
    b.beat(&mut world);
    assert_eq!((b.owned.len(), b.epoch), (3, 2));
    assert!(a.owned.is_disjoint(&b.owned));
    settle(&mut world, &mut [a, b]);
    world.check_replay();
}

#[test]
fn a_member_that_leaves_frees_what_it_has() {
    let mut world = world();
    let mut both = [client("a", &["t"]), client("b", &["t"])];
    both.iter_mut().for_each(|client| drop(client.join(&mut world)));
    settle(&mut world, &mut both);
    let [mut a, mut b] = both;
    assert_eq!(a.leave(&mut world, -1), OK);
    b.beat(&mut world);
    assert_eq!(b.owned.len(), 6);
    assert_eq!(b.leave(&mut world, -1), OK);
    assert_eq!(world.consumer().state_name(), "Empty");
    assert_eq!(b.leave(&mut world, -1), code(ErrorCode::UnknownMemberId));
    world.check_replay();
}

#[test]
fn a_member_that_is_not_heard_of_is_fenced() {
    let mut world = world();
    let mut both = [client("a", &["t"]), client("b", &["t"])];
    both.iter_mut().for_each(|client| drop(client.join(&mut world)));
    settle(&mut world, &mut both);
    let [mut a, mut b] = both;
    world.pass(30_000);
    a.beat(&mut world);
    world.pass(20_000);
    assert_eq!(b.beat(&mut world).error_code, code(ErrorCode::UnknownMemberId));
    a.beat(&mut world);
    assert_eq!(a.owned.len(), 6);
    world.check_replay();
}

#[test]
fn a_member_that_does_not_give_back_in_time_is_fenced() {
    let mut world = world();
    let (mut a, mut b) = (client("a", &["t"]), client("b", &["t"]));
    a.join(&mut world);
    a.follow();
    b.join(&mut world);
    for _ in 0..6 {
        let mut request = a.plain();
        request.topic_partitions = a.full().topic_partitions;
        assert_eq!(heartbeat(&mut world, request).error_code, OK);
        b.beat(&mut world);
        world.pass(5_001);
    }
    assert_eq!(a.beat(&mut world).error_code, code(ErrorCode::UnknownMemberId));
    b.beat(&mut world);
    assert_eq!(b.owned.len(), 6);
    world.check_replay();
}

#[test]
fn wrong_epochs_are_fenced() {
    let mut world = world();
    let mut a = client("a", &["t"]);
    a.join(&mut world);
    a.follow();
    let fenced = code(ErrorCode::FencedMemberEpoch);
    let mut newer = a.plain();
    newer.member_epoch = 2;
    assert_eq!(heartbeat(&mut world, newer).error_code, fenced);
    // A second member, and the first one reaches the next epoch.
    let mut b = client("b", &["t"]);
    b.join(&mut world);
    a.beat(&mut world);
    a.beat(&mut world);
    let before = a.epoch;
    assert_eq!(a.beat(&mut world).member_epoch, before);
    let mut stranger = client("x", &["t"]).plain();
    stranger.member_epoch = 1;
    assert_eq!(heartbeat(&mut world, stranger).error_code, code(ErrorCode::UnknownMemberId));
    let mut old = a.plain();
    old.member_epoch = 1;
    old.topic_partitions = client("", &[]).full().topic_partitions;
    // The epoch right before is accepted once: the answer with the new one may have been lost.
    let mut world_epoch = a.plain();
    world_epoch.member_epoch = a.epoch - 2;
    if world_epoch.member_epoch > 0 {
        assert_eq!(heartbeat(&mut world, world_epoch).error_code, fenced);
    }
}

#[test]
fn a_member_whose_answer_was_lost_may_come_with_the_epoch_before() {
    let mut world = world();
    let (mut a, mut b) = (client("a", &["t"]), client("b", &["t"]));
    a.join(&mut world);
    a.follow();
    b.join(&mut world);
    a.beat(&mut world);
    // It gave back, and does not hear that it is in epoch 2.
    let mut request = a.plain();
    request.topic_partitions = a.full().topic_partitions;
    assert_eq!(heartbeat(&mut world, request).member_epoch, 2);
    assert_eq!(a.epoch, 1);
    // It does not say what it has: it might have too much.
    let fenced = code(ErrorCode::FencedMemberEpoch);
    assert_eq!(heartbeat(&mut world, a.plain()).error_code, fenced);
    assert_eq!(a.beat(&mut world).member_epoch, 2);
}

#[test]
fn a_member_that_joins_again_gets_what_it_had() {
    let mut world = world();
    let mut both = [client("a", &["t"]), client("b", &["t"])];
    both.iter_mut().for_each(|client| drop(client.join(&mut world)));
    settle(&mut world, &mut both);
    let before = both[0].owned.clone();
    let epoch = world.consumer().epoch;
    both[0].join(&mut world);
    assert_eq!((&both[0].told, both[0].epoch), (&before, epoch));
}

#[test]
fn requests_that_make_no_sense_are_refused() {
    let mut world = world();
    let invalid = code(ErrorCode::InvalidRequest);
    let refused = |world: &mut World, change: &dyn Fn(&mut Client)| {
        let mut a = client("a", &["t"]);
        change(&mut a);
        let answer = heartbeat(world, a.full());
        assert!(answer.error_message.is_some());
        answer.error_code
    };
    assert_eq!(refused(&mut world, &|a| a.id.clear()), invalid);
    assert_eq!(refused(&mut world, &|a| a.rebalance_ms = -1), invalid);
    assert_eq!(refused(&mut world, &|a| a.topics = None), invalid);
    assert_eq!(refused(&mut world, &|a| a.instance = Some(String::new())), invalid);
    assert_eq!(refused(&mut world, &|a| a.epoch = -3), invalid);
    assert_eq!(refused(&mut world, &|a| a.epoch = -2), invalid);
    let unsupported = code(ErrorCode::UnsupportedAssignor);
    assert_eq!(refused(&mut world, &|a| a.assignor = Some("best".into())), unsupported);
    let pattern = code(ErrorCode::InvalidRegularExpression);
    assert_eq!(refused(&mut world, &|a| a.regex = Some("(".into())), pattern);
    assert_eq!(refused(&mut world, &|a| a.regex = Some(")(".into())), pattern);
    // Two bytes that become six thousand each, before any bound of the pattern's own is looked at.
    assert_eq!(refused(&mut world, &|a| a.regex = Some("\\w".repeat(1 << 19))), pattern);
    let mut a = client("a", &["t"]);
    a.epoch = 1;
    let answer = heartbeat(&mut world, a.plain());
    assert_eq!(answer.error_code, code(ErrorCode::GroupIdNotFound));
    assert!(world.groups.groups.is_empty() && world.log.is_empty());
}

#[test]
fn in_version_0_the_coordinator_chooses_the_id() {
    let mut world = world();
    let answer = heartbeat_by(&mut world, 0, client("", &["t"]).full());
    assert_eq!(answer.member_id.as_deref(), Some("0001"));
}

#[test]
fn a_group_takes_no_more_members_than_it_may() {
    let mut world = World::with(Settings { consumer_max_size: 1, ..Settings::default() });
    world.topic("t", 1);
    assert_eq!(client("a", &["t"]).join(&mut world).error_code, OK);
    let full = code(ErrorCode::GroupMaxSizeReached);
    assert_eq!(client("b", &["t"]).join(&mut world).error_code, full);
    assert_eq!(client("a", &["t"]).join(&mut world).error_code, OK);
}

#[test]
fn a_changed_subscription_makes_a_new_epoch() {
    let mut world = world();
    world.topic("u", 2);
    let mut a = client("a", &["t"]);
    a.join(&mut world);
    a.follow();
    a.topics = Some(vec!["u".into()]);
    let answer = a.send(&mut world, a.full());
    // What it no longer reads it gives back first.
    assert_eq!((answer.member_epoch, a.told.len()), (1, 0));
    a.follow();
    a.beat(&mut world);
    assert_eq!((a.epoch, a.owned.len()), (2, 2));
    world.check_replay();
}

#[test]
fn topics_that_grow_come_or_go_make_a_new_epoch() {
    let mut world = world();
    let mut a = [client("a", &["t", "later"])];
    a[0].join(&mut world);
    settle(&mut world, &mut a);
    assert_eq!((a[0].owned.len(), a[0].epoch), (6, 1));
    world.topic("t", 8);
    settle(&mut world, &mut a);
    assert_eq!((a[0].owned.len(), a[0].epoch), (8, 2));
    world.topic("later", 1);
    settle(&mut world, &mut a);
    assert_eq!((a[0].owned.len(), a[0].epoch), (9, 3));
    // Topics that nobody here reads change nothing.
    world.topic("others", 5);
    settle(&mut world, &mut a);
    assert_eq!(a[0].epoch, 3);
    world.topics.remove("t");
    settle(&mut world, &mut a);
    assert_eq!((a[0].owned.len(), a[0].epoch), (1, 4));
    world.check_replay();
}

#[test]
fn a_pattern_matches_whole_names_of_topics_that_are_there_and_that_come() {
    let mut world = world();
    world.topic("orders-1", 1);
    world.topic("old-orders-1", 1);
    let mut a = client("a", &[]);
    a.topics = None;
    a.regex = Some("orders-.*".into());
    let mut a = [a];
    assert_eq!(a[0].join(&mut world).error_code, OK);
    settle(&mut world, &mut a);
    assert_eq!(a[0].owned.len(), 1);
    world.topic("orders-2", 2);
    settle(&mut world, &mut a);
    assert_eq!(a[0].owned.len(), 3);
    world.check_replay();
    // Empty: no pattern any more.
    a[0].regex = Some(String::new());
    a[0].topics = Some(vec!["t".into()]);
    let request = a[0].full();
    a[0].send(&mut world, request);
    a[0].follow();
    settle(&mut world, &mut a);
    assert_eq!(a[0].owned.len(), 6);
    world.check_replay();
}

#[test]
fn members_vote_for_the_assignor() {
    let mut world = world();
    world.topic("u", 6);
    let mut all = ["a", "b", "c"].map(|id| client(id, &["t", "u"]));
    all[0].assignor = Some("range".into());
    all[1].assignor = Some("range".into());
    all[2].assignor = Some("uniform".into());
    all.iter_mut().for_each(|client| drop(client.join(&mut world)));
    settle(&mut world, &mut all);
    assert_eq!(world.consumer().assignor(), "range");
    // Of both topics the same partitions, next to each other.
    for client in &all {
        let partitions: Vec<i32> = client.owned.iter().map(|(_, p)| *p).collect();
        assert_eq!(partitions[..2], partitions[2..]);
        assert_eq!(partitions[0] + 1, partitions[1]);
    }
}

#[test]
fn an_empty_group_changes_its_protocol_both_ways() {
    let mut world = world();
    let ids = world.stable(1);
    // While somebody is in it the other protocol is refused.
    let mut a = client("a", &["t"]);
    assert_eq!(a.join(&mut world).error_code, code(ErrorCode::GroupIdNotFound));
    world.leave(&[(&ids[0], None)]);
    assert_eq!(a.join(&mut world).error_code, OK);
    world.check_replay();
    let token = world.send_join(&super::join());
    let refused = code(ErrorCode::InconsistentGroupProtocol);
    assert_eq!(world.joined(token).error_code, refused);
    assert_eq!(a.leave(&mut world, -1), OK);
    world.stable(1);
    assert_eq!(world.groups.groups.keys().collect::<Vec<_>>(), [GROUP]);
    world.check_replay();
}
