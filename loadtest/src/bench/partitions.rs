//! Very many partitions on one broker: memory, produce latency, seals and PUTs, restart.

use std::sync::Arc;
use std::time::Instant;

use super::{Bench, measured, print_table};
use crate::error::Result;
use crate::report::{cpu_per_gb, percentiles};
use crate::target::{Spec, Target};
use crate::workload::file::built_in;

const MIB: f64 = (1 << 20) as f64;

pub async fn run(bench: &Bench) -> Result<()> {
    let mut workload = built_in(include_str!("../../workloads/many-partitions.toml"))?;
    workload.topics.partitions = bench.partitions;
    workload.duration = bench.duration;
    let started = bench.started("partitions", &[], &[])?;
    let spec = Spec::Started(started.clone());
    bench.say(&format!("partitions: {} of them", bench.partitions));
    let target = Arc::new(Target::open(&spec, &workload).await?);
    let empty = target.usage().await.resident_bytes;
    let results = bench.measure_on(&workload, &target).await?;
    let phase = measured(&results)?;
    let seconds: f64 = results.phases.iter().map(|phase| phase.seconds).sum();
    let resident = target.usage().await.resident_bytes;
    // Before the records were read back.
    let rate = |name: &str, with: &str| {
        let counters = results.counters.iter();
        let named = counters.filter(|(key, _)| key.starts_with(name) && key.contains(with));
        named.map(|(_, value)| value).sum::<f64>() / seconds
    };
    let objects = rate("levee_upload_objects_total", "");
    let puts = rate("levee_store_requests_total", "op=\"put\"")
        + rate("levee_store_requests_total", "op=\"create\"");
    let requests = rate("levee_store_requests_total", "");
    let stopping = Instant::now();
    target.close().await?;
    let stopped = stopping.elapsed();
    let starting = Instant::now();
    let again = Target::open(&spec, &workload).await?;
    let ready = starting.elapsed();
    let killed = Instant::now();
    again.kill().await?;
    let again = Target::open(&spec, &workload).await?;
    let back = killed.elapsed();
    bench.clear(&again, &started).await?;
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    print_table(
        &format!(
            "{} partitions on one broker, {} records/s of {} bytes, one record a send",
            bench.partitions, workload.produce.rate, workload.record.bytes.0
        ),
        &["", ""],
        vec![
            row("reached", format!("{:.0} records/s", phase.records_per_second)),
            row("produce p50 / p99 / p99.9 ms", percentiles(&phase.latency)),
            row("memory, no topic", format!("{:.0} MiB", empty as f64 / MIB)),
            row(
                "memory, most under load",
                format!("{:.0} MiB", phase.resident_bytes_most as f64 / MIB),
            ),
            row("memory, after", format!("{:.0} MiB", resident as f64 / MIB)),
            row("tiered objects sealed", format!("{objects:.2}/s")),
            row("PUTs", format!("{puts:.2}/s")),
            row("all bucket requests", format!("{requests:.2}/s")),
            row("CPU s/GB", cpu_per_gb(phase)),
            row("stop in peace", format!("{:.0} ms", stopped.as_secs_f64() * 1000.0)),
            row("start to ready", format!("{:.0} ms", ready.as_secs_f64() * 1000.0)),
            row("SIGKILL to ready again", format!("{:.0} ms", back.as_secs_f64() * 1000.0)),
        ],
    )
}
