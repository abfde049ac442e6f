//! What became of the records that were sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use levee_client::{Error, Ticket};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use crate::error::CliError;

/// See the module. Records that have no answer yet are in doubt.
pub(super) struct Tally {
    tickets: mpsc::UnboundedSender<(u64, Ticket)>,
    sent: AtomicU64,
    acked: AtomicU64,
    /// Surely not written.
    refused: AtomicU64,
    /// Answered with an error that leaves it open.
    open: AtomicU64,
    failed: Mutex<Option<Failed>>,
    /// Goes up with every answer.
    answered: watch::Sender<u64>,
}

/// The first line that failed, and how many did so for the same reason: a batch is taken or refused
/// whole. Which others, cannot be said in a word: lines of several partitions alternate.
struct Failed {
    error: Error,
    line: u64,
    lines: u64,
}

/// As of now.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) sent: u64,
    pub(super) acked: u64,
    pub(super) refused: u64,
    pub(super) in_doubt: u64,
}

impl Tally {
    /// Tickets that wait are bounded by the producer, which bounds the bytes of their records.
    pub(super) fn start() -> Arc<Self> {
        let (tickets, mut waiting) = mpsc::unbounded_channel::<(u64, Ticket)>();
        let tally = Arc::new(Self {
            tickets,
            sent: AtomicU64::new(0),
            acked: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            open: AtomicU64::new(0),
            failed: Mutex::new(None),
            answered: watch::channel(0).0,
        });
        let counts = tally.clone();
        tokio::spawn(async move {
            while let Some((line, ticket)) = waiting.recv().await {
                counts.told(line, ticket.await);
            }
        });
        tally
    }

    pub(super) fn sent(&self, line: u64, ticket: Ticket) {
        self.sent.fetch_add(1, Ordering::Relaxed);
        // Its receiver lives as long as this.
        let _ = self.tickets.send((line, ticket));
    }

    fn told(&self, line: u64, outcome: Result<u64, Error>) {
        match outcome {
            Ok(_) => self.acked.fetch_add(1, Ordering::Relaxed),
            Err(error) => {
                let counter = if error.may_be_written { &self.open } else { &self.refused };
                match &mut *self.failed.lock() {
                    Some(failed) if failed.error != error => {}
                    Some(failed) => failed.lines += 1,
                    none => *none = Some(Failed { error, line, lines: 1 }),
                }
                counter.fetch_add(1, Ordering::Relaxed)
            }
        };
        self.answered.send_modify(|answered| *answered += 1);
    }

    /// Ends when a record failed.
    pub(super) async fn failed(&self) {
        let mut answered = self.answered.subscribe();
        let _ = answered.wait_for(|_| self.failed.lock().is_some()).await;
    }

    /// Ends when every record that was sent has its answer.
    pub(super) async fn settled(&self) {
        let sent = self.sent.load(Ordering::Relaxed);
        let _ = self.answered.subscribe().wait_for(|answered| *answered >= sent).await;
    }

    /// Why the first record failed, with its line.
    pub(super) fn first_error(&self) -> Option<CliError> {
        let failed = self.failed.lock();
        let Failed { error, line, lines } = failed.as_ref()?;
        let place = match lines {
            1 => format!("line {line}"),
            lines => format!("line {line}, the first of {lines} that failed so"),
        };
        Some(CliError::from(error.clone()).at(place))
    }

    pub(super) fn counts(&self) -> Counts {
        let sent = self.sent.load(Ordering::Relaxed);
        let acked = self.acked.load(Ordering::Relaxed);
        let refused = self.refused.load(Ordering::Relaxed);
        Counts { sent, acked, refused, in_doubt: sent - acked - refused }
    }
}
