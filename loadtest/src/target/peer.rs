//! Other logs, measured by their own tools, whose output is read.
//!
//! Owns: how each tool is called for a workload, and what its words mean. A peer that is not
//! installed, or cannot do what the workload asks for, is skipped with a reason. Only what both
//! sides measure alike is given: rates, and ack latencies at a given rate.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::compare::Figure;
use crate::error::{Error, Result};
use crate::workload::Workload;
use crate::workload::values::Rate;

/// How long a server may take to listen.
const START_LIMIT: Duration = Duration::from_secs(30);
/// What a tool may take longer than the load that it was asked for.
const TOOL_GRACE: Duration = Duration::from_secs(120);

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// s2 lite: `s2 lite` and `s2 bench`.
    S2,
    /// Apache Iggy: `iggy-server` and `iggy-bench`.
    Iggy,
}

pub enum Outcome {
    Figures(Vec<Figure>),
    Skipped(String),
}

impl Peer {
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "s2" => Some(Self::S2),
            "iggy" => Some(Self::Iggy),
            _ => None,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::S2 => "s2 lite",
            Self::Iggy => "Apache Iggy",
        }
    }

    /// Programs that must be there, and how they come there.
    fn programs(self) -> (&'static [&'static str], &'static str) {
        match self {
            Self::S2 => (&["s2"], "cargo install s2-cli"),
            Self::Iggy => (&["iggy-server", "iggy-bench"], "cargo install iggy-server iggy-bench"),
        }
    }
}

/// One round. `folder`: where the peer's programs are, besides the usual places.
pub async fn measure(peer: Peer, folder: Option<&Path>, workload: &Workload) -> Result<Outcome> {
    let (programs, install) = peer.programs();
    let mut found = Vec::new();
    for name in programs {
        match find(name, folder) {
            Some(path) => found.push(path),
            None => {
                let why = format!("{name} is not installed (`{install}`)");
                return Ok(Outcome::Skipped(why));
            }
        }
    }
    if workload.search.is_some() || !workload.phases.is_empty() || workload.catch_up.bytes.0 > 0 {
        let why = "its tool knows no phases, search or backlog".into();
        return Ok(Outcome::Skipped(why));
    }
    let data = tempfile::tempdir()
        .map_err(|error| Error::failed(format!("no folder for {}: {error}", peer.name())))?;
    match peer {
        Peer::S2 => s2(&found[0], &data, workload).await,
        Peer::Iggy => iggy(&found[0], &found[1], &data, workload).await,
    }
}

fn find(name: &str, folder: Option<&Path>) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = folder.map(Path::to_owned).into_iter().chain(std::env::split_paths(&path));
    folders.map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// `s2 bench` writes as one stream does: its rate is that of the whole run.
async fn s2(binary: &Path, data: &TempDir, workload: &Workload) -> Result<Outcome> {
    let port = free_port()?;
    let mut server = Command::new(binary);
    server.args(["lite", "--port", &port.to_string(), "--local-root"]).arg(data.path());
    let _server = start(server, port).await?;
    let endpoint = format!("http://127.0.0.1:{port}");
    let basin = "levee-compare";
    let mut make = Command::new(binary);
    make.args(["create-basin", basin]);
    let mut bench = Command::new(binary);
    let seconds = workload.duration.0.as_secs().max(1);
    let record = workload.record.bytes.0;
    bench.args(["bench", basin, "--record-size", &record.to_string()]);
    bench.args(["--duration", &format!("{seconds}s"), "--catchup-delay", "0s"]);
    if let Rate::PerSecond(rate) = workload.produce.rate {
        let mib = (rate * record).div_ceil(1 << 20).max(1);
        bench.args(["--target-mibps", &mib.to_string()]);
    }
    for command in [&mut make, &mut bench] {
        command.env("S2_ACCOUNT_ENDPOINT", &endpoint).env("S2_BASIN_ENDPOINT", &endpoint);
        command.env("S2_ACCESS_TOKEN", "none");
    }
    let limit = workload.duration.0 * 2 + TOOL_GRACE;
    if let Err(why) = output(make, START_LIMIT).await {
        return Ok(Outcome::Skipped(format!("its basin cannot be made: {why}")));
    }
    match output(bench, limit).await {
        Ok(text) => Ok(parsed(s2_figures(&text, record), &text)),
        Err(why) => Ok(Outcome::Skipped(why)),
    }
}

async fn iggy(server: &Path, bench: &Path, data: &TempDir, workload: &Workload) -> Result<Outcome> {
    let port = free_port()?;
    let mut command = Command::new(server);
    let address = format!("127.0.0.1:{port}");
    command.arg("--with-default-root-credentials").current_dir(data.path());
    command.env("IGGY_SYSTEM_PATH", data.path()).env("IGGY_TCP_ADDRESS", &address);
    for other in ["HTTP", "QUIC", "WEBSOCKET"] {
        command.env(format!("IGGY_{other}_ENABLED"), "false");
    }
    let _server = start(command, port).await?;
    let produce = &workload.produce;
    let record = workload.record.bytes.0;
    // It is told how much to send, not for how long.
    let rate = match produce.rate {
        Rate::PerSecond(rate) => rate,
        Rate::Full => 200_000,
    };
    let bytes = rate * record * workload.duration.0.as_secs().max(1);
    let mut command = Command::new(bench);
    command.args(["--message-size", &record.to_string()]);
    command.args(["--messages-per-batch", &produce.batch_records.to_string()]);
    command.args(["--total-messages-size", &format!("{bytes}B")]);
    if let Rate::PerSecond(rate) = produce.rate {
        command.args(["--rate-limit", &format!("{}B", rate * record)]);
    }
    let producers = produce.producers.to_string();
    command.args(["pinned-producer", "--streams", &producers, "--producers", &producers]);
    command.args(["tcp", "--server-address", &address]).current_dir(data.path());
    match output(command, workload.duration.0 * 4 + TOOL_GRACE).await {
        Ok(text) => Ok(parsed(iggy_figures(&text), &text)),
        Err(why) => Ok(Outcome::Skipped(why)),
    }
}

fn parsed(figures: Option<Vec<Figure>>, text: &str) -> Outcome {
    match figures {
        Some(figures) => Outcome::Figures(figures),
        None => {
            let start: String = text.chars().take(200).collect();
            Outcome::Skipped(format!("its output is not understood: {start}"))
        }
    }
}

fn figure(name: &str, value: f64, more_is_better: bool) -> Figure {
    Figure { name: format!("measure: {name}"), value, more_is_better }
}

/// Words of `s2 bench`: `Write: 12.34 MiB/s, 12636 records/s ...` and tables of `p50`, `p99` in
/// milliseconds or with a unit behind each number.
fn s2_figures(text: &str, record: u64) -> Option<Vec<Figure>> {
    let line = |name: &str| {
        text.lines().rev().find(|line| line.trim_start().to_lowercase().starts_with(name))
    };
    let mib = number_before(line("write")?, "MiB/s")?;
    let mut figures =
        vec![figure("records/s", mib * f64::from(1 << 20) / record.max(1) as f64, true)];
    let acks = text.split("Ack Latency").nth(1).unwrap_or_default();
    for quantile in ["p50", "p99"] {
        let found = acks.lines().find(|line| line.trim_start().starts_with(quantile));
        if let Some(ms) = found.and_then(milliseconds) {
            figures.push(figure(&format!("{quantile} ms"), ms, false));
        }
    }
    Some(figures)
}

/// Words of `iggy-bench`: `Results: Total throughput: 237.1 MB/s, 231,543 messages/s, ..., p50
/// Latency: 0.37 ms, ..., p99 Latency: 8.01 ms, ...`.
fn iggy_figures(text: &str) -> Option<Vec<Figure>> {
    let line = text.lines().rev().find(|line| line.contains("messages/s"))?;
    let mut figures = vec![figure("records/s", number_before(line, "messages/s")?, true)];
    for (word, name) in [("p50 Latency", "p50 ms"), ("p99 Latency", "p99 ms")] {
        let behind = line.to_lowercase();
        let behind = behind.split(&word.to_lowercase()).nth(1).map(str::to_owned);
        if let Some(ms) = behind.as_deref().and_then(milliseconds) {
            figures.push(figure(name, ms, false));
        }
    }
    Some(figures)
}

/// The last number in front of a unit.
fn number_before(text: &str, unit: &str) -> Option<f64> {
    let before = text.split(unit).next()?.trim_end();
    let number = before.rsplit(|c: char| !c.is_ascii_digit() && c != '.' && c != ',').next()?;
    number.replace(',', "").parse().ok()
}

/// The first time in a text, whatever its unit.
fn milliseconds(text: &str) -> Option<f64> {
    let from = text.find([':', '|']).map_or(0, |at| at + 1);
    let text = text[from..].trim_start_matches(|c: char| !c.is_ascii_digit());
    let digits = |c: char| c.is_ascii_digit() || c == '.';
    let end = text.find(|c: char| !digits(c)).unwrap_or(text.len());
    let value: f64 = text[..end].parse().ok()?;
    let unit = text[end..].trim_start();
    match unit {
        unit if unit.starts_with("ms") => Some(value),
        unit if unit.starts_with("us") || unit.starts_with('µ') => Some(value / 1000.0),
        unit if unit.starts_with("ns") => Some(value / 1e6),
        unit if unit.starts_with('s') => Some(value * 1000.0),
        _ => None,
    }
}

/// Ends with the value that is given back.
async fn start(mut command: Command, port: u16) -> Result<Child> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let failed = |why: String| Error::failed(format!("starting the peer: {why}"));
    let child = command.spawn().map_err(|error| failed(error.to_string()))?;
    let until = tokio::time::Instant::now() + START_LIMIT;
    while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
        if tokio::time::Instant::now() > until {
            return Err(failed(format!("nothing listens after {START_LIMIT:?}")));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(child)
}

async fn output(mut command: Command, limit: Duration) -> Result<String, String> {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let done = tokio::time::timeout(limit, command.output()).await;
    let out = done.map_err(|_| format!("its tool took longer than {limit:?}"))?;
    let out = out.map_err(|error| error.to_string())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (said, complained) = (text(&out.stdout), text(&out.stderr));
    match out.status.success() {
        // Progress and tables go here or there.
        true => Ok(format!("{said}\n{complained}")),
        false => {
            let last = complained.lines().chain(said.lines()).rfind(|line| !line.trim().is_empty());
            Err(format!("its tool ended with {}: {}", out.status, last.unwrap_or_default()))
        }
    }
}

fn free_port() -> Result<u16> {
    let failed = |error: std::io::Error| Error::failed(format!("no free port: {error}"));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").map_err(failed)?;
    Ok(listener.local_addr().map_err(failed)?.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_before_their_units() {
        assert_eq!(number_before("Write: 64.31 MiB/s, 65,853 records/s", "MiB/s"), Some(64.31));
        assert_eq!(
            number_before("Write: 64.31 MiB/s, 65,853 records/s", "records/s"),
            Some(65_853.0)
        );
        assert_eq!(milliseconds("p50 | 64 ms"), Some(64.0));
        assert_eq!(milliseconds("p99: 1.5 s"), Some(1500.0));
        assert_eq!(milliseconds("p99: 250 µs"), Some(0.25));
        assert_eq!(milliseconds("nothing"), None);
    }
}
