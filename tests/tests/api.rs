//! What clients and operators may rely on, request by request.

#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use levee_client::grpc::list_offsets_request::At;
use levee_client::grpc::log_client::LogClient;
use levee_client::grpc::{
    AppendRequest, ErrorCode, FlushRequest, ListOffsetsRequest, ReadRequest, ReadResponse,
    ReadStreamRequest, Record,
};
use levee_client::{Client, Compression, Error, ProducerConfig, RecordData};
use levee_proto::record::records::BatchBuilder;
use levee_tests::load::create;
use levee_tests::process::Broker;

async fn start(more: &[&str]) -> (tempfile::TempDir, Broker, Client) {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::dev(dir.path(), more).await;
    let client = Client::connect(&broker.grpc).await.unwrap();
    (dir, broker, client)
}

/// One batch of records with these timestamps and 100 bytes each.
fn batch(timestamps: &[i64], codec: Compression) -> Bytes {
    let mut builder = BatchBuilder::new(codec);
    for timestamp_ms in timestamps {
        let value = Some(vec![7; 100].into());
        builder.push(&RecordData { timestamp_ms: *timestamp_ms, value, ..RecordData::default() });
    }
    builder.build(None)
}

async fn append(client: &Client, batch: Bytes) -> Result<u64, Error> {
    let request = AppendRequest { topic: "t".into(), batch, ..Default::default() };
    Ok(client.log().append(request).await?.into_inner().base_offset)
}

async fn read(client: &Client, request: ReadRequest) -> ReadResponse {
    let request = ReadRequest { topic: "t".into(), ..request };
    client.log().read(request).await.unwrap().into_inner()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_poll_ends_with_records_or_with_its_time() {
    let (_dir, _broker, client) = start(&[]).await;
    create(&client, "t", 1, &[]).await;
    let began = Instant::now();
    let wait = |max_wait_ms| ReadRequest { max_wait_ms, min_bytes: 1, ..Default::default() };
    let empty = read(&client, wait(700)).await;
    assert!(empty.batches.is_empty() && began.elapsed() >= Duration::from_millis(700));
    let waiting = {
        let client = client.clone();
        tokio::spawn(async move { read(&client, wait(30_000)).await })
    };
    tokio::time::sleep(Duration::from_millis(300)).await;
    append(&client, batch(&[1], Compression::None)).await.unwrap();
    let began = Instant::now();
    let found = waiting.await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(10), "it wakes by the record");
    assert_eq!((found.next_offset, found.high_watermark), (1, 1));
    // Below the end there is nothing to wait for.
    let began = Instant::now();
    let much = ReadRequest { min_bytes: 1 << 20, ..wait(2000) };
    assert_eq!(read(&client, much).await.next_offset, 1);
    assert!(began.elapsed() >= Duration::from_millis(1900), "it waits for more at the end");
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_are_found_by_time_wherever_the_records_are() {
    let (_dir, _broker, client) = start(&[]).await;
    create(&client, "t", 1, &[]).await;
    // Timestamps that go back a little, as those of producers do.
    for n in 0..20i64 {
        append(&client, batch(&[n * 1000 + 500, n * 1000], Compression::Zstd)).await.unwrap();
    }
    let find = |at: i64| {
        let client = client.clone();
        async move {
            let at = Some(At::TimestampMs(at));
            let request =
                ListOffsetsRequest { topic: "t".into(), at, ..ListOffsetsRequest::default() };
            let found = client.log().list_offsets(request).await.unwrap().into_inner();
            found.offset.map(|offset| (offset, found.timestamp_ms))
        }
    };
    for drop_hot in [false, true] {
        assert_eq!(find(0).await, Some((0, 500)), "drop_hot {drop_hot}");
        assert_eq!(find(500).await, Some((0, 500)));
        assert_eq!(find(501).await, Some((2, 1500)));
        assert_eq!(find(12_500).await, Some((24, 12_500)));
        assert_eq!(find(19_501).await, None);
        let flush = FlushRequest { drop_hot: true, ..Default::default() };
        client.admin().flush(flush).await.unwrap();
    }
    let source = read(&client, ReadRequest::default()).await.source;
    assert!(["remote", "cached"].contains(&source.as_str()), "{source}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_stream_sends_no_more_than_it_was_granted() {
    let (_dir, _broker, client) = start(&[]).await;
    create(&client, "t", 1, &[]).await;
    let one = batch(&[1; 10], Compression::None);
    for _ in 0..20 {
        append(&client, one.clone()).await.unwrap();
    }
    let (grant, granted) = tokio::sync::mpsc::channel(4);
    let start = ReadRequest { topic: "t".into(), ..Default::default() };
    let credit = 3 * one.len() as u64;
    let first = ReadStreamRequest { start: Some(start), credit_bytes: credit, heartbeat_ms: 200 };
    grant.send(first).await.unwrap();
    let requests = futures::stream::unfold(granted, |mut granted| async {
        granted.recv().await.map(|request| (request, granted))
    });
    let mut answers = client.log().read_stream(requests).await.unwrap().into_inner();
    let (mut bytes, mut beats) = (0, 0);
    while beats < 3 {
        let answer = answers.message().await.unwrap().unwrap();
        bytes += answer.batches.len() as u64;
        beats += u32::from(answer.batches.is_empty());
    }
    assert!((1..=credit).contains(&bytes), "{bytes} of {credit}");
    grant.send(ReadStreamRequest { credit_bytes: 1 << 20, ..Default::default() }).await.unwrap();
    let mut next = 0;
    while next < 200 {
        next = answers.message().await.unwrap().unwrap().next_offset;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_codec_and_structured_records_are_read_back() {
    let (_dir, _broker, client) = start(&[]).await;
    create(&client, "t", 1, &[]).await;
    let mut count = 0;
    for codec in Compression::ALL {
        append(&client, batch(&[1, 2, 3], codec)).await.unwrap();
        count += 3;
    }
    let structured =
        Record { key: Some("k".into()), value: Some("v".into()), ..Default::default() };
    let records = vec![structured; 2];
    let request = AppendRequest { topic: "t".into(), records, ..Default::default() };
    let appended = client.log().append(request).await.unwrap().into_inner();
    assert_eq!((appended.base_offset, appended.end_offset), (count, count + 2));
    let found = read(&client, ReadRequest { decode: true, ..Default::default() }).await;
    let offsets: Vec<u64> = found.records.iter().map(|record| record.offset).collect();
    assert_eq!(offsets, (0..count + 2).collect::<Vec<_>>());
    let last = found.records.last().unwrap();
    assert_eq!((last.key.as_deref(), last.value.as_deref()), (Some(&b"k"[..]), Some(&b"v"[..])));
    assert!(last.timestamp_ms > 1_700_000_000_000, "the broker's time");
}

type Change = fn(&mut Vec<u8>);

/// What no reader could make anything of is refused before it has an offset.
#[tokio::test(flavor = "multi_thread")]
async fn batches_that_harm_are_refused_and_named() {
    let (_dir, _broker, client) = start(&[]).await;
    create(&client, "t", 1, &[]).await;
    let changed = |change: Change| {
        let mut bytes = batch(&[1, 2], Compression::None).to_vec();
        change(&mut bytes);
        let crc = levee_proto::crc::crc32c(&bytes[21..]);
        bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        Bytes::from(bytes)
    };
    let cases: [(Change, ErrorCode, &str); 8] = [
        (|b| b[22] |= 7, ErrorCode::InvalidArgument, "compression"),
        (|b| b[22] |= 0x10, ErrorCode::InvalidArgument, "transaction"),
        (|b| b[22] |= 0x20, ErrorCode::InvalidArgument, "attributes"),
        (|b| b[60] = 3, ErrorCode::InvalidArgument, "last offset delta"),
        (|b| (b[26], b[60]) = (2, 3), ErrorCode::CorruptBatch, "record"),
        (|b| b[35] = 0x40, ErrorCode::InvalidArgument, "message.timestamp.after.max.ms"),
        (|b| b[35] = 0x80, ErrorCode::InvalidArgument, "-1 means none"),
        (|b| b[43] = 0x80, ErrorCode::InvalidArgument, "producer id"),
    ];
    for (change, code, says) in cases {
        let error = append(&client, changed(change)).await.unwrap_err();
        assert_eq!(error.code, code, "{error}");
        assert!(error.message.contains(says), "{says:?} in {error}");
        assert!(!error.retriable && !error.may_be_written, "{error}");
    }
    let many = vec![Record::default(); 100_001];
    let request = AppendRequest { topic: "t".into(), records: many, ..Default::default() };
    let error = Error::from(client.log().append(request).await.unwrap_err());
    assert_eq!(error.code, ErrorCode::InvalidArgument, "{error}");
    let later = AppendRequest { topic: "t".into(), ..Default::default() };
    let error = Error::from(client.log().append(later).await.unwrap_err());
    assert!(error.message.contains("neither"), "{error}");
    assert_eq!(append(&client, batch(&[1], Compression::None)).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_and_health_tell_what_happened() {
    let (_dir, mut broker, client) = start(&["--set", "tier.interval=300ms"]).await;
    create(&client, "t", 1, &[]).await;
    let producer = client.producer(ProducerConfig::default()).await.unwrap();
    let record = || RecordData { value: Some("v".into()), ..RecordData::default() };
    for _ in 0..10 {
        producer.send("t", Some(0), record()).await.unwrap().await.unwrap();
    }
    read(&client, ReadRequest::default()).await;
    client.admin().flush(FlushRequest::default()).await.unwrap();
    assert!(broker.http("/healthz").await.starts_with("HTTP/1.1 200 "));
    assert!(broker.http("/readyz").await.starts_with("HTTP/1.1 200 "));
    // Gauges are set once a second.
    let mut metrics = broker.http("/metrics").await;
    for _ in 0..100 {
        if metrics.contains("levee_partitions{state=\"serving\"} 1") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        metrics = broker.http("/metrics").await;
    }
    let value = |name: &str| -> f64 {
        let lines = metrics.lines().filter(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']))
        });
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    };
    assert_eq!(value("levee_append_records_total"), 10.0, "{metrics}");
    for name in [
        "levee_append_seconds_count",
        "levee_ack_seconds_count",
        "levee_wal_groups_total",
        "levee_wal_sync_seconds_count",
        "levee_upload_objects_total",
        "levee_upload_bytes_total",
        "levee_read_bytes_total",
        "levee_read_seconds_count",
        "levee_store_requests_total",
        "levee_metalog_slot",
        "levee_partitions",
        "process_resident_memory_bytes",
    ] {
        assert!(value(name) > 0.0, "{name} in {metrics}");
    }
    assert_eq!(broker.terminate().await, Some(0), "{}", broker.log());
    assert!(!broker.log().contains("ERROR"), "a clean stop is no error: {}", broker.log());
}

/// Tools that know nothing of Levee find their way: health checks, and services by reflection.
#[tokio::test(flavor = "multi_thread")]
async fn health_and_reflection_answer() {
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    let (_dir, broker, client) = start(&[]).await;
    let address = format!("http://{}", broker.grpc);
    let channel = tonic::transport::Endpoint::from_shared(address).unwrap().connect_lazy();
    let mut health = HealthClient::new(channel.clone());
    let check = HealthCheckRequest { service: "levee.v1.Log".into() };
    let serving = health.check(check).await.unwrap().into_inner();
    assert_eq!(serving.status(), tonic_health::ServingStatus::Serving.into());
    let mut reflection = ServerReflectionClient::new(channel);
    let list = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let asked = reflection.server_reflection_info(futures::stream::iter([list])).await;
    let answer = asked.unwrap().into_inner().message().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(found)) = answer.message_response else {
        panic!("no list of services");
    };
    let names: Vec<String> = found.service.into_iter().map(|service| service.name).collect();
    for wanted in ["levee.v1.Log", "levee.v1.Admin", "grpc.health.v1.Health"] {
        assert!(names.iter().any(|name| name == wanted), "{wanted} in {names:?}");
    }
    let cluster = client.manage().describe_cluster().await.unwrap();
    assert!(format!("{cluster:?}").contains(&broker.grpc), "{cluster:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_production_form_reads_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("levee.toml");
    let (data, bucket) = (dir.path().join("data"), dir.path().join("bucket"));
    let text = format!(
        "[data]\ndir = {data:?}\n[bucket]\nurl = \"file://{}\"\n[broker]\nid = 7\n",
        bucket.display()
    );
    std::fs::write(&file, text).unwrap();
    let mut broker = Broker::production(&file).await;
    let client = Client::connect(&broker.grpc).await.unwrap();
    create(&client, "t", 1, &[]).await;
    assert_eq!(append(&client, batch(&[1], Compression::None)).await.unwrap(), 0);
    // The default class of production: the record is in the bucket when it is acknowledged.
    let describe = levee_client::grpc::DescribeTopicRequest { name: "t".into() };
    let topic = client.admin().describe_topic(describe).await.unwrap().into_inner();
    assert_eq!(topic.partitions[0].durability_class, "object");
    assert!(broker.log().contains("broker.id=7"), "{}", broker.log());
    assert_eq!(broker.terminate().await, Some(0), "{}", broker.log());
}

/// What readers leave lying must not hold up the acks of a producer of the same client.
#[tokio::test(flavor = "multi_thread")]
async fn readers_that_stand_still_hold_up_no_producer() {
    let (_dir, _broker, client) = start(&[]).await;
    create(&client, "t", 1, &[]).await;
    let producer = client.producer(ProducerConfig::default()).await.unwrap();
    let record =
        |bytes: usize| RecordData { value: Some(vec![7; bytes].into()), ..RecordData::default() };
    for _ in 0..16 {
        producer.send("t", Some(0), record(1 << 20)).await.unwrap().await.unwrap();
    }
    let mut readers = Vec::new();
    for _ in 0..16 {
        let from = levee_client::Position::Start;
        let mut reader = client.read("t", 0, from, Default::default()).await.unwrap();
        reader.next_records().await.unwrap();
        readers.push(reader);
    }
    // Their windows fill up, 128 MiB together.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let sent = producer.send("t", Some(0), record(100)).await.unwrap();
    let acked = tokio::time::timeout(Duration::from_secs(5), sent).await;
    acked.expect("an ack in time").unwrap();
}

/// Clients that grant credit and take nothing fill the memory for answers; others still read.
#[tokio::test(flavor = "multi_thread")]
async fn readers_that_take_nothing_stop_no_other() {
    let (_dir, broker, client) = start(&["--set", "answer.bytes=32MiB"]).await;
    create(&client, "t", 1, &[]).await;
    let producer = client.producer(ProducerConfig::default()).await.unwrap();
    let value = Some(vec![7; 1 << 20].into());
    let record = RecordData { value, ..RecordData::default() };
    for _ in 0..8 {
        producer.send("t", Some(0), record.clone()).await.unwrap().await.unwrap();
    }
    // A small window: nearly all of each answer stays with the broker.
    let endpoint =
        tonic::transport::Endpoint::from_shared(format!("http://{}", broker.grpc)).unwrap();
    let line = endpoint.initial_stream_window_size(65_535).connect().await.unwrap();
    let mut idle = Vec::new();
    for _ in 0..40 {
        let start = ReadRequest { topic: "t".into(), max_bytes: 4 << 20, ..Default::default() };
        let first =
            ReadStreamRequest { start: Some(start), credit_bytes: 1 << 40, heartbeat_ms: 0 };
        let (more, requests) = futures::channel::mpsc::channel::<ReadStreamRequest>(1);
        let requests = futures::stream::iter([first]).chain(requests);
        let mut log = LogClient::new(line.clone());
        idle.push((more, log.read_stream(requests).await.unwrap().into_inner()));
    }
    broker.until_metric("levee_answer_bytes", |bytes| bytes > 24e6).await;
    let began = Instant::now();
    let found = read(&client, ReadRequest { max_bytes: 2 << 20, ..Default::default() }).await;
    assert!(!found.batches.is_empty(), "at least a batch");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    // What they held is free when they go.
    drop((idle, line));
    broker.until_metric("levee_answer_bytes", |bytes| bytes == 0.0).await;
}
