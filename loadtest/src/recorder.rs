//! What happened, counted while it happens: histograms and counters by phase.
//!
//! Owns: where a number goes. A latency, and a send that failed or never went, belongs to the
//! phase in which it was due; bytes belong to the phase in which they were acknowledged, and to
//! none when that was behind the last one. Does not own: time series (`drive`).

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use hdrhistogram::Histogram;
use parking_lot::Mutex;

/// Longest latency that is told from a longer one, in microseconds: an hour.
const LONGEST_US: u64 = 3_600_000_000;
/// Tasks share these; more would only cost memory.
const SHARDS: usize = 8;

/// Latencies in microseconds, to three digits.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST_US, 3).expect("bounds and digits are in range")
}

/// What was counted since it was last taken, of one phase.
#[derive(Clone)]
pub struct Tally {
    /// From when a send was due to its ack.
    pub latency: Histogram<u64>,
    /// From when it was sent.
    pub service: Histogram<u64>,
    /// From when a record was due to when a tail reader had it.
    pub end_to_end: Histogram<u64>,
    pub counts: Counts,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub sends: u64,
    pub records: u64,
    pub bytes: u64,
    /// Sends that were refused or whose outcome is unknown.
    pub failed: u64,
    /// Sends that were due and never went: the target or this program could not follow.
    pub unsent: u64,
    pub tail_bytes: u64,
    pub catch_up_bytes: u64,
}

impl Counts {
    pub fn add(&mut self, other: &Self) {
        self.sends += other.sends;
        self.records += other.records;
        self.bytes += other.bytes;
        self.failed += other.failed;
        self.unsent += other.unsent;
        self.tail_bytes += other.tail_bytes;
        self.catch_up_bytes += other.catch_up_bytes;
    }
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            latency: histogram(),
            service: histogram(),
            end_to_end: histogram(),
            counts: Counts::default(),
        }
    }
}

impl Tally {
    pub fn add(&mut self, other: &Self) {
        add_up(&mut self.latency, &other.latency);
        add_up(&mut self.service, &other.service);
        add_up(&mut self.end_to_end, &other.end_to_end);
        self.counts.add(&other.counts);
    }

    pub fn clear(&mut self) {
        self.latency.reset();
        self.service.reset();
        self.end_to_end.reset();
        self.counts = Counts::default();
    }
}

/// Of two that `histogram` made.
pub fn add_up(to: &mut Histogram<u64>, from: &Histogram<u64>) {
    to.add(from).expect("histograms of one range");
}

/// Shared by all tasks of a run.
pub struct Recorder {
    shards: Vec<Mutex<Vec<Tally>>>,
    /// The phase that is running.
    phase: AtomicUsize,
    /// The first reason for a send that was not acknowledged.
    refusal: Mutex<Option<String>>,
    /// When each producer's next send is or was due; `IDLE` where none is.
    next_due: Vec<AtomicU64>,
}

/// No send is due.
pub const IDLE: u64 = u64::MAX;

impl Recorder {
    pub fn new(phases: usize, producers: u32) -> Self {
        // And what comes behind the last one.
        let shard = || Mutex::new(vec![Tally::default(); phases + 1]);
        Self {
            shards: (0..SHARDS).map(|_| shard()).collect(),
            phase: AtomicUsize::new(0),
            refusal: Mutex::default(),
            next_due: (0..producers).map(|_| AtomicU64::new(IDLE)).collect(),
        }
    }

    /// The number of phases: behind the last one.
    pub fn enter(&self, phase: usize) {
        self.phase.store(phase, Ordering::Relaxed);
    }

    fn with(&self, task: u32, phase: usize, note: impl FnOnce(&mut Tally)) {
        let mut shard = self.shards[task as usize % SHARDS].lock();
        let last = shard.len() - 1;
        note(&mut shard[phase.min(last)]);
    }

    /// Times are nanoseconds.
    pub fn acked(&self, task: u32, due_in: usize, latency: u64, service: u64) {
        self.with(task, due_in, |tally| {
            tally.latency.saturating_record(latency / 1000);
            tally.service.saturating_record(service / 1000);
        });
    }

    pub fn moved(&self, task: u32, counts: &Counts) {
        let phase = self.phase.load(Ordering::Relaxed);
        self.with(task, phase, |tally| tally.counts.add(counts));
    }

    pub fn failed(&self, task: u32, due_in: usize, why: &str) {
        self.with(task, due_in, |tally| tally.counts.failed += 1);
        self.refusal.lock().get_or_insert_with(|| why.to_owned());
    }

    /// Counts as late by at least `late` nanoseconds.
    pub fn unsent(&self, task: u32, due_in: usize, late: u64) {
        self.with(task, due_in, |tally| {
            tally.latency.saturating_record(late / 1000);
            tally.counts.unsent += 1;
        });
    }

    /// In the phase that is running: what was due before it is late for it.
    pub fn arrived(&self, task: u32, end_to_end: u64) {
        let phase = self.phase.load(Ordering::Relaxed);
        self.with(task, phase, |tally| tally.end_to_end.saturating_record(end_to_end / 1000));
    }

    pub fn refusal(&self) -> Option<String> {
        self.refusal.lock().clone()
    }

    pub fn next_due(&self, producer: u32, due: u64) {
        self.next_due[producer as usize].store(due, Ordering::Relaxed);
    }

    /// When each producer's next send is or was due.
    pub fn all_due(&self) -> impl Iterator<Item = u64> {
        self.next_due.iter().map(|due| due.load(Ordering::Relaxed)).filter(|due| *due != IDLE)
    }

    /// Adds what was counted since the last call to `totals`, one for each phase and one for what
    /// came behind; gives the sum.
    pub fn take(&self, totals: &mut [Tally]) -> Tally {
        let mut sum = Tally::default();
        for shard in &self.shards {
            for (tally, total) in shard.lock().iter_mut().zip(totals.iter_mut()) {
                if tally.counts != Counts::default()
                    || !tally.latency.is_empty()
                    || !tally.end_to_end.is_empty()
                {
                    total.add(tally);
                    sum.add(tally);
                    tally.clear();
                }
            }
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_go_where_sends_were_due_and_bytes_where_they_were_acknowledged() {
        let recorder = Recorder::new(2, 1);
        recorder.enter(1);
        recorder.acked(0, 0, 5_000_000, 4_000_000);
        recorder.moved(3, &Counts { records: 7, ..Counts::default() });
        let mut totals = vec![Tally::default(); 3];
        let sum = recorder.take(&mut totals);
        assert_eq!((totals[0].latency.len(), totals[1].latency.len()), (1, 0));
        assert_eq!((totals[0].counts.records, totals[1].counts.records), (0, 7));
        assert_eq!((sum.latency.len(), sum.counts.records), (1, 7));
        assert_eq!(recorder.take(&mut totals).latency.len(), 0, "taken once");
    }
}
