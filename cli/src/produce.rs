//! `levee produce`: records from lines of a file or of standard input.
//!
//! Owns: the flags, the order of sending, what is said at the end. Does not own: reading the input
//! (`input`), making records of it (`shape`), counting acks (`tally`).

mod input;
mod shape;
mod tally;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use levee_broker::config::parse_bytes;
use levee_client::grpc::TopicDescription;
use levee_client::{Client, Compression, Producer, ProducerConfig};

use crate::codes::Code;
use crate::error::CliError;
use crate::interrupt::Interrupt;
use crate::jsonl;
use crate::output::{Unit, count, note, progress};
use crate::remote::{BrokerArgs, describe, no_partition};
use input::Input;
use shape::{Shape, ShapeArgs};
use tally::Tally;

#[derive(Debug, clap::Args)]
#[command(after_long_help = jsonl::HELP)]
pub struct Args {
    /// Where records go; it must be there.
    topic: String,
    /// The partition, or `any` (-1): by key, else in turn, whatever the input says [default: the
    /// partition that a line of JSON names, else any].
    #[arg(short, long, value_parser = partition, allow_hyphen_values = true, value_name = "N")]
    partition: Option<Which>,
    /// A file in place of standard input.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// How batches are compressed: none, gzip, snappy, lz4 or zstd.
    #[arg(short = 'z', long, default_value = "none", value_name = "CODEC", value_parser = compression)]
    compression: Compression,
    #[command(flatten)]
    shape: ShapeArgs,
    #[command(flatten)]
    broker: BrokerArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    Any,
    One(u32),
}

fn partition(text: &str) -> Result<Which, String> {
    match text {
        "any" | "-1" => Ok(Which::Any),
        number => number.parse().map(Which::One).map_err(|_| "write a number, or `any`".into()),
    }
}

fn compression(name: &str) -> Result<Compression, String> {
    let none = || "write none, gzip, snappy, lz4 or zstd".to_owned();
    Compression::from_name(name).ok_or_else(none)
}

/// How long acks of what was sent are waited for after Ctrl-C.
const LAST_ACKS: Duration = Duration::from_secs(5);

/// How sending ended.
enum End {
    /// All of the input was sent.
    Whole,
    Interrupted,
    /// A record failed; the tally knows why.
    Refused,
    /// The input is no record, or a record was not taken.
    Stopped(CliError),
}

pub async fn run(args: Args, interrupt: Interrupt) -> Result<(), CliError> {
    let producer = tokio::select! {
        biased;
        () = interrupt.first() => {
            return Err(CliError::of(Code::Interrupted, "interrupted; nothing was sent"));
        }
        opened = open(&args) => opened?,
    };
    let shape = Shape::of(&args.shape)?;
    let mut input = Input::open(args.file.as_deref(), &shape)?;
    let types = args.file.is_none() && std::io::stdin().is_terminal();
    if types {
        note("one record in each line; Ctrl-D ends");
    }
    let bar = match types {
        true => ProgressBar::hidden(),
        false => progress("sending", input.bytes(), Unit::Bytes),
    };
    let started = Instant::now();
    let tally = Tally::start();
    let end = tokio::select! {
        biased;
        () = interrupt.first() => End::Interrupted,
        () = tally.failed() => End::Refused,
        done = send(&producer, &args, &shape, &mut input, &tally, &bar) => match done {
            Ok(()) => End::Whole,
            Err(error) => End::Stopped(error),
        },
    };
    settle(&producer, &tally, &end, &interrupt).await;
    bar.finish_and_clear();
    report(&tally, end, started.elapsed())
}

async fn open(args: &Args) -> Result<Producer, CliError> {
    let client = args.broker.connect().await?;
    // An unknown topic is said before the first line is read.
    let topic = find_topic(args, &client).await?;
    let defaults = ProducerConfig::default();
    let config = ProducerConfig {
        compression: args.compression,
        keep_zero_timestamps: true,
        delivery_timeout: args.broker.timeout.unwrap_or(defaults.delivery_timeout),
        max_batch_bytes: largest_batch(&topic).unwrap_or(defaults.max_batch_bytes),
        ..defaults
    };
    args.broker.tell_of_trouble(&client, config.delivery_timeout);
    Ok(client.producer(config).await?)
}

async fn find_topic(args: &Args, client: &Client) -> Result<TopicDescription, CliError> {
    let topic = describe(&args.broker.admin(client), &args.topic).await?;
    let there = topic.partitions.len() as u32;
    match args.partition {
        Some(Which::One(partition)) if partition >= there => {
            Err(no_partition(&args.topic, partition, there))
        }
        _ => Ok(topic),
    }
}

/// Nothing where the broker does not say it in a way that is understood here.
fn largest_batch(topic: &TopicDescription) -> Option<usize> {
    let entry = topic.config.iter().find(|entry| entry.name == "max.message.bytes")?;
    usize::try_from(parse_bytes(&entry.value).ok()?).ok()
}

async fn send(
    producer: &Producer,
    args: &Args,
    shape: &Shape,
    input: &mut Input,
    tally: &Arc<Tally>,
    bar: &ProgressBar,
) -> Result<(), CliError> {
    let mut line = 0u64;
    while let Some(chunk) = input.next().await {
        for text in chunk? {
            line += 1;
            bar.inc(text.len() as u64 + 1);
            let (named, record) = shape.record(text, line)?;
            let partition = match args.partition {
                None => named,
                Some(Which::Any) => None,
                Some(Which::One(partition)) => Some(partition),
            };
            let sent = producer.send(&args.topic, partition, record).await;
            let ticket =
                sent.map_err(|error| CliError::from(error).at(format_args!("line {line}")))?;
            tally.sent(line, ticket);
        }
    }
    Ok(())
}

/// Waits for the acks of what was sent: as long as a delivery may take, or shortly where a person
/// waits.
async fn settle(producer: &Producer, tally: &Tally, end: &End, interrupt: &Interrupt) {
    let all = async {
        producer.flush().await;
        tally.settled().await;
    };
    match end {
        End::Interrupted => {
            tokio::select! {
                biased;
                () = interrupt.second() => {}
                _ = tokio::time::timeout(LAST_ACKS, all) => {}
            }
        }
        _ => {
            tokio::select! {
                biased;
                () = interrupt.first() => {}
                () = all => {}
            }
        }
    }
}

/// What became of every record that was sent.
fn report(tally: &Tally, end: End, took: Duration) -> Result<(), CliError> {
    let seen = tally.counts();
    let mut text = format!("{} acknowledged", count(seen.acked, "record"));
    if seen.refused > 0 {
        text.push_str(&format!(", {} not written", seen.refused));
    }
    let doubt = seen.in_doubt;
    if doubt > 0 {
        text.push_str(&format!(", {doubt} in doubt (sent; nobody knows whether they are written)"));
    }
    let interrupted = || CliError::of(Code::Interrupted, "interrupted");
    let refused = tally.first_error();
    let stopped = match end {
        End::Whole if refused.is_none() && doubt == 0 => {
            note(format_args!("{text} in {:.1} s", took.as_secs_f64()));
            return Ok(());
        }
        End::Whole => {
            note(format_args!("{text}; all of the input was sent"));
            return Err(refused.unwrap_or_else(interrupted));
        }
        End::Stopped(error) => {
            // Two things went wrong: both are said.
            refused.inspect(CliError::say);
            error
        }
        End::Interrupted => interrupted(),
        End::Refused => refused.unwrap_or_else(interrupted),
    };
    note(format_args!("{text}; nothing behind the first {} was sent", count(seen.sent, "record")));
    Err(stopped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_numbers_or_any() {
        assert_eq!([partition("any"), partition("-1")], [Ok(Which::Any), Ok(Which::Any)]);
        assert_eq!(partition("3"), Ok(Which::One(3)));
        assert!(partition("-2").is_err() && partition("").is_err());
        assert!(compression("zstd").is_ok() && compression("rar").is_err());
    }
}
