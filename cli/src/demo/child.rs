//! A broker as a process of its own: this same binary, as `levee dev`.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{ChildStdout, Command};

use super::START_LIMIT;
use crate::error::CliError;

/// Lines of its log that are kept for the day it fails.
const LINES_KEPT: usize = 50;

pub(super) struct Child {
    process: tokio::process::Child,
    data: PathBuf,
    bucket: Option<String>,
    pub(super) grpc: String,
    log: Arc<Mutex<Vec<String>>>,
    /// Stays open, as the broker may write to it.
    _out: Lines<BufReader<ChildStdout>>,
}

impl Child {
    /// Starts it on `grpc`, or on any free port, and waits until it serves.
    pub(super) async fn start(
        data: &Path,
        grpc: Option<&str>,
        bucket: Option<&str>,
    ) -> Result<Self, CliError> {
        let binary = std::env::current_exe()?;
        let mut command = Command::new(binary);
        command.arg("dev").arg("--data").arg(data);
        command.args([
            "--grpc",
            grpc.unwrap_or("127.0.0.1:0"),
            "--http",
            "127.0.0.1:0",
            "--kafka",
            "none",
        ]);
        if let Some(bucket) = bucket {
            command.args(["--bucket", bucket]);
        }
        // What the environment says is meant for another broker: its bucket must not be joined.
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"LEVEE_") && name != "LEVEE_LOG" {
                command.env_remove(name);
            }
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.kill_on_drop(true).spawn()?;
        let log: Arc<Mutex<Vec<String>>> = Arc::default();
        let (Some(out), Some(err)) = (process.stdout.take(), process.stderr.take()) else {
            return Err(CliError::new("the broker has no output"));
        };
        let kept = log.clone();
        tokio::spawn(async move {
            let mut lines = BufReader::new(err).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let mut kept = kept.lock();
                if kept.len() == LINES_KEPT {
                    kept.remove(0);
                }
                kept.push(line);
            }
        });
        let mut out = BufReader::new(out).lines();
        let ready = tokio::time::timeout(START_LIMIT, out.next_line()).await;
        let line = match ready {
            Ok(Ok(Some(line))) => line,
            _ => {
                let words = log.lock().join("\n");
                return Err(CliError::new(format!("the broker did not start:\n{words}")));
            }
        };
        let grpc = line.split_whitespace().find_map(|word| word.strip_prefix("grpc="));
        let grpc =
            grpc.ok_or_else(|| CliError::new(format!("not a ready line: {line}")))?.to_owned();
        let (data, bucket) = (data.to_owned(), bucket.map(str::to_owned));
        Ok(Self { process, data, bucket, grpc, log, _out: out })
    }

    pub(super) fn id(&self) -> u32 {
        self.process.id().unwrap_or_default()
    }

    /// SIGKILL: no goodbye.
    pub(super) async fn kill(&mut self) -> Result<(), CliError> {
        Ok(self.process.kill().await?)
    }

    /// The same broker again: same data, same address.
    pub(super) async fn restart(&mut self) -> Result<(), CliError> {
        let grpc = self.grpc.clone();
        *self =
            Self::start(&self.data.clone(), Some(&grpc), self.bucket.clone().as_deref()).await?;
        Ok(())
    }

    /// SIGTERM, and waits until it has drained.
    pub(super) async fn terminate(&mut self) -> Result<(), CliError> {
        let id = self.process.id().and_then(|id| i32::try_from(id).ok());
        if let Some(id) = id.and_then(rustix::process::Pid::from_raw) {
            rustix::process::kill_process(id, rustix::process::Signal::TERM)
                .map_err(|error| CliError::new(format!("the broker cannot be stopped: {error}")))?;
        }
        match tokio::time::timeout(Duration::from_secs(40), self.process.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(CliError::new(format!("the broker ended with {status}"))),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(CliError::new("the broker did not drain within 40 s")),
        }
    }

    pub(super) fn last_words(&self) -> String {
        self.log.lock().join("\n")
    }
}
