//! A long mixed load: whether memory and disk stay flat.

use super::{Bench, print_table};
use crate::error::Result;
use crate::report::{ms, verified};
use crate::results::Point;
use crate::workload::file::built_in;

const MIB: f64 = (1 << 20) as f64;
/// Rows of the table.
const PARTS: usize = 6;

pub async fn run(bench: &Bench) -> Result<()> {
    let mut workload = built_in(include_str!("../../workloads/soak.toml"))?;
    workload.duration = bench.duration;
    let started = bench.started("soak", &[], &[])?;
    let (results, target) = bench.measure(&workload, &started).await?;
    bench.clear(&target, &started).await?;
    let points = &results.points;
    let parts = points.chunks(points.len().div_ceil(PARTS).max(1));
    let rows = parts.map(|part| {
        let most = |pick: fn(&Point) -> f64| part.iter().map(pick).fold(0.0, f64::max);
        let from = part.first().map_or(0.0, |point| point.at) / 60.0;
        vec![
            format!("from minute {from:.0}"),
            format!("{:.0}", most(|point| point.resident_bytes as f64) / MIB),
            format!("{:.0}", most(|point| point.disk_bytes as f64) / MIB),
            ms(most(|point| point.p99)),
        ]
    });
    let growth = results.notes.iter().find(|note| note.contains("MiB/h"));
    let growth = growth.map_or("too short to say whether memory and disk are flat", |note| note);
    print_table(
        &format!("Soak of {}: {growth}; {}", bench.duration, verified(&results.verification)),
        &["", "memory at most, MiB", "disk with bucket at most, MiB", "p99 at most, ms"],
        rows.collect(),
    )
}
