//! DescribeQuorum (KIP-595) and UpdateFeatures (KIP-584): the cluster's own log, and what its
//! format allows.
//!
//! The MetaLog has one writer, the controller, and the bucket keeps it: so the quorum is the
//! controller alone.

use levee_kafka::messages::describe_quorum_request as asked;
use levee_kafka::messages::describe_quorum_response::{
    DescribeQuorumResponse, Listener, Node, PartitionData, ReplicaState, TopicData,
};
use levee_kafka::messages::update_features_request::UpdateFeaturesRequest;
use levee_kafka::messages::update_features_response::{
    UpdatableFeatureResult, UpdateFeaturesResponse,
};
use levee_kafka::{ErrorCode, Uuid};

use super::{Ask, cluster};

/// Kafka's name for the log of its metadata; it has one partition.
const METADATA_TOPIC: &str = "__cluster_metadata";
const METADATA_PARTITION: i32 = 0;

pub(super) async fn describe(
    ask: &Ask,
    request: asked::DescribeQuorumRequest,
) -> DescribeQuorumResponse {
    let topic = |asked: asked::TopicData| {
        let partition = |index| match (asked.topic_name.as_str(), index) {
            (METADATA_TOPIC, METADATA_PARTITION) => metadata(ask),
            _ => failed(index, ErrorCode::UnknownTopicOrPartition),
        };
        let numbers = asked.partitions.iter().map(|partition| partition.partition_index);
        TopicData { partitions: numbers.map(partition).collect(), topic_name: asked.topic_name }
    };
    let node = |broker: cluster::Broker| Node {
        node_id: broker.id,
        listeners: vec![Listener {
            name: "KAFKA".into(),
            host: broker.host,
            port: u16::try_from(broker.port).unwrap_or_default(),
        }],
    };
    DescribeQuorumResponse {
        topics: request.topics.into_iter().map(topic).collect(),
        nodes: cluster::brokers(ask).into_iter().map(node).collect(),
        ..Default::default()
    }
}

fn failed(partition_index: i32, code: ErrorCode) -> PartitionData {
    PartitionData { partition_index, error_code: code.into(), leader_id: -1, ..Default::default() }
}

fn metadata(ask: &Ask) -> PartitionData {
    let state = ask.node().view.read();
    let Some(controller) = &state.controller else {
        return failed(METADATA_PARTITION, ErrorCode::LeaderNotAvailable);
    };
    let leader_id = controller.broker as i32;
    let end = state.head as i64 + 1;
    let now_ms = ask.node().host.wall_ms();
    let session = state.newest_session(controller.broker);
    let voter = ReplicaState {
        replica_id: leader_id,
        replica_directory_id: session.map_or(Uuid::ZERO, |session| Uuid::from(session.store_id.0)),
        log_end_offset: end,
        last_fetch_timestamp: now_ms,
        last_caught_up_timestamp: now_ms,
    };
    PartitionData {
        partition_index: METADATA_PARTITION,
        leader_id,
        leader_epoch: i32::try_from(state.term).unwrap_or(i32::MAX),
        // Exclusive, as a slot is one record.
        high_watermark: end,
        current_voters: vec![voter],
        ..Default::default()
    }
}

/// Levels follow from what is built here; no operator raises or lowers them. So every change fails,
/// whether it is only tried or not.
pub(super) async fn update(ask: &Ask, request: UpdateFeaturesRequest) -> UpdateFeaturesResponse {
    /// From here on one error stands for all features.
    const ONE_ERROR_FROM: i16 = 2;
    if request.feature_updates.is_empty() {
        return UpdateFeaturesResponse::default();
    }
    let error_code = ErrorCode::FeatureUpdateFailed.into();
    let why = |feature: &str| {
        format!("feature {feature:?}: levels follow from the broker's release, nothing was changed")
    };
    if ask.version() >= ONE_ERROR_FROM {
        let names: Vec<&str> = request.feature_updates.iter().map(|f| f.feature.as_str()).collect();
        let error_message = Some(why(&names.join(", ")));
        return UpdateFeaturesResponse { error_code, error_message, ..Default::default() };
    }
    let result = |feature: String| UpdatableFeatureResult {
        error_code,
        error_message: Some(why(&feature)),
        feature,
    };
    let features = request.feature_updates.into_iter().map(|update| update.feature);
    UpdateFeaturesResponse { results: features.map(result).collect(), ..Default::default() }
}
