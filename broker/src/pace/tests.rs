//! Readers and producers on a machine of which it is known what it has to spare.

use std::cell::Cell;
use std::rc::Rc;

use levee_runtime::sim::Sim;

use super::*;

const MIB: u64 = 1 << 20;
const LEAST: u64 = 16 * MIB;

/// A machine on which acks take 1 ms, and longer the more is read above what it has to spare.
struct Machine {
    host: Host,
    pace: Arc<Pace>,
    /// Bytes read until now.
    read: Cell<u64>,
    spare: u64,
}

impl Machine {
    fn new(sim: &Sim, spare: u64, least: Option<u64>) -> Rc<Self> {
        let host = sim.host("broker").start();
        let pace = Pace::new(host.clone(), least);
        Rc::new(Self { host, pace, read: Cell::new(0), spare })
    }

    /// Appends a thousand times a second.
    async fn append(&self, for_: Duration) {
        let end = self.host.now() + for_;
        let (mut before, mut rate) = (self.read.get(), 0);
        while self.host.now() < end {
            for _ in 0..50 {
                self.host.sleep(Duration::from_millis(1)).await;
                let over = rate as f64 / self.spare as f64;
                let took = Duration::from_micros(1000).mul_f64(over.max(1.0));
                let waiting = self.pace.append(LaneKind::Local);
                drop(self.host.spawn("ack", {
                    let host = self.host.clone();
                    async move {
                        host.sleep(took).await;
                        waiting.ends();
                    }
                }));
            }
            rate = (self.read.get() - before) * 20;
            before = self.read.get();
        }
    }

    /// Reads as fast as it may, up to 4 GiB/s; returns bytes per second.
    async fn catch_up(&self, for_: Duration) -> u64 {
        let (started, before) = (self.host.now(), self.read.get());
        while self.host.now().since(started) < for_ {
            self.host.sleep(Duration::from_millis(1)).await;
            for _ in 0..16 {
                let turn = self.pace.turn(MIB / 4).await;
                self.read.set(self.read.get() + MIB / 4);
                self.pace.settle(&turn, MIB / 4);
            }
        }
        let took = self.host.now().since(started).as_secs_f64();
        ((self.read.get() - before) as f64 / took) as u64
    }
}

const LONG: Duration = Duration::from_secs(30);

#[test]
fn readers_take_what_is_spare_and_acks_stay_as_they_are() {
    Sim::run(1, |sim| async move {
        let machine = Machine::new(&sim, 400 * MIB, Some(LEAST));
        machine.append(Duration::from_secs(2)).await;
        let (_, rate) = tokio::join!(machine.append(LONG), machine.catch_up(LONG));
        assert!((200 * MIB..480 * MIB).contains(&rate), "{} MiB/s", rate / MIB);
    });
}

#[test]
fn readers_keep_the_least_on_a_machine_that_has_nothing_to_spare() {
    Sim::run(1, |sim| async move {
        let machine = Machine::new(&sim, MIB, Some(LEAST));
        machine.append(Duration::from_secs(2)).await;
        let (_, rate) = tokio::join!(machine.append(LONG), machine.catch_up(LONG));
        assert!((LEAST * 9 / 10..LEAST * 2).contains(&rate), "{} MiB/s", rate / MIB);
    });
}

#[test]
fn where_nothing_is_appended_nobody_waits() {
    Sim::run(1, |sim| async move {
        let machine = Machine::new(&sim, MIB, Some(LEAST));
        assert!(machine.catch_up(LONG).await > 3 << 30);
        // Nor long after the last append.
        let short = Duration::from_secs(3);
        tokio::join!(machine.append(short), machine.catch_up(short));
        machine.catch_up(Duration::from_secs(5)).await;
        assert!(machine.catch_up(short).await > 3 << 30);
    });
}

#[test]
fn off_slows_nobody() {
    Sim::run(1, |sim| async move {
        let machine = Machine::new(&sim, MIB, None);
        machine.append(Duration::from_secs(2)).await;
        let (_, rate) = tokio::join!(machine.append(LONG), machine.catch_up(LONG));
        assert!(rate > 3 << 30, "{} MiB/s", rate / MIB);
    });
}

#[test]
fn no_answer_waits_longer_than_its_patience() {
    Sim::run(1, |sim| async move {
        let machine = Machine::new(&sim, MIB, Some(LEAST));
        machine.append(Duration::from_secs(2)).await;
        let readers = (0..200).map(|_| async {
            let started = machine.host.now();
            machine.pace.turn(16 * MIB).await;
            machine.host.now().since(started)
        });
        let waits = futures::future::join_all(readers);
        let (_, waits) = tokio::join!(machine.append(Duration::from_secs(3)), waits);
        let longest = waits.into_iter().max().unwrap_or_default();
        assert!(longest > Duration::ZERO && longest <= PATIENCE, "{longest:?}");
    });
}

#[test]
fn percentiles_are_of_the_bucket_that_holds_them() {
    let acks = Acks::default();
    (1..=1000).for_each(|micros| acks.add(Duration::from_micros(micros)));
    let seen = acks.take().percentile(0.9).unwrap();
    assert!((0.000_9..=0.000_95).contains(&seen), "{seen}");
    assert_eq!(acks.take().percentile(0.9), None);
    acks.add(Duration::from_secs(1 << 20));
    assert!(acks.take().percentile(0.9).unwrap() > 3000.0);
}

#[test]
fn a_few_appends_slow_readers_for_a_moment() {
    Sim::run(1, |sim| async move {
        let machine = Machine::new(&sim, MIB, Some(LEAST));
        let now_and_then = async {
            for _ in 0..6 {
                let waiting = machine.pace.append(LaneKind::Object);
                machine.host.sleep(Duration::from_millis(300)).await;
                waiting.ends();
                machine.host.sleep(LONG / 6).await;
            }
        };
        let (_, rate) = tokio::join!(now_and_then, machine.catch_up(LONG));
        assert!(rate > 2 << 30, "{} MiB/s", rate / MIB);
    });
}

#[test]
fn acks_that_stay_away_are_late() {
    Sim::run(1, |sim| async move {
        let machine = Machine::new(&sim, MIB, Some(LEAST));
        let stalled: Vec<_> = (0..10).map(|_| machine.pace.append(LaneKind::Object)).collect();
        let rate = machine.catch_up(LONG).await;
        assert!((LEAST * 9 / 10..LEAST * 2).contains(&rate), "{} MiB/s", rate / MIB);
        drop(stalled);
        machine.catch_up(Duration::from_secs(3)).await;
        assert!(machine.catch_up(LONG).await > 3 << 30);
    });
}

#[test]
fn small_answers_are_charged_as_such() {
    const ANSWER: u64 = 10 << 10;
    Sim::run(1, |sim| async move {
        let machine = Machine::new(&sim, MIB, Some(LEAST));
        let stalled = machine.pace.append(LaneKind::Local);
        let readers = (0..16).map(|_| async {
            for _ in 0..2_000 {
                let turn = machine.pace.turn(16 * MIB).await;
                machine.host.sleep(Duration::from_millis(5)).await;
                machine.pace.settle(&turn, ANSWER);
            }
        });
        let started = machine.host.now();
        futures::future::join_all(readers).await;
        let took = machine.host.now().since(started).as_secs_f64();
        // 16 readers of 5 ms an answer ask for 31 MiB/s.
        let rate = (16 * 2_000 * ANSWER) as f64 / took;
        assert!(rate > LEAST as f64 * 0.9, "{} MiB/s", rate as u64 / MIB);
        drop(stalled);
    });
}

#[test]
fn many_readers_are_held_together() {
    Sim::run(1, |sim| async move {
        let machine = Machine::new(&sim, MIB, Some(LEAST));
        let stalled = machine.pace.append(LaneKind::Local);
        let readers = (0..64).map(|_| machine.catch_up(LONG));
        let rates = futures::future::join_all(readers).await;
        let rate: u64 = machine.read.get() / LONG.as_secs();
        assert!((LEAST * 9 / 10..LEAST * 3 / 2).contains(&rate), "{} MiB/s", rate / MIB);
        assert!(rates.len() == 64);
        drop(stalled);
    });
}
