//! s2 lite beside Levee, measured by its own tool, `s2 bench`, whose output is read.
//!
//! Owns: how the tool is called for a workload, and what its words mean. Where it is not installed,
//! or cannot do what the workload asks for, it is skipped with a reason. Only what both sides
//! measure alike is given: rates, and ack latencies at a given rate.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::compare::Figure;
use crate::error::{Error, Result};
use crate::target::free_port;
use crate::workload::Workload;
use crate::workload::values::Rate;

/// More than one stream of it takes: as fast as it goes. Its rates are whole MiB a second.
const S2_FULL_MIB: u64 = 4096;
/// How long a server may take to listen.
const START_LIMIT: Duration = Duration::from_secs(30);
/// What a tool may take longer than the load that it was asked for.
const TOOL_GRACE: Duration = Duration::from_secs(120);

pub enum Outcome {
    Figures(Vec<Figure>),
    Skipped(String),
}

/// Why it cannot take part. `folder`: where the program is, besides the usual places.
pub fn missing(folder: Option<&Path>, workload: &Workload) -> Option<String> {
    if find("s2", folder).is_none() {
        return Some("s2 is not installed: `cargo install s2-cli`".into());
    }
    let is_plain = workload.search.is_none()
        && workload.phases.is_empty()
        && workload.catch_up.bytes.0 == 0
        && workload.tail.subscriptions == 0;
    (!is_plain).then(|| "s2: its tool knows no phases, search, readers".into())
}

/// One round, where it is not missing. `s2 bench` writes as one stream does.
pub async fn measure(folder: Option<&Path>, workload: &Workload) -> Result<Outcome> {
    let binary = find("s2", folder).ok_or_else(|| Error::failed("s2 is not there any more"))?;
    let data = tempfile::tempdir();
    let data = data.map_err(|error| Error::failed(format!("no folder for s2: {error}")))?;
    let port = free_port()?;
    let mut server = Command::new(&binary);
    server.args(["lite", "--port", &port.to_string(), "--local-root"]).arg(data.path());
    let _server = start(server, port).await?;
    let endpoint = format!("http://127.0.0.1:{port}");
    let basin = "levee-compare";
    let mut make = Command::new(&binary);
    make.args(["create-basin", basin]);
    let mut bench = Command::new(&binary);
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
        Ok(text) => Ok(parsed(&text, record, workload.produce.rate)),
        Err(why) => Ok(Outcome::Skipped(why)),
    }
}

fn find(name: &str, folder: Option<&Path>) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = folder.map(Path::to_owned).into_iter().chain(std::env::split_paths(&path));
    folders.map(|folder| folder.join(name)).find(|file| file.is_file())
}

fn parsed(text: &str, record: u64, rate: Rate) -> Outcome {
    match figures(text, record, rate) {
        Some(figures) => Outcome::Figures(figures),
        None => {
            let start: String = text.chars().take(200).collect();
            Outcome::Skipped(format!("its output is not understood: {start}"))
        }
    }
}

fn figure(name: &str, value: f64, more_is_better: bool) -> Figure {
    Figure { name: format!("measure: {name}"), value: Some(value), more_is_better }
}

/// Words of `s2 bench`: `Write: 64.31 MiB/s, 65853 records/s (..)`, then `Ack Latency Statistics`
/// over rows such as `p50    :    1.23ms`, with those of the end-to-end latency beside or below.
fn figures(text: &str, record: u64, rate: Rate) -> Option<Vec<Figure>> {
    let line = |name: &str| {
        text.lines().rev().find(|line| line.trim_start().to_lowercase().starts_with(name))
    };
    let mib = number_before(line("write")?, "MiB/s")?;
    let mut figures =
        vec![figure("records/s", mib * f64::from(1 << 20) / record.max(1) as f64, true)];
    if rate == Rate::Full {
        // Those of a full queue, and each program has another one.
        return Some(figures);
    }
    let acks = text.rsplit("Ack Latency").next().unwrap_or_default();
    for quantile in ["p50", "p99"] {
        let found = acks.lines().find(|line| line.trim_start().starts_with(quantile));
        if let Some(ms) = found.and_then(milliseconds) {
            figures.push(figure(&format!("{quantile} ms"), ms, false));
        }
    }
    Some(figures)
}

/// The last number in front of a unit.
fn number_before(text: &str, unit: &str) -> Option<f64> {
    let before = text.split(unit).next()?.trim_end();
    before.rsplit(|c: char| !c.is_ascii_digit() && c != '.').next()?.parse().ok()
}

/// The first time behind a name and a colon.
fn milliseconds(text: &str) -> Option<f64> {
    let text = text.split_once(':')?.1.trim_start_matches(|c: char| !c.is_ascii_digit());
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
    let failed = |why: String| Error::failed(format!("starting s2: {why}"));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_the_tool_are_understood() {
        let text = "Write: 64.00 MiB/s, 65536 records/s (671088640 bytes in 10.00s)\n\
            Read: 60.00 MiB/s, 61440 records/s\n\n\
            Ack Latency Statistics (n=9)      End-to-End Latency Statistics (n=9)\n\
            p50    :  850.00us                p50    :   99.00ms\n\
            p99    :     1.25s                p99    :     1.50s\n";
        let values = |rate| {
            let figures = figures(text, 1024, rate).unwrap();
            figures.iter().filter_map(|figure| figure.value).collect::<Vec<_>>()
        };
        assert_eq!(values(Rate::PerSecond(65_536)), [65_536.0, 0.85, 1250.0]);
        assert_eq!(values(Rate::Full), [65_536.0]);
        assert!(figures("nothing", 1, Rate::Full).is_none());
    }

    #[test]
    fn what_cannot_take_part_says_why() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("s2"), "").unwrap();
        let missing = |of: &Workload| missing(Some(folder.path()), of);
        assert_eq!(missing(&Workload::default()), None);
        let search = Workload { search: Some(Default::default()), ..Workload::default() };
        assert!(missing(&search).unwrap().contains("knows no phases"));
        assert!(find("a-program-that-nobody-has", Some(folder.path())).is_none());
    }
}
