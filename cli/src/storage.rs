//! `levee storage`: whether a bucket is one that Levee can use, and what its URL may say.

use std::time::Duration;

use clap::Subcommand;
use levee_tiering::store::options::{self, Form};
use levee_tiering::store::probe::{Check, Outcome, Report, Verdict, examine};
use levee_tiering::store::{Kind, Op, Store};
use serde_json::json;

use crate::codes::Code;
use crate::error::CliError;
use crate::output::{Output, OutputArgs, print, print_json, table};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check that a bucket keeps the promises that Levee builds on; writes below `probe/` there
    /// and removes it again. Exit code 0: it does; 1: it does not; 3: nobody knows, it cannot be
    /// reached or denies.
    Probe {
        /// s3://BUCKET/PREFIX, gs://.., az://.., file:///DIR, memory:// or opendal+SERVICE://..
        url: String,
        #[command(flatten)]
        output: OutputArgs,
        /// How long all of it may take.
        #[arg(long, default_value = "2m", value_parser = humantime::parse_duration)]
        timeout: Duration,
    },
    /// List what the query of a bucket URL may say.
    Options {
        #[arg(default_value = "s3", value_parser = ["s3", "gs", "az"])]
        scheme: String,
        #[command(flatten)]
        output: OutputArgs,
    },
}

pub async fn run(args: Args) -> Result<(), CliError> {
    match args.command {
        Command::Probe { url, output, timeout } => probe(&url, output.output, timeout).await,
        Command::Options { scheme, output } => options(&scheme, output.output),
    }
}

async fn probe(url: &str, output: Output, timeout: Duration) -> Result<(), CliError> {
    let host = levee_runtime::real::RealWorld::host();
    let store = Store::open(url, host.clone()).map_err(|error| match error.kind {
        // A verdict: the URL is right, and the service is not for Levee.
        Kind::Unsupported => CliError::new(error.to_string()),
        _ => CliError::usage(error.to_string()),
    })?;
    let Ok(report) = tokio::time::timeout(timeout, examine(&store, &host)).await else {
        let who = store.server().unwrap_or_else(|| store.describe().to_owned());
        let timeout = humantime::format_duration(timeout);
        let why =
            format!("{who} was not checked within {timeout}; look below probe/ for leftovers");
        return Err(CliError::of(Code::StoreUnavailable, why));
    };
    match output {
        Output::Text => text(&report)?,
        Output::Json => print_json(&report_json(&report))?,
    }
    verdict(&report)
}

fn verdict(report: &Report) -> Result<(), CliError> {
    let who = report.server.as_ref().unwrap_or(&report.bucket);
    match report.verdict() {
        Verdict::Safe => Ok(()),
        Verdict::Unsafe => Err(CliError::new(format!("{who} is not safe for Levee"))
            .next_step("use a store that passes; levee dev needs none: it makes a folder")),
        Verdict::Unreachable => Err(CliError::of(
            Code::StoreUnavailable,
            format!(
                "{who} could not be checked: {}",
                report.checks.iter().find_map(|(_, outcome)| problem(outcome)).unwrap_or_default()
            ),
        )),
    }
}

/// What is wrong, for those that did not pass.
fn problem(outcome: &Outcome) -> Option<String> {
    match outcome {
        Outcome::Passed(_) | Outcome::Skipped => None,
        Outcome::Broken(why) => Some(format!("the store {why}")),
        Outcome::Failed(error) => Some(error.to_string()),
    }
}

fn text(report: &Report) -> Result<(), CliError> {
    print(format_args!("bucket  {}", report.bucket))?;
    if let Some(server) = report.server.as_ref().filter(|server| **server != report.bucket) {
        print(format_args!("server  {server}"))?;
    }
    let rows = report.checks.iter().map(|(check, outcome)| {
        let (state, seen) = match outcome {
            Outcome::Passed(seen) => ("ok", seen.clone()),
            Outcome::Skipped => ("skipped", String::new()),
            _ => ("FAILED", "see below".to_owned()),
        };
        vec![check.name().to_owned(), state.to_owned(), seen]
    });
    print(format_args!("\n{}", table(&["CHECK", "", "SEEN"], rows)))?;
    for (check, outcome) in &report.checks {
        let Some(problem) = problem(outcome) else { continue };
        print(format_args!("\n{}: {problem}", check.name()))?;
        if matches!(outcome, Outcome::Broken(_)) {
            print(format_args!("  so {}", meaning(*check)))?;
        }
    }
    if let Some(caveat) = report.caveat {
        print(format_args!("\nbut     {caveat}"))?;
    }
    if !report.latencies.is_empty() {
        let ms = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1000.0);
        let rows = report
            .latencies
            .iter()
            .map(|l| vec![request(l.op).to_owned(), l.count.to_string(), ms(l.p50), ms(l.p99)]);
        let head = ["SMALL REQUEST", "COUNT", "P50", "P99"];
        print(format_args!("\n{}", table(&head, rows)))?;
    }
    if let Some(key) = &report.left_behind {
        print(format_args!("\nnot everything could be removed: look below {key}/"))?;
    }
    match report.verdict() {
        Verdict::Safe => print("\nverdict  Levee can use this store"),
        Verdict::Unsafe => print("\nverdict  Levee refuses this store"),
        Verdict::Unreachable => print("\nverdict  unknown"),
    }
}

/// What Levee would lose on a store that fails a check.
fn meaning(check: Check) -> &'static str {
    match check {
        Check::Create | Check::Race | Check::EqualBytes => {
            "two brokers could both believe that they wrote a slot, and acknowledged records be lost"
        }
        Check::Read => "consumers would get wrong bytes, and creates be resolved wrongly",
        Check::List => "a start would not find everything that was acknowledged",
        Check::Delete => "retention would not free what it deletes",
        Check::Multipart => "objects above 16 MiB could not be uploaded",
    }
}

fn request(op: Op) -> &'static str {
    match op {
        Op::Create => "PUT",
        Op::List => "LIST",
        _ => "GET",
    }
}

fn report_json(report: &Report) -> serde_json::Value {
    let checks = report.checks.iter().map(|(check, outcome)| {
        let (state, seen) = match outcome {
            Outcome::Passed(seen) => ("ok", Some(seen.clone())),
            Outcome::Skipped => ("skipped", None),
            bad => ("failed", problem(bad)),
        };
        json!({ "check": check.name(), "state": state, "seen": seen })
    });
    let latencies = report.latencies.iter().map(|latency| {
        json!({
            "request": request(latency.op),
            "count": latency.count,
            "p50_us": latency.p50.as_micros() as u64,
            "p99_us": latency.p99.as_micros() as u64,
        })
    });
    let verdict = match report.verdict() {
        Verdict::Safe => "safe",
        Verdict::Unsafe => "unsafe",
        Verdict::Unreachable => "unreachable",
    };
    json!({
        "bucket": report.bucket,
        "server": report.server,
        "verdict": verdict,
        "caveat": report.caveat,
        "checks": checks.collect::<Vec<_>>(),
        "latencies": latencies.collect::<Vec<_>>(),
        "left_behind": report.left_behind,
    })
}

fn options(scheme: &str, output: Output) -> Result<(), CliError> {
    let known = options::known(scheme);
    if output == Output::Json {
        let all = known.iter().map(|option| {
            json!({
                "name": option.name,
                "value": form(option.form),
                "default": option.default,
                "help": option.help,
            })
        });
        return print_json(&all.collect());
    }
    let rows = known.iter().map(|option| {
        let (name, help) = (option.name.to_owned(), option.help.to_owned());
        vec![name, form(option.form), option.default.to_owned(), help]
    });
    print(format_args!("{}", table(&["OPTION", "VALUE", "DEFAULT", "WHAT IT DOES"], rows)))
}

fn form(form: Form) -> String {
    match form {
        Form::Text => "text".into(),
        Form::Secret => "secret".into(),
        Form::Flag => "true|false".into(),
        Form::Duration => "time (30s)".into(),
        Form::Url => "https://HOST:PORT".into(),
        Form::File => "file".into(),
        Form::OneOf(choices) => choices.join("|"),
    }
}
