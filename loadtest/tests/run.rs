//! The program as people run it, on a real broker on loopback.

#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;

use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_levee-loadtest");

/// The `levee` binary of this checkout, built with the tests' own profile.
fn levee() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(given) = std::env::var_os("LEVEE_BIN") {
            return given.into();
        }
        let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
        let mut build = Command::new(env!("CARGO"));
        // Of the whole workspace, as the tests are built: else half of it is compiled again.
        build.args(["build", "--quiet", "--locked", "--workspace", "--bin", "levee"]);
        build.args(["--manifest-path", manifest]);
        assert!(build.status().unwrap().success(), "the levee binary builds");
        Path::new(PROGRAM).with_file_name("levee")
    })
}

fn workload(folder: &Path, text: &str) -> PathBuf {
    let path = folder.join("small.toml");
    std::fs::write(&path, text).unwrap();
    path
}

const SMALL: &str = "warm_up = '500ms'\nduration = '2s'\nverify = 'tail'\n\
    [topics]\npartitions = 4\n\
    [record]\nmix = [{ bytes = 100, weight = 3 }, { bytes = 3000, weight = 1 }]\n\
    keys = 'random'\ncompression = 'lz4'\n\
    [produce]\nrate = 2000\n\
    [tail]\nsubscriptions = 1\n\
    [catch_up]\nbytes = '4MiB'\n";

fn run(folder: &Path, workload: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.arg("run").arg(workload).arg("--out").arg(folder.join("out"));
    if !more.contains(&"--target") {
        command.args(["--target", &format!("levee:{}", levee().display())]);
    }
    command.args(more);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn results(folder: &Path) -> Value {
    let text = std::fs::read_to_string(folder.join("out/small-1/results.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn text(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&both).into_owned()
}

#[test]
fn a_run_verifies_every_record_and_leaves_a_whole_report() {
    let folder = tempfile::tempdir().unwrap();
    let workload = workload(folder.path(), SMALL);
    let output = run(folder.path(), &workload, &[]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let results = results(folder.path());
    assert_eq!(results["ended"]["how"], "complete");
    let verification = &results["verification"];
    let count = |field: &str| verification[field].as_u64().unwrap();
    // 2.5 s of 2000/s, and the backlog.
    assert!(count("acked") > 5000, "{verification}");
    assert_eq!(verification["by"], "tail readers, catch-up readers");
    assert_eq!(count("acked"), count("read"));
    assert_eq!(count("lost") + count("duplicated") + count("reordered") + count("changed"), 0);
    let measured = &results["phases"][1];
    assert!(measured["end_to_end"]["samples"].as_u64().unwrap() > 100);
    assert!(measured["catch_up_mb_per_second"].as_f64().unwrap() > 0.0);
    assert!(measured["cpu_seconds_per_gb"].as_f64().unwrap() > 0.0);
    assert_eq!(results["target"]["class"], "local");
    assert!(results["counters"].as_object().unwrap().len() > 5);
    let page = std::fs::read_to_string(folder.path().join("out/small-1/report.html")).unwrap();
    assert!(page.matches("<svg").count() >= 5);
    for outside in ["src=", "href=", "url(", "@import", "<script"] {
        assert!(!page.contains(outside), "{outside}: one file that needs no other");
    }
    compare_with_itself(folder.path(), results);
}

#[test]
fn a_bucket_that_is_named_is_left_as_it_was_and_the_target_says_how_it_syncs() {
    let folder = tempfile::tempdir().unwrap();
    let workload = workload(folder.path(), SMALL);
    let bucket = folder.path().join("bucket");
    std::fs::create_dir(&bucket).unwrap();
    std::fs::write(bucket.join("mine"), "").unwrap();
    let (levee, at) = (levee().display(), bucket.display());
    let target = format!("levee:{levee},bucket=file://{at},set.topic.local.flush=interval");
    let output = run(folder.path(), &workload, &["--target", &target]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let results = results(folder.path());
    let used = results["target"]["bucket"].as_str().unwrap();
    assert!(used.contains("/bucket/load-") && text(&output).contains(used), "{used}");
    assert!(results["target"]["sync"].as_str().unwrap().contains("within wal.flush.interval"));
    let left: Vec<_> = std::fs::read_dir(&bucket).unwrap().collect();
    assert_eq!(left.len(), 1, "only what was there before: {left:?}");
}

#[test]
fn what_is_not_the_runs_own_is_never_removed() {
    let folder = tempfile::tempdir().unwrap();
    let workload = workload(folder.path(), SMALL);
    let bucket = folder.path().join("bucket");
    std::fs::create_dir(&bucket).unwrap();
    std::fs::write(bucket.join("mine"), "").unwrap();
    let url = format!("file://{}", bucket.display());
    let refused = |output: Output, says: &str| {
        assert_eq!(output.status.code(), Some(2), "{}", text(&output));
        assert!(text(&output).contains(says), "{}", text(&output));
        let left: Vec<_> = std::fs::read_dir(&bucket).unwrap().flatten().collect();
        assert_eq!(left.len(), 1, "{left:?}");
        assert_eq!(left[0].file_name(), "mine");
    };
    // Behind a `#` there is no path any more: the run's own name would be lost.
    let marked = format!("levee:{},bucket={url}#1", levee().display());
    refused(run(folder.path(), &workload, &["--target", &marked]).output().unwrap(), "write %23");
    let mut bench = Command::new(PROGRAM);
    bench.args(["bench", "--suite", "soak", "--bucket", &format!("{url}#1")]);
    refused(bench.output().unwrap(), "write %23");
    let missing = format!("levee:/missing,bucket={url}");
    let output = run(folder.path(), &workload, &["--target", &missing]).output().unwrap();
    refused(output, "nothing is removed");
}

#[test]
fn settings_of_the_environment_are_not_those_of_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let workload = workload(folder.path(), SMALL);
    let other = folder.path().join("other");
    let mut run = run(folder.path(), &workload, &["--set", "duration=500ms"]);
    run.env("LEVEE_BUCKET_URL", format!("file://{}", other.display()));
    run.env("LEVEE_TAIL_BYTES", "no size");
    let output = run.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(!other.exists(), "another broker's bucket is not joined");
}

fn compare_with_itself(folder: &Path, mut results: Value) {
    let a = folder.join("out/small-1/results.json");
    let compare = |b: &Path| {
        let mut command = Command::new(PROGRAM);
        command.arg("compare").args([&a, &b.to_owned()]).args(["--threshold", "10"]);
        command.output().unwrap()
    };
    let same = compare(&a);
    assert_eq!(same.status.code(), Some(0), "{}", text(&same));
    let p99 = results["phases"][1]["latency"]["p99"].as_f64().unwrap();
    results["phases"][1]["latency"]["p99"] = (p99 * 1.5).into();
    let worse = folder.join("worse.json");
    let compare_with = |results: &Value| {
        std::fs::write(&worse, results.to_string()).unwrap();
        compare(&worse)
    };
    let found = compare_with(&results);
    assert_eq!(found.status.code(), Some(4), "{}", text(&found));
    assert!(text(&found).contains("regression: measure: p99 ms is worse by 50 %"));
    results["phases"][1]["latency"] = serde_json::json!({});
    let found = compare_with(&results);
    assert!(text(&found).contains("regression: measure: p99 ms is not there in B"));
    // Another version may have more fields, and fewer.
    results["workload"]["new"] = 1.into();
    results.as_object_mut().unwrap().remove("notes");
    results["target"]["class"] = "object".into();
    let found = compare_with(&results);
    assert!(text(&found).contains("class of A: local; of B: object"), "{}", text(&found));
    results["ended"] = serde_json::json!({"how": "target_failed", "why": "gone"});
    let found = compare_with(&results);
    assert_eq!(found.status.code(), Some(1), "{}", text(&found));
    assert!(text(&found).contains("B: records: ") && text(&found).contains("failed: gone"));
    results["verification"]["lost"] = 5000.into();
    let found = compare_with(&results);
    assert_eq!(found.status.code(), Some(3), "{}", text(&found));
    assert!(text(&found).contains("5000 lost"), "{}", text(&found));
    std::fs::write(&worse, "{\"format\": 99}").unwrap();
    let other = compare(&worse);
    assert_eq!(other.status.code(), Some(2));
    assert!(text(&other).contains("format 99"), "{}", text(&other));
}

/// Starts a run of a minute, and waits until load is on.
fn long_run(folder: &Path) -> Child {
    let workload = workload(folder, SMALL);
    let mut child = run(folder, &workload, &["--set", "duration=60s"]).spawn().unwrap();
    let mut err = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("records/s") {
        line.clear();
        assert!(err.read_line(&mut line).unwrap() > 0, "the run says how it goes");
    }
    // The pipe must not fill up.
    std::thread::spawn(move || err.read_to_end(&mut Vec::new()));
    child
}

fn kill(signal: &str, pid: u32) {
    let sent = Command::new("kill").args([signal, &pid.to_string()]).status().unwrap();
    assert!(sent.success());
}

#[test]
fn ctrl_c_gives_a_report_of_what_there_was() {
    let folder = tempfile::tempdir().unwrap();
    let child = long_run(folder.path());
    kill("-INT", child.id());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", text(&output));
    let results = results(folder.path());
    assert_eq!(results["ended"]["how"], "interrupted");
    assert!(results["verification"]["unfinished"].as_str().unwrap().contains("interrupted"));
    assert!(text(&output).contains("interrupted"));
}

#[test]
fn a_target_that_dies_is_named_and_the_report_comes() {
    let folder = tempfile::tempdir().unwrap();
    let child = long_run(folder.path());
    kill("-KILL", broker_of(child.id()));
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let results = results(folder.path());
    assert_eq!(results["ended"]["how"], "target_failed");
    assert!(results["ended"]["why"].as_str().unwrap().contains("signal: 9"));
    assert!(results["verification"]["acked"].as_u64().unwrap() > 0);
}

/// The child of any thread of a process.
fn broker_of(pid: u32) -> u32 {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let children = threads.map(|thread| std::fs::read_to_string(thread.path().join("children")));
    let children: String = children.flatten().collect();
    children.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn what_is_wrong_is_said_in_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let workload = workload(folder.path(), SMALL);
    let fails = |args: &[&str], code: i32, says: &str| {
        let output = Command::new(PROGRAM).args(args).output().unwrap();
        let said = text(&output);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        assert!(said.contains(says), "{args:?}: {said}");
        assert!(!said.contains("panicked"), "{said}");
    };
    let file = workload.to_str().unwrap();
    let out = folder.path().join("out");
    let out = out.to_str().unwrap();
    fails(&["run", "missing.toml"], 2, "missing.toml: cannot be read");
    fails(&["run", file, "--set", "produce.rate=fast"], 2, "\"fast\" is no rate");
    fails(&["run", file, "--set", "topics.partitions=0"], 2, "topics.partitions");
    fails(&["run", file, "--out", out, "--target", "kafka"], 2, "HOST:PORT");
    fails(&["run", file, "--out", out, "--target", "127.0.0.1:1"], 1, "cannot be reached");
    fails(&["run", file, "--out", out, "--target", "levee:/missing"], 2, "cannot be started");
    fails(&["run", file, "--out", file], 1, "choose another with --out");
    fails(&["compare", file, file, "--threshold", "nan"], 2, "is no percentage");
    fails(&["compare", file, file], 2, "is no results.json");
    assert!(!folder.path().join("out").exists(), "nothing half done is left");
}

#[test]
fn a_closed_pipe_is_no_error() {
    let folder = tempfile::tempdir().unwrap();
    let workload = workload(folder.path(), SMALL);
    let mut child = Command::new(PROGRAM)
        .arg("check")
        .arg(&workload)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(!text(&output).contains("panicked"), "{}", text(&output));
    assert_eq!(output.status.code(), Some(0));
}
