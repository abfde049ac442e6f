//! `levee doctor`: what an on-call person would look at, with the remedy beside it.
//!
//! Owns: the order of checks, and what the process ends with. Does not own: the checks (`machine`,
//! `bucket`, `cluster`).

mod bucket;
mod cluster;
mod finding;
mod machine;

use levee_broker::config::{BrokerConfig, Mode};
use serde_json::Value;

use crate::codes::Code;
use crate::error::CliError;
use crate::output::{Output, OutputArgs, count, print, print_json};
use crate::remote::BrokerArgs;
use crate::settings::SettingsArgs;
use finding::{Finding, State};

#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Without --config (or --dev, or other settings) only the broker at --broker is looked at; with it
also this machine: settings, data folder, limits, bucket.

Nothing is changed. The data folder is written to in a file without a name, which is gone with the
process. The bucket probe writes some objects of 64 bytes below `probe/` in the bucket and removes
them; --no-probe only lists.

Ends with 0: all is well; 5: warnings; 3: broker or bucket cannot be reached; 1: something else
failed.
")]
pub struct Args {
    /// Defaults of `levee dev`, in place of `levee broker`.
    #[arg(long)]
    dev: bool,
    /// Do not write to the bucket.
    #[arg(long)]
    no_probe: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    settings: SettingsArgs,
    #[command(flatten)]
    broker: BrokerArgs,
}

/// Findings, said as they come.
struct Report {
    output: Output,
    findings: Vec<Finding>,
}

impl Report {
    fn add(&mut self, finding: Finding) -> Result<(), CliError> {
        if self.output == Output::Text {
            print(&finding)?;
        }
        self.findings.push(finding);
        Ok(())
    }

    fn add_all(&mut self, findings: Vec<Finding>) -> Result<(), CliError> {
        findings.into_iter().try_for_each(|finding| self.add(finding))
    }

    fn end(self) -> Result<(), CliError> {
        if self.output == Output::Json {
            print_json(&self.findings.iter().map(Finding::json).collect::<Value>())?;
        }
        let of = |state: State| self.findings.iter().filter(move |f| f.state == state);
        let failed = of(State::Fail).count() as u64;
        if failed == 0 {
            return match of(State::Warn).count() as u64 {
                0 => Ok(()),
                warned => Err(CliError::of(Code::Warnings, count(warned, "warning"))),
            };
        }
        let reachable = of(State::Fail).find(|finding| finding.code == Code::CheckFailed);
        let code =
            reachable.or_else(|| of(State::Fail).next()).map_or(Code::CheckFailed, |f| f.code);
        Err(CliError::of(code, format!("{} failed", count(failed, "check"))))
    }
}

pub async fn run(args: Args) -> Result<(), CliError> {
    let mut report = Report { output: args.output.output, findings: Vec::new() };
    let mode = if args.dev { Mode::Dev } else { Mode::Broker };
    let (config, findings) = machine::config(&args.settings, mode);
    report.add_all(findings)?;
    let limit = args.broker.answer_limit();
    if let Some(config) = &config {
        report.add_all(machine::data_folder(config))?;
        report.add(machine::open_files(config))?;
        report.add_all(bucket::check(config, !args.no_probe, limit).await)?;
    }
    let broker = at_config(args.broker, config.as_ref());
    if let Some(config) = &config {
        report.add(cluster::ready(config, broker.connect_timeout).await)?;
    }
    for finding in cluster::check(&broker, config.as_ref()).await {
        report.add(finding)?;
    }
    report.end()
}

/// The broker of the settings, unless another one is named.
fn at_config(broker: BrokerArgs, config: Option<&BrokerConfig>) -> BrokerArgs {
    match config {
        Some(config) if broker.is_default() && config.grpc_listen.port() != 0 => {
            BrokerArgs { address: cluster::reachable(config.grpc_listen), ..broker }
        }
        _ => broker,
    }
}
