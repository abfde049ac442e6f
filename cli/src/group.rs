//! `levee group`: groups of consumers, of gRPC and Kafka clients alike.

use std::collections::BTreeMap;

use clap::Subcommand;
use levee_client::grpc::list_offsets_request::At;
use levee_client::grpc::{ErrorCode, GroupDescription, TopicPartitions};
use levee_client::{Admin, Offsets, TopicPartition};
use serde_json::{Value, json};

use crate::error::CliError;
use crate::output::{Output, OutputArgs, confirm, count, note, print, print_json, table};
use crate::remote::BrokerArgs;
use crate::topic::Outcomes;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    broker: BrokerArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List groups.
    List {
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Show members, offsets and how far these are behind.
    Describe(Named),
    /// Delete groups without members, and their offsets.
    Delete {
        #[command(flatten)]
        named: Named,
        /// Do not ask.
        #[arg(short, long, alias = "no-confirm")]
        yes: bool,
    },
}

#[derive(Debug, clap::Args)]
struct Named {
    /// One group, or several.
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    #[command(flatten)]
    output: OutputArgs,
}

/// What a group has read of a partition.
struct Progress {
    at: TopicPartition,
    offset: Option<u64>,
    end: Option<u64>,
    /// Who reads it.
    member: String,
}

pub async fn run(args: Args) -> Result<(), CliError> {
    let admin = args.broker.admin(&args.broker.connect().await?);
    match args.command {
        Command::List { output } => list(&admin, output.output).await,
        Command::Describe(named) => describe(&admin, named).await,
        Command::Delete { named, yes } => delete(&admin, named, yes).await,
    }
}

async fn list(admin: &Admin, output: Output) -> Result<(), CliError> {
    let groups = admin.list_groups().await?;
    if output == Output::Json {
        let each = groups
            .iter()
            .map(|group| json!({"group": group.group, "type": group.r#type, "state": group.state}));
        return print_json(&each.collect());
    }
    if groups.is_empty() {
        note("no groups; one begins when its first member joins");
        return Ok(());
    }
    let rows = groups.into_iter().map(|group| vec![group.group, group.r#type, group.state]);
    print(table(&["GROUP", "TYPE", "STATE"], rows))
}

async fn describe(admin: &Admin, named: Named) -> Result<(), CliError> {
    let mut outcomes = Outcomes::new(named.names.len(), named.output.output);
    for name in &named.names {
        let is_first = outcomes.is_empty();
        let shown = show(admin, name).await.map(|(text, json)| match is_first {
            true => (text, json),
            false => (format!("\n{text}"), json),
        });
        outcomes.add(shown)?;
    }
    outcomes.end()
}

async fn show(admin: &Admin, name: &str) -> Result<(String, Value), CliError> {
    let group = admin.describe_group(name).await?;
    let offsets = admin.last_group_offsets(name).await?;
    let progress = progress(admin, &group, &offsets).await?;
    let members = count(group.members.len() as u64, "member");
    let mut text = format!("{}  {} {}, {members}", group.group, group.r#type, group.state);
    if !group.members.is_empty() {
        text.push_str(&format!("\n\n{}", members_table(&group)));
    }
    if !progress.is_empty() {
        text.push_str(&format!("\n\n{}", progress_table(&progress)));
    }
    Ok((text, to_json(&group, &progress)))
}

/// Of what has an offset, and of what members have.
async fn progress(
    admin: &Admin,
    group: &GroupDescription,
    offsets: &Offsets,
) -> Result<Vec<Progress>, CliError> {
    let mut members = BTreeMap::new();
    for member in &group.members {
        for at in partitions(&member.assigned) {
            members.insert(at, member.member_id.clone());
        }
    }
    let mut all: Vec<TopicPartition> = offsets.keys().chain(members.keys()).cloned().collect();
    all.sort();
    all.dedup();
    let mut found = Vec::with_capacity(all.len());
    for at in all {
        let end = match admin.list_offsets(&at.topic, at.partition, At::End(true)).await {
            Ok(end) => end.offset,
            // Offsets outlive their topic for a while.
            Err(error)
                if [ErrorCode::UnknownTopic, ErrorCode::UnknownPartition].contains(&error.code) =>
            {
                None
            }
            Err(error) => return Err(error.into()),
        };
        let (offset, member) = (offsets.get(&at).copied(), members.remove(&at).unwrap_or_default());
        found.push(Progress { at, offset, end, member });
    }
    Ok(found)
}

impl Progress {
    fn lag(&self) -> Option<u64> {
        Some(self.end?.saturating_sub(self.offset?))
    }
}

fn partitions(assigned: &[TopicPartitions]) -> impl Iterator<Item = TopicPartition> + '_ {
    assigned
        .iter()
        .flat_map(|topic| topic.partitions.iter().map(|p| TopicPartition::new(&*topic.topic, *p)))
}

fn members_table(group: &GroupDescription) -> comfy_table::Table {
    let rows = group.members.iter().map(|member| {
        let all: Vec<String> = partitions(&member.assigned).map(|at| at.to_string()).collect();
        vec![
            member.member_id.clone(),
            dash(&member.instance_id),
            dash(&member.client_id),
            dash(member.client_host.trim_start_matches('/')),
            dash(&all.join(" ")),
        ]
    });
    table(&["MEMBER", "INSTANCE", "CLIENT", "HOST", "PARTITIONS"], rows)
}

fn progress_table(progress: &[Progress]) -> comfy_table::Table {
    let number = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |n| n.to_string());
    let rows = progress.iter().map(|one| {
        vec![
            one.at.topic.to_string(),
            one.at.partition.to_string(),
            number(one.offset),
            number(one.end),
            number(one.lag()),
            dash(&one.member),
        ]
    });
    table(&["TOPIC", "PARTITION", "OFFSET", "END", "LAG", "MEMBER"], rows)
}

fn dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

fn to_json(group: &GroupDescription, progress: &[Progress]) -> Value {
    let named = |at: TopicPartition| json!({"topic": &*at.topic, "partition": at.partition});
    let members = group.members.iter().map(|member| {
        json!({
            "member": member.member_id,
            "instance": member.instance_id,
            "client": member.client_id,
            "host": member.client_host.trim_start_matches('/'),
            "epoch": member.member_epoch,
            "partitions": partitions(&member.assigned).map(named).collect::<Vec<_>>(),
        })
    });
    let offsets = progress.iter().map(|one| {
        json!({
            "topic": &*one.at.topic,
            "partition": one.at.partition,
            "offset": one.offset,
            "end": one.end,
            "lag": one.lag(),
            "member": one.member,
        })
    });
    json!({
        "group": group.group,
        "type": group.r#type,
        "state": group.state,
        "epoch": group.group_epoch,
        "assignor": group.assignor,
        "members": members.collect::<Vec<_>>(),
        "offsets": offsets.collect::<Vec<_>>(),
    })
}

async fn delete(admin: &Admin, named: Named, yes: bool) -> Result<(), CliError> {
    let list = named.names.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
    let what =
        format!("delete {} with their offsets: {list}", count(named.names.len() as u64, "group"));
    confirm(&what, yes).await?;
    let mut outcomes = Outcomes::new(named.names.len(), named.output.output);
    for name in &named.names {
        let deleted = admin.delete_group(name).await.map_err(CliError::from);
        outcomes.add(deleted.map(|()| (format!("deleted {name}"), json!({"group": name}))))?;
    }
    outcomes.end()
}
