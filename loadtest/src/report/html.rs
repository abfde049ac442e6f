//! One page that holds everything: no other file, no script, no network. Pure from results.

use std::fmt::Write;

use super::svg::{Line, Plot, Scale, escape};
use super::{COLUMNS, conditions, ended, ms, rows, verified};
use crate::results::{PhaseResult, Point, Results, Standing};

const STYLE: &str = "
:root { color-scheme: light dark; --text: #1d2733; --soft: #5b6b7c; --ground: #ffffff;
  --grid: #e3e8ee; --c0: #1668c7; --c1: #c2410c; --c2: #15803d; --c3: #7e22ce; }
@media (prefers-color-scheme: dark) { :root { --text: #e6edf3; --soft: #9aa7b4; --ground: #10161d;
  --grid: #2a333d; --c0: #6cb2ff; --c1: #ff9d66; --c2: #5fd38a; --c3: #cf9bff; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--ground);
  max-width: 1000px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { font-size: 1.1rem; margin-top: 2rem; }
p.about { color: var(--soft); margin-top: .2rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .25rem .7rem; border-bottom: 1px solid var(--grid); }
th:first-child, td:first-child { text-align: left; } th { color: var(--soft); font-weight: 500; }
pre { white-space: pre-wrap; color: var(--soft); font-size: 13px; }
.good { color: var(--c2); } .bad { color: var(--c1); font-weight: 600; }
svg { width: 100%; height: auto; margin: .5rem 0; }
svg text { fill: var(--text); font: 12px system-ui, sans-serif; }
svg .title { font-weight: 600; font-size: 14px; } svg .tick { fill: var(--soft); font-size: 11px; }
svg .grid { stroke: var(--grid); } svg .mark { stroke: var(--soft); stroke-dasharray: 3 3; }
svg .line { fill: none; stroke-width: 1.6; stroke-linejoin: round; }
svg .line.c0 { stroke: var(--c0); } svg .line.c1 { stroke: var(--c1); }
svg .line.c2 { stroke: var(--c2); } svg .line.c3 { stroke: var(--c3); }
svg .name.c0 { fill: var(--c0); } svg .name.c1 { fill: var(--c1); }
svg .name.c2 { fill: var(--c2); } svg .name.c3 { fill: var(--c3); }
";

/// A line over time: its name, and which figure of a point it shows.
type Named = (&'static str, fn(&Point) -> f64);

pub fn page(results: &Results) -> String {
    let mut out = String::new();
    let (name, about) = (escape(&results.workload.name), escape(&results.workload.about));
    // Writing to a String cannot fail.
    let _ = write!(
        out,
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>{name}</title><style>{STYLE}</style></head><body>\
         <h1>{name}</h1><p class=\"about\">{about}</p>"
    );
    out.push_str(&outcome(results));
    out.push_str(&table(results));
    for plot in plots(results) {
        out.push_str(&plot);
    }
    if let Some(search) = &results.search {
        out.push_str(
            "<h2>Search</h2><div class=\"scroll\"><table><tr><th>asked, records/s</th>\
                      <th>reached</th><th>p99 ms</th><th>verdict</th></tr>",
        );
        for step in &search.steps {
            let class = if step.good { "good" } else { "bad" };
            let why = if step.good { "good".into() } else { escape(&step.why) };
            let (rate, reached, p99) = (step.rate, step.reached, ms(step.p99));
            let _ = write!(
                out,
                "<tr><td>{rate}</td><td>{reached:.0}</td><td>{p99}</td><td class=\"{class}\">{why}\
                 </td></tr>"
            );
        }
        let why = escape(&search.why_it_stopped);
        let _ = write!(out, "</table></div><p>Stopped because {why}.</p>");
    }
    let workload = toml::to_string_pretty(&results.workload).unwrap_or_default();
    let (conditions, workload) = (escape(&conditions(results)), escape(&workload));
    let _ = write!(
        out,
        "<h2>Conditions</h2><pre>{conditions}</pre><h2>Workload</h2><pre>{workload}</pre>\
         </body></html>"
    );
    out
}

fn outcome(results: &Results) -> String {
    let mut out = String::new();
    let class = match results.verification.standing() {
        Standing::Right => "good",
        Standing::Wrong | Standing::Open => "bad",
        Standing::NotAsked => "about",
    };
    let verified = verified(&results.verification);
    let _ = write!(out, "<p class=\"{class}\">{}</p>", escape(&verified));
    if let Some(ended) = ended(&results.ended) {
        let _ = write!(out, "<p class=\"bad\">{}</p>", escape(&ended));
    }
    for note in &results.notes {
        let _ = write!(out, "<p>{}</p>", escape(note));
    }
    out
}

fn table(results: &Results) -> String {
    let row = |cells: &[&str], tag: &str| {
        let cells = cells.iter().map(|cell| format!("<{tag}>{}</{tag}>", escape(cell)));
        format!("<tr>{}</tr>", cells.collect::<String>())
    };
    let mut out = row(&COLUMNS, "th");
    for cells in rows(results) {
        out.push_str(&row(&cells.each_ref().map(String::as_str), "td"));
    }
    format!("<div class=\"scroll\"><table>{out}</table></div>")
}

fn plots(results: &Results) -> Vec<String> {
    let mut plots = vec![percentiles(results)];
    let points = &results.points;
    if points.len() < 2 {
        return plots;
    }
    let marks = marks(results);
    let over_time = |title, y, y_scale, lines: Vec<Named>| {
        let lines = lines.into_iter().map(|(name, pick)| Line {
            name,
            points: points.iter().map(|point| (point.at, pick(point))).collect(),
        });
        // A line of nothing but zeros says nothing, unless it is the only one.
        let (some, none): (Vec<_>, Vec<_>) =
            lines.partition(|line| line.points.iter().any(|(_, value)| *value > 0.0));
        let lines = if some.is_empty() { none.into_iter().take(1).collect() } else { some };
        let (x, marks) = ("seconds", marks.clone());
        Plot { title, x, y, x_scale: Scale::Linear, y_scale, lines, marks }.draw()
    };
    plots.push(over_time(
        "Latency over time, from the intended send",
        "ms",
        Scale::Log,
        vec![
            ("p50", |p| p.p50),
            ("p99", |p| p.p99),
            ("max", |p| p.max),
            ("end to end p99", |p| p.end_to_end_p99),
        ],
    ));
    plots.push(over_time(
        "Throughput over time",
        "MB/s",
        Scale::Linear,
        vec![
            ("acknowledged", |p| p.mb_per_second),
            ("tail reads", |p| p.tail_mb_per_second),
            ("catch-up reads", |p| p.catch_up_mb_per_second),
        ],
    ));
    let records = |p: &Point| p.backlog as f64;
    plots.push(over_time(
        "Backlog: due and not sent",
        "records",
        Scale::Linear,
        vec![("backlog", records)],
    ));
    if points.iter().any(|point| point.resident_bytes > 0) {
        plots.push(over_time(
            "Processor of the target",
            "cores",
            Scale::Linear,
            vec![("cores", |p| p.cores)],
        ));
        plots.push(over_time(
            "Memory and disk of the target",
            "MiB",
            Scale::Linear,
            vec![
                ("resident", |p| p.resident_bytes as f64 / 1_048_576.0),
                ("disk and folder bucket", |p| p.disk_bytes as f64 / 1_048_576.0),
            ],
        ));
    }
    plots
}

fn percentiles(results: &Results) -> String {
    /// More lines than colours cannot be told apart.
    const LINES: usize = super::svg::COLOURS;
    let measured = results.measured().filter(|phase| !phase.curve.is_empty());
    let lines = measured
        .take(LINES)
        .map(|phase: &PhaseResult| Line { name: &phase.name, points: phase.curve.clone() });
    Plot {
        title: "Latency by percentile, from the intended send",
        x: "percentile",
        y: "ms",
        x_scale: Scale::Nines,
        y_scale: Scale::Log,
        lines: lines.collect(),
        marks: Vec::new(),
    }
    .draw()
}

/// Where phases begin; none where there would be too many to read.
fn marks(results: &Results) -> Vec<(f64, &str)> {
    const MARKS: usize = 8;
    if results.phases.len() > MARKS {
        return Vec::new();
    }
    let mut at = 0.0;
    results
        .phases
        .iter()
        .map(|phase| {
            let begin = at;
            at += phase.seconds;
            (begin, phase.name.as_str())
        })
        .collect()
}
