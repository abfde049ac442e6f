//! What one setting is, and how text becomes its value and back.
//!
//! Owns: kinds, bounds, units, the canonical text of a value. Does not own: which settings there
//! are (`table`) and where their text comes from (`sources`).

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use super::advertised::Advertised;
use super::bucket_url::BucketUrl;
use super::problem::Problem;

pub(super) const KIB: u64 = 1 << 10;
pub(super) const MIB: u64 = 1 << 20;
pub(super) const GIB: u64 = 1 << 30;
pub(super) const TIB: u64 = 1 << 40;

/// One row of the table of settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// Unique over both scopes.
    pub name: &'static str,
    pub kind: Kind,
    pub default: Fallback,
    /// The word for "no value", where a setting may have none.
    pub absent: Option<&'static str>,
    /// Inclusive bounds: bytes, milliseconds or a count, by kind. Unused for other kinds.
    pub min: u64,
    pub max: u64,
    pub doc: &'static str,
    pub scope: Scope,
}

/// Whose setting it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    Broker,
    /// Set per topic; `topic.NAME` in a broker's settings is the default for its topics.
    Topic,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Bytes,
    Duration,
    Int,
    /// From 0 to 1, to a millionth.
    Ratio,
    Bool,
    /// Letters, digits, `.`, `_` and `-`; may be empty.
    Text,
    Path,
    Url,
    Addr,
    /// See [`Advertised`].
    Advertised,
    /// One of some words. `not_yet`: words that are refused, each with the reason.
    Choice {
        of: &'static [&'static str],
        not_yet: &'static [(&'static str, &'static str)],
    },
}

/// What holds where nobody sets anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fallback {
    Fixed(&'static str),
    ByMode {
        broker: &'static str,
        dev: &'static str,
    },
    /// Follows from other settings, as this text says (`sources::derive`).
    Derived(&'static str),
}

/// A checked value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Absent,
    Bytes(u64),
    Duration(Duration),
    Int(u64),
    /// Millionths.
    Ratio(u32),
    Bool(bool),
    Text(String),
    Url(BucketUrl),
    Addr(SocketAddr),
    Advertised(Advertised),
}

fn problem<T>(problem: impl Into<String>, remedy: impl Into<String>) -> Result<T, Problem> {
    Err(Problem { problem: problem.into(), remedy: remedy.into() })
}

/// Rows of the table read as sentences built from these.
impl Setting {
    const fn new(name: &'static str, kind: Kind, default: Fallback) -> Self {
        let scope = Scope::Broker;
        Self { name, kind, default, absent: None, min: 0, max: u64::MAX, doc: "", scope }
    }

    pub const fn bytes(name: &'static str, min: u64, max: u64, default: &'static str) -> Self {
        Self { min, max, ..Self::new(name, Kind::Bytes, Fallback::Fixed(default)) }
    }

    /// Bounds in milliseconds.
    pub const fn duration(name: &'static str, min: u64, max: u64, default: &'static str) -> Self {
        Self { min, max, ..Self::new(name, Kind::Duration, Fallback::Fixed(default)) }
    }

    pub const fn int(name: &'static str, min: u64, max: u64, default: &'static str) -> Self {
        Self { min, max, ..Self::new(name, Kind::Int, Fallback::Fixed(default)) }
    }

    pub const fn of_kind(name: &'static str, kind: Kind, default: &'static str) -> Self {
        Self::new(name, kind, Fallback::Fixed(default))
    }

    pub const fn choice(
        name: &'static str,
        of: &'static [&'static str],
        not_yet: &'static [(&'static str, &'static str)],
    ) -> Self {
        Self::new(name, Kind::Choice { of, not_yet }, Fallback::Fixed(of[0]))
    }

    /// Another default in `levee dev`.
    pub const fn dev(self, dev: &'static str) -> Self {
        match self.default {
            Fallback::Fixed(broker) => Self { default: Fallback::ByMode { broker, dev }, ..self },
            _ => panic!("only a fixed default can differ in dev"),
        }
    }

    pub const fn derived(self, how: &'static str) -> Self {
        Self { default: Fallback::Derived(how), ..self }
    }

    pub const fn or_absent(self, word: &'static str) -> Self {
        Self { absent: Some(word), ..self }
    }

    pub const fn documented(self, scope: Scope, doc: &'static str) -> Self {
        Self { scope, doc, ..self }
    }
}

impl Setting {
    /// As it is called in a broker's settings.
    pub fn broker_name(&self) -> String {
        match self.scope {
            Scope::Broker => self.name.to_owned(),
            Scope::Topic => format!("topic.{}", self.name),
        }
    }

    pub fn env_name(&self) -> String {
        format!("LEVEE_{}", self.broker_name().replace('.', "_").to_uppercase())
    }

    /// Checks a text: kind, unit, bounds.
    pub fn parse(&self, text: &str) -> Result<Value, Problem> {
        let text = text.trim();
        if text.chars().any(|c| c.is_control() || c == char::REPLACEMENT_CHARACTER) {
            return problem("has characters that are not text", "write plain UTF-8");
        }
        if self.absent.is_some_and(|word| word == text) {
            return Ok(Value::Absent);
        }
        match self.kind {
            Kind::Bytes => self.bounded(parse_bytes(text)?).map(Value::Bytes),
            Kind::Duration => {
                let ms = parse_duration_ms(text, self.name.ends_with(".ms"))?;
                Ok(Value::Duration(Duration::from_millis(self.bounded(ms)?)))
            }
            Kind::Int => match text.parse() {
                Ok(number) => self.bounded(number).map(Value::Int),
                Err(_) => problem("is not a whole number", self.bounds_remedy()),
            },
            Kind::Ratio => parse_ratio(text),
            Kind::Bool => match text {
                "true" => Ok(Value::Bool(true)),
                "false" => Ok(Value::Bool(false)),
                _ => problem("is neither true nor false", "write true or false"),
            },
            Kind::Text => parse_name(text),
            Kind::Path if text.is_empty() => problem("is empty", "name a folder"),
            Kind::Path => Ok(Value::Text(text.to_owned())),
            Kind::Url => BucketUrl::parse(text).map(Value::Url),
            Kind::Addr => match text.parse() {
                Ok(addr) => Ok(Value::Addr(addr)),
                Err(_) => problem(
                    "is not an address to listen on",
                    "write IP:PORT, like 127.0.0.1:9644 or [::]:9644; port 0 takes any free one",
                ),
            },
            Kind::Advertised => Advertised::parse(text).map(Value::Advertised),
            Kind::Choice { of, not_yet } => parse_choice(text, of, not_yet),
        }
    }

    fn bounded(&self, number: u64) -> Result<u64, Problem> {
        if number < self.min {
            return problem("is below the smallest allowed value", self.bounds_remedy());
        }
        if number > self.max {
            return problem("is above the largest allowed value", self.bounds_remedy());
        }
        Ok(number)
    }

    fn bounds_remedy(&self) -> String {
        format!("choose {}", self.allowed())
    }

    /// What may be written, for people.
    pub fn allowed(&self) -> String {
        let or_absent = self.absent.map(|word| format!(", or {word}")).unwrap_or_default();
        let range = |show: fn(u64) -> String| {
            format!("{} to {}{or_absent}", show(self.min), show(self.max))
        };
        match self.kind {
            Kind::Bytes => range(show_bytes),
            Kind::Duration => range(show_ms),
            Kind::Int => range(|number| number.to_string()),
            Kind::Ratio => "0 to 1, like 0.5".into(),
            Kind::Bool => "true or false".into(),
            Kind::Text => "letters, digits, '.', '_' and '-', at most 64".into(),
            Kind::Path => "a folder".into(),
            Kind::Url => "s3://BUCKET/PREFIX, gs://.., az://.., file:///DIR or memory://".into(),
            Kind::Addr => format!("IP:PORT{or_absent}"),
            Kind::Advertised => {
                format!("HOST:PORT, or NETWORK=HOST:PORT,..,*=HOST:PORT{or_absent}")
            }
            Kind::Choice { of, .. } => of.join(" or "),
        }
    }

    /// The default in words.
    pub fn default_text(&self) -> String {
        match self.default {
            Fallback::Fixed("") => "empty".into(),
            Fallback::Fixed(text) => text.into(),
            Fallback::ByMode { broker: "", dev } => format!("none; with `levee dev` {dev}"),
            Fallback::ByMode { broker, dev } => format!("{broker}; with `levee dev` {dev}"),
            Fallback::Derived(how) => how.into(),
        }
    }

    /// The text that parses back to `value`. Never shows secrets. Topic settings show plain
    /// numbers (bytes, milliseconds), as Kafka's tools expect of these names.
    pub fn show(&self, value: &Value) -> String {
        let plain = self.scope == Scope::Topic;
        match value {
            Value::Absent => self.absent.unwrap_or_default().to_owned(),
            Value::Bytes(bytes) if plain => bytes.to_string(),
            Value::Bytes(bytes) => show_bytes(*bytes),
            Value::Duration(duration) if plain => duration.as_millis().to_string(),
            Value::Duration(duration) => show_ms(duration.as_millis() as u64),
            Value::Int(number) => number.to_string(),
            Value::Ratio(millionths) => ratio(*millionths).to_string(),
            Value::Bool(flag) => flag.to_string(),
            Value::Text(text) => text.clone(),
            Value::Url(url) => url.to_string(),
            Value::Addr(addr) => addr.to_string(),
            Value::Advertised(rules) => rules.to_string(),
        }
    }
}

impl Value {
    /// Bytes, milliseconds or a count, for comparing settings of one kind.
    pub fn number(&self) -> Option<u64> {
        match self {
            Self::Bytes(number) | Self::Int(number) => Some(*number),
            Self::Duration(duration) => Some(duration.as_millis() as u64),
            _ => None,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bytes => "bytes",
            Self::Duration => "duration",
            Self::Int => "number",
            Self::Ratio => "ratio",
            Self::Bool => "switch",
            Self::Text => "text",
            Self::Path => "folder",
            Self::Url => "URL",
            Self::Addr => "address",
            Self::Advertised => "addresses",
            Self::Choice { .. } => "choice",
        })
    }
}

const MILLION: f64 = 1e6;

/// Of a number of millionths.
pub(super) fn ratio(millionths: u32) -> f64 {
    f64::from(millionths) / MILLION
}

fn parse_ratio(text: &str) -> Result<Value, Problem> {
    match text.parse::<f64>() {
        Ok(ratio) if (0.0..=1.0).contains(&ratio) => {
            Ok(Value::Ratio((ratio * MILLION).round() as u32))
        }
        Ok(_) => problem("is not between 0 and 1", "choose 0 to 1, like 0.5"),
        Err(_) => problem("is not a number", "choose 0 to 1, like 0.5"),
    }
}

fn parse_name(text: &str) -> Result<Value, Problem> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    match text.len() <= 64 && text.chars().all(fits) {
        true => Ok(Value::Text(text.to_owned())),
        false => problem("is not a name", "use at most 64 letters, digits, '.', '_' and '-'"),
    }
}

fn parse_choice(text: &str, of: &[&str], not_yet: &[(&str, &str)]) -> Result<Value, Problem> {
    let remedy = || format!("choose {}", of.join(" or "));
    if of.contains(&text) {
        return Ok(Value::Text(text.to_owned()));
    }
    match not_yet.iter().find(|(word, _)| *word == text) {
        Some((_, reason)) => problem(format!("is not available: {reason}"), remedy()),
        None => problem("is not one of the words", remedy()),
    }
}

const BYTE_UNITS: [(&str, u64); 9] = [
    ("B", 1),
    ("KiB", KIB),
    ("MiB", MIB),
    ("GiB", GIB),
    ("TiB", TIB),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

/// A whole number of bytes, or of one of the units.
pub fn parse_bytes(text: &str) -> Result<u64, Problem> {
    const REMEDY: &str = "write a whole number with B, KiB, MiB, GiB, TiB, KB, MB, GB or TB";
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_start();
    let factor = match unit {
        "" => Some(1),
        unit => BYTE_UNITS.iter().find(|(u, _)| u.eq_ignore_ascii_case(unit)).map(|(_, f)| *f),
    };
    match (number.parse::<u64>(), factor) {
        (Ok(number), Some(factor)) => match number.checked_mul(factor) {
            Some(bytes) => Ok(bytes),
            None => problem("is more than 2^64 bytes", REMEDY),
        },
        (Err(_), _) if !number.is_empty() => problem("is more than 2^64 bytes", REMEDY),
        _ => problem("is not a number of bytes", REMEDY),
    }
}

/// `plain_ms`: a number without a unit is in milliseconds; else it is refused.
fn parse_duration_ms(text: &str, plain_ms: bool) -> Result<u64, Problem> {
    const REMEDY: &str = "write a time with its unit, like 50ms, 10s, 15m, 24h or 7d";
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return match text.parse() {
            Ok(0) => Ok(0),
            Ok(ms) if plain_ms => Ok(ms),
            Err(_) if plain_ms => problem("is too long a time", REMEDY),
            _ => problem("is a time without a unit", REMEDY),
        };
    }
    let Ok(duration) = humantime::parse_duration(text) else {
        return problem("is not a time", REMEDY);
    };
    if duration.subsec_nanos() % 1_000_000 != 0 {
        return problem("is not a whole number of milliseconds", REMEDY);
    }
    match u64::try_from(duration.as_millis()) {
        Ok(ms) => Ok(ms),
        Err(_) => problem("is too long a time", REMEDY),
    }
}

/// In the largest unit that needs no fraction.
pub fn show_bytes(bytes: u64) -> String {
    for (unit, size) in [("TiB", TIB), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB)] {
        if bytes >= size && bytes.is_multiple_of(size) {
            return format!("{}{unit}", bytes / size);
        }
    }
    format!("{bytes}B")
}

/// Milliseconds in the largest unit that needs no fraction.
pub fn show_ms(ms: u64) -> String {
    for (unit, size) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)] {
        if ms >= size && ms.is_multiple_of(size) {
            return format!("{}{unit}", ms / size);
        }
    }
    format!("{ms}ms")
}
