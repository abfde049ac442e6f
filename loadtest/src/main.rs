//! The load generator: drives a workload through a target, says what came of every record, and
//! measures the floors that figures stand beside. Measures and never gates, except where it is
//! asked to compare.
//!
//! The way of a run: `workload` (pure) -> `schedule` (pure) -> `producer`, `reader` over a `driver`
//! -> `recorder` -> `drive` (phases, time series) -> `verify` (pure) -> `results` -> `report`.
//! Does not own: anything that a broker needs to run.

// A load generator runs in the real world, and a binary has no outside.
#![allow(clippy::disallowed_methods, unreachable_pub)]

mod bench;
mod bucket;
mod clock;
mod compare;
mod drive;
mod driver;
mod error;
mod log;
mod payload;
mod producer;
mod progress;
mod reader;
mod recorder;
mod report;
mod results;
mod run;
mod schedule;
mod search;
mod session;
mod stamp;
mod stop;
mod target;
mod verify;
mod workload;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, Subcommand};

use error::{Error, Exit, Result};
use progress::Progress;
use results::Results;
use run::Options;
use stop::Stop;
use target::Spec;

/// Batches come and go by the hundred thousand: the system's allocator gives each back to the
/// kernel, and pays for it with page faults.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const EXIT_CODES: &str = "Exit codes: 0 done; 1 the target failed, not every record could be \
judged, or a report could not be written; 2 a wrong command, workload or target; 3 records were \
lost, duplicated, reordered or changed; 4 a comparison found a regression; 130 interrupted.";

/// Load for logs: rates, latencies from the intended send, and what came of every record.
#[derive(Parser)]
#[command(name = "levee-loadtest", version, max_term_width = 100, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run one workload on one target.
    Run(RunArgs),
    /// Run one workload on two targets in turn, or compare two results.json.
    Compare(CompareArgs),
    /// Measure the numbers of the README on this machine, each beside its floor.
    Bench(bench::Args),
    /// Say what a workload file comes to, without running it.
    Check {
        workload: PathBuf,
        /// A field of the workload to replace; may be given many times.
        #[arg(long = "set", short = 's', value_name = "FIELD=VALUE")]
        set: Vec<String>,
    },
}

#[derive(clap::Args)]
struct RunArgs {
    /// Workload file: ours (.toml), or one of the OpenMessaging Benchmark (.yaml).
    workload: PathBuf,
    /// levee[:PATH][,bucket=URL][,data=DIR][,set.NAME=VALUE][,topic.NAME=VALUE]: a new broker, in
    /// a prefix and a folder of its own that are removed behind it, without the settings of the
    /// environment (LEVEE_*); or HOST:PORT[,http=HOST:PORT].
    #[arg(long, default_value = "levee")]
    target: String,
    /// A field of the workload to replace; may be given many times.
    #[arg(long = "set", short = 's', value_name = "FIELD=VALUE")]
    set: Vec<String>,
    /// Folder for results.json and report.html; one folder is made in it for each run.
    #[arg(long, default_value = "load-results", value_name = "DIR")]
    out: PathBuf,
    /// Topics stay in a target that goes on.
    #[arg(long)]
    keep: bool,
    /// Print results.json in place of tables.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
struct CompareArgs {
    /// A target, or a results.json.
    a: String,
    /// Another one.
    b: String,
    /// Workload for two targets.
    #[arg(long, value_name = "FILE")]
    workload: Option<PathBuf>,
    /// A field of the workload to replace; may be given many times.
    #[arg(long = "set", short = 's', value_name = "FIELD=VALUE")]
    set: Vec<String>,
    /// Rounds; each measures both, in turn.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// B may be worse than A by so many percent; above it the exit code is 4.
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    threshold: Option<f64>,
}

fn percent(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number: &f64| number.is_finite() && *number >= 0.0);
    number.ok_or_else(|| "is no percentage; write a number from 0 up".into())
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return end(Err(Error::failed(format!("no threads to run on: {error}")))),
    };
    let done = runtime.block_on(async {
        match cli.command {
            Command::Run(args) => run_one(args).await,
            Command::Compare(args) => compare_two(args).await,
            Command::Bench(args) => bench::bench(args, options(false)?).await,
            Command::Check { workload, set } => check(&workload, &set),
        }
    });
    runtime.shutdown_background();
    // Of a run that ended by an error: nobody else stops it.
    target::process::kill_all();
    end(done)
}

fn end(done: Result<Exit>) -> ExitCode {
    match done {
        Ok(exit) => ExitCode::from(exit as u8),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.exit as u8)
        }
    }
}

async fn run_one(args: RunArgs) -> Result<Exit> {
    let workload = workload::file::load(&args.workload, &args.set)?;
    let spec: Spec = args.target.parse()?;
    let is_new = !args.out.exists();
    let folder = report::make_folder(&args.out, &workload.name)?;
    let options = options(args.keep)?;
    let results = match run::run(&workload, &spec, &options).await {
        Ok(results) => results,
        Err(error) => {
            // Nothing is in them.
            let _ = std::fs::remove_dir(&folder);
            if is_new {
                let _ = std::fs::remove_dir(&args.out);
            }
            return Err(error);
        }
    };
    options.progress.clear();
    let text = if args.json { report::json(&results)? } else { report::text(&results) };
    let printed = report::print(&text);
    report::write_files(&folder, &results)?;
    options.progress.say(&format!("report: {}", folder.join("report.html").display()));
    printed?;
    Ok(results.exit())
}

async fn compare_two(args: CompareArgs) -> Result<Exit> {
    let Some(workload) = &args.workload else {
        return compare_files(&args);
    };
    let workload = workload::file::load(workload, &args.set)?;
    let (a, b): (Spec, Spec) = (args.a.parse()?, args.b.parse()?);
    let options = options(false)?;
    let compared = compare::in_turn(&workload, [&a, &b], args.rounds, &options).await?;
    options.progress.clear();
    for results in compared.results.iter().filter(|results| results.exit() != Exit::Done) {
        report::print(&report::text(results))?;
    }
    let unsound = unsound(&compared.results);
    if let Some(why) = &compared.skipped {
        report::print(&format!("skipped: {why}"))?;
        return Ok(unsound.unwrap_or(Exit::Done));
    }
    if let Some(unsound) = unsound.filter(|_| compared.rounds.is_empty()) {
        return Ok(unsound);
    }
    if let Some(results) = compared.results.first() {
        report::print(&report::conditions(results))?;
    }
    // The first round is A, then B. Beside s2 all results are of one target, and alike.
    if let [first, second, ..] = &compared.results[..] {
        for note in compare::differences(first, second) {
            report::print(&format!("note: {note}"))?;
        }
    }
    report::print(&format!("A: {}\nB: {}", shown(&args.a), shown(&args.b)))?;
    let ratios = compare::ratios(&compared.rounds);
    let exit = print_ratios(&ratios, args.threshold)?;
    Ok(unsound.unwrap_or(exit))
}

/// Where figures are not to be believed: wrong records first of all.
fn unsound<W>(all: &[Results<W>]) -> Option<Exit> {
    let exits = all.iter().map(Results::exit).filter(|exit| *exit != Exit::Done);
    exits.max_by_key(|exit| *exit == Exit::Wrong)
}

fn compare_files(args: &CompareArgs) -> Result<Exit> {
    let read = |name: &str| match name.ends_with(".json") {
        true => compare::read(std::path::Path::new(name)),
        false => Err(Error::usage(format!(
            "{name} is no results.json; two targets are compared with --workload FILE"
        ))),
    };
    let sides = [read(&args.a)?, read(&args.b)?];
    for note in compare::differences(&sides[0], &sides[1]) {
        report::print(&format!("note: {note}"))?;
    }
    for (name, side) in ["A", "B"].iter().zip(&sides) {
        let ended = report::ended(&side.ended).map(|ended| format!("; {ended}"));
        let verified = report::verified(&side.verification);
        report::print(&format!("{name}: {verified}{}", ended.unwrap_or_default()))?;
    }
    let figures = sides.each_ref().map(compare::figures);
    let ratios = compare::ratios(&[figures.into()]);
    let exit = print_ratios(&ratios, args.threshold)?;
    Ok(match unsound(&sides) {
        None => exit,
        Some(Exit::Wrong) => Exit::Wrong,
        Some(_) => Exit::Failed,
    })
}

fn print_ratios(ratios: &[compare::Ratio], threshold: Option<f64>) -> Result<Exit> {
    if ratios.is_empty() {
        return Err(Error::failed("neither side measured anything"));
    }
    report::print(&compare::table(ratios).to_string())?;
    let Some(percent) = threshold else { return Ok(Exit::Done) };
    let worse = compare::regressions(ratios, percent);
    for line in &worse {
        report::print(&format!("regression: {line}"))?;
    }
    Ok(if worse.is_empty() { Exit::Done } else { Exit::Regression })
}

fn check(path: &std::path::Path, set: &[String]) -> Result<Exit> {
    let workload = workload::file::load(path, set)?;
    let text = toml::to_string_pretty(&workload);
    report::print(&text.map_err(|error| Error::failed(error.to_string()))?)?;
    Ok(Exit::Done)
}

fn options(keep: bool) -> Result<Options> {
    let stop = Stop::default();
    stop.on_signals()?;
    let progress = Arc::new(Progress::new());
    Ok(Options { progress, stop, keep, command: command_line() })
}

/// As it was typed, without what may be secret in a bucket's URL.
fn command_line() -> String {
    std::env::args().map(|arg| shown(&arg)).collect::<Vec<_>>().join(" ")
}

/// A word of the command line without the query of a bucket's URL.
fn shown(word: &str) -> String {
    word.split(',')
        .map(|part| {
            let is_url = part.contains("://");
            if is_url { bucket::without_query(part) } else { part }
        })
        .collect::<Vec<_>>()
        .join(",")
}

#[cfg(test)]
mod tests {
    #[test]
    fn secrets_of_a_bucket_are_not_shown() {
        let word = "levee,bucket=s3://b/p?secret_access_key=x&region=r,set.tail.bytes=1MiB";
        assert_eq!(super::shown(word), "levee,bucket=s3://b/p,set.tail.bytes=1MiB");
        assert_eq!(super::shown("s3://b?key=x"), "s3://b");
        assert_eq!(super::shown("workload.toml"), "workload.toml");
    }
}
