//! A broker beside a bucket and a disk that fail it: real processes, a misbehaving S3 server.

#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

use std::time::Duration;

use levee_client::grpc::{AppendRequest, ErrorCode, FlushRequest, Record};
use levee_client::{Client, Position, ProducerConfig, ReadConfig, RecordData};
use levee_tests::load::{Load, create, read_all};
use levee_tests::process::{Broker, NotStarted};
use levee_tests::s3::{FakeS3, Fault, Op, Rule};

const FAST: [&str; 4] = ["--set", "tier.interval=300ms", "--set", "object.lane.linger=10ms"];

async fn dev(dir: &std::path::Path, url: &str, more: &[&str]) -> Broker {
    let args: Vec<&str> = ["--bucket", url].into_iter().chain(FAST).chain(more.to_vec()).collect();
    Broker::dev(dir, &args).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_on_a_bucket_that_cannot_serve_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let fails = |url: String| {
        let data = dir.path().join("d");
        async move { Broker::try_dev(&data, &["--bucket", &url]).await.map(drop).unwrap_err() }
    };
    let says = |failed: NotStarted, what: &str| {
        assert_eq!(failed.code, Some(1), "{}", failed.log);
        assert!(failed.log.contains(what), "{what:?} in:\n{}", failed.log);
        assert!(!failed.log.contains("kept-secret"), "{}", failed.log);
    };
    let s3 = FakeS3::start().await;
    says(fails(s3.url_with("p", "somebody")).await, "check the credentials");
    s3.read_only(true);
    says(fails(s3.url("p")).await, "read-only");
    s3.heal();
    for op in [Op::Put, Op::Get, Op::Head, Op::List] {
        s3.add(Rule::all(op, Fault::Status(404)));
    }
    says(fails(s3.url("p")).await, "NoSuchBucket");
    s3.heal();
    s3.ignore_conditions();
    says(fails(s3.url("p")).await, "not safe for Levee");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_denies_stalls_object_topics_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let s3 = FakeS3::start().await;
    let mut broker = dev(dir.path(), &s3.url("p"), &[]).await;
    let client = Client::connect(&broker.grpc).await.unwrap();
    create(&client, "bucket", 2, &[("durability.class", "object")]).await;
    create(&client, "synced", 2, &[("durability.class", "local")]).await;
    let (safe, local) = (Load::new("bucket", 2), Load::new("synced", 2));
    let tasks = (safe.start(&client).await, local.start(&client).await);
    safe.progress(200).await;
    // Read-only at first, then credentials that are not valid any more.
    for denied in [&[Op::Put, Op::Delete][..], &[Op::Put, Op::Get, Op::Head, Op::List, Op::Delete]]
    {
        for op in denied {
            s3.add(Rule::all(*op, Fault::Status(403)));
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        let acked = safe.acks();
        local.progress(500).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        local.progress(500).await;
        assert_eq!(safe.acks(), acked, "nothing is acknowledged that is not in the bucket");
        s3.heal();
        safe.progress(200).await;
    }
    safe.stop(tasks.0).await;
    local.stop(tasks.1).await;
    assert_eq!((safe.refused(), local.refused()), ((0, None), (0, None)));
    safe.verify(&client).await;
    local.verify(&client).await;
    assert_eq!(broker.terminate().await, Some(0), "{}", broker.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_day_of_the_bucket_loses_and_duplicates_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let s3 = FakeS3::start().await;
    let more = ["--set", "gc.grace=1s", "--set", "sweep.interval=2s"];
    let mut broker = dev(dir.path(), &s3.url("p"), &more).await;
    let client = Client::connect(&broker.grpc).await.unwrap();
    let copies = ("local.retention.bytes", "1B");
    create(&client, "bucket", 3, &[("durability.class", "object"), copies]).await;
    create(&client, "synced", 3, &[("durability.class", "local"), copies]).await;
    let (safe, local) = (Load::new("bucket", 3), Load::new("synced", 3));
    let tasks = (safe.start(&client).await, local.start(&client).await);
    safe.progress(100).await;
    for (op, fault, every) in [
        (Op::Put, Fault::Status(503), 5),
        (Op::Put, Fault::CutAfter, 5),
        (Op::Put, Fault::StatusAfter(500), 5),
        (Op::Put, Fault::Status(409), 5),
        (Op::Put, Fault::Ghost(Duration::from_secs(1)), 5),
        (Op::Put, Fault::Slow(Duration::from_millis(300)), 5),
        (Op::Get, Fault::Torn, 4),
        (Op::Get, Fault::Status(500), 4),
        (Op::List, Fault::Cut, 3),
        (Op::Delete, Fault::CutAfter, 3),
    ] {
        s3.add(Rule::all(op, fault).every(every));
    }
    for _ in 0..2 {
        safe.progress(200).await;
        local.progress(500).await;
        broker.kill9().await;
        broker.restart().await;
    }
    safe.progress(200).await;
    local.progress(200).await;
    safe.stop(tasks.0).await;
    local.stop(tasks.1).await;
    assert_eq!((safe.refused(), local.refused()), ((0, None), (0, None)));
    client.admin().flush(FlushRequest::default()).await.unwrap();
    safe.verify(&client).await;
    local.verify(&client).await;
    s3.heal();
    assert_eq!(broker.terminate().await, Some(0), "{}", broker.log());
}

/// The slots of the object lane have what a damaged hot copy had.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_hot_copy_of_an_object_topic_is_read_from_its_slots() {
    let dir = tempfile::tempdir().unwrap();
    let small = [
        "tail.bytes=1MiB",
        "max.batch.bytes=256KiB",
        "hot.segment.bytes=1MiB",
        "tier.interval=1h",
        "object.lane.linger=5ms",
    ];
    let args: Vec<&str> = small.iter().flat_map(|setting| ["--set", *setting]).collect();
    let mut broker = Broker::dev(dir.path(), &args).await;
    let client = Client::connect(&broker.grpc).await.unwrap();
    create(&client, "t", 1, &[("durability.class", "object")]).await;
    let producer = client.producer(ProducerConfig::default()).await.unwrap();
    let record = |n: u32| RecordData {
        key: Some(n.to_string().into()),
        value: Some(vec![n as u8; 64 << 10].into()),
        ..RecordData::default()
    };
    for n in 0..64 {
        producer.send("t", Some(0), record(n)).await.unwrap().await.unwrap();
    }
    let segments = |dir: &std::path::Path| -> Vec<std::path::PathBuf> {
        let entries = std::fs::read_dir(dir).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    };
    let mut damaged = 0;
    for topic in segments(&dir.path().join("hot")) {
        for file in segments(&topic) {
            let mut bytes = std::fs::read(&file).unwrap();
            let len = bytes.len();
            bytes[len / 2] ^= 1;
            std::fs::write(&file, bytes).unwrap();
            damaged += 1;
        }
    }
    assert!(damaged > 0, "tails were moved to hot segments");
    let found = read_all(&client, "t", 0).await;
    assert_eq!(found.len(), 64);
    // And so they reach the bucket.
    client.admin().flush(FlushRequest { drop_hot: true, ..Default::default() }).await.unwrap();
    assert_eq!(read_all(&client, "t", 0).await, found);
    assert_eq!(broker.terminate().await, Some(0), "{}", broker.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_object_is_an_error_and_never_data() {
    let dir = tempfile::tempdir().unwrap();
    let s3 = FakeS3::start().await;
    let mut broker = dev(dir.path(), &s3.url("p"), &[]).await;
    let client = Client::connect(&broker.grpc).await.unwrap();
    create(&client, "bad", 1, &[]).await;
    create(&client, "good", 1, &[]).await;
    let good = Load::new("good", 1);
    for name in ["bad", "good"] {
        let load = if name == "good" { good.clone() } else { Load::new("bad", 1) };
        let tasks = load.start(&client).await;
        load.progress(200).await;
        load.stop(tasks).await;
        client.admin().flush(FlushRequest::default()).await.unwrap();
        if name == "bad" {
            let objects = s3.keys("shared/");
            objects.iter().for_each(|key| s3.damage(key, 300));
        }
    }
    broker.kill9().await;
    // No copy on the disk: all there is, is in the bucket.
    std::fs::remove_dir_all(dir.path().join("hot")).unwrap();
    broker.restart().await;
    let mut reader = client.read("bad", 0, Position::Start, ReadConfig::default()).await.unwrap();
    let error = reader.next_batches().await.unwrap_err();
    assert_eq!((error.code, error.retriable), (ErrorCode::CorruptData, false), "{error}");
    assert!(error.message.contains("shared/"), "the object is named: {error}");
    good.verify(&client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn upload_lag_blocks_or_sheds_as_the_topic_says() {
    let dir = tempfile::tempdir().unwrap();
    let s3 = FakeS3::start().await;
    let broker = dev(dir.path(), &s3.url("p"), &[]).await;
    let client = Client::connect(&broker.grpc).await.unwrap();
    let (bound, batch) = (("upload.lag.max.bytes", "1MiB"), ("max.message.bytes", "1MiB"));
    for policy in ["block", "shed"] {
        create(&client, policy, 1, &[bound, batch, ("upload.lag.policy", policy)]).await;
    }
    create(&client, "unbounded", 1, &[]).await;
    s3.add(Rule::all(Op::Put, Fault::Status(503)).on("/shared/"));
    let send = async |topic: &str| {
        let record = Record { value: Some(vec![7; 64 << 10].into()), ..Record::default() };
        let append = AppendRequest {
            topic: topic.into(),
            records: vec![record],
            timeout_ms: 2000,
            ..AppendRequest::default()
        };
        client.log().append(append).await.map(drop).map_err(levee_client::Error::from)
    };
    for topic in ["block", "shed"] {
        let started = std::time::Instant::now();
        let error = loop {
            match send(topic).await {
                Ok(_) => assert!(started.elapsed() < Duration::from_secs(30), "{topic} is bounded"),
                Err(error) => break error,
            }
        };
        assert_eq!((error.code, error.retriable), (ErrorCode::Overloaded, true), "{error}");
        assert!(error.message.contains("upload.lag.max.bytes"), "{error}");
        let started = std::time::Instant::now();
        send(topic).await.unwrap_err();
        let waited = started.elapsed() >= Duration::from_secs(1);
        assert_eq!(waited, topic == "block", "{topic} waited {:?}", started.elapsed());
    }
    send("unbounded").await.unwrap();
    s3.heal();
    for topic in ["block", "shed"] {
        let started = std::time::Instant::now();
        while let Err(error) = send(topic).await {
            assert!(started.elapsed() < Duration::from_secs(30), "{topic} goes on: {error}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stalls_and_goes_on_when_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let s3 = FakeS3::start().await;
    let url = s3.url("p");
    let small = ["wal.file.bytes=4MiB", "disk.reserve.bytes=0", "max.batch.bytes=1MiB"]
        .map(|s| ["--set", s]);
    let args: Vec<&str> =
        ["--bucket", &url].into_iter().chain(FAST).chain(small.concat()).collect();
    let Some(broker) = Broker::on_small_disk(dir.path(), 24, &args).await else {
        eprintln!("skipped: this machine lets nobody mount a disk");
        return;
    };
    let client = Client::connect(&broker.grpc).await.unwrap();
    create(&client, "synced", 2, &[("durability.class", "local")]).await;
    let load = Load::new("synced", 2);
    let tasks = load.start(&client).await;
    load.progress(100).await;
    s3.offline(true);
    let full = async || {
        let acked = load.acks();
        tokio::time::sleep(Duration::from_secs(1)).await;
        load.acks() == acked
    };
    let started = std::time::Instant::now();
    while !full().await {
        assert!(started.elapsed() < Duration::from_secs(60), "24 MB are full at some time");
    }
    assert!(broker.log().contains("no space left"), "{}", broker.log());
    s3.heal();
    load.progress(1000).await;
    load.stop(tasks).await;
    assert_eq!(load.refused(), (0, None));
    load.verify(&client).await;
}
