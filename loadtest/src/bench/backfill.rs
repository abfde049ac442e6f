//! How much a backfill of everything disturbs producers: at full speed, and held to a rate.

use super::{Bench, print_table};
use crate::error::Result;
use crate::report::percentiles;
use crate::results::{Latency, PhaseResult};
use crate::workload::Verify;
use crate::workload::file::built_in;

pub async fn run(bench: &Bench) -> Result<()> {
    let mut workload = built_in(include_str!("../../workloads/backfill.toml"))?;
    for phase in workload.phases.iter_mut().filter(|phase| !phase.warm_up) {
        phase.duration = bench.duration;
    }
    // What checking the records costs this program would be charged to the producers' latency.
    workload.verify = Verify::Off;
    let started = bench.started("backfill", &[], &[])?;
    let (results, target) = bench.measure(&workload, &started).await?;
    bench.clear(&target, &started).await?;
    let phases = || results.measured().zip(workload.phases.iter().filter(|phase| !phase.warm_up));
    let alone: Vec<_> =
        phases().filter(|(_, phase)| !phase.catch_up).map(|(result, _)| &result.latency).collect();
    let moved = |of: fn(&Latency) -> f64, result: &PhaseResult| {
        let before = alone.iter().map(|latency| of(latency)).sum::<f64>() / alone.len() as f64;
        format!("{:+.0} %", 100.0 * (of(&result.latency) / before - 1.0))
    };
    let rows = phases().map(|(result, phase)| {
        let mut row = vec![
            result.name.clone(),
            format!("{:.0}", result.records_per_second),
            format!("{:.0}", result.catch_up_mb_per_second),
            percentiles(&result.latency),
        ];
        if phase.catch_up {
            row.push(moved(|latency| latency.p50, result));
            row.push(moved(|latency| latency.p99, result));
        }
        row
    });
    print_table(
        &format!(
            "Produce at {} records/s without and with a backfill of {} from the bucket; moved: \
             from the mean of the phases alone",
            workload.produce.rate, workload.catch_up.bytes
        ),
        &["", "records/s", "backfill MB/s", "p50 / p99 / p99.9 ms", "p50 moved", "p99 moved"],
        rows.collect(),
    )
}
