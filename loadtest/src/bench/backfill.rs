//! How much a backfill of everything disturbs producers.

use super::{Bench, print_table};
use crate::error::Result;
use crate::report::ms;
use crate::workload::Verify;
use crate::workload::file::built_in;

pub async fn run(bench: &Bench) -> Result<()> {
    let mut workload = built_in(include_str!("../../workloads/backfill.toml"))?;
    for phase in workload.phases.iter_mut().filter(|phase| !phase.warm_up) {
        phase.duration = bench.duration;
    }
    // What checking the records costs this program would be charged to the producers' latency.
    workload.verify = Verify::Off;
    let started = bench.started("backfill", &[], &[]);
    let (results, target) = bench.measure(&workload, &started).await?;
    bench.clear(target, &started).await?;
    let mut rows = Vec::new();
    for phase in results.measured() {
        let latency = &phase.latency;
        rows.push(vec![
            phase.name.clone(),
            format!("{:.0}", phase.records_per_second),
            format!("{:.0}", phase.catch_up_mb_per_second),
            ms(latency.p50),
            ms(latency.p99),
            ms(latency.p999),
        ]);
    }
    let p99 = |catch_up: bool| {
        let of = workload.phases.iter().zip(&results.phases);
        let of = of.filter(|(phase, _)| !phase.warm_up && phase.catch_up == catch_up);
        let all: Vec<_> = of.map(|(_, result)| result.latency.p99).collect();
        all.iter().sum::<f64>() / all.len().max(1) as f64
    };
    let moved = 100.0 * (p99(true) / p99(false) - 1.0);
    let last = ["p99 moved by", "", "", "", &format!("{moved:+.0} %"), ""];
    rows.push(last.map(str::to_owned).to_vec());
    print_table(
        &format!(
            "Produce at {} records/s without and with a backfill of {} from the bucket",
            workload.produce.rate, workload.catch_up.bytes
        ),
        &["", "records/s", "catch-up MB/s", "p50 ms", "p99 ms", "p99.9 ms"],
        rows,
    )
}
