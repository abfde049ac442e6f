//! Kafka's own verifiable clients: what was acknowledged is read, what was copied is there once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use levee_tests::programs::{Bucket, LIMIT, Levee, Program, turn};
use serde_json::Value;

use crate::jvm::{TOOLS, Tools, java};

/// A record, by its partition and its offset.
type At = (i64, i64);

/// Events of one kind that a verifiable client has told.
fn events(said: &str, name: &str) -> Vec<Value> {
    let events = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    events.filter(|event| event["name"] == name).collect()
}

fn records(said: &str, name: &str) -> Vec<(At, String)> {
    let at =
        |event: &Value| (event["partition"].as_i64().unwrap(), event["offset"].as_i64().unwrap());
    let one = |event: Value| (at(&event), event["value"].as_str().unwrap().to_owned());
    events(said, name).into_iter().map(one).collect()
}

fn consumer(server: &str, group_protocol: &str, name: &str) -> Program {
    let mut command = java(&format!("{TOOLS}.VerifiableConsumer"));
    command.args(["--bootstrap-server", server, "--topic", "v", "--group-id", "g", "--verbose"]);
    command.args(["--group-protocol", group_protocol]);
    if group_protocol == "CLASSIC" {
        command.args(["--session-timeout", "6000"]);
    }
    Program::start(&format!("{name} consumer"), command)
}

/// Waits until `is_there`; asks often.
async fn until(what: &str, mut is_there: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_there() {
        assert!(started.elapsed() < LIMIT, "{what} within {LIMIT:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// A producer, two members of a group; the broker is killed, then one member goes.
async fn group_reads_what_was_acknowledged(group_protocol: &str) {
    let _turn = turn().await;
    let mut levee = Levee::start(Bucket::Folder, &[]).await;
    let server = levee.kafka().to_owned();
    let mut tools = Tools::start(&server);
    tools.run("TopicCommand", "--create --topic v --partitions 4").await.ok();
    drop(tools);

    let first = consumer(&server, group_protocol, "first");
    until("partitions are assigned", || !events(&first.said(), "partitions_assigned").is_empty())
        .await;
    let mut command = java(&format!("{TOOLS}.VerifiableProducer"));
    command.args(["--bootstrap-server", &server, "--topic", "v", "--throughput", "500"]);
    let producer = Program::start("producer", command);
    until("records flow", || records(&first.said(), "record_data").len() > 200).await;
    let second = consumer(&server, group_protocol, "second");
    until("both members read", || records(&second.said(), "record_data").len() > 200).await;

    levee.broker.kill9().await;
    levee.broker.restart().await;
    let before =
        (records(&first.said(), "record_data").len(), records(&second.said(), "record_data").len());
    until("both members read on", || {
        let now = (
            records(&first.said(), "record_data").len(),
            records(&second.said(), "record_data").len(),
        );
        now.0 > before.0 + 200 && now.1 > before.1 + 200
    })
    .await;
    // A member that is killed is missed after its session, one that leaves at once. The session of
    // the newer protocol is the broker's to choose, and long.
    let first = match group_protocol {
        "CLASSIC" => first.kill9().await,
        _ => first.terminate().await,
    };
    let mut read = records(&first.out, "record_data");

    let sent = producer.terminate().await.out;
    assert_eq!(events(&sent, "shutdown_complete").len(), 1, "it waited for the last answer");
    let acked: BTreeMap<At, String> = records(&sent, "producer_send_success").into_iter().collect();
    assert!(acked.len() > 800, "{} are acknowledged", acked.len());
    let values: BTreeSet<&String> = acked.values().collect();
    assert_eq!(values.len(), acked.len(), "every value is acknowledged once");
    let missing = |read: &[(At, String)]| {
        let read: BTreeSet<&At> = read.iter().map(|record| &record.0).collect();
        acked.keys().filter(|at| !read.contains(at)).count()
    };
    until("all that was acknowledged is read", || {
        let mut all = read.clone();
        all.extend(records(&second.said(), "record_data"));
        missing(&all) == 0
    })
    .await;
    read.extend(records(&second.said(), "record_data"));
    for (at, value) in read {
        // A record without an acknowledgement may be there too.
        assert!(acked.get(&at).is_none_or(|acked| *acked == value), "{at:?} is {value}");
    }
    second.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn classic_group_reads_what_was_acknowledged() {
    group_reads_what_was_acknowledged("CLASSIC").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn consumer_group_reads_what_was_acknowledged() {
    group_reads_what_was_acknowledged("CONSUMER").await;
}

const COPIED: usize = 1000;

fn copier(server: &str) -> Program {
    let mut command = java(&format!("{TOOLS}.TransactionalMessageCopier"));
    command.args(["--broker-list", server, "--transactional-id", "copier"]);
    command.args(["--input-topic", "in", "--input-partition", "0", "--output-topic", "out"]);
    command.args(["--consumer-group", "copiers", "--transaction-size", "50"]);
    command.args(["--enable-random-aborts", "--use-group-metadata"]);
    Program::start("copier", command)
}

/// All records of a topic of one partition, as they stand there.
async fn content(tools: &mut Tools, topic: &str, isolation: &str) -> Vec<String> {
    let args = format!(
        "--topic {topic} --partition 0 --offset earliest --isolation-level {isolation} \
         --timeout-ms 4000"
    );
    let out = tools.run("consumer.ConsoleConsumer", &args).await.out;
    out.lines().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_in_transactions_are_exactly_once() {
    let _turn = turn().await;
    let object = ["--set", "topic.durability.class=object"];
    let mut levee = Levee::start(Bucket::Minio, &object).await;
    let server = levee.kafka().to_owned();
    let mut tools = Tools::start(&server);
    for topic in ["in", "out"] {
        tools.run("TopicCommand", &format!("--create --topic {topic} --partitions 1")).await.ok();
    }
    let input: Vec<String> = (0..COPIED).map(|n| format!("record {n}")).collect();
    tools.feed("ConsoleProducer", "--topic in", &input.join("\n")).await.ok();

    let progress = |line: &str| -> Option<usize> {
        let event: Value = serde_json::from_str(line).ok()?;
        Some(event["remaining"].as_u64()? as usize)
    };
    // Killed in the middle; who comes next ends its transaction.
    let mut copying = copier(&server);
    let quarter = |line: &str| progress(line).is_some_and(|left| left <= COPIED * 3 / 4);
    copying.line(LIMIT, quarter).await.expect("a quarter is copied");
    copying.kill9().await;
    // The broker is killed under the second.
    let mut copying = copier(&server);
    let half = |line: &str| progress(line).is_some_and(|left| left <= COPIED / 2);
    copying.line(LIMIT, half).await.expect("half is copied");
    levee.broker.kill9().await;
    levee.broker.restart().await;
    let out = copying.end(LIMIT).await;
    // A copier that could not commit may give up; the next goes on where the last commit was.
    if out.code != Some(0) || !out.out.contains("ShutdownComplete") {
        copier(&server).end(LIMIT).await.ok();
    }

    assert_eq!(content(&mut tools, "out", "read_committed").await, input);
    let all = content(&mut tools, "out", "read_uncommitted").await;
    assert!(all.len() > COPIED, "some transactions were aborted: {} records", all.len());
}
