//! Metadata: which topics there are, and who leads their partitions.

use levee_kafka::messages::metadata_request::{MetadataRequest, MetadataRequestTopic};
use levee_kafka::messages::metadata_response::{
    MetadataResponse, MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use levee_kafka::{ErrorCode, Uuid};
use levee_proto::ids::{PartitionId, TopicId};
use levee_proto::metalog::image::Topic;
use levee_tiering::metalog::MetaState;

use super::{Ask, cluster, code};
use crate::error::Error;
use crate::topics::is_internal;

pub(super) async fn answer(ask: &Ask, request: MetadataRequest) -> MetadataResponse {
    let wants_operations = request.include_topic_authorized_operations;
    let topics = match request.topics {
        // Below version 1 an empty list means all.
        Some(topics) if !topics.is_empty() || ask.version() >= 1 => {
            let creates = request.allow_auto_topic_creation && ask.node().config.auto_create_topics;
            named(ask, topics, creates).await
        }
        _ => {
            let state = ask.node().view.read();
            let live = state.names.values().filter_map(|id| state.topics.get(id));
            live.map(|topic| described(ask, &state, topic)).collect()
        }
    };
    let operations = |mut topic: MetadataResponseTopic| {
        if wants_operations && topic.error_code == 0 {
            topic.topic_authorized_operations = cluster::TOPIC_OPERATIONS;
        }
        topic
    };
    MetadataResponse {
        brokers: cluster::brokers(ask)
            .into_iter()
            .map(|broker| MetadataResponseBroker {
                node_id: broker.id,
                host: broker.host,
                port: broker.port,
                rack: broker.rack,
            })
            .collect(),
        cluster_id: Some(cluster::id(ask)),
        controller_id: cluster::controller(ask),
        topics: topics.into_iter().map(operations).collect(),
        cluster_authorized_operations: match request.include_cluster_authorized_operations {
            true => cluster::CLUSTER_OPERATIONS,
            false => i32::MIN,
        },
        ..Default::default()
    }
}

async fn named(
    ask: &Ask,
    topics: Vec<MetadataRequestTopic>,
    creates: bool,
) -> Vec<MetadataResponseTopic> {
    let mut out = Vec::with_capacity(topics.len());
    for wanted in topics {
        let Some(name) = wanted.name else {
            out.push(by_id(ask, wanted.topic_id));
            continue;
        };
        let found = by_name(ask, &name);
        out.push(match found {
            Some(found) => found,
            None if creates && !is_internal(&name) => create(ask, name).await,
            None => missing(name, ErrorCode::UnknownTopicOrPartition),
        });
    }
    out
}

fn by_name(ask: &Ask, name: &str) -> Option<MetadataResponseTopic> {
    let state = ask.node().view.read();
    state.topic_named(name).map(|topic| described(ask, &state, topic))
}

fn by_id(ask: &Ask, id: Uuid) -> MetadataResponseTopic {
    let state = ask.node().view.read();
    let topic = state.topics.get(&TopicId(id.into())).filter(|topic| topic.deleted_ms.is_none());
    match topic {
        Some(topic) => described(ask, &state, topic),
        None => MetadataResponseTopic {
            error_code: ErrorCode::UnknownTopicId.into(),
            topic_id: id,
            ..Default::default()
        },
    }
}

/// A topic that somebody asks for comes into being, where both sides want that.
async fn create(ask: &Ask, name: String) -> MetadataResponseTopic {
    match ask.node().create_topic(&name, 0, Default::default()).await {
        Ok(_) => {}
        Err(Error { code: levee_proto::grpc::ErrorCode::TopicExists, .. }) => {}
        Err(error) => {
            let code = match code(&error) {
                ErrorCode::InvalidRequest => ErrorCode::InvalidTopic,
                code => code,
            };
            return missing(name, code);
        }
    }
    match by_name(ask, &name) {
        Some(found) => found,
        None => missing(name, ErrorCode::LeaderNotAvailable),
    }
}

fn missing(name: String, code: ErrorCode) -> MetadataResponseTopic {
    MetadataResponseTopic { error_code: code.into(), name: Some(name), ..Default::default() }
}

fn described(ask: &Ask, state: &MetaState, topic: &Topic) -> MetadataResponseTopic {
    let partitions = (0..topic.partitions)
        .map(|number| partition(ask, state, PartitionId { topic: topic.id, partition: number }));
    MetadataResponseTopic {
        name: Some(topic.name.clone()),
        topic_id: Uuid::from(topic.id.0),
        is_internal: is_internal(&topic.name),
        partitions: partitions.collect(),
        ..Default::default()
    }
}

fn partition(ask: &Ask, state: &MetaState, id: PartitionId) -> MetadataResponsePartition {
    let partition_index = id.partition as i32;
    match cluster::leader(ask, state, id) {
        Some((leader_id, leader_epoch)) => MetadataResponsePartition {
            partition_index,
            leader_id,
            leader_epoch,
            // The bucket is the other replica; clients expect the leader among them.
            replica_nodes: vec![leader_id],
            isr_nodes: vec![leader_id],
            ..Default::default()
        },
        None => MetadataResponsePartition {
            error_code: ErrorCode::LeaderNotAvailable.into(),
            partition_index,
            leader_id: -1,
            ..Default::default()
        },
    }
}
