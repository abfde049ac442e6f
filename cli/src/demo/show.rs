//! Progress bars on a terminal, lines elsewhere, and the closing table.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use comfy_table::{Table, presets};
use indicatif::ProgressBar;

use super::ledger::Verdict;
use crate::error::CliError;
use crate::output::{Unit, progress};

/// The show goes on where nobody reads it any more.
fn out(line: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

pub(super) fn megabytes(bytes: u64) -> u64 {
    bytes / 1_000_000
}

/// See the module.
pub(super) struct Show {
    terminal: bool,
    acts: Vec<Done>,
    running: std::sync::Arc<parking_lot::Mutex<Vec<Done>>>,
}

#[derive(Clone)]
struct Done {
    name: &'static str,
    about: &'static str,
    bytes: u64,
    took: Duration,
}

/// One part of the show.
pub(super) struct Act {
    name: &'static str,
    about: &'static str,
    started: Instant,
    bar: ProgressBar,
    terminal: bool,
    done: std::sync::Arc<parking_lot::Mutex<Vec<Done>>>,
}

impl Show {
    pub(super) fn new() -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self { terminal, acts: Vec::new(), running: Default::default() }
    }

    pub(super) fn say(&self, line: &str) {
        out(line);
    }

    /// `bytes`: how much there is to do; 0 where nobody knows.
    pub(super) fn begin(&mut self, name: &'static str, bytes: u64, about: &'static str) -> Act {
        let bar = progress(name, (bytes > 0).then_some(bytes), Unit::Bytes);
        let (started, done) = (Instant::now(), self.running.clone());
        Act { name, about, started, bar, terminal: self.terminal, done }
    }

    pub(super) fn check(&self, what: &str, verdict: &Verdict) -> Result<(), CliError> {
        match verdict.is_clean() {
            true => Ok(()),
            false => Err(CliError::new(format!("{what}: {verdict:?}"))),
        }
    }

    pub(super) fn table(&mut self, verdict: &Verdict) {
        self.acts.append(&mut self.running.lock());
        let mut acts = Table::new();
        acts.load_style(presets::UTF8_HORIZONTAL_ONLY);
        acts.set_header(["phase", "MB", "seconds", "MB/s", "what"]);
        for act in &self.acts {
            let seconds = act.took.as_secs_f64();
            let mb = act.bytes as f64 / 1e6;
            acts.add_row([
                act.name.to_owned(),
                format!("{mb:.0}"),
                format!("{seconds:.2}"),
                format!("{:.0}", mb / seconds.max(1e-6)),
                act.about.to_owned(),
            ]);
        }
        let mut table = Table::new();
        table.load_style(presets::UTF8_HORIZONTAL_ONLY);
        table.set_header(["records acked", "found", "lost", "duplicated", "reordered", "changed"]);
        let numbers = [
            verdict.acked,
            verdict.found,
            verdict.lost,
            verdict.duplicated,
            verdict.reordered,
            verdict.changed,
        ];
        table.add_row(numbers.map(|number| number.to_string()));
        out(&format!("\n{acts}\n\n{table}"));
        if verdict.refused > 0 {
            let refused = verdict.refused;
            out(&format!("{refused} records were refused and are not counted as acked"));
        }
    }
}

impl Act {
    pub(super) fn advance(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    pub(super) fn end(&self, bytes: u64) {
        let took = self.started.elapsed();
        self.bar.finish_and_clear();
        let line = format!(
            "{:10} {} MB in {:.1} s: {}",
            self.name,
            megabytes(bytes),
            took.as_secs_f64(),
            self.about
        );
        match self.terminal {
            true => eprintln!("{line}"),
            false => out(&line),
        }
        self.done.lock().push(Done { name: self.name, about: self.about, bytes, took });
    }
}
