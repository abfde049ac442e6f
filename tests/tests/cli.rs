//! The `levee` commands as people use them: the real binary against a real broker.

#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

use std::process::Stdio;
use std::time::Duration;

use levee_client::{Client, ProducerConfig, RecordData};
use levee_tests::load::create;
use levee_tests::process::{Broker, binary};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

/// Longer than any command here may take.
const LIMIT: Duration = Duration::from_secs(60);
/// Nobody listens there: the port is of no service, and not among those that systems hand out.
const NOBODY: &str = "127.0.0.1:1";

/// How a command ended.
#[derive(Debug)]
struct Ended {
    code: i32,
    out: String,
    err: String,
}

impl Ended {
    fn ok(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.out
    }

    fn lines(self) -> Vec<String> {
        self.ok().lines().map(str::to_owned).collect()
    }

    /// What is wrong with how it failed: it must end with `code` and say `says` in one sentence
    /// for people, without a stack or names of Rust.
    fn complaint(&self, code: i32, says: &str) -> Option<String> {
        let ugly = ["panicked", "backtrace", "Error {", "Some(", "Status {", "Os {", "RUST_"];
        let is_plain = !ugly.iter().any(|ugly| self.err.contains(ugly));
        let is_short = self.err.lines().count() <= 9;
        let is_right = self.code == code && self.err.contains(says);
        (!is_right || !is_plain || !is_short).then(|| format!("{code} and {says:?}: {self:?}"))
    }

    #[track_caller]
    fn fails(self, code: i32, says: &str) {
        assert_eq!(self.complaint(code, says), None);
    }
}

fn levee(broker: &str, args: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(args).env("LEVEE_BROKER", broker).env_remove("LEVEE_CONFIG");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

async fn ended(mut child: Child, input: Vec<u8>) -> Ended {
    let mut stdin = child.stdin.take();
    let feed = async {
        if let Some(stdin) = &mut stdin {
            // A command that needs no input closes it.
            let _ = stdin.write_all(&input).await;
        }
        drop(stdin);
    };
    let (_, done) = tokio::join!(feed, tokio::time::timeout(LIMIT, child.wait_with_output()));
    let done = done.expect("a command ends").unwrap();
    Ended {
        code: done.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&done.stdout).into_owned(),
        err: String::from_utf8_lossy(&done.stderr).into_owned(),
    }
}

async fn run_with(broker: &str, args: &[&str], input: &[u8]) -> Ended {
    ended(levee(broker, args).spawn().unwrap(), input.to_vec()).await
}

async fn run(broker: &str, args: &[&str]) -> Ended {
    run_with(broker, args, b"").await
}

fn signal(child: &Child, name: &str) {
    let pid = child.id().unwrap().to_string();
    assert!(std::process::Command::new("kill").args([name, &pid]).status().unwrap().success());
}

/// Waits until a partition ends there.
async fn until_end(broker: &str, topic: &str, end: u64) {
    let wanted = format!("\"end\": {end},");
    let started = std::time::Instant::now();
    while !run(broker, &["topic", "offsets", topic, "--output", "json"])
        .await
        .ok()
        .contains(&wanted)
    {
        assert!(started.elapsed() < LIMIT, "{topic} ends at {end}");
    }
}

/// Waits until a process catches Ctrl-C: before that it would just die of it.
async fn until_it_catches(child: &Child) {
    let status = format!("/proc/{}/status", child.id().unwrap());
    let started = std::time::Instant::now();
    loop {
        let text = std::fs::read_to_string(&status).unwrap();
        let caught = text.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        let caught = u64::from_str_radix(caught.unwrap().trim(), 16).unwrap();
        if caught & (1 << 1) != 0 {
            return;
        }
        assert!(started.elapsed() < LIMIT, "it catches SIGINT: {text}");
        tokio::task::yield_now().await;
    }
}

/// One record a minute from 2025-11-20T12:00:00Z on, in one partition; the value is its number.
const NOON: i64 = 1_763_640_000_000;

async fn minutes(broker: &str, topic: &str, count: i64) {
    run(broker, &["topic", "create", topic, "-p", "1"]).await.ok();
    let line = |n: i64| format!("{{\"timestamp_ms\":{},\"value\":\"{n}\"}}\n", NOON + n * 60_000);
    let lines: String = (0..count).map(line).collect();
    run_with(broker, &["produce", topic, "--input", "json"], lines.as_bytes()).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_are_those_of_rpk() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::dev(dir.path(), &["--set", "topic.retention.ms=-1"]).await;
    minutes(&broker.grpc, "t", 10).await;
    for (range, shown) in [
        (":end", "0123456789"),
        ("start:end", "0123456789"),
        ("3:5", "34"),
        (":2", "01"),
        ("+8:end", "89"),
        ("-3:end", "789"),
        ("-30:end", "0123456789"),
        (":-7", "012"),
        ("4:+2", "45"),
        ("20:end", ""),
        ("end:end", ""),
        ("@2025-11-20T12:03:00Z:2025-11-20T12:05:00Z", "34"),
        ("@2025-11-20T12:03:30Z:end", "456789"),
        ("@2025-11-20T14:08:00+02:00:end", "89"),
        ("@1763640120:2m", "23"),
        ("@1763640120000:1763640180000", "2"),
        ("@:2025-11-20T12:01:00Z", "0"),
        ("@2025-11-20:1h", ""),
        ("@2025-11-21:end", ""),
    ] {
        let found = run(&broker.grpc, &["consume", "t", "-o", range, "-f", "%v"]).await.ok();
        assert_eq!(found, shown, "{range}");
    }
    for (args, shown) in [
        (vec!["-e"], "0123456789"),
        (vec!["-n", "3"], "012"),
        (vec!["-o", "-2", "-e"], "89"),
        (vec!["-o", "5:100", "--exit"], "56789"),
        (vec!["-n", "0"], ""),
        (vec!["-e", "--grep", "[2-4]"], "234"),
        (vec!["--grep", "[2-9]", "-c", "2"], "23"),
    ] {
        let args = [&["consume", "t", "-f", "%v"], &args[..]].concat();
        assert_eq!(run(&broker.grpc, &args).await.ok(), shown, "{args:?}");
    }
    let offsets = ["topic", "offsets", "t", "-o", "@2025-11-20T12:06:30Z", "--output", "json"];
    assert!(run(&broker.grpc, &offsets).await.ok().contains("\"offset\": 7"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_range_follows_the_log_and_partitions_merge_by_time() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::dev(dir.path(), &["--set", "topic.retention.ms=-1"]).await;
    minutes(&broker.grpc, "t", 3).await;
    let follows = levee(&broker.grpc, &["consume", "t", "-n", "5", "-f", "%v"]).spawn().unwrap();
    // An offset that is not there yet is waited for, too.
    let waits = levee(&broker.grpc, &["consume", "t", "-o", "4:5", "-f", "%v"]).spawn().unwrap();
    run_with(&broker.grpc, &["produce", "t"], b"a\nb\n").await.ok();
    assert_eq!(ended(follows, vec![]).await.ok(), "012ab");
    assert_eq!(ended(waits, vec![]).await.ok(), "b");
    run(&broker.grpc, &["topic", "create", "many", "-p", "3"]).await.ok();
    let line = |n: i64| {
        format!("{{\"partition\":{},\"timestamp_ms\":{},\"value\":\"{n}\"}}\n", n * 7 % 3, NOON + n)
    };
    let lines: String = (0..300).rev().map(line).collect();
    run_with(&broker.grpc, &["produce", "many", "-J"], lines.as_bytes()).await.ok();
    // Against the order of their times within partitions: the oldest head goes first.
    let all = ["consume", "many", "-e", "-f", "%p %v\n"];
    let (first, again) =
        (run(&broker.grpc, &all).await.lines(), run(&broker.grpc, &all).await.lines());
    assert_eq!((first.len(), &first), (300, &again), "the same every time");
    let lines: String = (300..600).map(line).collect();
    run_with(&broker.grpc, &["produce", "many", "-J"], lines.as_bytes()).await.ok();
    let merged = run(&broker.grpc, &["consume", "many", "-o", "100:end", "-f", "%v\n"]).await;
    let expected: Vec<String> = (300..600).map(|n| n.to_string()).collect();
    assert_eq!(merged.lines(), expected);
}

/// The same numbers every time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, below: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }

    fn bytes(&mut self) -> Option<bytes::Bytes> {
        let len = self.below(40);
        match self.below(6) {
            0 => None,
            1 => Some(bytes::Bytes::new()),
            2 => Some((0..len).map(|_| self.below(256) as u8).collect()),
            3 => Some(" \"\\\n\r\t\0\u{7f}{}[]null".into()),
            4 => Some("{\"base64\":\"AA==\"}".into()),
            _ => Some("grüße \u{1F980} \u{2028}".into()),
        }
    }

    fn record(&mut self) -> RecordData {
        let names = ["", "a", "a", "b", "ключ", "\"\n"];
        let count = self.below(5);
        let headers = (0..count).map(|_| (names[self.below(6) as usize].to_owned(), self.bytes()));
        let headers = headers.collect();
        let timestamp_ms = [0, 1, NOON][self.below(3) as usize] + self.below(1000) as i64;
        RecordData { timestamp_ms, key: self.bytes(), value: self.bytes(), headers }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_consume_writes_as_json_produce_makes_again() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::dev(dir.path(), &["--set", "topic.retention.ms=-1"]).await;
    let client = Client::connect(&broker.grpc).await.unwrap();
    create(&client, "from", 3, &[]).await;
    create(&client, "to", 3, &[]).await;
    let config = ProducerConfig { keep_zero_timestamps: true, ..ProducerConfig::default() };
    let producer = client.producer(config).await.unwrap();
    let mut numbers = Numbers(17);
    for _ in 0..3000 {
        let partition = numbers.below(3) as u32;
        drop(producer.send("from", Some(partition), numbers.record()).await.unwrap());
    }
    let large = RecordData { value: Some(vec![0; 3 << 20].into()), ..RecordData::default() };
    producer.send("from", Some(1), large).await.unwrap().await.unwrap();
    producer.flush().await;
    let all = |topic| ["consume", topic, "-e", "--output", "json"];
    let first = run(&broker.grpc, &all("from")).await.ok();
    assert_eq!(first.lines().count(), 3001);
    run_with(&broker.grpc, &["produce", "to", "--input", "json"], first.as_bytes()).await.ok();
    let second = run(&broker.grpc, &all("to")).await.ok();
    assert!(first == second.replace("{\"topic\":\"to\"", "{\"topic\":\"from\""), "nothing is lost");
    // Not by the word of the same program alone.
    for partition in 0..3 {
        let (from, to) =
            (records(&client, "from", partition).await, records(&client, "to", partition).await);
        assert!(!from.is_empty() && from == to, "partition {partition}");
    }
    // Nothing that is not whole is taken for a record.
    let meta =
        run(&broker.grpc, &["consume", "from", "-e", "-J", "--meta-only", "-n", "1"]).await.ok();
    let refused = run_with(&broker.grpc, &["produce", "to", "-J"], meta.as_bytes()).await;
    refused.fails(1, "line 1 is no record: unknown field `value_bytes`");
}

async fn records(client: &Client, topic: &str, partition: u32) -> Vec<RecordData> {
    use levee_client::{Position, ReadConfig};
    let reader = client.read(topic, partition, Position::Start, ReadConfig::default()).await;
    let (mut reader, mut found) = (reader.unwrap(), Vec::new());
    loop {
        let records = reader.next_records().await.unwrap();
        found.extend(records.into_iter().map(|record| record.data));
        if reader.offset() >= reader.high_watermark() {
            return found;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn text_in_and_text_out() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::dev(dir.path(), &[]).await;
    run(&broker.grpc, &["topic", "create", "t"]).await.ok();
    let file = dir.path().join("input");
    std::fs::write(&file, b"\xff\n\0").unwrap();
    let file = file.display().to_string();
    for (args, input) in [
        (&["-K", ":"][..], "a:1:2\nnone\n"),
        (&["-k", "key", "-H", "n=v", "-H", "x", "-z", "zstd"], "\n"),
        (&["-Z", "-k", "gone"], "\n"),
        (&["--binary", "--file", &file], ""),
    ] {
        let args = [&["produce", "t"], args].concat();
        run_with(&broker.grpc, &args, input.as_bytes()).await.ok();
    }
    let show = |format| ["consume", "t", "-e", "-f", format];
    let found = run(&broker.grpc, &show("%o|%k|%K|%v{hex}|%V|%h{%k=%v %V;}\n")).await.lines();
    let expected = [
        "0|a|1|313a32|3|",
        "1||-1|6e6f6e65|4|",
        "2|key|3||0|n=v 1;x= -1;",
        "3|gone|4||-1|",
        "4||-1|ff0a00|3|",
    ];
    assert_eq!(found, expected);
    let some = |args: &'static [&str]| [&["consume", "t", "-e", "-f", "%o "], args].concat();
    for (args, shown) in [
        (some(&["-k", "key"]), "2 "),
        (some(&["-H", "n"]), "2 "),
        (some(&["-H", "n=w"]), ""),
        (some(&["--grep", "no.e"]), "1 "),
    ] {
        assert_eq!(run(&broker.grpc, &args).await.ok(), shown, "{args:?}");
    }
    assert_eq!(
        run(&broker.grpc, &["consume", "t", "-K", ":", "-o", ":2"]).await.ok(),
        "a:1:2\n:none\n"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_goes_away_ends_it_at_once_and_silently() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::dev(dir.path(), &[]).await;
    run(&broker.grpc, &["topic", "create", "t"]).await.ok();
    run_with(&broker.grpc, &["produce", "t"], b"one\n").await.ok();
    // There is never a second record to write: only the pipe tells.
    for follow in ["start", "end"] {
        let script =
            format!("\"$0\" consume t -o {follow} | {{ sleep 0; }}; echo ${{PIPESTATUS[0]}}");
        let mut shell = Command::new("bash");
        shell.args(["-c", &script]).arg(binary()).env("LEVEE_BROKER", &broker.grpc);
        shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let done = ended(shell.spawn().unwrap(), vec![]).await;
        assert_eq!((done.out.as_str(), done.err.as_str()), ("0\n", ""), "{follow}");
    }
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let full = levee(&broker.grpc, &["consume", "t", "-e"]).stdout(full).spawn().unwrap();
    ended(full, vec![]).await.fails(1, "No space left on device");
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_says_what_was_done() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::dev(dir.path(), &[]).await;
    run(&broker.grpc, &["topic", "create", "t"]).await.ok();
    let mut produce = levee(&broker.grpc, &["produce", "t"]).spawn().unwrap();
    let mut stdin = produce.stdin.take().unwrap();
    stdin.write_all(b"one\n").await.unwrap();
    until_end(&broker.grpc, "t", 1).await;
    broker.pause();
    // So much that most of it must have been sent when the last byte is taken.
    let lines = [vec![b'x'; 1 << 20], b"\n".to_vec()].concat().repeat(16);
    stdin.write_all(&lines).await.unwrap();
    signal(&produce, "-INT");
    signal(&produce, "-INT");
    let done = ended(produce, vec![]).await;
    broker.resume();
    assert!(done.err.contains("1 record acknowledged, "), "{}", done.err);
    assert!(done.err.contains(" in doubt") && done.err.contains("nothing behind"), "{}", done.err);
    done.fails(130, "interrupted (INTERRUPTED)");
    drop(stdin);
    // What is acknowledged in time is not in doubt.
    let mut produce = levee(&broker.grpc, &["produce", "t", "-k", "k"]).spawn().unwrap();
    let mut stdin = produce.stdin.take().unwrap();
    stdin.write_all(b"two\n").await.unwrap();
    let seen = levee(&broker.grpc, &["consume", "t", "-k", "k", "-n", "1"]).spawn().unwrap();
    assert_eq!(ended(seen, vec![]).await.ok(), "two\n");
    signal(&produce, "-TERM");
    let done = ended(produce, vec![]).await;
    assert!(
        done.err.contains("1 record acknowledged; nothing behind the first 1 record"),
        "{}",
        done.err
    );
    done.fails(130, "interrupted");
    // A broker that says nothing keeps nobody.
    broker.pause();
    for (args, says) in
        [(&["produce", "t"][..], "nothing was sent"), (&["topic", "list"], "may still be done")]
    {
        let silent = levee(&broker.grpc, args).spawn().unwrap();
        until_it_catches(&silent).await;
        signal(&silent, "-INT");
        ended(silent, vec![]).await.fails(130, says);
    }
    broker.resume();
    // Following ends by Ctrl-C: nothing to complain of.
    let mut follow = levee(&broker.grpc, &["consume", "t", "-k", "k"]).spawn().unwrap();
    let mut out = tokio::io::BufReader::new(follow.stdout.take().unwrap());
    let mut line = String::new();
    tokio::io::AsyncBufReadExt::read_line(&mut out, &mut line).await.unwrap();
    assert_eq!(line, "two\n");
    signal(&follow, "-INT");
    let done = ended(follow, vec![]).await;
    assert_eq!((done.code, done.err.as_str()), (130, ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_from_making_to_deleting() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::dev(dir.path(), &[]).await;
    let levee = |args: &'static [&str]| run(&broker.grpc, args);
    let create = ["topic", "create", "a", "b", "-p", "2", "-c", "retention.ms=60000"];
    assert_eq!(run(&broker.grpc, &create).await.lines().len(), 2);
    levee(&["topic", "create", "b", "c"]).await.fails(5, "1 of 2 failed (PARTLY_DONE)");
    levee(&["topic", "create", "b"]).await.fails(1, "topic \"b\" exists (TOPIC_EXISTS)");
    levee(&["topic", "create", "a", "b", "--if-not-exists"]).await.ok();
    levee(&["topic", "create", "d", "-r", "3"]).await.fails(2, "durability.class");
    let names = async |args: &'static [&str]| {
        let json: serde_json::Value = serde_json::from_str(&levee(args).await.ok()).unwrap();
        let topics = json.as_array().unwrap().clone();
        topics.iter().map(|t| t["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&["topic", "list", "--output", "json"]).await, ["a", "b", "c"]);
    assert_eq!(names(&["topic", "list", "a|c", "--output", "json"]).await, ["a", "c"]);
    assert_eq!(names(&["topic", "list", "|a|", "--output", "json"]).await, ["a"]);
    assert_eq!(names(&["topic", "describe", "c", "a", "--output", "json"]).await, ["c", "a"]);
    assert!(levee(&["topic", "list"]).await.ok().contains("serving"));
    assert!(levee(&["topic", "describe", "a", "-c"]).await.ok().contains("retention.ms"));
    let altered = levee(&["topic", "alter", "a", "--set", "retention.ms=70000"]).await.ok();
    assert_eq!(altered, "altered a: retention.ms=70000, 2 partitions\n");
    levee(&["topic", "alter", "a", "--delete", "retention.ms", "-p", "3"]).await.ok();
    levee(&["topic", "alter", "a", "-p", "2"]).await.fails(2, "only ever added");
    let grown = levee(&["topic", "add-partitions", "a", "-n", "2"]).await.ok();
    assert_eq!(grown, "a has 5 partitions now, 3 before\n");
    run_with(&broker.grpc, &["produce", "a", "-p", "4"], b"1\n2\n3\n").await.ok();
    let delete = ["topic", "delete-records", "a", "-o", "-1", "-p", "4"];
    run(&broker.grpc, &delete)
        .await
        .fails(2, "this would delete 2 records of \"a\" in 1 partition");
    let done = run(&broker.grpc, &[&delete[..], &["-y"]].concat()).await.ok();
    assert_eq!(done, "a/4 begins at offset 2\n");
    let behind = ["topic", "trim-prefix", "a", "-o", "9", "-p", "4", "-y"];
    run(&broker.grpc, &behind).await.fails(4, "a partition 4 ends at 3");
    levee(&["topic", "delete", "a"]).await.fails(2, "give -y (--yes) to agree");
    levee(&["topic", "delete", "nothing", "c", "-y"]).await.fails(5, "no topic \"nothing\"");
    levee(&["topic", "delete", "nothing", "--if-exists", "-y"]).await.ok();
    levee(&["topic", "delete", "a", "-y"]).await.ok();
    assert_eq!(names(&["topic", "list", "--output", "json"]).await, ["b"]);
    assert_eq!(names(&["topic", "list", "--all", "--output", "json"]).await, ["a", "b", "c"]);
}

/// Every command with what it cannot work with: exit code, and what it says.
#[tokio::test(flavor = "multi_thread")]
async fn bad_input_gets_one_sentence_and_its_exit_code() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::dev(&dir.path().join("data"), &[]).await;
    let (b, path) = (&broker.grpc, |name: &str| dir.path().join(name).display().to_string());
    run(b, &["topic", "create", "events", "-p", "2"]).await.ok();
    let half = path("half.toml");
    std::fs::write(&half, "grpc.listen = '127.0.0.1:0'\n[tail]\nbytes = ").unwrap();
    let wrong = path("wrong.toml");
    std::fs::write(&wrong, "tail.bites = 1\n").unwrap();
    let (missing, folder) = (path("missing"), dir.path().display().to_string());
    let http = broker.http.clone();
    let topic_is_missing: [&[&str]; 12] = [
        &["consume", "evnts"],
        &["produce", "evnts"],
        &["topic", "describe", "evnts"],
        &["topic", "alter", "evnts", "-p", "9"],
        &["topic", "add-partitions", "evnts", "-n", "1"],
        &["topic", "delete", "evnts", "-y"],
        &["topic", "offsets", "evnts"],
        &["topic", "delete-records", "evnts", "-o", "end", "-y"],
        &[
            "topic",
            "accept-loss",
            "evnts",
            "-p",
            "0",
            "--statement",
            "the old broker is stopped for good",
        ],
        &["tier", "status", "evnts"],
        &["tier", "flush", "evnts"],
        &["consume", "events", "evnts"],
    ];
    for args in topic_is_missing {
        run(b, args).await.fails(4, "did you mean \"events\"?");
    }
    let needs_a_broker: [&[&str]; 11] = [
        &["consume", "t"],
        &["produce", "t"],
        &["topic", "create", "t"],
        &["topic", "list"],
        &["topic", "describe", "t"],
        &["topic", "alter", "t", "-p", "2"],
        &["topic", "delete", "t", "-y"],
        &["topic", "offsets", "t"],
        &["tier", "status"],
        &["tier", "flush"],
        &["doctor"],
    ];
    for args in needs_a_broker {
        run(NOBODY, args).await.fails(3, "(NO_BROKER)");
        run(&http, args).await.fails(3, "(NO_BROKER)");
    }
    for command in [&["dev"][..], &["broker"], &["doctor"], &["config", "explain"]] {
        let with =
            |args: &[&str]| [command, args].concat().iter().map(|a| (*a).to_owned()).collect();
        for (args, says) in [
            (with(&["--config", &half]), "line 3"),
            (with(&["--config", &wrong]), "did you mean tail.bytes?"),
            (with(&["--set", "tail.bytes"]), "has no '='"),
            (with(&["--set", "tail.bytes=many"]), "is not a number of bytes"),
            (with(&["--grpc", "nowhere"]), "grpc.listen"),
        ] {
            let args: Vec<String> = args;
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            let done = run(b, &args).await;
            let said = format!("{}{}", done.out, done.err);
            assert!(said.contains(says), "{args:?}: {done:?}");
            assert!([1, 2].contains(&done.code), "{args:?}: {done:?}");
            assert!(!said.contains("panicked"), "{args:?}: {done:?}");
        }
        let done = run(b, &[command, &["--config", &missing]].concat()).await;
        assert!(
            done.code == 1 && format!("{done:?}").contains("missing cannot be read"),
            "{done:?}"
        );
    }
    for command in ["dev", "doctor"] {
        let done = run(b, &[command, "--bucket", "what://x"]).await;
        assert!(done.code == 1 && format!("{done:?}").contains("is none of s3"), "{done:?}");
    }
    let cases: &[(&[&str], i32, &str)] = &[
        (&["consum"], 2, "consume"),
        (&["consume"], 2, "<TOPIC>"),
        (&["consume", "events", "-o", "yesterday"], 2, "no position"),
        (&["consume", "events", "-o", "@10m"], 2, "@-10m"),
        (&["consume", "events", "-o", "9:3"], 2, "ends before it begins"),
        (&["consume", "events", "-p", "2"], 4, "write -p 0 to 1"),
        (&["consume", "events", "-p", "x"], 2, "0,2,5-7"),
        (&["consume", "events", "--output", "json", "-K", ":"], 2, "are for text"),
        (&["consume", "events", "-f", "%q"], 2, "%q is unknown"),
        (&["consume", "events", "-n", "-1"], 2, "-1"),
        (&["consume", "events", "--offest", "1"], 2, "--offset"),
        (&["consume", "events", "--grep", "(", "-e"], 2, "unclosed group"),
        (&["consume", "-r", "(", "-e"], 2, "not a regular expression"),
        (&["consume", "-r", "z.*"], 4, "no topic has such a name"),
        (&["consume", "events", "--timeout", "5"], 2, "with its unit"),
        (&["consume", "events", "-H", "=x"], 2, "NAME=VALUE"),
        (&["consume", "events", "--broker", "http://"], 2, "no address"),
        (&["consume", "events", "--broker", "h o s t"], 2, "no address"),
        (&["produce", "events", "-p", "7"], 4, "write -p 0 to 1"),
        (&["produce", "events", "-p", "-2"], 2, "any"),
        (&["produce", "events", "-z", "rar"], 2, "zstd"),
        (&["produce", "events", "--file", &missing], 1, "No such file"),
        (&["produce", "events", "--file", &folder], 1, "folder"),
        (&["produce", "events", "-K", ""], 2, "at least one"),
        (&["produce", "events", "-J", "-K", ":"], 2, "a line of JSON has its key"),
        (&["produce", "events", "--binary", "-K", ":"], 2, "cannot be used with"),
        (&["topic", "create", "a/b"], 2, "topic name"),
        (&["topic", "create", "x", "-p", "0"], 2, "0"),
        (&["topic", "create", "x", "-p", "99999"], 2, "99999 partitions"),
        (&["topic", "create", "x", "-c", "retention.mss=1"], 2, "did you mean retention.ms?"),
        (&["topic", "create", "x", "-c", "retention.ms"], 2, "KEY=VALUE"),
        (&["topic", "alter", "events"], 2, "no change is named"),
        (&["topic", "offsets", "events", "-o", "1:2"], 2, "not a range"),
        (&["topic", "offsets", "events", "-p", "5"], 4, "it has 2"),
        (&["topic", "list", "("], 2, "unclosed group"),
        (&["consume", "events", "-o", "@1795176000000000000"], 2, "no time"),
        (&["topic", "accept-loss", "events", "-p", "0", "--statement", "ok"], 2, "statement"),
        (&["config", "explain", "nothing like it"], 2, "lists all of them"),
        (&["config", "explain", "tail.bites"], 2, "did you mean tail.bytes?"),
        (&["explain", "UNKNOWN_TOPICS"], 2, "did you mean UNKNOWN_TOPIC?"),
        (&["completions", "tcsh"], 2, "possible values"),
        (&["man", "topic", "nothing"], 2, "no command"),
        (&["man", "--dir", "/dev/null/x"], 1, "cannot be written"),
        (&["demo", &missing], 2, "is not there"),
        (&["dev", "--data", "/dev/null/x"], 1, "cannot be made"),
        (&["broker"], 2, "bucket.url is not set"),
    ];
    let mut complaints = Vec::new();
    for (args, code, says) in cases {
        complaints.extend(run(b, args).await.complaint(*code, says));
    }
    let lines: &[(&[&str], &str, i32, &str)] = &[
        (&["-J"], "{\"value\":\"x\"}\nnot json\n", 1, "line 2 is no record"),
        (&["-J"], "{\"partition\":9}\n", 4, "has no partition 9"),
        (&["-J"], "{\"value\":7}\n", 1, "expected text"),
    ];
    for (args, input, code, says) in lines {
        let args = [&["produce", "events"], *args].concat();
        let done = run_with(b, &args, input.as_bytes()).await;
        complaints.extend(done.complaint(*code, says));
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    // What came in front of the bad line is there, and that was said.
    assert_eq!(run(b, &["consume", "events", "-e"]).await.ok(), "x\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_says_what_it_finds_and_leaves_no_trace() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::dev(dir.path(), &[]).await;
    let (data, http) = (dir.path().display().to_string(), broker.http.clone());
    let doctor =
        ["doctor", "--dev", "--data", &data, "--http", &http, "--set", "connections.max=8"];
    let names = || {
        let entry = |e: std::io::Result<std::fs::DirEntry>| e.unwrap().file_name();
        let mut names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(entry).collect();
        names.sort();
        names
    };
    let before = names();
    let done = run(&broker.grpc, &[&doctor[..], &["--output", "json"]].concat()).await;
    // A busy disk may be worth a warning.
    assert!([0, 5].contains(&done.code), "{done:?}");
    let findings: serde_json::Value = serde_json::from_str(&done.out).unwrap();
    let checks: Vec<_> = findings.as_array().unwrap().iter().map(|f| f["check"].as_str()).collect();
    for check in [
        "config",
        "data",
        "disk",
        "limits",
        "bucket",
        "clock",
        "ready",
        "broker",
        "partitions",
        "upload",
    ] {
        assert!(checks.contains(&Some(check)), "{check} in {done:?}");
    }
    assert!(!done.out.contains("\"fail\""), "{done:?}");
    assert_eq!(names(), before);
    let probes = dir.path().join("bucket").join("probe");
    assert_eq!(files_below(&probes), 0, "the probe removes what it writes");
    let reserve = [&doctor[..], &["--set", "disk.reserve.bytes=1TiB"]].concat();
    run(&broker.grpc, &reserve).await.fails(1, "1 check failed (CHECK_FAILED)");
    let alone = run(&broker.grpc, &["doctor"]).await;
    assert!(alone.out.contains("only the broker is looked at") && alone.code == 0, "{alone:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn manuals_and_completions_are_made_from_the_commands() {
    for (shell, word) in
        [("bash", "complete"), ("zsh", "#compdef levee"), ("fish", "complete -c levee")]
    {
        assert!(run(NOBODY, &["completions", shell]).await.ok().contains(word), "{shell}");
    }
    let dir = tempfile::tempdir().unwrap();
    let pages = dir.path().join("man");
    run(NOBODY, &["man", "--dir", &pages.display().to_string()]).await.ok();
    for page in ["levee", "levee-topic-create", "levee-consume", "levee-doctor"] {
        let text = std::fs::read_to_string(pages.join(format!("{page}.1"))).unwrap();
        assert!(text.contains("interrupted by Ctrl") && text.starts_with(".ie"), "{page}: {text}");
    }
    assert!(run(NOBODY, &["man", "topic", "create"]).await.ok().contains("if\\-not\\-exists"));
    let help = run(NOBODY, &["consume", "--help"]).await.ok();
    assert!(help.contains("@T1:T2") && help.contains("130  interrupted"), "{help}");
    let explained = run(NOBODY, &["explain", "unknown-topic"]).await.ok();
    assert!(explained.contains("Exit code 4"), "{explained}");
    let settings = run(NOBODY, &["config", "explain", "upload", "lag", "--dev"]).await.ok();
    assert!(settings.contains("topic.upload.lag.policy = block  (default)"), "{settings}");
}

/// Files, not folders: a folder bucket keeps empty ones.
fn files_below(folder: &std::path::Path) -> usize {
    let Ok(found) = std::fs::read_dir(folder) else { return 0 };
    let paths = found.map(|entry| entry.unwrap().path());
    paths.map(|path| if path.is_dir() { files_below(&path) } else { 1 }).sum()
}
