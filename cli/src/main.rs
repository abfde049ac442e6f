//! The `levee` binary: reads the command line and hands over.
//!
//! Owns: the commands and how errors end the process. Does not own: anything that another program
//! could want (the broker and the client are crates of their own).

// A binary has no outside: `pub` marks what other modules use.
#![allow(unreachable_pub)]

mod broker;
mod config;
mod demo;
mod dev;
mod error;
mod logging;
mod serve;
mod settings;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use error::CliError;

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
        Command::Config(args) => config::run(args),
    }
}
