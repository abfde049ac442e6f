//! What all messages have in common.

use std::fmt;
use std::ops::RangeInclusive;

use bytes::Bytes;

use crate::messages::{APIS, ApiKey};
use crate::read::{DecodeError, Reader};
use crate::write::Writer;

/// A message or a part of the log that has versions.
pub trait Message: Sized + Default {
    const NAME: &'static str;
    const VERSIONS: RangeInclusive<i16>;
    /// First version with compact lengths and tags (KIP-482).
    const FLEXIBLE_FROM: Option<i16>;

    /// Reads one, and leaves what is behind it. The version must be one of `VERSIONS`.
    fn decode(r: &mut Reader, version: i16) -> Result<Self, DecodeError>;

    /// Fields that the version does not have are left out.
    fn encode(&self, w: &mut Writer, version: i16);
}

/// A message that asks.
pub trait Request: Message {
    const KEY: i16;
    type Response: Message;
}

/// One API that has a schema.
#[derive(Debug, Clone, Copy)]
pub struct Api {
    pub key: ApiKey,
    pub name: &'static str,
    /// First and last version of the schema.
    pub versions: (i16, i16),
    pub flexible_from: Option<i16>,
}

impl Api {
    pub fn of(key: i16) -> Option<&'static Api> {
        let at = APIS.binary_search_by_key(&key, |api| api.key as i16).ok()?;
        Some(&APIS[at])
    }

    pub fn is_flexible(&self, version: i16) -> bool {
        self.flexible_from.is_some_and(|from| version >= from)
    }
}

/// 128 bits; zero where there is none. Text: 22 characters of URL-safe base64, as Kafka shows it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Uuid(pub [u8; 16]);

impl Uuid {
    pub const ZERO: Self = Self([0; 16]);

    pub fn is_zero(&self) -> bool {
        *self == Self::ZERO
    }
}

impl From<u128> for Uuid {
    fn from(value: u128) -> Self {
        Self(value.to_be_bytes())
    }
}

impl From<Uuid> for u128 {
    fn from(value: Uuid) -> Self {
        u128::from_be_bytes(value.0)
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DIGITS: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let bits = u128::from(*self);
        // 21 digits of 6 bits, and the last 2 bits at the top of a digit of their own.
        for digit in 0..22 {
            let six = match digit {
                21 => (bits << 4) as usize & 0x3f,
                _ => (bits >> (122 - 6 * digit)) as usize & 0x3f,
            };
            write!(f, "{}", char::from(DIGITS[six]))?;
        }
        Ok(())
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Record batches, in pieces that need not be next to each other in memory: they travel from where
/// they are to the socket without a copy.
#[derive(Debug, Clone, Default)]
pub struct Records(pub Vec<Bytes>);

impl Records {
    pub fn len(&self) -> usize {
        self.0.iter().map(Bytes::len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.0.iter().all(Bytes::is_empty)
    }

    /// All in one piece; copies only where there are several.
    pub fn into_bytes(mut self) -> Bytes {
        match self.0.len() {
            1 => self.0.pop().unwrap_or_default(),
            _ => self.0.concat().into(),
        }
    }
}

impl From<Bytes> for Records {
    fn from(bytes: Bytes) -> Self {
        Self(vec![bytes])
    }
}

impl PartialEq for Records {
    fn eq(&self, other: &Self) -> bool {
        self.0.concat() == other.0.concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_is_shown_as_kafka_shows_it() {
        // java: Uuid.fromString("AAAAAAAAAAAAAAAAAAAAAQ").getLeastSignificantBits() == 1
        assert_eq!(Uuid::from(1).to_string(), "AAAAAAAAAAAAAAAAAAAAAQ");
        assert_eq!(Uuid::ZERO.to_string(), "AAAAAAAAAAAAAAAAAAAAAA");
        assert_eq!(Uuid::from(u128::MAX).to_string(), "_____________________w");
    }

    #[test]
    fn apis_are_found_by_key() {
        assert_eq!(Api::of(1).map(|api| api.name), Some("Fetch"));
        assert!(Api::of(1).is_some_and(|api| api.is_flexible(12) && !api.is_flexible(11)));
        assert!(Api::of(4).is_none() && Api::of(-1).is_none() && Api::of(i16::MAX).is_none());
    }
}
