//! All transactional ids of one partition, in memory, in the log and in time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use levee_kafka::ErrorCode;

use crate::effects::{Answer, Effects, Markers, Prepare, Refusal};
use crate::end::Epoch;
use crate::log::{self, ReplayError};
use crate::producer::Producer;
use crate::request::{Asked, Connection, Request};
use crate::transaction::{Outcome, Partitions, State, Transaction};

/// Producer ids to hold in stock: each request takes one at most, a tick may need several.
const STOCK_OF_IDS: usize = 8;

/// When a time-out that found no producer id in stock is looked at again.
const LOOK_AGAIN_MS: i64 = 1_000;

#[derive(Debug, Clone)]
pub struct Settings {
    /// `transaction.max.timeout.ms`.
    pub max_timeout_ms: i32,
    /// `transactional.id.expiration.ms`.
    pub expiration_ms: i64,
    /// What one record may take: all partitions of a transaction stand in one.
    pub max_record_bytes: usize,
}

impl Default for Settings {
    /// Kafka's.
    fn default() -> Self {
        Self {
            max_timeout_ms: 900_000,
            expiration_ms: 7 * 24 * 3_600_000,
            max_record_bytes: 1_000_000,
        }
    }
}

/// One partition of `__transaction_state`.
#[derive(Debug)]
pub struct Transactions {
    pub(crate) settings: Settings,
    coordinator_epoch: i32,
    /// Connections up to here were there before this life: which of them is late is not known.
    known_from: Connection,
    entries: BTreeMap<String, Entry>,
    timers: BTreeSet<(i64, String)>,
    /// Offsets of Prepare records whose markers wait for [`Transactions::resume`].
    prepared: BTreeMap<String, i64>,
    decisions: BTreeMap<u64, Decision>,
    next_decision: u64,
    producer_ids: VecDeque<i64>,
}

/// A transactional id, and what is not in the log.
#[derive(Debug)]
struct Entry {
    transaction: Transaction,
    due_ms: Option<i64>,
    /// The connection over which its transaction began or ended, or its producer came.
    since: Connection,
}

#[derive(Debug)]
struct Decision {
    transactional_id: String,
    unwritten: Partitions,
}

impl Transactions {
    /// Nothing yet: all of the partition is replayed, then comes [`Self::resume`].
    /// `coordinator_epoch` is the leader epoch of the partition, `connections` the number of the
    /// newest connection that this broker has accepted.
    pub fn new(settings: Settings, coordinator_epoch: i32, connections: Connection) -> Self {
        Self {
            settings,
            coordinator_epoch,
            known_from: connections.saturating_add(1),
            entries: BTreeMap::new(),
            timers: BTreeSet::new(),
            prepared: BTreeMap::new(),
            decisions: BTreeMap::new(),
            next_decision: 0,
            producer_ids: VecDeque::new(),
        }
    }

    /// A record of the partition, in the order of the log. Kinds of keys that are not known are
    /// left out.
    pub fn replay(
        &mut self,
        offset: i64,
        key: Bytes,
        value: Option<Bytes>,
    ) -> Result<(), ReplayError> {
        let Some(id) = log::read_key(offset, key)? else { return Ok(()) };
        self.prepared.remove(&id);
        let Some(value) = value else {
            self.forget(&id);
            return Ok(());
        };
        let transaction = log::read_value(offset, value)?;
        if transaction.state.is_prepared() {
            self.prepared.insert(id.clone(), offset);
        }
        self.hold(&id, transaction);
        Ok(())
    }

    /// The partition has been read to its end: every decision that was under way goes on.
    pub fn resume(&mut self, now_ms: i64) -> Effects {
        let mut effects = Effects::default();
        for (id, offset) in std::mem::take(&mut self.prepared) {
            self.announce(now_ms, &id, Prepare::Offset(offset), &mut effects);
        }
        effects
    }

    /// How many producer ids are wanted ([`Self::give_producer_id`]). A request that needs one when
    /// there is none is answered with a retriable error.
    pub fn producer_ids_wanted(&self) -> usize {
        STOCK_OF_IDS.saturating_sub(self.producer_ids.len())
    }

    /// An id that no producer ever had.
    pub fn give_producer_id(&mut self, id: i64) {
        self.producer_ids.push_back(id);
    }

    pub fn request(&mut self, now_ms: i64, asked: Asked, request: Request) -> Effects {
        let mut effects = Effects::default();
        let out = &mut effects;
        let answer = match request {
            Request::InitProducerId(request) => self.init_producer_id(now_ms, asked, request, out),
            Request::AddPartitionsToTxn(request) => {
                self.add_partitions(now_ms, asked, request, out)
            }
            Request::AddOffsetsToTxn { request, topic, partition } => {
                self.add_offsets(now_ms, asked, request, (topic, partition), out)
            }
            Request::EndTxn(request) => self.end_txn(now_ms, asked, request, out),
            Request::DescribeTransactions(request) => self.describe(&request),
            Request::ListTransactions(request) => self.list(now_ms, asked.version, &request),
        };
        let answer = answer.unwrap_or(Answer::Disconnect);
        effects.answers.push((asked.token, answer));
        effects
    }

    /// When [`Self::tick`] has something to do.
    pub fn deadline(&self) -> Option<i64> {
        self.timers.first().map(|(due_ms, _)| *due_ms)
    }

    /// Aborts transactions that took too long, forgets transactional ids that nobody uses; leaves
    /// some for the next tick where they are many.
    pub fn tick(&mut self, now_ms: i64) -> Effects {
        let mut effects = Effects::default();
        while let Some((_, id)) = self.timers.first().filter(|(due_ms, _)| *due_ms <= now_ms) {
            if effects.bytes() > self.settings.max_record_bytes {
                break;
            }
            let id = id.clone();
            let Some(transaction) = self.find(&id) else { break };
            if transaction.state != State::Ongoing {
                effects.records.push((log::key(&id), None));
                self.forget(&id);
                continue;
            }
            // Its producer may go on, with the epoch that follows.
            let epoch = Epoch::Bumped { before: Some(transaction.producer) };
            let version = transaction.client_version;
            let ended = self.decide(now_ms, &id, Outcome::Abort, epoch, version, &mut effects);
            if ended.is_err() {
                self.schedule(&id, Some(now_ms.saturating_add(LOOK_AGAIN_MS)));
            }
        }
        effects
    }

    /// Markers of a decision are in these partitions of a topic, and durable there, or the
    /// partitions are gone for good.
    pub fn written(
        &mut self,
        now_ms: i64,
        decision: u64,
        topic: &str,
        partitions: &[i32],
    ) -> Effects {
        let mut effects = Effects::default();
        let Some(under_way) = self.decisions.get_mut(&decision) else { return effects };
        if let Some(unwritten) = under_way.unwritten.get_mut(topic) {
            unwritten.retain(|partition| !partitions.contains(partition));
            if unwritten.is_empty() {
                under_way.unwritten.remove(topic);
            }
        }
        if under_way.unwritten.is_empty()
            && let Some(done) = self.decisions.remove(&decision)
        {
            self.complete(now_ms, &done.transactional_id, &mut effects);
        }
        effects
    }

    /// The partitions that lack the marker of a decision; None when it is complete.
    pub fn unwritten(&self, decision: u64) -> Option<&Partitions> {
        self.decisions.get(&decision).map(|decision| &decision.unwritten)
    }

    /// What a log that holds every key once would say.
    pub fn records(&self) -> impl Iterator<Item = (Bytes, Bytes)> {
        self.entries.iter().map(|(id, entry)| (log::key(id), log::value(&entry.transaction)))
    }
}

/// For the steps.
impl Transactions {
    pub(crate) fn find(&self, id: &str) -> Option<&Transaction> {
        self.entries.get(id).map(|entry| &entry.transaction)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = (&str, &Transaction)> {
        self.entries.iter().map(|(id, entry)| (id.as_str(), &entry.transaction))
    }

    /// In memory and for the log.
    pub(crate) fn save(&mut self, id: &str, transaction: Transaction, effects: &mut Effects) {
        effects.records.push((log::key(id), Some(log::value(&transaction))));
        self.hold(id, transaction);
    }

    pub(crate) fn take_producer_id(&mut self) -> Result<i64, ErrorCode> {
        // Kafka's answer while a broker waits for a block of ids; clients repeat the request.
        self.producer_ids.pop_front().ok_or(ErrorCode::CoordinatorLoadInProgress)
    }

    /// A request that does not say which transaction it means is of this one only if no newer
    /// connection than its own began it, or ended the one before.
    pub(crate) fn in_time(&self, id: &str, asked: Asked) -> Result<(), Refusal> {
        let since = self.entries.get(id).map_or(self.known_from, |entry| entry.since);
        if asked.connection < since { Err(Refusal::Late) } else { Ok(()) }
    }

    /// Its transaction began or ended, or its producer came, by this request.
    pub(crate) fn came(&mut self, id: &str, asked: Asked) {
        if let Some(entry) = self.entries.get_mut(id) {
            entry.since = asked.connection;
        }
    }

    /// Asks for the markers of a decision that is saved. Where there is nothing to mark it is
    /// complete.
    pub(crate) fn announce(
        &mut self,
        now_ms: i64,
        id: &str,
        prepare: Prepare,
        effects: &mut Effects,
    ) {
        let Some(transaction) = self.find(id) else { return };
        let partitions = transaction.partitions.clone();
        if partitions.is_empty() {
            return self.complete(now_ms, id, effects);
        }
        let markers = Markers {
            decision: self.next_decision,
            transactional_id: id.into(),
            producer: transaction.producer,
            commit: transaction.outcome().is_some_and(Outcome::is_commit),
            coordinator_epoch: self.coordinator_epoch,
            transaction_version: transaction.client_version,
            prepare,
            partitions: partitions.clone(),
        };
        let decision = Decision { transactional_id: id.into(), unwritten: partitions };
        self.decisions.insert(self.next_decision, decision);
        self.next_decision += 1;
        effects.markers.push(markers);
    }

    fn complete(&mut self, now_ms: i64, id: &str, effects: &mut Effects) {
        let Some(transaction) = self.find(id) else { return };
        let Some(outcome) = transaction.outcome() else { return };
        let producer = transaction.next_id.map_or(transaction.producer, Producer::first);
        let completed = Transaction {
            producer,
            next_id: None,
            state: outcome.completed(),
            partitions: Partitions::new(),
            updated_ms: now_ms,
            ..transaction.clone()
        };
        self.save(id, completed, effects);
    }

    fn hold(&mut self, id: &str, transaction: Transaction) {
        let due_ms = transaction.due_ms(self.settings.expiration_ms);
        match self.entries.get_mut(id) {
            Some(entry) => entry.transaction = transaction,
            None => {
                let entry = Entry { transaction, due_ms: None, since: self.known_from };
                self.entries.insert(id.into(), entry);
            }
        }
        self.schedule(id, due_ms);
    }

    fn schedule(&mut self, id: &str, due_ms: Option<i64>) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        let before = std::mem::replace(&mut entry.due_ms, due_ms);
        if let Some(before) = before {
            self.timers.remove(&(before, id.into()));
        }
        if let Some(due_ms) = due_ms {
            self.timers.insert((due_ms, id.into()));
        }
    }

    fn forget(&mut self, id: &str) {
        self.schedule(id, None);
        self.entries.remove(id);
    }
}
