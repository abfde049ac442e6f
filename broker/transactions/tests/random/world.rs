//! Everything around the coordinator: its log, the network, clients, partitions, time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use levee_transactions::{
    Answer, Asked, Effects, Markers, Prepare, Request, Settings, Transactions,
};

use crate::Rng;
use crate::client::{Client, Learned, Wants};
use crate::partitions::{Closed, Partition, Work};
use crate::records::{self, Record};

const IDS: usize = 3;

/// How often something happened, over all storms.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) commits: u64,
    pub(crate) aborts: u64,
    pub(crate) crashes: u64,
    pub(crate) late: u64,
    pub(crate) fenced: u64,
    pub(crate) timeouts: u64,
    pub(crate) exhausted: u64,
}

impl Seen {
    pub(crate) fn add(&mut self, more: &Self) {
        self.commits += more.commits;
        self.aborts += more.aborts;
        self.crashes += more.crashes;
        self.late += more.late;
        self.fenced += more.fenced;
        self.timeouts += more.timeouts;
        self.exhausted += more.exhausted;
    }
}

struct Packet {
    asked: Asked,
    request: Request,
}

/// What waits until the log is durable up to `end`.
struct Waiting {
    end: usize,
    answers: Vec<(u64, Answer)>,
    markers: Vec<Markers>,
}

/// A marker on its way to one partition.
struct Marker {
    life: i32,
    of: Markers,
    partition: i32,
}

pub(crate) struct World {
    rng: Rng,
    now_ms: i64,
    state: Transactions,
    epoch: i32,
    pub(crate) log: Vec<Record>,
    durable: usize,
    waiting: VecDeque<Waiting>,
    /// By connection; those of brokers have one each.
    network: BTreeMap<(bool, u64), VecDeque<Packet>>,
    connections: u64,
    tokens: u64,
    clients: Vec<Client>,
    markers: Vec<Marker>,
    partitions: Vec<Partition>,
    next_producer_id: i64,
    /// What clients were told for certain: true is committed.
    told: BTreeMap<Work, bool>,
    /// Clients that were not alone with their transactional id: who is fenced by another cannot
    /// know how its transaction ended.
    rivals: BTreeSet<usize>,
    pub(crate) seen: Seen,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let mut world = Self {
            rng: Rng(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1),
            now_ms: 1_000_000,
            state: Transactions::new(Settings::default(), 1, 0),
            epoch: 1,
            log: Vec::new(),
            durable: 0,
            waiting: VecDeque::new(),
            network: BTreeMap::new(),
            connections: 0,
            tokens: 0,
            clients: Vec::new(),
            markers: Vec::new(),
            partitions: (0..4).map(|_| Partition::default()).collect(),
            next_producer_id: 1,
            told: BTreeMap::new(),
            rivals: BTreeSet::new(),
            seen: Seen::default(),
        };
        if world.rng.one_in(2) {
            world.log.push(records::nearly_exhausted("id-0"));
            world.durable = 1;
            world.state = world.replayed();
        }
        (0..IDS).for_each(|id| world.new_client(id));
        world
    }

    fn new_client(&mut self, id: usize) {
        let transactional_id = format!("id-{id}");
        for (index, client) in self.clients.iter().enumerate() {
            if client.transactional_id == transactional_id && !client.dead {
                self.rivals.extend([index, self.clients.len()]);
            }
        }
        self.connections += 1;
        self.clients.push(Client {
            transactional_id,
            bumping: self.rng.one_in(2),
            producer: None,
            work: Work { client: self.clients.len(), number: 0 },
            added: Vec::new(),
            wants: None,
            waits_for: None,
            connection: self.connections,
            dead: false,
        });
    }

    pub(crate) fn step(&mut self) {
        self.now_ms += self.rng.below(100) as i64;
        match self.rng.below(100) {
            0..35 => self.act(),
            35..65 => self.deliver(),
            65..80 => self.flush(),
            80..94 => self.mark(),
            94..97 => self.crash(),
            97 => {
                let id = self.rng.below(IDS);
                let name = format!("id-{id}");
                let alone = !self.clients.iter().any(|of| of.transactional_id == name && !of.dead);
                if alone || self.rng.one_in(8) {
                    self.new_client(id);
                }
            }
            98 if self.rng.one_in(4) => self.now_ms += 25_000,
            _ => self.tick(),
        }
    }

    /// A client does what it does next, or gives up waiting and asks again over another connection.
    fn act(&mut self) {
        let index = self.rng.below(self.clients.len());
        let client = &mut self.clients[index];
        if client.dead {
            return;
        }
        if client.waits_for.is_some() {
            if self.rng.one_in(8) {
                self.reconnect(index);
                self.send(index);
            }
            return;
        }
        if client.wants.is_none() {
            client.choose(&mut self.rng);
        }
        self.send(index);
    }

    fn reconnect(&mut self, index: usize) {
        self.connections += 1;
        self.clients[index].connection = self.connections;
    }

    fn send(&mut self, index: usize) {
        let client = &mut self.clients[index];
        let Some(wants) = client.wants else { return };
        self.tokens += 1;
        let token = self.tokens;
        client.waits_for = Some(token);
        let (request, version, by_broker) = client.request(wants);
        let connection = if by_broker { token } else { client.connection };
        let asked = Asked { token, version, connection };
        self.network
            .entry((by_broker, connection))
            .or_default()
            .push_back(Packet { asked, request });
    }

    fn deliver(&mut self) {
        if self.network.is_empty() {
            return;
        }
        // What hangs on an old connection mostly hangs for long.
        let any = self.network.len();
        let at = (0..if self.rng.one_in(8) { 1 } else { 4 }).map(|_| self.rng.below(any)).max();
        let at = at.unwrap_or_default();
        let Some((key, queue)) = self.network.iter_mut().nth(at) else { return };
        let key = *key;
        let packet = queue.pop_front();
        if queue.is_empty() {
            self.network.remove(&key);
        }
        let Some(Packet { asked, request }) = packet else { return };
        if !self.rng.one_in(10) {
            self.give_producer_id();
        }
        let effects = self.state.request(self.now_ms, asked, request);
        self.append(effects);
    }

    fn give_producer_id(&mut self) {
        if self.state.producer_ids_wanted() > 7 {
            self.state.give_producer_id(self.next_producer_id);
            self.next_producer_id += 1;
        }
    }

    fn append(&mut self, effects: Effects) {
        let Effects { records, answers, mut markers } = effects;
        for markers in &mut markers {
            if let Prepare::Record(index) = markers.prepare {
                markers.prepare = Prepare::Offset((self.log.len() + index) as i64);
            }
        }
        self.log.extend(records);
        self.waiting.push_back(Waiting { end: self.log.len(), answers, markers });
        self.replay_equals_memory();
    }

    /// More of the log becomes durable; what waited for it goes out, or is lost.
    fn flush(&mut self) {
        self.durable += self.rng.below(self.log.len() - self.durable + 1);
        while self.waiting.front().is_some_and(|first| first.end <= self.durable) {
            let Some(Waiting { answers, markers, .. }) = self.waiting.pop_front() else { return };
            for of in markers {
                self.prepared(&of);
                self.seen.exhausted += u64::from(of.producer.epoch == i16::MAX);
                for partition in of.partitions.values().flatten() {
                    let (life, of) = (self.epoch, of.clone());
                    self.markers.push(Marker { life, of, partition: *partition });
                }
            }
            for (token, answer) in answers {
                if !self.rng.one_in(10) {
                    self.answered(token, &answer);
                }
            }
        }
    }

    /// No marker before its decision is durable (I16).
    fn prepared(&self, of: &Markers) {
        let Prepare::Offset(offset) = of.prepare else { panic!("{of:?}") };
        assert!((offset as usize) < self.durable, "{of:?}");
        let value = records::value(&self.log[offset as usize]);
        assert_eq!(value.transaction_status, if of.commit { 2 } else { 3 });
        assert_eq!((value.producer_id, value.producer_epoch), (of.producer.id, of.producer.epoch));
    }

    fn answered(&mut self, token: u64, answer: &Answer) {
        let found = self.clients.iter().position(|client| client.waits_for == Some(token));
        let Some(index) = found else { return };
        let client = &mut self.clients[index];
        let work = client.work;
        let learned = client.learn(answer);
        match learned {
            Learned::Nothing => {}
            Learned::Again { reconnect } => {
                if reconnect {
                    self.seen.late += 1;
                    self.reconnect(index);
                }
            }
            Learned::Added(partition) => {
                let producer = client.producer.unwrap();
                client.dead = !self.partitions[partition as usize].write(producer, work);
            }
            Learned::Ended { commit } => {
                client.work.number += 1;
                self.told.insert(work, commit);
                if commit { self.seen.commits += 1 } else { self.seen.aborts += 1 }
            }
            Learned::Fatal { wanted } => {
                self.seen.fenced += 1;
                // Nobody took its place, so its transaction did not end as it asked.
                if !self.rivals.contains(&index) && wanted == (Wants::End { commit: true }) {
                    self.told.insert(work, false);
                }
            }
        }
    }

    /// A marker reaches its partition, perhaps twice, perhaps long after its coordinator died.
    fn mark(&mut self) {
        if self.markers.is_empty() {
            return;
        }
        let at = self.rng.below(self.markers.len());
        let keep = self.rng.one_in(5);
        let Marker { life, of, partition } = &self.markers[at];
        let (life, decision, partition) = (*life, of.decision, *partition);
        let Prepare::Offset(prepare) = of.prepare else { panic!("{of:?}") };
        let closed = Closed { prepare, commit: of.commit };
        self.partitions[partition as usize].mark(of.producer, of.coordinator_epoch, closed);
        if life == self.epoch {
            let effects = self.state.written(self.now_ms, decision, "t", &[partition]);
            self.append(effects);
        }
        if !keep {
            self.markers.swap_remove(at);
        }
    }

    /// The coordinator dies. Of what was not durable, some may be there all the same.
    fn crash(&mut self) {
        self.seen.crashes += 1;
        let kept = self.durable + self.rng.below(self.log.len() - self.durable + 1);
        self.log.truncate(kept);
        self.durable = kept;
        self.waiting.clear();
        self.epoch += 1;
        self.state = self.replayed();
        let effects = self.state.resume(self.now_ms);
        self.append(effects);
    }

    fn replayed(&self) -> Transactions {
        let all: Vec<usize> = (0..self.log.len()).collect();
        self.replayed_from(&all)
    }

    fn replayed_from(&self, offsets: &[usize]) -> Transactions {
        let mut state = Transactions::new(Settings::default(), self.epoch, self.connections);
        for offset in offsets {
            let (key, value) = self.log[*offset].clone();
            state.replay(*offset as i64, key, value).unwrap();
        }
        state
    }

    /// Offsets of what compaction leaves: of each key the newest record, of one that was deleted
    /// nothing.
    fn compacted(&self) -> Vec<usize> {
        let mut last = BTreeMap::new();
        for (offset, (key, _)) in self.log.iter().enumerate() {
            last.insert(key, offset);
        }
        let mut kept: Vec<usize> = last.into_values().collect();
        kept.retain(|offset| self.log[*offset].1.is_some());
        kept.sort_unstable();
        kept
    }

    fn replay_equals_memory(&mut self) {
        if self.rng.one_in(20) {
            let replayed = self.replayed();
            assert!(replayed.records().eq(self.state.records()));
            let compacted = self.replayed_from(&self.compacted());
            assert!(compacted.records().eq(self.state.records()));
        }
    }

    fn tick(&mut self) {
        if self.state.deadline().is_none_or(|due_ms| due_ms > self.now_ms) {
            return;
        }
        let effects = self.state.tick(self.now_ms);
        self.seen.timeouts += effects.markers.len() as u64;
        self.append(effects);
    }

    /// No more faults and no more clients: everything comes to its end.
    pub(crate) fn heal(&mut self) {
        while !self.network.is_empty() {
            self.deliver();
        }
        for _ in 0..3 {
            self.now_ms += 25_000;
            self.give_producer_id();
            self.tick();
            while self.durable < self.log.len() || !self.waiting.is_empty() {
                self.flush();
            }
            while !self.markers.is_empty() {
                self.mark();
            }
        }
        assert!(self.replayed().records().eq(self.state.records()));
        self.check();
    }

    fn check(&self) {
        let mut ends: BTreeMap<Work, Closed> = BTreeMap::new();
        let mut works: BTreeMap<i64, Work> = BTreeMap::new();
        for partition in &self.partitions {
            // The last stable offset never hangs.
            assert_eq!(partition.open().count(), 0);
            for (work, closed) in &partition.closed {
                let end = *ends.entry(*work).or_insert(*closed);
                assert_eq!(end, *closed, "{work:?} is torn");
                let whose = *works.entry(closed.prepare).or_insert(*work);
                assert_eq!(whose, *work, "one decision ends two transactions");
            }
        }
        for (work, commit) in &self.told {
            if let Some(end) = ends.get(work) {
                assert_eq!(end.commit, *commit, "{work:?} was told otherwise");
            }
        }
    }
}
