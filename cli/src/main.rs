//! The `levee` binary: reads the command line and hands over.
//!
//! Owns: the commands and how errors end the process. Does not own: anything that another program
//! could want (the broker and the client are crates of their own).

// A binary has no outside: `pub` marks what other modules use. It stands in the real world.
#![allow(unreachable_pub, clippy::disallowed_methods)]

mod broker;
mod config;
mod consume;
mod demo;
mod dev;
mod error;
mod jsonl;
mod logging;
mod produce;
mod remote;
mod serve;
mod settings;
mod storage;
mod tier;
mod topic;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use error::CliError;

/// Batches come and go by the hundred thousand: the system's allocator gives each back to the
/// kernel, and pays for it with page faults.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Levee: a log broker on object storage.
#[derive(Parser)]
#[command(name = "levee", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Load, offload, read back, crash and prove: with real data, in about a minute.
    Demo(demo::Args),
    /// Run a broker on this machine with defaults of a desk: bucket in a folder, class `local`.
    Dev(dev::Args),
    /// Run a broker in production: the bucket must be named.
    Broker(broker::Args),
    /// Make, list, describe, change and delete topics.
    Topic(topic::Args),
    /// Append records from a file or standard input.
    Produce(produce::Args),
    /// Read records to standard output.
    Consume(consume::Args),
    /// What is hot, what is in the bucket, what waits.
    Tier(tier::Args),
    /// Check whether a bucket is one that Levee can use.
    Storage(storage::Args),
    /// Explain the settings of a broker and of topics.
    Config(config::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return CliError::new(format!("no threads to run on: {error}")).end(),
    };
    let done = runtime.block_on(run(cli.command));
    // Blocking calls that are still under way (a read of standard input) must not hold the exit.
    runtime.shutdown_background();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.end(),
    }
}

async fn run(command: Command) -> Result<(), CliError> {
    match command {
        Command::Demo(args) => demo::run(args).await,
        Command::Dev(args) => dev::run(args).await,
        Command::Broker(args) => broker::run(args).await,
        Command::Topic(args) => topic::run(args).await,
        Command::Produce(args) => produce::run(args).await,
        Command::Consume(args) => consume::run(args).await,
        Command::Tier(args) => tier::run(args).await,
        Command::Storage(args) => storage::run(args).await,
        Command::Config(args) => config::run(args),
    }
}
