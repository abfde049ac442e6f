//! Offsets that are committed by transactions.

use levee_kafka::ErrorCode;

use super::consumer_client::client;
use super::offsets_client::{By, NOBODY};
use super::{OK, World, code};
use crate::DeletedTopic;

fn world() -> World {
    let mut world = World::new();
    world.topic("t", 4);
    world
}

#[test]
fn an_offset_is_seen_when_its_transaction_is_committed() {
    let mut world = world();
    assert_eq!(world.txn_commit(7, NOBODY, 0, 10), OK);
    let pending = world.fetch_one(true, 0);
    assert_eq!(pending.error_code, code(ErrorCode::UnstableOffsetCommit));
    assert_eq!((world.offset(0), world.fetch_one(true, 1).error_code), (-1, OK));
    world.check_replay();
    world.end_transaction(7, true);
    assert_eq!(world.fetch_one(true, 0).committed_offset, 10);
    world.check_replay();
}

#[test]
fn an_offset_vanishes_when_its_transaction_is_aborted() {
    let mut world = world();
    world.commit(NOBODY, 0, 5);
    world.txn_commit(7, NOBODY, 0, 10);
    assert_eq!(world.offset(0), 5);
    world.end_transaction(7, false);
    assert_eq!(world.fetch_one(true, 0).committed_offset, 5);
    world.check_replay();
}

#[test]
fn a_move_in_the_middle_of_a_transaction_keeps_what_is_pending() {
    let mut world = world();
    world.txn_commit(7, NOBODY, 0, 10);
    world.txn_commit(8, NOBODY, 1, 20);
    world.fail_over();
    let unstable = code(ErrorCode::UnstableOffsetCommit);
    assert_eq!(world.fetch_one(true, 0).error_code, unstable);
    world.end_transaction(7, true);
    world.end_transaction(8, false);
    world.fail_over();
    assert_eq!((world.offset(0), world.offset(1)), (10, -1));
}

#[test]
fn of_two_commits_the_one_that_was_written_later_counts() {
    let mut world = world();
    world.txn_commit(7, NOBODY, 0, 10);
    // Written after it, and seen before it.
    world.commit(NOBODY, 0, 20);
    world.end_transaction(7, true);
    assert_eq!(world.offset(0), 20);
    world.check_replay();
}

#[test]
fn transactions_of_two_producers_do_not_mix() {
    let mut world = world();
    world.txn_commit(7, NOBODY, 0, 10);
    world.txn_commit(8, NOBODY, 0, 20);
    world.end_transaction(8, true);
    let unstable = code(ErrorCode::UnstableOffsetCommit);
    assert_eq!((world.offset(0), world.fetch_one(true, 0).error_code), (20, unstable));
    world.end_transaction(7, true);
    assert_eq!(world.offset(0), 20);
    world.check_replay();
}

#[test]
fn a_producer_may_name_its_member() {
    let mut world = world();
    let ids = world.stable(1);
    assert_eq!(world.txn_commit(7, By(&ids[0], None, 1), 0, 1), OK);
    let illegal = code(ErrorCode::IllegalGeneration);
    assert_eq!(world.txn_commit(7, By(&ids[0], None, 0), 0, 1), illegal);
    let unknown = code(ErrorCode::UnknownMemberId);
    assert_eq!(world.txn_commit(7, By("x", None, 1), 0, 1), unknown);
    assert_eq!(world.txn_commit(7, By(&ids[0], Some("i"), 1), 0, 1), unknown);
    // Producers of old clients name nobody.
    assert_eq!(world.txn_commit(7, NOBODY, 0, 1), OK);
}

#[test]
fn a_producer_of_a_consumer_group_is_told_of_generations() {
    let mut world = world();
    assert_eq!(world.txn_commit(7, By("a", None, 1), 0, 1), code(ErrorCode::IllegalGeneration));
    client("a", &["t"]).join(&mut world);
    assert_eq!(world.txn_commit(7, By("a", None, 1), 0, 1), OK);
    assert_eq!(world.txn_commit(7, By("a", None, 2), 0, 1), code(ErrorCode::IllegalGeneration));
    assert_eq!(world.txn_commit(7, NOBODY, 0, 1), OK);
}

#[test]
fn a_deleted_group_or_topic_takes_pending_offsets_with_it() {
    let mut world = world();
    world.txn_commit(7, NOBODY, 0, 10);
    assert_eq!(world.delete_group(), OK);
    world.end_transaction(7, true);
    assert_eq!(world.offset(0), -1);
    world.txn_commit(8, NOBODY, 0, 10);
    let gone = [DeletedTopic { name: "t".into(), id: world.topics["t"].id }];
    let effects = world.groups.topics_deleted(world.now, &world.topics, &gone);
    world.take(effects);
    world.end_transaction(8, true);
    assert_eq!(world.offset(0), -1);
    world.check_replay();
}

#[test]
fn an_offset_with_something_pending_does_not_expire() {
    let mut world = world();
    world.commit(NOBODY, 0, 1);
    world.txn_commit(7, NOBODY, 0, 2);
    world.pass(30 * 24 * 3_600_000);
    assert_eq!(world.offset(0), 1);
    world.end_transaction(7, false);
    world.pass(600_000);
    assert_eq!(world.offset(0), -1);
}
