//! Values that people write in workload files: sizes, times, rates.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes: `4096`, `"64KiB"`, `"2GiB"`, `"1GB"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// A time: `"500ms"`, `"30s"`, `"2h 5m"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// Records a second of the whole run, or `"full"`: as fast as acks come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rate {
    Full,
    PerSecond(u64),
}

const UNITS: [(&str, u64); 9] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("B", 1),
];

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no size; write bytes, or 64KiB, 2GiB, 1GB");
        let (number, unit) = UNITS
            .iter()
            .find_map(|(name, unit)| Some((text.strip_suffix(name)?.trim(), *unit)))
            .unwrap_or((text, 1));
        let number: u64 = number.parse().map_err(|_| wrong())?;
        number.checked_mul(unit).map(Self).ok_or_else(wrong)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let binary = UNITS[..4].iter().rev();
        let mut fits = binary.filter(|(_, unit)| self.0 > 0 && self.0.is_multiple_of(*unit));
        match fits.next() {
            Some((name, unit)) => write!(f, "{}{name}", self.0 / unit),
            None => write!(f, "{}", self.0),
        }
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        humantime::parse_duration(text)
            .map(Self)
            .map_err(|_| format!("{text:?} is no time; write 500ms, 30s, 5m or 24h"))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", humantime::format_duration(self.0))
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "full" {
            return Ok(Self::Full);
        }
        let wrong = || format!("{text:?} is no rate; write records a second, or \"full\"");
        match text.parse() {
            Ok(0) | Err(_) => Err(wrong()),
            Ok(rate) => Ok(Self::PerSecond(rate)),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("full"),
            Self::PerSecond(rate) => write!(f, "{rate}"),
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "is neither a whole number nor text")]
enum Raw {
    Number(u64),
    Text(String),
}

macro_rules! as_text {
    ($($name:ty),*) => {$(
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = match Raw::deserialize(from)? {
                    Raw::Number(number) => number.to_string(),
                    Raw::Text(text) => text,
                };
                text.parse().map_err(serde::de::Error::custom)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }
    )*};
}

as_text!(Size, Span, Rate);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_read_as_they_are_written() {
        for (text, bytes) in [("4096", 4096), ("64KiB", 65536), ("2GiB", 2 << 30), ("1 kB", 1000)] {
            assert_eq!(text.parse::<Size>().unwrap().0, bytes);
        }
        assert_eq!(Size(65536).to_string(), "64KiB");
        assert_eq!("2h 5m".parse::<Span>().unwrap().0, Duration::from_secs(7500));
        assert_eq!("full".parse::<Rate>().unwrap(), Rate::Full);
        assert!("0".parse::<Rate>().is_err());
        assert!("99999999999TiB".parse::<Size>().is_err());
        assert!("ten".parse::<Size>().unwrap_err().contains("ten"));
    }
}
