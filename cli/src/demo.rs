//! `levee demo`: the promises of the product, kept before your eyes with your own data.
//!
//! Owns: the order of the show. Does not own: where it is played (`place`), data (`data`), the
//! broker process (`child`), the judgement (`ledger`).

mod child;
mod data;
mod ledger;
mod place;
mod show;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use levee_client::grpc::{CreateTopicRequest, FlushRequest};
use levee_client::{Client, Position, Producer, ProducerConfig, ReadConfig};

use crate::error::CliError;
use child::Child;
use data::Records;
use ledger::{Ledger, Verdict};
use place::{OwnPrefix, WorkFolder};
use show::{Show, megabytes};

const TOPIC: &str = "demo";
const PARTITIONS: u32 = 4;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Files and folders whose bytes become records; without any, what this machine has.
    paths: Vec<PathBuf>,
    /// Megabytes of the first load; the second one is a third of it.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    mb: u64,
    /// Work in this empty folder, and leave there (and in the bucket) what was written.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// A bucket in place of a folder. The demo writes below a prefix of its own there, and removes
    /// it at the end.
    #[arg(long, value_name = "URL")]
    bucket: Option<String>,
}

pub async fn run(args: Args) -> Result<(), CliError> {
    let folder = WorkFolder::make(args.keep.as_deref())?;
    let data = folder.path.join("data");
    let own = |bucket| OwnPrefix::below(bucket, &data);
    let mut bucket = args.bucket.as_deref().map(own).transpose()?;
    let mut show = Show::new();
    let load = args.mb * 1_000_000;
    let records = data::find(&args.paths, load + load / 3)?;
    show.say(&format!(
        "data: {} files, {} MB; work folder {}",
        records.files(),
        megabytes(records.bytes()),
        folder.path.display()
    ));
    if let Some(bucket) = &bucket {
        show.say(&format!("bucket: {}, a prefix of the demo's own", bucket.shown()));
    }
    let mut child = Child::start(&data, None, bucket.as_mut().map(OwnPrefix::begin)).await?;
    show.say(&format!("broker: {} (process {})", child.grpc, child.id()));
    let done = play(&mut show, &mut child, records, load).await;
    let verdict = match done {
        Ok(verdict) => verdict,
        Err(error) => {
            eprintln!("{}", child.last_words());
            return Err(error);
        }
    };
    child.terminate().await?;
    show.table(&verdict);
    if !verdict.is_clean() {
        return Err(CliError::new("records were lost, duplicated or changed")
            .next_step("keep the data folder (--keep DIR) and report this"));
    }
    if let Some(bucket) = bucket.filter(|_| args.keep.is_none()) {
        bucket.remove().await;
    }
    Ok(())
}

/// All acts; what the last one found.
async fn play(
    show: &mut Show,
    child: &mut Child,
    mut records: Records,
    load: u64,
) -> Result<Verdict, CliError> {
    let client = connect(&child.grpc).await?;
    let create =
        CreateTopicRequest { name: TOPIC.into(), partitions: PARTITIONS, ..Default::default() };
    client.admin().create_topic(create).await.map_err(failed)?;
    let producer = client.producer(ProducerConfig::default()).await.map_err(failed)?;
    let ledger = Arc::new(Ledger::new(PARTITIONS));

    let first = show.begin("append", load, "every record acknowledged after a sync to disk");
    send(&producer, &mut records, &ledger, load, |bytes| first.advance(bytes)).await?;
    producer.flush().await;
    first.end(load);

    let upload = show.begin("offload", 0, "sealed, uploaded, verified; hot copies deleted");
    let flush = FlushRequest { drop_hot: true, timeout_ms: 600_000, ..Default::default() };
    let flushed = client.admin().flush(flush).await.map_err(failed)?.into_inner();
    upload.end(flushed.uploaded_bytes);

    let back = show.begin("read back", ledger.acked_bytes(), "every record, from the bucket");
    let verdict = read_all(&client, &ledger, |bytes| back.advance(bytes)).await?;
    back.end(verdict.bytes);
    if verdict.from_local > 0 {
        return Err(CliError::new(format!(
            "{} reads did not come from the bucket",
            verdict.from_local
        )));
    }
    show.check("first load", &verdict)?;

    crash(show, child, &producer, &mut records, &ledger, load / 3).await?;

    let again =
        show.begin("prove", ledger.acked_bytes(), "every acknowledged record, once, in order");
    let verdict = read_all(&client, &ledger, |bytes| again.advance(bytes)).await?;
    again.end(verdict.bytes);
    Ok(verdict)
}

/// The second load: SIGKILL in its middle, restart, and the producer goes on by itself.
async fn crash(
    show: &mut Show,
    child: &mut Child,
    producer: &Producer,
    records: &mut Records,
    ledger: &Arc<Ledger>,
    load: u64,
) -> Result<(), CliError> {
    let before = ledger.acked_count();
    let act = show.begin("crash", load, "SIGKILL in the middle of a second load");
    let (half, rest) = (load * 2 / 5, load - load * 2 / 5);
    send(producer, records, ledger, half, |bytes| act.advance(bytes)).await?;
    // Without an ack before it, the crash would prove nothing.
    ledger.acked_above(before).await;
    child.kill().await?;
    let killed = Instant::now();
    let down = ledger.acked_count() - before;
    let starts = async { child.restart().await.map(|()| killed.elapsed()) };
    let sends = send(producer, records, ledger, rest, |bytes| act.advance(bytes));
    let (started, sent) = tokio::join!(starts, sends);
    let ready = started?;
    sent?;
    producer.flush().await;
    act.end(load);
    show.say(&format!(
        "  killed after {down} acks of this load; serving again {:.0} ms later; {} acks in all",
        ready.as_secs_f64() * 1000.0,
        ledger.acked_count() - before
    ));
    Ok(())
}

async fn send(
    producer: &Producer,
    records: &mut Records,
    ledger: &Arc<Ledger>,
    load: u64,
    progress: impl Fn(u64),
) -> Result<(), CliError> {
    let mut sent = 0;
    while sent < load {
        let Some(value) = records.next()? else {
            return Err(
                CliError::new("the data ran out").next_step("name more files, or lower --mb")
            );
        };
        let bytes = value.len() as u64;
        let entry = ledger.entry(&value);
        let partition = entry.partition;
        let record = entry.record(value);
        let ticket = producer.send(TOPIC, Some(partition), record).await.map_err(failed)?;
        let ledger = ledger.clone();
        tokio::spawn(async move { ledger.told(&entry, ticket.await) });
        sent += bytes;
        progress(bytes);
    }
    Ok(())
}

async fn read_all(
    client: &Client,
    ledger: &Arc<Ledger>,
    progress: impl Fn(u64),
) -> Result<Verdict, CliError> {
    ledger.settled().await;
    let mut verdict = Verdict::default();
    for partition in 0..PARTITIONS {
        let mut judge = ledger.judge(partition);
        let config = ReadConfig::default();
        let mut reader =
            client.read(TOPIC, partition, Position::Start, config).await.map_err(failed)?;
        loop {
            let batches = reader.next_batches().await.map_err(failed)?;
            judge.take(&batches)?;
            progress(batches.bytes.len() as u64);
            if batches.next_offset >= batches.high_watermark {
                break;
            }
        }
        judge.end(&mut verdict);
    }
    Ok(verdict)
}

async fn connect(address: &str) -> Result<Client, CliError> {
    Client::connect(address).await.map_err(failed)
}

fn failed(error: impl Into<levee_client::Error>) -> CliError {
    CliError::from(error.into())
}

/// How long a broker may take to say that it serves.
const START_LIMIT: Duration = Duration::from_secs(60);
