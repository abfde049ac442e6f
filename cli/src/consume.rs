//! `levee consume`: records to standard output.

use std::io::{BufWriter, Stdout, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use levee_client::grpc::list_offsets_request::At;
use levee_client::{Client, DecodedRecord, Position, ReadConfig, Reader};
use tokio::sync::mpsc;

use crate::error::CliError;
use crate::jsonl;
use crate::remote::{BrokerArgs, Output};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    broker: BrokerArgs,
    topic: String,
    /// One partition, or `all`.
    #[arg(short, long, default_value = "all", value_parser = partition)]
    partition: Which,
    /// `start`, `end`, an offset, or a time: `@-1h`, `@2026-11-20T12:00:00Z`, `@MILLISECONDS`.
    #[arg(long, default_value = "start", value_parser = position, allow_hyphen_values = true)]
    from: Position,
    /// Stop after so many records.
    #[arg(short = 'n', long)]
    count: Option<u64>,
    /// Wait for new records; without it the end of now is the end.
    #[arg(short, long)]
    follow: bool,
    /// Values as they are, one in a line; or records as JSON, one in a line.
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
    /// In text: the key and a tab before each value.
    #[arg(long)]
    print_key: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    All,
    One(u32),
}

fn partition(text: &str) -> Result<Which, String> {
    match text {
        "all" => Ok(Which::All),
        number => number.parse().map(Which::One).map_err(|_| "write a number, or `all`".into()),
    }
}

fn position(text: &str) -> Result<Position, String> {
    let wrong = || "write start, end, an offset, @-1h, @MILLISECONDS or @2026-11-20T12:00:00Z";
    match (text, text.strip_prefix('@')) {
        ("start", _) => Ok(Position::Start),
        ("end", _) => Ok(Position::End),
        (_, Some(time)) => millis_of(time).map(Position::Timestamp).ok_or_else(|| wrong().into()),
        (offset, None) => offset.parse().map(Position::Offset).map_err(|_| wrong().into()),
    }
}

fn millis_of(time: &str) -> Option<i64> {
    if let Some(ago) = time.strip_prefix('-') {
        let ago = humantime::parse_duration(ago).ok()?;
        return since_1970(SystemTime::now().checked_sub(ago)?);
    }
    match time.parse() {
        Ok(millis) => Some(millis),
        Err(_) => since_1970(humantime::parse_rfc3339_weak(time).ok()?),
    }
}

fn since_1970(time: SystemTime) -> Option<i64> {
    let since: Duration = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).ok()
}

/// Records of one partition that came together.
type Found = (u32, Vec<DecodedRecord>);

pub async fn run(args: Args) -> Result<(), CliError> {
    let client = args.broker.connect().await?;
    let partitions = match args.partition {
        Which::One(partition) => partition..partition + 1,
        Which::All => 0..client.partitions(&args.topic).await?,
    };
    let mut sink = Sink::new(&args);
    if sink.is_full() {
        return Ok(());
    }
    match args.follow {
        // One after the other: the same order every time.
        false => {
            for partition in partitions {
                until_end(&client, &args, partition, &mut sink).await?;
                if sink.is_full() {
                    break;
                }
            }
            Ok(())
        }
        true => follow(&client, &args, partitions, &mut sink).await,
    }
}

async fn until_end(
    client: &Client,
    args: &Args,
    partition: u32,
    sink: &mut Sink,
) -> Result<(), CliError> {
    // Taken first: a load that goes on must not make this endless.
    let end = client.manage().list_offsets(&args.topic, partition, At::End(true)).await?.offset;
    let end = end.unwrap_or_default();
    let mut reader = client.read(&args.topic, partition, args.from, ReadConfig::default()).await?;
    while reader.offset() < end && !sink.is_full() {
        let mut records = reader.next_records().await?;
        records.retain(|record| record.offset < end);
        sink.write(&(partition, records))?;
    }
    Ok(())
}

async fn follow(
    client: &Client,
    args: &Args,
    partitions: std::ops::Range<u32>,
    sink: &mut Sink,
) -> Result<(), CliError> {
    let (send, mut found) = mpsc::channel(partitions.len().max(1));
    let mut readers = tokio::task::JoinSet::new();
    for partition in partitions {
        let reader = client.read(&args.topic, partition, args.from, ReadConfig::default()).await?;
        readers.spawn(read_on(reader, partition, send.clone()));
    }
    drop(send);
    while let Some(records) = found.recv().await {
        sink.write(&records?)?;
        if sink.is_full() {
            break;
        }
    }
    Ok(())
}

/// Until it fails, or nobody wants more.
async fn read_on(
    mut reader: Reader,
    partition: u32,
    found: mpsc::Sender<Result<Found, levee_client::Error>>,
) {
    loop {
        let records = reader.next_records().await;
        let ends = records.is_err();
        if records.as_ref().is_ok_and(Vec::is_empty) {
            continue;
        }
        let sent = found.send(records.map(|records| (partition, records))).await;
        if sent.is_err() || ends {
            return;
        }
    }
}

/// Standard output.
struct Sink {
    out: BufWriter<Stdout>,
    left: Option<u64>,
    output: Output,
    print_key: bool,
}

impl Sink {
    fn new(args: &Args) -> Self {
        let out = BufWriter::with_capacity(256 << 10, std::io::stdout());
        Self { out, left: args.count, output: args.output, print_key: args.print_key }
    }

    fn is_full(&self) -> bool {
        self.left == Some(0)
    }

    fn write(&mut self, (partition, records): &Found) -> Result<(), CliError> {
        for record in records {
            if self.is_full() {
                break;
            }
            if let Some(left) = &mut self.left {
                *left -= 1;
            }
            match self.output {
                Output::Json => {
                    let line = jsonl::write(*partition, record).map_err(std::io::Error::from)?;
                    writeln!(self.out, "{line}")?;
                }
                Output::Text => {
                    if self.print_key {
                        self.out.write_all(record.data.key.as_deref().unwrap_or_default())?;
                        self.out.write_all(b"\t")?;
                    }
                    self.out.write_all(record.data.value.as_deref().unwrap_or_default())?;
                    self.out.write_all(b"\n")?;
                }
            }
        }
        // Whoever follows wants to see them now.
        Ok(self.out.flush()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_offsets_or_times() {
        assert_eq!(position("start"), Ok(Position::Start));
        assert_eq!(position("17"), Ok(Position::Offset(17)));
        assert_eq!(position("@1700"), Ok(Position::Timestamp(1700)));
        assert_eq!(position("@1970-01-01T00:00:02Z"), Ok(Position::Timestamp(2000)));
        let now = since_1970(SystemTime::now()).unwrap();
        let Ok(Position::Timestamp(ago)) = position("@-1h") else { panic!("a time") };
        assert!((now - ago - 3_600_000).abs() < 60_000, "{ago}");
        assert!(
            ["", "-1", "@", "@-", "@1 year", "yesterday"].map(position).iter().all(Result::is_err)
        );
        assert_eq!([partition("all"), partition("3")], [Ok(Which::All), Ok(Which::One(3))]);
        assert!(partition("-1").is_err());
    }
}
