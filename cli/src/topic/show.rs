//! Topics as tables and as JSON.

use levee_client::Admin;
use levee_client::grpc::{PartitionDescription, TopicDescription};
use regex::Regex;
use serde_json::{Value, json};

use super::Outcomes;
use crate::error::CliError;
use crate::output::{
    Output, OutputArgs, bytes, count, millis, note, print, print_json, table, time,
};
use crate::remote;

#[derive(Debug, clap::Args)]
pub(super) struct List {
    /// Only topics whose whole name matches this regular expression.
    #[arg(value_name = "REGEX", value_parser = remote::whole_name)]
    pattern: Option<Regex>,
    /// Deleted topics too, until their data goes.
    #[arg(short, long)]
    all: bool,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, clap::Args)]
pub(super) struct Describe {
    /// One topic, or several.
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// Only settings.
    #[arg(short = 'c', long)]
    print_configs: bool,
    /// Only partitions.
    #[arg(short = 'p', long)]
    print_partitions: bool,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) async fn list(admin: &Admin, list: List) -> Result<(), CliError> {
    let mut topics = admin.list_topics().await?;
    let there = topics.len();
    let is_whole = |name: &str| list.pattern.as_ref().is_none_or(|pattern| pattern.is_match(name));
    topics.retain(|t| (list.all || t.deleted_ms.is_none()) && is_whole(&t.name));
    if list.output.output == Output::Json {
        return print_json(&topics.iter().map(json).collect());
    }
    if topics.is_empty() {
        note(match there {
            0 => "no topics; make one: levee topic create NAME",
            _ => "no such topics; deleted ones are shown with --all",
        });
        return Ok(());
    }
    print(overview(&topics))
}

fn overview(topics: &[TopicDescription]) -> comfy_table::Table {
    let rows = topics.iter().map(|topic| {
        let sum =
            |of: fn(&PartitionDescription) -> u64| topic.partitions.iter().map(of).sum::<u64>();
        let classes = topic.partitions.iter().map(|p| p.durability_class.as_str());
        let mut classes: Vec<_> = classes.collect();
        classes.sort_unstable();
        classes.dedup();
        let serving = topic.partitions.iter().filter(|p| p.state == "serving").count();
        let state = match topic.deleted_ms {
            Some(_) => "deleted".to_owned(),
            None if serving == topic.partitions.len() => "serving".to_owned(),
            None => format!("{serving} of {} serving", topic.partitions.len()),
        };
        vec![
            topic.name.clone(),
            state,
            topic.partitions.len().to_string(),
            classes.join(","),
            sum(|p| p.high_watermark.saturating_sub(p.log_start)).to_string(),
            bytes(sum(|p| p.hot_bytes)),
            bytes(sum(|p| p.remote_bytes)),
        ]
    });
    table(&["TOPIC", "STATE", "PARTITIONS", "CLASS", "RECORDS", "HOT", "BUCKET"], rows)
}

pub(super) async fn describe(admin: &Admin, args: Describe) -> Result<(), CliError> {
    let mut outcomes = Outcomes::new(args.names.len(), args.output.output);
    let all = !args.print_configs && !args.print_partitions;
    for name in &args.names {
        let is_first = outcomes.is_empty();
        let topic = remote::describe(admin, name).await;
        outcomes.add(topic.map(|topic| {
            let mut text = if is_first { String::new() } else { "\n".to_owned() };
            text.push_str(&format!("{}  {}", topic.name, topic.id));
            if let Some(deleted) = topic.deleted_ms {
                text.push_str(&format!("\ndeleted at {}", time(deleted)));
            }
            if all || args.print_configs {
                text.push_str(&format!("\n\n{}", settings(&topic)));
            }
            if all || args.print_partitions {
                text.push_str(&format!("\n\n{}", partitions(std::slice::from_ref(&topic))));
            }
            (text, json(&topic))
        }))?;
    }
    outcomes.end()
}

fn settings(topic: &TopicDescription) -> comfy_table::Table {
    let rows = topic.config.iter().map(|entry| {
        let origin = if entry.is_default { "default" } else { "set" };
        vec![entry.name.clone(), entry.value.clone(), origin.to_owned()]
    });
    table(&["SETTING", "VALUE", "FROM"], rows)
}

/// What holds now of what was changed.
pub(super) fn changed(
    topic: &TopicDescription,
    set: &[(String, String)],
    deleted: &[String],
) -> String {
    let names = set.iter().map(|(name, _)| name).chain(deleted);
    let values = names.filter_map(|name| {
        let entry = topic.config.iter().find(|entry| entry.name == *name)?;
        Some(format!("{name}={}", entry.value))
    });
    let partitions = count(topic.partitions.len() as u64, "partition");
    values.chain([partitions]).collect::<Vec<_>>().join(", ")
}

/// One row for each partition of all topics.
pub fn partitions(topics: &[TopicDescription]) -> comfy_table::Table {
    let rows = topics.iter().flat_map(|topic| {
        topic.partitions.iter().map(move |p| {
            let state = match p.reason.as_str() {
                // Nobody leads them any more, and nothing is wrong with that.
                _ if topic.deleted_ms.is_some() => "deleted".to_owned(),
                "" => p.state.clone(),
                reason => format!("{}: {reason}", p.state),
            };
            let class = match p.pending_class.as_str() {
                "" => p.durability_class.clone(),
                pending => format!("{} (to {pending})", p.durability_class),
            };
            let waits = match p.lag_bytes {
                0 => "nothing".to_owned(),
                lag => format!("{}, {}", bytes(lag), millis(p.lag_ms)),
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
                waits,
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

pub fn json(topic: &TopicDescription) -> Value {
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
        assert!(overview(std::slice::from_ref(&topic)).to_string().contains("0 of 1 serving"));
        assert_eq!(json(&topic)["partitions"][0]["high_watermark"], 42);
    }
}
