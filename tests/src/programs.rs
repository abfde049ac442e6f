//! Programs of other people, run against a broker: every one is a process with a deadline, whose
//! lines are kept and shown when a test fails.
//!
//! Owns: the broker such a test stands on, starting, waiting and ending. How a program comes onto
//! the machine is `tools`; what it must say is said by the tests.

use std::path::{Path, PathBuf};
use std::process::{Command as Plain, Stdio};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::{Mutex, MutexGuard, watch};
use tokio::task::JoinHandle;

use crate::minio::Minio;
use crate::process::Broker;

/// Longer than any program takes, on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(180);

/// Lines of a program that a failed test shows, and characters of each.
const SHOWN: usize = 60;
const WIDTH: usize = 2000;

/// Whoever holds it runs its programs alone: large ones side by side starve each other.
pub async fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::const_new(());
    TURN.lock().await
}

/// A folder of `tests/programs`.
pub fn sources(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("programs").join(name)
}

/// Ends the test with the remedy where a program is missing on this machine.
pub fn needs(program: &str, remedy: &str) {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|folder| folder.join(program).is_file());
    assert!(found, "`{program}` is missing: {remedy}");
}

/// All files below a folder, sorted.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder);
    let entries = entries.unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut all = Vec::new();
    for entry in entries {
        let path = entry.expect("a folder that can be read").path();
        match path.is_dir() {
            true => all.extend(files(&path)),
            false => all.push(path),
        }
    }
    all.sort();
    all
}

/// A name for what is made of these files: other content, other name.
pub fn named(name: &str, files: &[PathBuf]) -> String {
    let mut bytes = Vec::new();
    for file in files {
        let content = std::fs::read(file);
        bytes.extend(content.unwrap_or_else(|error| panic!("{}: {error}", file.display())));
    }
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &bytes);
    format!("{name}-{crc:08x}")
}

/// What the broker of a test stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bucket {
    Folder,
    Minio,
}

/// One broker with its data; all of it is gone when dropped.
pub struct Levee {
    pub broker: Broker,
    data: tempfile::TempDir,
    _minio: Option<Minio>,
}

impl Levee {
    /// `levee dev` with more arguments; records reach the bucket soon.
    pub async fn start(bucket: Bucket, more: &[&str]) -> Self {
        let data = tempfile::tempdir().expect("a temporary folder");
        let minio = (bucket == Bucket::Minio).then(Minio::start);
        let mut args = vec!["--set".to_owned(), "tier.interval=500ms".to_owned()];
        if let Some(minio) = &minio {
            args.extend(["--bucket".to_owned(), minio.url("programs")]);
        }
        args.extend(more.iter().map(|arg| (*arg).to_owned()));
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let broker = Broker::dev(&data.path().join("levee"), &args).await;
        Self { broker, data, _minio: minio }
    }

    /// Where Kafka clients connect.
    pub fn kafka(&self) -> &str {
        &self.broker.kafka
    }

    /// A folder of the test's own, gone with the broker.
    pub fn folder(&self, name: &str) -> PathBuf {
        let folder = self.data.path().join(name);
        std::fs::create_dir_all(&folder).expect("a folder of the test");
        folder
    }

    pub fn file(&self, name: &str, content: &str) -> PathBuf {
        let file = self.folder("files").join(name);
        std::fs::write(&file, content).expect("a file of the test");
        file
    }
}

/// What a program said so far.
#[derive(Default)]
struct Said {
    lines: Vec<(Stream, String)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stream {
    Out,
    Err,
}

/// A program that runs. Killed when dropped.
pub struct Program {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    said: watch::Receiver<Said>,
    readers: Vec<JoinHandle<()>>,
    /// Lines that `says` has passed.
    passed: usize,
}

/// A program that has ended.
pub struct Ended {
    pub name: String,
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

/// Runs a program to its end.
pub async fn run(name: &str, command: Command) -> Ended {
    Program::start(name, command).end(LIMIT).await
}

impl Program {
    /// `name` is what failures call it.
    pub fn start(name: &str, mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.kill_on_drop(true).spawn();
        let mut child = child.unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        let (tell, said) = watch::channel(Said::default());
        let (out, err) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
        let readers = vec![
            tokio::spawn(keep(out, Stream::Out, tell.clone())),
            tokio::spawn(keep(err, Stream::Err, tell)),
        ];
        let stdin = child.stdin.take();
        Self { name: name.to_owned(), child, stdin, said, readers, passed: 0 }
    }

    /// Writes a line to the program.
    pub async fn feed(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("its input is open");
        let bytes = format!("{line}\n");
        stdin.write_all(bytes.as_bytes()).await.expect("the program reads");
        stdin.flush().await.expect("the program reads");
    }

    /// Waits for a line with `part` in it, after the one that was waited for before.
    pub async fn says(&mut self, part: &str) -> String {
        self.line(LIMIT, |line| line.contains(part))
            .await
            .unwrap_or_else(|| panic!("{} does not say `{part}`:\n{}", self.name, self.tail()))
    }

    /// Waits until it has written so many lines.
    pub async fn wrote(&mut self, lines: usize) {
        let count = |said: &Said| said.lines.iter().filter(|line| line.0 == Stream::Out).count();
        let enough = self.said.wait_for(|said| count(said) >= lines);
        let is_there = matches!(tokio::time::timeout(LIMIT, enough).await, Ok(Ok(_)));
        let there = count(&self.said.borrow());
        assert!(is_there, "{} wrote {there} of {lines} lines:\n{}", self.name, self.tail());
    }

    /// The next line that is `wanted`, on either stream; nothing where none comes.
    pub async fn line(&mut self, limit: Duration, wanted: impl Fn(&str) -> bool) -> Option<String> {
        let search = async {
            loop {
                let found = {
                    let said = self.said.borrow_and_update();
                    let at = said.lines.iter().skip(self.passed).position(|line| wanted(&line.1));
                    match at {
                        Some(at) => {
                            self.passed += at + 1;
                            Some(said.lines[self.passed - 1].1.clone())
                        }
                        None => {
                            self.passed = said.lines.len();
                            None
                        }
                    }
                };
                if found.is_some() {
                    return found;
                }
                // Both streams have ended.
                self.said.changed().await.ok()?;
            }
        };
        tokio::time::timeout(limit, search).await.ok().flatten()
    }

    /// Closes its input and waits until it ends by itself.
    pub async fn end(mut self, limit: Duration) -> Ended {
        self.stdin = None;
        let Ok(status) = tokio::time::timeout(limit, self.child.wait()).await else {
            panic!("{} has not ended within {limit:?}:\n{}", self.name, self.tail());
        };
        let code = status.expect("waited for").code();
        for reader in self.readers.drain(..) {
            // A grandchild may hold the stream open: what is there by now must do.
            let _ = tokio::time::timeout(Duration::from_secs(5), reader).await;
        }
        Ended {
            code,
            out: self.text(Some(Stream::Out)),
            err: self.text(Some(Stream::Err)),
            name: std::mem::take(&mut self.name),
        }
    }

    /// SIGTERM, and waits until it has ended.
    pub async fn terminate(self) -> Ended {
        let pid = self.child.id().expect("it runs").to_string();
        let sent = Plain::new("kill").args(["-TERM", &pid]).status();
        assert!(sent.expect("kill runs").success(), "SIGTERM to {}", self.name);
        self.end(LIMIT).await
    }

    /// SIGKILL; gives what it had said by then.
    pub async fn kill9(mut self) -> Ended {
        self.child.start_kill().expect("killed");
        self.end(LIMIT).await
    }

    /// Everything it said so far.
    pub fn said(&self) -> String {
        self.text(None)
    }

    fn text(&self, stream: Option<Stream>) -> String {
        let said = self.said.borrow();
        let lines = said.lines.iter().filter(|line| stream.is_none_or(|wanted| wanted == line.0));
        lines.map(|line| line.1.as_str()).collect::<Vec<_>>().join("\n")
    }

    fn tail(&self) -> String {
        tail(&self.text(None))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if std::thread::panicking() && !self.name.is_empty() {
            eprintln!("--- {} ---\n{}", self.name, self.tail());
        }
    }
}

impl Ended {
    /// What it wrote; the test fails where the program did.
    pub fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{} failed:\n{}", self.name, self.tail());
        self.out
    }

    /// All it said; the test fails where the program did not.
    pub fn failed(self) -> String {
        assert_ne!(self.code, Some(0), "{} did not fail:\n{}", self.name, self.tail());
        format!("{}\n{}", self.out, self.err)
    }

    fn tail(&self) -> String {
        format!("{}\n--- its errors ---\n{}", tail(&self.out), tail(&self.err))
    }
}

fn tail(text: &str) -> String {
    let start = text.rmatch_indices('\n').nth(SHOWN - 1).map_or(0, |(at, _)| at + 1);
    let lines = text[start..].lines().map(|line| match line.char_indices().nth(WIDTH) {
        Some((end, _)) => &line[..end],
        None => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

async fn keep(from: impl AsyncRead + Unpin, stream: Stream, tell: watch::Sender<Said>) {
    let mut from = BufReader::new(from);
    let mut bytes = Vec::new();
    while matches!(from.read_until(b'\n', &mut bytes).await, Ok(read) if read > 0) {
        let line = String::from_utf8_lossy(&bytes).trim_end_matches(['\r', '\n']).to_owned();
        tell.send_modify(|said| said.lines.push((stream, line)));
        bytes.clear();
    }
}
