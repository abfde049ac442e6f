//! `levee topic`: making, showing, changing and deleting topics.

use clap::Subcommand;
use levee_client::grpc::{ErrorCode, PartitionDescription, TopicDescription};
use levee_client::{Admin, Client};
use serde_json::{Value, json};

use crate::error::CliError;
use crate::remote::{BrokerArgs, Output, bytes, key_value, millis, print, print_json, table};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    broker: BrokerArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a topic.
    Create(Create),
    /// List topics.
    List {
        #[arg(long, value_enum, default_value = "text")]
        output: Output,
    },
    /// Show a topic's settings and partitions.
    Describe {
        name: String,
        #[arg(long, value_enum, default_value = "text")]
        output: Output,
    },
    /// Change settings, or add partitions.
    Alter(Alter),
    /// Delete a topic. Its name is free at once; its data goes after `delete.delay`.
    Delete { name: String },
    /// Delete the records of one partition below an offset.
    DeleteRecords {
        name: String,
        #[arg(short, long)]
        partition: u32,
        /// The first offset that stays; `end` deletes all.
        #[arg(long, value_name = "OFFSET", value_parser = offset_or_end)]
        before: u64,
    },
    /// Give up what a lost disk held of a partition that waits for it, and go on behind it.
    AcceptLoss {
        name: String,
        #[arg(short, long)]
        partition: u32,
        /// Exactly: "the old broker is stopped for good".
        #[arg(long)]
        statement: String,
    },
}

#[derive(Debug, clap::Args)]
struct Create {
    name: String,
    /// How many partitions; the broker's default without it.
    #[arg(short, long, default_value_t = 0, hide_default_value = true)]
    partitions: u32,
    /// A setting of the topic; see `levee config explain`.
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    set: Vec<(String, String)>,
    /// Do nothing where the topic exists.
    #[arg(long)]
    if_not_exists: bool,
}

#[derive(Debug, clap::Args)]
struct Alter {
    name: String,
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    set: Vec<(String, String)>,
    /// Back to the broker's default.
    #[arg(long, value_name = "KEY")]
    remove: Vec<String>,
    /// How many there shall be; partitions are only ever added.
    #[arg(short, long, default_value_t = 0, hide_default_value = true)]
    partitions: u32,
}

pub async fn run(args: Args) -> Result<(), CliError> {
    let client: Client = args.broker.connect().await?;
    let admin = client.manage();
    match args.command {
        Command::Create(create) => self::create(&admin, create).await,
        Command::List { output } => {
            let topics = admin.list_topics().await?;
            match output {
                Output::Json => print_json(&topics.iter().map(topic_json).collect()),
                Output::Text => list(&topics),
            }
        }
        Command::Describe { name, output } => {
            let topic = admin.describe_topic(&name).await?;
            match output {
                Output::Json => print_json(&topic_json(&topic)),
                Output::Text => describe(&topic),
            }
        }
        Command::Alter(alter) => {
            if alter.set.is_empty() && alter.remove.is_empty() && alter.partitions == 0 {
                return Err(CliError::Usage("name a change: --set, --remove, --partitions".into()));
            }
            let set = alter.set.into_iter().collect();
            let changed = admin.alter_topic(&alter.name, set, alter.remove, alter.partitions);
            describe(&changed.await?)
        }
        Command::Delete { name } => {
            let deleted = admin.delete_topic(&name).await?;
            let purge = time(deleted.purge_ms);
            print(format_args!("deleted {name} ({}); its data goes at {purge}", deleted.id))
        }
        Command::DeleteRecords { name, partition, before } => {
            let start = admin.delete_records(&name, partition, before).await?;
            print(format_args!("{name} partition {partition} begins at offset {start}"))
        }
        Command::AcceptLoss { name, partition, statement } => {
            let lost = admin.accept_loss(&name, partition, &statement).await?;
            let (from, next) = (lost.lost_from, lost.next_offset);
            print(format_args!(
                "{name} partition {partition}: offsets from {from} on are given up; the next is {next}"
            ))
        }
    }
}

async fn create(admin: &Admin, create: Create) -> Result<(), CliError> {
    let set = create.set.into_iter().collect();
    match admin.create_topic(&create.name, create.partitions, set).await {
        Ok(topic) => {
            let (name, count) = (&topic.name, topic.partitions.len());
            print(format_args!("created {name}, {count} partitions ({})", topic.id))
        }
        Err(error) if error.code == ErrorCode::TopicExists && create.if_not_exists => {
            print(format_args!("{} exists", create.name))
        }
        Err(error) => Err(error.into()),
    }
}

fn list(topics: &[TopicDescription]) -> Result<(), CliError> {
    if topics.is_empty() {
        eprintln!("no topics; make one: levee topic create NAME");
        return Ok(());
    }
    let rows = topics.iter().map(|topic| {
        let sum =
            |of: fn(&PartitionDescription) -> u64| topic.partitions.iter().map(of).sum::<u64>();
        let classes = topic.partitions.iter().map(|p| p.durability_class.as_str());
        let mut classes: Vec<_> = classes.collect();
        classes.sort_unstable();
        classes.dedup();
        let deleted = if topic.deleted_ms.is_some() { " (deleted)" } else { "" };
        vec![
            format!("{}{deleted}", topic.name),
            topic.partitions.len().to_string(),
            classes.join(","),
            sum(|p| p.high_watermark.saturating_sub(p.log_start)).to_string(),
            bytes(sum(|p| p.hot_bytes)),
            bytes(sum(|p| p.remote_bytes)),
        ]
    });
    print(table(&["TOPIC", "PARTITIONS", "CLASS", "RECORDS", "HOT", "BUCKET"], rows))
}

fn describe(topic: &TopicDescription) -> Result<(), CliError> {
    print(format_args!("{}  {}", topic.name, topic.id))?;
    if let Some(deleted) = topic.deleted_ms {
        print(format_args!("deleted at {}", time(deleted)))?;
    }
    let settings = topic.config.iter().map(|entry| {
        let origin = if entry.is_default { "default" } else { "set" };
        vec![entry.name.clone(), entry.value.clone(), origin.to_owned()]
    });
    print(format_args!("\n{}\n", table(&["SETTING", "VALUE", ""], settings)))?;
    print(partitions(std::slice::from_ref(topic)))
}

/// One row for each partition of all topics.
pub fn partitions(topics: &[TopicDescription]) -> comfy_table::Table {
    let rows = topics.iter().flat_map(|topic| {
        topic.partitions.iter().map(move |p| {
            let state = match p.reason.as_str() {
                "" => p.state.clone(),
                reason => format!("{}: {reason}", p.state),
            };
            let class = match p.pending_class.as_str() {
                "" => p.durability_class.clone(),
                pending => format!("{} (to {pending})", p.durability_class),
            };
            vec![
                format!("{}/{}", topic.name, p.partition),
                state,
                class,
                p.log_start.to_string(),
                p.local_start.to_string(),
                p.tiered_end.to_string(),
                p.high_watermark.to_string(),
                bytes(p.hot_bytes),
                bytes(p.remote_bytes),
                format!("{}, {}", bytes(p.lag_bytes), millis(p.lag_ms)),
            ]
        })
    });
    let head = [
        "PARTITION",
        "STATE",
        "CLASS",
        "START",
        "HOT FROM",
        "IN BUCKET TO",
        "END",
        "HOT",
        "BUCKET",
        "WAITS",
    ];
    table(&head, rows)
}

pub fn topic_json(topic: &TopicDescription) -> Value {
    let config = topic.config.iter().map(
        |entry| json!({"name": entry.name, "value": entry.value, "is_default": entry.is_default}),
    );
    json!({
        "name": topic.name,
        "id": topic.id,
        "deleted_ms": topic.deleted_ms,
        "config": config.collect::<Value>(),
        "partitions": topic.partitions.iter().map(partition_json).collect::<Value>(),
    })
}

fn partition_json(p: &PartitionDescription) -> Value {
    json!({
        "partition": p.partition,
        "state": p.state,
        "reason": p.reason,
        "leader": p.leader,
        "leader_epoch": p.leader_epoch,
        "log_start": p.log_start,
        "local_start": p.local_start,
        "tiered_end": p.tiered_end,
        "high_watermark": p.high_watermark,
        "log_end": p.log_end,
        "durability_class": p.durability_class,
        "pending_class": p.pending_class,
        "hot_bytes": p.hot_bytes,
        "remote_bytes": p.remote_bytes,
        "lag_bytes": p.lag_bytes,
        "lag_ms": p.lag_ms,
    })
}

fn time(ms: i64) -> String {
    let since = std::time::Duration::from_millis(ms.max(0).unsigned_abs());
    // humantime ends at the year 9999.
    match since.as_secs() < 253_402_300_800 {
        true => humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + since).to_string(),
        false => "never".to_owned(),
    }
}

fn offset_or_end(text: &str) -> Result<u64, String> {
    match text {
        // The protocol's word for the end.
        "end" => Ok(i64::MAX as u64),
        offset => offset.parse().map_err(|_| "write an offset, or `end`".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waiting_partition_says_why() {
        let partition = PartitionDescription {
            state: "waiting".into(),
            reason: "its lane's disk is away".into(),
            high_watermark: 42,
            ..Default::default()
        };
        let partitions = vec![partition];
        let topic = TopicDescription { name: "t".into(), partitions, ..Default::default() };
        let text = super::partitions(std::slice::from_ref(&topic)).to_string();
        assert!(
            text.contains("t/0") && text.contains("waiting: its lane's disk is away"),
            "{text}"
        );
        assert_eq!(topic_json(&topic)["partitions"][0]["high_watermark"], 42);
        assert_eq!([time(0).as_str(), time(i64::MAX).as_str()], ["1970-01-01T00:00:00Z", "never"]);
    }
}
