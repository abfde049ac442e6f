//! confluent-kafka (librdkafka), kafka-python and aiokafka.

use std::path::{Path, PathBuf};
use std::process::Command as Plain;
use std::time::Duration;

use levee_tests::programs::{Bucket, Levee, Program, named, needs, sources};
use levee_tests::tools::{self, installed};
use tokio::process::Command;

/// A whole file of tests; each ends by itself long before.
const LIMIT: Duration = Duration::from_secs(600);

/// An interpreter that has the clients.
fn python() -> PathBuf {
    needs("python3", "install Python 3.11 or newer (Debian: python3 and python3-venv)");
    let wanted = sources("python").join("requirements.txt");
    let install = |folder: &Path| {
        tools::run(Plain::new("python3").args(["-m", "venv"]).arg(folder))?;
        let mut pip = Plain::new(folder.join("bin/pip"));
        pip.args(["install", "--quiet", "--no-input", "--no-deps", "--only-binary", ":all:", "-r"]);
        tools::run(pip.arg(&wanted)).map(drop)
    };
    let folder = installed(&named("python", std::slice::from_ref(&wanted)), install);
    folder.unwrap_or_else(|why| panic!("{why}")).join("bin/python")
}

/// Runs files of `tests/programs/python`, in which there are so many tests.
async fn suite(bucket: Bucket, more: &[&str], modules: &[&str], tests: usize) {
    let python = python();
    let levee = Levee::start(bucket, more).await;
    let mut command = Command::new(python);
    // No byte code beside the sources.
    command.args(["-B", "-m", "unittest", "-v"]).args(modules).current_dir(sources("python"));
    command.env("LEVEE_KAFKA", levee.kafka());
    let ended = Program::start(&modules.join(" "), command).end(LIMIT).await;
    let said = ended.err.clone();
    ended.ok();
    assert!(said.contains(&format!("Ran {tests} tests")), "{said}");
    // With more on that line where some were skipped.
    assert!(said.lines().any(|line| line == "OK"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn confluent_kafka() {
    suite(Bucket::Folder, &[], &["test_confluent"], 17).await;
}

/// Every ack waits for MinIO.
#[tokio::test(flavor = "multi_thread")]
async fn confluent_kafka_on_objects() {
    let object = ["--set", "topic.durability.class=object"];
    suite(Bucket::Minio, &object, &["test_confluent"], 17).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_python_and_aiokafka() {
    suite(Bucket::Folder, &[], &["test_kafka_python", "test_aiokafka"], 11).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_python_and_aiokafka_on_objects() {
    if tools::long() {
        let object = ["--set", "topic.durability.class=object"];
        suite(Bucket::Minio, &object, &["test_kafka_python", "test_aiokafka"], 11).await;
    }
}

/// An idempotent producer, a transactional one and a group, all of librdkafka.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_twice_where_the_broker_is_killed() {
    let python = python();
    let mut levee = Levee::start(Bucket::Folder, &[]).await;
    let mut command = Command::new(python);
    command.args(["-B", "through_kills.py"]).current_dir(sources("python"));
    command.env("LEVEE_KAFKA", levee.kafka());
    let mut program = Program::start("through_kills.py", command);
    for at_least in [500, 2500, 4500] {
        let is_there = |line: &str| {
            let copied = line.strip_prefix("copied ").and_then(|count| count.parse::<u32>().ok());
            copied.is_some_and(|copied| copied >= at_least)
        };
        let line = program.line(LIMIT, is_there).await;
        assert!(line.is_some(), "{at_least} are copied:\n{}", program.said());
        levee.broker.kill9().await;
        levee.broker.restart().await;
    }
    program.end(LIMIT).await.ok();
}
