//! Assignors: everything has one reader, loads are even, little moves.

use std::collections::{BTreeMap, BTreeSet};

use levee_kafka::Uuid;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::{Asks, Spec, assign};
use crate::consumer::Assignment;

fn topic(number: u128) -> Uuid {
    Uuid::from(number)
}

/// Members with what they read, topics with as many partitions.
fn spec(topics: &[(u128, i32)], members: &[(&str, &[u128])]) -> Spec {
    let topics = topics.iter().map(|(number, partitions)| (topic(*number), *partitions));
    let members = members.iter().map(|(id, reads)| {
        let topics = reads.iter().map(|number| topic(*number)).collect();
        ((*id).to_owned(), Asks { topics, ..Default::default() })
    });
    Spec { topics: topics.collect(), members: members.collect() }
}

fn next(spec: &mut Spec, target: &BTreeMap<String, Assignment>) {
    for (id, member) in &mut spec.members {
        member.has = target.get(id).cloned().unwrap_or_default();
    }
}

fn loads(target: &BTreeMap<String, Assignment>) -> Vec<usize> {
    target.values().map(|a| a.values().map(BTreeSet::len).sum()).collect()
}

fn partitions(target: &BTreeMap<String, Assignment>) -> BTreeMap<(Uuid, i32), String> {
    let mut owners = BTreeMap::new();
    for (id, assignment) in target {
        for (topic, partitions) in assignment {
            for partition in partitions {
                let before = owners.insert((*topic, *partition), id.clone());
                assert_eq!(before, None, "assigned twice");
            }
        }
    }
    owners
}

fn moved(before: &BTreeMap<String, Assignment>, after: &BTreeMap<String, Assignment>) -> usize {
    let after = partitions(after);
    partitions(before).iter().filter(|(place, owner)| after.get(place) != Some(owner)).count()
}

/// Everything that somebody reads has one reader, who reads it.
fn check(spec: &Spec, target: &BTreeMap<String, Assignment>) {
    let owners = partitions(target);
    assert!(target.keys().eq(spec.members.keys()));
    let read: BTreeSet<Uuid> =
        spec.members.values().flat_map(|member| member.topics.iter().copied()).collect();
    let wanted: usize = read.iter().map(|topic| spec.partitions(*topic) as usize).sum();
    assert_eq!(owners.len(), wanted);
    for ((topic, partition), owner) in &owners {
        assert!(spec.members[owner].topics.contains(topic));
        assert!(*partition < spec.partitions(*topic));
    }
}

#[test]
fn uniform_is_even() {
    let both: &[u128] = &[1, 2];
    let spec = spec(&[(1, 5), (2, 3)], &[("a", both), ("b", both), ("c", both)]);
    let target = assign("uniform", &spec);
    check(&spec, &target);
    let mut loads = loads(&target);
    loads.sort();
    assert_eq!(loads, [2, 3, 3]);
}

#[test]
fn uniform_moves_only_what_it_must() {
    let reads: &[u128] = &[1];
    let mut asked = spec(&[(1, 12)], &[("a", reads), ("b", reads), ("c", reads)]);
    let first = assign("uniform", &asked);
    next(&mut asked, &first);
    assert_eq!(assign("uniform", &asked), first);
    // A fourth member gets its share, one partition of each.
    asked.members.insert(
        "d".into(),
        Asks { topics: [topic(1)].into_iter().collect(), ..Default::default() },
    );
    let second = assign("uniform", &asked);
    check(&asked, &second);
    assert_eq!((moved(&first, &second), loads(&second)), (3, vec![3, 3, 3, 3]));
    // One leaves: only its own move.
    next(&mut asked, &second);
    asked.members.remove("b");
    let third = assign("uniform", &asked);
    check(&asked, &third);
    assert_eq!((moved(&second, &third), loads(&third)), (3, vec![4, 4, 4]));
}

#[test]
fn uniform_gives_more_to_who_reads_what_others_do_not() {
    let spec = spec(&[(1, 6), (2, 6)], &[("a", &[1, 2]), ("b", &[1])]);
    let target = assign("uniform", &spec);
    check(&spec, &target);
    assert_eq!(loads(&target), [6, 6]);
    assert!(target["b"].values().flatten().count() == 6);
}

#[test]
fn range_gives_the_same_partitions_of_topics_that_are_alike() {
    let both: &[u128] = &[1, 2];
    let mut asked = spec(&[(1, 7), (2, 7)], &[("a", both), ("b", both), ("c", both)]);
    let first = assign("range", &asked);
    check(&asked, &first);
    for assignment in first.values() {
        assert_eq!(assignment[&topic(1)], assignment[&topic(2)]);
    }
    assert_eq!(first["a"][&topic(1)], BTreeSet::from([0, 1, 2]));
    // A member whose name sorts first comes last: the others keep their order.
    next(&mut asked, &first);
    asked.members.insert(
        "0".into(),
        Asks { topics: both.iter().map(|n| topic(*n)).collect(), ..Default::default() },
    );
    let second = assign("range", &asked);
    check(&asked, &second);
    assert_eq!(second["0"][&topic(1)], BTreeSet::from([6]));
    assert_eq!(second["a"][&topic(1)], BTreeSet::from([0, 1]));
}

#[test]
fn range_has_nothing_for_members_beyond_the_partitions() {
    let reads: &[u128] = &[1];
    let spec = spec(&[(1, 2)], &[("a", reads), ("b", reads), ("c", reads)]);
    let target = assign("range", &spec);
    check(&spec, &target);
    assert_eq!(loads(&target), [1, 1, 0]);
}

#[test]
fn any_members_and_topics_are_served_and_what_is_right_stays() {
    let mut rng = StdRng::seed_from_u64(7);
    for _ in 0..200 {
        let mut asked = Spec::default();
        for number in 0..rng.random_range(1..6) {
            asked.topics.insert(topic(number), rng.random_range(0..9));
        }
        for step in 0..4 {
            for at in 0..rng.random_range(1..6) {
                let id = format!("{at}-{step}");
                let reads = |number: &u128| asked.topics.contains_key(&topic(*number));
                let topics = (0..6u128).filter(reads).filter(|_| rng.random_range(0..3) > 0);
                let topics = topics.map(topic).collect();
                asked.members.insert(id, Asks { topics, ..Default::default() });
            }
            for assignor in super::ASSIGNORS {
                let target = assign(assignor, &asked);
                check(&asked, &target);
                next(&mut asked, &target);
                // Asked again it says the same.
                assert_eq!(assign(assignor, &asked), target);
                let loads = loads(&target);
                let alike = asked
                    .members
                    .values()
                    .all(|m| m.topics == asked.members.values().next().unwrap().topics);
                if alike && assignor == "uniform" {
                    assert!(loads.iter().max().unwrap() - loads.iter().min().unwrap() <= 1);
                }
            }
            let gone = asked.members.keys().next().cloned();
            gone.iter().for_each(|id| drop(asked.members.remove(id)));
        }
    }
}
