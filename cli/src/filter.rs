//! Which records `consume` shows: by key, by headers, by a pattern in the value.

use levee_client::RecordData;
use regex::bytes::Regex;

/// All that are given must hold.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Which records")]
pub struct Filter {
    /// Only records with this key.
    #[arg(short, long, value_name = "KEY")]
    key: Option<String>,
    /// Only records with this header, whatever its value, or with this value; may be repeated.
    #[arg(short = 'H', long, value_name = "NAME[=VALUE]", value_parser = header)]
    header: Vec<Header>,
    /// Only records in whose value this regular expression is found.
    #[arg(long, value_name = "REGEX")]
    grep: Option<Regex>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Header {
    name: String,
    value: Option<String>,
}

fn header(text: &str) -> Result<Header, String> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (text, None),
    };
    match name {
        "" => Err("write NAME or NAME=VALUE".into()),
        name => Ok(Header { name: name.to_owned(), value }),
    }
}

impl Filter {
    pub fn lets_through(&self, record: &RecordData) -> bool {
        let is = |bytes: Option<&[u8]>, text: &String| bytes == Some(text.as_bytes());
        let has = |wanted: &Header| {
            record.headers.iter().any(|(name, value)| {
                let value = value.as_deref();
                *name == wanted.name && wanted.value.as_ref().is_none_or(|text| is(value, text))
            })
        };
        self.key.as_ref().is_none_or(|key| is(record.key.as_deref(), key))
            && self.header.iter().all(has)
            && self.grep.as_ref().is_none_or(|pattern| {
                record.value.as_deref().is_some_and(|value| pattern.is_match(value))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_is_asked_for_must_hold() {
        let record = RecordData {
            key: Some("k".into()),
            value: Some(b"one two\xff"[..].into()),
            headers: vec![("a".into(), Some("1".into())), ("a".into(), Some("2".into()))],
            ..RecordData::default()
        };
        let shows = |key: Option<&str>, headers: &[&str], grep: Option<&str>| {
            let filter = Filter {
                key: key.map(str::to_owned),
                header: headers.iter().map(|text| header(text).unwrap()).collect(),
                grep: grep.map(|text| Regex::new(text).unwrap()),
            };
            filter.lets_through(&record)
        };
        assert!(shows(None, &[], None));
        assert!(shows(Some("k"), &["a", "a=2", "a=1"], Some("^one")));
        assert!(!shows(Some("K"), &[], None));
        assert!(!shows(None, &["a=3"], None) && !shows(None, &["b"], None));
        assert!(!shows(None, &[], Some("three")));
        assert!(header("=x").is_err());
    }
}
