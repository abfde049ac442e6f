//! The pace of readers that catch up: who reads old records from the bucket gives way to appends.
//!
//! Such readers take processors, disks and lines as fast as they can, and what is appended at the
//! same time is acknowledged later for it. What a machine has to spare is not known, so it is found
//! out: while both go on, the times to acks are held against usual ones, and the pace is cut by a
//! part when too many acks come late, and raised by a smaller part when they do not. What is usual
//! is measured anew every few seconds, while readers are held at the least pace (as BBR does for
//! the round trip: Cardwell et al., 2016). Where nothing is appended nobody waits; where appends
//! wait and no ack comes, all of them are late.
//!
//! ```text
//! turn (waits until it is due) -> read from the bucket -> settle -> answer
//!  ^ limit
//! acks -> histogram -> round, while somebody reads: usual? late? -> limit
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use levee_proto::metalog::LaneKind;
use levee_runtime::{Host, Mono};
use parking_lot::Mutex;

/// A round ends after this, if there were enough acks to tell.
const ROUND: Duration = Duration::from_millis(200);
const ACKS_MIN: u32 = 50;
/// It ends anyway after so many: without an ack nothing is appended.
const ROUNDS_MAX: u32 = 5;
/// What is usual: so many acks take no longer. Those above vary too much from round to round.
const USUAL: f64 = 0.90;
/// An ack is late above so many times what is usual, and this part of all may be.
const LATE: f64 = 1.2;
const LATE_PART: f64 = 0.12;
/// Weight of a round beside those before it.
const NEWEST: f64 = 0.3;
/// What the pace becomes after a round with too many late acks, and after one without.
const CUT: f64 = 0.8;
const RISE: f64 = 1.10;
/// Bytes per second that nobody reaches.
const MOST: f64 = 1e12;
/// Rounds from one measurement of what is usual to the next, and those that it takes.
const CYCLE: u32 = 25;
const LEARN: u32 = 3;
/// Rounds without reads after which nothing is measured.
const UNREAD_MAX: u32 = 10;
/// Longest that one read waits. More readers at once than can read in this time are slowed less.
const PATIENCE: Duration = Duration::from_secs(5);
/// What a read is thought to bring, before any has.
const ANSWER: f64 = (1 << 20) as f64;

/// See the module.
pub struct Pace {
    host: Host,
    /// Bytes per second that are always left to readers; none: they are never slowed.
    least: Option<f64>,
    /// Acks since the last round, by lane: what is usual differs by a factor of a hundred.
    acks: [Acks; 2],
    /// When the newest one was, in nanoseconds of `Host::now`.
    acked_at: AtomicU64,
    /// Appends that wait for their acks.
    waiting: AtomicUsize,
    state: Mutex<State>,
}

struct State {
    /// Bytes per second; infinite where nobody is slowed.
    limit: f64,
    /// When everything that was read is paid.
    paid_at: Mono,
    /// Bytes read in this round.
    read: u64,
    /// Bytes that a read brings, about.
    answer: f64,
    is_measured: bool,
}

/// Leave to read; what it was charged for.
pub struct Turn(f64);

/// An append that waits for its ack.
pub struct Waiting {
    pace: Arc<Pace>,
    lane: LaneKind,
    since: Mono,
}

impl Waiting {
    /// It is acknowledged, or was given up.
    pub fn ends(self) {
        let took = self.pace.host.now().since(self.since);
        self.pace.acks[usize::from(self.lane == LaneKind::Local)].add(took);
        self.pace.acked_at.store(self.pace.host.now().0.as_nanos() as u64, Ordering::Relaxed);
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.pace.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl State {
    /// Charges bytes, or gives them back. A debt that nobody waits for is none.
    fn pay(&mut self, now: Mono, bytes: f64) {
        let cost = Duration::from_secs_f64(bytes.abs() / self.limit).min(PATIENCE);
        self.paid_at = match bytes < 0.0 {
            true => Mono(self.paid_at.0.saturating_sub(cost)),
            false => (self.paid_at + cost).min(now + PATIENCE),
        };
    }
}

impl Pace {
    pub fn new(host: Host, least: Option<u64>) -> Arc<Self> {
        let state = State {
            limit: f64::INFINITY,
            paid_at: Mono::default(),
            read: 0,
            answer: ANSWER,
            is_measured: false,
        };
        Arc::new(Self {
            host,
            least: least.map(|bytes| bytes as f64),
            acks: Default::default(),
            acked_at: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
            state: Mutex::new(state),
        })
    }

    /// An append has its place and waits for its ack.
    pub fn append(self: &Arc<Self>, lane: LaneKind) -> Waiting {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Waiting { pace: self.clone(), lane, since: self.host.now() }
    }

    fn appends_wait(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Returns when up to `bytes` may be read from the bucket; `settle` tells what became of it.
    pub async fn turn(self: &Arc<Self>, bytes: u64) -> Turn {
        let Some(least) = self.least else { return Turn(0.0) };
        let (turn, wait) = self.charge(bytes, least);
        if !wait.is_zero() {
            metrics::histogram!("levee_catch_up_wait_seconds").record(wait.as_secs_f64());
            self.host.sleep(wait).await;
        }
        turn
    }

    fn charge(self: &Arc<Self>, bytes: u64, least: f64) -> (Turn, Duration) {
        let mut state = self.state.lock();
        let now = self.host.now();
        if !std::mem::replace(&mut state.is_measured, true) {
            // Those of the time since the last measurements tell nothing.
            self.acks.iter().map(Acks::take).for_each(drop);
            let acked_at = Mono(Duration::from_nanos(self.acked_at.load(Ordering::Relaxed)));
            let is_quiet = now.since(acked_at) > ROUND * ROUNDS_MAX && !self.appends_wait();
            state.limit = if is_quiet { f64::INFINITY } else { least };
            drop(self.host.spawn("pace", Rounds::new(self.clone(), least, state.limit).run()));
        }
        let due = state.paid_at.max(now);
        let bytes = state.answer.min(bytes as f64);
        state.paid_at = due;
        state.pay(now, bytes);
        (Turn(bytes), due.since(now))
    }

    /// So many bytes were read in a turn.
    pub fn settle(&self, turn: &Turn, read: u64) {
        let mut state = self.state.lock();
        state.read += read;
        state.answer += (read as f64 - state.answer) / 8.0;
        let now = self.host.now();
        state.pay(now, read as f64 - turn.0);
    }

    fn limit(&self, limit: f64) {
        let mut state = self.state.lock();
        let before = std::mem::replace(&mut state.limit, limit);
        // What is waited for costs as much as what follows.
        let (now, part) = (self.host.now(), if before < limit { before / limit } else { 1.0 });
        state.paid_at = now + state.paid_at.since(now).mul_f64(part);
        drop(state);
        metrics::gauge!("levee_catch_up_limit_bytes_per_second").set(limit);
    }
}

/// Looks after the limit while somebody reads.
struct Rounds {
    pace: Arc<Pace>,
    least: f64,
    /// The limit that is tried out; infinite where nothing is appended.
    limit: f64,
    lanes: [LaneAcks; 2],
    /// Rounds since somebody read.
    unread: u32,
}

/// What is known of the acks of a lane.
#[derive(Default)]
struct LaneAcks {
    /// Seconds to an ack while readers are held at the least.
    usual: Option<f64>,
    /// Acks of which that will be made; too few until now.
    held: Round,
    /// Part of acks that come late, of the rounds until now.
    late: f64,
}

/// What was seen in a round.
struct Seen {
    acks: [Round; 2],
    /// Appends wait at its end.
    waits: bool,
    bytes_per_second: f64,
}

impl LaneAcks {
    fn learn(&mut self) {
        if self.held.acks < ACKS_MIN {
            return;
        }
        let seen = std::mem::take(&mut self.held).percentile(USUAL);
        self.usual = match (self.usual, seen) {
            (Some(usual), Some(seen)) => Some((usual + seen) / 2.0),
            (usual, seen) => seen.or(usual),
        };
    }
}

impl Seen {
    /// Nothing was appended.
    fn is_quiet(&self) -> bool {
        self.has_no_acks() && !self.waits
    }

    fn has_no_acks(&self) -> bool {
        self.acks.iter().all(|acks| acks.acks == 0)
    }
}

impl Rounds {
    fn new(pace: Arc<Pace>, least: f64, limit: f64) -> Self {
        Self { pace, least, limit, lanes: Default::default(), unread: 0 }
    }

    async fn run(mut self) {
        while self.unread < UNREAD_MAX {
            if self.limit.is_finite() {
                self.learn().await;
            }
            for _ in 0..CYCLE {
                let was_free = self.limit.is_infinite();
                self.pace.limit(self.limit);
                let seen = self.round().await;
                self.adjust(&seen);
                let begins = was_free && self.limit.is_finite();
                if begins || self.unread >= UNREAD_MAX {
                    break;
                }
            }
        }
        self.pace.state.lock().is_measured = false;
    }

    /// Measures what is usual.
    async fn learn(&mut self) {
        self.pace.limit(self.least);
        // What was read before is still under way.
        self.round().await;
        for _ in 0..LEARN {
            let seen = self.round().await;
            if seen.is_quiet() {
                self.limit = f64::INFINITY;
                return;
            }
            self.lanes.iter_mut().zip(&seen.acks).for_each(|(lane, acks)| lane.held.add(acks));
        }
        for lane in &mut self.lanes {
            lane.learn();
        }
    }

    fn adjust(&mut self, seen: &Seen) {
        for (lane, acks) in self.lanes.iter_mut().zip(&seen.acks) {
            let late = lane.usual.and_then(|usual| acks.part_above(usual * LATE));
            // Few acks tell little.
            let weight = NEWEST * (f64::from(acks.acks) / f64::from(ACKS_MIN)).min(1.0);
            lane.late += weight * (late.unwrap_or_default() - lane.late);
        }
        let reached = seen.bytes_per_second;
        self.limit = if seen.is_quiet() {
            f64::INFINITY
        } else if self.limit.is_infinite() {
            // The first appends beside these readers: what is usual is not known.
            self.least
        } else if seen.has_no_acks() || self.lanes.iter().any(|lane| lane.late > LATE_PART) {
            (self.limit.min(reached) * CUT).max(self.least)
        } else {
            (self.limit * RISE).min(MOST)
        };
    }

    async fn round(&mut self) -> Seen {
        let pace = &self.pace;
        let started = pace.host.now();
        let mut acks = [Round::default(), Round::default()];
        for _ in 0..ROUNDS_MAX {
            pace.host.sleep(ROUND).await;
            acks.iter_mut().zip(&pace.acks).for_each(|(all, acks)| all.add(&acks.take()));
            if acks.iter().any(|round| round.acks >= ACKS_MIN) {
                break;
            }
        }
        let read = std::mem::take(&mut pace.state.lock().read);
        self.unread = if read == 0 { self.unread + 1 } else { 0 };
        let took = pace.host.now().since(started).as_secs_f64();
        Seen { acks, waits: pace.appends_wait(), bytes_per_second: read as f64 / took }
    }
}

/// Buckets of 1/16 of a power of two microseconds.
const BUCKETS: usize = 32 * 16;

/// Acks by the time they took.
struct Acks([AtomicU32; BUCKETS]);

impl Default for Acks {
    fn default() -> Self {
        Self([const { AtomicU32::new(0) }; BUCKETS])
    }
}

impl Acks {
    fn add(&self, took: Duration) {
        self.0[bucket_of(took.as_micros() as f64)].fetch_add(1, Ordering::Relaxed);
    }

    fn take(&self) -> Round {
        let mut round = Round::default();
        for (number, count) in self.0.iter().enumerate() {
            round.put(number, count.swap(0, Ordering::Relaxed));
        }
        round
    }
}

/// The acks of a round, by bucket.
#[derive(Default)]
struct Round {
    acks: u32,
    buckets: BTreeMap<usize, u32>,
}

impl Round {
    fn put(&mut self, bucket: usize, acks: u32) {
        if acks > 0 {
            self.acks = self.acks.saturating_add(acks);
            let held = self.buckets.entry(bucket).or_default();
            *held = held.saturating_add(acks);
        }
    }

    fn add(&mut self, other: &Self) {
        other.buckets.iter().for_each(|(bucket, acks)| self.put(*bucket, *acks));
    }

    /// Seconds that this part of all does not exceed.
    fn percentile(&self, part: f64) -> Option<f64> {
        let (wanted, mut seen) = (f64::from(self.acks) * part, 0);
        let bucket = self.buckets.iter().find_map(|(bucket, acks)| {
            seen += acks;
            (f64::from(seen) >= wanted).then_some(*bucket)
        })?;
        Some(((bucket + 1) as f64 / 16.0).exp2() / 1e6)
    }

    /// Part of all that took longer.
    fn part_above(&self, seconds: f64) -> Option<f64> {
        let bucket = bucket_of(seconds * 1e6);
        let above: u32 = self.buckets.range(bucket + 1..).map(|(_, acks)| acks).sum();
        (self.acks > 0).then(|| f64::from(above) / f64::from(self.acks))
    }
}

fn bucket_of(micros: f64) -> usize {
    ((micros.max(1.0).log2() * 16.0) as usize).min(BUCKETS - 1)
}

#[cfg(test)]
mod tests;
