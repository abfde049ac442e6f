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

/// More than one stream of it takes: as fast as it goes.
const S2_FULL_MIB: u64 = 4096;
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
            Self::S2 => (&["s2"], "`cargo install s2-cli`"),
            Self::Iggy => (&["iggy-server", "iggy-bench"], "build them from Apache Iggy's sources"),
        }
    }
}

/// Why a peer cannot take part. `folder`: where its programs are, besides the usual places.
pub fn missing(peer: Peer, folder: Option<&Path>, workload: &Workload) -> Option<String> {
    let (programs, install) = peer.programs();
    if let Some(name) = programs.iter().find(|name| find(name, folder).is_none()) {
        return Some(format!("{}: {name} is not installed: {install}", peer.name()));
    }
    let is_plain = workload.search.is_none()
        && workload.phases.is_empty()
        && workload.catch_up.bytes.0 == 0
        && workload.tail.subscriptions == 0;
    (!is_plain).then(|| format!("{}: its tool knows no phases, search, readers", peer.name()))
}

/// One round, of a peer that is not missing.
pub async fn measure(peer: Peer, folder: Option<&Path>, workload: &Workload) -> Result<Outcome> {
    let program = |name: &str| {
        find(name, folder).ok_or_else(|| Error::failed(format!("{name} is not there any more")))
    };
    let data = tempfile::tempdir()
        .map_err(|error| Error::failed(format!("no folder for {}: {error}", peer.name())))?;
    match peer {
        Peer::S2 => s2(&program("s2")?, &data, workload).await,
        Peer::Iggy => {
            iggy(&program("iggy-server")?, &program("iggy-bench")?, &data, workload).await
        }
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
    let mib = match workload.produce.rate {
        Rate::PerSecond(rate) => (rate * record).div_ceil(1 << 20).max(1),
        Rate::Full => S2_FULL_MIB,
    };
    bench.args(["--target-mibps", &mib.to_string()]);
    for command in [&mut make, &mut bench] {
        command.env("S2_ACCOUNT_ENDPOINT", &endpoint).env("S2_BASIN_ENDPOINT", &endpoint);
        command.env("S2_ACCESS_TOKEN", "none").env("NO_COLOR", "1");
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

/// Words of `s2 bench`: `Write: 64.31 MiB/s, 65853 records/s (..)`, then `Ack Latency Statistics`
/// over rows such as `p50    :    1.23ms`, with those of the end-to-end latency beside or below.
fn s2_figures(text: &str, record: u64) -> Option<Vec<Figure>> {
    let line = |name: &str| {
        text.lines().rev().find(|line| line.trim_start().to_lowercase().starts_with(name))
    };
    let mib = number_before(line("write")?, "MiB/s")?;
    let mut figures =
        vec![figure("records/s", mib * f64::from(1 << 20) / record.max(1) as f64, true)];
    let acks = text.rsplit("Ack Latency").next().unwrap_or_default();
    for quantile in ["p50", "p99"] {
        let found = acks.lines().find(|line| line.trim_start().starts_with(quantile));
        if let Some(ms) = found.and_then(milliseconds) {
            figures.push(figure(&format!("{quantile} ms"), ms, false));
        }
    }
    Some(figures)
}

/// Words of `iggy-bench`: `Producers Results: Total throughput: 237.10 MB/s, 231543 messages/s,
/// .., p50 latency: 0.37 ms, .., p99 latency: 8.01 ms, ..`.
fn iggy_figures(text: &str) -> Option<Vec<Figure>> {
    let line = text.lines().rev().find(|line| line.contains("messages/s"))?;
    let mut figures = vec![figure("records/s", number_before(line, "messages/s")?, true)];
    for quantile in ["p50", "p99"] {
        let behind = line.split(&format!("{quantile} latency")).nth(1);
        if let Some(ms) = behind.and_then(milliseconds) {
            figures.push(figure(&format!("{quantile} ms"), ms, false));
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

    fn values(figures: Option<Vec<Figure>>) -> Vec<f64> {
        figures.unwrap().iter().map(|figure| figure.value).collect()
    }

    #[test]
    fn the_words_of_each_tool_are_understood() {
        let s2 = "Write: 64.00 MiB/s, 65,536 records/s (671088640 bytes in 10.00s)\n\
            Read: 60.00 MiB/s, 61440 records/s\n\n\
            Ack Latency Statistics (n=9)      End-to-End Latency Statistics (n=9)\n\
            p50    :    850.0us               p50    :     99.00ms\n\
            p99    :    200.25ms              p99    :     1.00s\n";
        assert_eq!(values(s2_figures(s2, 1024)), [65_536.0, 0.85, 200.25]);
        let iggy = "INFO Producers Results: Total throughput: 237.10 MB/s, 231543 messages/s, \
            average throughput per Producer: 59.27 MB/s, p50 latency: 0.37 ms, p90 latency: 1.00 \
            ms, p99 latency: 8.01 ms, p999 latency: 9.00 ms\n";
        assert_eq!(values(iggy_figures(iggy)), [231_543.0, 0.37, 8.01]);
        assert!(s2_figures("nothing", 1).is_none() && iggy_figures("").is_none());
    }

    #[test]
    fn times_are_read_whatever_their_unit() {
        assert_eq!(milliseconds(": 1.5 s"), Some(1500.0));
        assert_eq!(milliseconds("p99: 250 µs"), Some(0.25));
        assert_eq!(milliseconds("nothing"), None);
    }

    #[test]
    fn a_peer_that_cannot_take_part_says_why() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["iggy-server", "iggy-bench"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let missing = |of: &Workload| missing(Peer::Iggy, Some(folder.path()), of);
        assert_eq!(missing(&Workload::default()), None);
        let search = Workload { search: Some(Default::default()), ..Workload::default() };
        assert!(missing(&search).unwrap().contains("knows no phases"));
        let name = "a-program-that-nobody-has";
        assert!(find(name, Some(folder.path())).is_none());
    }
}
