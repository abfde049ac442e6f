//! What a target uses: from the kernel where it runs here, else from its `/metrics`.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// USER_HZ: 100 on every Linux that Levee runs on.
const TICKS_PER_SECOND: f64 = 100.0;
const SCRAPE_LIMIT: Duration = Duration::from_secs(5);
/// A page of metrics is some hundred kilobytes.
const PAGE_BYTES_MAX: u64 = 16 << 20;

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// Processor time so far.
    pub cpu_seconds: f64,
    pub resident_bytes: u64,
}

/// Of a process of this machine.
pub fn of_process(pid: u32) -> Usage {
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}"));
    let (stat, status) = (read("stat").unwrap_or_default(), read("status").unwrap_or_default());
    Usage { cpu_seconds: cpu(&stat), resident_bytes: resident(&status) }
}

/// User and system time: fields 14 and 15, counted behind the name, which may hold anything.
fn cpu(stat: &str) -> f64 {
    let Some((_, behind)) = stat.rsplit_once(')') else { return 0.0 };
    let fields = behind.split_whitespace().skip(11).take(2);
    fields.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / TICKS_PER_SECOND
}

fn resident(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or_default().saturating_mul(1024)
}

/// Bytes on disk below a folder. What goes away meanwhile counts or not.
pub fn disk_bytes(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let of_entry = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => disk_bytes(&entry.path()),
        // In blocks: pre-written and sparse files count as what they take.
        Ok(meta) => meta.blocks() * 512,
        Err(_) => 0,
    };
    entries.flatten().map(of_entry).sum()
}

/// A page of metrics: name with labels, to value.
pub struct Page {
    pub values: BTreeMap<String, f64>,
}

impl Page {
    pub fn usage(&self) -> Usage {
        let value = |name: &str| self.values.get(name).copied().unwrap_or_default();
        Usage {
            cpu_seconds: value("process_cpu_seconds_total"),
            resident_bytes: value("process_resident_memory_bytes") as u64,
        }
    }
}

/// Nothing where it cannot be asked: a run does not end for that.
pub async fn scrape(http: &str) -> Option<Page> {
    let page = tokio::time::timeout(SCRAPE_LIMIT, get(http)).await.ok()?.ok()?;
    let (head, body) = page.split_once("\r\n\r\n")?;
    head.starts_with("HTTP/1.").then(|| parse(body))
}

/// HTTP/1.0: the answer ends with the connection, and comes in one piece.
async fn get(http: &str) -> std::io::Result<String> {
    let host = http.trim_start_matches("http://");
    let mut stream = TcpStream::connect(host).await?;
    let request = format!("GET /metrics HTTP/1.0\r\nHost: {host}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut page = String::new();
    stream.take(PAGE_BYTES_MAX).read_to_string(&mut page).await?;
    Ok(page)
}

/// Source: Prometheus text format 0.0.4: `name{labels} value`, comments begin with `#`.
fn parse(body: &str) -> Page {
    let lines = body.lines().filter(|line| !line.starts_with('#'));
    let pair = |line: &str| {
        let (name, value) = line.rsplit_once(' ')?;
        Some((name.to_owned(), value.parse().ok()?))
    };
    Page { values: lines.filter_map(pair).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_and_the_brokers_words_are_understood() {
        let stat = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 1 0 9 1 1";
        assert_eq!(cpu(stat), 3.0);
        assert_eq!(resident("Name:\tx\nVmRSS:\t    2048 kB\n"), 2 << 20);
        assert_eq!((cpu("nonsense"), resident("")), (0.0, 0));
        let page = parse("# HELP x\nx{a=\"b c\"} 3\nprocess_cpu_seconds_total 1.5\nbroken\n");
        assert_eq!(page.values["x{a=\"b c\"}"], 3.0);
        assert_eq!((page.values.len(), page.usage().cpu_seconds), (2, 1.5));
    }
}
