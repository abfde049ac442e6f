//! Why a run ends early: Ctrl-C, or a target that is gone.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::error::{Error, Exit, Result};
use crate::results::Ended;
use crate::target::{Target, process};

/// Shared by everything that waits.
#[derive(Clone)]
pub struct Stop {
    flag: Arc<watch::Sender<bool>>,
    why: Arc<Mutex<Option<Ended>>>,
}

impl Default for Stop {
    fn default() -> Self {
        Self { flag: Arc::new(watch::Sender::new(false)), why: Arc::default() }
    }
}

impl Stop {
    /// The first reason counts.
    pub fn end(&self, why: Ended) {
        self.why.lock().get_or_insert(why);
        self.flag.send_replace(true);
    }

    pub fn flag(&self) -> watch::Receiver<bool> {
        self.flag.subscribe()
    }

    pub fn is_set(&self) -> bool {
        *self.flag.borrow()
    }

    pub fn ended(&self) -> Ended {
        self.why.lock().clone().unwrap_or(Ended::Complete)
    }

    /// One that ends with this one, and by itself: of one run among several.
    pub fn child(&self) -> Self {
        let child = Self::default();
        let (mut flag, parent, told) = (self.flag(), self.clone(), child.clone());
        tokio::spawn(async move {
            if flag.wait_for(|stop| *stop).await.is_ok() {
                told.end(parent.ended());
            }
        });
        child
    }

    /// The first Ctrl-C or SIGTERM ends the run with a report, the second one ends the process.
    pub fn on_signals(&self) -> Result<()> {
        let failed = |error: std::io::Error| Error::failed(format!("signals: {error}"));
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let stop = self.clone();
        tokio::spawn(async move {
            for count in 1.. {
                tokio::select! {
                    biased;
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                if count > 1 {
                    process::kill_all();
                    std::process::exit(Exit::Interrupted as i32);
                }
                eprintln!(
                    "\nstopping; the report says how far it came (Ctrl-C again: no report, and nothing is removed)"
                );
                stop.end(Ended::Interrupted);
            }
        });
        Ok(())
    }

    /// A process that ends by itself ends the run.
    pub fn when_gone(&self, target: &Target) {
        let Some(process) = &target.process else { return };
        let (mut ended, stop) = (process.ended(), self.clone());
        tokio::spawn(async move {
            if let Ok(how) = ended.wait_for(Option::is_some).await {
                let how = how.as_deref().unwrap_or_default();
                stop.end(Ended::TargetFailed(format!("the target's process ended: {how}")));
            }
        });
    }
}
