//! Some phases of load, one behind the other, and what is seen of them meanwhile.
//!
//! Owns: when phases begin and end, the time series, each phase's figures. Does not own: what is
//! sent (`producer`) and who reads (`session`).

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::error::{Error, Result};
use crate::producer::{Producer, Shared, Window};
use crate::recorder::Tally;
use crate::results::{Ended, Latency, PhaseResult, Point, curve, milliseconds};
use crate::schedule::Pace;
use crate::session::Session;
use crate::target::usage::{self, Usage};
use crate::workload::values::Rate;
use crate::workload::{Phase, Workload};

/// Points of the time series at most, about.
const POINTS: u32 = 600;
/// Seconds that make a point.
const SHORTEST: f64 = 0.2;
/// Time to open links before the first send is due.
const LEAD: Duration = Duration::from_millis(50);
/// A folder of many files is not walked more often.
const DISK_EVERY: Duration = Duration::from_secs(10);

/// What is seen at one moment.
#[derive(Clone, Copy, Default)]
struct Snapshot {
    at: u64,
    target: Usage,
    generator: Usage,
}

/// Adds up while phases run.
struct Watch<'a> {
    session: &'a Session,
    windows: Vec<Window>,
    first_phase: usize,
    start: u64,
    totals: Vec<Tally>,
    points: Vec<Point>,
    last: Snapshot,
    backlog_most: Vec<u64>,
    backlog_end: Vec<u64>,
    resident_most: Vec<u64>,
    disk: (Option<std::time::Instant>, u64),
}

/// Runs the phases; gives their figures and the time series. `first_phase`: how many there were
/// before.
pub async fn drive(
    session: &Session,
    phases: &[Phase],
    first_phase: usize,
) -> Result<(Vec<PhaseResult>, Vec<Point>)> {
    let workload = &session.workload;
    let producers = open_producers(session).await?;
    let start = session.clock.now() + LEAD.as_nanos() as u64;
    let windows = windows(workload, phases, start);
    let mut tasks = JoinSet::new();
    for producer in producers {
        tasks.spawn(producer.run(windows.clone()));
    }
    let mut watch = Watch::new(session, windows, first_phase, start).await;
    let mut snapshots = Vec::new();
    session.clock.until(start).await;
    for (number, phase) in phases.iter().enumerate() {
        session.recorder.enter(number);
        session.catch_up_at(workload.catch_up_speed(phase));
        snapshots.push(watch.snapshot().await);
        watch.until_end_of(number, phase, &mut tasks).await;
        if session.stop.is_set() {
            break;
        }
    }
    session.catch_up_at(None);
    // What is acknowledged from now on came too late for the last phase's rate.
    session.recorder.enter(phases.len());
    snapshots.push(watch.snapshot().await);
    while let Some(ended) = tasks.join_next().await {
        note_end(session, ended);
    }
    watch.sample(snapshots.len() - 2).await;
    let results = watch.results(phases, &snapshots);
    Ok((results, watch.points))
}

async fn open_producers(session: &Session) -> Result<Vec<Producer>> {
    let produce = &session.workload.produce;
    let shared = session.shared();
    let mut opened = Vec::new();
    for number in 0..produce.producers {
        let partitions = partitions_of(number, produce.producers, shared.log.partitions());
        let connection = session.workload.producer_connection(number);
        opened.push(Producer::open(shared.clone(), number, connection, partitions).await?);
    }
    Ok(opened)
}

/// The partitions of one producer: each partition has one writer, unless there are more writers.
pub fn partitions_of(producer: u32, producers: u32, partitions: u32) -> Vec<u32> {
    match producers > partitions {
        true => vec![producer % partitions],
        false => (producer..partitions).step_by(producers as usize).collect(),
    }
}

fn windows(workload: &Workload, phases: &[Phase], start: u64) -> Vec<Window> {
    let produce = &workload.produce;
    let mut at = start;
    let window = |(number, phase): (usize, &Phase)| {
        let end = at + phase.duration.0.as_nanos() as u64;
        let pace = match phase.rate.unwrap_or(produce.rate) {
            Rate::Full => None,
            Rate::PerSecond(rate) => Some(Pace {
                rate,
                batch_records: produce.batch_records,
                producers: produce.producers,
                arrivals: produce.arrivals,
            }),
        };
        let window = Window { phase: number, start: at, end, pace };
        at = end;
        window
    };
    phases.iter().enumerate().map(window).collect()
}

fn note_end(session: &Session, ended: Result<Result<()>, tokio::task::JoinError>) {
    let why = match ended {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error,
        Err(error) => Error::failed(format!("a producer ended: {error}")),
    };
    session.stop.end(Ended::TargetFailed(why.to_string()));
}

impl<'a> Watch<'a> {
    async fn new(
        session: &'a Session,
        windows: Vec<Window>,
        first_phase: usize,
        start: u64,
    ) -> Self {
        let count = windows.len();
        let mut watch = Self {
            session,
            windows,
            first_phase,
            start,
            totals: vec![Tally::default(); count + 1],
            points: Vec::new(),
            last: Snapshot::default(),
            backlog_most: vec![0; count],
            backlog_end: vec![0; count],
            resident_most: vec![0; count],
            disk: (None, 0),
        };
        watch.last = watch.snapshot().await;
        watch
    }

    async fn snapshot(&self) -> Snapshot {
        let at = self.session.clock.now();
        let target = self.session.target.usage().await;
        Snapshot { at, target, generator: usage::of_process(std::process::id()) }
    }

    fn interval(&self) -> Duration {
        let all = self.windows.last().map_or(0, |last| last.end - self.start);
        let least = if all < 30_000_000_000 { 500 } else { 1000 };
        (Duration::from_nanos(all) / POINTS).max(Duration::from_millis(least))
    }

    /// Samples until the phase is over, or the run is stopped.
    async fn until_end_of(
        &mut self,
        number: usize,
        phase: &Phase,
        tasks: &mut JoinSet<Result<()>>,
    ) {
        let session = self.session;
        let mut stop: watch::Receiver<bool> = session.stop.flag();
        let end = self.windows[number].end;
        let step = self.interval().as_nanos() as u64;
        loop {
            let now = session.clock.now();
            if now >= end {
                break;
            }
            // A last bit that is too short for figures goes with the one before.
            let next = if now + step + step / 2 > end { end } else { now + step };
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => break,
                Some(ended) = tasks.join_next(), if !tasks.is_empty() => {
                    note_end(session, ended);
                    continue;
                }
                () = session.clock.until(next) => {}
            }
            self.sample(number).await;
            self.tell(number, phase);
        }
        self.backlog_end[number] = self.backlog(number);
    }

    fn backlog(&self, number: usize) -> u64 {
        let (now, window) = (self.session.clock.now(), &self.windows[number]);
        let Some(pace) = window.pace else { return 0 };
        let due = self.session.recorder.all_due();
        let sends: u64 = due.map(|due| pace.behind(due, now.min(window.end))).sum();
        // A send whose turn is now is not behind.
        sends.saturating_sub(u64::from(pace.producers)) * u64::from(pace.batch_records)
    }

    async fn sample(&mut self, number: usize) {
        let now = self.snapshot().await;
        let seconds = (now.at - self.last.at) as f64 / 1e9;
        let sum = self.session.recorder.take(&mut self.totals);
        // The rest behind the last phase may be too short for rates.
        if seconds < SHORTEST {
            return;
        }
        let backlog = self.backlog(number);
        self.backlog_most[number] = self.backlog_most[number].max(backlog);
        let resident = now.target.resident_bytes;
        self.resident_most[number] = self.resident_most[number].max(resident);
        if self.disk.0.is_none_or(|at| at.elapsed() >= DISK_EVERY) {
            self.disk = (Some(std::time::Instant::now()), self.session.disk_bytes());
        }
        let per_second = |amount: u64, unit: f64| amount as f64 / unit / seconds;
        let at = |quantile: f64| milliseconds(sum.latency.value_at_quantile(quantile));
        self.points.push(Point {
            at: now.at.saturating_sub(self.start) as f64 / 1e9,
            phase: self.first_phase + number,
            records_per_second: per_second(sum.counts.records, 1.0),
            mb_per_second: per_second(sum.counts.bytes, 1e6),
            tail_mb_per_second: per_second(sum.counts.tail_bytes, 1e6),
            catch_up_mb_per_second: per_second(sum.counts.catch_up_bytes, 1e6),
            p50: at(0.5),
            p99: at(0.99),
            max: milliseconds(sum.latency.max()),
            end_to_end_p99: milliseconds(sum.end_to_end.value_at_quantile(0.99)),
            backlog,
            failed_sends: sum.counts.failed,
            cores: (now.target.cpu_seconds - self.last.target.cpu_seconds).max(0.0) / seconds,
            resident_bytes: resident,
            disk_bytes: self.disk.1,
        });
        self.last = now;
    }

    fn tell(&self, number: usize, phase: &Phase) {
        let Some(point) = self.points.last() else { return };
        let left =
            self.windows[number].end.saturating_sub(self.session.clock.now()) / 1_000_000_000;
        let mut line = format!(
            "{} ({left} s left): {:.0} records/s, {:.1} MB/s, p50 {:.2} ms, p99 {:.2} ms",
            phase.name, point.records_per_second, point.mb_per_second, point.p50, point.p99
        );
        let mut also = |what: &str, value: f64, unit: &str| {
            if value > 0.0 {
                line.push_str(&format!(", {what} {value:.1}{unit}"));
            }
        };
        also("tail", point.tail_mb_per_second, " MB/s");
        also("catch-up", point.catch_up_mb_per_second, " MB/s");
        also("behind by", point.backlog as f64, " records");
        also("failed", point.failed_sends as f64, " sends");
        also("target", point.cores, " cores");
        self.session.progress.now(&line);
    }

    fn results(&self, phases: &[Phase], snapshots: &[Snapshot]) -> Vec<PhaseResult> {
        let spans = snapshots.windows(2).enumerate();
        spans.map(|(number, span)| self.result(number, &phases[number], span)).collect()
    }

    fn result(&self, number: usize, phase: &Phase, span: &[Snapshot]) -> PhaseResult {
        let tally = &self.totals[number];
        let counts = &tally.counts;
        let seconds = (span[1].at - span[0].at).max(1) as f64 / 1e9;
        let used = span[1].target.cpu_seconds - span[0].target.cpu_seconds;
        let cpu = (span[1].target != Usage::default()).then_some(used);
        let moved = counts.bytes + counts.tail_bytes + counts.catch_up_bytes;
        PhaseResult {
            name: phase.name.clone(),
            warm_up: phase.warm_up,
            seconds,
            rate: self.windows[number].pace.map(|pace| pace.rate),
            records: counts.records,
            bytes: counts.bytes,
            records_per_second: counts.records as f64 / seconds,
            mb_per_second: counts.bytes as f64 / 1e6 / seconds,
            sends: counts.sends,
            failed_sends: counts.failed,
            unsent: counts.unsent,
            latency: Latency::of(&tally.latency),
            service: Latency::of(&tally.service),
            end_to_end: (!tally.end_to_end.is_empty()).then(|| Latency::of(&tally.end_to_end)),
            tail_mb_per_second: counts.tail_bytes as f64 / 1e6 / seconds,
            catch_up_mb_per_second: counts.catch_up_bytes as f64 / 1e6 / seconds,
            backlog_most: self.backlog_most[number],
            backlog_end: self.backlog_end[number],
            cpu_seconds: cpu,
            cpu_seconds_per_gb: cpu.filter(|_| moved > 0).map(|cpu| cpu / (moved as f64 / 1e9)),
            generator_cpu_seconds: span[1].generator.cpu_seconds - span[0].generator.cpu_seconds,
            resident_bytes_most: self.resident_most[number],
            curve: curve(&tally.latency),
        }
    }
}

/// What producers of a backlog share: as fast as it goes, until so many bytes are sent.
pub async fn fill(shared: Shared, producers: u32) -> Result<()> {
    let mut tasks = JoinSet::new();
    let partitions = shared.log.partitions();
    for number in 0..producers {
        let mine = partitions_of(number, producers, partitions);
        let producer = Producer::open(shared.clone(), number, number, mine).await?;
        let window = Window { phase: 0, start: 0, end: u64::MAX / 2, pace: None };
        tasks.spawn(producer.run(vec![window]));
    }
    while let Some(ended) = tasks.join_next().await {
        ended.map_err(|error| Error::failed(format!("a producer ended: {error}")))??;
    }
    let failed = shared.recorder.refusal();
    match failed {
        Some(why) => Err(Error::failed(format!("writing the backlog: {why}"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::clock::Clock;
    use crate::driver::fake::Fake;
    use crate::progress::Progress;
    use crate::stop::Stop;
    use crate::target::Target;
    use crate::workload::{Produce, Verify};

    #[tokio::test]
    async fn what_is_acknowledged_behind_the_end_is_not_in_the_rate() {
        // 1,000 records a second are done, 2,000 asked for, and all may be under way.
        let fake = Fake { work: 1_000_000, ..Fake::new(Clock::start()) };
        let workload = Workload {
            produce: Produce {
                rate: Rate::PerSecond(2_000),
                producers: 1,
                batch_records: 1,
                in_flight_sends: 10_000,
                ..Produce::default()
            },
            verify: Verify::Off,
            warm_up: "0s".parse().unwrap(),
            duration: "1s".parse().unwrap(),
            ..Workload::default()
        };
        let target = Arc::new(Target::fake(Arc::new(fake)));
        let (progress, stop) = (Arc::new(Progress::new()), Stop::default());
        let session = Session::open(&workload, target, progress, stop).await.unwrap();
        let (phases, _) = drive(&session, &workload.phases(), 0).await.unwrap();
        let phase = &phases[0];
        assert!(phase.records_per_second < 1_200.0, "{phase:?}");
        // Their latencies count all the same.
        assert_eq!(phase.latency.samples, 2_000);
        assert!(phase.latency.max > 500.0, "{phase:?}");
    }

    #[test]
    fn partitions_are_shared_out_once_each() {
        assert_eq!(partitions_of(1, 2, 5), [1, 3]);
        let mut all: Vec<_> = (0..3).flat_map(|producer| partitions_of(producer, 3, 10)).collect();
        all.sort_unstable();
        assert_eq!(all, (0..10).collect::<Vec<_>>());
        assert_eq!(partitions_of(7, 8, 3), [1]);
    }
}
