//! Running the `levee` binary: with input, to its end, by signals.

use std::process::Stdio;
use std::time::Duration;

use levee_tests::process::binary;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

/// Longer than any command here may take.
pub(super) const LIMIT: Duration = Duration::from_secs(60);
/// Nobody listens there: the port is of no service, and not among those that systems hand out.
pub(super) const NOBODY: &str = "127.0.0.1:1";

/// How a command ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) code: i32,
    pub(super) out: String,
    pub(super) err: String,
}

impl Ended {
    pub(super) fn ok(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.out
    }

    pub(super) fn lines(self) -> Vec<String> {
        self.ok().lines().map(str::to_owned).collect()
    }

    /// What is wrong with how it failed: it must end with `code` and say `says` in one sentence
    /// for people, without a stack or names of Rust.
    pub(super) fn complaint(&self, code: i32, says: &str) -> Option<String> {
        let ugly = ["panicked", "backtrace", "Error {", "Some(", "Status {", "Os {", "RUST_"];
        let is_plain = !ugly.iter().any(|ugly| self.err.contains(ugly));
        let is_short = self.err.lines().count() <= 9;
        let is_right = self.code == code && self.err.contains(says);
        (!is_right || !is_plain || !is_short).then(|| format!("{code} and {says:?}: {self:?}"))
    }

    #[track_caller]
    pub(super) fn fails(self, code: i32, says: &str) {
        assert_eq!(self.complaint(code, says), None);
    }
}

pub(super) fn levee(broker: &str, args: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(args).env("LEVEE_BROKER", broker).env_remove("LEVEE_CONFIG");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

pub(super) async fn ended(mut child: Child, input: Vec<u8>) -> Ended {
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

pub(super) async fn run_with(broker: &str, args: &[&str], input: &[u8]) -> Ended {
    ended(levee(broker, args).spawn().unwrap(), input.to_vec()).await
}

pub(super) async fn run(broker: &str, args: &[&str]) -> Ended {
    run_with(broker, args, b"").await
}

pub(super) fn signal(child: &Child, name: &str) {
    let pid = child.id().unwrap().to_string();
    assert!(std::process::Command::new("kill").args([name, &pid]).status().unwrap().success());
}

/// Waits until a partition ends there.
pub(super) async fn until_end(broker: &str, topic: &str, end: u64) {
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
pub(super) async fn until_it_catches(child: &Child) {
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
pub(super) const NOON: i64 = 1_763_640_000_000;

pub(super) async fn minutes(broker: &str, topic: &str, count: i64) {
    run(broker, &["topic", "create", topic, "-p", "1"]).await.ok();
    let line = |n: i64| format!("{{\"timestamp_ms\":{},\"value\":\"{n}\"}}\n", NOON + n * 60_000);
    let lines: String = (0..count).map(line).collect();
    run_with(broker, &["produce", topic, "--input", "json"], lines.as_bytes()).await.ok();
}
