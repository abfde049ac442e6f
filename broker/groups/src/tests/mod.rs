//! A coordinator with a log, a clock that tests move, and clients that are tests.

mod bounds;
mod classic;
mod classic_rebalance;
mod classic_static;
mod consumer;
mod consumer_client;
mod consumer_static;
mod describe;
mod failover;
mod offsets;
mod offsets_client;
mod random_classic;
mod random_consumer;
mod transactions;

use std::collections::BTreeMap;

use bytes::Bytes;
use levee_kafka::messages::join_group_request::{JoinGroupRequest, JoinGroupRequestProtocol};
use levee_kafka::messages::join_group_response::JoinGroupResponse;
use levee_kafka::messages::sync_group_request::{SyncGroupRequest, SyncGroupRequestAssignment};
use levee_kafka::messages::sync_group_response::SyncGroupResponse;
use levee_kafka::{ErrorCode, Uuid};
use levee_proto::record::codecs::Compression;
use levee_proto::record::records::{BatchBuilder, RecordData};

use crate::groups::Group;
use crate::{Answer, Caller, Effects, Groups, Producer, Request, Settings, Token, Topic};

/// The newest version of every API.
pub(super) const NEW: i16 = 99;
pub(super) const GROUP: &str = "g";

#[derive(Debug, Clone)]
pub(super) enum Entry {
    Record(Bytes, Option<Bytes>, Option<Producer>),
    End(i64, bool),
}

pub(super) struct World {
    pub(super) groups: Groups,
    pub(super) topics: BTreeMap<String, Topic>,
    pub(super) now: i64,
    pub(super) log: Vec<Entry>,
    pub(super) answers: BTreeMap<Token, Answer>,
    pub(super) client_id: String,
    /// What clients mean by names.
    pub(super) topic_ids: BTreeMap<String, Uuid>,
    tokens: Token,
}

impl World {
    pub(super) fn new() -> Self {
        Self::with(Settings::default())
    }

    pub(super) fn with(settings: Settings) -> Self {
        let mut world = Self {
            groups: Groups::new(settings),
            topics: BTreeMap::new(),
            now: 1_000_000,
            log: Vec::new(),
            answers: BTreeMap::new(),
            client_id: "c".into(),
            topic_ids: BTreeMap::new(),
            tokens: 0,
        };
        let effects = world.groups.loaded(world.now, &world.topics);
        world.take(effects);
        world
    }

    pub(super) fn topic(&mut self, name: &str, partitions: i32) -> Uuid {
        let id = self.topics.get(name).map_or_else(
            || Uuid::from(1_000 + self.topics.len() as u128 + self.log.len() as u128 * 1_000),
            |topic| topic.id,
        );
        self.topics.insert(name.to_owned(), Topic { id, partitions });
        id
    }

    pub(super) fn take(&mut self, effects: Effects) {
        assert!(effects.producer.is_none() || !effects.records.is_empty());
        self.check_batches(&effects);
        for (key, value) in effects.records {
            self.log.push(Entry::Record(key, value, effects.producer));
        }
        for (token, answer) in effects.answers {
            assert!(token <= self.tokens, "an answer to a request that nobody sent");
            let before = self.answers.insert(token, answer);
            assert!(before.is_none(), "request {token} was answered twice");
        }
    }

    /// What cannot be cut fits a batch.
    fn check_batches(&self, effects: &Effects) {
        let mut from = 0;
        for to in effects.cuts.iter().copied().chain([effects.records.len()]) {
            let mut batch = BatchBuilder::new(Compression::None);
            for (key, value) in &effects.records[from..to] {
                let (key, value) = (Some(key.clone()), value.clone());
                batch.push(&RecordData { key, value, ..Default::default() });
            }
            let bytes = batch.plain_bytes();
            assert!(bytes <= self.groups.settings.max_batch_bytes, "a batch of {bytes} bytes");
            from = to;
        }
    }

    /// Sends; the answer may come later.
    pub(super) fn send(&mut self, version: i16, request: Request) -> Token {
        let effects = self.effects(version, request);
        self.take(effects);
        self.tokens
    }

    fn effects(&mut self, version: i16, request: Request) -> Effects {
        self.tokens += 1;
        let caller = Caller {
            api_version: version,
            client_id: self.client_id.clone(),
            client_host: "/127.0.0.1".into(),
            fresh_id: format!("{:04}", self.tokens),
            topic_ids: self.topic_ids.clone(),
        };
        self.groups.request(self.now, &self.topics, &caller, self.tokens, request)
    }

    /// Sends what is answered at once.
    pub(super) fn ask(&mut self, version: i16, request: Request) -> Answer {
        let token = self.send(version, request);
        self.answers.remove(&token).expect("no answer at once")
    }

    /// Lets time pass; ticks come when they are wanted.
    pub(super) fn pass(&mut self, ms: i64) {
        let end = self.now + ms;
        while let Some(due) = self.groups.deadline().filter(|due| *due <= end) {
            assert!(due > self.now || due >= end - ms, "a deadline in the past stays there");
            self.now = due.max(self.now);
            let effects = self.groups.tick(self.now, &self.topics);
            self.take(effects);
        }
        self.now = end;
    }

    pub(super) fn end_transaction(&mut self, producer: i64, commit: bool) {
        self.log.push(Entry::End(producer, commit));
        self.groups.transaction_ended(producer, commit);
    }

    /// Another coordinator reads the log.
    pub(super) fn replayed(&self, log: &[Entry]) -> Groups {
        let mut groups = Groups::new(self.groups.settings.clone());
        for entry in log {
            match entry.clone() {
                Entry::Record(key, value, producer) => groups.replay(key, value, producer).unwrap(),
                Entry::End(producer, commit) => groups.transaction_ended(producer, commit),
            }
        }
        groups
    }

    /// It takes over; whoever waits for an answer gets none.
    pub(super) fn fail_over(&mut self) {
        self.groups = self.replayed(&self.log);
        let effects = self.groups.loaded(self.now, &self.topics);
        self.take(effects);
    }

    /// What compaction leaves of the log below its first open transaction; of keys that were
    /// deleted nothing.
    pub(super) fn compacted(&self) -> Vec<Entry> {
        let (mut ends, mut outcomes) = (BTreeMap::new(), BTreeMap::new());
        for (at, entry) in self.log.iter().enumerate().rev() {
            match entry {
                Entry::End(producer, commit) => {
                    ends.insert(*producer, *commit);
                }
                Entry::Record(_, _, Some(by)) => {
                    outcomes.insert(at, ends.get(&by.id).copied());
                }
                Entry::Record(_, _, None) => {}
            }
        }
        let open = outcomes.iter().find(|(_, outcome)| outcome.is_none());
        let to = open.map_or(self.log.len(), |(at, _)| *at);
        let is_aborted = |at: &usize| matches!(outcomes.get(at), Some(Some(false)));
        let mut last: BTreeMap<&Bytes, usize> = BTreeMap::new();
        for (at, entry) in self.log[..to].iter().enumerate().filter(|(at, _)| !is_aborted(at)) {
            if let Entry::Record(key, _, _) = entry {
                last.insert(key, at);
            }
        }
        let kept = self.log.iter().enumerate().filter(|(at, entry)| match entry {
            Entry::Record(key, value, _) => {
                *at >= to || (last.get(key) == Some(at) && value.is_some())
            }
            Entry::End(..) => true,
        });
        kept.map(|(_, entry)| entry.clone()).collect()
    }

    /// The log says the same as memory, compacted or not.
    pub(super) fn check_replay(&self) {
        for log in [self.log.clone(), self.compacted()] {
            let other = self.replayed(&log);
            assert_eq!(self.groups.offsets.durable(), other.offsets.durable());
            let (mine, theirs) = (durable_groups(&self.groups), durable_groups(&other));
            assert!(mine.keys().eq(theirs.keys()));
            mine.values().zip(theirs.values()).for_each(|(mine, theirs)| check_same(mine, theirs));
        }
    }
}

/// Groups that are more than the offsets that they have.
fn durable_groups(groups: &Groups) -> BTreeMap<&str, &Group> {
    let more = |group: &Group| match group {
        Group::Classic(group) => group.protocol_type.is_some() || group.since_ms.is_some(),
        Group::Consumer(_) => true,
    };
    let all = groups.groups.iter().filter(|(_, group)| more(group));
    all.map(|(id, group)| (id.as_str(), group)).collect()
}

fn check_same(mine: &Group, theirs: &Group) {
    use crate::classic::State;
    match (mine, theirs) {
        (Group::Consumer(mine), Group::Consumer(theirs)) => {
            assert_eq!(mine.durable(), theirs.durable());
        }
        (Group::Classic(mine), Group::Classic(theirs)) => {
            assert!(mine.generation >= theirs.generation);
            // A rebalance under way is not durable.
            if matches!(mine.state, State::Stable | State::Empty) {
                assert_eq!(mine.to_value(), theirs.to_value());
            }
        }
        _ => panic!("{mine:?} became {theirs:?}"),
    }
}

pub(super) fn code(code: ErrorCode) -> i16 {
    code.into()
}

pub(super) const OK: i16 = 0;

/// What a classic member sends when it joins.
#[derive(Clone)]
pub(super) struct Join {
    pub(super) version: i16,
    pub(super) id: String,
    pub(super) instance: Option<String>,
    pub(super) protocols: Vec<(&'static str, &'static str)>,
    pub(super) session_ms: i32,
    pub(super) rebalance_ms: i32,
}

pub(super) fn join() -> Join {
    Join {
        version: 9,
        id: String::new(),
        instance: None,
        protocols: vec![("range", "m")],
        session_ms: 10_000,
        rebalance_ms: 60_000,
    }
}

impl Join {
    pub(super) fn id(self, id: &str) -> Self {
        Self { id: id.into(), ..self }
    }

    pub(super) fn instance(self, instance: &str) -> Self {
        Self { instance: Some(instance.into()), ..self }
    }

    pub(super) fn version(self, version: i16) -> Self {
        Self { version, ..self }
    }

    pub(super) fn protocols(self, protocols: &[(&'static str, &'static str)]) -> Self {
        Self { protocols: protocols.to_vec(), ..self }
    }

    fn request(&self) -> Request {
        let each = self.protocols.iter().map(|(name, metadata)| JoinGroupRequestProtocol {
            name: (*name).to_owned(),
            metadata: Bytes::from_static(metadata.as_bytes()),
        });
        Request::JoinGroup(JoinGroupRequest {
            group_id: GROUP.into(),
            session_timeout_ms: self.session_ms,
            rebalance_timeout_ms: self.rebalance_ms,
            member_id: self.id.clone(),
            group_instance_id: self.instance.clone(),
            protocol_type: "consumer".into(),
            protocols: each.collect(),
            reason: None,
        })
    }
}

impl World {
    pub(super) fn send_join(&mut self, join: &Join) -> Token {
        self.send(join.version, join.request())
    }

    pub(super) fn joined(&mut self, token: Token) -> JoinGroupResponse {
        match self.answers.remove(&token) {
            Some(Answer::JoinGroup(answer)) => answer,
            other => panic!("the join got {other:?}"),
        }
    }

    pub(super) fn synced(&mut self, token: Token) -> SyncGroupResponse {
        match self.answers.remove(&token) {
            Some(Answer::SyncGroup(answer)) => answer,
            other => panic!("the sync got {other:?}"),
        }
    }

    /// A join of a new dynamic member, which is given its id first.
    pub(super) fn join_new(&mut self) -> (String, Token) {
        let token = self.send_join(&join());
        let answer = self.joined(token);
        assert_eq!(answer.error_code, code(ErrorCode::MemberIdRequired));
        let token = self.send_join(&join().id(&answer.member_id));
        (answer.member_id, token)
    }

    pub(super) fn send_sync(&mut self, id: &str, generation: i32, given: &[(&str, &str)]) -> Token {
        self.send_sync_as(id, None, generation, given)
    }

    pub(super) fn send_sync_as(
        &mut self,
        id: &str,
        instance: Option<&str>,
        generation: i32,
        given: &[(&str, &str)],
    ) -> Token {
        let each = given.iter().map(|(id, assignment)| SyncGroupRequestAssignment {
            member_id: (*id).to_owned(),
            assignment: Bytes::copy_from_slice(assignment.as_bytes()),
        });
        let request = SyncGroupRequest {
            group_id: GROUP.into(),
            generation_id: generation,
            member_id: id.into(),
            group_instance_id: instance.map(Into::into),
            protocol_type: Some("consumer".into()),
            protocol_name: Some("range".into()),
            assignments: each.collect(),
        };
        self.send(NEW, Request::SyncGroup(request))
    }

    /// A stable group with as many members; the first one leads.
    pub(super) fn stable(&mut self, members: usize) -> Vec<String> {
        let joins: Vec<(String, Token)> = (0..members).map(|_| self.join_new()).collect();
        self.pass(10_000);
        let answers: Vec<_> = joins.iter().map(|(_, token)| self.joined(*token)).collect();
        let generation = answers[0].generation_id;
        assert!(answers.iter().all(|a| a.error_code == OK && a.generation_id == generation));
        let leader = answers[0].leader.clone();
        let mut ids: Vec<String> = joins.into_iter().map(|(id, _)| id).collect();
        ids.sort_by_key(|id| *id != leader);
        self.sync_all(&ids, generation);
        ids
    }

    /// Everybody syncs, the first one assigns; each gets its own id.
    pub(super) fn sync_all(&mut self, ids: &[String], generation: i32) {
        let waits: Vec<Token> =
            ids[1..].iter().map(|id| self.send_sync(id, generation, &[])).collect();
        let given: Vec<(&str, &str)> = ids.iter().map(|id| (id.as_str(), id.as_str())).collect();
        let leads = self.send_sync(&ids[0], generation, &given);
        for (id, token) in ids.iter().zip(std::iter::once(leads).chain(waits)) {
            let answer = self.synced(token);
            assert_eq!((answer.error_code, &answer.assignment[..]), (OK, id.as_bytes()));
        }
    }

    pub(super) fn heartbeat(&mut self, id: &str, generation: i32) -> i16 {
        self.heartbeat_as(id, None, generation)
    }

    pub(super) fn heartbeat_as(
        &mut self,
        id: &str,
        instance: Option<&str>,
        generation: i32,
    ) -> i16 {
        use levee_kafka::messages::heartbeat_request::HeartbeatRequest;
        let request = HeartbeatRequest {
            group_id: GROUP.into(),
            generation_id: generation,
            member_id: id.into(),
            group_instance_id: instance.map(Into::into),
        };
        match self.ask(NEW, Request::Heartbeat(request)) {
            Answer::Heartbeat(answer) => answer.error_code,
            other => panic!("{other:?}"),
        }
    }

    /// Codes of each member, named by id and instance.
    pub(super) fn leave(&mut self, members: &[(&str, Option<&str>)]) -> Vec<i16> {
        use levee_kafka::messages::leave_group_request::{LeaveGroupRequest, MemberIdentity};
        let each = members.iter().map(|(id, instance)| MemberIdentity {
            member_id: (*id).to_owned(),
            group_instance_id: instance.map(Into::into),
            reason: None,
        });
        let request = LeaveGroupRequest {
            group_id: GROUP.into(),
            members: each.collect(),
            ..Default::default()
        };
        match self.ask(NEW, Request::LeaveGroup(request)) {
            Answer::LeaveGroup(answer) => {
                assert_eq!(answer.error_code, OK);
                answer.members.iter().map(|member| member.error_code).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn classic(&self) -> &crate::classic::ClassicGroup {
        match self.groups.groups.get(GROUP) {
            Some(Group::Classic(group)) => group,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn state(&self) -> &'static str {
        self.classic().state.name()
    }
}
