//! `levee produce`: records from lines of a file or of standard input.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::time::Instant;

use clap::ValueEnum;
use levee_client::{Compression, Error, Producer, ProducerConfig, RecordData, Ticket};
use tokio::sync::mpsc;

use crate::error::CliError;
use crate::jsonl;
use crate::remote::{BrokerArgs, bytes};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    broker: BrokerArgs,
    topic: String,
    /// The partition; without it the key decides, or they take turns.
    #[arg(short, long)]
    partition: Option<u32>,
    /// A file in place of standard input.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// What a line is: a value, or a record as `consume --output json` writes it.
    #[arg(long, value_enum, default_value = "lines")]
    format: Format,
    /// Splits a line into key and value, at its first place.
    #[arg(long, value_name = "TEXT", conflicts_with = "whole")]
    key_delimiter: Option<String>,
    /// All of the input is one value.
    #[arg(long, conflicts_with = "format")]
    whole: bool,
    /// none, gzip, snappy, lz4 or zstd.
    #[arg(long, default_value = "none", value_parser = compression)]
    compression: Compression,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Lines,
    Jsonl,
}

/// Longest line.
const LINE_BYTES_MAX: u64 = 16 << 20;
/// Lines that were read and not sent.
const LINES_AHEAD: usize = 64;

fn compression(name: &str) -> Result<Compression, String> {
    let none = || "write none, gzip, snappy, lz4 or zstd".to_owned();
    Compression::from_name(name).ok_or_else(none)
}

pub async fn run(args: Args) -> Result<(), CliError> {
    let client = args.broker.connect().await?;
    // An unknown topic is said before the first line is read.
    client.manage().describe_topic(&args.topic).await?;
    let config = ProducerConfig { compression: args.compression, ..ProducerConfig::default() };
    let producer = client.producer(config).await?;
    let mut lines = read(&args)?;
    let started = Instant::now();
    let (tickets, waiting) = mpsc::unbounded_channel();
    let mut counting = tokio::spawn(count(waiting));
    let mut sent = 0u64;
    let failed = loop {
        let line = tokio::select! {
            biased;
            // It ends early only because a record failed.
            _ = tickets.closed() => break None,
            line = lines.recv() => line,
        };
        let Some(line) = line else { break None };
        sent += 1;
        match send(&producer, &args, sent, line).await {
            Ok(ticket) => drop(tickets.send(ticket)),
            Err(error) => break Some(error),
        }
    };
    drop(tickets);
    // What was sent goes on to be acknowledged, whatever happened after it.
    tokio::spawn(async move { producer.flush().await });
    let counted = (&mut counting).await;
    let (acked, refused) = counted.map_err(|error| CliError::new(error.to_string()))?;
    if let Some(error) = failed.or(refused.map(CliError::from)) {
        eprintln!("{acked} records acknowledged before it failed");
        return Err(error);
    }
    eprintln!("{acked} records acknowledged in {:.1} s", started.elapsed().as_secs_f64());
    Ok(())
}

/// How many were acknowledged before one failed, and why it did.
async fn count(mut tickets: mpsc::UnboundedReceiver<Ticket>) -> (u64, Option<Error>) {
    let mut acked = 0;
    while let Some(ticket) = tickets.recv().await {
        match ticket.await {
            Ok(_) => acked += 1,
            Err(error) => return (acked, Some(error)),
        }
    }
    (acked, None)
}

async fn send(
    producer: &Producer,
    args: &Args,
    number: u64,
    line: Result<Vec<u8>, std::io::Error>,
) -> Result<Ticket, CliError> {
    let line = line.map_err(|error| CliError::new(format!("reading line {number}: {error}")))?;
    let (partition, record) = match args.format {
        Format::Jsonl => jsonl::read(&line).map_err(|why| {
            let step = "write what `levee consume --output json` writes";
            CliError::new(format!("line {number} is no record: {why}")).next_step(step)
        })?,
        Format::Lines => (None, plain(line, args.key_delimiter.as_deref())),
    };
    Ok(producer.send(&args.topic, args.partition.or(partition), record).await?)
}

fn plain(line: Vec<u8>, delimiter: Option<&str>) -> RecordData {
    let split = delimiter.filter(|delimiter| !delimiter.is_empty()).and_then(|delimiter| {
        let delimiter = delimiter.as_bytes();
        let at = line.windows(delimiter.len()).position(|part| part == delimiter)?;
        Some((line[..at].to_vec(), line[at + delimiter.len()..].to_vec()))
    });
    match split {
        Some((key, value)) => {
            let (key, value) = (Some(key.into()), Some(value.into()));
            RecordData { key, value, ..RecordData::default() }
        }
        None => RecordData { value: Some(line.into()), ..RecordData::default() },
    }
}

/// Lines, read by a thread of their own: standard input has no other way.
fn read(args: &Args) -> Result<mpsc::Receiver<std::io::Result<Vec<u8>>>, CliError> {
    let input: Box<dyn Read + Send> = match &args.file {
        None => Box::new(std::io::stdin()),
        Some(path) => Box::new(File::open(path).map_err(|error| {
            CliError::new(format!("{}: {error}", path.display()))
                .next_step("name a file that can be read")
        })?),
    };
    let whole = args.whole;
    let (send, lines) = mpsc::channel(LINES_AHEAD);
    std::thread::spawn(move || {
        let mut input = BufReader::with_capacity(256 << 10, input);
        while let Some(line) = next_line(&mut input, whole).transpose() {
            let ends = line.is_err() || whole;
            if send.blocking_send(line).is_err() || ends {
                return;
            }
        }
    });
    Ok(lines)
}

fn next_line(input: &mut impl BufRead, whole: bool) -> std::io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let mut bounded = input.take(LINE_BYTES_MAX + 1);
    let read = match whole {
        true => bounded.read_to_end(&mut line)?,
        false => bounded.read_until(b'\n', &mut line)?,
    };
    if read as u64 > LINE_BYTES_MAX {
        let why = format!("longer than {}", bytes(LINE_BYTES_MAX));
        return Err(std::io::Error::other(why));
    }
    if !whole && line.last() == Some(&b'\n') {
        line.pop();
    }
    Ok((read > 0).then_some(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_values_and_a_delimiter_splits_at_its_first_place() {
        let mut input: &[u8] = b"a=>b=>c\n\nlast";
        let mut next = || next_line(&mut input, false).unwrap();
        let keyed = plain(next().unwrap(), Some("=>"));
        assert_eq!((keyed.key, keyed.value), (Some("a".into()), Some("b=>c".into())));
        assert_eq!(next(), Some(vec![]), "an empty line is a record");
        let last = plain(next().unwrap(), Some("=>"));
        assert_eq!((last.key, last.value), (None, Some("last".into())));
        assert_eq!(next(), None);
    }
}
