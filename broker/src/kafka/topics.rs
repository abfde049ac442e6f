//! CreateTopics, DeleteTopics, CreatePartitions, DeleteRecords.
//!
//! Replicas: the bucket keeps what a topic's durability class promises, so a replication factor
//! says nothing here. Those up to a setting are taken, as tools ask for them by habit; assignments
//! to brokers must name brokers that exist.

use std::collections::BTreeMap;

use levee_kafka::messages::create_partitions_request::{
    CreatePartitionsRequest, CreatePartitionsTopic,
};
use levee_kafka::messages::create_partitions_response::{
    CreatePartitionsResponse, CreatePartitionsTopicResult,
};
use levee_kafka::messages::create_topics_request::{CreatableTopic, CreateTopicsRequest};
use levee_kafka::messages::create_topics_response::{
    CreatableTopicConfigs, CreatableTopicResult, CreateTopicsResponse,
};
use levee_kafka::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsRequest};
use levee_kafka::messages::delete_records_response::{
    DeleteRecordsPartitionResult, DeleteRecordsResponse, DeleteRecordsTopicResult,
};
use levee_kafka::messages::delete_topics_request::{DeleteTopicState, DeleteTopicsRequest};
use levee_kafka::messages::delete_topics_response::{DeletableTopicResult, DeleteTopicsResponse};
use levee_kafka::{ErrorCode, Uuid};
use levee_proto::grpc::ErrorCode as Levee;
use levee_proto::ids::TopicId;

use super::{Ask, code, configs};
use crate::error::Error;
use crate::topics::is_internal;
use crate::upkeep::retention;

/// A refusal: Kafka's code, and a text for people.
type Refused = (ErrorCode, String);

pub(super) async fn create(ask: &Ask, request: CreateTopicsRequest) -> CreateTopicsResponse {
    let mut seen = BTreeMap::<String, usize>::new();
    request.topics.iter().for_each(|t| *seen.entry(t.name.clone()).or_default() += 1);
    let mut topics = Vec::new();
    for topic in request.topics {
        let name = topic.name.clone();
        let made = match seen.get(&name) {
            Some(1) => create_one(ask, topic, request.validate_only).await,
            _ => Err((ErrorCode::InvalidRequest, "the request names it more than once".into())),
        };
        topics.push(made.unwrap_or_else(|(code, message)| CreatableTopicResult {
            name,
            error_code: code.into(),
            error_message: Some(message),
            ..Default::default()
        }));
    }
    CreateTopicsResponse { topics, ..Default::default() }
}

async fn create_one(
    ask: &Ask,
    topic: CreatableTopic,
    validate_only: bool,
) -> Result<CreatableTopicResult, Refused> {
    let node = ask.node();
    let partitions = partitions_of(ask, &topic)?;
    let mut set = BTreeMap::new();
    for config in topic.configs {
        let Some(value) = config.value else {
            let why = format!("{} has no value: leave it out for the default", config.name);
            return Err((ErrorCode::InvalidConfig, why));
        };
        set.insert(config.name, value);
    }
    let made = match validate_only {
        true => None,
        false => {
            Some(node.create_topic(&topic.name, partitions, set.clone()).await.map_err(refused)?)
        }
    };
    let (partitions, config) = match made {
        Some(id) => {
            let state = node.view.read();
            let made = state.topics.get(&id);
            (made.map_or(partitions, |made| made.partitions), node.topic_config(&state, id))
        }
        None => {
            if node.view.read().topic_named(&topic.name).is_some() {
                return Err(refused(Error::topic_exists(&topic.name)));
            }
            node.check_topic(&topic.name, partitions, &set).map_err(refused)?
        }
    };
    let config_of = |row: configs::Row| CreatableTopicConfigs {
        name: row.name,
        value: Some(row.value),
        config_source: row.source,
        ..Default::default()
    };
    Ok(CreatableTopicResult {
        name: topic.name,
        topic_id: made.map_or(Uuid::ZERO, |id| Uuid::from(id.0)),
        num_partitions: partitions as i32,
        replication_factor: 1,
        configs: Some(configs::topic_rows(&config).into_iter().map(config_of).collect()),
        ..Default::default()
    })
}

/// How many partitions are wanted; 0 for the broker's default.
fn partitions_of(ask: &Ask, topic: &CreatableTopic) -> Result<u32, Refused> {
    if !topic.assignments.is_empty() {
        if topic.num_partitions != -1 || topic.replication_factor != -1 {
            let why =
                "assignments say how many partitions and replicas there are: leave both at -1";
            return Err((ErrorCode::InvalidRequest, why.into()));
        }
        let mut numbers: Vec<i32> = topic.assignments.iter().map(|a| a.partition_index).collect();
        numbers.sort_unstable();
        if !numbers.iter().copied().eq(0..numbers.len() as i32) {
            let why = "assignments must be for partitions 0, 1, 2 and so on, each once";
            return Err((ErrorCode::InvalidReplicaAssignment, why.into()));
        }
        let all = topic.assignments.iter().map(|assignment| &assignment.broker_ids);
        check_brokers(ask, all)?;
        return Ok(numbers.len() as u32);
    }
    let (factor, max) = (topic.replication_factor, ask.node().config.kafka_replication_factor_max);
    if factor != -1 && !(1..=max).contains(&u32::try_from(factor).unwrap_or(0)) {
        let why = format!(
            "replication factor {factor}: 1 to {max} (kafka.replication.factor.max), or -1; what is \
             kept where is the topic's durability.class"
        );
        return Err((ErrorCode::InvalidReplicationFactor, why));
    }
    match topic.num_partitions {
        -1 => Ok(0),
        partitions if partitions > 0 => Ok(partitions as u32),
        other => {
            let why = format!("{other} partitions: at least 1, or -1 for the broker's default");
            Err((ErrorCode::InvalidPartitions, why))
        }
    }
}

fn check_brokers<'a>(
    ask: &Ask,
    mut assignments: impl Iterator<Item = &'a Vec<i32>>,
) -> Result<(), Refused> {
    let own = super::cluster::own_id(ask);
    match assignments.all(|brokers| brokers == &[own]) {
        true => Ok(()),
        false => {
            let why = format!("a partition is led by one broker that exists: [{own}]");
            Err((ErrorCode::InvalidReplicaAssignment, why))
        }
    }
}

fn refused(error: Error) -> Refused {
    let code = match (error.code, code(&error)) {
        (Levee::InvalidArgument, _) if error.message.starts_with("topic name") => {
            ErrorCode::InvalidTopic
        }
        (Levee::InvalidArgument, _) if error.message.contains("partitions") => {
            ErrorCode::InvalidPartitions
        }
        (_, code) => code,
    };
    (code, error.to_string())
}

pub(super) async fn delete(ask: &Ask, request: DeleteTopicsRequest) -> DeleteTopicsResponse {
    let named = request
        .topic_names
        .into_iter()
        .map(|name| DeleteTopicState { name: Some(name), ..Default::default() });
    let mut responses = Vec::new();
    for topic in named.chain(request.topics) {
        let answer = DeletableTopicResult { topic_id: topic.topic_id, ..Default::default() };
        responses.push(match delete_one(ask, topic).await {
            Ok((name, id)) => {
                DeletableTopicResult { name: Some(name), topic_id: Uuid::from(id.0), ..answer }
            }
            Err((name, (code, message))) => DeletableTopicResult {
                name,
                error_code: code.into(),
                error_message: Some(message),
                ..answer
            },
        });
    }
    DeleteTopicsResponse { responses, ..Default::default() }
}

async fn delete_one(
    ask: &Ask,
    topic: DeleteTopicState,
) -> Result<(String, TopicId), (Option<String>, Refused)> {
    let name = match topic.name {
        Some(name) => name,
        None => ask
            .topic_name(String::new(), topic.topic_id, true)
            .map_err(|code| (None, (code, format!("no topic has the id {}", topic.topic_id))))?,
    };
    let fails = |error: Error| (Some(name.clone()), refused(error));
    if is_internal(&name) {
        let why = format!("{name} is Levee's own: groups and transactions live in it");
        return Err((Some(name.clone()), (ErrorCode::InvalidTopic, why)));
    }
    let (id, _) = ask.node().delete_topic_named(&name).await.map_err(fails)?;
    Ok((name, id))
}

pub(super) async fn grow(ask: &Ask, request: CreatePartitionsRequest) -> CreatePartitionsResponse {
    let mut results = Vec::new();
    for topic in request.topics {
        let grown = grow_one(ask, &topic, request.validate_only).await;
        let (error_code, error_message) = match grown {
            Ok(()) => (0, None),
            Err((code, message)) => (code.into(), Some(message)),
        };
        results.push(CreatePartitionsTopicResult { name: topic.name, error_code, error_message });
    }
    CreatePartitionsResponse { results, ..Default::default() }
}

async fn grow_one(
    ask: &Ask,
    topic: &CreatePartitionsTopic,
    validate_only: bool,
) -> Result<(), Refused> {
    let known = {
        let state = ask.node().view.read();
        let known = state.topic_named(&topic.name).map(|topic| topic.partitions);
        known.ok_or_else(|| refused(Error::unknown_topic(&topic.name)))?
    };
    let wanted = u32::try_from(topic.count).unwrap_or(0);
    if wanted <= known {
        let why =
            format!("topic {:?} has {known} partitions; they are only ever added", topic.name);
        return Err((ErrorCode::InvalidPartitions, why));
    }
    if let Some(assignments) = &topic.assignments {
        if assignments.len() != (wanted - known) as usize {
            let why =
                format!("{} new partitions, {} assignments", wanted - known, assignments.len());
            return Err((ErrorCode::InvalidReplicaAssignment, why));
        }
        check_brokers(ask, assignments.iter().map(|assignment| &assignment.broker_ids))?;
    }
    if validate_only {
        return ask
            .node()
            .check_topic(&topic.name, wanted, &BTreeMap::new())
            .map(drop)
            .map_err(refused);
    }
    let grown = ask.node().alter_topic(&topic.name, BTreeMap::new(), Vec::new(), wanted).await;
    grown.map_err(refused)
}

pub(super) async fn delete_records(
    ask: &Ask,
    request: DeleteRecordsRequest,
) -> DeleteRecordsResponse {
    let mut topics = Vec::new();
    for topic in request.topics {
        let mut partitions = Vec::new();
        for asked in topic.partitions {
            partitions.push(delete_up_to(ask, &topic.name, &asked).await);
        }
        topics.push(DeleteRecordsTopicResult { name: topic.name, partitions });
    }
    DeleteRecordsResponse { topics, ..Default::default() }
}

async fn delete_up_to(
    ask: &Ask,
    topic: &str,
    asked: &DeleteRecordsPartition,
) -> DeleteRecordsPartitionResult {
    /// All that there is.
    const HIGH_WATERMARK: i64 = -1;
    let deleted = async {
        let partition = ask.partition(topic, asked.partition_index)?;
        let high_watermark = partition.readable().map_err(|e| code(&e))?.high_watermark();
        let before = match asked.offset {
            HIGH_WATERMARK => high_watermark,
            offset => u64::try_from(offset).map_err(|_| ErrorCode::OffsetOutOfRange)?,
        };
        let deleted = retention::delete_records(ask.node(), &partition, before).await;
        deleted.map_err(|error| code(&error))
    };
    let (low_watermark, error_code) = match deleted.await {
        Ok(log_start) => (log_start as i64, 0),
        Err(code) => (-1, code.into()),
    };
    let partition_index = asked.partition_index;
    DeleteRecordsPartitionResult { partition_index, low_watermark, error_code }
}
