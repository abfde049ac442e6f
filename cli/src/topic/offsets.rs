//! Offsets of partitions: showing them, and deleting what is below one.

use futures::{StreamExt, TryStreamExt, stream};
use levee_client::Admin;
use levee_client::grpc::TopicDescription;
use levee_client::grpc::list_offsets_request::At;
use serde_json::{Value, json};

use super::Outcomes;
use crate::codes::Code;
use crate::error::CliError;
use crate::output::{Output, OutputArgs, confirm, count, print, table, time};
use crate::partitions::{Partitions, partitions};
use crate::range::{Point, There, point};
use crate::remote::{SIDE_BY_SIDE, describe, no_partition};

#[derive(Debug, clap::Args)]
#[command(after_long_help = crate::range::HELP)]
pub(super) struct Offsets {
    /// One topic, or several.
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// Only these partitions: 0 or 0,2,5-7.
    #[arg(short, long, alias = "partition", value_name = "LIST", default_value = "all",
        value_parser = partitions)]
    partitions: Partitions,
    /// Also what this position is in each partition: @-1h, @2026-11-20, -10 ...
    #[arg(short = 'o', long, aliases = ["offset", "time"], value_name = "POSITION",
        value_parser = point, allow_hyphen_values = true)]
    at: Option<Point>,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, clap::Args)]
#[command(after_long_help = crate::range::HELP)]
pub(super) struct DeleteRecords {
    /// The topic.
    name: String,
    /// The first record that stays: N, +N, -N, @TIME, or `end` for none.
    #[arg(short, long, alias = "before", value_name = "POSITION", value_parser = point,
        allow_hyphen_values = true)]
    offset: Point,
    /// Only these partitions: 0 or 0,2,5-7.
    #[arg(short, long, alias = "partition", value_name = "LIST", default_value = "all",
        value_parser = partitions)]
    partitions: Partitions,
    /// Do not ask.
    #[arg(short, long, alias = "no-confirm")]
    yes: bool,
    #[command(flatten)]
    output: OutputArgs,
}

/// What is known of one partition.
struct PartitionOffsets {
    partition: u32,
    there: There,
    tiered_end: u64,
    local_start: u64,
    /// The position that was asked for; for a time, that of the record there.
    at: Option<(u64, Option<i64>)>,
}

async fn known(
    admin: &Admin,
    topic: &TopicDescription,
    partitions: &Partitions,
    at: Option<Point>,
) -> Result<Vec<PartitionOffsets>, CliError> {
    let count = topic.partitions.len() as u32;
    let missing = |missing| no_partition(&topic.name, missing, count);
    let wanted = partitions.of(count).map_err(missing)?;
    stream::iter(wanted)
        .map(|partition| known_of(admin, topic, partition, at))
        .buffered(SIDE_BY_SIDE)
        .try_collect()
        .await
}

async fn known_of(
    admin: &Admin,
    topic: &TopicDescription,
    partition: u32,
    at: Option<Point>,
) -> Result<PartitionOffsets, CliError> {
    let known = &topic.partitions[partition as usize];
    let asked = async |at: At| {
        let found = admin.list_offsets(&topic.name, partition, at).await;
        found.map_err(|error| {
            CliError::from(error).at(format_args!("{} partition {partition}", topic.name))
        })
    };
    let end = asked(At::End(true)).await?.offset.unwrap_or(known.high_watermark);
    let there = There { start: known.log_start, end };
    let at = match at {
        None => None,
        Some(point) => Some(match point.time() {
            None => (point.resolve(there, None), None),
            Some(ms) => {
                let found = asked(At::TimestampMs(ms)).await?;
                let time = found.offset.map(|_| found.timestamp_ms);
                (point.resolve(there, found.offset), time)
            }
        }),
    };
    let (tiered_end, local_start) = (known.tiered_end, known.local_start);
    Ok(PartitionOffsets { partition, there, tiered_end, local_start, at })
}

pub(super) async fn show(admin: &Admin, args: Offsets) -> Result<(), CliError> {
    let (mut rows, mut json_rows) = (Vec::new(), Vec::new());
    let mut outcomes = Outcomes::new(args.names.len(), args.output.output);
    for name in &args.names {
        let found = match describe(admin, name).await {
            Ok(topic) => known(admin, &topic, &args.partitions, args.at).await,
            Err(error) => Err(error),
        };
        match found {
            Ok(found) => {
                rows.extend(found.iter().map(|known| row(name, known)));
                json_rows.extend(found.iter().map(|known| object(name, known)));
            }
            Err(error) => outcomes.add(Err(error))?,
        }
    }
    if args.output.output == Output::Json {
        outcomes.done = json_rows;
    } else if !rows.is_empty() {
        let mut head = vec!["PARTITION", "START", "END", "RECORDS", "HOT FROM", "IN BUCKET TO"];
        if args.at.is_some() {
            head.extend(["AT", "TIME"]);
        }
        print(table(&head, rows))?;
    }
    outcomes.end()
}

fn row(name: &str, known: &PartitionOffsets) -> Vec<String> {
    let There { start, end } = known.there;
    let records = end.saturating_sub(start);
    let numbers = [start, end, records, known.local_start, known.tiered_end];
    let mut row = vec![format!("{name}/{}", known.partition)];
    row.extend(numbers.map(|number| number.to_string()));
    if let Some((offset, ms)) = known.at {
        row.extend([offset.to_string(), ms.map_or_else(String::new, time)]);
    }
    row
}

fn object(name: &str, known: &PartitionOffsets) -> Value {
    let mut object = json!({
        "topic": name,
        "partition": known.partition,
        "start": known.there.start,
        "end": known.there.end,
        "local_start": known.local_start,
        "tiered_end": known.tiered_end,
    });
    if let Some((offset, ms)) = known.at {
        object["at"] = json!({"offset": offset, "timestamp_ms": ms});
    }
    object
}

pub(super) async fn delete_records(admin: &Admin, args: DeleteRecords) -> Result<(), CliError> {
    let name = &args.name;
    let topic = describe(admin, name).await?;
    let found = known(admin, &topic, &args.partitions, Some(args.offset)).await?;
    let mut cuts = Vec::new();
    let mut records = 0;
    for known in &found {
        let Some((before, _)) = known.at else { continue };
        let There { start, end } = known.there;
        if before > end {
            let why = format!(
                "{name} partition {} ends at {end}, not behind it: {before}",
                known.partition
            );
            return Err(CliError::of(Code::OffsetOutOfRange, why)
                .next_step("nothing was deleted; write an offset up to the end, or `end`"));
        }
        if before > start {
            records += before - start;
            cuts.push((known.partition, before));
        }
    }
    let mut outcomes = Outcomes::new(cuts.len(), args.output.output);
    if cuts.is_empty() {
        crate::output::note(format_args!("{name}: there are no records below that"));
        return outcomes.end();
    }
    let many = count(cuts.len() as u64, "partition");
    let what = format!("delete {} of {name:?} in {many}", count(records, "record"));
    confirm(&what, args.yes).await?;
    let mut deleted = stream::iter(cuts)
        .map(async |(partition, before)| {
            (partition, admin.delete_records(name, partition, before).await)
        })
        .buffered(SIDE_BY_SIDE);
    // Also where nobody reads on: all of it was agreed to, and some is under way already.
    let mut told = Ok(());
    while let Some((partition, deleted)) = deleted.next().await {
        told = told.and(outcomes.add(match deleted {
            Ok(start) => Ok((
                format!("{name}/{partition} begins at offset {start}"),
                json!({"topic": name, "partition": partition, "start": start}),
            )),
            Err(error) => Err(CliError::from(error).at(format_args!("{name}/{partition}"))),
        }));
    }
    outcomes.end().and(told)
}
