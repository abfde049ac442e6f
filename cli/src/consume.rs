//! `levee consume`: records to standard output.
//!
//! Owns: the flags, and when it ends. Does not own: what is read (`plan`, and `growth` for what is
//! made meanwhile), in which order (`sources`), and how it is written (`sink`).

mod growth;
mod plan;
mod sink;
mod sources;

use std::io::IsTerminal;

use indicatif::ProgressBar;
use levee_client::ReadConfig;

use crate::codes::Exit;
use crate::error::CliError;
use crate::filter::Filter;
use crate::format::{self, Format};
use crate::interrupt::Interrupt;
use crate::jsonl;
use crate::output::{Output, Unit, progress, reader_gone};
use crate::partitions::{Partitions, partitions};
use crate::range::{self, Range, range};
use crate::remote::BrokerArgs;
use growth::Growth;
use plan::{Plan, Wanted};
use sink::Sink;
use sources::Sources;

#[derive(Debug, clap::Args)]
#[command(after_long_help = help())]
pub struct Args {
    /// One topic, or several.
    #[arg(required = true, value_name = "TOPIC")]
    topics: Vec<String>,
    /// Topics are regular expressions (they match whole names).
    #[arg(short, long)]
    regex: bool,
    /// Where to begin, and where to end: start, end, N, +N, -N, @TIME, A:B; see below.
    #[arg(
        short,
        long,
        value_name = "RANGE",
        default_value = "start",
        value_parser = range,
        allow_hyphen_values = true
    )]
    offset: Range,
    /// Only these partitions: 0 or 0,2,5-7.
    #[arg(
        short,
        long,
        alias = "partition",
        value_name = "LIST",
        default_value = "all",
        value_parser = partitions
    )]
    partitions: Partitions,
    /// Stop after so many records (those that are shown), of all partitions together.
    #[arg(short, long, alias = "count", short_alias = 'c', value_name = "N")]
    num: Option<u64>,
    /// Stop at the end of now.
    #[arg(short, long)]
    exit: bool,
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    look: LookArgs,
    #[command(flatten)]
    broker: BrokerArgs,
}

/// How records are written.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Output")]
struct LookArgs {
    /// Text by a format, or one line of JSON for each record.
    #[arg(long, value_enum, default_value = "text", value_name = "FORM")]
    output: Output,
    /// The same as --output json.
    #[arg(short = 'J', long, conflicts_with_all = ["format", "key_delimiter"])]
    json: bool,
    /// How a record is written as text; see below [default: '%v\n'].
    #[arg(short, long, value_name = "FORMAT", value_parser = Format::parse)]
    format: Option<Format>,
    /// Write key, delimiter and value.
    #[arg(
        short = 'K',
        long,
        value_name = "TEXT",
        conflicts_with = "format",
        value_parser = format::delimiter
    )]
    key_delimiter: Option<String>,
    /// All but the values.
    #[arg(long, conflicts_with_all = ["format", "key_delimiter"])]
    meta_only: bool,
}

fn help() -> String {
    let order = "\
Order
  Records of one partition keep their order. Where several partitions are read up to offsets that
  are there already, records come by their time (then topic and partition), the same every time.
  Else they come as the broker sends them. Where the log is followed, partitions that are added and
  new topics of --regex are read from 10 seconds later on, from their start.
";
    format!("{}\n{order}\n{}\n{}", range::HELP, format::HELP, jsonl::HELP)
}

pub async fn run(args: Args, interrupt: Interrupt) -> Result<(), CliError> {
    let look = &args.look;
    if look.output == Output::Json && (look.format.is_some() || look.key_delimiter.is_some()) {
        let why = "--format and --key-delimiter are for text, --output json has a form of its own";
        return Err(CliError::usage(why));
    }
    if args.num == Some(0) {
        return Ok(());
    }
    let (mut sources, bar, follows) = tokio::select! {
        biased;
        () = interrupt.first() => return Err(CliError::Silent(Exit::Interrupted)),
        opened = open(&args) => opened?,
    };
    let mut sink = Sink::new(&args);
    let gone = reader_gone();
    tokio::pin!(gone);
    loop {
        let found = tokio::select! {
            biased;
            () = &mut gone => return Err(CliError::CLOSED_PIPE),
            () = interrupt.first() => {
                bar.finish_and_clear();
                return Err(CliError::Silent(Exit::Interrupted));
            }
            found = sources.next() => found?,
        };
        let Some(found) = found else { break };
        bar.inc(found.records.len() as u64);
        sink.write(&found)?;
        if sink.is_full() {
            break;
        }
        // Whoever follows wants to see them now; of what is there already, blocks are enough.
        if follows {
            sink.flush()?;
        }
    }
    bar.finish_and_clear();
    sink.flush()
}

/// What is to be read, its progress, and whether new records are waited for.
async fn open(args: &Args) -> Result<(Sources, ProgressBar, bool), CliError> {
    let wanted = Wanted::of(args)?;
    let client = args.broker.connect().await?;
    let admin = args.broker.admin(&client);
    let plan = Plan::make(args, &wanted, &admin).await?;
    // Records on the same terminal would tear it apart.
    let bar = match std::io::stdout().is_terminal() {
        true => ProgressBar::hidden(),
        false => progress("reading", plan.total(), Unit::Records),
    };
    let config = ReadConfig {
        window_bytes: plan.window_bytes(),
        retry_for: args.broker.timeout.unwrap_or(ReadConfig::default().retry_for),
        ..ReadConfig::default()
    };
    args.broker.tell_of_trouble(&client, config.retry_for);
    let follows = !plan.is_there();
    let never_ends = args.offset.until.is_none() && !args.exit;
    let growth =
        never_ends.then(|| Growth::new(wanted, args.partitions.clone(), args.offset, &plan));
    Ok((Sources::open(&client, admin, plan, growth, config).await?, bar, follows))
}
