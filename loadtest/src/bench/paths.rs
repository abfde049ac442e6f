//! Every way of a record through one broker: rate, CPU seconds per GB, latency; memory; restart.

use std::time::Instant;

use levee_client::{Client, Position};

use super::reads::{Read, read};
use super::{Bench, measured, print_table};
use crate::driver::Driver;
use crate::driver::levee::Levee;
use crate::error::Result;
use crate::report::{cpu_per_gb, percentiles};
use crate::results::PhaseResult;
use crate::target::Target;
use crate::workload::file::built_in;
use crate::workload::{Verify, Workload};

const CLASSES: [&str; 2] = ["local", "object"];
/// Of the newest records: what is in memory.
const TAIL_SHARE: u64 = 20;
const MIB: u64 = 1 << 20;

pub async fn run(bench: &Bench) -> Result<()> {
    let mut rows = Vec::new();
    let mut notes = Vec::new();
    for class in CLASSES {
        one_class(bench, class, &mut rows, &mut notes).await?;
    }
    print_table(
        "Every path, 1 KiB records, 16 partitions, upload included",
        &["", "records/s", "MB/s", "broker CPU s/GB", "p50 / p99 / p99.9 ms"],
        rows,
    )?;
    print_table("Memory and restart", &["", ""], notes)
}

async fn one_class(
    bench: &Bench,
    class: &str,
    rows: &mut Vec<Vec<String>>,
    notes: &mut Vec<Vec<String>>,
) -> Result<()> {
    let workload = |file: &str| -> Result<Workload> {
        let mut workload = built_in(file)?;
        workload.topics.settings.insert("durability.class".into(), class.into());
        workload.name = format!("{}-{class}", workload.name);
        workload.duration = bench.duration;
        workload.verify = Verify::Off;
        Ok(workload)
    };
    let full = workload(include_str!("../../workloads/full-speed.toml"))?;
    let steady = workload(include_str!("../../workloads/steady.toml"))?;
    let started = bench.started(class, &[], &[])?;
    bench.say(&format!("{class}: full speed"));
    let (results, target) = bench.measure(&full, &started).await?;
    rows.push(produced(&format!("produce, `{class}`, full speed"), measured(&results)?));
    let resident = target.usage().await.resident_bytes / MIB;
    notes.push(vec![format!("`{class}`: resident after full speed"), format!("{resident} MiB")]);
    let topic = results.topics[0].clone();
    // What is left of this run must not be charged to the next one.
    let levee = Levee::connect(&target.about.address, 1).await?;
    levee
        .client(0)
        .manage()
        .flush(Some(&topic), false, std::time::Duration::from_secs(600))
        .await?;
    bench.say(&format!("{class}: steady"));
    let results = bench.measure_on(&steady, &target).await?;
    let name = format!("produce, `{class}`, {}/s", steady.produce.rate);
    rows.push(produced(&name, measured(&results)?));

    bench.say(&format!("{class}: reads"));
    let partitions = full.topics.partitions;
    let (client, newest) = (levee.client(0), |end: u64| Position::Offset(end - end / TAIL_SHARE));
    let tail = read(client, &topic, partitions, &target, newest).await?;
    rows.push(was_read(&format!("read, `{class}`, tail"), &tail));
    let hot = read(client, &topic, partitions, &target, |_| Position::Start).await?;
    rows.push(was_read(&format!("read, `{class}`, tail and hot segments"), &hot));
    levee.make_cold(&topic).await?;
    let cold = read(client, &topic, partitions, &target, |_| Position::Start).await?;
    rows.push(was_read(&format!("read, `{class}`, from the bucket"), &cold));
    target.close().await?;

    let took = restart(bench, &full, class).await?;
    notes.push(vec![
        format!("`{class}`: SIGKILL under full speed to first ack, recovery included"),
        format!("{took:.0} ms"),
    ]);
    let again = Target::open(&crate::target::Spec::Started(started.clone()), &full).await?;
    bench.clear(&again, &started).await
}

/// Kills a broker under load and waits for an ack of the next one; milliseconds.
async fn restart(bench: &Bench, workload: &Workload, class: &str) -> Result<f64> {
    let started = bench.started(&format!("restart-{class}"), &[], &[])?;
    let mut workload = workload.clone();
    workload.duration = "2s".parse().unwrap_or(bench.duration);
    workload.name = format!("restart-{class}");
    let (results, target) = bench.measure(&workload, &started).await?;
    let topic = results.topics[0].clone();
    let killed = Instant::now();
    target.kill().await?;
    let again = Target::open(&crate::target::Spec::Started(started.clone()), &workload).await?;
    let client = Client::connect(&again.about.address).await?;
    let producer = client.producer(Default::default()).await?;
    let record = levee_client::RecordData { value: Some("back".into()), ..Default::default() };
    producer.send(&topic, Some(0), record).await?.await?;
    let took = killed.elapsed().as_secs_f64() * 1000.0;
    bench.clear(&again, &started).await?;
    Ok(took)
}

fn produced(name: &str, phase: &PhaseResult) -> Vec<String> {
    vec![
        name.to_owned(),
        format!("{:.0}", phase.records_per_second),
        format!("{:.0}", phase.mb_per_second),
        cpu_per_gb(phase),
        percentiles(&phase.latency),
    ]
}

fn was_read(name: &str, read: &Read) -> Vec<String> {
    vec![
        name.to_owned(),
        String::new(),
        format!("{:.0}", read.mb_per_second()),
        format!("{:.2}", read.cpu_seconds / (read.bytes as f64 / 1e9)),
        String::new(),
    ]
}
