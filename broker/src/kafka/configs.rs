//! DescribeConfigs, AlterConfigs, IncrementalAlterConfigs (KIP-133, KIP-339).
//!
//! A topic's settings are its own over what its broker says; the broker's own are read from its file
//! and cannot be changed from here.

use std::collections::BTreeMap;

use levee_kafka::ErrorCode;
use levee_kafka::messages::alter_configs_request::{AlterConfigsRequest, AlterConfigsResource};
use levee_kafka::messages::alter_configs_response::{
    AlterConfigsResourceResponse, AlterConfigsResponse as AlterResponse,
};
use levee_kafka::messages::describe_configs_request::{
    DescribeConfigsRequest, DescribeConfigsResource,
};
use levee_kafka::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResponse, DescribeConfigsResult,
    DescribeConfigsSynonym,
};
use levee_kafka::messages::incremental_alter_configs_request as incremental;
use levee_kafka::messages::incremental_alter_configs_response as incremental_answer;

use super::{Ask, cluster, code};
use crate::config::{BrokerConfig, Kind, TopicConfig, TopicEntry};
use crate::error::Error;
use crate::node::Node;

/// Kinds of resources.
pub(super) const TOPIC: i8 = 2;
pub(super) const BROKER: i8 = 4;
/// Where a value comes from.
const OF_TOPIC: i8 = 1;
const OF_BROKER: i8 = 4;
const DEFAULT: i8 = 5;
/// What IncrementalAlterConfigs does with a value.
const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

/// A refusal: Kafka's code, and a text for people.
type Refused = (ErrorCode, String);

fn refused(error: &Error) -> Refused {
    let code = match code(error) {
        ErrorCode::InvalidRequest => ErrorCode::InvalidConfig,
        code => code,
    };
    (code, error.to_string())
}

/// One setting as Kafka shows it.
pub(super) struct Row {
    pub(super) name: String,
    pub(super) value: String,
    pub(super) source: i8,
    read_only: bool,
    kind: i8,
    doc: &'static str,
    /// The same value under the names that it may have come from, nearest first.
    synonyms: Vec<(String, String, i8)>,
}

pub(super) async fn describe(
    ask: &Ask,
    request: DescribeConfigsRequest,
) -> DescribeConfigsResponse {
    let (synonyms, docs) = (request.include_synonyms, request.include_documentation);
    let one = |resource: DescribeConfigsResource| {
        let answer = DescribeConfigsResult {
            resource_type: resource.resource_type,
            resource_name: resource.resource_name.clone(),
            ..Default::default()
        };
        match rows(ask, resource.resource_type, &resource.resource_name) {
            Ok(rows) => {
                let wanted = resource.configuration_keys;
                let is_wanted =
                    |row: &Row| wanted.as_ref().is_none_or(|keys| keys.contains(&row.name));
                let rows = rows.into_iter().filter(is_wanted);
                let configs = rows.map(|row| shown(row, synonyms, docs)).collect();
                DescribeConfigsResult { configs, ..answer }
            }
            Err((code, message)) => DescribeConfigsResult {
                error_code: code.into(),
                error_message: Some(message),
                ..answer
            },
        }
    };
    let results = request.resources.into_iter().map(one).collect();
    DescribeConfigsResponse { results, ..Default::default() }
}

fn rows(ask: &Ask, kind: i8, name: &str) -> Result<Vec<Row>, Refused> {
    let node = ask.node();
    match kind {
        TOPIC => {
            let state = node.view.read();
            match state.topic_named(name) {
                Some(topic) => Ok(topic_rows(&node.topic_config(&state, topic.id))),
                None => Err(refused(&Error::unknown_topic(name))),
            }
        }
        BROKER => {
            check_broker(ask, name)?;
            Ok(broker_rows(&node.config))
        }
        other => Err(no_such_kind(other)),
    }
}

fn no_such_kind(kind: i8) -> Refused {
    let why = format!("resource type {kind}: topics (2) and brokers (4) have settings here");
    (ErrorCode::InvalidRequest, why)
}

/// Empty: the defaults of all brokers, which are this one's.
fn check_broker(ask: &Ask, name: &str) -> Result<(), Refused> {
    match name.is_empty() || name == cluster::own_id(ask).to_string() {
        true => Ok(()),
        false => {
            let why = format!("broker {name:?} is not the one that was asked");
            Err((ErrorCode::InvalidRequest, why))
        }
    }
}

pub(super) fn topic_rows(config: &TopicConfig) -> Vec<Row> {
    config.entries().into_iter().map(topic_row).collect()
}

fn topic_row(entry: TopicEntry) -> Row {
    let name = entry.name.to_owned();
    let source = if entry.is_default { DEFAULT } else { OF_TOPIC };
    let synonyms = vec![(name.clone(), entry.value.clone(), source)];
    Row {
        name,
        value: entry.value,
        source,
        read_only: false,
        kind: kind_of(&entry.kind),
        doc: entry.doc,
        synonyms,
    }
}

fn broker_rows(config: &BrokerConfig) -> Vec<Row> {
    let own = config.entries().into_iter().map(|(setting, value, is_default)| Row {
        name: setting.broker_name(),
        value,
        source: if is_default { DEFAULT } else { OF_BROKER },
        read_only: true,
        kind: kind_of(&setting.kind),
        doc: setting.doc,
        synonyms: Vec::new(),
    });
    let alias = |(name, value): (&str, String)| Row {
        name: name.to_owned(),
        value,
        source: DEFAULT,
        read_only: true,
        kind: kind_of(&Kind::Text),
        doc: "As Kafka's tools ask for it.",
        synonyms: Vec::new(),
    };
    own.chain(kafka_names(config).into_iter().map(alias)).collect()
}

/// What tools look for by Kafka's names.
fn kafka_names(config: &BrokerConfig) -> Vec<(&'static str, String)> {
    vec![
        ("auto.create.topics.enable", config.auto_create_topics.to_string()),
        ("num.partitions", config.default_partitions.to_string()),
        ("default.replication.factor", "1".into()),
        ("min.insync.replicas", "1".into()),
        ("message.max.bytes", config.max_batch_bytes.to_string()),
        ("delete.topic.enable", "true".into()),
        ("log.cleanup.policy", "delete".into()),
        ("offsets.topic.replication.factor", "1".into()),
        ("transaction.state.log.replication.factor", "1".into()),
    ]
}

fn kind_of(kind: &Kind) -> i8 {
    const BOOLEAN: i8 = 1;
    const STRING: i8 = 2;
    const LONG: i8 = 5;
    const DOUBLE: i8 = 6;
    match kind {
        Kind::Bool => BOOLEAN,
        Kind::Bytes | Kind::Duration | Kind::Int => LONG,
        Kind::Ratio => DOUBLE,
        _ => STRING,
    }
}

fn shown(row: Row, synonyms: bool, docs: bool) -> DescribeConfigsResourceResult {
    let synonym = |(name, value, source): (String, String, i8)| DescribeConfigsSynonym {
        name,
        value: Some(value),
        source,
    };
    DescribeConfigsResourceResult {
        name: row.name,
        value: Some(row.value),
        read_only: row.read_only,
        config_source: row.source,
        is_sensitive: false,
        synonyms: match synonyms {
            true => row.synonyms.into_iter().map(synonym).collect(),
            false => Vec::new(),
        },
        config_type: row.kind,
        documentation: docs.then(|| row.doc.to_owned()),
    }
}

/// Replaces all settings of a topic.
pub(super) async fn alter(ask: &Ask, request: AlterConfigsRequest) -> AlterResponse {
    let mut responses = Vec::with_capacity(request.resources.len());
    for resource in request.resources {
        let outcome = replace(ask, &resource, request.validate_only).await;
        let (code, error_message) = answer(outcome);
        responses.push(AlterConfigsResourceResponse {
            error_code: code,
            error_message,
            resource_type: resource.resource_type,
            resource_name: resource.resource_name,
        });
    }
    AlterResponse { responses, ..Default::default() }
}

async fn replace(
    ask: &Ask,
    resource: &AlterConfigsResource,
    validate_only: bool,
) -> Result<(), Refused> {
    let stored = own_settings(ask, resource.resource_type, &resource.resource_name)?;
    let mut set = BTreeMap::new();
    for config in &resource.configs {
        let Some(value) = &config.value else { continue };
        set.insert(config.name.clone(), value.clone());
    }
    let remove = stored.into_keys().filter(|name| !set.contains_key(name));
    let remove = remove.filter(|name| !Node::always_has(name)).collect();
    apply(ask, &resource.resource_name, set, remove, validate_only).await
}

/// Changes some settings of a topic.
pub(super) async fn change(
    ask: &Ask,
    request: incremental::IncrementalAlterConfigsRequest,
) -> incremental_answer::IncrementalAlterConfigsResponse {
    let mut responses = Vec::with_capacity(request.resources.len());
    for resource in request.resources {
        let outcome = change_one(ask, &resource, request.validate_only).await;
        let (error_code, error_message) = answer(outcome);
        responses.push(incremental_answer::AlterConfigsResourceResponse {
            error_code,
            error_message,
            resource_type: resource.resource_type,
            resource_name: resource.resource_name,
        });
    }
    incremental_answer::IncrementalAlterConfigsResponse { responses, ..Default::default() }
}

/// What Kafka's reassignment tool takes away when it has ended, whether it was set or not. Nothing is
/// copied between brokers, so it never is.
fn is_gone_throttle(config: &incremental::AlterableConfig) -> bool {
    const THROTTLES: [&str; 5] = [
        "leader.replication.throttled.rate",
        "follower.replication.throttled.rate",
        "leader.replication.throttled.replicas",
        "follower.replication.throttled.replicas",
        "replica.alter.log.dirs.io.max.bytes.per.second",
    ];
    config.config_operation == DELETE && THROTTLES.contains(&config.name.as_str())
}

async fn change_one(
    ask: &Ask,
    resource: &incremental::AlterConfigsResource,
    validate_only: bool,
) -> Result<(), Refused> {
    let name = &resource.resource_name;
    if resource.configs.iter().all(is_gone_throttle) {
        return rows(ask, resource.resource_type, name).map(drop);
    }
    own_settings(ask, resource.resource_type, name)?;
    let now = rows(ask, resource.resource_type, name)?;
    let (mut set, mut remove) = (BTreeMap::new(), Vec::new());
    for config in &resource.configs {
        let key = config.name.clone();
        if set.contains_key(&key) || remove.contains(&key) {
            let why = format!("{key} is changed twice in one request");
            return Err((ErrorCode::InvalidRequest, why));
        }
        let value = config.value.clone();
        match (config.config_operation, value) {
            (DELETE, _) => remove.push(key),
            (SET, Some(value)) => drop(set.insert(key, value)),
            (operation @ (APPEND | SUBTRACT), Some(value)) => {
                let held = now.iter().find(|row| row.name == key).map(|row| row.value.as_str());
                let changed = list(held.unwrap_or_default(), &value, operation == APPEND);
                set.insert(key, changed);
            }
            (operation, None) if (SET..=SUBTRACT).contains(&operation) => {
                let why = format!("{key} has no value: delete it for the default");
                return Err((ErrorCode::InvalidRequest, why));
            }
            (operation, _) => {
                let why = format!("{key}: operation {operation} is not known (0 to 3 are)");
                return Err((ErrorCode::InvalidRequest, why));
            }
        }
    }
    apply(ask, name, set, remove, validate_only).await
}

/// A list with commas, with some words more or less.
fn list(held: &str, words: &str, add: bool) -> String {
    let split = |text: &str| -> Vec<String> {
        text.split(',').map(str::trim).filter(|w| !w.is_empty()).map(str::to_owned).collect()
    };
    let (mut held, words) = (split(held), split(words));
    held.retain(|word| !words.contains(word));
    if add {
        held.extend(words);
    }
    held.join(",")
}

/// What a topic sets itself; an error for what cannot be changed from here.
fn own_settings(ask: &Ask, kind: i8, name: &str) -> Result<BTreeMap<String, String>, Refused> {
    match kind {
        TOPIC => {
            let state = ask.node().view.read();
            let topic = state.topic_named(name);
            topic
                .map(|topic| topic.config.clone())
                .ok_or_else(|| refused(&Error::unknown_topic(name)))
        }
        BROKER => {
            let why = "settings of a broker are in its file, environment or flags: change them there \
                       and start it again";
            Err((ErrorCode::InvalidRequest, why.into()))
        }
        other => Err(no_such_kind(other)),
    }
}

async fn apply(
    ask: &Ask,
    topic: &str,
    set: BTreeMap<String, String>,
    remove: Vec<String>,
    validate_only: bool,
) -> Result<(), Refused> {
    let node = ask.node();
    let done = match validate_only {
        true => node.check_alter(topic, set, &remove),
        false => node.alter_topic(topic, set, remove, 0).await,
    };
    done.map_err(|error| refused(&error))
}

fn answer(outcome: Result<(), Refused>) -> (i16, Option<String>) {
    match outcome {
        Ok(()) => (0, None),
        Err((code, message)) => (code.into(), Some(message)),
    }
}

#[cfg(test)]
mod tests {
    use super::list;

    #[test]
    fn words_of_a_list_come_and_go() {
        assert_eq!(list("delete", "compact", true), "delete,compact");
        assert_eq!(list("compact, delete", "delete", false), "compact");
        assert_eq!(list("", "a,b", true), "a,b");
        assert_eq!(list("a", "a", true), "a");
    }
}
