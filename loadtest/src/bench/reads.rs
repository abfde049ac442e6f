//! Reads of whole partitions side by side, and cold ones beside a bare ranged-GET loop.

use std::time::{Duration, Instant};

use levee_client::{Client, Position, ReadConfig};
use levee_tiering::store::Listed;
use tokio::task::JoinSet;

use super::{Bench, print_table};
use crate::bucket::Bucket;
use crate::driver::Driver;
use crate::driver::levee::Levee;
use crate::error::{Error, Result};
use crate::target::{Target, usage};
use crate::workload::Verify;
use crate::workload::file::built_in;

/// As the broker reads by default (`cache.chunk.bytes`).
const RANGE: u64 = 1 << 20;
/// Smaller objects hold metadata.
const OBJECT_LEAST: u64 = 1 << 20;
const SIDE_BY_SIDE: usize = 16;
/// Passes of each, in turn.
const ROUNDS: usize = 3;

/// One pass.
#[derive(Debug, Clone, Copy)]
pub struct Read {
    pub bytes: u64,
    pub took: Duration,
    /// Of the broker, or of this program where there is none.
    pub cpu_seconds: f64,
}

impl Read {
    pub fn mb_per_second(&self) -> f64 {
        self.bytes as f64 / 1e6 / self.took.as_secs_f64()
    }

    fn row(&self, name: &str) -> Vec<String> {
        vec![
            name.to_owned(),
            format!("{:.0}", self.mb_per_second()),
            format!("{:.2}", self.cpu_seconds / (self.bytes as f64 / 1e9)),
        ]
    }
}

/// All partitions from `position(end)` to their ends, nothing decoded.
pub async fn read(
    client: &Client,
    topic: &str,
    partitions: u32,
    target: &Target,
    position: impl Fn(u64) -> Position,
) -> Result<Read> {
    let mut readers = Vec::new();
    for partition in 0..partitions {
        let config = ReadConfig::default();
        let end = client.read(topic, partition, Position::End, config.clone()).await?.offset();
        readers.push((client.read(topic, partition, position(end), config).await?, end));
    }
    let (before, started) = (target.usage().await.cpu_seconds, Instant::now());
    let mut tasks = JoinSet::new();
    for (mut reader, end) in readers {
        tasks.spawn(async move {
            let mut bytes = 0;
            while reader.offset() < end {
                bytes += reader.next_batches().await?.bytes.len() as u64;
            }
            Ok::<u64, levee_client::Error>(bytes)
        });
    }
    let mut bytes = 0;
    while let Some(done) = tasks.join_next().await {
        bytes += done.map_err(|error| Error::failed(format!("a reader ended: {error}")))??;
    }
    let took = started.elapsed();
    let cpu_seconds = target.usage().await.cpu_seconds - before;
    Ok(Read { bytes, took, cpu_seconds })
}

pub async fn run(bench: &Bench) -> Result<()> {
    let mut workload = built_in(include_str!("../../workloads/full-speed.toml"))?;
    workload.name = "cold-reads".into();
    workload.duration = bench.duration;
    workload.verify = Verify::Off;
    let started = bench.started("reads", &[], &[("durability.class", "local")])?;
    bench.say("reads: writing what is read");
    let (results, target) = bench.measure(&workload, &started).await?;
    let topic = results.topics[0].clone();
    let levee = Levee::connect(&target.about.address, 1).await?;
    levee.make_cold(&topic).await?;
    let bucket = Bucket::open(started.bucket.as_deref().unwrap_or_default())?;
    let objects = bucket.objects(OBJECT_LEAST).await?;
    let (mut floors, mut colds) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        bench.say(&format!("reads: round {} of {ROUNDS}", round + 1));
        bucket.chill(&objects);
        floors.push(bare(&bucket, &objects).await?);
        let partitions = workload.topics.partitions;
        let start = |_| Position::Start;
        bucket.chill(&objects);
        colds.push(read(levee.client(0), &topic, partitions, &target, start).await?);
    }
    bench.clear(&target, &started).await?;
    let (floor, cold) = (median(floors), median(colds));
    let gib = cold.bytes as f64 / f64::from(1 << 30);
    let mut ratio = cold.row("levee / floor");
    ratio[1] = format!("{:.2}", cold.mb_per_second() / floor.mb_per_second());
    ratio[2].clear();
    print_table(
        &format!(
            "Cold reads of {gib:.1} GiB in {} objects, {SIDE_BY_SIDE} side by side, median of \
             {ROUNDS} passes (a folder's objects come from the disk, not from the page cache)",
            objects.len()
        ),
        &["", "MB/s", "CPU s/GB of the process that reads the bucket"],
        vec![floor.row("floor: bare GETs of 1 MiB"), cold.row("levee"), ratio],
    )
}

async fn bare(bucket: &Bucket, objects: &[Listed]) -> Result<Read> {
    let own = || usage::of_process(std::process::id()).cpu_seconds;
    let before = own();
    let (bytes, took) = bucket.gets(objects, RANGE, SIDE_BY_SIDE).await?;
    Ok(Read { bytes, took, cpu_seconds: own() - before })
}

fn median(mut reads: Vec<Read>) -> Read {
    reads.sort_by(|a, b| a.mb_per_second().total_cmp(&b.mb_per_second()));
    reads[reads.len() / 2]
}
