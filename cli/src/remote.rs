//! What commands that talk to a broker share: its address, forms of output, tables, errors.

use std::io::Write;

use clap::ValueEnum;
use comfy_table::{Cell, CellAlignment, Table, presets};
use levee_client::{Client, Error};

use crate::error::CliError;

#[derive(Debug, clap::Args)]
pub struct BrokerArgs {
    /// Address of the broker's gRPC listener.
    #[arg(
        long = "broker",
        env = "LEVEE_BROKER",
        value_name = "ADDR",
        default_value = "http://127.0.0.1:9644"
    )]
    address: String,
}

impl BrokerArgs {
    pub async fn connect(&self) -> Result<Client, CliError> {
        Client::connect(&self.address).await.map_err(|error| {
            let start = "start one with `levee dev`, or name another one: --broker ADDR";
            CliError::new(error.message).next_step(start)
        })
    }
}

/// How a command answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    Text,
    Json,
}

/// A table: columns of numbers are aligned to the right.
pub fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(head.to_vec());
    for row in rows {
        table.add_row(row.into_iter().map(|text| {
            let is_number = text.starts_with(|first: char| first.is_ascii_digit());
            let alignment = if is_number { CellAlignment::Right } else { CellAlignment::Left };
            Cell::new(text).set_alignment(alignment)
        }));
    }
    table
}

/// Writes to standard output; a reader that went away is told by the error.
pub fn print(text: impl std::fmt::Display) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")?;
    Ok(out.flush()?)
}

pub fn print_json(value: &serde_json::Value) -> Result<(), CliError> {
    print(format_args!("{value:#}"))
}

/// `1536` as `1.5 KiB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut unit = 0;
    let mut scaled = count as f64;
    while scaled >= 1024.0 && unit + 1 < UNITS.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{count} B"),
        _ => format!("{scaled:.1} {}", UNITS[unit]),
    }
}

/// `1500` as `1.5 s`.
pub fn millis(count: u64) -> String {
    match count {
        0..1000 => format!("{count} ms"),
        1000..60_000 => format!("{:.1} s", count as f64 / 1000.0),
        _ => humantime::format_duration(std::time::Duration::from_secs(count / 1000)).to_string(),
    }
}

/// `KEY=VALUE` of a command line.
pub fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE".to_owned()),
    }
}

impl From<Error> for CliError {
    fn from(error: Error) -> Self {
        match error.remedy.is_empty() {
            true => Self::new(error.message),
            false => Self::new(error.message).next_step(error.remedy),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_for_people() {
        assert_eq!([bytes(0), bytes(1023), bytes(1536)], ["0 B", "1023 B", "1.5 KiB"]);
        assert_eq!(bytes(u64::MAX), "16384.0 PiB");
        assert_eq!([millis(999), millis(1500), millis(61_000)], ["999 ms", "1.5 s", "1m 1s"]);
        assert!(key_value("a").is_err() && key_value("=b").is_err());
        assert_eq!(key_value("a=b=c"), Ok(("a".into(), "b=c".into())));
    }
}
