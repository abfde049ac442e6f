//! The folded state: what the MetaLog says, in memory.

use std::collections::BTreeMap;

use levee_proto::ids::{LaneId, Nonce, PartitionId, SessionId, TopicId, Writer};
use levee_proto::metalog::image::{
    Controller, FeatureLevel, Image, Job, Lane, Partition, Session, SessionState, Topic,
    Unreferenced,
};
use levee_proto::metalog::{ObjectId, ObjectRef, Snapshot};

/// State after `head`. Changed only by the fold (`fold.rs`).
#[derive(Debug, Clone, PartialEq)]
pub struct MetaState {
    pub cluster: Nonce,
    /// Newest slot that is folded in; 0 before the first.
    pub head: u64,
    /// Crc of that slot, which the next one names.
    pub chain_crc: u32,
    pub term: u64,
    pub controller: Option<Controller>,
    pub sessions: BTreeMap<SessionId, Session>,
    pub lanes: BTreeMap<LaneId, Lane>,
    pub topics: BTreeMap<TopicId, Topic>,
    /// Live topics by name; derived.
    pub names: BTreeMap<String, TopicId>,
    pub partitions: BTreeMap<PartitionId, Partition>,
    pub objects: BTreeMap<ObjectId, ObjectRef>,
    pub unreferenced: BTreeMap<ObjectId, Unreferenced>,
    pub jobs: BTreeMap<u64, Job>,
    pub config: BTreeMap<String, String>,
    pub features: BTreeMap<String, u16>,
    pub next_producer_id: u64,
    pub claims: Vec<u64>,
}

impl MetaState {
    pub fn new(cluster: Nonce) -> Self {
        Self {
            cluster,
            head: 0,
            chain_crc: 0,
            term: 0,
            controller: None,
            sessions: BTreeMap::new(),
            lanes: BTreeMap::new(),
            topics: BTreeMap::new(),
            names: BTreeMap::new(),
            partitions: BTreeMap::new(),
            objects: BTreeMap::new(),
            unreferenced: BTreeMap::new(),
            jobs: BTreeMap::new(),
            config: BTreeMap::new(),
            features: BTreeMap::new(),
            next_producer_id: 0,
            claims: Vec::new(),
        }
    }

    pub fn topic_named(&self, name: &str) -> Option<&Topic> {
        self.names.get(name).and_then(|id| self.topics.get(id))
    }

    /// Newest session of a broker, whatever its state.
    pub fn newest_session(&self, broker: u32) -> Option<&Session> {
        let first = SessionId { broker, epoch: 0 };
        let last = SessionId { broker, epoch: u32::MAX };
        self.sessions.range(first..=last).next_back().map(|(_, session)| session)
    }

    /// Sessions of a broker that are not closed.
    pub fn live_sessions(&self, broker: u32) -> impl Iterator<Item = &Session> {
        let first = SessionId { broker, epoch: 0 };
        let last = SessionId { broker, epoch: u32::MAX };
        let sessions = self.sessions.range(first..=last).map(|(_, session)| session);
        sessions.filter(|session| session.state != SessionState::Closed)
    }

    pub fn is_open(&self, session: SessionId) -> bool {
        self.sessions.get(&session).is_some_and(|s| s.state == SessionState::Open)
    }

    /// Closed, or forgotten after it closed: epochs only grow.
    pub fn has_ended(&self, session: SessionId) -> bool {
        match self.sessions.get(&session) {
            Some(known) => known.state == SessionState::Closed,
            None => self.newest_session(session.broker).is_some_and(|newest| newest.id > session),
        }
    }

    /// Whether a writer commits nothing any more: a session that has ended, a job that is not
    /// running.
    pub fn writer_ended(&self, writer: Writer) -> bool {
        match writer.as_session() {
            Some(session) => self.has_ended(session),
            None => writer.as_job().is_some_and(|job| !self.jobs.contains_key(&job)),
        }
    }

    pub fn lanes_of(&self, session: SessionId) -> impl Iterator<Item = &Lane> {
        let first = LaneId { session, lane: 0 };
        let last = LaneId { session, lane: u16::MAX };
        self.lanes.range(first..=last).map(|(_, lane)| lane)
    }

    pub fn partitions_of(&self, topic: TopicId) -> impl Iterator<Item = &Partition> {
        let first = PartitionId { topic, partition: 0 };
        let last = PartitionId { topic, partition: u32::MAX };
        self.partitions.range(first..=last).map(|(_, partition)| partition)
    }

    /// Partitions whose newest grant is on this lane.
    pub fn partitions_on(&self, lane: LaneId) -> impl Iterator<Item = &Partition> {
        let on = move |p: &&Partition| p.leader.as_ref().is_some_and(|l| l.lane == lane);
        self.partitions.values().filter(on)
    }

    /// Partitions whose leader closed its lane and left without a next one.
    pub fn orphans(&self) -> impl Iterator<Item = &Partition> {
        self.partitions.values().filter(|partition| {
            let leader = partition.leader.as_ref();
            leader.is_some_and(|leader| {
                let lane = self.lanes.get(&leader.lane);
                !self.is_open(leader.lane.session) && lane.is_none_or(|lane| lane.end.is_some())
            })
        })
    }

    /// Whether a job works on this object.
    pub fn is_held(&self, object: &ObjectId) -> bool {
        self.jobs.values().any(|job| job.inputs.contains(object))
    }

    /// A snapshot of this state, as it stands at `head`.
    pub fn image(&self) -> Image {
        let features = self.features.iter();
        Image {
            term: self.term,
            controller: self.controller.clone(),
            sessions: self.sessions.values().cloned().collect(),
            lanes: self.lanes.values().cloned().collect(),
            topics: self.topics.values().cloned().collect(),
            partitions: self.partitions.values().cloned().collect(),
            objects: self.objects.values().cloned().collect(),
            unreferenced: self.unreferenced.values().cloned().collect(),
            jobs: self.jobs.values().cloned().collect(),
            config: self.config.clone(),
            features: features
                .map(|(name, level)| FeatureLevel { name: name.clone(), level: *level })
                .collect(),
            next_producer_id: self.next_producer_id,
            claims: self.claims.clone(),
        }
    }

    pub fn from_snapshot(snapshot: Snapshot) -> Self {
        let image = snapshot.image;
        let live = image.topics.iter().filter(|t| t.deleted_ms.is_none());
        let names = live.map(|t| (t.name.clone(), t.id)).collect();
        Self {
            cluster: snapshot.cluster,
            head: snapshot.slot,
            chain_crc: snapshot.chain_crc,
            term: image.term,
            controller: image.controller,
            sessions: image.sessions.into_iter().map(|s| (s.id, s)).collect(),
            lanes: image.lanes.into_iter().map(|l| (l.id, l)).collect(),
            topics: image.topics.into_iter().map(|t| (t.id, t)).collect(),
            names,
            partitions: image.partitions.into_iter().map(|p| (p.id, p)).collect(),
            objects: image.objects.into_iter().map(|o| (o.id(), o)).collect(),
            unreferenced: image.unreferenced.into_iter().map(|u| (u.object.id(), u)).collect(),
            jobs: image.jobs.into_iter().map(|j| (j.id, j)).collect(),
            config: image.config,
            features: image.features.into_iter().map(|f| (f.name, f.level)).collect(),
            next_producer_id: image.next_producer_id,
            claims: image.claims,
        }
    }
}
