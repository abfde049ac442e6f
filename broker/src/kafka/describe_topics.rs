//! DescribeTopicPartitions (KIP-966): Metadata in pages, which admin clients ask instead.

use std::collections::BTreeSet;

use levee_kafka::messages::describe_topic_partitions_request::{
    Cursor, DescribeTopicPartitionsRequest,
};
use levee_kafka::messages::describe_topic_partitions_response as response;
use levee_kafka::messages::describe_topic_partitions_response::{
    DescribeTopicPartitionsResponse, DescribeTopicPartitionsResponsePartition,
    DescribeTopicPartitionsResponseTopic,
};
use levee_kafka::{ErrorCode, Uuid};
use levee_proto::ids::PartitionId;
use levee_tiering::metalog::MetaState;

use super::{Ask, cluster};
use crate::topics::{check_name, is_internal};

/// Partitions of one answer, whatever is asked (Kafka's `max.request.partition.size.limit`).
const PARTITIONS_MAX: i32 = 2000;

pub(super) async fn answer(
    ask: &Ask,
    request: DescribeTopicPartitionsRequest,
) -> DescribeTopicPartitionsResponse {
    let state = ask.node().view.read();
    let all = request.topics.is_empty();
    let asked: BTreeSet<&str> = match all {
        true => state.names.keys().map(String::as_str).collect(),
        false => request.topics.iter().map(|topic| topic.name.as_str()).collect(),
    };
    if !may_go_on(request.cursor.as_ref(), &asked, all) {
        return invalid(asked);
    }
    let (from, first) = match &request.cursor {
        Some(cursor) => (cursor.topic_name.as_str(), cursor.partition_index as u32),
        None => ("", 0),
    };
    let mut room = request.response_partition_limit.clamp(1, PARTITIONS_MAX) as u32;
    let mut answer = DescribeTopicPartitionsResponse::default();
    for name in asked.range(from..).copied() {
        if room == 0 {
            answer.next_cursor = cursor(name, 0);
            break;
        }
        let Some(topic) = state.topic_named(name) else {
            if !all {
                answer.topics.push(missing(name));
            }
            continue;
        };
        let first = if name == from { first } else { 0 };
        // Where the topic was made anew with fewer partitions, the page is empty.
        let end = topic.partitions.min(first.saturating_add(room));
        let numbers = first..end;
        room -= numbers.len() as u32;
        answer.topics.push(DescribeTopicPartitionsResponseTopic {
            name: Some(name.to_owned()),
            topic_id: Uuid::from(topic.id.0),
            is_internal: is_internal(name),
            partitions: numbers
                .map(|partition| PartitionId { topic: topic.id, partition })
                .map(|id| described(ask, &state, id))
                .collect(),
            topic_authorized_operations: cluster::TOPIC_OPERATIONS,
            ..Default::default()
        });
        if end < topic.partitions && room == 0 {
            answer.next_cursor = cursor(name, end);
            break;
        }
    }
    answer
}

/// A cursor goes on in a topic that is asked for.
fn may_go_on(cursor: Option<&Cursor>, asked: &BTreeSet<&str>, all: bool) -> bool {
    cursor.is_none_or(|cursor| {
        cursor.partition_index >= 0 && (all || asked.contains(cursor.topic_name.as_str()))
    })
}

fn invalid(asked: BTreeSet<&str>) -> DescribeTopicPartitionsResponse {
    let topic = |name: &str| failed(name, ErrorCode::InvalidRequest);
    DescribeTopicPartitionsResponse {
        topics: asked.into_iter().map(topic).collect(),
        ..Default::default()
    }
}

fn missing(name: &str) -> DescribeTopicPartitionsResponseTopic {
    match check_name(name) {
        Ok(()) => failed(name, ErrorCode::UnknownTopicOrPartition),
        Err(_) => failed(name, ErrorCode::InvalidTopic),
    }
}

fn failed(name: &str, code: ErrorCode) -> DescribeTopicPartitionsResponseTopic {
    DescribeTopicPartitionsResponseTopic {
        error_code: code.into(),
        name: Some(name.to_owned()),
        is_internal: is_internal(name),
        ..Default::default()
    }
}

fn cursor(topic: &str, partition: u32) -> Option<response::Cursor> {
    let partition_index = partition as i32;
    Some(response::Cursor { topic_name: topic.to_owned(), partition_index })
}

fn described(
    ask: &Ask,
    state: &MetaState,
    id: PartitionId,
) -> DescribeTopicPartitionsResponsePartition {
    let answer = DescribeTopicPartitionsResponsePartition {
        partition_index: id.partition as i32,
        // There is nobody beside the leader who could be elected.
        eligible_leader_replicas: Some(Vec::new()),
        last_known_elr: Some(Vec::new()),
        ..Default::default()
    };
    match cluster::leader(ask, state, id) {
        Some((leader_id, leader_epoch)) => DescribeTopicPartitionsResponsePartition {
            leader_id,
            leader_epoch,
            // The bucket is the other replica; clients expect the leader among them.
            replica_nodes: vec![leader_id],
            isr_nodes: vec![leader_id],
            ..answer
        },
        None => DescribeTopicPartitionsResponsePartition {
            error_code: ErrorCode::LeaderNotAvailable.into(),
            leader_id: -1,
            ..answer
        },
    }
}
