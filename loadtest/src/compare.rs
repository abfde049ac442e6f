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
use crate::target::peer;
use crate::workload::Workload;

/// One figure of a run, and which way is better.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    pub name: String,
    pub value: f64,
    pub more_is_better: bool,
}

/// A figure of both.
#[derive(Debug, Clone)]
pub struct Ratio {
    pub name: String,
    pub more_is_better: bool,
    /// Of A and B, by round.
    pub rounds: Vec<(f64, f64)>,
}

impl Ratio {
    /// B to A of each round, smallest first.
    fn ratios(&self) -> Vec<f64> {
        let mut ratios: Vec<_> = self.rounds.iter().map(|(a, b)| b / a).collect();
        ratios.sort_by(f64::total_cmp);
        ratios
    }

    pub fn median(&self) -> f64 {
        median(&self.ratios())
    }

    /// By how many percent B is worse; below 0 it is better.
    fn worse_by(&self) -> f64 {
        let ratio = self.median();
        100.0 * if self.more_is_better { 1.0 - ratio } else { ratio - 1.0 }
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
pub fn figures(results: &Results) -> Vec<Figure> {
    let mut figures = Vec::new();
    for phase in results.measured() {
        let mut add = |what: &str, value: f64, more_is_better| {
            if value > 0.0 {
                let name = format!("{}: {what}", phase.name);
                figures.push(Figure { name, value, more_is_better });
            }
        };
        add("records/s", phase.records_per_second, true);
        add("p50 ms", phase.latency.p50, false);
        add("p99 ms", phase.latency.p99, false);
        add("p99.9 ms", phase.latency.p999, false);
        add("end to end p99 ms", phase.end_to_end.map_or(0.0, |latency| latency.p99), false);
        add("tail MB/s", phase.tail_mb_per_second, true);
        add("catch-up MB/s", phase.catch_up_mb_per_second, true);
        add("target CPU s/GB", phase.cpu_seconds_per_gb.unwrap_or_default(), false);
    }
    if let Some(best) = results.search.as_ref().and_then(|search| search.best) {
        let name = "search: records/s".into();
        figures.push(Figure { name, value: best as f64, more_is_better: true });
    }
    figures
}

/// Figures that both have, in A's order.
pub fn ratios(rounds: &[(Vec<Figure>, Vec<Figure>)]) -> Vec<Ratio> {
    let Some((first, _)) = rounds.first() else { return Vec::new() };
    let of = |figures: &[Figure], name: &str| {
        figures.iter().find(|figure| figure.name == name).map(|figure| figure.value)
    };
    let ratio = |figure: &Figure| {
        let both = rounds.iter().map(|(a, b)| Some((of(a, &figure.name)?, of(b, &figure.name)?)));
        let rounds = both.collect::<Option<Vec<_>>>()?;
        let (name, more_is_better) = (figure.name.clone(), figure.more_is_better);
        Some(Ratio { name, more_is_better, rounds })
    };
    first.iter().filter_map(ratio).collect()
}

pub fn table(ratios: &[Ratio]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(["", "A", "B", "B / A", "lowest to highest", ""]);
    for ratio in ratios {
        let side = |pick: fn(&(f64, f64)) -> f64| {
            let mut values: Vec<_> = ratio.rounds.iter().map(pick).collect();
            values.sort_by(f64::total_cmp);
            format!("{:.4}", Digits(median(&values)))
        };
        let all = ratio.ratios();
        let (low, high) = (all.first().copied(), all.last().copied());
        let (low, high) = (low.unwrap_or_default(), high.unwrap_or_default());
        // A spread across 1 says that the two cannot be told apart.
        let verdict = match (low > 1.0, high < 1.0) {
            (false, false) => "no difference seen",
            (above, _) if above == ratio.more_is_better => "B is better",
            _ => "B is worse",
        };
        table.add_row([
            ratio.name.clone(),
            side(|(a, _)| *a),
            side(|(_, b)| *b),
            format!("{:.2}", ratio.median()),
            format!("{low:.2} to {high:.2}"),
            if ratio.rounds.len() > 1 { verdict } else { "one round" }.into(),
        ]);
    }
    table
}

/// A number with as many digits as say something.
struct Digits(f64);

impl std::fmt::Display for Digits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.abs() {
            size if size >= 1000.0 => write!(f, "{:.0}", self.0),
            size if size >= 10.0 => write!(f, "{:.1}", self.0),
            _ => write!(f, "{:.3}", self.0),
        }
    }
}

/// Figures in which B is worse by more than `percent`.
pub fn regressions(ratios: &[Ratio], percent: f64) -> Vec<String> {
    let worse = ratios.iter().filter(|ratio| ratio.worse_by() > percent);
    worse.map(|ratio| format!("{} is worse by {:.0} %", ratio.name, ratio.worse_by())).collect()
}

pub fn read(path: &Path) -> Result<Results> {
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
        if let Spec::Peer { peer, path } = spec {
            compared.skipped = peer::missing(*peer, path.as_deref(), workload);
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
                Spec::Peer { peer, path } => {
                    match peer::measure(*peer, path.as_deref(), workload).await? {
                        peer::Outcome::Figures(figures) => figures,
                        peer::Outcome::Skipped(why) => {
                            compared.skipped = Some(format!("{}: {why}", peer.name()));
                            return Ok(compared);
                        }
                    }
                }
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
        Figure { name: name.into(), value, more_is_better }
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
        assert_eq!(ratios.len(), 2);
        assert!((ratios[0].median() - 1.2).abs() < 1e-9);
        let worse = regressions(&ratios, 10.0);
        assert_eq!(worse, ["p99 is worse by 20 %"]);
        assert!(regressions(&ratios, 25.0).is_empty());
        let table = table(&ratios).to_string();
        assert!(table.contains("B is worse") && table.contains("no difference seen"), "{table}");
    }
}
