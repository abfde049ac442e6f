//! The Kafka protocol, byte by byte: what clients trip over when a broker gets it wrong.

#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use levee_client::Client;
use levee_client::grpc::ReadRequest;
use levee_kafka::messages::api_versions_request::ApiVersionsRequest;
use levee_kafka::messages::api_versions_response::ApiVersionsResponse;
use levee_kafka::messages::create_topics_request::{CreatableTopic, CreateTopicsRequest};
use levee_kafka::messages::delete_topics_request::{DeleteTopicState, DeleteTopicsRequest};
use levee_kafka::messages::describe_configs_request::{
    DescribeConfigsRequest, DescribeConfigsResource,
};
use levee_kafka::messages::fetch_request::{FetchRequest, ForgottenTopic};
use levee_kafka::messages::init_producer_id_request::InitProducerIdRequest;
use levee_kafka::messages::list_offsets_request::{
    ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic,
};
use levee_kafka::messages::metadata_request::{MetadataRequest, MetadataRequestTopic};
use levee_kafka::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderEpochRequest, OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use levee_kafka::{ErrorCode, Message, Reader, Uuid};
use levee_proto::record::BatchHeader;
use levee_proto::record::codecs::Compression;
use levee_proto::record::records::{BatchBuilder, RecordData, decode_records};
use levee_tests::kafka::{Wire, batch, batch_of, fetch, produce, stamped};
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

fn versions() -> ApiVersionsRequest {
    ApiVersionsRequest {
        client_software_name: "test".into(),
        client_software_version: "1.0".into(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_client_learns_the_versions_before_anything_else() {
    let (_dir, broker, mut wire) = start(&[]).await;
    for version in 0..=4 {
        let answer = wire.ask(version, &versions()).await;
        assert_eq!(answer.error_code, 0);
        let of = |key: i16| answer.api_keys.iter().find(|api| api.api_key == key).unwrap();
        // Old librdkafka takes compression away without these (KAFKA-18659).
        assert_eq!((of(0).min_version, of(2).min_version), (0, 1));
        // And others take away LZ4, idempotence or ways to authenticate without these.
        assert_eq!((of(10).min_version, of(11).min_version, of(22).min_version), (0, 0, 0));
        // What lets clients leave AddPartitionsToTxn out, all or nothing.
        if version >= 3 {
            let of = |name| answer.finalized_features.iter().find(|f| f.name == name).unwrap();
            assert_eq!(of("transaction.version").max_version_level, 2);
            assert_eq!(of("group.version").max_version_level, 1);
        }
        assert!(answer.api_keys.is_sorted_by_key(|api| api.api_key));
    }
    // A version that nobody knows yet: version 0 of the answer, and what there is.
    wire.send(9, &versions()).await;
    let mut answer = Reader::new(wire.receive_raw().await.unwrap());
    answer.i32().unwrap();
    let answer = ApiVersionsResponse::decode(&mut answer, 0).unwrap();
    assert_eq!(answer.error_code, code(ErrorCode::UnsupportedVersion));
    assert_eq!((answer.api_keys[0].api_key, answer.api_keys[0].max_version), (18, 4));
    // And the connection goes on.
    assert_eq!(wire.ask(4, &versions()).await.error_code, 0);
    let strange = ApiVersionsRequest { client_software_name: "a b".into(), ..versions() };
    assert_eq!(wire.ask(3, &strange).await.error_code, code(ErrorCode::InvalidRequest));
    drop(broker);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_request_ends_the_connection_and_nothing_else() {
    let (_dir, broker, _) = start(&["--set", "kafka.idle.timeout=3s"]).await;
    let good = |key: i16, version: i16| {
        let mut frame = vec![0, 0, 0, 10];
        frame.extend(key.to_be_bytes());
        frame.extend(version.to_be_bytes());
        frame.extend([0, 0, 0, 1, 0xff, 0xff]);
        frame
    };
    let strangers: Vec<(&str, Vec<u8>)> = vec![
        ("HTTP", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec()),
        ("TLS", vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3, 0, 0, 0]),
        ("a negative length", vec![0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        ("a length of nothing", vec![0; 14]),
        ("a huge length", vec![0x7f, 0xff, 0xff, 0xff, 0, 3, 0, 1, 0, 0, 0, 1, 0xff, 0xff]),
        ("an API that nobody knows", good(999, 0)),
        ("an API of brokers", good(4, 0)),
        ("a version of produce that is gone", good(0, 2)),
        ("a version that is not there yet", good(3, 99)),
        ("a body that is cut", good(19, 2)),
        // 2^31 topics: the allocation that brought others down.
        ("a count that nothing follows", {
            let mut frame = good(3, 1);
            frame[3] = 14;
            frame.extend([0x7f, 0xff, 0xff, 0xff]);
            frame
        }),
    ];
    for (what, bytes) in strangers {
        let mut stranger = Wire::connect(&broker.kafka).await;
        stranger.send_raw(&bytes).await;
        assert!(stranger.is_closed().await, "{what}");
    }
    // Half a frame, and silence.
    let mut slow = Wire::connect(&broker.kafka).await;
    slow.send_raw(&[0, 0, 0, 50, 0, 3]).await;
    let began = Instant::now();
    assert!(slow.is_closed().await);
    assert!(began.elapsed() < Duration::from_secs(30));
    // One that says nothing after its first request.
    let mut idle = Wire::connect(&broker.kafka).await;
    idle.ask(4, &versions()).await;
    assert!(idle.is_closed().await);
    assert_eq!(Wire::connect(&broker.kafka).await.ask(4, &versions()).await.error_code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_behind_a_request_are_read_over() {
    let (_dir, _broker, mut wire) = start(&[]).await;
    wire.create("a", 1, &[]).await;
    // As librdkafka 2.16 asks for all topics, byte for byte: the null array takes four bytes.
    let mut request = vec![0, 0, 0, 25, 0, 3, 0, 13, 0, 0, 0, 2, 0, 7];
    request.extend(b"rdkafka");
    request.extend([0, 0, 0, 0, 0, 1, 0, 0]);
    wire.send_raw(&request).await;
    let (correlation, all) = wire.receive::<MetadataRequest>(13).await;
    assert_eq!((correlation, all.topics.len()), (2, 1));
    assert_eq!(all.topics[0].name.as_deref(), Some("a"));
    // And the connection goes on.
    assert_eq!(wire.ask(4, &versions()).await.error_code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_says_what_is_there_and_creates_what_both_sides_want() {
    let (_dir, _broker, mut wire) = start(&["--set", "default.partitions=3"]).await;
    wire.create("a", 2, &[]).await;
    let named = |name: &str, allow_auto_topic_creation| MetadataRequest {
        topics: Some(vec![MetadataRequestTopic { name: Some(name.into()), ..Default::default() }]),
        allow_auto_topic_creation,
        ..Default::default()
    };
    let all = MetadataRequest { topics: None, ..Default::default() };
    let none = MetadataRequest { topics: Some(Vec::new()), ..Default::default() };
    let answer = wire.ask(12, &all).await;
    assert_eq!(answer.topics.len(), 1);
    assert_eq!(answer.cluster_id.as_ref().unwrap().len(), 22);
    let live: Vec<i32> = answer.brokers.iter().map(|broker| broker.node_id).collect();
    assert!(live.contains(&answer.controller_id), "the controller is one of the brokers");
    let topic = &answer.topics[0];
    assert!(!topic.topic_id.is_zero() && !topic.is_internal);
    assert!(topic.partitions.iter().all(|p| live.contains(&p.leader_id) && p.leader_epoch >= 0));
    assert_eq!(topic.partitions[0].replica_nodes, [topic.partitions[0].leader_id]);
    // An empty list: all in version 0, none from 1 on.
    assert_eq!(wire.ask(0, &none).await.topics.len(), 1);
    assert_eq!(wire.ask(1, &none).await.topics.len(), 0);
    // Wanted by nobody, then by the client too.
    let answer = wire.ask(12, &named("b", false)).await;
    assert_eq!(answer.topics[0].error_code, code(ErrorCode::UnknownTopicOrPartition));
    let answer = wire.ask(12, &named("b", true)).await;
    assert_eq!((answer.topics[0].error_code, answer.topics[0].partitions.len()), (0, 3));
    let answer = wire.ask(12, &named("no/name", true)).await;
    assert_eq!(answer.topics[0].error_code, code(ErrorCode::InvalidTopic));
    // By id, and an id that is nobody's.
    let by_id = |topic_id| MetadataRequest {
        topics: Some(vec![MetadataRequestTopic { topic_id, name: None }]),
        ..Default::default()
    };
    let known = topic_id(&mut wire, "b").await;
    let answer = wire.ask(13, &by_id(known)).await;
    assert_eq!(answer.topics[0].name.as_deref(), Some("b"));
    let answer = wire.ask(13, &by_id(Uuid::from(7))).await;
    assert_eq!(answer.topics[0].error_code, code(ErrorCode::UnknownTopicId));
}

async fn topic_id(wire: &mut Wire, name: &str) -> Uuid {
    let topics = vec![MetadataRequestTopic { name: Some(name.into()), ..Default::default() }];
    let allow_auto_topic_creation = false;
    let request =
        MetadataRequest { topics: Some(topics), allow_auto_topic_creation, ..Default::default() };
    wire.ask(12, &request).await.topics[0].topic_id
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_comes_back_has_another_id() {
    let (_dir, _broker, mut wire) = start(&[]).await;
    wire.create("a", 1, &[]).await;
    let first = topic_id(&mut wire, "a").await;
    let topics = vec![DeleteTopicState { name: None, topic_id: first }];
    let delete = DeleteTopicsRequest { topics, timeout_ms: 1000, ..Default::default() };
    assert_eq!(wire.ask(6, &delete).await.responses[0].error_code, 0);
    let gone = wire.ask(6, &delete).await;
    assert_eq!(gone.responses[0].error_code, code(ErrorCode::UnknownTopicId));
    wire.create("a", 1, &[]).await;
    let second = topic_id(&mut wire, "a").await;
    assert_ne!(first, second);
    // Who still has the first id hears it, in produce and fetch.
    let mut request = produce("", 0, batch(1), -1);
    request.topic_data[0].topic_id = first;
    let answer = wire.ask(13, &request).await;
    let refused = &answer.responses[0].partition_responses[0];
    assert_eq!(refused.error_code, code(ErrorCode::UnknownTopicId));
    request.topic_data[0].topic_id = second;
    assert_eq!(wire.ask(13, &request).await.responses[0].partition_responses[0].error_code, 0);
    let mut request = fetch("", 0, 0);
    request.topics[0].topic_id = first;
    let answer = wire.ask(13, &request).await;
    assert_eq!(answer.responses[0].partitions[0].error_code, code(ErrorCode::UnknownTopicId));
}

/// Which records are at fault is said from version 8 on.
#[tokio::test(flavor = "multi_thread")]
async fn a_compacted_topic_takes_no_record_without_a_key() {
    let (_dir, _broker, mut wire) = start(&[]).await;
    wire.create("a", 1, &[("cleanup.policy", "compact")]).await;
    let records = [Some("a"), None, Some("b"), None].map(|key| (key, Some("value")));
    let mixed = batch_of(records.into_iter(), None);
    for version in [7, 8, 12] {
        let answer = wire.ask(version, &produce("a", 0, mixed.clone(), -1)).await;
        let refused = &answer.responses[0].partition_responses[0];
        assert_eq!(refused.error_code, code(ErrorCode::InvalidRecord));
        assert_eq!(refused.base_offset, -1);
        let places: Vec<i32> = refused.record_errors.iter().map(|one| one.batch_index).collect();
        let told = if version >= 8 { vec![1, 3] } else { Vec::new() };
        assert_eq!(places, told, "version {version}");
    }
    let good = batch_of([(Some("a"), Some("1")), (Some("a"), None)].into_iter(), None);
    assert_eq!(wire.produce("a", 0, good).await.base_offset, 0, "nothing was written before");
}

/// Whatever offset a reader begins at, over both protocols: before, inside and behind what was
/// compacted.
#[tokio::test(flavor = "multi_thread")]
async fn a_compacted_log_is_read_from_every_offset() {
    let settings = ["compaction.interval=200ms", "tier.interval=200ms"];
    let args: Vec<&str> = settings.iter().flat_map(|setting| ["--set", setting]).collect();
    let (_dir, broker, mut wire) = start(&args).await;
    wire.create("a", 1, &[("cleanup.policy", "compact")]).await;
    let mut newest = BTreeMap::new();
    let mut end = 0;
    // Each key is written in its own stretch and once more at the end, so that most of it is holes.
    let keys = (0..20).flat_map(|key| [key; 10]).chain([3, 7, 11]);
    for key in keys {
        let key = format!("key-{key}");
        let records = [(Some(key.as_str()), Some("value")); 3];
        let answer = wire.produce("a", 0, batch_of(records.into_iter(), None)).await;
        assert_eq!((answer.error_code, answer.base_offset), (0, end));
        end += 3;
        newest.insert(key, end - 1);
    }
    let mut wanted: Vec<i64> = newest.into_values().collect();
    wanted.sort_unstable();
    let began = Instant::now();
    loop {
        let (batches, to) = wire.read_from("a", 0, 0).await;
        assert_eq!(to, end);
        if batches.iter().map(|header| header.record_count as usize).sum::<usize>() == wanted.len()
        {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{}", broker.log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let client = Client::connect(&broker.grpc).await.unwrap();
    for from in (0..end).step_by(7).chain([end - 1, end]) {
        let (batches, to) = wire.read_from("a", 0, from).await;
        assert_eq!(to, end, "from {from}");
        let last = |header: &BatchHeader| header.end_offset() as i64;
        assert!(batches.iter().map(last).is_sorted());
        let (mut offset, mut found) = (from as u64, Vec::new());
        while offset < end as u64 {
            let request = ReadRequest {
                topic: "a".into(),
                offset,
                max_bytes: 100,
                decode: true,
                isolation: if from % 2 == 0 { 0 } else { 1 },
                ..ReadRequest::default()
            };
            let answer = client.log().read(request).await.unwrap().into_inner();
            assert!(answer.next_offset > offset, "stuck at {offset}");
            found.extend(answer.records.into_iter().map(|record| record.offset as i64));
            offset = answer.next_offset;
        }
        let left: Vec<i64> = wanted.iter().copied().filter(|offset| *offset >= from).collect();
        assert_eq!(found, left, "from {from}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_has_one_good_batch_for_a_partition() {
    let (_dir, _broker, mut wire) = start(&[]).await;
    wire.create("a", 1, &[("max.message.bytes", "100000")]).await;
    let good = batch(3);
    assert_eq!(wire.produce("a", 0, good.clone()).await.base_offset, 0);
    let two: Bytes = [good.clone(), good.clone()].concat().into();
    let changed = |at: usize, to: u8| {
        let mut bytes = good.to_vec();
        bytes[at] = to;
        Bytes::from(bytes)
    };
    let cases = [
        ("two batches", two, ErrorCode::InvalidRecord),
        ("nothing", Bytes::new(), ErrorCode::InvalidRecord),
        ("old format", changed(16, 1), ErrorCode::InvalidRecord),
        ("a flipped bit", changed(70, 0xff), ErrorCode::CorruptMessage),
        ("cut", good.slice(..good.len() - 1), ErrorCode::CorruptMessage),
        ("too large", batch(10_000), ErrorCode::MessageTooLarge),
    ];
    for (what, bytes, expected) in cases {
        let answer = wire.produce("a", 0, bytes).await;
        assert_eq!(answer.error_code, code(expected), "{what}: {answer:?}");
        assert!(answer.error_message.is_some(), "{what}");
        assert_eq!(answer.base_offset, -1, "{what}: no offset is better than a wrong one");
    }
    for (topic, partition) in [("b", 0), ("a", 1), ("a", -1)] {
        let answer = wire.produce(topic, partition, good.clone()).await;
        assert_eq!(answer.error_code, code(ErrorCode::UnknownTopicOrPartition));
    }
    let answer = wire.ask(12, &produce("a", 0, good.clone(), 2)).await;
    let refused = &answer.responses[0].partition_responses[0];
    assert_eq!(refused.error_code, code(ErrorCode::InvalidRequiredAcks));
    assert_eq!(wire.produce("a", 0, good).await.base_offset, 3, "nothing of it was written");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_may_give_records_the_brokers_time() {
    let (_dir, broker, mut wire) = start(&[]).await;
    wire.create("a", 1, &[("message.timestamp.type", "LogAppendTime")]).await;
    let before = now_ms();
    let answer = wire.produce("a", 0, batch(3)).await;
    let given = answer.log_append_time_ms;
    assert!((before..=now_ms()).contains(&given), "{given}");
    let found = wire.fetch("a", 0, 0).await.records.unwrap().into_bytes();
    // The clients' crc is of other bytes; this one is right again, and clients read the time from
    // the header.
    let records = decode_records(&found).unwrap();
    assert_eq!(records.len(), 3);
    assert!(records.iter().all(|record| record.data.timestamp_ms == given));
    // The old time is too far ahead for any topic that keeps it.
    let mut builder = BatchBuilder::new(Compression::None);
    builder.push(&RecordData { timestamp_ms: before + (1 << 40), ..RecordData::default() });
    let strange = builder.build(None);
    assert_eq!(wire.produce("a", 0, strange.clone()).await.error_code, 0);
    wire.create("b", 1, &[]).await;
    let answer = wire.produce("b", 0, strange).await;
    assert_eq!(
        (answer.error_code, answer.log_append_time_ms),
        (code(ErrorCode::InvalidRecord), -1)
    );
    drop(broker);
}

fn now_ms() -> i64 {
    std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() as i64
}

#[tokio::test(flavor = "multi_thread")]
async fn without_acks_there_is_no_answer_and_a_failure_ends_the_connection() {
    let (_dir, broker, mut wire) = start(&[]).await;
    wire.create("a", 1, &[]).await;
    for _ in 0..3 {
        wire.send(9, &produce("a", 0, batch(1), 0)).await;
    }
    // The next answer is that to the next request.
    assert_eq!(wire.ask(4, &versions()).await.error_code, 0);
    assert_eq!(wire.produce("a", 0, batch(1)).await.base_offset, 3);
    let mut other = Wire::connect(&broker.kafka).await;
    other.send(9, &produce("nowhere", 0, batch(1), 0)).await;
    assert!(other.is_closed().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_come_in_the_order_of_requests() {
    let (_dir, _broker, mut wire) = start(&[]).await;
    wire.create("a", 1, &[]).await;
    let mut sent = Vec::new();
    for _ in 0..20 {
        sent.push((0, wire.send(9, &produce("a", 0, batch(5), -1)).await));
        sent.push((18, wire.send(4, &versions()).await));
    }
    for (number, (key, correlation)) in sent.into_iter().enumerate() {
        if key == 18 {
            assert_eq!(wire.receive::<ApiVersionsRequest>(4).await.0, correlation);
            continue;
        }
        let (got, answer) =
            wire.receive::<levee_kafka::messages::produce_request::ProduceRequest>(9).await;
        assert_eq!(got, correlation);
        let placed = answer.responses[0].partition_responses[0].base_offset;
        assert_eq!(placed, number as i64 / 2 * 5, "appends keep the order of their requests");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idempotent_producer_cannot_write_twice_or_out_of_order() {
    let (_dir, _broker, mut wire) = start(&[]).await;
    wire.create("a", 1, &[]).await;
    let mut ids = Vec::new();
    for version in 0..=5 {
        let answer = wire.ask(version, &InitProducerIdRequest::default()).await;
        assert_eq!((answer.error_code, answer.producer_epoch), (0, 0));
        ids.push(answer.producer_id);
    }
    ids.dedup();
    assert_eq!(ids.len(), 6, "each producer has an id of its own");
    let id = ids[0];
    for number in 0..6 {
        assert_eq!(
            wire.produce("a", 0, stamped(2, id, 0, number * 2)).await.base_offset,
            i64::from(number) * 2
        );
    }
    // The last five are known by their places, what is older is known to be old.
    let again = wire.produce("a", 0, stamped(2, id, 0, 4)).await;
    assert_eq!((again.error_code, again.base_offset), (0, 4));
    let old = wire.produce("a", 0, stamped(2, id, 0, 0)).await;
    assert_eq!(old.error_code, code(ErrorCode::DuplicateSequenceNumber));
    let gap = wire.produce("a", 0, stamped(2, id, 0, 20)).await;
    assert_eq!(gap.error_code, code(ErrorCode::OutOfOrderSequenceNumber));
    assert_eq!(wire.produce("a", 0, stamped(1, id, 1, 0)).await.error_code, 0);
    let fenced = wire.produce("a", 0, stamped(2, id, 0, 12)).await;
    assert_eq!(fenced.error_code, code(ErrorCode::InvalidProducerEpoch));
    let unknown = wire.produce("a", 0, stamped(2, 4711, 0, 5)).await;
    assert_eq!(unknown.error_code, code(ErrorCode::UnknownProducerId));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_gives_whole_batches_from_the_one_that_holds_the_offset() {
    let (_dir, _broker, mut wire) = start(&[]).await;
    wire.create("a", 1, &[]).await;
    for _ in 0..3 {
        wire.produce("a", 0, batch(10)).await;
    }
    let bases = |data: &levee_kafka::messages::fetch_response::PartitionData| {
        let bytes = data.records.clone().unwrap().into_bytes();
        let (mut at, mut bases) = (0, Vec::new());
        while at < bytes.len() {
            let header = BatchHeader::decode(&bytes[at..]).unwrap();
            bases.push(header.base_offset);
            at += header.bytes as usize;
        }
        bases
    };
    let found = wire.fetch("a", 0, 15).await;
    assert_eq!(bases(&found), [10, 20], "the batch in which offset 15 is comes whole");
    assert_eq!(
        (found.high_watermark, found.last_stable_offset, found.log_start_offset),
        (30, 30, 0)
    );
    assert_eq!(found.preferred_read_replica, -1);
    // The first batch goes out whatever the limit is (KIP-74).
    let mut small = fetch("a", 0, 0);
    small.max_bytes = 1;
    small.topics[0].partitions[0].partition_max_bytes = 1;
    let answer = wire.ask(12, &small).await;
    assert_eq!(bases(&answer.responses[0].partitions[0]), [0]);
    let end = wire.fetch("a", 0, 30).await;
    assert_eq!((end.error_code, end.records.unwrap().len()), (0, 0));
    for offset in [31, -5] {
        let outside = wire.fetch("a", 0, offset).await;
        assert_eq!(outside.error_code, code(ErrorCode::OffsetOutOfRange));
        assert_eq!(outside.log_start_offset, 0);
    }
    let mut older = fetch("a", 0, 0);
    older.topics[0].partitions[0].current_leader_epoch = 0;
    let answer = wire.ask(12, &older).await;
    assert_eq!(answer.responses[0].partitions[0].error_code, code(ErrorCode::FencedLeaderEpoch));
    older.topics[0].partitions[0].current_leader_epoch = 1 << 20;
    let answer = wire.ask(12, &older).await;
    assert_eq!(answer.responses[0].partitions[0].error_code, code(ErrorCode::UnknownLeaderEpoch));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_waits_for_records_or_for_its_time() {
    let (_dir, broker, mut wire) = start(&[]).await;
    wire.create("a", 2, &[]).await;
    let waits = |ms| {
        let mut request = fetch("a", 0, 0);
        let mut second = request.topics[0].partitions[0].clone();
        second.partition = 1;
        request.topics[0].partitions.push(second);
        FetchRequest { max_wait_ms: ms, ..request }
    };
    let began = Instant::now();
    let empty = wire.ask(12, &waits(600)).await;
    assert!(began.elapsed() >= Duration::from_millis(600));
    assert!(empty.responses[0].partitions.iter().all(|p| p.records.as_ref().unwrap().is_empty()));
    wire.send(12, &waits(30_000)).await;
    let mut other = Wire::connect(&broker.kafka).await;
    other.produce("a", 1, batch(1)).await;
    let (_, answer) = wire.receive::<FetchRequest>(12).await;
    assert!(began.elapsed() < Duration::from_secs(20));
    assert!(answer.responses[0].partitions.iter().any(|p| !p.records.as_ref().unwrap().is_empty()));
    // An error is told at once, whatever else there is to wait for.
    let mut wrong = waits(30_000);
    wrong.topics[0].partitions[0].fetch_offset = 77;
    let began = Instant::now();
    let answer = wire.ask(12, &wrong).await;
    assert_eq!(answer.responses[0].partitions[0].error_code, code(ErrorCode::OffsetOutOfRange));
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_tells_only_what_changed() {
    let (_dir, _broker, mut wire) = start(&[]).await;
    wire.create("a", 3, &[]).await;
    let mut first = fetch("a", 0, 0);
    for partition in 1..3 {
        let mut more = first.topics[0].partitions[0].clone();
        more.partition = partition;
        first.topics[0].partitions.push(more);
    }
    first.session_epoch = 0;
    let opened = wire.ask(12, &first).await;
    assert_ne!(opened.session_id, 0);
    assert_eq!(opened.responses[0].partitions.len(), 3, "the first answer names all");
    let next = |epoch| FetchRequest {
        session_id: opened.session_id,
        session_epoch: epoch,
        min_bytes: 1,
        ..Default::default()
    };
    assert!(wire.ask(12, &next(1)).await.responses.is_empty(), "nothing changed");
    wire.produce("a", 1, batch(1)).await;
    let answer = wire.ask(12, &next(2)).await;
    let changed: Vec<i32> =
        answer.responses[0].partitions.iter().map(|p| p.partition_index).collect();
    assert_eq!(changed, [1]);
    // One partition is forgotten; its records are told no more.
    let forgotten = ForgottenTopic { topic: "a".into(), partitions: vec![1], ..Default::default() };
    let forget = FetchRequest { forgotten_topics_data: vec![forgotten], ..next(3) };
    assert!(wire.ask(12, &forget).await.responses.is_empty());
    let stale = wire.ask(12, &next(3)).await;
    assert_eq!(stale.error_code, code(ErrorCode::InvalidFetchSessionEpoch));
    let strange = FetchRequest { session_id: 12345, ..next(4) };
    let answer = wire.ask(12, &strange).await;
    assert_eq!(answer.error_code, code(ErrorCode::FetchSessionIdNotFound));
    // The last one ends it.
    let last = FetchRequest { session_epoch: -1, ..next(4) };
    assert_eq!(wire.ask(12, &last).await.session_id, 0);
    let answer = wire.ask(12, &next(4)).await;
    assert_eq!(answer.error_code, code(ErrorCode::FetchSessionIdNotFound));
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_are_found_by_place_time_and_epoch() {
    let (_dir, _broker, mut wire) = start(&[]).await;
    wire.create("a", 1, &[]).await;
    let list = |timestamp| ListOffsetsRequest {
        replica_id: -1,
        topics: vec![ListOffsetsTopic {
            name: "a".into(),
            partitions: vec![ListOffsetsPartition { timestamp, ..Default::default() }],
        }],
        ..Default::default()
    };
    let empty = wire.ask(9, &list(-3)).await;
    assert_eq!(empty.topics[0].partitions[0].offset, -1, "no record has the largest time");
    wire.produce("a", 0, batch(10)).await;
    let cases = [
        (-1, 10),
        (-2, 0),
        (-3, 0),
        (-4, 0),
        (-5, -1),
        (-6, 0),
        (0, 0),
        (1_700_000_000_000, 0),
        (1_700_000_000_001, -1),
    ];
    for (timestamp, offset) in cases {
        let answer = wire.ask(11, &list(timestamp)).await;
        let found = &answer.topics[0].partitions[0];
        assert_eq!((found.error_code, found.offset), (0, offset), "timestamp {timestamp}");
    }
    let answer = wire.ask(11, &list(-9)).await;
    assert_eq!(answer.topics[0].partitions[0].error_code, code(ErrorCode::InvalidRequest));
    // The present epoch ends at the end, one of the future is not known.
    let epoch = wire.ask(11, &list(-2)).await.topics[0].partitions[0].leader_epoch;
    let ends = |leader_epoch| OffsetForLeaderEpochRequest {
        topics: vec![OffsetForLeaderTopic {
            topic: "a".into(),
            partitions: vec![OffsetForLeaderPartition { leader_epoch, ..Default::default() }],
        }],
        ..Default::default()
    };
    let answer = wire.ask(4, &ends(epoch)).await;
    let found = &answer.topics[0].partitions[0];
    assert_eq!((found.leader_epoch, found.end_offset), (epoch, 10));
    let answer = wire.ask(2, &ends(-1)).await;
    assert_eq!(answer.topics[0].partitions[0].end_offset, -1);
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_are_made_as_asked_or_refused_with_the_reason() {
    let (_dir, _broker, mut wire) = start(&["--set", "default.partitions=5"]).await;
    let asked = |name: &str, num_partitions, replication_factor| CreateTopicsRequest {
        topics: vec![CreatableTopic {
            name: name.into(),
            num_partitions,
            replication_factor,
            ..Default::default()
        }],
        timeout_ms: 1000,
        ..Default::default()
    };
    let answer = wire.ask(7, &asked("a", -1, -1)).await;
    let made = &answer.topics[0];
    assert_eq!((made.error_code, made.num_partitions, made.replication_factor), (0, 5, 1));
    assert!(made.configs.as_ref().unwrap().iter().any(|c| c.name == "retention.ms"));
    let cases = [
        (asked("a", 1, 1), ErrorCode::TopicAlreadyExists),
        (asked("b", 0, 1), ErrorCode::InvalidPartitions),
        (asked("b", 1, 4), ErrorCode::InvalidReplicationFactor),
        (asked("b", 1, 0), ErrorCode::InvalidReplicationFactor),
        (asked("b b", 1, 1), ErrorCode::InvalidTopic),
        (asked("", 1, 1), ErrorCode::InvalidTopic),
    ];
    for (request, expected) in cases {
        let answer = wire.ask(7, &request).await;
        assert_eq!(answer.topics[0].error_code, code(expected), "{request:?}");
        assert!(answer.topics[0].error_message.is_some());
    }
    let (_dir, _broker, mut strict) = start(&["--set", "kafka.replication.factor.max=1"]).await;
    let answer = strict.ask(7, &asked("b", 1, 2)).await;
    assert_eq!(answer.topics[0].error_code, code(ErrorCode::InvalidReplicationFactor));
    // Only looked at.
    let answer =
        wire.ask(7, &CreateTopicsRequest { validate_only: true, ..asked("c", 2, 1) }).await;
    assert_eq!((answer.topics[0].error_code, answer.topics[0].num_partitions), (0, 2));
    assert_eq!(topic_id(&mut wire, "c").await, Uuid::ZERO);
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_come_with_their_source() {
    let (_dir, _broker, mut wire) = start(&[]).await;
    wire.create("a", 1, &[("retention.ms", "1234567")]).await;
    let of = |resource_type, name: &str| DescribeConfigsRequest {
        resources: vec![DescribeConfigsResource {
            resource_type,
            resource_name: name.into(),
            configuration_keys: None,
        }],
        include_synonyms: true,
        include_documentation: true,
    };
    let answer = wire.ask(4, &of(2, "a")).await;
    let configs = &answer.results[0].configs;
    let named = |name: &str| configs.iter().find(|c| c.name == name).unwrap();
    assert_eq!(named("retention.ms").value.as_deref(), Some("1234567"));
    assert_eq!(
        (named("retention.ms").config_source, named("retention.bytes").config_source),
        (1, 5)
    );
    assert_eq!(named("cleanup.policy").value.as_deref(), Some("delete"), "never null");
    assert!(configs.iter().all(|c| c.value.is_some() && !c.synonyms.is_empty()));
    let answer = wire.ask(4, &of(4, "1")).await;
    assert!(answer.results[0].configs.iter().any(|c| c.name == "num.partitions"));
    assert!(answer.results[0].configs.iter().all(|c| c.read_only));
    let answer = wire.ask(4, &of(2, "nowhere")).await;
    assert_eq!(answer.results[0].error_code, code(ErrorCode::UnknownTopicOrPartition));
    let answer = wire.ask(4, &of(99, "a")).await;
    assert_eq!(answer.results[0].error_code, code(ErrorCode::InvalidRequest));
}
