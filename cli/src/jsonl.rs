//! Records as lines of JSON: what `consume --output json` writes, `produce --input json` takes.
//!
//! Nothing is lost on the way: bytes that are UTF-8 are strings, others are `{"base64": "..."}`,
//! absent ones are `null`; headers keep their order and may come twice.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use levee_client::{DecodedRecord, RecordData};
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};

/// The grammar, for `--help`.
pub const HELP: &str = "\
JSON (one record in a line)
  {\"topic\":\"t\",\"partition\":0,\"offset\":7,\"timestamp_ms\":1795176000000,
   \"key\":\"k\",\"value\":{\"base64\":\"/w==\"},\"headers\":[[\"name\",\"value\"],[\"name\",null]]}
  key, value, headers: text, {\"base64\":...} where the bytes are no UTF-8, or null.
  produce takes what consume writes. It may leave out any field: without timestamp_ms it is now,
  without partition the key decides; topic and offset are ignored.
";

/// A record on its way out; the fields in the order in which they are written.
#[derive(Serialize)]
struct Written<'a> {
    topic: &'a str,
    partition: u32,
    offset: u64,
    timestamp_ms: i64,
    key: Option<Blob<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Option<Blob<'a>>>,
    /// In place of the value; `produce` refuses it.
    #[serde(skip_serializing_if = "Option::is_none")]
    value_bytes: Option<Option<usize>>,
    headers: Vec<(&'a str, Option<Blob<'a>>)>,
}

struct Blob<'a>(&'a [u8]);

impl Serialize for Blob<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry("base64", &STANDARD.encode(self.0))?;
                map.end()
            }
        }
    }
}

/// The record as one line, without its end. `meta_only`: the size of the value in place of it.
pub fn write(
    topic: &str,
    partition: u32,
    record: &DecodedRecord,
    meta_only: bool,
) -> serde_json::Result<String> {
    let data = &record.data;
    let value = data.value.as_deref();
    let headers = data.headers.iter();
    serde_json::to_string(&Written {
        topic,
        partition,
        offset: record.offset,
        timestamp_ms: data.timestamp_ms,
        key: data.key.as_deref().map(Blob),
        value: (!meta_only).then(|| value.map(Blob)),
        value_bytes: meta_only.then(|| value.map(<[u8]>::len)),
        headers: headers.map(|(name, value)| (name.as_str(), value.as_deref().map(Blob))).collect(),
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    #[serde(default, rename = "topic")]
    _topic: Option<String>,
    #[serde(default)]
    partition: Option<u32>,
    /// Where it was; an append gives it a new one.
    #[serde(default, rename = "offset")]
    _offset: Option<u64>,
    #[serde(default)]
    timestamp_ms: Option<i64>,
    #[serde(default)]
    key: Option<Read>,
    #[serde(default)]
    value: Option<Read>,
    #[serde(default)]
    headers: Vec<(String, Option<Read>)>,
}

struct Read(Bytes);

impl<'de> Deserialize<'de> for Read {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ReadVisitor)
    }
}

struct ReadVisitor;

impl<'de> Visitor<'de> for ReadVisitor {
    type Value = Read;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text, {\"base64\": \"...\"} or null")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Read, E> {
        Ok(Read(Bytes::copy_from_slice(text.as_bytes())))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Read, E> {
        Ok(Read(text.into()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Read, A::Error> {
        let wrong = || A::Error::custom("expected {\"base64\": \"...\"} and nothing else in it");
        let (name, text): (String, String) = map.next_entry()?.ok_or_else(wrong)?;
        if name != "base64" || map.next_key::<String>()?.is_some() {
            return Err(wrong());
        }
        let bytes = STANDARD.decode(text);
        bytes
            .map(|bytes| Read(bytes.into()))
            .map_err(|why| A::Error::custom(format!("base64: {why}")))
    }
}

/// The record of a line, and the partition where it names one. `now`: its time where it has none.
pub fn read(line: &[u8], now: i64) -> Result<(Option<u32>, RecordData), String> {
    let line: Line = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    let bytes = |read: Option<Read>| read.map(|Read(bytes)| bytes);
    let record = RecordData {
        timestamp_ms: line.timestamp_ms.unwrap_or(now),
        key: bytes(line.key),
        value: bytes(line.value),
        headers: line.headers.into_iter().map(|(name, value)| (name, bytes(value))).collect(),
    };
    Ok((line.partition, record))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn blob() -> impl Strategy<Value = Option<Bytes>> {
        prop_oneof![
            Just(None),
            Just(Some(Bytes::new())),
            ".{0,20}".prop_map(|text| Some(text.into())),
            prop::collection::vec(any::<u8>(), 0..20).prop_map(|bytes| Some(bytes.into())),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            timestamp_ms in any::<i64>(),
            key in blob(),
            value in blob(),
            headers in prop::collection::vec(("[a-c]{0,2}|.{0,5}", blob()), 0..5),
        ) {
            let data = RecordData { timestamp_ms, key, value, headers };
            let record = DecodedRecord { offset: 9, data };
            let line = write("t", 3, &record, false).unwrap();
            prop_assert!(!line.contains('\n'), "one line: {line}");
            prop_assert_eq!(read(line.as_bytes(), 1), Ok((Some(3), record.data)));
        }
    }

    #[test]
    fn fields_may_be_left_out_and_none_is_made_up() {
        let (partition, record) = read(br#"{"value": "x"}"#, 17).unwrap();
        assert_eq!((partition, record.timestamp_ms, record.key), (None, 17, None));
        assert_eq!(read(br#"{"timestamp_ms": 0}"#, 17).unwrap().1.timestamp_ms, 0, "a time, too");
        let wrong = |line: &str| read(line.as_bytes(), 17).unwrap_err();
        assert!(wrong(r#"{"valeu": "x"}"#).contains("valeu"));
        assert!(wrong(r#"{"value": 7}"#).contains("expected text"));
        assert!(wrong(r#"{"value": {"base64": "*"}}"#).contains("base64"));
        assert!(wrong(r#"{"value": {"base64": "", "x": ""}}"#).contains("nothing else"));
        assert!(wrong(r#"{"value": "x"} y"#).contains("trailing"));
        assert!(wrong(r#"{"partition": -1}"#).contains("-1"));
    }

    #[test]
    fn without_its_value_a_line_is_no_record() {
        let data = RecordData { value: Some("four".into()), ..RecordData::default() };
        let line = write("t", 0, &DecodedRecord { offset: 1, data }, true).unwrap();
        assert!(line.contains(r#""value_bytes":4"#), "{line}");
        assert!(read(line.as_bytes(), 1).unwrap_err().contains("value_bytes"));
    }
}
