//! ElectLeaders, AlterPartitionReassignments, ListPartitionReassignments: who could lead instead.
//!
//! A partition has one replica that brokers know of: its leader. The others are in the bucket. So
//! there is nobody to elect and nothing to reassign, and what is asked for is checked against that.

use levee_kafka::ErrorCode;
use levee_kafka::messages::alter_partition_reassignments_request::AlterPartitionReassignmentsRequest;
use levee_kafka::messages::alter_partition_reassignments_response::{
    AlterPartitionReassignmentsResponse, ReassignablePartitionResponse, ReassignableTopicResponse,
};
use levee_kafka::messages::elect_leaders_request::{ElectLeadersRequest, TopicPartitions};
use levee_kafka::messages::elect_leaders_response::{
    ElectLeadersResponse, PartitionResult, ReplicaElectionResult,
};
use levee_kafka::messages::list_partition_reassignments_request::ListPartitionReassignmentsRequest;
use levee_kafka::messages::list_partition_reassignments_response::ListPartitionReassignmentsResponse;
use levee_proto::ids::PartitionId;

use super::{Ask, cluster};

/// Kinds of elections: the first replica, or any rather than none.
const PREFERRED: i8 = 0;
const UNCLEAN: i8 = 1;

/// A refusal: Kafka's code, and a text for people.
type Refused = (ErrorCode, String);

/// The leader's id, if there is one; an error where there is no such partition.
fn leader(ask: &Ask, topic: &str, partition: i32) -> Result<Option<i32>, Refused> {
    let unknown = |why: String| (ErrorCode::UnknownTopicOrPartition, why);
    let state = ask.node().view.read();
    let known =
        state.topic_named(topic).ok_or_else(|| unknown(format!("no topic is named {topic:?}")))?;
    let number = u32::try_from(partition).ok().filter(|number| *number < known.partitions);
    let number = number.ok_or_else(|| {
        let count = known.partitions;
        unknown(format!("topic {topic:?} has no partition {partition}, it has {count}"))
    })?;
    let id = PartitionId { topic: known.id, partition: number };
    Ok(cluster::leader(ask, &state, id).map(|(leader, _)| leader))
}

pub(super) async fn elect(ask: &Ask, request: ElectLeadersRequest) -> ElectLeadersResponse {
    let kind = request.election_type;
    let asked_all = request.topic_partitions.is_none();
    let topics = request.topic_partitions.unwrap_or_else(|| all(ask));
    let mut replica_election_results = Vec::new();
    for TopicPartitions { topic, partitions } in topics {
        let one = |partition_id| {
            let (code, message) = elect_one(ask, kind, &topic, partition_id);
            let error_code = code.into();
            PartitionResult { partition_id, error_code, error_message: Some(message) }
        };
        let mut partition_result: Vec<_> = partitions.into_iter().map(one).collect();
        if asked_all {
            // Whoever asks for all wants to know what went wrong only.
            let fine: i16 = ErrorCode::ElectionNotNeeded.into();
            partition_result.retain(|result| result.error_code != fine);
        }
        if !partition_result.is_empty() {
            replica_election_results.push(ReplicaElectionResult { topic, partition_result });
        }
    }
    ElectLeadersResponse { replica_election_results, ..Default::default() }
}

fn all(ask: &Ask) -> Vec<TopicPartitions> {
    let state = ask.node().view.read();
    let live = state.names.iter().filter_map(|(name, id)| Some((name, state.topics.get(id)?)));
    live.map(|(name, topic)| TopicPartitions {
        topic: name.clone(),
        partitions: (0..topic.partitions as i32).collect(),
    })
    .collect()
}

/// It never succeeds: either the leader leads, or nobody could be put in its place.
fn elect_one(ask: &Ask, kind: i8, topic: &str, partition: i32) -> Refused {
    if !matches!(kind, PREFERRED | UNCLEAN) {
        let why = format!("election type {kind}: 0 (preferred) and 1 (unclean) are known");
        return (ErrorCode::InvalidRequest, why);
    }
    match leader(ask, topic, partition) {
        Err(refused) => refused,
        Ok(Some(leader)) => {
            (ErrorCode::ElectionNotNeeded, format!("broker {leader} leads it already"))
        }
        Ok(None) => {
            let why = "it has no leader yet, and gets one by itself when its lane is recovered";
            let code = match kind {
                PREFERRED => ErrorCode::PreferredLeaderNotAvailable,
                _ => ErrorCode::EligibleLeadersNotAvailable,
            };
            (code, why.into())
        }
    }
}

pub(super) async fn reassign(
    ask: &Ask,
    request: AlterPartitionReassignmentsRequest,
) -> AlterPartitionReassignmentsResponse {
    let mut responses = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for wanted in topic.partitions {
            let index = wanted.partition_index;
            let checked = check_replicas(ask, &topic.name, index, wanted.replicas.as_deref());
            partitions.push(match checked {
                Ok(()) => {
                    ReassignablePartitionResponse { partition_index: index, ..Default::default() }
                }
                Err((code, message)) => ReassignablePartitionResponse {
                    partition_index: index,
                    error_code: code.into(),
                    error_message: Some(message),
                },
            });
        }
        responses.push(ReassignableTopicResponse { name: topic.name, partitions });
    }
    AlterPartitionReassignmentsResponse {
        allow_replication_factor_change: request.allow_replication_factor_change,
        responses,
        ..Default::default()
    }
}

/// `None` cancels what is under way.
fn check_replicas(
    ask: &Ask,
    topic: &str,
    partition: i32,
    replicas: Option<&[i32]>,
) -> Result<(), Refused> {
    let leader = leader(ask, topic, partition)?;
    match replicas {
        None => {
            let why = "no reassignment of it is under way";
            Err((ErrorCode::NoReassignmentInProgress, why.into()))
        }
        Some([only]) if Some(*only) == leader => Ok(()),
        Some(replicas) => {
            let leader = leader.map_or_else(|| "none yet".to_owned(), |leader| leader.to_string());
            let why = format!(
                "replicas {replicas:?}: a partition has one, its leader ({leader}); what is kept \
                 where is the topic's durability.class"
            );
            Err((ErrorCode::InvalidReplicaAssignment, why))
        }
    }
}

pub(super) async fn reassignments(
    _: &Ask,
    _: ListPartitionReassignmentsRequest,
) -> ListPartitionReassignmentsResponse {
    ListPartitionReassignmentsResponse::default()
}
