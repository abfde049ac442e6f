//! Members of a consumer group that join, follow, lag, lose answers, stop and come back in any
//! order, while topics grow and the coordinator moves.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::consumer_client::{Client, Partitions, client, settle};
use super::offsets_client::By;
use super::{OK, World};

struct Run {
    world: World,
    rng: StdRng,
    clients: Vec<Client>,
    /// When each was last heard, and whether it runs.
    runs: Vec<Option<i64>>,
    epoch: i32,
    committed: BTreeMap<i32, i64>,
    ids: u32,
}

/// A client gives up what it has when it does not reach the coordinator for this long.
const SESSION_MS: i64 = 45_000;

impl Run {
    fn new(seed: u64) -> Self {
        let mut world = World::new();
        world.topic("t", 5);
        world.topic("u", 3);
        Self {
            world,
            rng: StdRng::seed_from_u64(seed),
            clients: (0..6).map(|_| Client::default()).collect(),
            runs: vec![None; 6],
            epoch: 0,
            committed: BTreeMap::new(),
            ids: 0,
        }
    }

    fn step(&mut self) {
        let at = self.rng.random_range(0..self.clients.len());
        match self.rng.random_range(0..100) {
            0..50 => self.beat(at),
            50..60 => self.lose_an_answer(at),
            60..66 => self.start(at),
            66..68 => self.leave(at),
            68..70 => self.go_away(at),
            70..71 => self.stop(at),
            71..74 => self.subscribe(at),
            74..75 => self.grow(),
            75..77 => self.world.fail_over(),
            77..85 => self.commit(at),
            85..99 => {
                let ms = self.rng.random_range(1..2_000);
                self.world.pass(ms);
            }
            _ => {
                let ms = self.rng.random_range(1..40_000);
                self.world.pass(ms);
            }
        }
        self.give_up();
        self.check();
    }

    fn start(&mut self, at: usize) {
        if self.runs[at].is_some() {
            return;
        }
        self.ids += 1;
        let mut new = client(&format!("m{}", self.ids), &["t", "u"]);
        new.instance = at.is_multiple_of(3).then(|| format!("i{at}"));
        new.assignor = at.is_multiple_of(2).then(|| "range".into());
        if at == 1 {
            new.topics = None;
            new.regex = Some("[tu]".into());
        }
        if new.join(&mut self.world).error_code == OK {
            new.follow();
            self.clients[at] = new;
            self.runs[at] = Some(self.world.now);
        }
    }

    fn beat(&mut self, at: usize) {
        let how = self.rng.random_range(0..3);
        self.beat_in(at, how);
    }

    fn beat_in(&mut self, at: usize, how: u32) {
        if self.runs[at].is_none() {
            return;
        }
        let client = &mut self.clients[at];
        // After an answer that did not come it tells all.
        let how = if std::mem::take(&mut client.lost) { 1 } else { how };
        let answer = match how {
            // It is busy, and does not say what it has.
            0 => client.send(&mut self.world, client.plain()),
            1 => client.send(&mut self.world, client.full()),
            _ => client.beat(&mut self.world),
        };
        if answer.error_code == OK {
            // It gives up at once, and takes when it has time.
            client.owned = client.owned.intersection(&client.told).copied().collect();
            if self.rng.random_range(0..3) > 0 {
                client.follow();
            }
            self.runs[at] = Some(self.world.now);
        } else {
            self.drop_all(at);
        }
    }

    /// The coordinator hears it, it does not hear the coordinator.
    fn lose_an_answer(&mut self, at: usize) {
        if self.runs[at].is_some() {
            let request = self.clients[at].full();
            super::consumer_client::heartbeat(&mut self.world, request);
            self.clients[at].lost = true;
        }
    }

    fn drop_all(&mut self, at: usize) {
        self.clients[at] = Client::default();
        self.runs[at] = None;
    }

    fn leave(&mut self, at: usize) {
        if self.runs[at].is_some() {
            self.clients[at].leave(&mut self.world, -1);
            self.drop_all(at);
        }
    }

    fn go_away(&mut self, at: usize) {
        if self.runs[at].is_some() && self.clients[at].instance.is_some() {
            self.clients[at].leave(&mut self.world, -2);
            self.drop_all(at);
        }
    }

    /// Without a word: what it had it has no more.
    fn stop(&mut self, at: usize) {
        self.drop_all(at);
    }

    fn subscribe(&mut self, at: usize) {
        if self.runs[at].is_some() && at != 1 {
            let some: &[&str] = match self.rng.random_range(0..3) {
                0 => &["t"],
                1 => &["u"],
                _ => &["t", "u"],
            };
            self.clients[at].topics = Some(some.iter().map(|name| (*name).to_owned()).collect());
            self.beat_in(at, 1);
        }
    }

    fn grow(&mut self) {
        let before = self.world.topics["t"].partitions;
        self.world.topic("t", (before + 1).min(12));
    }

    fn commit(&mut self, at: usize) {
        let client = &self.clients[at];
        let topic = self.world.topics["t"].id;
        let Some((_, partition)) = client.owned.iter().find(|(id, _)| *id == topic).copied() else {
            return;
        };
        let offset = self.committed.get(&partition).copied().unwrap_or(0) + 1;
        let (id, epoch) = (client.id.clone(), client.epoch);
        let instance = client.instance.clone();
        if self.world.commit(By(&id, instance.as_deref(), epoch), partition, offset) == OK {
            self.committed.insert(partition, offset);
        }
    }

    /// Who is not heard for a whole session may have lost all of it.
    fn give_up(&mut self) {
        for at in 0..self.clients.len() {
            if self.runs[at].is_some_and(|heard| self.world.now - heard >= SESSION_MS) {
                self.drop_all(at);
            }
            // It was fenced while it held partitions back: a client's own timeout is the same.
            let id = &self.clients[at].id;
            let known = self.world.groups.groups.values().any(|group| match group {
                crate::groups::Group::Consumer(group) => group.members.contains_key(id),
                crate::groups::Group::Classic(_) => false,
            });
            if self.runs[at].is_some() && !known {
                self.drop_all(at);
            }
        }
    }

    fn check(&mut self) {
        let mut owned = Partitions::new();
        for client in &self.clients {
            for partition in &client.owned {
                assert!(owned.insert(*partition), "{partition:?} has two owners");
            }
        }
        if let Some(crate::groups::Group::Consumer(group)) =
            self.world.groups.groups.get(super::GROUP)
        {
            assert!(group.epoch >= self.epoch, "the epoch went back");
            self.epoch = group.epoch;
            assert!(group.target_epoch <= group.epoch);
        }
        for (partition, offset) in self.committed.clone() {
            assert_eq!(self.world.offset(partition), offset, "a committed offset was lost");
        }
        self.world.check_replay();
    }

    /// When everybody follows, everything that is read has an owner.
    fn calm_down(&mut self) {
        for at in 0..self.clients.len() {
            self.beat_in(at, 1);
        }
        let running: Vec<bool> = self.runs.iter().map(Option::is_some).collect();
        let mut clients: Vec<Client> = self
            .clients
            .drain(..)
            .zip(running)
            .filter_map(|(client, runs)| runs.then_some(client))
            .collect();
        // Whoever is not running any more is out by now; those who run go on.
        for _ in 0..6 {
            self.world.pass(SESSION_MS / 5);
            for client in &mut clients {
                // The time in which it had to give back may be over: it joins again.
                if client.beat(&mut self.world).error_code != OK {
                    assert_eq!(client.join(&mut self.world).error_code, OK);
                    client.follow();
                }
            }
        }
        if clients.is_empty() {
            return;
        }
        settle(&mut self.world, &mut clients);
        let read = |name: &str| {
            let reads = |client: &Client| {
                client.regex.is_some() || client.topics.iter().flatten().any(|topic| topic == name)
            };
            clients.iter().any(reads)
        };
        let wanted: i32 =
            ["t", "u"].iter().filter(|n| read(n)).map(|n| self.world.topics[*n].partitions).sum();
        let owned: usize = clients.iter().map(|client| client.owned.len()).sum();
        assert_eq!(owned, wanted as usize);
    }
}

#[test]
fn any_order_of_events_keeps_the_rules() {
    let seeds: u64 = if std::env::var_os("LEVEE_LONG").is_some() { 200 } else { 12 };
    let mut commits = 0;
    for seed in 0..seeds {
        let mut run = Run::new(seed);
        for _ in 0..400 {
            run.step();
        }
        run.calm_down();
        commits += run.committed.values().sum::<i64>();
    }
    assert!(commits > seeds as i64, "members hardly ever had partitions: {commits} commits");
}
