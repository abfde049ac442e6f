//! Records as lines of JSON: what `consume --output json` writes, `produce --format jsonl` takes.
//!
//! Bytes that are UTF-8 are strings; others are `{"base64": "..."}`; absent ones are `null`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use levee_client::{DecodedRecord, RecordData};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Blob {
    Text(String),
    Bytes { base64: String },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    #[serde(default)]
    partition: Option<u32>,
    /// Where it was; an append gives it a new one.
    #[serde(default, rename = "offset")]
    _offset: Option<u64>,
    #[serde(default)]
    timestamp_ms: i64,
    #[serde(default)]
    key: Option<Blob>,
    #[serde(default)]
    value: Option<Blob>,
    #[serde(default)]
    headers: Vec<(String, Option<Blob>)>,
}

/// A record on its way out; the fields in the order in which they are written.
#[derive(Serialize)]
struct Written<'a> {
    partition: u32,
    offset: u64,
    timestamp_ms: i64,
    key: Option<Blob>,
    value: Option<Blob>,
    headers: Vec<(&'a str, Option<Blob>)>,
}

/// The record as one line, without its end.
pub fn write(partition: u32, record: &DecodedRecord) -> serde_json::Result<String> {
    let data = &record.data;
    let headers = data.headers.iter();
    serde_json::to_string(&Written {
        partition,
        offset: record.offset,
        timestamp_ms: data.timestamp_ms,
        key: blob(data.key.as_ref()),
        value: blob(data.value.as_ref()),
        headers: headers.map(|(name, value)| (name.as_str(), blob(value.as_ref()))).collect(),
    })
}

fn blob(bytes: Option<&Bytes>) -> Option<Blob> {
    bytes.map(|bytes| match std::str::from_utf8(bytes) {
        Ok(text) => Blob::Text(text.to_owned()),
        Err(_) => Blob::Bytes { base64: STANDARD.encode(bytes) },
    })
}

/// The record of a line, and the partition where it names one.
pub fn read(line: &[u8]) -> Result<(Option<u32>, RecordData), String> {
    let line: Line = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    let headers = line.headers.into_iter().map(|(name, value)| Ok((name, unblob(value)?)));
    let record = RecordData {
        timestamp_ms: line.timestamp_ms,
        key: unblob(line.key)?,
        value: unblob(line.value)?,
        headers: headers.collect::<Result<_, String>>()?,
    };
    Ok((line.partition, record))
}

fn unblob(blob: Option<Blob>) -> Result<Option<Bytes>, String> {
    Ok(match blob {
        None => None,
        Some(Blob::Text(text)) => Some(text.into()),
        Some(Blob::Bytes { base64 }) => {
            Some(STANDARD.decode(base64).map_err(|error| format!("base64: {error}"))?.into())
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let data = RecordData {
            timestamp_ms: 17,
            key: Some(Bytes::from_static(&[0xff, 0])),
            value: Some("grüße\n".into()),
            headers: vec![("a".into(), None), ("b".into(), Some("".into()))],
        };
        let record = DecodedRecord { offset: 9, data };
        let line = write(3, &record).unwrap();
        assert!(!line.contains('\n'), "one line: {line}");
        assert_eq!(read(line.as_bytes()), Ok((Some(3), record.data)));
        assert!(read(br#"{"valeu": "x"}"#).unwrap_err().contains("valeu"));
        assert!(read(br#"{"value": {"base64": "*"}}"#).is_err());
    }
}
