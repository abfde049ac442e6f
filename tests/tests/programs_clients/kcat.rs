//! kcat: librdkafka as Debian ships it, some years behind the newest.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use levee_tests::programs::{self, Bucket, Levee, Program};
use levee_tests::tools::{self, installed};
use serde_json::Value;
use tokio::process::Command;

const REBALANCE_LIMIT: Duration = Duration::from_secs(60);

/// Unpacked where the machine has none of its own.
fn kcat(levee: &Levee) -> Command {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let own = std::env::split_paths(&path).any(|folder| folder.join("kcat").is_file());
    let mut command = if own {
        Command::new("kcat")
    } else {
        let root: PathBuf = installed("kcat", |folder| tools::unpack_debian(&["kcat"], folder))
            .unwrap_or_else(|why| panic!("{why}: install kcat (Debian: kcat)"));
        let mut command = Command::new(root.join("root/usr/bin/kcat"));
        let libraries =
            ["root/usr/lib", "root/lib"].map(|lib| root.join(lib).join(tools::triplet()));
        command.env("LD_LIBRARY_PATH", std::env::join_paths(libraries).unwrap());
        command
    };
    command.args(["-b", levee.kafka()]);
    command
}

async fn run(levee: &Levee, args: &[&str]) -> String {
    let mut command = kcat(levee);
    command.args(args);
    programs::run("kcat", command).await.ok()
}

/// Writes these lines.
async fn produce(levee: &Levee, args: &[&str], lines: &[String]) {
    let file =
        levee.file("lines", &lines.iter().map(|line| format!("{line}\n")).collect::<String>());
    let mut command = kcat(levee);
    command.args(["-P", "-l"]).args(args).arg(file);
    programs::run("kcat -P", command).await.ok();
}

/// All records of a topic, as `format` says them, in order of partition and offset.
async fn consume(levee: &Levee, topic: &str, format: &str) -> Vec<String> {
    let said = run(levee, &["-C", "-e", "-q", "-t", topic, "-o", "beginning", "-f", format]).await;
    said.lines().map(str::to_owned).collect()
}

async fn create(levee: &Levee, topic: &str, partitions: i32) {
    levee_tests::kafka::Wire::connect(levee.kafka()).await.create(topic, partitions, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_codec() {
    let levee = Levee::start(Bucket::Folder, &[]).await;
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        create(&levee, codec, 1).await;
        let value = |n: i32| format!("{} {n}", "value of some length ".repeat(20));
        let lines: Vec<String> = (0..500).map(|n| format!("key {n}:{}", value(n))).collect();
        let batches = ["-t", codec, "-p", "0", "-z", codec, "-K", ":", "-H", "h=1", "-H", "h=2"];
        produce(&levee, &batches, &lines).await;
        let read = consume(&levee, codec, "%p %o %k %h %s\\n").await;
        let wanted: Vec<String> =
            (0..500).map(|n| format!("0 {n} key {n} h=1,h=2 {}", value(n))).collect();
        assert_eq!(read, wanted, "{codec}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_and_offsets_by_time() {
    let levee = Levee::start(Bucket::Folder, &[]).await;
    create(&levee, "t", 3).await;
    let said: Value = serde_json::from_str(&run(&levee, &["-L", "-J"]).await).unwrap();
    let id = &said["brokers"][0]["id"];
    assert_eq!(said["brokers"].as_array().unwrap().len(), 1);
    assert_eq!(said["brokers"][0]["name"], levee.kafka());
    assert_eq!(&said["controllerid"], id);
    let topics = said["topics"].as_array().unwrap();
    let topic = topics.iter().find(|topic| topic["topic"] == "t").unwrap();
    let partitions = topic["partitions"].as_array().unwrap();
    assert_eq!(partitions.len(), 3);
    for (number, partition) in partitions.iter().enumerate() {
        assert_eq!(partition["partition"], number);
        assert_eq!(&partition["leader"], id);
        assert_eq!(&partition["isrs"][0]["id"], id);
    }

    for value in ["a", "b", "c"] {
        produce(&levee, &["-t", "t", "-p", "1", "-X", "acks=all"], &[value.into()]).await;
    }
    let times = consume(&levee, "t", "%T\\n").await;
    let [_, second, third] = &times[..] else { panic!("{times:?}") };
    assert!(second < third, "each is a process of its own: {times:?}");
    let asked = |time: &str| format!("t:1:{time}");
    for (time, offset) in [("-2", 0), ("-1", 3), ("0", 0), (second, 1), (third, 2)] {
        let said = run(&levee, &["-Q", "-t", &asked(time)]).await;
        assert_eq!(said.trim(), format!("t [1] offset {offset}"), "at {time}");
    }
}

/// A member of the group `g`, which says `PARTITION VALUE` for each record.
fn member(levee: &Levee) -> Program {
    let mut command = kcat(levee);
    command.args(["-u", "-f", "%p %s\\n", "-X", "session.timeout.ms=10000"]);
    command.args(["-X", "heartbeat.interval.ms=500", "-X", "auto.offset.reset=earliest"]);
    command.args(["-G", "g", "t"]);
    Program::start("kcat -G", command)
}

/// Waits until it has so many partitions, and gives them.
async fn assigned(member: &mut Program, wanted: usize) -> BTreeSet<u32> {
    loop {
        let line = member.line(REBALANCE_LIMIT, |line| line.contains(": assigned: ")).await;
        let line = line.unwrap_or_else(|| panic!("{wanted} partitions: {}", member.said()));
        let numbers = line.split('[').skip(1).filter_map(|part| part.split(']').next());
        let partitions: BTreeSet<u32> = numbers.filter_map(|n| n.parse().ok()).collect();
        if partitions.len() == wanted {
            return partitions;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn group_balances() {
    let levee = Levee::start(Bucket::Folder, &[]).await;
    create(&levee, "t", 4).await;
    let mut first = member(&levee);
    assert_eq!(assigned(&mut first, 4).await, (0..4).collect());
    for partition in ["0", "1", "2", "3"] {
        produce(&levee, &["-t", "t", "-p", partition], &["alone".into()]).await;
        first.says(&format!("{partition} alone")).await;
    }
    let mut second = member(&levee);
    let (ours, theirs) = tokio::join!(assigned(&mut first, 2), assigned(&mut second, 2));
    assert_eq!(&ours | &theirs, (0..4).collect());
    for partition in 0..4 {
        let number = partition.to_string();
        produce(&levee, &["-t", "t", "-p", &number], &["shared".into()]).await;
        let reader = if ours.contains(&partition) { &mut first } else { &mut second };
        reader.says(&format!("{partition} shared")).await;
    }
    let first = first.terminate().await.ok();
    assert_eq!(assigned(&mut second, 4).await, (0..4).collect());
    for partition in ["0", "1", "2", "3"] {
        produce(&levee, &["-t", "t", "-p", partition], &["last".into()]).await;
        second.says(&format!("{partition} last")).await;
    }
    let second = second.terminate().await.ok();
    // What one committed, the other did not read again.
    let mut all: Vec<&str> = first.lines().chain(second.lines()).collect();
    all.sort_unstable();
    let wanted: Vec<String> =
        (0..4).flat_map(|p| ["alone", "last", "shared"].map(|v| format!("{p} {v}"))).collect();
    assert_eq!(all, wanted);
}
