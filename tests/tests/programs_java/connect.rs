//! Kafka Connect with distributed workers: its state lives in three compacted topics.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use levee_tests::bucket::free_port;
use levee_tests::programs::{Bucket, LIMIT, Levee, Program, turn};
use serde_json::json;

use crate::http;
use crate::jvm::{Tools, java};

/// Shorter than the defaults: a killed worker is missed soon.
const WORKER: &str = "
group.id=connect
key.converter=org.apache.kafka.connect.storage.StringConverter
value.converter=org.apache.kafka.connect.storage.StringConverter
offset.storage.topic=connect-offsets
config.storage.topic=connect-configs
status.storage.topic=connect-status
offset.storage.replication.factor=1
config.storage.replication.factor=1
status.storage.replication.factor=1
offset.flush.interval.ms=500
exactly.once.source.support=enabled
consumer.isolation.level=read_committed
consumer.session.timeout.ms=6000
session.timeout.ms=6000
heartbeat.interval.ms=1000
scheduled.rebalance.max.delay.ms=1000
plugin.discovery=service_load
";

fn worker(settings: &Path) -> Program {
    let mut command = java("org.apache.kafka.connect.cli.ConnectDistributed");
    command.arg(settings);
    Program::start("Connect worker", command)
}

fn numbered(range: std::ops::Range<usize>) -> String {
    range.map(|n| format!("line {n}\n")).collect()
}

/// Waits until the sink's file has every line of the source's.
async fn until_copied(from: &Path, to: &Path) {
    let started = Instant::now();
    let from = std::fs::read_to_string(from).unwrap();
    let wanted: BTreeSet<&str> = from.lines().collect();
    loop {
        let there = std::fs::read_to_string(to).unwrap_or_default();
        let there: BTreeSet<&str> = there.lines().collect();
        if there.is_superset(&wanted) {
            return;
        }
        let missing = wanted.difference(&there).count();
        assert!(started.elapsed() < LIMIT, "{missing} of {} lines are missing", wanted.len());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn file_source_and_sink_go_on_after_their_worker_was_killed() {
    let _turn = turn().await;
    let levee = Levee::start(Bucket::Minio, &[]).await;
    let port = free_port();
    let all =
        format!("bootstrap.servers={}\nlisteners=http://127.0.0.1:{port}\n{WORKER}", levee.kafka());
    let settings = levee.file("worker.properties", &all);
    let (source, sink) =
        (levee.file("source", &numbered(0..1000)), levee.folder("out").join("sink"));
    let package = "org.apache.kafka.connect.file";
    let connector = |name: &str, class: &str, file: &Path, topic: &str| {
        json!({ "name": name, "config": {
            "connector.class": format!("{package}.{class}"),
            "tasks.max": "1",
            "file": file,
            topic: "lines",
        }})
    };

    let first = worker(&settings);
    http::ready(port, "/connectors").await;
    let from = connector("from", "FileStreamSourceConnector", &source, "topic");
    let to = connector("to", "FileStreamSinkConnector", &sink, "topics");
    http::post(port, "/connectors", &from).await;
    http::post(port, "/connectors", &to).await;
    until_copied(&source, &sink).await;
    first.kill9().await;
    let both = numbered(0..2000);
    std::fs::write(&source, &both).unwrap();

    let second = worker(&settings);
    http::ready(port, "/connectors").await;
    let mut named: Vec<String> =
        serde_json::from_value(http::get(port, "/connectors").await).unwrap();
    named.sort();
    assert_eq!(named, ["from", "to"], "what runs is read back");
    until_copied(&source, &sink).await;
    for name in &named {
        let status = http::get(port, &format!("/connectors/{name}/status")).await;
        assert_eq!(status["tasks"][0]["state"], "RUNNING", "{status}");
    }
    second.terminate().await;

    let mut tools = Tools::start(levee.kafka());
    let read = "--topic lines --from-beginning --isolation-level read_committed --timeout-ms 4000";
    let lines = tools.run("consumer.ConsoleConsumer", read).await.out;
    assert_eq!(lines.trim_end(), both.trim_end(), "every line once, in its order");
    for topic in ["connect-offsets", "connect-configs", "connect-status"] {
        let args = format!("--describe --entity-type topics --entity-name {topic}");
        let shown = tools.run("kafka.admin.ConfigCommand", &args).await.ok();
        assert!(shown.contains("  cleanup.policy=compact sensitive=false"), "{topic}: {shown}");
    }
}
