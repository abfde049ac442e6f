//! What Kafka's admin tools ask beside topics and settings, on the wire.

#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

use levee_kafka::messages::alter_client_quotas_request as alter_quotas;
use levee_kafka::messages::alter_client_quotas_request::AlterClientQuotasRequest;
use levee_kafka::messages::alter_partition_reassignments_request::{
    AlterPartitionReassignmentsRequest, ReassignablePartition, ReassignableTopic,
};
use levee_kafka::messages::alter_replica_log_dirs_request::{
    AlterReplicaLogDir, AlterReplicaLogDirTopic, AlterReplicaLogDirsRequest,
};
use levee_kafka::messages::alter_user_scram_credentials_request::{
    AlterUserScramCredentialsRequest, ScramCredentialDeletion, ScramCredentialUpsertion,
};
use levee_kafka::messages::create_acls_request::{AclCreation, CreateAclsRequest};
use levee_kafka::messages::delete_acls_request::{DeleteAclsFilter, DeleteAclsRequest};
use levee_kafka::messages::describe_acls_request::DescribeAclsRequest;
use levee_kafka::messages::describe_client_quotas_request::{
    ComponentData, DescribeClientQuotasRequest,
};
use levee_kafka::messages::describe_log_dirs_request::{
    DescribableLogDirTopic, DescribeLogDirsRequest,
};
use levee_kafka::messages::describe_quorum_request as quorum;
use levee_kafka::messages::describe_topic_partitions_request::{
    Cursor, DescribeTopicPartitionsRequest, TopicRequest,
};
use levee_kafka::messages::describe_user_scram_credentials_request::{
    DescribeUserScramCredentialsRequest, UserName,
};
use levee_kafka::messages::elect_leaders_request::{ElectLeadersRequest, TopicPartitions};
use levee_kafka::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig, IncrementalAlterConfigsRequest,
};
use levee_kafka::messages::list_config_resources_request::ListConfigResourcesRequest;
use levee_kafka::messages::list_partition_reassignments_request::ListPartitionReassignmentsRequest;
use levee_kafka::messages::update_features_request::{FeatureUpdateKey, UpdateFeaturesRequest};
use levee_kafka::{ErrorCode, Uuid};
use levee_tests::kafka::{Wire, batch};
use levee_tests::process::Broker;

async fn start(more: &[&str]) -> (tempfile::TempDir, Broker, Wire) {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::dev(dir.path(), more).await;
    let wire = Wire::connect(&broker.kafka).await;
    (dir, broker, wire)
}

fn code(code: ErrorCode) -> i16 {
    code.into()
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_are_described_in_pages() {
    let (_dir, _broker, mut wire) = start(&[]).await;
    wire.create("b", 3, &[]).await;
    wire.create("a", 2, &[]).await;
    let topics = |names: &[&str]| -> Vec<TopicRequest> {
        names.iter().map(|name| TopicRequest { name: (*name).to_owned() }).collect()
    };
    let ask = |names: &[&str], limit, cursor: Option<(&str, i32)>| DescribeTopicPartitionsRequest {
        topics: topics(names),
        response_partition_limit: limit,
        cursor: cursor.map(|(topic_name, partition_index)| Cursor {
            topic_name: topic_name.to_owned(),
            partition_index,
        }),
    };
    let all = wire.ask(0, &ask(&[], 2000, None)).await;
    let names: Vec<_> = all.topics.iter().map(|topic| topic.name.as_deref().unwrap()).collect();
    assert_eq!(names, ["a", "b"]);
    assert!(all.next_cursor.is_none());
    let b = &all.topics[1];
    assert!(b.error_code == 0 && b.topic_id != Uuid::ZERO && !b.is_internal);
    assert!(b.topic_authorized_operations > 0);
    for (at, partition) in b.partitions.iter().enumerate() {
        assert_eq!((partition.error_code, partition.partition_index), (0, at as i32));
        assert_eq!(partition.replica_nodes, [partition.leader_id]);
        assert_eq!(partition.isr_nodes, [partition.leader_id]);
        assert!(partition.leader_epoch >= 1 && partition.offline_replicas.is_empty());
    }
    // Page by page: each partition once, in order.
    for limit in 1..=6 {
        let (mut seen, mut cursor) = (Vec::new(), None);
        loop {
            let from = cursor.as_ref().map(|(topic, at): &(String, i32)| (topic.as_str(), *at));
            let page = wire.ask(0, &ask(&["b", "a"], limit, from)).await;
            let before = seen.len();
            for topic in &page.topics {
                let name = topic.name.clone().unwrap();
                let numbers = topic.partitions.iter().map(|p| (name.clone(), p.partition_index));
                seen.extend(numbers);
            }
            assert!(seen.len() - before <= limit as usize);
            let Some(next) = page.next_cursor else { break };
            cursor = Some((next.topic_name, next.partition_index));
        }
        let whole: Vec<_> = [("a", 0), ("a", 1), ("b", 0), ("b", 1), ("b", 2)].into();
        assert!(seen.iter().map(|(name, at)| (name.as_str(), *at)).eq(whole), "{limit}: {seen:?}");
    }
    // A limit of nothing is one.
    let page = wire.ask(0, &ask(&["a"], 0, None)).await;
    assert_eq!(
        (page.topics[0].partitions.len(), page.next_cursor.unwrap().partition_index),
        (1, 1)
    );
    // What is not there, and what cannot be.
    let page = wire.ask(0, &ask(&["c", "no/name", "a"], 10, None)).await;
    let codes: Vec<_> = page.topics.iter().map(|topic| topic.error_code).collect();
    let (unknown, invalid) = (ErrorCode::UnknownTopicOrPartition, ErrorCode::InvalidTopic);
    assert_eq!(codes, [0, code(unknown), code(invalid)]);
    // Cursors that lead nowhere.
    for cursor in [("c", 0), ("a", -1)] {
        let page = wire.ask(0, &ask(&["a", "b"], 10, Some(cursor))).await;
        let wrong = code(ErrorCode::InvalidRequest);
        assert_eq!(page.topics.len(), 2);
        assert!(page.topics.iter().all(|topic| topic.error_code == wrong), "{cursor:?}");
    }
    let page = wire.ask(0, &ask(&["b"], 10, Some(("b", 99)))).await;
    assert!(page.topics[0].partitions.is_empty() && page.next_cursor.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_settings_can_be_listed() {
    let (_dir, _broker, mut wire) = start(&["--set", "broker.id=7"]).await;
    wire.create("a", 1, &[]).await;
    let ask = |resource_types: &[i8]| ListConfigResourcesRequest {
        resource_types: resource_types.to_vec(),
    };
    let all = wire.ask(1, &ask(&[])).await;
    let named = |answer: &levee_kafka::messages::list_config_resources_response::ListConfigResourcesResponse| -> Vec<(i8, String)> {
        answer.config_resources.iter().map(|r| (r.resource_type, r.resource_name.clone())).collect()
    };
    assert_eq!(named(&all), [(2, "a".to_owned()), (4, "7".to_owned())]);
    assert_eq!(named(&wire.ask(1, &ask(&[4])).await), [(4, "7".to_owned())]);
    assert_eq!(named(&wire.ask(1, &ask(&[8, 16, 32])).await), []);
    assert_eq!(named(&wire.ask(0, &ask(&[])).await), []);
    let unknown = wire.ask(1, &ask(&[2, 99])).await;
    assert_eq!(unknown.error_code, code(ErrorCode::UnsupportedVersion));
    assert!(unknown.config_resources.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_data_folder_is_the_one_log_directory() {
    let (dir, _broker, mut wire) = start(&[]).await;
    wire.create("a", 2, &[]).await;
    wire.create("b", 1, &[]).await;
    let bytes = batch(100);
    assert_eq!(wire.produce("a", 1, bytes.clone()).await.error_code, 0);
    let all = DescribeLogDirsRequest { topics: None };
    for version in 1..=5 {
        let answer = wire.ask(version, &all).await;
        let [folder] = answer.results.as_slice() else { panic!("{answer:?}") };
        assert_eq!((answer.error_code, folder.error_code), (0, 0));
        assert_eq!(folder.log_dir, dir.path().to_str().unwrap());
        let of = |topic: &str, partition: i32| {
            let topic = folder.topics.iter().find(|t| t.name == topic).unwrap();
            let found = topic.partitions.iter().find(|p| p.partition_index == partition).unwrap();
            (found.partition_size, found.offset_lag, found.is_future_key)
        };
        assert_eq!(of("a", 0), (0, 0, false));
        assert_eq!(of("b", 0), (0, 0, false));
        // Wherever its bytes are now.
        assert_eq!(of("a", 1), (bytes.len() as i64, 0, false));
        if version >= 4 {
            assert!(0 < folder.usable_bytes && folder.usable_bytes <= folder.total_bytes);
        }
    }
    let topic = "a".to_owned();
    let some = DescribeLogDirsRequest {
        topics: Some(vec![DescribableLogDirTopic { topic, partitions: vec![1, 9] }]),
    };
    let answer = wire.ask(5, &some).await;
    let [topic] = answer.results[0].topics.as_slice() else { panic!("{answer:?}") };
    assert_eq!((topic.name.as_str(), topic.partitions.len()), ("a", 1));
    let none = DescribeLogDirsRequest { topics: Some(Vec::new()) };
    assert!(wire.ask(5, &none).await.results[0].topics.is_empty());

    let moved = |path: &str, name: &str, partition| AlterReplicaLogDirsRequest {
        dirs: vec![AlterReplicaLogDir {
            path: path.to_owned(),
            topics: vec![AlterReplicaLogDirTopic {
                name: name.to_owned(),
                partitions: vec![partition],
            }],
        }],
    };
    let folder = dir.path().to_str().unwrap();
    let unknown = code(ErrorCode::UnknownTopicOrPartition);
    for (path, topic, partition, wanted) in [
        (folder, "a", 1, 0),
        (&format!("{folder}/"), "a", 1, 0),
        (folder, "a", 9, unknown),
        (folder, "c", 0, unknown),
        ("/elsewhere", "a", 1, code(ErrorCode::LogDirNotFound)),
    ] {
        let answer = wire.ask(2, &moved(path, topic, partition)).await;
        let result = &answer.results[0];
        assert_eq!(result.topic_name, topic);
        assert_eq!(result.partitions[0].error_code, wanted, "{path} {topic} {partition}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_nobody_to_elect_and_nothing_to_reassign() {
    let (_dir, _broker, mut wire) = start(&["--set", "broker.id=3"]).await;
    wire.create("a", 2, &[]).await;
    let of = |topic: &str, partitions: &[i32]| TopicPartitions {
        topic: topic.to_owned(),
        partitions: partitions.to_vec(),
    };
    let elect = |election_type, topic_partitions| ElectLeadersRequest {
        election_type,
        topic_partitions,
        timeout_ms: 1000,
    };
    let unknown = code(ErrorCode::UnknownTopicOrPartition);
    let not_needed = code(ErrorCode::ElectionNotNeeded);
    let named = Some(vec![of("a", &[0, 1, 9]), of("b", &[0])]);
    for version in 0..=2 {
        let answer = wire.ask(version, &elect(0, named.clone())).await;
        let results = &answer.replica_election_results;
        let codes = |at: usize| -> Vec<i16> {
            results[at].partition_result.iter().map(|result| result.error_code).collect()
        };
        assert_eq!(answer.error_code, 0);
        assert_eq!(codes(0), [not_needed, not_needed, unknown]);
        assert_eq!(codes(1), [unknown]);
    }
    // All: only what went wrong.
    let answer = wire.ask(2, &elect(1, None)).await;
    assert!(answer.replica_election_results.is_empty(), "{answer:?}");
    let answer = wire.ask(2, &elect(5, Some(vec![of("a", &[0])]))).await;
    let result = &answer.replica_election_results[0].partition_result[0];
    assert_eq!(result.error_code, code(ErrorCode::InvalidRequest));

    let wrong = code(ErrorCode::InvalidReplicaAssignment);
    for (partition_index, replicas, wanted) in [
        (0, Some(vec![3]), 0),
        (1, Some(vec![4]), wrong),
        (1, Some(vec![3, 4]), wrong),
        (1, Some(vec![3, 3]), wrong),
        (1, Some(vec![]), wrong),
        (1, None, code(ErrorCode::NoReassignmentInProgress)),
        (2, Some(vec![3]), unknown),
        (-1, None, unknown),
    ] {
        let partition = ReassignablePartition { partition_index, replicas: replicas.clone() };
        let topic = ReassignableTopic { name: "a".into(), partitions: vec![partition] };
        let request =
            AlterPartitionReassignmentsRequest { topics: vec![topic], ..Default::default() };
        for version in 0..=1 {
            let answer = wire.ask(version, &request).await;
            let result = &answer.responses[0].partitions[0];
            assert_eq!((answer.error_code, result.error_code), (0, wanted), "{replicas:?}");
            assert_eq!(result.error_message.is_some(), wanted != 0);
        }
    }
    let answer = wire.ask(0, &ListPartitionReassignmentsRequest::default()).await;
    assert!(answer.error_code == 0 && answer.topics.is_empty());

    // What Kafka's tool takes away in the end, set or not, and what nobody can change.
    const TOPIC: i8 = 2;
    const BROKER: i8 = 4;
    for (resource_type, name, key, wanted) in [
        (BROKER, "3", "leader.replication.throttled.rate", 0),
        (BROKER, "3", "replica.alter.log.dirs.io.max.bytes.per.second", 0),
        (TOPIC, "a", "follower.replication.throttled.replicas", 0),
        (TOPIC, "b", "follower.replication.throttled.replicas", unknown),
        (BROKER, "3", "upload.interval", code(ErrorCode::InvalidRequest)),
    ] {
        let config =
            AlterableConfig { name: key.to_owned(), config_operation: 1, ..Default::default() };
        let resource_name = name.to_owned();
        let resource = AlterConfigsResource { resource_type, resource_name, configs: vec![config] };
        let request =
            IncrementalAlterConfigsRequest { resources: vec![resource], validate_only: false };
        let answer = wire.ask(1, &request).await;
        assert_eq!(answer.responses[0].error_code, wanted, "{name} {key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn acls_are_those_of_a_broker_without_an_authorizer() {
    let (_dir, _broker, mut wire) = start(&[]).await;
    let disabled = code(ErrorCode::SecurityDisabled);
    for version in 1..=3 {
        let any = DescribeAclsRequest {
            resource_type_filter: 1,
            pattern_type_filter: 1,
            operation: 1,
            permission_type: 1,
            ..Default::default()
        };
        let answer = wire.ask(version, &any).await;
        assert_eq!(answer.error_code, disabled);
        assert!(answer.error_message.is_some() && answer.resources.is_empty());
        let one = AclCreation {
            resource_type: 2,
            resource_name: "a".into(),
            principal: "User:a".into(),
            host: "*".into(),
            operation: 3,
            permission_type: 3,
            ..Default::default()
        };
        let two = CreateAclsRequest { creations: vec![one; 2] };
        let results = wire.ask(version, &two).await.results;
        assert_eq!(results.iter().map(|r| r.error_code).collect::<Vec<_>>(), [disabled; 2]);
        let two = DeleteAclsRequest { filters: vec![DeleteAclsFilter::default(); 2] };
        let results = wire.ask(version, &two).await.filter_results;
        assert_eq!(results.iter().map(|r| r.error_code).collect::<Vec<_>>(), [disabled; 2]);
    }
}

type Names<'a> = &'a [(&'a str, Option<&'a str>)];

fn quota(names: Names<'_>, ops: &[(&str, Option<f64>)]) -> alter_quotas::EntryData {
    let entity = |(kind, name): &(&str, Option<&str>)| alter_quotas::EntityData {
        entity_type: (*kind).to_owned(),
        entity_name: name.map(str::to_owned),
    };
    let op = |(key, value): &(&str, Option<f64>)| alter_quotas::OpData {
        key: (*key).to_owned(),
        value: value.unwrap_or_default(),
        remove: value.is_none(),
    };
    alter_quotas::EntryData {
        entity: names.iter().map(entity).collect(),
        ops: ops.iter().map(op).collect(),
    }
}

async fn alter(wire: &mut Wire, entries: Vec<alter_quotas::EntryData>) -> Vec<i16> {
    let request = AlterClientQuotasRequest { entries, validate_only: false };
    let answer = wire.ask(1, &request).await;
    answer.entries.iter().map(|entry| entry.error_code).collect()
}

/// Entities that a filter finds, as text.
async fn quotas(
    wire: &mut Wire,
    filter: &[(&str, i8, Option<&str>)],
    strict: bool,
) -> Result<Vec<String>, i16> {
    let component = |(kind, match_type, matches): &(&str, i8, Option<&str>)| ComponentData {
        entity_type: (*kind).to_owned(),
        match_type: *match_type,
        matches: matches.map(str::to_owned),
    };
    let components = filter.iter().map(component).collect();
    let answer = wire.ask(1, &DescribeClientQuotasRequest { components, strict }).await;
    let Some(entries) = answer.entries else { return Err(answer.error_code) };
    let mut found = Vec::new();
    for entry in entries {
        let mut text = String::new();
        for name in entry.entity {
            text +=
                &format!("{}={} ", name.entity_type, name.entity_name.as_deref().unwrap_or("*"));
        }
        for value in entry.values {
            text += &format!("{}:{} ", value.key, value.value);
        }
        found.push(text.trim().to_owned());
    }
    found.sort();
    Ok(found)
}

#[tokio::test(flavor = "multi_thread")]
async fn quotas_are_kept_and_found() {
    const EXACT: i8 = 0;
    const DEFAULT: i8 = 1;
    const ANY: i8 = 2;
    let (_dir, mut broker, mut wire) = start(&[]).await;
    let rate = ("producer_byte_rate", Some(1024.0));
    let share = ("request_percentage", Some(12.5));
    let set = vec![
        quota(&[("user", Some("ann"))], &[rate, share]),
        quota(&[("user", None)], &[rate]),
        quota(&[("user", Some("ann")), ("client-id", Some("app"))], &[rate]),
        quota(&[("client-id", None)], &[rate]),
        quota(&[("ip", Some("192.0.2.1"))], &[("connection_creation_rate", Some(5.0))]),
    ];
    assert_eq!(alter(&mut wire, set).await, [0; 5]);
    // What was acknowledged is there after a kill.
    broker.kill9().await;
    broker.restart().await;
    let mut wire = Wire::connect(&broker.kafka).await;
    let ann = "user=ann producer_byte_rate:1024 request_percentage:12.5";
    let everybody = "user=* producer_byte_rate:1024";
    let both = "client-id=app user=ann producer_byte_rate:1024";
    let apps = "client-id=* producer_byte_rate:1024";
    let address = "ip=192.0.2.1 connection_creation_rate:5";
    let sorted = |names: &[&str]| {
        let mut names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        names.sort();
        Ok(names)
    };
    for (filter, strict, found) in [
        (&[][..], false, sorted(&[ann, everybody, both, apps, address])),
        (&[], true, sorted(&[])),
        (&[("user", EXACT, Some("ann"))], false, sorted(&[ann, both])),
        (&[("user", EXACT, Some("ann"))], true, sorted(&[ann])),
        (&[("user", EXACT, Some("bob"))], false, sorted(&[])),
        (&[("user", DEFAULT, None)], true, sorted(&[everybody])),
        (&[("user", ANY, None)], false, sorted(&[ann, everybody, both])),
        (&[("user", ANY, None)], true, sorted(&[ann, everybody])),
        (&[("user", ANY, None), ("client-id", ANY, None)], true, sorted(&[both])),
        (&[("user", DEFAULT, None), ("client-id", ANY, None)], false, sorted(&[])),
        (&[("ip", ANY, None)], true, sorted(&[address])),
        (&[("user", EXACT, None)], true, Err(code(ErrorCode::InvalidRequest))),
        (&[("user", DEFAULT, Some("ann"))], true, Err(code(ErrorCode::InvalidRequest))),
        (&[("user", 3, None)], true, Err(code(ErrorCode::InvalidRequest))),
        (&[("user", ANY, None), ("user", ANY, None)], true, Err(code(ErrorCode::InvalidRequest))),
        (&[("user", ANY, None), ("ip", ANY, None)], true, Err(code(ErrorCode::InvalidRequest))),
        (&[("group", ANY, None)], true, Err(code(ErrorCode::UnsupportedVersion))),
    ] {
        assert_eq!(quotas(&mut wire, filter, strict).await, found, "{filter:?} {strict}");
    }
    // Bad ones hold no good one back.
    let user: Names<'_> = &[("user", Some("ann"))];
    let bad = vec![
        quota(&[], &[rate]),
        quota(&[("group", Some("a"))], &[rate]),
        quota(&[("user", Some(""))], &[rate]),
        quota(&[("user", Some("a")), ("user", Some("b"))], &[rate]),
        quota(&[("user", Some("a")), ("ip", Some("192.0.2.1"))], &[rate]),
        quota(&[("ip", Some("no address"))], &[("connection_creation_rate", Some(1.0))]),
        quota(user, &[("producer_byte_rate", Some(-1.0))]),
        quota(user, &[("producer_byte_rate", Some(f64::NAN))]),
        quota(user, &[("producer_byte_rate", Some(0.5))]),
        quota(user, &[("no_such_rate", Some(1.0))]),
        quota(user, &[rate, ("producer_byte_rate", None)]),
        quota(user, &[("producer_byte_rate", None)]),
    ];
    let mut wanted = [code(ErrorCode::InvalidRequest); 12];
    wanted[11] = 0;
    assert_eq!(alter(&mut wire, bad).await, wanted);
    let ann = "user=ann request_percentage:12.5";
    let found = quotas(&mut wire, &[("user", EXACT, Some("ann"))], true).await;
    assert_eq!(found, sorted(&[ann]));
    // Only tried.
    let only_tried = |entry| AlterClientQuotasRequest { entries: vec![entry], validate_only: true };
    let tried = wire.ask(1, &only_tried(quota(user, &[share, rate]))).await;
    assert_eq!(tried.entries[0].error_code, 0);
    let tried = wire.ask(0, &only_tried(quota(user, &[("x", Some(1.0))]))).await;
    assert_eq!(tried.entries[0].error_code, code(ErrorCode::InvalidRequest));
    assert_eq!(tried.entries[0].entity[0].entity_name.as_deref(), Some("ann"));
    let found = quotas(&mut wire, &[("user", EXACT, Some("ann"))], true).await;
    assert_eq!(found, sorted(&[ann]));
    // The last of an entity takes it away.
    assert_eq!(alter(&mut wire, vec![quota(user, &[("request_percentage", None)])]).await, [0]);
    assert_eq!(quotas(&mut wire, &[("user", EXACT, Some("ann"))], true).await, sorted(&[]));
}

fn upsert(name: &str, mechanism: i8, iterations: i32) -> ScramCredentialUpsertion {
    let bytes = if mechanism == 2 { 64 } else { 32 };
    ScramCredentialUpsertion {
        name: name.to_owned(),
        mechanism,
        iterations,
        salt: b"a salt of 16 byt".to_vec().into(),
        salted_password: vec![b'S'; bytes].into(),
    }
}

fn delete(name: &str, mechanism: i8) -> ScramCredentialDeletion {
    ScramCredentialDeletion { name: name.to_owned(), mechanism }
}

/// The code for each user.
async fn change(
    wire: &mut Wire,
    deletions: Vec<ScramCredentialDeletion>,
    upsertions: Vec<ScramCredentialUpsertion>,
) -> Vec<(String, i16)> {
    let answer = wire.ask(0, &AlterUserScramCredentialsRequest { deletions, upsertions }).await;
    assert!(answer.results.iter().all(|r| r.error_message.is_some() == (r.error_code != 0)));
    answer.results.into_iter().map(|result| (result.user, result.error_code)).collect()
}

/// Code, and mechanism and iterations of each credential.
async fn credentials(
    wire: &mut Wire,
    users: Option<&[&str]>,
) -> Vec<(String, i16, Vec<(i8, i32)>)> {
    let name = |name: &&str| UserName { name: (*name).to_owned() };
    let users = users.map(|users| users.iter().map(name).collect());
    let answer = wire.ask(0, &DescribeUserScramCredentialsRequest { users }).await;
    assert_eq!(answer.error_code, 0);
    let row = |result: levee_kafka::messages::describe_user_scram_credentials_response::DescribeUserScramCredentialsResult| {
        let infos = result.credential_infos.iter().map(|info| (info.mechanism, info.iterations));
        (result.user.clone(), result.error_code, infos.collect())
    };
    answer.results.into_iter().map(row).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_kept_without_what_could_log_in() {
    let (dir, mut broker, mut wire) = start(&[]).await;
    let both = vec![upsert("ann", 1, 4096), upsert("ann", 2, 8192), upsert("bob", 1, 16_384)];
    let done = [("ann".to_owned(), 0), ("bob".to_owned(), 0)];
    assert_eq!(change(&mut wire, vec![], both).await, done);
    broker.kill9().await;
    broker.restart().await;
    let mut wire = Wire::connect(&broker.kafka).await;
    let ann = ("ann".to_owned(), 0, vec![(1, 4096), (2, 8192)]);
    let bob = ("bob".to_owned(), 0, vec![(1, 16_384)]);
    let everybody = vec![ann.clone(), bob.clone()];
    assert_eq!(credentials(&mut wire, None).await, everybody);
    assert_eq!(credentials(&mut wire, Some(&[])).await, everybody);
    let missing = |name: &str| (name.to_owned(), code(ErrorCode::ResourceNotFound), vec![]);
    let twice = |name: &str| (name.to_owned(), code(ErrorCode::DuplicateResource), vec![]);
    assert_eq!(
        credentials(&mut wire, Some(&["bob", "carl", "ann", "ann"])).await,
        [twice("ann"), bob, missing("carl")]
    );
    // One of each thing that is wrong.
    for (deletions, upsertions, wanted) in [
        (vec![], vec![upsert("eve", 1, 4095)], ErrorCode::UnacceptableCredential),
        (vec![], vec![upsert("eve", 1, 16_385)], ErrorCode::UnacceptableCredential),
        (vec![], vec![upsert("", 1, 4096)], ErrorCode::UnacceptableCredential),
        (vec![delete("", 1)], vec![], ErrorCode::UnacceptableCredential),
        (vec![], vec![upsert("eve", 3, 4096)], ErrorCode::UnsupportedSaslMechanism),
        (vec![delete("ann", 0)], vec![], ErrorCode::UnsupportedSaslMechanism),
        (vec![delete("eve", 1)], vec![], ErrorCode::ResourceNotFound),
        (vec![delete("bob", 2)], vec![], ErrorCode::ResourceNotFound),
        (vec![delete("ann", 1); 2], vec![], ErrorCode::DuplicateResource),
        (vec![], vec![upsert("eve", 1, 4096); 2], ErrorCode::DuplicateResource),
        (vec![delete("ann", 1)], vec![upsert("ann", 1, 4096)], ErrorCode::DuplicateResource),
        // What is right is not done either: it is the same user.
        (vec![delete("ann", 1)], vec![upsert("ann", 2, 1)], ErrorCode::UnacceptableCredential),
    ] {
        let said = format!("{deletions:?} {upsertions:?}");
        let codes = change(&mut wire, deletions, upsertions).await;
        assert_eq!(codes.len(), 1, "{said}");
        assert_eq!(codes[0].1, code(wanted), "{said}");
    }
    assert_eq!(credentials(&mut wire, None).await, everybody);
    // One user's mistake is nobody else's.
    let codes = change(&mut wire, vec![delete("eve", 1), delete("bob", 1)], vec![]).await;
    let gone = [("bob".to_owned(), 0), ("eve".to_owned(), code(ErrorCode::ResourceNotFound))];
    assert_eq!(codes, gone);
    assert_eq!(credentials(&mut wire, None).await, [ann]);
    // The salted password is in no file and no log.
    drop(wire);
    assert_eq!(broker.terminate().await, Some(0));
    let secret = "SSSSSSSSSSSSSSSS";
    assert!(!broker.log().contains(secret));
    let mut folders = vec![dir.path().to_owned()];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let bytes = std::fs::read(&path).unwrap();
            let found = bytes.windows(secret.len()).any(|part| part == secret.as_bytes());
            assert!(!found, "{}", path.display());
            files += 1;
        }
    }
    assert!(files > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_quorum_is_the_controller() {
    let (_dir, _broker, mut wire) = start(&["--set", "broker.id=5"]).await;
    wire.create("a", 1, &[]).await;
    let of = |name: &str, partition_index| quorum::DescribeQuorumRequest {
        topics: vec![quorum::TopicData {
            topic_name: name.to_owned(),
            partitions: vec![quorum::PartitionData { partition_index }],
        }],
    };
    let mut last = 0;
    for version in 0..=2 {
        let answer = wire.ask(version, &of("__cluster_metadata", 0)).await;
        let log = &answer.topics[0].partitions[0];
        assert_eq!((answer.error_code, log.error_code, log.leader_id), (0, 0, 5));
        assert_eq!((log.current_voters.len(), log.observers.len()), (1, 0));
        assert_eq!(log.current_voters[0].replica_id, 5);
        assert_eq!(log.current_voters[0].log_end_offset, log.high_watermark);
        assert!(log.leader_epoch >= 1 && log.high_watermark > 0 && log.high_watermark >= last);
        last = log.high_watermark;
        if version >= 2 {
            assert_ne!(log.current_voters[0].replica_directory_id, Uuid::ZERO);
            assert_eq!((answer.nodes[0].node_id, answer.nodes[0].listeners.len()), (5, 1));
        }
    }
    let unknown = code(ErrorCode::UnknownTopicOrPartition);
    for (topic, partition) in [("a", 0), ("__cluster_metadata", 1)] {
        let answer = wire.ask(2, &of(topic, partition)).await;
        assert_eq!(answer.topics[0].partitions[0].error_code, unknown);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn levels_of_features_cannot_be_changed() {
    let (_dir, _broker, mut wire) = start(&[]).await;
    let failed = code(ErrorCode::FeatureUpdateFailed);
    for validate_only in [false, true] {
        let update = FeatureUpdateKey {
            feature: "metadata.version".into(),
            max_version_level: 30,
            ..Default::default()
        };
        let request = UpdateFeaturesRequest {
            feature_updates: vec![update],
            validate_only,
            ..Default::default()
        };
        for version in 0..=1 {
            let request = UpdateFeaturesRequest {
                validate_only: validate_only && version >= 1,
                ..request.clone()
            };
            let answer = wire.ask(version, &request).await;
            assert_eq!((answer.error_code, answer.results[0].error_code), (0, failed));
            assert_eq!(answer.results[0].feature, "metadata.version");
        }
        let answer = wire.ask(2, &request).await;
        assert_eq!(answer.error_code, failed);
        assert!(answer.error_message.unwrap().contains("metadata.version"));
    }
    assert_eq!(wire.ask(2, &UpdateFeaturesRequest::default()).await.error_code, 0);
}
