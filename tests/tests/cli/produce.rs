//! `levee produce`: what goes in comes out, and what is said of it.

use levee_client::{Client, ProducerConfig, RecordData};
use levee_tests::load::create;
use levee_tests::process::Broker;
use tokio::io::AsyncWriteExt;

use super::command::{NOON, ended, levee, run, run_with, signal, until_end, until_it_catches};

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
async fn what_is_not_written_is_named_by_its_first_line_and_not_in_doubt() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::dev(dir.path(), &["--set", "max.batch.bytes=1MiB"]).await;
    let b = &broker.grpc;
    run(b, &["topic", "create", "t", "-p", "1"]).await.ok();
    let late = format!("{{\"timestamp_ms\":{}}}\n", i64::MAX);
    let lines = ["{}\n".repeat(4), late, "{}\n".repeat(4), "no record\n".into()].concat();
    let done = run_with(b, &["produce", "t", "-J"], lines.as_bytes()).await;
    assert!(done.err.contains("0 records acknowledged, 9 not written;"), "{}", done.err);
    let said = "line 1, the first of 9 that failed so: batch for t: timestamp 9223372036";
    assert!(done.err.contains(said), "{}", done.err);
    done.fails(1, "line 10 is no record");
    // Too large for any batch: what came before is written, what comes behind is not sent.
    let mut numbers = Numbers(3);
    let text: String = (0..2 << 20).map(|_| (b'!' + numbers.below(90) as u8) as char).collect();
    let lines = format!("a\n{text}\nc\n");
    let done = run_with(b, &["produce", "t"], lines.as_bytes()).await;
    let said = "1 record acknowledged; nothing behind the first 1 record was sent";
    assert!(done.err.contains(said), "{}", done.err);
    done.fails(1, "line 2: a batch of 2097");
    let done = run_with(b, &["produce", "t", "-z", "lz4"], lines.as_bytes()).await;
    assert!(!done.err.contains("in doubt") && done.err.contains("1 not written"), "{}", done.err);
    done.fails(1, "line 2: a batch of 2");
    let fits = format!("{}\n", "x".repeat(2 << 20));
    run_with(b, &["produce", "t", "-z", "zstd"], fits.as_bytes()).await.ok();
    // Batches are made as small as the topic wants them.
    run(b, &["topic", "create", "small", "-c", "max.message.bytes=1KiB"]).await.ok();
    run_with(b, &["produce", "small"], "0123456789\n".repeat(1000).as_bytes()).await.ok();
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
