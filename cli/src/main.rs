//! The `levee` binary: reads the command line and hands over.
//!
//! Owns: the commands, signals of those that end by themselves, and how errors end the process.
//! Does not own: anything that another program could want (the broker and the client are crates of
//! their own).

// A binary has no outside: `pub` marks what other modules use. It stands in the real world.
#![allow(unreachable_pub, clippy::disallowed_methods)]

mod broker;
mod codes;
mod config;
mod consume;
mod demo;
mod dev;
mod doctor;
mod error;
mod explain;
mod filter;
mod format;
mod group;
mod interrupt;
mod jsonl;
mod logging;
mod manual;
mod output;
mod partitions;
mod produce;
mod range;
mod remote;
mod serve;
mod settings;
mod storage;
mod tier;
mod topic;

use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use codes::{Code, Exit};
use error::CliError;
use interrupt::Interrupt;

/// Batches come and go by the hundred thousand: the system's allocator gives each back to the
/// kernel, and pays for it with page faults.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// How long a command that was interrupted may take to give back what it holds.
const LAST_ACTS: Duration = Duration::from_secs(1);

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
    /// Make, list, describe, change and delete topics; offsets and deletion of records.
    Topic(topic::Args),
    /// Groups of consumers: their members and offsets, how far they are behind.
    Group(group::Args),
    /// Append records from a file or standard input.
    Produce(produce::Args),
    /// Read records to standard output.
    Consume(consume::Args),
    /// What is hot, what is in the bucket, what waits.
    Tier(tier::Args),
    /// Check settings, disk, limits, bucket and broker, with remedies.
    Doctor(doctor::Args),
    /// Check whether a bucket is one that Levee can use.
    Storage(storage::Args),
    /// Explain the settings of a broker and of topics.
    Config(config::Args),
    /// Explain an error: what it means, what to do, which exit code it has.
    Explain(explain::Args),
    /// Write the completion script of a shell.
    Completions(manual::CompletionsArgs),
    /// Write man pages.
    Man(manual::ManArgs),
}

fn main() -> ExitCode {
    let cli = match Cli::from_arg_matches(&levee().get_matches()) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return end(CliError::new(format!("no threads to run on: {error}"))),
    };
    let done = runtime.block_on(run(cli.command));
    // Blocking calls that are still under way (a read of standard input) must not hold the exit.
    runtime.shutdown_background();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => end(error),
    }
}

fn end(error: CliError) -> ExitCode {
    error.say();
    error.into()
}

/// The command line, with the exit codes below the long help of every command.
fn levee() -> clap::Command {
    with_exit_codes(Cli::command())
}

fn with_exit_codes(command: clap::Command) -> clap::Command {
    let own = command.get_after_long_help().map(|help| format!("{help}\n")).unwrap_or_default();
    let command = command.after_long_help(format!("{own}{}", codes::exit_help()));
    let names: Vec<String> =
        command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
    names.into_iter().fold(command, |command, name| command.mut_subcommand(name, with_exit_codes))
}

async fn run(command: Command) -> Result<(), CliError> {
    match command {
        // These have a way of their own to stop.
        Command::Dev(args) => dev::run(args).await,
        Command::Broker(args) => broker::run(args).await,
        command => interruptible(command).await,
    }
}

/// A task of its own: a write that blocks, because nobody reads what is written, must not keep
/// anybody from interrupting it.
async fn interruptible(command: Command) -> Result<(), CliError> {
    let interrupt = Interrupt::listen()?;
    // One reports what was done before it ends, the other ends in silence.
    let reports = matches!(command, Command::Produce(_));
    let is_silent = matches!(command, Command::Consume(_));
    let given_up = interrupt.clone();
    let mut work = tokio::spawn(act(command, interrupt));
    tokio::select! {
        biased;
        done = &mut work => done.unwrap_or_else(|error| {
            Err(CliError::of(Code::Internal, format!("a fault of this program: {error}")))
        }),
        () = given_up.ends(reports) => {
            if (reports || is_silent)
                && let Ok(Ok(done)) = tokio::time::timeout(LAST_ACTS, &mut work).await
            {
                return done;
            }
            work.abort();
            if is_silent {
                // Its output is not taken: there is nothing to wait for.
                return Err(CliError::Silent(Exit::Interrupted));
            }
            // What it holds is given back: a folder of the demo, a process.
            let _ = tokio::time::timeout(LAST_ACTS, work).await;
            let why = "interrupted; what was asked of the broker may still be done";
            Err(CliError::of(Code::Interrupted, why))
        }
    }
}

async fn act(command: Command, interrupt: Interrupt) -> Result<(), CliError> {
    match command {
        Command::Demo(args) => demo::run(args).await,
        Command::Dev(args) => dev::run(args).await,
        Command::Broker(args) => broker::run(args).await,
        Command::Topic(args) => topic::run(args).await,
        Command::Group(args) => group::run(args).await,
        Command::Produce(args) => produce::run(args, interrupt).await,
        Command::Consume(args) => consume::run(args, interrupt).await,
        Command::Tier(args) => tier::run(args).await,
        Command::Doctor(args) => doctor::run(args).await,
        Command::Storage(args) => storage::run(args).await,
        Command::Config(args) => config::run(args),
        Command::Explain(args) => explain::run(&args),
        Command::Completions(args) => manual::completions(&args, levee()),
        Command::Man(args) => manual::man(&args, levee()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_fit_together_and_name_their_exit_codes() {
        let mut levee = levee();
        levee.clone().debug_assert();
        let mut consume = levee.find_subcommand_mut("consume").unwrap().clone();
        let help = consume.render_long_help().to_string();
        assert!(help.contains("130  interrupted") && help.contains("@T1:T2"), "{help}");
    }
}
