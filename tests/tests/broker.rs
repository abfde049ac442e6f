//! A broker as users run it: real processes, real disks, real kills.

#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

use std::time::Duration;

use levee_client::grpc::{
    AcceptLossRequest, AlterTopicRequest, DescribeTopicRequest, ErrorCode, FlushRequest,
};
use levee_client::{Client, Position, ProducerConfig, ReadConfig, RecordData};
use levee_tests::load::{Load, create, read_all};
use levee_tests::minio::Minio;
use levee_tests::process::{Broker, binary};

/// 10 kills in the ordinary run, 100 in the long one.
fn kills() -> u32 {
    if std::env::var_os("LEVEE_LONG").is_some() { 100 } else { 10 }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_passes() {
    let done =
        tokio::process::Command::new(binary()).args(["demo", "--mb", "30"]).output().await.unwrap();
    let out = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "{out}\n{}", String::from_utf8_lossy(&done.stderr));
    assert!(out.contains("records acked"), "{out}");
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_in_a_loop_loses_and_duplicates_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let fast = ["--set", "tier.interval=300ms", "--set", "tier.bytes=1MiB"];
    let mut broker = Broker::dev(dir.path(), &fast).await;
    let client = Client::connect(&broker.grpc).await.unwrap();
    create(&client, "synced", 3, &[("durability.class", "local")]).await;
    create(&client, "bucket", 3, &[("durability.class", "object")]).await;
    let loads = [Load::new("synced", 3), Load::new("bucket", 3)];
    let mut tasks = Vec::new();
    for load in &loads {
        tasks.push(load.start(&client).await);
    }
    for round in 0..kills() {
        for load in &loads {
            load.progress(50 + u64::from(round % 7) * 40).await;
        }
        broker.kill9().await;
        broker.restart().await;
    }
    for (load, tasks) in loads.iter().zip(tasks) {
        load.progress(50).await;
        load.stop(tasks).await;
        assert_eq!(load.refused(), (0, None), "idempotent producers go on by themselves");
    }
    for load in &loads {
        load.verify(&client).await;
    }
    assert_eq!(broker.terminate().await, Some(0));
    broker.restart().await;
    for load in &loads {
        load.verify(&client).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_broker_is_taken_over_and_acknowledges_nothing_after() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let bucket = tempfile::tempdir().unwrap();
    let url = format!("file://{}", bucket.path().display());
    let mut first = Broker::dev(one.path(), &["--bucket", &url]).await;
    let client = Client::connect(&first.grpc).await.unwrap();
    create(&client, "bucket", 2, &[("durability.class", "object")]).await;
    create(&client, "synced", 2, &[("durability.class", "local")]).await;
    let (safe, local) = (Load::new("bucket", 2), Load::new("synced", 2));
    let (safe_tasks, local_tasks) = (safe.start(&client).await, local.start(&client).await);
    safe.progress(200).await;
    local.progress(200).await;
    first.pause();
    // Same identity, empty disk.
    let mut second = Broker::dev(two.path(), &["--bucket", &url]).await;
    let other = Client::connect(&second.grpc).await.unwrap();
    let describe = |name: &str| DescribeTopicRequest { name: name.into() };
    let topic = other.admin().describe_topic(describe("bucket")).await.unwrap().into_inner();
    assert!(topic.partitions.iter().all(|p| p.state == "serving"), "{topic:?}");
    let topic = other.admin().describe_topic(describe("synced")).await.unwrap().into_inner();
    for partition in &topic.partitions {
        assert_eq!(partition.state, "waiting");
        assert!(partition.reason.contains("on another disk"), "{}", partition.reason);
    }
    let acked = safe.acks();
    first.resume();
    assert_eq!(first.wait(Duration::from_secs(20)).await, Some(1), "it says why and exits");
    assert!(first.log().contains("took over") || first.log().contains("fenced"), "{}", first.log());
    safe.stop_now();
    local.stop_now();
    drop((safe_tasks, local_tasks));
    // Every ack that was given before and after the pause is in what the second one serves.
    let findings = safe.check(&other).await;
    assert!(findings.wrong.is_empty(), "acks before the take-over: {acked}; {findings:#?}");
    assert!(findings.acked >= 200);
    // The disk of the first comes back: its topics are served with all they had.
    assert_eq!(second.terminate().await, Some(0));
    let third = Broker::dev(one.path(), &["--bucket", &url]).await;
    let client = Client::connect(&third.grpc).await.unwrap();
    let findings = local.check(&client).await;
    assert!(findings.wrong.is_empty(), "{findings:#?}");
    assert!(findings.acked >= 200);
}

/// What is stopped in peace needs its disk no more, whatever the class: no loss has to be accepted.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_may_go_after_a_clean_stop() {
    let (dir, bucket) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let url = format!("file://{}", bucket.path().display());
    let data = dir.path().join("a");
    let mut broker = Broker::dev(&data, &["--bucket", &url]).await;
    let client = Client::connect(&broker.grpc).await.unwrap();
    create(&client, "bucket", 2, &[("durability.class", "object")]).await;
    create(&client, "synced", 2, &[("durability.class", "local")]).await;
    let loads = [Load::new("bucket", 2), Load::new("synced", 2)];
    let mut tasks = Vec::new();
    for load in &loads {
        tasks.push(load.start(&client).await);
    }
    for _ in 0..2 {
        for load in &loads {
            load.progress(200).await;
        }
        assert_eq!(broker.terminate().await, Some(0), "{}", broker.log());
        std::fs::remove_dir_all(&data).unwrap();
        broker.restart().await;
    }
    for (load, tasks) in loads.iter().zip(tasks) {
        load.progress(200).await;
        load.stop(tasks).await;
        assert_eq!(load.refused(), (0, None));
        load.verify(&client).await;
    }
    assert_eq!(broker.terminate().await, Some(0));
    // Nothing is left to recover, and lanes that are closed leave no files.
    broker.restart().await;
    let lanes = std::fs::read_dir(data.join("wal")).unwrap().count();
    assert_eq!(lanes, 1, "the lane of this session");
    assert_eq!(broker.terminate().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_class_under_load_loses_and_reorders_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut broker = Broker::dev(dir.path(), &["--set", "tier.interval=500ms"]).await;
    let client = Client::connect(&broker.grpc).await.unwrap();
    create(&client, "moves", 4, &[("durability.class", "local")]).await;
    let load = Load::new("moves", 4);
    let tasks = load.start(&client).await;
    for class in ["object", "local", "object", "local"] {
        load.progress(400).await;
        let set = [("durability.class".to_owned(), class.to_owned())].into();
        let request = AlterTopicRequest { name: "moves".into(), set, ..Default::default() };
        client.admin().alter_topic(request).await.unwrap();
        load.progress(400).await;
        let request = DescribeTopicRequest { name: "moves".into() };
        let topic = client.admin().describe_topic(request).await.unwrap().into_inner();
        let shown = |p: &levee_client::grpc::PartitionDescription| {
            p.durability_class == class || p.pending_class == class
        };
        assert!(topic.partitions.iter().all(shown), "{class}: {:?}", topic.partitions);
    }
    broker.kill9().await;
    broker.restart().await;
    load.progress(100).await;
    load.stop(tasks).await;
    assert_eq!(load.refused(), (0, None));
    load.verify(&client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_disk_costs_object_topics_nothing_and_names_the_others() {
    let (dir, bucket) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let url = format!("file://{}", bucket.path().display());
    let mut broker = Broker::dev(&dir.path().join("a"), &["--bucket", &url]).await;
    let client = Client::connect(&broker.grpc).await.unwrap();
    create(&client, "bucket", 2, &[("durability.class", "object")]).await;
    create(&client, "synced", 1, &[("durability.class", "local")]).await;
    let (safe, local) = (Load::new("bucket", 2), Load::new("synced", 1));
    let tasks = (safe.start(&client).await, local.start(&client).await);
    safe.progress(100).await;
    local.progress(100).await;
    let flush = FlushRequest { topic: "synced".into(), ..Default::default() };
    client.admin().flush(flush).await.unwrap();
    let tiered = local.acks();
    local.progress(100).await;
    safe.stop(tasks.0).await;
    local.stop(tasks.1).await;
    broker.kill9().await;
    std::fs::remove_dir_all(dir.path().join("a")).unwrap();
    broker.restart().await;
    safe.verify(&client).await;
    let client = Client::connect(&broker.grpc).await.unwrap();
    let producer = client.producer(ProducerConfig::default()).await.unwrap();
    let accept = |statement: &str| AcceptLossRequest {
        topic: "synced".into(),
        partition: 0,
        statement: statement.into(),
    };
    let refused = client.admin().accept_loss(accept("please")).await.unwrap_err();
    assert!(refused.message().contains("statement must be exactly"), "{refused}");
    let given = accept("the old broker is stopped for good");
    let lost = client.admin().accept_loss(given).await.unwrap().into_inner();
    assert!(lost.lost_from > 0 && lost.next_offset == lost.lost_from + (1 << 32), "{lost:?}");
    assert!(lost.lost_from <= local.acks() && tiered > 0);
    let record = RecordData { key: Some("1000000".into()), ..RecordData::default() };
    let ticket = producer.send("synced", Some(0), record).await.unwrap();
    assert_eq!(ticket.await.unwrap(), lost.next_offset);
    let found = read_all(&client, "synced", 0).await;
    assert_eq!(found.len() as u64, lost.lost_from + 1, "what was tiered, and the new record");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_gets_an_error_that_helps() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::dev(dir.path(), &["--set", "max.batch.bytes=1MiB"]).await;
    let client = Client::connect(&broker.grpc).await.unwrap();
    create(&client, "t", 1, &[]).await;
    let producer = client.producer(ProducerConfig::default()).await.unwrap();
    let big = RecordData { value: Some(vec![1; 2 << 20].into()), ..RecordData::default() };
    let error = producer.send("t", Some(0), big).await.unwrap().await.unwrap_err();
    assert_eq!((error.code, error.retriable), (ErrorCode::BatchTooLarge, false));
    assert!(error.message.contains("1MiB"), "{error}");
    let ok = || RecordData { value: Some("v".into()), ..RecordData::default() };
    let offset = producer.send("t", Some(0), ok()).await.unwrap().await.unwrap();
    assert_eq!(offset, 0, "the producer goes on after an error");
    let error = producer.send("nowhere", Some(0), ok()).await.unwrap().await.unwrap_err();
    assert_eq!(error.code, ErrorCode::UnknownTopic);
    let error = producer.send("t", Some(7), ok()).await.unwrap().await.unwrap_err();
    assert_eq!(error.code, ErrorCode::UnknownPartition);
    let config = ReadConfig::default();
    let mut reader = client.read("t", 0, Position::Offset(99), config).await.unwrap();
    let error = reader.next_batches().await.unwrap_err();
    assert_eq!((error.code, error.valid), (ErrorCode::OffsetOutOfRange, Some((0, 1))));
    let corrupt = levee_client::grpc::AppendRequest {
        topic: "t".into(),
        batch: vec![7; 100].into(),
        ..Default::default()
    };
    let status = client.log().append(corrupt).await.unwrap_err();
    assert_eq!(levee_client::Error::from(status).code, ErrorCode::CorruptBatch);
}

#[tokio::test(flavor = "multi_thread")]
async fn starts_that_cannot_work_say_why() {
    let dir = tempfile::tempdir().unwrap();
    let fails = |args: Vec<String>| {
        let data = dir.path().join("d");
        async move {
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            Broker::try_dev(&data, &args).await.map(drop).unwrap_err()
        }
    };
    let bad = fails(vec!["--set".into(), "tier.bytes=lots".into()]).await;
    assert_eq!(bad.code, Some(2));
    assert!(bad.log.contains("tier.bytes") && bad.log.contains("lots"), "{}", bad.log);
    let bad = fails(vec!["--bucket".into(), "ftp://x".into()]).await;
    assert!(bad.log.contains("ftp"), "{}", bad.log);
    let file = dir.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let bad = fails(vec!["--bucket".into(), format!("file://{}/b", file.display())]).await;
    assert_eq!(bad.code, Some(1), "{}", bad.log);
    let mut first = Broker::dev(&dir.path().join("d"), &[]).await;
    let bad = fails(vec![]).await;
    assert!(bad.log.contains("in use by another process"), "{}", bad.log);
    first.kill9().await;
    // What another cluster knows nothing of is not garbage.
    let other = format!("file://{}", dir.path().join("other").display());
    for bucket in [other.as_str(), "memory://"] {
        let bad = fails(vec!["--bucket".into(), bucket.into()]).await;
        assert!(bad.log.contains("belongs to cluster"), "{}", bad.log);
    }
    first.restart().await;
    // A bucket in memory is another one each time.
    for _ in 0..2 {
        let mut broker = Broker::dev(&dir.path().join("m"), &["--bucket", "memory://"]).await;
        assert_eq!(broker.terminate().await, Some(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn minio_serves_as_bucket_and_may_go_away_and_come_back() {
    let mut minio = Minio::start();
    let dir = tempfile::tempdir().unwrap();
    let url = minio.url("one");
    let fast = ["--set", "tier.interval=500ms", "--set", "object.lane.linger=10ms"];
    let args: Vec<&str> = ["--bucket", &url].into_iter().chain(fast).collect();
    let mut broker = Broker::dev(dir.path(), &args).await;
    let client = Client::connect(&broker.grpc).await.unwrap();
    create(&client, "bucket", 2, &[("durability.class", "object")]).await;
    create(&client, "synced", 2, &[("durability.class", "local")]).await;
    let (safe, local) = (Load::new("bucket", 2), Load::new("synced", 2));
    let tasks = (safe.start(&client).await, local.start(&client).await);
    safe.progress(300).await;
    local.progress(300).await;
    broker.kill9().await;
    broker.restart().await;
    safe.progress(100).await;
    // The bucket is away: local goes on, object stalls and comes back without a restart.
    minio.stop();
    local.progress(500).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let acked = safe.acks();
    local.progress(200).await;
    assert_eq!(safe.acks(), acked, "nothing of class object is acknowledged meanwhile");
    minio.back();
    safe.progress(100).await;
    local.progress(100).await;
    safe.stop(tasks.0).await;
    local.stop(tasks.1).await;
    assert_eq!((safe.refused(), local.refused()), ((0, None), (0, None)));
    safe.verify(&client).await;
    local.verify(&client).await;
    assert_eq!(broker.terminate().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_of_older_sessions_are_consolidated_and_deleted_but_their_fence() {
    let dir = tempfile::tempdir().unwrap();
    let fast = ["--set", "gc.grace=1s", "--set", "tier.interval=1h", "--set", "sweep.interval=1s"];
    let mut broker = Broker::dev(dir.path(), &fast).await;
    let client = Client::connect(&broker.grpc).await.unwrap();
    create(&client, "bucket", 3, &[("durability.class", "object")]).await;
    let load = Load::new("bucket", 3);
    let tasks = load.start(&client).await;
    for _ in 0..2 {
        load.progress(300).await;
        broker.kill9().await;
        broker.restart().await;
    }
    load.progress(100).await;
    load.stop(tasks).await;
    // What a kill may leave as well: a slot above the fence, a staged file beside it.
    let folder = |session: &str| {
        let spreads = std::fs::read_dir(dir.path().join("bucket/d")).unwrap();
        let lanes = spreads.map(|s| s.unwrap().path().join(session).join("0000"));
        lanes.into_iter().find(|lane| lane.is_dir()).unwrap()
    };
    let lanes = |session: &str| {
        let names = std::fs::read_dir(folder(session)).unwrap();
        names.map(|name| name.unwrap().file_name()).collect::<Vec<_>>()
    };
    let left = folder("00000001-00000001");
    std::fs::write(left.join("00000000000000f0"), "landed after the fence").unwrap();
    std::fs::write(left.join("00000000000000f1#1"), "staged").unwrap();
    for session in ["00000001-00000001", "00000001-00000002"] {
        let started = std::time::Instant::now();
        while lanes(session).len() != 1 {
            let late = started.elapsed() > Duration::from_secs(60);
            assert!(!late, "{:?}: {}", lanes(session), broker.log());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    load.verify(&client).await;
    broker.kill9().await;
    broker.restart().await;
    load.verify(&client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_without_records_keeps_its_place_and_its_producers() {
    let dir = tempfile::tempdir().unwrap();
    let fast = ["gc.grace=1s", "tier.interval=1h"].map(|setting| ["--set", setting]).concat();
    let mut broker = Broker::dev(dir.path(), &fast).await;
    let client = Client::connect(&broker.grpc).await.unwrap();
    let producer = client.producer(ProducerConfig::default()).await.unwrap();
    let send = async |topic: &str| {
        let record = RecordData { value: Some("v".into()), ..RecordData::default() };
        producer.send(topic, Some(0), record).await.unwrap().await.unwrap()
    };
    for class in ["local", "object"] {
        create(&client, class, 1, &[("durability.class", class)]).await;
        for offset in 0..10 {
            assert_eq!(send(class).await, offset);
        }
        // Not in an object before, or only partly.
        assert_eq!(client.manage().delete_records(class, 0, 10).await.unwrap(), 10);
    }
    for restart in 0..3 {
        // Long enough for the garbage collection to take what it may.
        tokio::time::sleep(Duration::from_secs(3)).await;
        broker.kill9().await;
        broker.restart().await;
        for class in ["local", "object"] {
            if restart > 0 {
                assert_eq!(send(class).await, 9 + restart, "{class}");
                let deleted = client.manage().delete_records(class, 0, 10 + restart).await;
                assert_eq!(deleted.unwrap(), 10 + restart);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_deletion_and_garbage_collection_keep_to_the_rule() {
    let dir = tempfile::tempdir().unwrap();
    let fast = [
        "--set",
        "gc.grace=1s",
        "--set",
        "tier.interval=200ms",
        "--set",
        "delete.delay=0",
        "--set",
        "retention.check.interval=200ms",
    ];
    let mut broker = Broker::dev(dir.path(), &fast).await;
    let client = Client::connect(&broker.grpc).await.unwrap();
    create(&client, "short", 1, &[("retention.bytes", "300000")]).await;
    create(&client, "kept", 1, &[]).await;
    create(&client, "gone", 1, &[]).await;
    let loads = [Load::new("short", 1), Load::new("kept", 1), Load::new("gone", 1)];
    for load in &loads {
        let tasks = load.start(&client).await;
        // Retention goes by whole ranges of objects: make several.
        for _ in 0..8 {
            load.progress(300).await;
            client.admin().flush(FlushRequest::default()).await.unwrap();
        }
        load.stop(tasks).await;
    }
    let admin = client.manage();
    let deleted = admin.delete_records("kept", 0, 1000).await.unwrap();
    assert_eq!(deleted, 1000);
    admin.delete_topic("gone").await.unwrap();
    let error = client.read("gone", 0, Position::Start, ReadConfig::default()).await;
    assert!(error.is_err(), "a deleted topic is not there any more");
    let started = std::time::Instant::now();
    loop {
        let found = read_all(&client, "short", 0).await;
        let first = found[0].0;
        let last = found.last().unwrap().0 + 1;
        assert_eq!(last, loads[0].acks(), "nothing is deleted at the end");
        // About 400 bytes a record, and never less than what is to be kept.
        assert!(last - first > 600, "{first}..{last}");
        if first > 0 {
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(30), "{first}..{last} stay");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let found = read_all(&client, "kept", 0).await;
    assert_eq!((found[0].0, found.len() as u64), (1000, loads[1].acks() - 1000));
    broker.kill9().await;
    broker.restart().await;
    assert_eq!(read_all(&client, "kept", 0).await, found, "log start survives a restart");
    create(&client, "gone", 1, &[]).await;
    assert!(read_all(&client, "gone", 0).await.is_empty(), "a new topic with an old name is new");
}

/// Copies of what retention took away would fill the disk up to hot.bytes for nothing.
#[tokio::test(flavor = "multi_thread")]
async fn hot_copies_of_deleted_records_go() {
    let dir = tempfile::tempdir().unwrap();
    let fast = [
        "tail.bytes=1MiB",
        "max.batch.bytes=1MiB",
        "hot.segment.bytes=1MiB",
        "tier.interval=200ms",
    ];
    let fast: Vec<&str> = fast.iter().flat_map(|set| ["--set", set]).collect();
    let broker = Broker::dev(dir.path(), &fast).await;
    let client = Client::connect(&broker.grpc).await.unwrap();
    create(&client, "t", 1, &[]).await;
    let producer = client.producer(ProducerConfig::default()).await.unwrap();
    let record = RecordData { value: Some(vec![7; 50_000].into()), ..RecordData::default() };
    let mut acks = Vec::new();
    for _ in 0..200 {
        acks.push(producer.send("t", Some(0), record.clone()).await.unwrap());
    }
    for ack in acks {
        ack.await.unwrap();
    }
    let hot = || {
        let files = std::fs::read_dir(dir.path().join("hot")).into_iter().flatten().flatten();
        let files = files.flat_map(|entry| std::fs::read_dir(entry.path()).into_iter().flatten());
        files.flatten().map(|file| file.metadata().map_or(0, |meta| meta.len())).sum::<u64>()
    };
    let becomes = async |is_so: &dyn Fn(u64) -> bool| {
        let started = std::time::Instant::now();
        while !is_so(hot()) {
            assert!(started.elapsed() < Duration::from_secs(30), "{} bytes are hot", hot());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    becomes(&|bytes| bytes > 7 << 20).await;
    client.admin().flush(FlushRequest::default()).await.unwrap();
    client.manage().delete_records("t", 0, 190).await.unwrap();
    becomes(&|bytes| bytes < 2 << 20).await;
}

/// What a probe left behind that was killed goes after a day, and nothing younger.
#[tokio::test(flavor = "multi_thread")]
async fn old_probes_are_swept() {
    let (dir, bucket) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let url = format!("file://{}", bucket.path().display());
    let leave = |name: &str, hours: u64| {
        let path = bucket.path().join("probe").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let file = std::fs::File::create(&path).unwrap();
        let then = std::time::SystemTime::now() - Duration::from_secs(hours * 3600);
        file.set_modified(then).unwrap();
        path
    };
    let (old, young) = (leave("a/race/0001", 30), leave("b/create", 20));
    let set = ["--bucket", &url, "--set", "sweep.interval=1s"];
    let broker = Broker::dev(dir.path(), &set).await;
    let client = Client::connect(&broker.grpc).await.unwrap();
    create(&client, "bucket", 1, &[("durability.class", "object")]).await;
    let producer = client.producer(ProducerConfig::default()).await.unwrap();
    let record = RecordData { value: Some("x".into()), ..RecordData::default() };
    producer.send("bucket", Some(0), record).await.unwrap().await.unwrap();
    let gone = async {
        while old.exists() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), gone).await.unwrap();
    assert!(young.exists());
}
