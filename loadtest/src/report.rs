//! Results for people: tables, and files in a folder. Pure from results, but for the writing.

pub mod html;
mod svg;

use std::io::Write;
use std::path::{Path, PathBuf};

use comfy_table::{Table, presets};

use crate::error::{Error, Result};
use crate::results::{Ended, Latency, PhaseResult, Results, Verification};
use crate::workload::Verify;

/// Makes the run's folder: before the run, so that a bad place is known then. Never an old one.
pub fn make_folder(out: &Path, name: &str) -> Result<PathBuf> {
    let failed = |path: &Path, error: std::io::Error| {
        let path = path.display();
        Error::failed(format!("{path} cannot be made: {error}; choose another with --out"))
    };
    std::fs::create_dir_all(out).map_err(|error| failed(out, error))?;
    let name: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    for number in 1.. {
        let folder = out.join(format!("{name}-{number}"));
        match std::fs::create_dir(&folder) {
            Ok(()) => return Ok(folder),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed(&folder, error)),
        }
    }
    Err(Error::failed(format!("{} has no name left", out.display())))
}

/// `results.json` and `report.html`.
pub fn write_files(folder: &Path, results: &Results) -> Result<()> {
    write(&folder.join("results.json"), &(json(results)? + "\n"))?;
    write(&folder.join("report.html"), &(html::page(results) + "\n"))
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text)
        .map_err(|error| Error::failed(format!("{} cannot be written: {error}", path.display())))
}

pub fn json(results: &Results) -> Result<String> {
    serde_json::to_string_pretty(results).map_err(|error| Error::failed(error.to_string()))
}

/// To standard output. A reader that went away, as `head` does, is no error.
pub fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::failed(format!("standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// Everything that a terminal shows at the end.
pub fn text(results: &Results) -> String {
    let mut out = vec![table(results).to_string()];
    out.push(verified(&results.verification));
    if let Some(search) = &results.search {
        let best = search.best.map_or("no rate held".into(), |best| {
            format!("highest rate that held: {best} records/s")
        });
        out.push(format!("{best}; stopped because {}", search.why_it_stopped));
    }
    out.push(conditions(results));
    out.extend(results.notes.iter().map(|note| format!("note: {note}")));
    out.extend(ended(&results.ended));
    out.join("\n")
}

/// Nothing where a run came to its end.
pub fn ended(ended: &Ended) -> Option<String> {
    match ended {
        Ended::Complete => None,
        Ended::Interrupted => Some("interrupted: this is what there was until then".into()),
        Ended::TargetFailed(why) => Some(format!("the target failed: {why}")),
    }
}

const COLUMNS: [&str; 10] = [
    "phase",
    "records/s",
    "MB/s",
    "p50 ms",
    "p90",
    "p99",
    "p99.9",
    "max",
    "service p99",
    "CPU s/GB",
];

fn table(results: &Results) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(COLUMNS);
    table.add_rows(rows(results));
    table
}

/// A phase, and below it what was read in it.
fn rows(results: &Results) -> Vec<[String; 10]> {
    let mut rows = Vec::new();
    for phase in results.shown() {
        let [p50, p90, p99, p999, max] = times(&phase.latency);
        rows.push([
            phase.name.clone(),
            format!("{:.0}", phase.records_per_second),
            format!("{:.1}", phase.mb_per_second),
            p50,
            p90,
            p99,
            p999,
            max,
            ms(phase.service.p99),
            cpu_per_gb(phase),
        ]);
        let mut read = |what: &str, mb: f64, times: [String; 5]| {
            let ([p50, p90, p99, p999, max], none) = (times, String::new);
            let mb = format!("{mb:.1}");
            rows.push([what.into(), none(), mb, p50, p90, p99, p999, max, none(), none()]);
        };
        if let Some(latency) = &phase.end_to_end {
            read("- end to end", phase.tail_mb_per_second, times(latency));
        }
        if phase.catch_up_mb_per_second > 0.0 {
            read("- catch-up reads", phase.catch_up_mb_per_second, Default::default());
        }
    }
    rows
}

fn times(latency: &Latency) -> [String; 5] {
    [latency.p50, latency.p90, latency.p99, latency.p999, latency.max].map(ms)
}

/// p50, p99 and p99.9 in milliseconds.
pub fn percentiles(latency: &Latency) -> String {
    [latency.p50, latency.p99, latency.p999].map(ms).join(" / ")
}

/// Nothing where the target cannot be seen.
pub fn cpu_per_gb(phase: &PhaseResult) -> String {
    phase.cpu_seconds_per_gb.map_or_else(String::new, |cpu| format!("{cpu:.2}"))
}

/// Three digits that matter.
pub fn ms(value: f64) -> String {
    match value {
        value if value < 10.0 => format!("{value:.2}"),
        value if value < 100.0 => format!("{value:.1}"),
        value => format!("{value:.0}"),
    }
}

pub fn verified(verification: &Verification) -> String {
    let found = &verification.findings;
    if verification.mode == Verify::Off {
        return "records: not verified (verify = \"off\")".into();
    }
    if let Some(why) = verification.unfinished.as_ref().filter(|_| found.read == 0) {
        return format!("records: {} acked, none of them verified: {why}", found.acked);
    }
    let counts = format!(
        "records: {} acked, {} read, {} lost, {} duplicated, {} reordered, {} changed",
        found.acked, found.read, found.lost, found.duplicated, found.reordered, found.changed
    );
    let mut also = String::new();
    for (count, what) in [
        (found.unacked, "not acknowledged"),
        (found.unacked_read, "of them there all the same"),
        (found.foreign, "not of this run"),
        (found.not_judged, "not judged"),
    ] {
        if count > 0 {
            also.push_str(&format!(", {count} {what}"));
        }
    }
    match &verification.unfinished {
        Some(why) => format!("{counts}{also}; verification was not finished: {why}"),
        None => format!("{counts}{also} (by {})", verification.by),
    }
}

/// Where the figures come from: without this they mean nothing.
pub fn conditions(results: &Results) -> String {
    let (machine, target) = (&results.machine, &results.target);
    let settings: Vec<_> =
        target.settings.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let settings = if settings.is_empty() { "its defaults".into() } else { settings.join(", ") };
    format!(
        "on {} ({} cores, {:.0} GiB), {}, commit {}\ntarget {} {} at {}, bucket {}, with {settings}\nclass {}: {}\n\
         repeat with: {}",
        machine.cpu,
        machine.cores,
        machine.memory_bytes as f64 / f64::from(1 << 30),
        machine.kernel,
        machine.commit,
        target.spec,
        target.version,
        target.address,
        target.bucket,
        target.class,
        target.sync,
        results.command
    )
}
