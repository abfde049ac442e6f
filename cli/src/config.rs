//! `levee config explain`.

use std::io::Write;

use clap::Subcommand;
use levee_broker::config::{Mode, explain};

use crate::error::CliError;
use crate::settings::SettingsArgs;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List settings with unit, default, bounds and meaning.
    Explain(ExplainArgs),
}

#[derive(Debug, clap::Args)]
struct ExplainArgs {
    /// One setting; all of them without it.
    key: Option<String>,
    /// Show what holds, and from where, with the flags, file and environment given.
    #[arg(long)]
    effective: bool,
    /// Show what holds for `levee dev` (with --effective).
    #[arg(long, requires = "effective")]
    dev: bool,
    #[command(flatten)]
    settings: SettingsArgs,
}

pub fn run(args: Args) -> Result<(), CliError> {
    let Command::Explain(args) = args.command;
    let loaded = match args.effective {
        true => {
            let mode = if args.dev { Mode::Dev } else { Mode::Broker };
            Some(args.settings.sources(mode)?.load()?)
        }
        false => None,
    };
    for warning in loaded.iter().flat_map(|loaded| &loaded.warnings) {
        eprintln!("levee: {warning}");
    }
    let config = loaded.as_ref().map(|loaded| &loaded.config);
    let text = explain(args.key.as_deref(), config)?;
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}
