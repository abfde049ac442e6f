//! The load generator: measures a broker that it starts itself, and prints what it saw.
//!
//! Owns: load, clocks, the report. Measures and never gates. Does not own: anything that a broker
//! needs to run.

// A load generator runs in the real world.
#![allow(clippy::disallowed_methods, unreachable_pub)]

mod broker;
mod produce;
mod read;
mod report;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use levee_client::Client;
use levee_client::grpc::{CreateTopicRequest, FlushRequest};

use broker::Broker;
use report::{Report, Row};

/// Batches come and go by the hundred thousand: the system's allocator gives each back to the
/// kernel, and pays for it with page faults.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Load for Levee brokers.
#[derive(Parser)]
#[command(name = "levee-loadtest", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start a broker on this machine and measure it: produce, reads, memory, restart.
    Bench(Bench),
}

#[derive(clap::Args, Clone)]
struct Bench {
    /// The broker's binary; the one beside this program without it.
    #[arg(long, value_name = "FILE")]
    levee: Option<PathBuf>,
    /// Bucket URL; a folder in the work folder without it.
    #[arg(long, value_name = "URL")]
    bucket: Option<String>,
    /// Seconds of each produce run.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    #[arg(long, default_value_t = 16)]
    partitions: u32,
    /// Bytes of a record.
    #[arg(long, default_value_t = 1024)]
    record: usize,
    /// Records of one batch at full speed.
    #[arg(long, default_value_t = 256)]
    batch: usize,
    /// Records a second of the latency run, all partitions together.
    #[arg(long, default_value_t = 20_000)]
    rate: u64,
    /// Classes to measure.
    #[arg(long, value_delimiter = ',', default_value = "local,object")]
    classes: Vec<String>,
    /// Print JSON in place of tables.
    #[arg(long)]
    json: bool,
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    match Cli::parse().command {
        Command::Bench(bench) => {
            let report = run(&bench).await?;
            report.print(bench.json);
            Ok(())
        }
    }
}

async fn run(bench: &Bench) -> Result<Report, Error> {
    let folder = std::env::temp_dir().join(format!("levee-bench-{}", std::process::id()));
    let mut report = Report::default();
    for class in &bench.classes {
        let data = folder.join(class);
        let done = one_class(bench, class, &data, &mut report).await;
        drop(std::fs::remove_dir_all(&data));
        done?;
    }
    drop(std::fs::remove_dir_all(&folder));
    Ok(report)
}

async fn one_class(
    bench: &Bench,
    class: &str,
    data: &std::path::Path,
    report: &mut Report,
) -> Result<(), Error> {
    let bucket = bench.bucket.as_ref().map(|url| with_prefix(url, class));
    let mut broker = Broker::start(bench.levee.as_deref(), data, bucket.as_deref(), None).await?;
    let client = Client::connect(&broker.grpc).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    report.note(format!("{class}: resident when idle"), format!("{} MiB", broker.resident_mib()));
    for name in ["full", "steady"] {
        create(&client, name, bench.partitions, class).await?;
    }
    let load = produce::Load::new(bench);
    let row = load.full_speed(&client, "full", &broker).await?;
    report.row(Row { name: format!("{class}: produce, full speed"), ..row });
    report.note(format!("{class}: resident loaded"), format!("{} MiB", broker.resident_mib()));
    // What is left of the run before must not be charged to the next one.
    let flush = FlushRequest { timeout_ms: 600_000, ..Default::default() };
    client.admin().flush(flush).await?;
    let row = load.steady(&client, "steady", &broker).await?;
    report.row(Row { name: format!("{class}: produce, {}/s", bench.rate), ..row });

    let newest = read::tail(&client, "full", bench.partitions, &broker).await?;
    report.row(Row { name: format!("{class}: read, tail"), ..newest });
    let all = read::all(&client, "full", bench.partitions, &broker).await?;
    report.row(Row { name: format!("{class}: read, tail and hot"), ..all });
    let flush = FlushRequest { drop_hot: true, timeout_ms: 600_000, ..Default::default() };
    client.admin().flush(flush).await?;
    let cold = read::all(&client, "full", bench.partitions, &broker).await?;
    report.row(Row { name: format!("{class}: read, cold"), ..cold });

    create(&client, "again", 1, class).await?;
    let killed = Instant::now();
    broker.kill().await?;
    let grpc = broker.grpc.clone();
    let again = Broker::start(bench.levee.as_deref(), data, bucket.as_deref(), Some(&grpc)).await?;
    let client = Client::connect(&again.grpc).await?;
    load.one(&client, "again").await?;
    let took = format!("{:.0} ms", killed.elapsed().as_secs_f64() * 1000.0);
    report.note(format!("{class}: kill -9 to first ack"), took);
    again.terminate().await
}

async fn create(client: &Client, name: &str, partitions: u32, class: &str) -> Result<(), Error> {
    let config = [("durability.class".to_owned(), class.to_owned())].into();
    let request = CreateTopicRequest { name: name.into(), partitions, config };
    client.admin().create_topic(request).await?;
    Ok(())
}

/// Each class gets a root of its own in the bucket.
fn with_prefix(url: &str, class: &str) -> String {
    let unique = format!("bench-{}-{class}", std::process::id());
    match url.split_once('?') {
        Some((path, query)) => format!("{}/{unique}?{query}", path.trim_end_matches('/')),
        None => format!("{}/{unique}", url.trim_end_matches('/')),
    }
}
