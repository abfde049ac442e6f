//! What people and scripts see: tables, JSON, notes, progress, questions.
//!
//! Owns: everything that is written to standard output or error by commands that talk to a broker.

use std::fmt::Display;
use std::io::{BufRead, IsTerminal, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use clap::ValueEnum;
use comfy_table::{Cell, CellAlignment, Table, presets};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rustix::event::{PollFd, PollFlags, poll};
use tokio::sync::oneshot;

use crate::codes::Code;
use crate::error::CliError;

/// How a command answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// The flag for it.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct OutputArgs {
    /// Tables for people, or JSON for programs.
    #[arg(long, value_enum, default_value = "text", value_name = "FORM")]
    pub output: Output,
}

/// A table: columns of numbers are aligned to the right.
pub fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(head.to_vec());
    for row in rows {
        table.add_row(row.into_iter().map(|text| {
            let is_number = text.starts_with(|first: char| first.is_ascii_digit());
            let alignment = if is_number { CellAlignment::Right } else { CellAlignment::Left };
            Cell::new(text).set_alignment(alignment)
        }));
    }
    table
}

/// Writes to standard output; a reader that went away is told by the error.
pub fn print(text: impl Display) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")?;
    Ok(out.flush()?)
}

pub fn print_json(value: &serde_json::Value) -> Result<(), CliError> {
    print(format_args!("{value:#}"))
}

/// To standard error, beside the answer. Nobody need be reading it.
pub fn note(text: impl Display) {
    let _ = writeln!(std::io::stderr().lock(), "levee: {text}");
}

/// Asks before something is deleted. `yes`: agreed on the command line.
/// The question waits on a thread of its own, so that Ctrl-C ends it.
pub async fn confirm(what: &str, yes: bool) -> Result<(), CliError> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        let why = format!("this would {what}, and there is no terminal to ask on");
        return Err(CliError::of(Code::NotConfirmed, why).next_step("give -y (--yes) to agree"));
    }
    write!(std::io::stderr().lock(), "levee: {what}? [y/N] ")?;
    std::io::stderr().lock().flush()?;
    let asking = tokio::task::spawn_blocking(|| {
        let mut answer = String::new();
        std::io::stdin().lock().read_line(&mut answer).map(|_| answer)
    });
    let answer = asking.await.map_err(std::io::Error::from)??;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(CliError::of(Code::NotConfirmed, "nothing was done")),
    }
}

/// Progress on standard error, only where that is a terminal. `total`: `None` where nobody knows.
pub fn progress(name: &'static str, total: Option<u64>, unit: Unit) -> ProgressBar {
    let target = match std::io::stderr().is_terminal() {
        true => ProgressDrawTarget::stderr(),
        false => ProgressDrawTarget::hidden(),
    };
    let bar = ProgressBar::with_draw_target(total, target);
    let template = match (total, unit) {
        (Some(_), Unit::Bytes) => {
            "{msg:10} [{bar:40}] {bytes}/{total_bytes} {bytes_per_sec} eta {eta}"
        }
        (Some(_), Unit::Records) => "{msg:10} [{bar:40}] {pos}/{len} {per_sec} eta {eta}",
        (None, Unit::Bytes) => "{msg:10} {spinner} {bytes} {elapsed}",
        (None, Unit::Records) => "{msg:10} {spinner} {pos} {elapsed}",
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_message(name);
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

/// What progress counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Bytes,
    Records,
}

/// Ends when nobody reads standard output any more. A write would tell too, but whoever waits for
/// records may have none to write for hours.
pub async fn reader_gone() {
    let (gone, told) = oneshot::channel();
    std::thread::spawn(move || {
        let out = std::io::stdout();
        loop {
            // No flag asked for: errors and hang-ups are always told.
            let mut fds = [PollFd::from_borrowed_fd(out.as_fd(), PollFlags::empty())];
            match poll(&mut fds, None) {
                Ok(_) if fds[0].revents().contains(PollFlags::ERR) => {
                    let _ = gone.send(());
                    return;
                }
                Err(rustix::io::Errno::INTR) => {}
                // Another kind of end (a terminal that hung up) is told by writes.
                _ => return,
            }
        }
    });
    if told.await.is_err() {
        std::future::pending().await
    }
}

/// `1536` as `1.5 KiB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut unit = 0;
    let mut scaled = count as f64;
    while scaled >= 1024.0 && unit + 1 < UNITS.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{count} B"),
        _ => format!("{scaled:.1} {}", UNITS[unit]),
    }
}

/// `1500` as `1.5 s`.
pub fn millis(count: u64) -> String {
    match count {
        0..1000 => format!("{count} ms"),
        1000..60_000 => format!("{:.1} s", count as f64 / 1000.0),
        _ => humantime::format_duration(Duration::from_secs(count / 1000)).to_string(),
    }
}

/// Milliseconds since 1970 as a date; the number where no date fits: before 1970, and where years
/// have more than four digits.
pub fn time(ms: i64) -> String {
    const YEAR_10000: Duration = Duration::from_secs(253_402_300_800);
    match u64::try_from(ms).map(Duration::from_millis) {
        Ok(since) if since < YEAR_10000 => {
            humantime::format_rfc3339_millis(std::time::UNIX_EPOCH + since).to_string()
        }
        _ => ms.to_string(),
    }
}

/// `1 record`, `2 records`.
pub fn count(number: u64, thing: &str) -> String {
    match number {
        1 => format!("1 {thing}"),
        _ => format!("{number} {thing}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_for_people() {
        assert_eq!([bytes(0), bytes(1023), bytes(1536)], ["0 B", "1023 B", "1.5 KiB"]);
        assert_eq!(bytes(u64::MAX), "16384.0 PiB");
        assert_eq!([millis(999), millis(1500), millis(61_000)], ["999 ms", "1.5 s", "1m 1s"]);
        assert_eq!([time(0), time(-1)], ["1970-01-01T00:00:00.000Z", "-1"]);
        assert_eq!(time(253_402_300_799_999), "9999-12-31T23:59:59.999Z");
        assert_eq!([time(i64::MAX), time(i64::MIN)], [i64::MAX, i64::MIN].map(|ms| ms.to_string()));
        assert_eq!([count(1, "record"), count(0, "record")], ["1 record", "0 records"]);
    }
}
