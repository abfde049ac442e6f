//! What is said while a run goes on: one line that is written over on a terminal, else a plain
//! line now and then. On standard error, so that standard output holds the report alone.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Between two plain lines.
const PLAIN_EVERY: Duration = Duration::from_secs(10);

pub struct Progress {
    terminal: bool,
    last: Mutex<Option<Instant>>,
}

impl Progress {
    pub fn new() -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self { terminal, last: Mutex::new(None) }
    }

    /// How it stands: may be skipped.
    pub fn now(&self, line: &str) {
        let mut err = std::io::stderr().lock();
        if self.terminal {
            let _ = write!(err, "\r\x1b[2K{line}");
            let _ = err.flush();
            return;
        }
        let mut last = self.last.lock();
        if last.is_none_or(|last| last.elapsed() >= PLAIN_EVERY) {
            *last = Some(Instant::now());
            let _ = writeln!(err, "{line}");
        }
    }

    /// Takes the line of a terminal away, before the report.
    pub fn clear(&self) {
        if self.terminal {
            let mut err = std::io::stderr().lock();
            let _ = write!(err, "\r\x1b[2K");
            let _ = err.flush();
        }
    }

    /// A line that stays.
    pub fn say(&self, line: &str) {
        let clear = if self.terminal { "\r\x1b[2K" } else { "" };
        let _ = writeln!(std::io::stderr().lock(), "{clear}{line}");
    }
}
