//! Logs of a broker process, on standard error.

use std::io::IsTerminal;

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

use crate::error::CliError;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

const VARIABLE: &str = "LEVEE_LOG";
/// Libraries of the wire say nothing below a warning that an operator could use.
const DEFAULT: &str = "info,h2=warn,hyper=warn,tonic=warn,tower=warn";

/// What `LEVEE_LOG` lets through (`debug`, `info,levee_tiering=trace`), once per process.
pub fn init(format: LogFormat) -> Result<(), CliError> {
    let filter = std::env::var(VARIABLE).unwrap_or_default();
    let filter = if filter.is_empty() { DEFAULT } else { &filter };
    let filter = EnvFilter::try_new(filter).map_err(|error| {
        let example = "write a level or target=level, like info or info,levee_tiering=debug";
        CliError::usage(format!("{VARIABLE} is not a filter: {error}: {example}"))
    })?;
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let set = match format {
        LogFormat::Text => logs.try_init(),
        LogFormat::Json => logs.json().flatten_event(true).try_init(),
    };
    set.map_err(|error| CliError::new(format!("logs cannot be written: {error}")))
}
