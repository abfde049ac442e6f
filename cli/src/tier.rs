//! `levee tier`: what is hot, what is in the bucket, what waits, and whether it adds up.

mod audit;

use std::time::Duration;

use clap::Subcommand;
use levee_client::grpc::TierStatusResponse;
use serde_json::json;

use crate::error::CliError;
use crate::output::{Output, OutputArgs, Unit, bytes, millis, print, print_json, progress};
use crate::remote::{BrokerArgs, describe};
use crate::topic::show::{self, partitions};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    broker: BrokerArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show where the records of one topic, or of all, are.
    Status {
        /// Only this topic.
        topic: Option<String>,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Upload everything that is durable, now, and wait for it.
    Flush {
        /// Only this topic.
        topic: Option<String>,
        /// Delete the hot copies afterwards: the next reads come from the bucket.
        #[arg(long)]
        drop_hot: bool,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Hold metadata, listing and footers of the bucket against each other. Reads only.
    Audit {
        /// The bucket; without it that of the broker, with credentials from the environment.
        #[arg(long, value_name = "URL")]
        bucket: Option<String>,
        #[command(flatten)]
        output: OutputArgs,
    },
}

/// How long an upload is waited for where nobody says.
const FLUSH_LIMIT: Duration = Duration::from_secs(60);

pub async fn run(args: Args) -> Result<(), CliError> {
    if let Command::Audit { bucket: Some(url), output } = &args.command {
        return audit::run(url, *output).await;
    }
    let admin = args.broker.admin(&args.broker.connect().await?);
    if let Command::Status { topic: Some(name), .. } | Command::Flush { topic: Some(name), .. } =
        &args.command
    {
        describe(&admin, name).await?;
    }
    match args.command {
        Command::Audit { output, .. } => {
            audit::run(&admin.describe_cluster().await?.bucket, output).await
        }
        Command::Status { topic, output } => {
            let status = admin.tier_status(topic.as_deref()).await?;
            match output.output {
                Output::Text => text(&status),
                Output::Json => print_json(&status_json(&status)),
            }
        }
        Command::Flush { topic, drop_hot, output } => {
            let limit = args.broker.timeout.unwrap_or(FLUSH_LIMIT);
            let bar = progress("uploading", None, Unit::Bytes);
            let flushed = admin.flush(topic.as_deref(), drop_hot, limit).await;
            bar.finish_and_clear();
            let flushed = flushed?;
            let (uploaded, dropped) = (flushed.uploaded_bytes, flushed.dropped_bytes);
            match output.output {
                Output::Text => print(format_args!(
                    "uploaded {}, dropped {} of hot copies",
                    bytes(uploaded),
                    bytes(dropped)
                )),
                Output::Json => {
                    print_json(&json!({"uploaded_bytes": uploaded, "dropped_bytes": dropped}))
                }
            }
        }
    }
}

fn text(status: &TierStatusResponse) -> Result<(), CliError> {
    let (hot, budget) = (bytes(status.hot_bytes), bytes(status.hot_budget_bytes));
    let objects = status.objects_l1 + status.objects_l2;
    print(format_args!("bucket   {}", status.bucket))?;
    print(format_args!(
        "objects  {objects} ({} shared, {} of one partition), {}; {} unreferenced",
        status.objects_l1,
        status.objects_l2,
        bytes(status.object_bytes),
        status.unreferenced_objects
    ))?;
    print(format_args!("hot      {hot} of {budget}"))?;
    print(format_args!("waits    {}, {}", bytes(status.lag_bytes), millis(status.lag_ms)))?;
    for stalled in &status.stalled {
        print(format_args!("stalled  {stalled}"))?;
    }
    for damaged in &status.damaged {
        print(format_args!("damaged  {damaged}"))?;
    }
    match status.topics.is_empty() {
        true => Ok(()),
        false => print(format_args!("\n{}", partitions(&status.topics))),
    }
}

fn status_json(status: &TierStatusResponse) -> serde_json::Value {
    json!({
        "bucket": status.bucket,
        "objects_l1": status.objects_l1,
        "objects_l2": status.objects_l2,
        "object_bytes": status.object_bytes,
        "unreferenced_objects": status.unreferenced_objects,
        "hot_bytes": status.hot_bytes,
        "hot_budget_bytes": status.hot_budget_bytes,
        "lag_bytes": status.lag_bytes,
        "lag_ms": status.lag_ms,
        "stalled": status.stalled,
        "damaged": status.damaged,
        "topics": status.topics.iter().map(show::json).collect::<serde_json::Value>(),
    })
}
