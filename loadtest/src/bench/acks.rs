//! What an ack costs over what it must wait for: one send at a time, of as many bytes as one sync
//! or one PUT of the floor.

use std::time::Duration;

use levee_proto::wal::{GROUP_ENTRY_BYTES, GROUP_HEAD_BYTES};

use super::floor::syncs;
use super::round_trip::round_trips;
use super::{Bench, measured, print_table};
use crate::bucket::Bucket;
use crate::error::{Error, Result};
use crate::payload::Payload;
use crate::recorder::add_up;
use crate::report::ms;
use crate::results::milliseconds;
use crate::workload::values::{Rate, Size};
use crate::workload::{Produce, Record, Topics, Verify, Workload};
use hdrhistogram::Histogram;

/// Bytes of one send: a small one, and what full groups hold.
const SYNC_BYTES: [u64; 4] = [4 << 10, 64 << 10, 256 << 10, 1 << 20];
/// A slot is written at once when it holds this much, so that no linger is in the figures.
const SLOT_BYTES: [u64; 3] = [64 << 10, 256 << 10, 1 << 20];
/// What a record batch of one record has around its value.
const AROUND: u64 = 80;

pub async fn run(bench: &Bench) -> Result<()> {
    let mut rows = Vec::new();
    for bytes in SYNC_BYTES {
        rows.push(local(bench, bytes).await?);
    }
    print_table(
        "Acks of class `local`, one send at a time, beside write + fdatasync of the same bytes \
         (file written before), and beside the way to the broker and back (the same sends, \
         answered before they are synced): p50 / p99 ms",
        &[
            "bytes",
            "fdatasync, O_DIRECT",
            "fdatasync, page cache",
            "there and back",
            "levee",
            "levee / fdatasync at p50",
            "levee / (fdatasync + way) at p50",
        ],
        rows,
    )?;
    let mut rows = Vec::new();
    for bytes in SLOT_BYTES {
        rows.push(object(bench, bytes).await?);
    }
    print_table(
        "Acks of class `object`, one send at a time that fills a slot, beside a bare conditional \
         PUT of the same bytes (`object_store`; a folder is synced): p50 / p99 ms",
        &["bytes", "floor, PUT", "levee", "levee / floor at p50"],
        rows,
    )
}

/// One record a send, one send at a time.
fn one_at_a_time(bench: &Bench, name: &str, bytes: u64, class: &str) -> Workload {
    let settings = [("durability.class".to_owned(), class.to_owned())].into();
    Workload {
        name: format!("{name}-{bytes}"),
        topics: Topics { count: 1, partitions: 1, settings },
        record: Record { bytes: Size(bytes), ..Record::default() },
        produce: Produce {
            rate: Rate::Full,
            producers: 1,
            batch_records: 1,
            in_flight_sends: 1,
            ..Produce::default()
        },
        verify: Verify::Off,
        warm_up: "1s".parse().unwrap_or(bench.duration),
        duration: bench.duration,
        ..Workload::default()
    }
}

async fn local(bench: &Bench, bytes: u64) -> Result<Vec<String>> {
    bench.say(&format!("acks, local, {bytes} bytes"));
    let around = AROUND + (GROUP_HEAD_BYTES + GROUP_ENTRY_BYTES) as u64;
    let workload = one_at_a_time(bench, "ack-local", bytes - around, "local");
    let batch = Payload::new(&workload)?.plain(0);
    let written = batch.len() + GROUP_HEAD_BYTES + GROUP_ENTRY_BYTES;
    // Before and behind: what drifts falls on both.
    let mut direct = floor(bench, written, true).await?;
    let mut cached = floor(bench, written, false).await?;
    let started = bench.started(&workload.name, &[], &[])?;
    let (results, target) = bench.measure(&workload, &started).await?;
    let address = target.process.as_ref().map_or("", |process| &process.grpc);
    let way = round_trips(address, batch, half(bench)).await?;
    bench.clear(&target, &started).await?;
    add_up(&mut direct, &floor(bench, written, true).await?);
    add_up(&mut cached, &floor(bench, written, false).await?);
    let levee = &measured(&results)?.latency;
    let median = |of: &Histogram<u64>| milliseconds(of.value_at_quantile(0.5));
    Ok(vec![
        Size(bytes).to_string(),
        both(&direct),
        both(&cached),
        both(&way),
        format!("{} / {}", ms(levee.p50), ms(levee.p99)),
        format!("{:.2}", levee.p50 / median(&direct)),
        format!("{:.2}", levee.p50 / (median(&direct) + median(&way))),
    ])
}

async fn object(bench: &Bench, bytes: u64) -> Result<Vec<String>> {
    bench.say(&format!("acks, object, {bytes} bytes"));
    let workload = one_at_a_time(bench, "ack-object", bytes, "object");
    let written = Payload::new(&workload)?.plain(0).len();
    let set = [("object.lane.slot.bytes", "64KiB")];
    let started = bench.started(&workload.name, &set, &[])?;
    let bucket = Bucket::open(started.bucket.as_deref().unwrap_or_default())?;
    let mut floor = bucket.puts(written, half(bench)).await?;
    let (results, target) = bench.measure(&workload, &started).await?;
    add_up(&mut floor, &bucket.puts(written, half(bench)).await?);
    bench.clear(&target, &started).await?;
    let levee = &measured(&results)?.latency;
    Ok(vec![
        Size(bytes).to_string(),
        both(&floor),
        format!("{} / {}", ms(levee.p50), ms(levee.p99)),
        format!("{:.2}", levee.p50 / milliseconds(floor.value_at_quantile(0.5))),
    ])
}

fn half(bench: &Bench) -> Duration {
    bench.duration.0 / 2
}

async fn floor(bench: &Bench, bytes: usize, direct: bool) -> Result<Histogram<u64>> {
    let (folder, duration) = (bench.work.path().to_owned(), half(bench));
    let looped = tokio::task::spawn_blocking(move || syncs(&folder, bytes, direct, duration)).await;
    looped.map_err(|error| Error::failed(format!("the floor ended: {error}")))?
}

fn both(histogram: &Histogram<u64>) -> String {
    let at = |quantile| ms(milliseconds(histogram.value_at_quantile(quantile)));
    format!("{} / {}", at(0.5), at(0.99))
}
