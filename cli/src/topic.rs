//! `levee topic`: making, showing, changing and deleting topics.
//!
//! Owns: the commands that change something. Does not own: showing topics (`show`), offsets
//! (`offsets`).

mod offsets;
pub mod show;

use clap::Subcommand;
use levee_client::grpc::ErrorCode;
use levee_client::{Admin, Error};
use serde_json::{Value, json};

use crate::codes::{Code, Exit};
use crate::error::CliError;
use crate::output::{Output, OutputArgs, confirm, count, note, print, print_json, time};
use crate::remote::{BrokerArgs, describe, key_value, suggest};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    broker: BrokerArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make topics.
    Create(Create),
    /// List topics.
    List(show::List),
    /// Show settings and partitions of topics.
    Describe(show::Describe),
    /// Change settings, or set how many partitions there shall be.
    #[command(alias = "alter-config")]
    Alter(Alter),
    /// Add partitions. Keys go to other partitions from then on.
    #[command(visible_alias = "grow")]
    AddPartitions(AddPartitions),
    /// Delete topics. Their names are free at once; their data goes after `delete.delay`.
    Delete(Delete),
    /// Show the offsets of partitions, or those at a position or time.
    Offsets(offsets::Offsets),
    /// Delete the records of partitions below a position.
    #[command(visible_alias = "trim-prefix")]
    DeleteRecords(offsets::DeleteRecords),
    /// Give up what a lost disk held of a partition that waits for it, and go on behind it.
    AcceptLoss {
        /// The topic.
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
    /// One topic, or several.
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// How many partitions; the broker's default.partitions without it.
    #[arg(short, long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    partitions: Option<u32>,
    /// A setting of the topic; see `levee config explain topic`. May be repeated.
    #[arg(
        short = 'c',
        long,
        aliases = ["config", "topic-config"],
        value_name = "KEY=VALUE",
        value_parser = key_value
    )]
    set: Vec<(String, String)>,
    /// Do nothing where the topic exists.
    #[arg(long)]
    if_not_exists: bool,
    /// There are none to set: see `durability.class`.
    #[arg(short, long, alias = "replication-factor", hide = true)]
    replicas: Option<u32>,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, clap::Args)]
struct Alter {
    /// One topic, or several.
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// A setting to change. May be repeated.
    #[arg(short, long, alias = "add-config", value_name = "KEY=VALUE", value_parser = key_value)]
    set: Vec<(String, String)>,
    /// A setting that goes back to the broker's default. May be repeated.
    #[arg(short, long, aliases = ["remove", "delete-config"], value_name = "KEY")]
    delete: Vec<String>,
    /// How many partitions there shall be; they are only ever added.
    #[arg(short, long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    partitions: Option<u32>,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, clap::Args)]
struct AddPartitions {
    /// One topic, or several.
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// How many more.
    #[arg(short, long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    num: u32,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, clap::Args)]
struct Delete {
    /// One topic, or several.
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// Do not ask.
    #[arg(short, long, alias = "no-confirm")]
    yes: bool,
    /// Do nothing where there is no such topic.
    #[arg(long)]
    if_exists: bool,
    #[command(flatten)]
    output: OutputArgs,
}

pub async fn run(args: Args) -> Result<(), CliError> {
    args.command.check()?;
    let admin = args.broker.admin(&args.broker.connect().await?);
    match args.command {
        Command::Create(create) => self::create(&admin, create).await,
        Command::List(list) => show::list(&admin, list).await,
        Command::Describe(describe) => show::describe(&admin, describe).await,
        Command::Alter(alter) => self::alter(&admin, alter).await,
        Command::AddPartitions(add) => add_partitions(&admin, add).await,
        Command::Delete(delete) => self::delete(&admin, delete).await,
        Command::Offsets(offsets) => offsets::show(&admin, offsets).await,
        Command::DeleteRecords(delete) => offsets::delete_records(&admin, delete).await,
        Command::AcceptLoss { name, partition, statement } => {
            let lost = admin.accept_loss(&name, partition, &statement).await;
            let lost = told(&admin, &name, lost).await?;
            let (from, next) = (lost.lost_from, lost.next_offset);
            print(format_args!(
                "{name} partition {partition}: offsets from {from} on are given up; the next is {next}"
            ))
        }
    }
}

impl Command {
    /// What makes no sense is said before a broker is asked.
    fn check(&self) -> Result<(), CliError> {
        match self {
            Self::Create(create) if create.replicas.is_some() => {
                let why = "Levee has no replicas to set: the bucket keeps the records";
                Err(CliError::usage(why).next_step(
                    "choose what an ack survives: --set durability.class=object or local",
                ))
            }
            Self::Alter(alter)
                if alter.set.is_empty()
                    && alter.delete.is_empty()
                    && alter.partitions.is_none() =>
            {
                let why = "no change is named";
                Err(CliError::usage(why).next_step("give --set, --delete or --partitions"))
            }
            Self::Alter(alter) => match alter.set.iter().find(|(k, _)| alter.delete.contains(k)) {
                Some((key, _)) => {
                    let why = format!("{key} is named by --set and by --delete");
                    Err(CliError::usage(why).next_step("leave one of them out"))
                }
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }
}

/// What was done to several topics: each failure is said when it happens, and the rest goes on.
pub(crate) struct Outcomes {
    wanted: usize,
    output: Output,
    done: Vec<Value>,
    failed: Vec<CliError>,
}

impl Outcomes {
    pub(crate) fn new(wanted: usize, output: Output) -> Self {
        Self { wanted, output, done: Vec::new(), failed: Vec::new() }
    }

    /// Nothing was done yet.
    pub(crate) fn is_empty(&self) -> bool {
        self.done.is_empty()
    }

    /// Says what failed so far, where the rest is not done for another reason.
    pub(crate) fn stop(self, reason: CliError) -> CliError {
        if let Some(last) = self.failed.last() {
            last.say();
        }
        reason
    }

    pub(crate) fn add(
        &mut self,
        outcome: Result<(String, Value), CliError>,
    ) -> Result<(), CliError> {
        match outcome {
            Ok((text, json)) => {
                self.done.push(json);
                if self.output == Output::Text { print(text) } else { Ok(()) }
            }
            Err(error) if error.exit() == Exit::Ok => Err(error),
            Err(error) => {
                // The last one ends the command, which says it.
                if let Some(before) = self.failed.last() {
                    before.say();
                }
                self.failed.push(error);
                Ok(())
            }
        }
    }

    pub(crate) fn end(mut self) -> Result<(), CliError> {
        if self.output == Output::Json {
            print_json(&Value::Array(std::mem::take(&mut self.done)))?;
        }
        let Some(last) = self.failed.pop() else { return Ok(()) };
        match self.failed.len() + 1 == self.wanted {
            true => Err(last),
            false => {
                last.say();
                let (failed, wanted) = (self.failed.len() + 1, self.wanted);
                Err(CliError::of(Code::PartlyDone, format!("{failed} of {wanted} failed")))
            }
        }
    }
}

/// A refusal that is about the name suggests another one.
async fn told<T>(admin: &Admin, name: &str, outcome: Result<T, Error>) -> Result<T, CliError> {
    match outcome {
        Ok(value) => Ok(value),
        Err(error) => Err(suggest(admin, name, error).await),
    }
}

async fn create(admin: &Admin, create: Create) -> Result<(), CliError> {
    let mut outcomes = Outcomes::new(create.names.len(), create.output.output);
    for name in &create.names {
        let set = create.set.iter().cloned().collect();
        let outcome = match admin.create_topic(name, create.partitions.unwrap_or(0), set).await {
            Ok(topic) => {
                let partitions = count(topic.partitions.len() as u64, "partition");
                Ok((format!("created {name}, {partitions} ({})", topic.id), show::json(&topic)))
            }
            Err(error) if error.code == ErrorCode::TopicExists && create.if_not_exists => {
                let there = admin.describe_topic(name).await.map_err(CliError::from);
                there.map(|topic| (format!("{name} exists"), show::json(&topic)))
            }
            Err(error) => Err(error.into()),
        };
        outcomes.add(outcome)?;
    }
    outcomes.end()
}

async fn alter(admin: &Admin, alter: Alter) -> Result<(), CliError> {
    let mut outcomes = Outcomes::new(alter.names.len(), alter.output.output);
    for name in &alter.names {
        let set = alter.set.iter().cloned().collect();
        let partitions = alter.partitions.unwrap_or(0);
        let changed = admin.alter_topic(name, set, alter.delete.clone(), partitions).await;
        let outcome = told(admin, name, changed).await.map(|topic| {
            let changed = show::changed(&topic, &alter.set, &alter.delete);
            (format!("altered {name}: {changed}"), show::json(&topic))
        });
        outcomes.add(outcome)?;
    }
    outcomes.end()
}

async fn add_partitions(admin: &Admin, add: AddPartitions) -> Result<(), CliError> {
    let mut outcomes = Outcomes::new(add.names.len(), add.output.output);
    for name in &add.names {
        outcomes.add(add_to(admin, name, add.num).await)?;
    }
    outcomes.end()
}

async fn add_to(admin: &Admin, name: &str, more: u32) -> Result<(String, Value), CliError> {
    let before = describe(admin, name).await?.partitions.len() as u32;
    let wanted = before.saturating_add(more);
    let topic = admin.alter_topic(name, Default::default(), Vec::new(), wanted).await?;
    Ok((format!("{name} has {wanted} partitions now, {before} before"), show::json(&topic)))
}

async fn delete(admin: &Admin, delete: Delete) -> Result<(), CliError> {
    let mut names = Vec::new();
    let mut outcomes = Outcomes::new(delete.names.len(), delete.output.output);
    // Nobody is asked about what is not there.
    for name in &delete.names {
        match describe(admin, name).await {
            Ok(_) => names.push(name),
            Err(CliError::Failed { code: Code::UnknownTopic, .. }) if delete.if_exists => {
                note(format_args!("there is no topic {name:?}"));
            }
            Err(error) => outcomes.add(Err(error))?,
        }
    }
    if !names.is_empty() {
        let list = names.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
        let what =
            format!("delete {} with all records: {list}", count(names.len() as u64, "topic"));
        if let Err(refused) = confirm(&what, delete.yes).await {
            return Err(outcomes.stop(refused));
        }
    }
    for name in names {
        let deleted = told(admin, name, admin.delete_topic(name).await).await.map(|deleted| {
            let purge = time(deleted.purge_ms);
            let text = format!("deleted {name} ({}); its data goes at {purge}", deleted.id);
            (text, json!({"name": name, "id": deleted.id, "purge_ms": deleted.purge_ms}))
        });
        outcomes.add(deleted)?;
    }
    outcomes.end()
}
