//! Two targets or two results beside each other, as ratios.
//!
//! Two targets are measured in turn, several rounds, each round the other way round, so that what
//! drifts on the machine falls on both. Ratios are B to A, of each round; the spread of the rounds
//! says how much a ratio is worth.

use std::path::Path;

use comfy_table::{Table, presets};

use crate::error::{Error, Result};
use crate::results::{Ended, FORMAT, Results};
use crate::run::{Options, run};
use crate::target::Spec;
use crate::target::s2;
use crate::workload::Workload;

/// One figure of a run, and which way is better.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    pub name: String,
    /// None: it cannot be seen; 0: nothing came.
    pub value: Option<f64>,
    pub more_is_better: bool,
}

/// Of A and B.
type Round = (Option<f64>, Option<f64>);

/// A figure of at least one side.
#[derive(Debug, Clone)]
pub struct Ratio {
    pub name: String,
    pub more_is_better: bool,
    pub rounds: Vec<Round>,
}

impl Ratio {
    /// B to A of each round that has both, smallest first.
    fn ratios(&self) -> Vec<f64> {
        let ratio = |&(a, b): &Round| {
            let (a, b) = (a.filter(|a| *a > 0.0)?, b?);
            // No rate is the lowest one; no latency is none at all.
            (b > 0.0 || self.more_is_better).then(|| b / a)
        };
        let mut ratios: Vec<_> = self.rounds.iter().filter_map(ratio).collect();
        ratios.sort_by(f64::total_cmp);
        ratios
    }

    pub fn median(&self) -> f64 {
        median(&self.ratios())
    }

    /// In words, where B is worse by more than `percent`. What cannot be seen is not worse.
    fn regression(&self, percent: f64) -> Option<String> {
        let nothing_came =
            |(a, b): &Round| a.is_some_and(|a| a > 0.0) && b.is_some_and(|b| b <= 0.0);
        let all = self.ratios();
        if all.iter().all(|ratio| *ratio == 0.0) {
            let is_gone = self.rounds.iter().any(nothing_came);
            return is_gone.then(|| format!("{} is not there in B", self.name));
        }
        let ratio = median(&all);
        let worse = 100.0 * if self.more_is_better { 1.0 - ratio } else { ratio - 1.0 };
        (worse > percent).then(|| format!("{} is worse by {worse:.0} %", self.name))
    }

    fn verdict(&self) -> String {
        let all = self.ratios();
        let (Some(&low), Some(&high)) = (all.first(), all.last()) else {
            let has_b = self.rounds.iter().any(|(_, b)| b.is_some_and(|b| b > 0.0));
            return format!("not measured in {}", if has_b { "A" } else { "B" });
        };
        // A spread across 1 says that the two cannot be told apart.
        let verdict = match (low > 1.0, high < 1.0) {
            _ if all.len() == 1 => "one round",
            (false, false) => "no difference seen",
            (above, _) if above == self.more_is_better => "B is better",
            _ => "B is worse",
        };
        verdict.into()
    }
}

fn median(sorted: &[f64]) -> f64 {
    match sorted.len() {
        0 => f64::NAN,
        len if len.is_multiple_of(2) => (sorted[len / 2 - 1] + sorted[len / 2]) / 2.0,
        len => sorted[len / 2],
    }
}

/// What can be compared of a run: its measured phases, by name.
pub fn figures<W>(results: &Results<W>) -> Vec<Figure> {
    let mut figures = Vec::new();
    let mut add = |name: String, value: Option<f64>, more_is_better| {
        figures.push(Figure { name, value, more_is_better });
    };
    for phase in results.measured() {
        let named = |what: &str| format!("{}: {what}", phase.name);
        add(named("records/s"), Some(phase.records_per_second), true);
        add(named("p50 ms"), Some(phase.latency.p50), false);
        add(named("p99 ms"), Some(phase.latency.p99), false);
        add(named("p99.9 ms"), Some(phase.latency.p999), false);
        let end_to_end = phase.end_to_end.map(|end_to_end| end_to_end.p99);
        add(named("end to end p99 ms"), end_to_end, false);
        add(named("tail MB/s"), Some(phase.tail_mb_per_second), true);
        add(named("catch-up MB/s"), Some(phase.catch_up_mb_per_second), true);
        add(named("target CPU s/GB"), phase.cpu_seconds_per_gb, false);
    }
    if let Some(search) = &results.search {
        add("search: records/s".into(), Some(search.best.unwrap_or_default() as f64), true);
    }
    figures
}

/// Figures that at least one side has in some round: in A's order, then what only B has.
pub fn ratios(rounds: &[(Vec<Figure>, Vec<Figure>)]) -> Vec<Ratio> {
    let mut ratios = Vec::<Ratio>::new();
    let all = rounds.iter().map(|(a, _)| a).chain(rounds.iter().map(|(_, b)| b)).flatten();
    for figure in all.filter(|figure| figure.value > Some(0.0)) {
        if ratios.iter().any(|ratio| ratio.name == figure.name) {
            continue;
        }
        let of = |figures: &[Figure]| figures.iter().find(|other| other.name == figure.name)?.value;
        let rounds = rounds.iter().map(|(a, b)| (of(a), of(b))).collect();
        let (name, more_is_better) = (figure.name.clone(), figure.more_is_better);
        ratios.push(Ratio { name, more_is_better, rounds });
    }
    ratios
}

pub fn table(ratios: &[Ratio]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(["", "A", "B", "B / A", "lowest to highest", ""]);
    for ratio in ratios {
        let side = |pick: fn(&Round) -> Option<f64>| {
            let mut values: Vec<_> = ratio.rounds.iter().filter_map(pick).collect();
            values.sort_by(f64::total_cmp);
            if values.is_empty() { String::new() } else { digits(median(&values)) }
        };
        let all = ratio.ratios();
        let spread = all.first().zip(all.last());
        table.add_row([
            ratio.name.clone(),
            side(|(a, _)| *a),
            side(|(_, b)| *b),
            spread.map_or_else(String::new, |_| format!("{:.2}", ratio.median())),
            spread.map_or_else(String::new, |(low, high)| format!("{low:.2} to {high:.2}")),
            ratio.verdict(),
        ]);
    }
    table
}

/// As many as say something.
fn digits(value: f64) -> String {
    match value {
        value if value >= 1000.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.3}"),
    }
}

/// Figures in which B is worse by more than `percent`.
pub fn regressions(ratios: &[Ratio], percent: f64) -> Vec<String> {
    ratios.iter().filter_map(|ratio| ratio.regression(percent)).collect()
}

/// What a reader should know of two results before comparing them.
pub fn differences<W: PartialEq>(a: &Results<W>, b: &Results<W>) -> Vec<String> {
    let mut notes = Vec::new();
    if a.workload != b.workload {
        notes.push("the two are of different workloads".into());
    }
    if a.machine.cpu != b.machine.cpu || a.machine.cores != b.machine.cores {
        notes.push("the two are of different machines".into());
    }
    let (a, b) = (&a.target, &b.target);
    for (what, a, b) in [("class", &a.class, &b.class), ("sync", &a.sync, &b.sync)] {
        if a != b {
            notes.push(format!("{what} of A: {a}; of B: {b}"));
        }
    }
    notes
}

pub fn read(path: &Path) -> Result<Results<serde_json::Value>> {
    /// A day of points is some hundred kilobytes.
    const BYTES_MAX: u64 = 64 << 20;
    let failed = |why: String| Error::usage(format!("{}: {why}", path.display()));
    let size = std::fs::metadata(path).map_err(|error| failed(error.to_string()))?.len();
    if size > BYTES_MAX {
        return Err(failed("is larger than 64MiB: not results of a run".into()));
    }
    let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    let format: Format = serde_json::from_str(&text)
        .map_err(|error| failed(format!("is not a results.json: {error}")))?;
    if format.format != FORMAT {
        let found = format.format;
        return Err(failed(format!("has format {found}; this program reads {FORMAT}")));
    }
    serde_json::from_str(&text).map_err(|error| failed(format!("is damaged: {error}")))
}

#[derive(serde::Deserialize)]
struct Format {
    format: u32,
}

/// What rounds on two targets came to.
pub struct Compared {
    pub rounds: Vec<(Vec<Figure>, Vec<Figure>)>,
    /// Of each driven run, in order.
    pub results: Vec<Results>,
    /// Why a side was not measured.
    pub skipped: Option<String>,
}

/// Measures both, `rounds` times.
pub async fn in_turn(
    workload: &Workload,
    sides: [&Spec; 2],
    rounds: u32,
    options: &Options,
) -> Result<Compared> {
    let mut compared = Compared { rounds: Vec::new(), results: Vec::new(), skipped: None };
    for spec in sides {
        if let Spec::S2 { folder } = spec {
            compared.skipped = s2::missing(folder.as_deref(), workload);
        }
        if compared.skipped.is_some() {
            return Ok(compared);
        }
    }
    for round in 0..rounds {
        let mut found: [Vec<Figure>; 2] = Default::default();
        // A B, B A, A B: what grows with time falls on both.
        let order = if round.is_multiple_of(2) { [0, 1] } else { [1, 0] };
        for side in order {
            let name = ["A", "B"][side];
            options.progress.say(&format!("round {} of {rounds}: {name}", round + 1));
            found[side] = match sides[side] {
                Spec::S2 { folder } => match s2::measure(folder.as_deref(), workload).await? {
                    s2::Outcome::Figures(figures) => figures,
                    s2::Outcome::Skipped(why) => {
                        compared.skipped = Some(format!("s2: {why}"));
                        return Ok(compared);
                    }
                },
                spec => {
                    let results = run(workload, spec, options).await?;
                    let seen = figures(&results);
                    let ended = results.ended.clone();
                    compared.results.push(results);
                    if ended != Ended::Complete {
                        return Ok(compared);
                    }
                    seen
                }
            };
        }
        let [a, b] = found;
        compared.rounds.push((a, b));
    }
    Ok(compared)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(name: &str, value: f64, more_is_better: bool) -> Figure {
        Figure { name: name.into(), value: Some(value), more_is_better }
    }

    #[test]
    fn ratios_are_of_rounds_and_regressions_know_their_way() {
        let round = |a_p99: f64, b_p99: f64, a_rate: f64, b_rate: f64| {
            let a = vec![figure("p99", a_p99, false), figure("rate", a_rate, true)];
            let only = figure("only in b", 1.0, true);
            (a, vec![figure("p99", b_p99, false), figure("rate", b_rate, true), only])
        };
        let rounds = [
            round(10.0, 12.0, 100.0, 99.0),
            round(20.0, 24.0, 50.0, 51.0),
            round(10.0, 20.0, 100.0, 100.0),
        ];
        let ratios = ratios(&rounds);
        assert_eq!(ratios.len(), 3);
        assert!((ratios[0].median() - 1.2).abs() < 1e-9);
        let worse = regressions(&ratios, 10.0);
        assert_eq!(worse, ["p99 is worse by 20 %"]);
        assert!(regressions(&ratios, 25.0).is_empty());
        let table = table(&ratios).to_string();
        for verdict in ["B is worse", "no difference seen", "not measured in A"] {
            assert!(table.contains(verdict), "{verdict}: {table}");
        }
    }

    #[test]
    fn what_does_not_come_in_b_is_a_regression() {
        let a = vec![figure("p99", 10.0, false), figure("rate", 100.0, true)];
        let unused = figure("unused", 0.0, true);
        let b = vec![figure("p99", 0.0, false), figure("rate", 0.0, true), unused];
        let ratios = ratios(&[(a, b)]);
        assert_eq!(ratios.len(), 2, "what nobody has is left away");
        let worse = regressions(&ratios, 50.0);
        assert_eq!(worse, ["p99 is not there in B", "rate is not there in B"]);
        assert!(table(&ratios).to_string().contains("not measured in B"));
    }

    #[test]
    fn what_cannot_be_seen_is_no_regression() {
        let unseen = |name: &str| Figure { value: None, ..figure(name, 0.0, false) };
        let a = || vec![figure("p99.9", 9.0, false), figure("cpu", 2.0, false)];
        // B has no such percentile, and nobody can ask it for its CPU time.
        let ratios_of = ratios(&[(a(), vec![unseen("cpu")])]);
        assert!(regressions(&ratios_of, 0.0).is_empty());
        assert!(table(&ratios_of).to_string().contains("not measured in B"));
        // One round of four without a sample says nothing of the others.
        let rounds: Vec<_> = [9.0, 9.0, 0.0, 9.0]
            .map(|b| (vec![figure("p99", 9.0, false)], vec![figure("p99", b, false)]))
            .into();
        assert!(regressions(&ratios(&rounds), 10.0).is_empty());
        // A rate of nothing is one.
        let rounds: Vec<_> = [0.0, 0.0, 0.0, 9.0]
            .map(|b| (vec![figure("rate", 9.0, true)], vec![figure("rate", b, true)]))
            .into();
        assert_eq!(regressions(&ratios(&rounds), 10.0), ["rate is worse by 100 %"]);
    }
}
