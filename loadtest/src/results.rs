//! What a run came to, as `results.json` holds it: one document, versioned.
//!
//! Owns: the format (`loadtest/RESULTS.md` explains it) and where the machine's words come from.
//! Everything that is printed or drawn is made from it alone.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::error::Exit;
use crate::target::About;
use crate::verify::Findings;
use crate::workload::{Verify, Workload};

/// Grows when a reader of an older one would misread it.
pub const FORMAT: u32 = 1;

/// `W`: the workload, as any JSON where a file is read: another version may have other fields.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Results<W = Workload> {
    pub format: u32,
    pub tool: String,
    /// Repeats the run.
    pub command: String,
    /// Seconds since 1970.
    pub started_unix: u64,
    pub workload: W,
    /// That were made for it.
    #[serde(default)]
    pub topics: Vec<String>,
    pub machine: Machine,
    pub target: About,
    pub phases: Vec<PhaseResult>,
    #[serde(default)]
    pub points: Vec<Point>,
    pub verification: Verification,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub search: Option<SearchResult>,
    /// What the target's own counters grew by, warm-up included.
    #[serde(default)]
    pub counters: BTreeMap<String, f64>,
    /// How it ended: `complete`, or why not.
    pub ended: Ended,
    /// What a reader should know before believing the figures.
    #[serde(default)]
    pub notes: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "how", content = "why")]
pub enum Ended {
    Complete,
    Interrupted,
    TargetFailed(String),
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Machine {
    pub cpu: String,
    pub cores: usize,
    pub memory_bytes: u64,
    pub kernel: String,
    /// Of the checkout that this was run in.
    pub commit: String,
    /// Processes that wanted a core in the minute before: the machine was shared above 0.
    pub load_before: f64,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PhaseResult {
    pub name: String,
    pub warm_up: bool,
    pub seconds: f64,
    /// Records a second that were asked for; none at full speed.
    pub rate: Option<u64>,
    pub records: u64,
    pub bytes: u64,
    pub records_per_second: f64,
    pub mb_per_second: f64,
    pub sends: u64,
    pub failed_sends: u64,
    pub unsent: u64,
    /// From when sends were due.
    pub latency: Latency,
    /// From when they were sent.
    pub service: Latency,
    pub end_to_end: Option<Latency>,
    pub tail_mb_per_second: f64,
    pub catch_up_mb_per_second: f64,
    /// Records that were due and not sent: the most, and at the end.
    pub backlog_most: u64,
    pub backlog_end: u64,
    /// Of the target; none where it cannot be seen.
    pub cpu_seconds: Option<f64>,
    /// Per 10^9 bytes that were appended or read.
    pub cpu_seconds_per_gb: Option<f64>,
    /// Of this program.
    pub generator_cpu_seconds: f64,
    pub resident_bytes_most: u64,
    /// Percentile and milliseconds.
    pub curve: Vec<(f64, f64)>,
}

/// Milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Latency {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
    pub mean: f64,
    pub samples: u64,
}

/// One interval of the time series.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Point {
    /// Seconds since the first phase began, at the interval's end.
    pub at: f64,
    pub phase: usize,
    pub records_per_second: f64,
    pub mb_per_second: f64,
    pub tail_mb_per_second: f64,
    pub catch_up_mb_per_second: f64,
    pub p50: f64,
    pub p99: f64,
    pub max: f64,
    pub end_to_end_p99: f64,
    pub backlog: u64,
    pub failed_sends: u64,
    /// Cores that the target kept busy.
    pub cores: f64,
    pub resident_bytes: u64,
    pub disk_bytes: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Verification {
    pub mode: Verify,
    #[serde(flatten)]
    pub findings: Findings,
    /// By whom: read back, tail readers, catch-up readers.
    pub by: String,
    /// Why it was not finished, if it was not.
    pub unfinished: Option<String>,
}

/// What is known of the records of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Each was judged, and is right.
    Right,
    /// Some were lost, duplicated, reordered or changed.
    Wrong,
    /// Not all of them were judged.
    Open,
    /// Nobody wanted to know.
    NotAsked,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SearchResult {
    pub steps: Vec<SearchStep>,
    /// Records a second.
    pub best: Option<u64>,
    pub why_it_stopped: String,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SearchStep {
    pub rate: u64,
    pub reached: f64,
    pub p99: f64,
    pub good: bool,
    pub why: String,
}

impl Latency {
    /// Of a histogram of microseconds.
    pub fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| milliseconds(histogram.value_at_quantile(quantile));
        Self {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: milliseconds(histogram.max()),
            mean: histogram.mean() / 1000.0,
            samples: histogram.len(),
        }
    }
}

pub fn milliseconds(microseconds: u64) -> f64 {
    microseconds as f64 / 1000.0
}

/// Percentiles at which the curve is kept: ever nearer to 100.
pub fn curve(histogram: &Histogram<u64>) -> Vec<(f64, f64)> {
    const NINES: u32 = 6;
    /// Steps to halve what is left.
    const STEPS: u32 = 8;
    if histogram.is_empty() {
        return Vec::new();
    }
    let mut curve = vec![(0.0, milliseconds(histogram.min()))];
    for step in 1..=NINES * STEPS {
        let left = 10f64.powf(-f64::from(step) / f64::from(STEPS));
        // A percentile that is less than one sample from the end says no more than the largest.
        if left * (histogram.len() as f64) < 1.0 {
            break;
        }
        let percentile = 100.0 * (1.0 - left);
        curve.push((percentile, milliseconds(histogram.value_at_percentile(percentile))));
    }
    let last = 100.0 * (1.0 - 1.0 / (histogram.len() as f64).max(2.0));
    curve.push((last, milliseconds(histogram.max())));
    curve
}

impl Verification {
    pub fn standing(&self) -> Standing {
        match self.unfinished {
            _ if self.findings.is_wrong() => Standing::Wrong,
            _ if self.mode == Verify::Off => Standing::NotAsked,
            None if self.findings.not_judged == 0 => Standing::Right,
            _ => Standing::Open,
        }
    }
}

impl<W> Results<W> {
    /// What the exit code says of a run.
    pub fn exit(&self) -> Exit {
        match (self.verification.standing(), &self.ended) {
            (Standing::Wrong, _) => Exit::Wrong,
            (_, Ended::TargetFailed(_)) => Exit::Failed,
            (_, Ended::Interrupted) => Exit::Interrupted,
            (Standing::Open, Ended::Complete) => Exit::Failed,
            (_, Ended::Complete) => Exit::Done,
        }
    }

    /// The phases that a table shows: the warm-ups of a search say nothing.
    pub fn shown(&self) -> impl Iterator<Item = &PhaseResult> {
        self.phases.iter().filter(|phase| !phase.warm_up || self.search.is_none())
    }

    /// The phases that count.
    pub fn measured(&self) -> impl Iterator<Item = &PhaseResult> {
        self.phases.iter().filter(|phase| !phase.warm_up)
    }
}

impl Machine {
    pub fn here() -> Self {
        let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name));
            line.and_then(|line| Some(line.split_once(':')?.1.trim().to_owned()))
        };
        let memory = field(&read("/proc/meminfo"), "MemTotal").unwrap_or_default();
        let memory = memory.trim_end_matches("kB").trim().parse::<u64>().unwrap_or_default();
        let load = read("/proc/loadavg");
        let version = read("/proc/sys/kernel/osrelease");
        Self {
            cpu: field(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| "unknown".into()),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_bytes: memory * 1024,
            kernel: format!("Linux {}", version.trim()),
            commit: commit(),
            load_before: load.split(' ').next().and_then(|l| l.parse().ok()).unwrap_or_default(),
        }
    }
}

/// Of the checkout around the working folder, with a mark where it was changed.
fn commit() -> String {
    let described = std::process::Command::new("git")
        .args(["describe", "--always", "--dirty", "--abbrev=12"])
        .stderr(std::process::Stdio::null())
        .output();
    match described {
        Ok(out) if out.status.success() => String::from_utf8_lossy(&out.stdout).trim().to_owned(),
        _ => "unknown: not run in a checkout".into(),
    }
}

/// Change per hour by the least squares: whether something grows.
pub fn slope_per_hour(points: impl Iterator<Item = (f64, f64)> + Clone) -> Option<f64> {
    let count = points.clone().count() as f64;
    if count < 10.0 {
        return None;
    }
    let mean = |pick: fn((f64, f64)) -> f64| points.clone().map(pick).sum::<f64>() / count;
    let (mean_at, mean_of) = (mean(|(at, _)| at), mean(|(_, of)| of));
    let above: f64 = points.clone().map(|(at, of)| (at - mean_at) * (of - mean_of)).sum();
    let below: f64 = points.map(|(at, _)| (at - mean_at).powi(2)).sum();
    (below > 0.0).then(|| above / below * 3600.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recorder::histogram;

    #[test]
    fn a_curve_goes_as_far_as_there_are_samples() {
        let mut few = histogram();
        (1..=100).for_each(|value| few.record(value * 1000).unwrap());
        let curve = curve(&few);
        assert!(curve.windows(2).all(|pair| pair[0].0 <= pair[1].0 && pair[0].1 <= pair[1].1));
        let (percentile, most) = *curve.last().unwrap();
        assert!((98.9..99.1).contains(&percentile), "{percentile}");
        assert!((99.9..100.2).contains(&most), "{most}");
        assert!(super::curve(&histogram()).is_empty());
    }

    #[test]
    fn growth_is_told_from_noise() {
        let line =
            |slope: f64| (0..100).map(move |at| (f64::from(at), 5.0 + slope * f64::from(at)));
        assert!((slope_per_hour(line(2.0)).unwrap() - 7200.0).abs() < 1e-6);
        assert_eq!(slope_per_hour(line(0.0)).unwrap(), 0.0);
        assert_eq!(slope_per_hour(line(1.0).take(3)), None);
    }
}
