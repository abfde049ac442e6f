//! Offsets that are committed by transactions.

use std::collections::BTreeMap;

use levee_kafka::ErrorCode;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

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

/// Of a producer, the first, second and so on.
type Transaction = (i64, u32);

/// Offsets as they must be: what was written last counts, of transactions only committed ones.
#[derive(Default)]
struct Model {
    writes: Vec<(i32, i64, Option<Transaction>)>,
    /// And whether it was committed.
    ended: BTreeMap<Transaction, bool>,
    numbers: BTreeMap<i64, u32>,
}

impl Model {
    fn offset(&self, partition: i32) -> i64 {
        let counts = |by: &Option<Transaction>| {
            by.is_none_or(|by| self.ended.get(&by).copied().unwrap_or(false))
        };
        let all = self.writes.iter().rev().filter(|(p, _, by)| *p == partition && counts(by));
        all.map(|(_, offset, _)| *offset).next().unwrap_or(-1)
    }

    fn is_pending(&self, partition: i32) -> bool {
        let open = |by: &Option<Transaction>| by.is_some_and(|by| !self.ended.contains_key(&by));
        self.writes.iter().any(|(p, _, by)| *p == partition && open(by))
    }
}

#[test]
fn any_order_of_commits_and_transactions_gives_the_offsets_that_count() {
    for seed in 0..20 {
        let mut rng = StdRng::seed_from_u64(seed);
        let (mut world, mut model) = (world(), Model::default());
        for offset in 0..150 {
            let partition = rng.random_range(0..4);
            let producer = rng.random_range(1..4);
            let number = *model.numbers.entry(producer).or_default();
            match rng.random_range(0..10) {
                0..4 => {
                    assert_eq!(world.commit(NOBODY, partition, offset), OK);
                    model.writes.push((partition, offset, None));
                }
                4..7 => {
                    assert_eq!(world.txn_commit(producer, NOBODY, partition, offset), OK);
                    model.writes.push((partition, offset, Some((producer, number))));
                }
                7..9 => {
                    let commit = rng.random_range(0..2) == 0;
                    world.end_transaction(producer, commit);
                    model.ended.insert((producer, number), commit);
                    model.numbers.insert(producer, number + 1);
                }
                _ => world.fail_over(),
            }
            for partition in 0..4 {
                assert_eq!(world.offset(partition), model.offset(partition), "seed {seed}");
                let unstable = world.fetch_one(true, partition).error_code != OK;
                assert_eq!(unstable, model.is_pending(partition), "seed {seed}");
            }
            world.check_replay();
        }
    }
}
