//! Classic members that join, sync, leave, stop and come back in any order, over moves of the
//! coordinator.

use std::collections::BTreeMap;

use levee_kafka::ErrorCode;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::offsets_client::By;
use super::{OK, World, code, join};
use crate::{Answer, Settings, Token};

#[derive(Debug, Default)]
struct Client {
    instance: Option<String>,
    id: String,
    generation: i32,
    leads: bool,
    members: Vec<String>,
    /// What it waits for, and since when.
    waits: Option<(Token, i64)>,
    stable: bool,
}

struct Run {
    world: World,
    rng: StdRng,
    clients: Vec<Client>,
    /// The newest generation that any answer spoke of in this life of the coordinator.
    newest: i32,
    /// The highest offset that was committed.
    committed: BTreeMap<i32, i64>,
    /// Ends of requests that nobody waits for any more.
    abandoned: BTreeMap<Token, i64>,
}

/// The longest that a request may wait: a new member's join, and a first rebalance before it.
const LONGEST_MS: i64 = 300_000 + 60_000;

impl Run {
    fn new(seed: u64) -> Self {
        let mut world = World::with(Settings { max_size: 12, ..Settings::default() });
        world.topic("t", 3);
        let clients = (0..8).map(|at| Client {
            instance: (at % 4 == 0).then(|| format!("i{at}")),
            ..Default::default()
        });
        Self {
            world,
            rng: StdRng::seed_from_u64(seed),
            clients: clients.collect(),
            newest: 0,
            committed: BTreeMap::new(),
            abandoned: BTreeMap::new(),
        }
    }

    fn step(&mut self) {
        let at = self.rng.random_range(0..self.clients.len());
        match self.rng.random_range(0..100) {
            0..40 => self.go_on(at),
            40..60 => self.heartbeat(at),
            60..75 => self.commit(at),
            75..76 => self.stop(at),
            76..77 => self.leave(at),
            77..78 => self.restart(at),
            78..79 => self.fail_over(),
            79..99 => {
                let ms = self.rng.random_range(1..3_000);
                self.world.pass(ms);
                for at in 0..self.clients.len() {
                    if self.rng.random_range(0..10) > 0 {
                        self.heartbeat(at);
                    }
                    if self.rng.random_range(0..10) > 3 {
                        self.hear();
                        self.go_on(at);
                    }
                }
            }
            _ => {
                let ms = self.rng.random_range(1..20_000);
                self.world.pass(ms);
            }
        }
        self.hear();
        self.check();
    }

    /// Joins, or syncs, whichever is next; rarely joins where nothing asks for it.
    fn go_on(&mut self, at: usize) {
        let again = self.rng.random_range(0..60) == 0;
        let client = &mut self.clients[at];
        if client.stable && !again {
            return;
        }
        // Few send a request while another one waits.
        if let Some((token, since)) = client.waits {
            if self.rng.random_range(0..20) > 0 {
                return;
            }
            self.abandoned.insert(token, since);
        }
        let token = if client.generation > 0 && !client.stable {
            let given: Vec<(String, String)> =
                client.members.iter().map(|id| (id.clone(), id.clone())).collect();
            let given: Vec<(&str, &str)> =
                given.iter().map(|(id, text)| (id.as_str(), text.as_str())).collect();
            let given = if client.leads { &given[..] } else { &[] };
            let instance = client.instance.as_deref();
            self.world.send_sync_as(&client.id, instance, client.generation, given)
        } else {
            let version = if self.rng.random_range(0..5) == 0 { 3 } else { 9 };
            let metadata = if self.rng.random_range(0..40) == 0 { "other" } else { "m" };
            let mut join = join().id(&client.id).protocols(&[("range", metadata)]);
            join.instance = client.instance.clone();
            join.version = if client.instance.is_some() { 9 } else { version };
            client.generation = 0;
            client.stable = false;
            self.world.send_join(&join)
        };
        self.clients[at].waits = Some((token, self.world.now));
    }

    fn heartbeat(&mut self, at: usize) {
        let client = &self.clients[at];
        if client.generation == 0 {
            return;
        }
        let (id, instance) = (client.id.clone(), client.instance.clone());
        let answer = self.world.heartbeat_as(&id, instance.as_deref(), client.generation);
        self.heed(at, answer);
    }

    /// Takes an error as a client does.
    fn heed(&mut self, at: usize, answer: i16) {
        let client = &mut self.clients[at];
        let lost = [ErrorCode::UnknownMemberId, ErrorCode::FencedInstanceId].map(code);
        if answer != OK {
            client.generation = 0;
            client.stable = false;
            if lost.contains(&answer) {
                client.id.clear();
            }
        }
    }

    fn commit(&mut self, at: usize) {
        let client = &self.clients[at];
        let (id, instance) = (client.id.clone(), client.instance.clone());
        let partition = self.rng.random_range(0..3);
        let offset = self.committed.get(&partition).copied().unwrap_or(0) + 1;
        let by = By(&id, instance.as_deref(), client.generation);
        if client.stable && self.world.commit(by, partition, offset) == OK {
            self.committed.insert(partition, offset);
        }
    }

    /// A client that is gone without a word.
    fn stop(&mut self, at: usize) {
        let client = &mut self.clients[at];
        if let Some((token, since)) = client.waits.take() {
            self.abandoned.insert(token, since);
        }
        *client = Client { instance: client.instance.clone(), ..Default::default() };
    }

    fn leave(&mut self, at: usize) {
        let client = &self.clients[at];
        if !client.id.is_empty() {
            let (id, instance) = (client.id.clone(), client.instance.clone());
            self.world.leave(&[(&id, instance.as_deref())]);
        }
        self.stop(at);
    }

    /// A static member's process begins anew.
    fn restart(&mut self, at: usize) {
        self.stop(at);
        self.go_on(at);
    }

    fn fail_over(&mut self) {
        self.world.fail_over();
        // Their connections ended.
        self.abandoned.clear();
        for client in &mut self.clients {
            client.waits = None;
        }
        self.newest =
            self.world.replayed(&self.world.log).groups.values().fold(0, |_, group| match group {
                crate::groups::Group::Classic(group) => group.generation,
                crate::groups::Group::Consumer(_) => 0,
            });
    }

    /// Everybody reads what came.
    fn hear(&mut self) {
        self.abandoned.retain(|token, _| self.world.answers.remove(token).is_none());
        for at in 0..self.clients.len() {
            let Some((token, _)) = self.clients[at].waits else { continue };
            let Some(answer) = self.world.answers.remove(&token) else { continue };
            self.clients[at].waits = None;
            match answer {
                Answer::JoinGroup(answer) if answer.error_code == OK => {
                    assert!(answer.generation_id >= self.newest, "the generation went back");
                    self.newest = answer.generation_id;
                    let client = &mut self.clients[at];
                    client.leads = answer.leader == answer.member_id && !answer.skip_assignment;
                    client.members = answer.members.into_iter().map(|m| m.member_id).collect();
                    client.id = answer.member_id;
                    client.generation = answer.generation_id;
                }
                Answer::JoinGroup(answer) => {
                    self.heed(at, answer.error_code);
                    if answer.error_code == code(ErrorCode::MemberIdRequired) {
                        self.clients[at].id = answer.member_id;
                    }
                }
                Answer::SyncGroup(answer) => {
                    let client = &mut self.clients[at];
                    if answer.error_code == OK {
                        client.stable = true;
                        assert!(!client.id.is_empty());
                    }
                    self.heed(at, answer.error_code);
                }
                other => panic!("{other:?}"),
            }
        }
    }

    fn check(&mut self) {
        assert!(self.world.answers.is_empty(), "answers that nobody asked for");
        let waits = self.clients.iter().filter_map(|client| client.waits);
        let gone = self.abandoned.iter().map(|(token, since)| (*token, *since));
        for (token, since) in waits.chain(gone) {
            assert!(self.world.now - since <= LONGEST_MS, "request {token} waits for ever");
        }
        for (partition, offset) in self.committed.clone() {
            assert_eq!(self.world.offset(partition), offset, "a committed offset was lost");
        }
        self.world.check_replay();
    }
}

#[test]
fn any_order_of_events_keeps_the_rules() {
    let seeds: u64 = if std::env::var_os("LEVEE_LONG").is_some() { 200 } else { 12 };
    let mut stable = 0;
    for seed in 0..seeds {
        let mut run = Run::new(seed);
        for _ in 0..600 {
            run.step();
        }
        stable += run.committed.values().sum::<i64>();
        // When all is quiet everybody is answered.
        run.world.pass(LONGEST_MS);
        run.hear();
        assert!(run.clients.iter().all(|client| client.waits.is_none()), "seed {seed}");
    }
    assert!(stable > 20 * seeds as i64, "groups were hardly ever stable: {stable} commits");
}
