//! One workload on one target, from its start to its results.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::drive::drive;
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::results::{
    Ended, FORMAT, Machine, PhaseResult, Point, Results, SearchResult, SearchStep, slope_per_hour,
};
use crate::search::{Search, Step, Verdict};
use crate::session::Session;
use crate::stop::Stop;
use crate::target::{Spec, Target};
use crate::workload::values::{Rate, Span};
use crate::workload::{self, Phase, Produce, Verify, Workload};

/// Of the rate that was asked for: below it, the target did not keep up.
const KEPT_UP: f64 = 0.98;
/// A backlog of more than this share of a second's records at the end of a phase is no hiccup.
const BEHIND: f64 = 0.5;
/// Of the rate: more is not forgiven for sends that are acknowledged behind the end.
const SLACK_MOST: f64 = 0.05;
/// The last try of a search takes so many times as long as the others.
const CONFIRM_LONGER: u32 = 2;
/// Before each try: acks of the rate before must not count as this one's.
const SEARCH_WARM_UP: Duration = Duration::from_secs(1);

/// How a run is made.
#[derive(Clone)]
pub struct Options {
    pub progress: Arc<Progress>,
    pub stop: Stop,
    /// Topics stay in a target that goes on.
    pub keep: bool,
    pub command: String,
}

/// Starts or reaches the target, and measures it. A broker that is started for it has a prefix of
/// its own in the bucket that is named, so that it joins no cluster which lives there.
pub async fn run(workload: &Workload, spec: &Spec, options: &Options) -> Result<Results> {
    let (spec, own) = spec.apart()?;
    if let Some(own) = &own {
        options.progress.say(&format!("bucket of this run: {own}, removed behind it"));
    }
    let target = match Target::open(&spec, workload).await {
        Ok(target) => Arc::new(target),
        Err(error) => {
            if let Some(own) = &own {
                options.progress.say(&format!("nothing is removed: look below {own}"));
            }
            return Err(error);
        }
    };
    let mut done = measure(workload, &target, options).await;
    let ended = match &done {
        Ok(_) => target.close().await,
        Err(_) => target.kill().await,
    };
    // What was measured is not lost over what follows.
    let mut note = |why: String| match &mut done {
        Ok(results) => results.notes.push(why),
        Err(_) => options.progress.say(&why),
    };
    if let Err(error) = ended {
        note(format!("the target did not stop as it should: {error}"));
    }
    if let Some(own) = &own {
        let removed = match target.is_gone() {
            true => own.remove().await,
            false => Err(Error::failed("its broker may still write there")),
        };
        if let Err(error) = removed {
            note(format!("what this run wrote stays in {own}: {error}"));
        }
    }
    done
}

/// Measures an open target, which goes on.
pub async fn measure(
    workload: &Workload,
    target: &Arc<Target>,
    options: &Options,
) -> Result<Results> {
    let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let machine = Machine::here();
    let stop = options.stop.child();
    stop.when_gone(target);
    let progress = options.progress.clone();
    let session = Session::open(workload, target.clone(), progress, stop.clone()).await?;
    let mut about = target.about.clone();
    (about.class, about.sync) = session.durability().await;
    let before = target.counters().await;
    let driven = drive_all(&session).await;
    let after = target.counters().await;
    let verification = session.judge().await;
    let (phases, points, search) = driven?;
    let mut ended = stop.ended();
    if let (Ended::Complete, Some(why)) = (&ended, session.trouble().first()) {
        ended = Ended::TargetFailed(why.clone());
    }
    if ended == Ended::Complete && phases.iter().all(|phase| phase.sends == 0) {
        let why = session.recorder.refusal().unwrap_or_else(|| "nothing was due".into());
        ended = Ended::TargetFailed(format!("no send was acknowledged: {why}"));
    }
    let mut notes = notes(workload, &phases, &points, &machine);
    notes.extend(session.recorder.refusal().map(|why| format!("first failed send: {why}")));
    if target.process.is_none() {
        let tidied = match (&ended, options.keep) {
            (Ended::Complete, false) => session.tidy().await.map_err(|error| format!(": {error}")),
            _ => Err(String::new()),
        };
        if let Err(why) = tidied {
            let topics = session.topics().join(", ");
            notes.push(format!("topics of this run stay in the target: {topics}{why}"));
        }
    }
    Ok(Results {
        format: FORMAT,
        tool: format!("levee-loadtest {}", env!("CARGO_PKG_VERSION")),
        command: options.command.clone(),
        started_unix: started.as_secs(),
        workload: workload.clone(),
        topics: session.topics(),
        machine,
        target: about,
        phases,
        points,
        verification,
        search,
        counters: growth(&before, &after),
        ended,
        notes,
    })
}

type Driven = (Vec<PhaseResult>, Vec<Point>, Option<SearchResult>);

async fn drive_all(session: &Session) -> Result<Driven> {
    match &session.workload.search {
        None => {
            let (phases, points) = drive(session, &session.workload.phases(), 0).await?;
            Ok((phases, points, None))
        }
        Some(search) => search_rate(session, search).await,
    }
}

async fn search_rate(session: &Session, config: &workload::Search) -> Result<Driven> {
    let mut search = Search::new(config.from, config.to, config.precision);
    let (mut phases, mut points, mut steps) = (Vec::new(), Vec::<Point>::new(), Vec::new());
    let mut warm_up = session.workload.warm_up.0.max(SEARCH_WARM_UP);
    while !session.stop.is_set() {
        let (rate, times) = match search.next() {
            Step::Try(rate) => (rate, 1),
            Step::Confirm(rate) => (rate, CONFIRM_LONGER),
            Step::Over => break,
        };
        let step = [
            phase(format!("warm-up {rate}/s"), rate, warm_up, true),
            phase(format!("{rate}/s"), rate, config.step.0 * times, false),
        ];
        let (seen, more) = match drive(session, &step, phases.len()).await {
            Ok(driven) => driven,
            // What was found until then is worth a report.
            Err(error) if !phases.is_empty() => {
                session.stop.end(Ended::TargetFailed(error.to_string()));
                break;
            }
            Err(error) => return Err(error),
        };
        let Some(last) = seen.iter().find(|phase| !phase.warm_up) else { break };
        let verdict = judge(last, &session.workload.produce, config.p99);
        let (good, why) = match &verdict {
            Verdict::Good => (true, String::new()),
            Verdict::Bad(why) => (false, why.clone()),
        };
        let (reached, p99) = (last.records_per_second, last.latency.p99);
        session.progress.say(&format!(
            "{rate}/s: {reached:.0}/s reached, p99 {p99:.2} ms: {}",
            if good { "good" } else { &why }
        ));
        steps.push(SearchStep { rate, reached, p99, good, why });
        let shift = points.last().map_or(0.0, |point| point.at);
        points.extend(more.into_iter().map(|point| Point { at: point.at + shift, ..point }));
        phases.extend(seen);
        search.told(verdict);
        // The caches are warm from now on.
        warm_up = SEARCH_WARM_UP;
    }
    let found = SearchResult {
        steps,
        best: search.best(),
        why_it_stopped: match session.stop.ended() {
            Ended::Complete => search.why_it_stopped(),
            _ => "it was ended before it was over".into(),
        },
    };
    Ok((phases, points, Some(found)))
}

fn phase(name: String, rate: u64, duration: Duration, warm_up: bool) -> Phase {
    let rate = Some(Rate::PerSecond(rate));
    Phase { name, duration: Span(duration), rate, catch_up: false, catch_up_limit: None, warm_up }
}

/// Whether a rate holds.
fn judge(phase: &PhaseResult, produce: &Produce, p99: Option<Span>) -> Verdict {
    if phase.failed_sends > 0 {
        return Verdict::Bad(format!("{} sends failed", phase.failed_sends));
    }
    if let Some(behind) = behind(phase, produce) {
        return Verdict::Bad(behind);
    }
    let Some(most) = p99 else { return Verdict::Good };
    match phase.latency.p99 / 1000.0 > most.0.as_secs_f64() {
        true => Verdict::Bad(format!("p99 is {:.2} ms, above {most}", phase.latency.p99)),
        false => Verdict::Good,
    }
}

/// Says so where the load could not be kept up.
fn behind(phase: &PhaseResult, produce: &Produce) -> Option<String> {
    let rate = phase.rate? as f64;
    let reached = phase.records_per_second;
    // A send that is due in the last moment is acknowledged behind the end: one batch of each
    // producer is no sign.
    let batches = f64::from(produce.producers) * f64::from(produce.batch_records);
    let slack = (batches / phase.seconds.max(1e-9)).min(rate * SLACK_MOST);
    if reached + slack < rate * KEPT_UP {
        return Some(format!("only {reached:.0} of {rate:.0} records/s were acknowledged"));
    }
    (phase.backlog_end as f64 > rate * BEHIND)
        .then(|| format!("sends fell behind by {} records", phase.backlog_end))
}

fn growth(before: &BTreeMap<String, f64>, after: &BTreeMap<String, f64>) -> BTreeMap<String, f64> {
    let counters = after.iter().filter(|(name, _)| {
        let name = name.split('{').next().unwrap_or_default();
        name.starts_with("levee_") && name.ends_with("_total")
    });
    let grown = counters
        .map(|(name, value)| (name.clone(), value - before.get(name).copied().unwrap_or_default()));
    grown.filter(|(_, grown)| *grown != 0.0).collect()
}

fn notes(
    workload: &Workload,
    phases: &[PhaseResult],
    points: &[Point],
    machine: &Machine,
) -> Vec<String> {
    let mut notes = Vec::new();
    if workload.search.is_none() {
        for phase in phases.iter().filter(|phase| !phase.warm_up) {
            if let Some(behind) = behind(phase, &workload.produce) {
                let (name, seconds) = (&phase.name, phase.seconds);
                let busy = phase.generator_cpu_seconds / seconds / machine.cores.max(1) as f64;
                notes.push(format!(
                    "{name}: {behind}; this program used {:.0} % of the machine's cores",
                    busy * 100.0
                ));
            }
            if phase.rate.is_none() {
                let name = &phase.name;
                notes.push(format!("{name}: full speed: latencies are those of a full queue"));
            }
        }
    }
    for phase in phases.iter().filter(|phase| phase.failed_sends + phase.unsent > 0) {
        let (name, failed, unsent) = (&phase.name, phase.failed_sends, phase.unsent);
        notes.push(format!("{name}: {failed} sends failed, {unsent} were due and never sent"));
    }
    if workload.verify == Verify::Off {
        notes.push("records were not verified".into());
    }
    if machine.load_before > 0.5 {
        let load = machine.load_before;
        notes.push(format!("the machine was shared: load average {load} before the run"));
    }
    notes.extend(growth_note(points));
    notes
}

/// Whether memory and disk of the target grow; only of a run that is long enough to say.
fn growth_note(points: &[Point]) -> Option<String> {
    /// The first third fills caches, and is left away.
    const LEFT_AWAY: f64 = 1.0 / 3.0;
    const LEAST_SECONDS: f64 = 300.0;
    let last = points.last().filter(|last| last.at >= LEAST_SECONDS)?.at;
    let of = |pick: fn(&Point) -> u64| {
        let late = points.iter().filter(move |point| point.at >= last * LEFT_AWAY);
        let slope = slope_per_hour(late.map(move |point| (point.at, pick(point) as f64)));
        slope.map(|slope| slope / f64::from(1 << 20))
    };
    let (memory, disk) = (of(|point| point.resident_bytes)?, of(|point| point.disk_bytes)?);
    Some(format!(
        "behind its first third: memory changed by {memory:+.1} MiB/h, disk by {disk:+.1} MiB/h"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(reached: f64, p99: f64, backlog_end: u64) -> PhaseResult {
        PhaseResult {
            rate: Some(10_000),
            records_per_second: reached,
            seconds: 10.0,
            backlog_end,
            latency: crate::results::Latency { p99, ..Default::default() },
            ..PhaseResult::default()
        }
    }

    #[test]
    fn a_rate_holds_when_it_is_reached_in_time() {
        let (produce, most) = (Produce::default(), Some("20ms".parse().unwrap()));
        assert_eq!(judge(&seen(9_990.0, 19.0, 0), &produce, most), Verdict::Good);
        let why = |phase: &PhaseResult| match judge(phase, &produce, most) {
            Verdict::Bad(why) => why,
            Verdict::Good => panic!("good"),
        };
        assert!(why(&seen(9_990.0, 21.0, 0)).contains("above 20ms"));
        assert!(why(&seen(9_000.0, 19.0, 0)).contains("only 9000 of 10000"));
        assert!(why(&seen(9_990.0, 19.0, 6_000)).contains("behind by 6000"));
        let failed = PhaseResult { failed_sends: 2, ..seen(9_990.0, 1.0, 0) };
        assert!(why(&failed).contains("2 sends failed"));
        // Many producers of large batches are no excuse for a tenth of the records.
        let many = Produce { producers: 64, batch_records: 100, ..Produce::default() };
        assert!(behind(&seen(9_000.0, 19.0, 0), &many).is_some());
        assert!(behind(&seen(9_400.0, 19.0, 0), &many).is_none());
        let full_speed = PhaseResult { rate: None, ..seen(5.0, 1.0, 0) };
        assert_eq!(behind(&full_speed, &produce), None);
        // Late acks are no excuse: a target that is too slow has them too.
        let late = judge(&seen(7_000.0, 3_000.0, 0), &produce, None);
        assert!(matches!(late, Verdict::Bad(_)), "{late:?}");
    }
}
