//! Who waits for what to become durable: the one place that turns durability into acks.

use std::collections::BTreeMap;

use tokio::sync::oneshot;

use crate::error::Error;

/// What an append comes to.
pub type Outcome = Result<Appended, Error>;

/// Where a batch stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    pub base_offset: u64,
    pub end_offset: u64,
    pub leader_epoch: u32,
    pub log_start: u64,
    /// It was there already.
    pub duplicate: bool,
    /// The time that its records were given, in a topic that does so.
    pub append_time_ms: Option<i64>,
}

/// Waiters by the end offset they wait for; released in offset order, for successes and failures
/// alike, each exactly once.
#[derive(Default)]
pub struct Acks {
    waiting: BTreeMap<u64, Vec<(Appended, oneshot::Sender<Outcome>)>>,
}

impl Acks {
    /// The answer comes when everything below `appended.end_offset` is durable, or never will be.
    pub fn wait(&mut self, appended: Appended) -> oneshot::Receiver<Outcome> {
        let (send, receive) = oneshot::channel();
        self.waiting.entry(appended.end_offset).or_default().push((appended, send));
        receive
    }

    /// Everything below `durable_end` is durable.
    pub fn release(&mut self, durable_end: u64, log_start: u64) {
        while let Some(first) = self.waiting.first_entry() {
            if *first.key() > durable_end {
                return;
            }
            for (appended, send) in first.remove() {
                // The caller may have given up; its record is durable all the same.
                let _ = send.send(Ok(Appended { log_start, ..appended }));
            }
        }
    }

    /// Nothing that waits will ever be acknowledged.
    pub fn fail(&mut self, why: &Error) {
        for (_, waiters) in std::mem::take(&mut self.waiting) {
            for (_, send) in waiters {
                let _ = send.send(Err(why.clone()));
            }
        }
    }
}
