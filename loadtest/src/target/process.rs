//! A broker as a process of its own: started, watched, killed, stopped.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;

use super::usage::{self, Usage};
use super::{About, Started};
use crate::bucket::without_query;
use crate::error::{Error, Result};

const START_LIMIT: Duration = Duration::from_secs(120);
const STOP_LIMIT: Duration = Duration::from_secs(120);
/// Lines of its log that are kept for an error message.
const LOG_LINES: usize = 20;

/// See the module. Killed when dropped.
pub struct Process {
    pub pid: u32,
    pub grpc: String,
    pub http: String,
    pub kafka: String,
    bucket: String,
    pub data: PathBuf,
    binary: PathBuf,
    /// How it ended, once it has.
    ended: watch::Receiver<Option<String>>,
    /// Kills the process, also when it is dropped.
    kill: watch::Sender<bool>,
    /// Removed with the process.
    _folder: Option<TempDir>,
}

impl Process {
    pub async fn start(started: &Started) -> Result<Self> {
        let binary = started.path.clone().map_or_else(beside, Ok)?;
        let failed = |why: String| Error::failed(format!("{} {why}", binary.display()));
        let (data, folder) = match &started.data {
            Some(data) => (data.clone(), None),
            None => {
                let mut made = tempfile::Builder::new();
                made.prefix("levee-load-");
                let made = match &started.within {
                    Some(folder) => made.tempdir_in(folder),
                    None => made.tempdir(),
                };
                let made = made.map_err(|error| failed(format!("has no data folder: {error}")))?;
                (made.path().to_owned(), Some(made))
            }
        };
        let mut command = Command::new(&binary);
        command.arg("dev").arg("--data").arg(&data);
        command.args(["--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--kafka", "127.0.0.1:0"]);
        if let Some(bucket) = &started.bucket {
            command.args(["--bucket", bucket]);
        }
        for (name, value) in &started.set {
            command.args(["--set", &format!("{name}={value}")]);
        }
        without_settings(&mut command);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Ctrl-C is for this program, which ends the broker when the report is written.
        command.process_group(0).kill_on_drop(true);
        let mut child = command.spawn().map_err(|error| {
            Error::usage(format!("{} cannot be started: {error}", binary.display()))
        })?;
        let log = keep_log(&mut child);
        let out = child.stdout.take().ok_or_else(|| failed("has no output".into()))?;
        let mut lines = BufReader::new(out).lines();
        let line = tokio::time::timeout(START_LIMIT, lines.next_line()).await;
        let Ok(Ok(Some(line))) = line else {
            let last = log.lock().join("\n");
            return Err(failed(format!("did not start: {last}")));
        };
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let word = |name: &str| {
            let found = line.split_whitespace().find_map(|word| word.strip_prefix(name));
            let wrong = || failed(format!("did not say that it is ready, but: {line}"));
            found.map(str::to_owned).ok_or_else(wrong)
        };
        let (grpc, http, kafka) = (word("grpc=")?, word("http=")?, word("kafka=")?);
        let bucket = word("bucket=")?;
        let pid = child.id().unwrap_or_default();
        let (kill, ended) = watch_over(child, log);
        Ok(Self { pid, grpc, http, kafka, bucket, data, binary, ended, kill, _folder: folder })
    }

    pub async fn about(&self, started: &Started) -> About {
        let asked = Command::new(&self.binary).arg("--version").output().await;
        let version = asked.map(|out| String::from_utf8_lossy(&out.stdout).trim().to_owned());
        About {
            spec: format!("levee:{}", self.binary.display()),
            version: version.unwrap_or_default(),
            address: self.grpc.clone(),
            bucket: without_query(&self.bucket).into(),
            settings: started.settings(),
            ..About::default()
        }
    }

    pub fn usage(&self) -> Usage {
        usage::of_process(self.pid)
    }

    pub fn ended(&self) -> watch::Receiver<Option<String>> {
        self.ended.clone()
    }

    pub fn is_gone(&self) -> bool {
        self.ended.borrow().is_some()
    }

    /// SIGKILL, and waits until it is gone.
    pub async fn kill(&self) -> Result<()> {
        self.kill.send_replace(true);
        self.gone().await
    }

    /// SIGTERM, and waits until it is gone; one that does not go is killed.
    pub async fn terminate(&self) -> Result<()> {
        if self.is_gone() {
            return Ok(());
        }
        if let Some(pid) = Pid::from_raw(self.pid as i32) {
            let sent = kill_process(pid, Signal::TERM);
            sent.map_err(|error| Error::failed(format!("stopping the broker: {error}")))?;
        }
        let stopped = self.gone().await;
        if stopped.is_err() {
            self.kill().await?;
        }
        stopped
    }

    async fn gone(&self) -> Result<()> {
        let mut ended = self.ended();
        let gone = tokio::time::timeout(STOP_LIMIT, ended.wait_for(Option::is_some)).await;
        match gone.is_ok() {
            true => Ok(()),
            false => Err(Error::failed(format!("the broker did not stop within {STOP_LIMIT:?}"))),
        }
    }
}

/// What the environment says is meant for another broker: its bucket must not be joined, and its
/// settings are not those that a report names.
fn without_settings(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"LEVEE_") && name != "LEVEE_LOG" {
            command.env_remove(name);
        }
    }
}

/// Processes that this program started and that did not end yet.
static RUNNING: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

/// SIGKILL to all that are left: this program is about to end without waiting for anybody.
pub fn kill_all() {
    for pid in std::mem::take(&mut *RUNNING.lock()) {
        if let Some(pid) = Pid::from_raw(pid as i32) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

type Log = Arc<Mutex<Vec<String>>>;

fn keep_log(child: &mut Child) -> Log {
    let log = Log::default();
    if let Some(err) = child.stderr.take() {
        let (mut lines, kept) = (BufReader::new(err).lines(), log.clone());
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                let mut kept = kept.lock();
                if kept.len() == LOG_LINES {
                    kept.remove(0);
                }
                kept.push(line);
            }
        });
    }
    log
}

/// Waits for the end in the background.
fn watch_over(
    mut child: Child,
    log: Log,
) -> (watch::Sender<bool>, watch::Receiver<Option<String>>) {
    let (told, ended) = watch::channel(None);
    let (kill, mut killed) = watch::channel(false);
    let pid = child.id().unwrap_or_default();
    RUNNING.lock().insert(pid);
    tokio::spawn(async move {
        // Told to, or nobody holds the process any more.
        let unwanted = async { drop(killed.wait_for(|kill| *kill).await) };
        let early = tokio::select! {
            biased;
            () = unwanted => None,
            status = child.wait() => Some(status),
        };
        let status = match early {
            Some(status) => status,
            None => {
                let _ = child.start_kill();
                child.wait().await
            }
        };
        RUNNING.lock().remove(&pid);
        let how = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        let last = log.lock().last().cloned().unwrap_or_default();
        told.send_replace(Some(match last.as_str() {
            "" => how,
            last => format!("{how}; its last words: {last}"),
        }));
    });
    (kill, ended)
}

fn beside() -> Result<PathBuf> {
    let here = std::env::current_exe().unwrap_or_default();
    let binary = here.with_file_name("levee");
    match binary.exists() {
        true => Ok(binary),
        false => Err(Error::usage(format!(
            "{} is not there: build it with `cargo build --release`, or name one with \
             `--target levee:PATH`",
            binary.display()
        ))),
    }
}
