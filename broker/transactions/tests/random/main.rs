//! Seeded storms: several producers and their zombies, requests that come late, twice or never,
//! coordinators that die between a record and its answer, markers in any order. What must hold is
//! asked of the partitions, which see what consumers would see.
#![allow(clippy::unwrap_used)]

mod client;
mod partitions;
mod records;
mod world;

use world::World;

/// Small and good enough: the low bits of a multiplication are left out.
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % bound
    }

    pub(crate) fn one_in(&mut self, odds: usize) -> bool {
        self.below(odds) == 0
    }
}

/// More seeds: `LEVEE_SEEDS=5000 cargo test --release -p levee-transactions --test random`; one:
/// `LEVEE_SEED=17`.
fn seeds() -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    match number("LEVEE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("LEVEE_SEEDS").unwrap_or(150),
    }
}

struct NamedIfItFails(u64);

impl Drop for NamedIfItFails {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("LEVEE_SEED={}", self.0);
        }
    }
}

#[test]
fn transactions_are_atomic_in_storms() {
    let mut seen = world::Seen::default();
    for seed in seeds() {
        let _named = NamedIfItFails(seed);
        let mut world = World::new(seed);
        for _ in 0..1_500 {
            world.step();
        }
        world.heal();
        seen.add(&world.seen);
    }
    eprintln!("{seen:?}");
    // A storm in which nothing happens proves nothing.
    if std::env::var("LEVEE_SEED").is_err() {
        let all = [seen.commits, seen.aborts, seen.crashes, seen.late, seen.fenced, seen.timeouts];
        assert!(all.iter().all(|count| *count > 100) && seen.exhausted > 10, "{seen:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_storm() {
    let storm = || {
        let mut world = World::new(3);
        for _ in 0..1_500 {
            world.step();
        }
        world.log
    };
    assert_eq!(storm(), storm());
}
