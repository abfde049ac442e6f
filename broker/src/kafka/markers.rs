//! What tools ask of transactions in partitions: DescribeProducers and WriteTxnMarkers (KIP-664,
//! which ends hanging transactions with the latter).

use std::time::Duration;

use levee_kafka::ErrorCode;
use levee_kafka::messages::describe_producers_request::DescribeProducersRequest;
use levee_kafka::messages::describe_producers_response::{
    DescribeProducersResponse, PartitionResponse, ProducerState, TopicResponse,
};
use levee_kafka::messages::write_txn_markers_request::{WritableTxnMarker, WriteTxnMarkersRequest};
use levee_kafka::messages::write_txn_markers_response::{
    WritableTxnMarkerPartitionResult, WritableTxnMarkerResult, WritableTxnMarkerTopicResult,
    WriteTxnMarkersResponse,
};
use levee_proto::object::ProducerEntry;

use super::{Ask, code};
use crate::partition::EndTxn;
use crate::topics::is_internal;

/// How long one marker may take.
const LIMIT: Duration = Duration::from_secs(30);

pub(super) async fn producers(
    ask: &Ask,
    request: DescribeProducersRequest,
) -> DescribeProducersResponse {
    let topics = request.topics.into_iter().map(|topic| TopicResponse {
        partitions: topic
            .partition_indexes
            .iter()
            .map(|partition| producers_of(ask, &topic.name, *partition))
            .collect(),
        name: topic.name,
    });
    DescribeProducersResponse { topics: topics.collect(), ..Default::default() }
}

fn producers_of(ask: &Ask, topic: &str, partition_index: i32) -> PartitionResponse {
    let found = ask.partition(topic, partition_index).and_then(|partition| {
        partition.readable().map_err(|error| code(&error))?;
        Ok(partition.producers().producers.into_iter().map(state).collect())
    });
    match found {
        Ok(active_producers) => {
            PartitionResponse { partition_index, active_producers, ..Default::default() }
        }
        Err(code) => {
            PartitionResponse { partition_index, error_code: code.into(), ..Default::default() }
        }
    }
}

fn state(producer: ProducerEntry) -> ProducerState {
    ProducerState {
        producer_id: producer.producer_id,
        producer_epoch: producer.producer_epoch.into(),
        last_sequence: producer.batches.last().map_or(-1, |batch| batch.last_sequence),
        last_timestamp: producer.last_timestamp,
        coordinator_epoch: producer.coordinator_epoch,
        current_txn_start_offset: producer.open_txn_start.map_or(-1, |start| start as i64),
    }
}

pub(super) async fn write(ask: &Ask, request: WriteTxnMarkersRequest) -> WriteTxnMarkersResponse {
    let mut markers = Vec::with_capacity(request.markers.len());
    for marker in request.markers {
        let mut topics = Vec::new();
        for topic in &marker.topics {
            let mut partitions = Vec::new();
            for partition in &topic.partition_indexes {
                let error_code = write_one(ask, &marker, &topic.name, *partition).await;
                let partition_index = *partition;
                partitions.push(WritableTxnMarkerPartitionResult { partition_index, error_code });
            }
            topics.push(WritableTxnMarkerTopicResult { name: topic.name.clone(), partitions });
        }
        markers.push(WritableTxnMarkerResult { producer_id: marker.producer_id, topics });
    }
    WriteTxnMarkersResponse { markers }
}

async fn write_one(ask: &Ask, marker: &WritableTxnMarker, topic: &str, partition: i32) -> i16 {
    // What groups know must follow their log: only their coordinator writes there.
    if is_internal(topic) {
        return ErrorCode::ClusterAuthorizationFailed.into();
    }
    let Ok(number) = u32::try_from(partition) else {
        return ErrorCode::UnknownTopicOrPartition.into();
    };
    let end = EndTxn {
        producer_id: marker.producer_id,
        producer_epoch: marker.producer_epoch,
        coordinator_epoch: marker.coordinator_epoch,
        commit: marker.transaction_result,
        transaction_version: marker.transaction_version.into(),
    };
    let node = ask.node();
    let written =
        async { node.end_transaction(topic, number, &end, LIMIT).await?.done(node).await };
    written.await.map_or_else(|error| code(&error).into(), |_| 0)
}
