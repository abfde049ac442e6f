//! Everything that asks the coordinator of a group (KIP-62, 345, 848).
//!
//! Owns: finding the coordinator, splitting requests that name several groups, and Kafka's answer
//! where there is no coordinator. Does not own: what a group answers (`levee-groups`).

use futures::future::join_all;
use levee_groups::{Answer, Caller, Request};
use levee_kafka::ErrorCode;
use levee_kafka::messages::consumer_group_describe_request::ConsumerGroupDescribeRequest;
use levee_kafka::messages::consumer_group_describe_response::{
    ConsumerGroupDescribeResponse, DescribedGroup as DescribedConsumerGroup,
};
use levee_kafka::messages::consumer_group_heartbeat_request::ConsumerGroupHeartbeatRequest;
use levee_kafka::messages::consumer_group_heartbeat_response::ConsumerGroupHeartbeatResponse;
use levee_kafka::messages::delete_groups_request::DeleteGroupsRequest;
use levee_kafka::messages::delete_groups_response::{DeletableGroupResult, DeleteGroupsResponse};
use levee_kafka::messages::describe_groups_request::DescribeGroupsRequest;
use levee_kafka::messages::describe_groups_response::{DescribeGroupsResponse, DescribedGroup};
use levee_kafka::messages::find_coordinator_request::FindCoordinatorRequest;
use levee_kafka::messages::find_coordinator_response::{Coordinator, FindCoordinatorResponse};
use levee_kafka::messages::heartbeat_request::HeartbeatRequest;
use levee_kafka::messages::heartbeat_response::HeartbeatResponse;
use levee_kafka::messages::join_group_request::JoinGroupRequest;
use levee_kafka::messages::join_group_response::JoinGroupResponse;
use levee_kafka::messages::leave_group_request::LeaveGroupRequest;
use levee_kafka::messages::leave_group_response::LeaveGroupResponse;
use levee_kafka::messages::list_groups_request::ListGroupsRequest;
use levee_kafka::messages::list_groups_response::ListGroupsResponse;
use levee_kafka::messages::offset_commit_request::{OffsetCommitRequest, OffsetCommitRequestTopic};
use levee_kafka::messages::offset_commit_response::{
    OffsetCommitResponse, OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use levee_kafka::messages::offset_delete_request::OffsetDeleteRequest;
use levee_kafka::messages::offset_delete_response::OffsetDeleteResponse;
use levee_kafka::messages::offset_fetch_request::{OffsetFetchRequest, OffsetFetchRequestGroup};
use levee_kafka::messages::offset_fetch_response::{
    OffsetFetchResponse, OffsetFetchResponseGroup, OffsetFetchResponsePartition,
    OffsetFetchResponseTopic,
};
use levee_kafka::messages::sync_group_request::SyncGroupRequest;
use levee_kafka::messages::sync_group_response::SyncGroupResponse;

use super::{Ask, cluster};
use crate::coordinator::Kind;
use crate::coordinator::groups::Call;

/// Bits of what everybody may do with a group while nobody is asked who they are: read, delete,
/// describe.
const GROUP_OPERATIONS: i32 = 1 << 3 | 1 << 6 | 1 << 8;

type Answered = Result<Answer, ErrorCode>;

pub(super) fn caller(ask: &Ask) -> Caller {
    let client_id = ask.header.client_id.clone().unwrap_or_default();
    Caller {
        api_version: ask.version(),
        client_id,
        client_host: format!("/{}", ask.client.peer.ip().to_canonical()),
        fresh_id: levee_kafka::Uuid::from(ask.node().host.random_u128()).to_string(),
        ..Caller::default()
    }
}

fn call(ask: &Ask, request: Request) -> Call {
    Call::new(caller(ask), request)
}

async fn of_group(ask: &Ask, group: &str, request: Request) -> Answered {
    ask.kafka.coordinators.ask_group(group, call(ask, request)).await
}

/// As `of_group`, for answers that rest on nothing that is appended for them: a broker that was paused
/// while another took over must not tell what it remembers (I20, F22).
async fn of_group_now(ask: &Ask, group: &str, request: Request) -> Answered {
    let answer = of_group(ask, group, request).await?;
    match ask.node().lease().await {
        Ok(()) => Ok(answer),
        Err(_) => Err(ErrorCode::CoordinatorNotAvailable),
    }
}

/// Of an answer that is none.
fn failed(answer: Answered) -> i16 {
    answer.err().unwrap_or(ErrorCode::UnknownServerError).into()
}

pub(super) async fn find_coordinator(
    ask: &Ask,
    request: FindCoordinatorRequest,
) -> FindCoordinatorResponse {
    const FIRST_WITH_KEYS: i16 = 4;
    if ask.version() >= FIRST_WITH_KEYS {
        let found =
            request.coordinator_keys.into_iter().map(|key| find(ask, key, request.key_type));
        let coordinators = join_all(found).await;
        return FindCoordinatorResponse { coordinators, ..Default::default() };
    }
    let found = find(ask, request.key, request.key_type).await;
    FindCoordinatorResponse {
        error_code: found.error_code,
        error_message: found.error_message,
        node_id: found.node_id,
        host: found.host,
        port: found.port,
        ..Default::default()
    }
}

async fn find(ask: &Ask, key: String, key_type: i8) -> Coordinator {
    let refused = |key, code: ErrorCode, message: String| Coordinator {
        key,
        node_id: -1,
        port: -1,
        error_code: code.into(),
        error_message: Some(message),
        ..Default::default()
    };
    let kind = match key_type {
        0 => Kind::Groups,
        1 => Kind::Transactions,
        other => {
            let why = format!("coordinators of type {other} are not served (0 and 1 are)");
            return refused(key, ErrorCode::InvalidRequest, why);
        }
    };
    let led = match ask.kafka.coordinators.partition_of(kind, &key).await {
        Ok(partition) => cluster::leader(ask, &ask.node().view.read(), partition),
        Err(error) => return refused(key, ErrorCode::CoordinatorNotAvailable, error.to_string()),
    };
    let brokers = cluster::brokers(ask);
    let broker = led.and_then(|(id, _)| brokers.into_iter().find(|broker| broker.id == id));
    match broker {
        Some(broker) => Coordinator {
            key,
            node_id: broker.id,
            host: broker.host,
            port: broker.port,
            ..Default::default()
        },
        None => {
            let why = "its partition has no leader yet".to_owned();
            refused(key, ErrorCode::CoordinatorNotAvailable, why)
        }
    }
}

/// An API that names one group and answers with one code where there is no coordinator.
macro_rules! one_group {
    ($name:ident, $request:ident, $response:ident, $kind:ident) => {
        pub(super) async fn $name(ask: &Ask, request: $request) -> $response {
            let group = request.group_id.clone();
            match of_group(ask, &group, Request::$kind(request)).await {
                Ok(Answer::$kind(answer)) => answer,
                other => $response { error_code: failed(other), ..Default::default() },
            }
        }
    };
}

one_group!(join, JoinGroupRequest, JoinGroupResponse, JoinGroup);
one_group!(sync, SyncGroupRequest, SyncGroupResponse, SyncGroup);
one_group!(heartbeat, HeartbeatRequest, HeartbeatResponse, Heartbeat);
one_group!(leave, LeaveGroupRequest, LeaveGroupResponse, LeaveGroup);
one_group!(delete_offsets, OffsetDeleteRequest, OffsetDeleteResponse, OffsetDelete);
one_group!(
    consumer_heartbeat,
    ConsumerGroupHeartbeatRequest,
    ConsumerGroupHeartbeatResponse,
    ConsumerGroupHeartbeat
);

pub(super) async fn commit(ask: &Ask, request: OffsetCommitRequest) -> OffsetCommitResponse {
    let (group, asked) = (request.group_id.clone(), request.topics.clone());
    match of_group(ask, &group, Request::OffsetCommit(request)).await {
        Ok(Answer::OffsetCommit(answer)) => answer,
        other => {
            let error_code = failed(other);
            let topic = |topic: OffsetCommitRequestTopic| OffsetCommitResponseTopic {
                name: topic.name,
                topic_id: topic.topic_id,
                partitions: topic
                    .partitions
                    .iter()
                    .map(|partition| OffsetCommitResponsePartition {
                        partition_index: partition.partition_index,
                        error_code,
                    })
                    .collect(),
            };
            let topics = asked.into_iter().map(topic).collect();
            OffsetCommitResponse { topics, ..Default::default() }
        }
    }
}

pub(super) async fn fetch_offsets(ask: &Ask, request: OffsetFetchRequest) -> OffsetFetchResponse {
    const FIRST_WITH_GROUPS: i16 = 8;
    if ask.version() < FIRST_WITH_GROUPS {
        return fetch_offsets_of_one(ask, request).await;
    }
    let require_stable = request.require_stable;
    let of_one = |asked: OffsetFetchRequestGroup| async move {
        let group_id = asked.group_id.clone();
        let request =
            OffsetFetchRequest { groups: vec![asked], require_stable, ..Default::default() };
        match of_group_now(ask, &group_id, Request::OffsetFetch(request)).await {
            Ok(Answer::OffsetFetch(answer)) => answer.groups,
            other => {
                let error_code = failed(other);
                vec![OffsetFetchResponseGroup { group_id, error_code, ..Default::default() }]
            }
        }
    };
    let groups = join_all(request.groups.into_iter().map(of_one)).await;
    OffsetFetchResponse { groups: groups.concat(), ..Default::default() }
}

async fn fetch_offsets_of_one(ask: &Ask, request: OffsetFetchRequest) -> OffsetFetchResponse {
    let (group, asked) = (request.group_id.clone(), request.topics.clone().unwrap_or_default());
    match of_group_now(ask, &group, Request::OffsetFetch(request)).await {
        Ok(Answer::OffsetFetch(answer)) => answer,
        other => {
            // The oldest version has no other place for the error.
            let error_code = failed(other);
            let partition = |partition_index| OffsetFetchResponsePartition {
                partition_index,
                committed_offset: -1,
                metadata: Some(String::new()),
                error_code,
                ..Default::default()
            };
            let topics = asked.into_iter().map(|topic| OffsetFetchResponseTopic {
                name: topic.name,
                partitions: topic.partition_indexes.into_iter().map(partition).collect(),
            });
            let topics = topics.collect();
            OffsetFetchResponse { topics, error_code, ..Default::default() }
        }
    }
}

pub(super) async fn describe(ask: &Ask, request: DescribeGroupsRequest) -> DescribeGroupsResponse {
    let operations = request.include_authorized_operations;
    let of_one = |group_id: String| async move {
        let request =
            DescribeGroupsRequest { groups: vec![group_id.clone()], ..Default::default() };
        let mut groups = match of_group(ask, &group_id, Request::DescribeGroups(request)).await {
            Ok(Answer::DescribeGroups(answer)) => answer.groups,
            other => {
                let error_code = failed(other);
                vec![DescribedGroup { group_id, error_code, ..Default::default() }]
            }
        };
        if operations {
            groups.iter_mut().for_each(|group| group.authorized_operations = GROUP_OPERATIONS);
        }
        groups
    };
    let groups = join_all(request.groups.into_iter().map(of_one)).await;
    DescribeGroupsResponse { groups: groups.concat(), ..Default::default() }
}

pub(super) async fn describe_consumer(
    ask: &Ask,
    request: ConsumerGroupDescribeRequest,
) -> ConsumerGroupDescribeResponse {
    let operations = request.include_authorized_operations;
    let of_one = |group_id: String| async move {
        let group_ids = vec![group_id.clone()];
        let request = ConsumerGroupDescribeRequest { group_ids, ..Default::default() };
        let mut groups =
            match of_group(ask, &group_id, Request::ConsumerGroupDescribe(request)).await {
                Ok(Answer::ConsumerGroupDescribe(answer)) => answer.groups,
                other => {
                    let error_code = failed(other);
                    vec![DescribedConsumerGroup { group_id, error_code, ..Default::default() }]
                }
            };
        if operations {
            groups.iter_mut().for_each(|group| group.authorized_operations = GROUP_OPERATIONS);
        }
        groups
    };
    let groups = join_all(request.group_ids.into_iter().map(of_one)).await;
    ConsumerGroupDescribeResponse { groups: groups.concat(), ..Default::default() }
}

pub(super) async fn delete(ask: &Ask, request: DeleteGroupsRequest) -> DeleteGroupsResponse {
    let of_one = |group_id: String| async move {
        let request = DeleteGroupsRequest { groups_names: vec![group_id.clone()] };
        match of_group(ask, &group_id, Request::DeleteGroups(request)).await {
            Ok(Answer::DeleteGroups(answer)) => answer.results,
            other => vec![DeletableGroupResult { group_id, error_code: failed(other) }],
        }
    };
    let results = join_all(request.groups_names.into_iter().map(of_one)).await;
    DeleteGroupsResponse { results: results.concat(), ..Default::default() }
}

/// Of this broker: tools ask all brokers and add up.
pub(super) async fn list(ask: &Ask, request: ListGroupsRequest) -> ListGroupsResponse {
    let mut all = ListGroupsResponse::default();
    match ask.kafka.coordinators.ask_all_groups(call(ask, Request::ListGroups(request))).await {
        Ok(answers) => {
            for answer in answers {
                match answer {
                    Answer::ListGroups(answer) => all.groups.extend(answer.groups),
                    _ => all.error_code = ErrorCode::UnknownServerError.into(),
                }
            }
        }
        Err(code) => all.error_code = code.into(),
    }
    all
}
