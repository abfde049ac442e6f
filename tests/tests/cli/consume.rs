//! `levee consume`: ranges, order, following, and how it ends.

use std::process::Stdio;

use levee_tests::process::{Broker, binary};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};

use super::command::{LIMIT, NOON, ended, levee, minutes, run, run_with, signal, until_it_catches};

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

async fn line_of(out: &mut BufReader<ChildStdout>) -> String {
    let mut line = String::new();
    tokio::time::timeout(LIMIT, out.read_line(&mut line)).await.expect("a line").unwrap();
    line
}

/// `consume -f '%t/%p %v'` that has shown its first record.
async fn following(broker: &str, args: &[&str]) -> (Child, BufReader<ChildStdout>) {
    let args = [&["consume", "-f", "%t/%p %v\n"], args].concat();
    let mut child = levee(broker, &args).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    assert!(line_of(&mut out).await.ends_with(" first\n"));
    (child, out)
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_and_topics_that_come_are_followed() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::dev(dir.path(), &[]).await;
    let b = &broker.grpc;
    run(b, &["topic", "create", "t", "-p", "1"]).await.ok();
    run_with(b, &["produce", "t"], b"first\n").await.ok();
    let (_one, mut one) = following(b, &["t"]).await;
    let (_all, mut all) = following(b, &["-r", "t|t[0-9]"]).await;
    run(b, &["topic", "add-partitions", "t", "-n", "1"]).await.ok();
    run_with(b, &["produce", "t", "-p", "1"], b"second\n").await.ok();
    run(b, &["topic", "create", "t2", "-p", "1"]).await.ok();
    run_with(b, &["produce", "t2"], b"third\n").await.ok();
    assert_eq!(line_of(&mut one).await, "t/1 second\n");
    let mut both = [line_of(&mut all).await, line_of(&mut all).await];
    both.sort();
    assert_eq!(both, ["t/1 second\n", "t2/0 third\n"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_went_away_is_told_while_it_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let mut broker = Broker::dev(dir.path(), &[]).await;
    run(&broker.grpc, &["topic", "create", "t", "-p", "1"]).await.ok();
    run_with(&broker.grpc, &["produce", "t"], b"first\n").await.ok();
    let (follows, _out) = following(&broker.grpc, &["t", "--timeout", "5s"]).await;
    broker.kill9().await;
    let done = ended(follows, vec![]).await;
    let said = format!("levee: {}: ", broker.grpc);
    assert!(done.err.contains(&said), "{}", done.err);
    assert!(done.err.contains("; it is tried again for up to 5s\n"), "{}", done.err);
    done.fails(3, &format!("levee: t partition 0 at {}: ", broker.grpc));
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_ends_it_although_nobody_takes_its_output() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::dev(dir.path(), &[]).await;
    run(&broker.grpc, &["topic", "create", "t", "-p", "1"]).await.ok();
    let lines = [vec![b'x'; 1 << 20], b"\n".to_vec()].concat().repeat(4);
    run_with(&broker.grpc, &["produce", "t"], &lines).await.ok();
    let mut child = levee(&broker.grpc, &["consume", "t"]).spawn().unwrap();
    // Its pipe is full once the first byte is there: it holds less than a record.
    let mut out = child.stdout.take().unwrap();
    assert_eq!(out.read(&mut [0]).await.unwrap(), 1);
    until_it_catches(&child).await;
    let since = std::time::Instant::now();
    signal(&child, "-INT");
    let status = tokio::time::timeout(LIMIT, child.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(130));
    assert!(since.elapsed().as_secs() < 8, "{:?}", since.elapsed());
    drop(out);
}
