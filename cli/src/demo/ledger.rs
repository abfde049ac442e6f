//! What was sent, what was acknowledged, and the judgement of what is there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use levee_client::{Batches, Error, RecordData};
use levee_proto::crc::crc32c;
use levee_proto::record::batch::check_run;
use levee_proto::record::records::decode_records;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::error::CliError;

/// A record on its way. Its key is its number, so that it can be told from every other one.
pub(super) struct Entry {
    number: u64,
    pub(super) partition: u32,
    crc: u32,
    bytes: u64,
}

/// An acknowledged record.
#[derive(Clone, Copy)]
struct Acked {
    number: u64,
    crc: u32,
}

/// See the module.
pub(super) struct Ledger {
    partitions: u32,
    next: AtomicU64,
    /// Acknowledged, by offset.
    acked: Vec<Mutex<BTreeMap<u64, Acked>>>,
    acked_bytes: AtomicU64,
    acked_count: AtomicU64,
    refused: AtomicU64,
    open: AtomicU64,
    closed: Notify,
    /// Two records were told the same offset.
    clashes: AtomicU64,
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    pub(super) acked: u64,
    pub(super) found: u64,
    pub(super) bytes: u64,
    pub(super) lost: u64,
    pub(super) duplicated: u64,
    pub(super) reordered: u64,
    pub(super) changed: u64,
    pub(super) refused: u64,
    /// Answers that came from memory or disk of the broker.
    pub(super) from_local: u64,
}

impl Verdict {
    pub(super) fn is_clean(&self) -> bool {
        self.lost + self.duplicated + self.reordered + self.changed == 0 && self.acked > 0
    }
}

impl Entry {
    pub(super) fn record(&self, value: Bytes) -> RecordData {
        RecordData {
            key: Some(self.number.to_string().into()),
            value: Some(value),
            ..RecordData::default()
        }
    }
}

impl Ledger {
    pub(super) fn new(partitions: u32) -> Self {
        Self {
            partitions,
            next: AtomicU64::new(0),
            acked: (0..partitions).map(|_| Mutex::default()).collect(),
            acked_bytes: AtomicU64::new(0),
            acked_count: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            open: AtomicU64::new(0),
            closed: Notify::new(),
            clashes: AtomicU64::new(0),
        }
    }

    pub(super) fn entry(&self, value: &Bytes) -> Entry {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.open.fetch_add(1, Ordering::AcqRel);
        let partition = (number % u64::from(self.partitions)) as u32;
        Entry { number, partition, crc: crc32c(value), bytes: value.len() as u64 }
    }

    pub(super) fn told(self: &Arc<Self>, entry: &Entry, outcome: Result<u64, Error>) {
        match outcome {
            Ok(offset) => {
                let acked = Acked { number: entry.number, crc: entry.crc };
                let there = self.acked[entry.partition as usize].lock().insert(offset, acked);
                self.clashes.fetch_add(u64::from(there.is_some()), Ordering::Relaxed);
                self.acked_bytes.fetch_add(entry.bytes, Ordering::Relaxed);
                self.acked_count.fetch_add(1, Ordering::Relaxed);
            }
            Err(_) => drop(self.refused.fetch_add(1, Ordering::Relaxed)),
        }
        self.open.fetch_sub(1, Ordering::AcqRel);
        self.closed.notify_waiters();
    }

    /// Waits until every record was acknowledged or refused.
    pub(super) async fn settled(&self) {
        self.until(|| self.open.load(Ordering::Acquire) == 0).await;
    }

    /// Waits until more than `count` records are acknowledged, or none can be any more.
    pub(super) async fn acked_above(&self, count: u64) {
        let is_settled = || self.open.load(Ordering::Acquire) == 0;
        self.until(|| self.acked_count() > count || is_settled()).await;
    }

    async fn until(&self, is_so: impl Fn() -> bool) {
        loop {
            let mut closed = std::pin::pin!(self.closed.notified());
            // From here on nothing is missed.
            closed.as_mut().enable();
            if is_so() {
                return;
            }
            closed.await;
        }
    }

    pub(super) fn acked_bytes(&self) -> u64 {
        self.acked_bytes.load(Ordering::Relaxed)
    }

    pub(super) fn acked_count(&self) -> u64 {
        self.acked_count.load(Ordering::Relaxed)
    }

    pub(super) fn judge(self: &Arc<Self>, partition: u32) -> Judge {
        Judge {
            ledger: self.clone(),
            partition,
            seen: BTreeMap::new(),
            newest: None,
            verdict: Verdict::default(),
        }
    }
}

/// Looks at what one partition holds, from its start to its end.
pub(super) struct Judge {
    ledger: Arc<Ledger>,
    partition: u32,
    /// How often each number was seen.
    seen: BTreeMap<u64, u64>,
    newest: Option<u64>,
    verdict: Verdict,
}

impl Judge {
    pub(super) fn take(&mut self, batches: &Batches) -> Result<(), CliError> {
        if batches.source == "tail" || batches.source == "hot" {
            self.verdict.from_local += 1;
        }
        let bytes = &batches.bytes;
        let mut bad = None;
        let walked = check_run(bytes, |at, header| {
            match decode_records(&bytes.slice(at..at + header.bytes as usize)) {
                Ok(records) => records.into_iter().for_each(|r| self.record(r.offset, r.data)),
                Err(error) => bad = Some(error),
            }
            bad.is_none()
        });
        match walked.err().or(bad) {
            None => Ok(()),
            Some(error) => Err(CliError::new(format!("partition {}: {error}", self.partition))),
        }
    }

    fn record(&mut self, offset: u64, record: RecordData) {
        let value = record.value.unwrap_or_default();
        let key = record.key.unwrap_or_default();
        let number = std::str::from_utf8(&key).ok().and_then(|text| text.parse().ok());
        self.verdict.found += 1;
        self.verdict.bytes += value.len() as u64;
        let Some(number) = number else {
            self.verdict.changed += 1;
            return;
        };
        *self.seen.entry(number).or_insert(0) += 1;
        if self.newest.is_some_and(|newest| number < newest) {
            self.verdict.reordered += 1;
        }
        self.newest = Some(number.max(self.newest.unwrap_or_default()));
        let acked = self.ledger.acked[self.partition as usize].lock().get(&offset).copied();
        if let Some(acked) = acked
            && (acked.number != number || acked.crc != crc32c(&value))
        {
            self.verdict.changed += 1;
        }
    }

    pub(super) fn end(self, total: &mut Verdict) {
        let acked = self.ledger.acked[self.partition as usize].lock();
        let lost = acked.values().filter(|acked| !self.seen.contains_key(&acked.number)).count();
        total.acked += acked.len() as u64;
        total.lost += lost as u64;
        total.duplicated += self.seen.values().map(|times| times - 1).sum::<u64>();
        total.found += self.verdict.found;
        total.bytes += self.verdict.bytes;
        total.reordered += self.verdict.reordered;
        total.changed += self.verdict.changed;
        total.from_local += self.verdict.from_local;
        total.refused = self.ledger.refused.load(Ordering::Relaxed);
        if self.partition == 0 {
            total.changed += self.ledger.clashes.load(Ordering::Relaxed);
        }
    }
}
