//! A member of a consumer group, as a client behaves.

use std::collections::{BTreeMap, BTreeSet};

use levee_kafka::Uuid;
use levee_kafka::messages::consumer_group_heartbeat_request::{
    ConsumerGroupHeartbeatRequest, TopicPartitions,
};
use levee_kafka::messages::consumer_group_heartbeat_response::ConsumerGroupHeartbeatResponse;

use super::{GROUP, World};
use crate::{Answer, Request};

pub(super) type Partitions = BTreeSet<(Uuid, i32)>;

#[derive(Debug, Clone, Default)]
pub(super) struct Client {
    pub(super) id: String,
    pub(super) instance: Option<String>,
    pub(super) epoch: i32,
    pub(super) topics: Option<Vec<String>>,
    pub(super) regex: Option<String>,
    pub(super) assignor: Option<String>,
    pub(super) rebalance_ms: i32,
    /// What it works on now.
    pub(super) owned: Partitions,
    /// What it was last told to have.
    pub(super) told: Partitions,
    /// An answer did not come.
    pub(super) lost: bool,
}

pub(super) fn client(id: &str, topics: &[&str]) -> Client {
    Client {
        id: id.to_owned(),
        topics: Some(topics.iter().map(|name| (*name).to_owned()).collect()),
        rebalance_ms: 30_000,
        ..Default::default()
    }
}

pub(super) fn to_request(partitions: &Partitions) -> Vec<TopicPartitions> {
    let mut topics: BTreeMap<Uuid, Vec<i32>> = BTreeMap::new();
    for (topic, partition) in partitions {
        topics.entry(*topic).or_default().push(*partition);
    }
    let each = topics.into_iter();
    each.map(|(topic_id, partitions)| TopicPartitions { topic_id, partitions }).collect()
}

impl Client {
    /// Everything that it could say.
    pub(super) fn full(&self) -> ConsumerGroupHeartbeatRequest {
        ConsumerGroupHeartbeatRequest {
            group_id: GROUP.into(),
            member_id: self.id.clone(),
            member_epoch: self.epoch,
            instance_id: self.instance.clone(),
            rack_id: None,
            rebalance_timeout_ms: self.rebalance_ms,
            subscribed_topic_names: self.topics.clone(),
            subscribed_topic_regex: self.regex.clone(),
            server_assignor: self.assignor.clone(),
            topic_partitions: Some(to_request(&self.owned)),
        }
    }

    /// What it says when nothing changed.
    pub(super) fn plain(&self) -> ConsumerGroupHeartbeatRequest {
        ConsumerGroupHeartbeatRequest {
            group_id: GROUP.into(),
            member_id: self.id.clone(),
            member_epoch: self.epoch,
            instance_id: self.instance.clone(),
            ..Default::default()
        }
    }

    pub(super) fn join(&mut self, world: &mut World) -> ConsumerGroupHeartbeatResponse {
        self.epoch = 0;
        self.owned.clear();
        self.told.clear();
        self.send(world, self.full())
    }

    pub(super) fn send(
        &mut self,
        world: &mut World,
        request: ConsumerGroupHeartbeatRequest,
    ) -> ConsumerGroupHeartbeatResponse {
        let answer = heartbeat(world, request);
        if answer.error_code == 0 {
            self.hear(&answer);
        }
        answer
    }

    pub(super) fn hear(&mut self, answer: &ConsumerGroupHeartbeatResponse) {
        self.epoch = answer.member_epoch;
        if let Some(assignment) = &answer.assignment {
            let each = assignment.topic_partitions.iter();
            self.told = each.flat_map(|t| t.partitions.iter().map(|p| (t.topic_id, *p))).collect();
        }
    }

    /// Says what it has; then takes what it was told and gives up the rest.
    pub(super) fn beat(&mut self, world: &mut World) -> ConsumerGroupHeartbeatResponse {
        let mut request = self.plain();
        request.topic_partitions = Some(to_request(&self.owned));
        let answer = self.send(world, request);
        self.follow();
        answer
    }

    pub(super) fn follow(&mut self) {
        self.owned = self.told.clone();
    }

    pub(super) fn leave(&mut self, world: &mut World, epoch: i32) -> i16 {
        let mut request = self.plain();
        request.member_epoch = epoch;
        heartbeat(world, request).error_code
    }
}

pub(super) fn heartbeat(
    world: &mut World,
    request: ConsumerGroupHeartbeatRequest,
) -> ConsumerGroupHeartbeatResponse {
    heartbeat_by(world, 1, request)
}

pub(super) fn heartbeat_by(
    world: &mut World,
    version: i16,
    request: ConsumerGroupHeartbeatRequest,
) -> ConsumerGroupHeartbeatResponse {
    match world.ask(version, Request::ConsumerGroupHeartbeat(request)) {
        Answer::ConsumerGroupHeartbeat(answer) => answer,
        other => panic!("{other:?}"),
    }
}

/// Everybody sends heartbeats until nothing changes any more.
pub(super) fn settle(world: &mut World, clients: &mut [Client]) {
    for _ in 0..10 {
        for client in clients.iter_mut() {
            let answer = client.beat(world);
            assert_eq!(answer.error_code, 0, "{:?}", answer.error_message);
        }
    }
    let mut seen = Partitions::new();
    for client in clients.iter() {
        assert!(client.owned.iter().all(|partition| seen.insert(*partition)), "owned twice");
    }
    assert_eq!(world.consumer().state_name(), "Stable");
}

impl World {
    pub(super) fn consumer(&self) -> &crate::consumer::ConsumerGroup {
        match self.groups.groups.get(GROUP) {
            Some(crate::groups::Group::Consumer(group)) => group,
            other => panic!("{other:?}"),
        }
    }
}
