//! What a line of the input becomes.

use bytes::Bytes;
use clap::ValueEnum;
use levee_client::RecordData;

use crate::codes::Code;
use crate::error::CliError;
use crate::format::delimiter;
use crate::jsonl;
use crate::range::now_ms;

/// Largest value: what a client takes.
const VALUE_BYTES_MAX: u64 = 32 << 20;
/// Longest line of JSON: each byte of a value may take six (`\u0000`).
const JSON_BYTES_MAX: u64 = 6 * VALUE_BYTES_MAX + (1 << 20);

/// What records are made of.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Records")]
pub(super) struct ShapeArgs {
    /// What a line is: a value, or a record as `consume --output json` writes it.
    #[arg(long, value_enum, default_value = "text", value_name = "FORM")]
    input: Form,
    /// The same as --input json.
    #[arg(short = 'J', long)]
    json: bool,
    /// All of the input is one value, byte for byte.
    #[arg(long, conflicts_with_all = ["input", "json", "key_delimiter"])]
    binary: bool,
    /// The key of every record.
    #[arg(short, long, value_name = "KEY", conflicts_with_all = ["key_delimiter"])]
    key: Option<String>,
    /// Splits a line into key and value, at its first place. A line without it has no key.
    #[arg(short = 'K', long, value_name = "TEXT", value_parser = delimiter)]
    key_delimiter: Option<String>,
    /// A header of every record; NAME:VALUE as well, NAME alone has no value. May be repeated.
    #[arg(short = 'H', long, value_name = "NAME=VALUE", value_parser = header)]
    header: Vec<(String, Option<String>)>,
    /// An empty value becomes a null one: a tombstone.
    #[arg(short = 'Z', long)]
    tombstone: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    Text,
    Json,
}

/// kcat writes `=`, rpk `:`; what comes first counts.
fn header(text: &str) -> Result<(String, Option<String>), String> {
    let (name, value) = match text.find(['=', ':']) {
        Some(at) => (&text[..at], Some(text[at + 1..].to_owned())),
        None => (text, None),
    };
    match name {
        "" => Err("write NAME=VALUE".into()),
        name => Ok((name.to_owned(), value)),
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Shape {
    pub(super) is_one: bool,
    /// Longest piece of the input.
    pub(super) bytes_max: u64,
    is_json: bool,
    key: Option<Bytes>,
    delimiter: Option<Vec<u8>>,
    headers: Vec<(String, Option<Bytes>)>,
    tombstone: bool,
}

impl Shape {
    pub(super) fn of(args: &ShapeArgs) -> Result<Self, CliError> {
        let is_json = args.json || args.input == Form::Json;
        if is_json && args.key_delimiter.is_some() {
            return Err(CliError::usage("--key-delimiter splits text; a line of JSON has its key"));
        }
        let headers = args.header.iter();
        let headers = headers.map(|(name, value)| (name.clone(), value.clone().map(Bytes::from)));
        Ok(Self {
            is_one: args.binary,
            bytes_max: if is_json { JSON_BYTES_MAX } else { VALUE_BYTES_MAX },
            is_json,
            key: args.key.clone().map(Bytes::from),
            delimiter: args.key_delimiter.clone().map(String::into_bytes),
            headers: headers.collect(),
            tombstone: args.tombstone,
        })
    }

    /// The record, and the partition where the line names one.
    pub(super) fn record(
        &self,
        line: Vec<u8>,
        number: u64,
    ) -> Result<(Option<u32>, RecordData), CliError> {
        let (partition, mut record) = match self.is_json {
            true => jsonl::read(&line, now_ms()).map_err(|why| {
                let step = "write what `levee consume --output json` writes";
                let why = format!("line {number} is no record: {why}");
                CliError::of(Code::BadInput, why).next_step(step)
            })?,
            false => (None, self.plain(line)),
        };
        if self.key.is_some() {
            record.key = self.key.clone();
        }
        record.headers.extend(self.headers.iter().cloned());
        if self.tombstone && record.value.as_ref().is_some_and(Bytes::is_empty) {
            record.value = None;
        }
        Ok((partition, record))
    }

    fn plain(&self, line: Vec<u8>) -> RecordData {
        let mut value = Bytes::from(line);
        let place = self.delimiter.as_deref().and_then(|delimiter| {
            value.windows(delimiter.len()).position(|part| part == delimiter)
        });
        let key = place.zip(self.delimiter.as_deref()).map(|(at, delimiter)| {
            let key = value.slice(..at);
            value = value.slice(at + delimiter.len()..);
            key
        });
        RecordData { timestamp_ms: now_ms(), key, value: Some(value), headers: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain() -> Shape {
        Shape {
            is_one: false,
            bytes_max: VALUE_BYTES_MAX,
            is_json: false,
            key: None,
            delimiter: None,
            headers: Vec::new(),
            tombstone: false,
        }
    }

    #[test]
    fn a_delimiter_splits_at_its_first_place() {
        let shape = Shape { delimiter: Some(b"=>".to_vec()), ..plain() };
        let record = |line: &str| shape.record(line.into(), 1).unwrap().1;
        let keyed = record("a=>b=>c");
        assert_eq!((keyed.key, keyed.value), (Some("a".into()), Some("b=>c".into())));
        let without = record("a");
        assert_eq!((without.key, without.value), (None, Some("a".into())));
        let ends = record("a=>");
        assert_eq!((ends.key, ends.value), (Some("a".into()), Some(Bytes::new())));
    }

    #[test]
    fn key_headers_and_tombstones_are_those_of_the_command_line() {
        let headers = vec![("h".to_owned(), None)];
        let shape = Shape { key: Some("k".into()), headers, tombstone: true, ..plain() };
        let record = shape.record(Vec::new(), 1).unwrap().1;
        assert_eq!((record.key, record.value), (Some("k".into()), None));
        assert_eq!(record.headers, vec![("h".to_owned(), None)]);
        assert_eq!(header("a:b=c"), Ok(("a".into(), Some("b=c".into()))));
        assert_eq!(header("a=b:c"), Ok(("a".into(), Some("b:c".into()))));
        assert_eq!(header("a"), Ok(("a".into(), None)));
        assert!(header("=b").is_err() && header("").is_err());
    }

    #[test]
    fn a_line_that_is_no_record_is_named() {
        let shape = Shape { is_json: true, ..plain() };
        let error = shape.record(b"{".to_vec(), 17).unwrap_err().to_string();
        assert!(error.contains("line 17 is no record") && error.contains("BAD_INPUT"), "{error}");
    }
}
