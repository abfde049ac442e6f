//! A broker as a process of its own: the built binary, started, stopped, killed and paused.

use std::path::{Path, PathBuf};
use std::process::{Command as Plain, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

const START_LIMIT: Duration = Duration::from_secs(60);
const METRIC_LIMIT: Duration = Duration::from_secs(30);

/// An address on a free port.
const ANY: &str = "127.0.0.1:0";

/// The `levee` binary of this checkout, built with the tests' own profile.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(given) = std::env::var_os("LEVEE_BIN") {
            return given.into();
        }
        let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
        let mut build = Plain::new(env!("CARGO"));
        // Of the whole workspace, as the tests are built: else half of it is compiled again.
        build.args(["build", "--quiet", "--locked", "--workspace", "--bin", "levee"]);
        build.args(["--manifest-path", manifest]);
        assert!(build.status().expect("cargo runs").success(), "the levee binary builds");
        // This test is in TARGET/PROFILE/deps.
        let test = std::env::current_exe().expect("a test has a path");
        let profile = test.ancestors().nth(2).expect("target/PROFILE/deps/TEST");
        profile.join("levee")
    })
}

/// A broker process. Killed when dropped.
pub struct Broker {
    child: Child,
    args: Vec<String>,
    env: Vec<(String, String)>,
    pub grpc: String,
    pub http: String,
    pub kafka: String,
    log: Arc<Mutex<Vec<String>>>,
}

/// How a start ended without a broker.
#[derive(Debug)]
pub struct NotStarted {
    pub code: Option<i32>,
    pub log: String,
}

impl Broker {
    /// `levee dev --data DIR` with more arguments, on free ports; waits until it serves.
    pub async fn dev(data: &Path, more: &[&str]) -> Self {
        match Self::try_dev(data, more).await {
            Ok(broker) => broker,
            Err(failed) => panic!("the broker did not start: {failed:?}"),
        }
    }

    /// As `dev`, with the data folder on a disk of its own of so many megabytes, which ends with
    /// the process. Nothing where this machine lets nobody mount one.
    pub async fn on_small_disk(data: &Path, mb: u32, more: &[&str]) -> Option<Self> {
        let may = Plain::new("unshare").args(["-rm", "true"]).status();
        if !may.is_ok_and(|status| status.success()) {
            return None;
        }
        let script = "mount -t tmpfs -o size=$0m levee \"$1\" && shift && exec \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["-rm", "sh", "-c", script, &mb.to_string()]).arg(data).arg(binary());
        command.args(["dev", "--data"]).arg(data).args(more);
        let args = more.iter().map(|arg| (*arg).to_owned()).collect();
        match Self::run(command, args, Vec::new(), [ANY, ANY]).await {
            Ok(broker) => Some(broker),
            Err(failed) => panic!("the broker did not start: {failed:?}"),
        }
    }

    pub async fn try_dev(data: &Path, more: &[&str]) -> Result<Self, NotStarted> {
        let mut args: Vec<String> = vec!["dev".into(), "--data".into(), data.display().to_string()];
        args.extend(more.iter().map(|arg| (*arg).to_owned()));
        Self::start(args, Vec::new(), [ANY, ANY]).await
    }

    /// `levee broker --config FILE`.
    pub async fn production(config: &Path) -> Self {
        let args = vec!["broker".into(), "--config".into(), config.display().to_string()];
        match Self::start(args, Vec::new(), [ANY, ANY]).await {
            Ok(broker) => broker,
            Err(failed) => panic!("the broker did not start: {failed:?}"),
        }
    }

    async fn start(
        args: Vec<String>,
        env: Vec<(String, String)>,
        addresses: [&str; 2],
    ) -> Result<Self, NotStarted> {
        let mut command = Command::new(binary());
        command.args(&args);
        Self::run(command, args, env, addresses).await
    }

    async fn run(
        mut command: Command,
        args: Vec<String>,
        env: Vec<(String, String)>,
        [grpc, kafka]: [&str; 2],
    ) -> Result<Self, NotStarted> {
        command.args(["--grpc", grpc, "--http", ANY, "--kafka", kafka]).envs(env.clone());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.kill_on_drop(true).spawn().expect("the binary runs");
        let log: Arc<Mutex<Vec<String>>> = Arc::default();
        let mut err = BufReader::new(child.stderr.take().expect("piped")).lines();
        let kept = log.clone();
        tokio::spawn(async move {
            while let Ok(Some(line)) = err.next_line().await {
                kept.lock().push(line);
            }
        });
        let mut out = BufReader::new(child.stdout.take().expect("piped")).lines();
        let line = tokio::time::timeout(START_LIMIT, out.next_line()).await;
        let Ok(Ok(Some(line))) = line else {
            let ended = tokio::time::timeout(Duration::from_secs(5), child.wait()).await;
            let code = ended.ok().and_then(Result::ok).and_then(|status| status.code());
            // The log's last lines may still be on their way.
            tokio::time::sleep(Duration::from_millis(50)).await;
            return Err(NotStarted { code, log: log.lock().join("\n") });
        };
        assert!(line.starts_with("ready "), "the first line is the ready line: {line}");
        let word = |name: &str| {
            let found = line.split_whitespace().find_map(|word| word.strip_prefix(name));
            found.unwrap_or_else(|| panic!("{name} in {line}")).to_owned()
        };
        // Keeps the pipe open; nothing more is expected on it.
        tokio::spawn(async move { while let Ok(Some(_)) = out.next_line().await {} });
        let (grpc, http, kafka) = (word("grpc="), word("http="), word("kafka="));
        Ok(Self { grpc, http, kafka, child, args, env, log })
    }

    pub fn pid(&self) -> i32 {
        self.child.id().map_or(0, |id| id as i32)
    }

    /// SIGKILL, and waits until it is gone.
    pub async fn kill9(&mut self) {
        self.child.kill().await.expect("killed");
    }

    pub fn pause(&self) {
        self.signal("STOP");
    }

    pub fn resume(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let pid = self.pid().to_string();
        let sent = Plain::new("kill").args([&format!("-{name}"), &pid]).status();
        assert!(sent.expect("kill runs").success(), "signal {name} to {pid}");
    }

    /// The same broker again, at the same addresses for gRPC and Kafka.
    pub async fn restart(&mut self) {
        let (args, env) = (self.args.clone(), self.env.clone());
        let (grpc, kafka) = (self.grpc.clone(), self.kafka.clone());
        *self = match Self::start(args, env, [&grpc, &kafka]).await {
            Ok(broker) => broker,
            Err(failed) => panic!("the broker did not start again: {failed:?}"),
        };
    }

    /// SIGTERM; gives the exit code.
    pub async fn terminate(&mut self) -> Option<i32> {
        self.signal("TERM");
        self.wait(Duration::from_secs(60)).await
    }

    /// Waits until the process ends by itself.
    pub async fn wait(&mut self, limit: Duration) -> Option<i32> {
        let ended = tokio::time::timeout(limit, self.child.wait()).await;
        ended
            .unwrap_or_else(|_| panic!("ended within {limit:?}; log:\n{}", self.log()))
            .expect("waited for")
            .code()
    }

    pub fn log(&self) -> String {
        self.log.lock().join("\n")
    }

    /// What its HTTP address answers, head and body.
    pub async fn http(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(&self.http).await.expect("the HTTP address listens");
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("it takes a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("it answers in text");
        answer
    }

    /// The sum of a metric over all its labels, or over those that begin as `name` does.
    pub async fn metric(&self, name: &str) -> f64 {
        let metrics = self.http("/metrics").await;
        let values = metrics.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            let is_it = name.ends_with('}') || rest.starts_with([' ', '{']);
            line.rsplit(' ').next().filter(|_| is_it)?.parse::<f64>().ok()
        });
        values.sum()
    }

    /// Waits until a metric is as it should be.
    pub async fn until_metric(&self, name: &str, is_so: impl Fn(f64) -> bool) {
        let began = Instant::now();
        loop {
            let value = self.metric(name).await;
            if is_so(value) {
                return;
            }
            assert!(began.elapsed() < METRIC_LIMIT, "{name} is {value} for {METRIC_LIMIT:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of broker {} ---\n{}", self.pid(), self.log());
        }
    }
}
