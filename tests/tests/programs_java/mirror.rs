//! MirrorMaker 2: records, settings and positions of groups go from one cluster to another.

use std::path::Path;
use std::time::{Duration, Instant};

use levee_tests::bucket::free_port;
use levee_tests::programs::{Bucket, LIMIT, Levee, Program, run, turn};
use levee_tests::tools::long;

use crate::jvm::{Tools, java};

const RECORDS: usize = 1000;
/// How far the group has read before it moves.
const READ: usize = 600;
const GROUPS: &str = "consumer.group.ConsumerGroupCommand";

fn settings(from: &str, to: &str) -> String {
    let replication = [
        "replication.factor",
        "checkpoints.topic.replication.factor",
        "heartbeats.topic.replication.factor",
        "offset-syncs.topic.replication.factor",
        "offset.storage.replication.factor",
        "status.storage.replication.factor",
        "config.storage.replication.factor",
    ];
    let replication = replication.map(|name| format!("{name} = 1")).join("\n");
    format!(
        "clusters = west, east
west.bootstrap.servers = {from}
east.bootstrap.servers = {to}
west->east.enabled = true
east->west.enabled = false
west->east.topics = orders
west->east.groups = .*
{replication}
# Apache Kafka refuses all settings of a topic for one that it does not know.
config.properties.exclude = durability.class
tasks.max = 1
offset.lag.max = 0
offset.flush.interval.ms = 500
sync.group.offsets.enabled = true
sync.group.offsets.interval.seconds = 1
emit.checkpoints.interval.seconds = 1
refresh.topics.interval.seconds = 1
refresh.groups.interval.seconds = 1
"
    )
}

/// Offset of the group at partition 0; nothing before it is there.
async fn position(tools: &mut Tools, topic: &str) -> Option<usize> {
    let shown = tools.run(GROUPS, "--describe --group g").await.out;
    let row = shown.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let row = row.into_iter().find(|row| row.get(1) == Some(&topic))?;
    row[3].parse().ok()
}

/// `folder`: for the mirror's own files.
async fn mirrors(from: &str, to: &str, folder: &Path) {
    let mut west = Tools::start(from);
    let create = "--create --topic orders --partitions 1 --replication-factor 1 \
                  --config retention.ms=7200000";
    west.run("TopicCommand", create).await.ok();
    let records: Vec<String> = (0..RECORDS).map(|n| format!("{}\torder {n}", n % 7)).collect();
    let produce = "--topic orders --reader-property parse.key=true";
    west.feed("ConsoleProducer", produce, &records.join("\n")).await.ok();
    let read = format!("--topic orders --group g --from-beginning --max-messages {READ}");
    let out = west.run("consumer.ConsoleConsumer", &read).await.ok();
    assert_eq!(out.lines().count(), READ);
    assert_eq!(position(&mut west, "orders").await, Some(READ));
    drop(west);

    let file = folder.join("mirror.properties");
    std::fs::write(&file, settings(from, to)).unwrap();
    let mut command = java("org.apache.kafka.connect.mirror.MirrorMaker");
    command.arg(file);
    let mirror = Program::start("MirrorMaker", command);
    let mut east = Tools::start(to);
    let started = Instant::now();
    let at = loop {
        if let Some(at) = position(&mut east, "west.orders").await
            && at > 0
        {
            break at;
        }
        assert!(started.elapsed() < LIMIT, "the group's position comes over");
        tokio::time::sleep(Duration::from_millis(500)).await;
    };
    assert!(at <= READ, "at {at}: nothing that it has not read is left out");

    let copied = "--topic west.orders --partition 0 --offset earliest --timeout-ms 5000 \
                  --formatter-property print.key=true";
    let copied = east.run("consumer.ConsoleConsumer", copied).await.out;
    assert_eq!(copied.lines().collect::<Vec<_>>(), records, "every record once, in its order");
    // The group goes on over there.
    mirror.terminate().await;
    let read =
        "--topic west.orders --group g --timeout-ms 8000 --formatter-property print.key=true";
    let rest = east.run("consumer.ConsoleConsumer", read).await.out;
    assert_eq!(rest.lines().collect::<Vec<_>>(), records[at..]);
    let shown = "--describe --entity-type topics --entity-name west.orders";
    let shown = east.run("kafka.admin.ConfigCommand", shown).await.ok();
    assert!(shown.contains("retention.ms=7200000"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn mirror_maker_from_levee_to_levee() {
    let _turn = turn().await;
    let west = Levee::start(Bucket::Folder, &[]).await;
    let east = Levee::start(Bucket::Folder, &[]).await;
    mirrors(west.kafka(), east.kafka(), &west.folder("mirror")).await;
}

/// One node of Apache Kafka, and where it listens.
async fn apache_kafka(folder: &Path) -> (Program, String) {
    let (port, controller) = (free_port(), free_port());
    let settings = format!(
        "process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
controller.listener.names=CONTROLLER
log.dirs={}
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
",
        folder.join("kafka").display()
    );
    let file = folder.join("kafka.properties");
    std::fs::write(&file, settings).unwrap();
    let mut id = java("kafka.tools.StorageTool");
    id.arg("random-uuid");
    let id = run("random-uuid", id).await.ok();
    let mut format = java("kafka.tools.StorageTool");
    format.args(["format", "-t", id.trim(), "-c"]).arg(&file);
    run("format", format).await.ok();
    let mut node = java("kafka.Kafka");
    node.arg(&file);
    let node = Program::start("Apache Kafka", node);
    let address = format!("127.0.0.1:{port}");
    let started = Instant::now();
    while tokio::net::TcpStream::connect(&address).await.is_err() {
        assert!(started.elapsed() < LIMIT, "Apache Kafka listens");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    (node, address)
}

#[tokio::test(flavor = "multi_thread")]
async fn mirror_maker_from_and_to_apache_kafka() {
    if !long() {
        return;
    }
    let _turn = turn().await;
    for to_levee in [true, false] {
        let levee = Levee::start(Bucket::Folder, &[]).await;
        let (_node, kafka) = apache_kafka(&levee.folder("apache")).await;
        let folder = levee.folder("mirror");
        match to_levee {
            true => mirrors(&kafka, levee.kafka(), &folder).await,
            false => mirrors(levee.kafka(), &kafka, &folder).await,
        }
    }
}
