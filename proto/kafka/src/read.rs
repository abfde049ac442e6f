//! Reading messages that strangers sent.
//!
//! Nothing is allocated because a number says so: a count is held against the bytes that are there,
//! and everything that is allocated is charged against [`ROOM_BYTES`].

use bytes::{Buf, Bytes};
use thiserror::Error;

use crate::types::Uuid;

/// Memory that one message may take beside the bytes that it came in. Far above what clients send:
/// a request for 100,000 topics takes a tenth of it.
pub const ROOM_BYTES: usize = 64 << 20;

/// Why bytes are no message.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{field} at byte {at}: {problem}")]
pub struct DecodeError {
    /// Type and field, as in `schema/`.
    pub field: &'static str,
    /// In the bytes that the reader was given.
    pub at: usize,
    pub problem: Problem,
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Problem {
    #[error("{need} more bytes are needed, {left} are left")]
    Truncated { need: usize, left: usize },
    #[error("length {0} is negative")]
    Negative(i64),
    #[error("it may not be null in this version")]
    Null,
    #[error("not UTF-8")]
    NotUtf8,
    #[error("a variable-length number of more than five bytes")]
    LongNumber,
    #[error("tag {0} does not come after the tag before it")]
    TagOrder(u32),
    #[error("tag {tag} has {left} bytes behind its value")]
    TagTooLong { tag: u32, left: usize },
    #[error("the message would take more than {ROOM_BYTES} bytes of memory")]
    TooLarge,
    #[error("{0} bytes are behind the message")]
    Behind(usize),
}

type Result<T, E = DecodeError> = std::result::Result<T, E>;

/// A cursor over the bytes of a message. `bytes` and records that it gives are parts of them.
#[derive(Debug)]
pub struct Reader {
    /// What is left.
    rest: Bytes,
    /// How many bytes are behind the part that may be read now (a tagged field).
    hidden: usize,
    whole: usize,
    field: &'static str,
    room: usize,
}

impl Reader {
    pub fn new(bytes: Bytes) -> Self {
        let whole = bytes.len();
        Self { rest: bytes, hidden: 0, whole, field: "message", room: ROOM_BYTES }
    }

    /// Names what is read next, for errors.
    pub fn at(&mut self, field: &'static str) {
        self.field = field;
    }

    pub fn left(&self) -> usize {
        self.rest.len()
    }

    /// What was not read.
    pub fn into_rest(self) -> Bytes {
        self.rest
    }

    /// An error where anything is left.
    pub fn end(&self) -> Result<()> {
        match self.left() {
            0 => Ok(()),
            left => Err(self.error(Problem::Behind(left))),
        }
    }

    fn error(&self, problem: Problem) -> DecodeError {
        let at = self.whole - self.rest.len() - self.hidden;
        DecodeError { field: self.field, at, problem }
    }

    fn need(&self, need: usize) -> Result<()> {
        match self.left() {
            left if left < need => Err(self.error(Problem::Truncated { need, left })),
            _ => Ok(()),
        }
    }

    fn charge(&mut self, bytes: usize) -> Result<()> {
        match self.room.checked_sub(bytes) {
            Some(left) => {
                self.room = left;
                Ok(())
            }
            None => Err(self.error(Problem::TooLarge)),
        }
    }

    pub fn bool(&mut self) -> Result<bool> {
        Ok(self.i8()? != 0)
    }

    pub fn i8(&mut self) -> Result<i8> {
        self.need(1)?;
        Ok(self.rest.get_i8())
    }

    pub fn i16(&mut self) -> Result<i16> {
        self.need(2)?;
        Ok(self.rest.get_i16())
    }

    pub fn u16(&mut self) -> Result<u16> {
        self.need(2)?;
        Ok(self.rest.get_u16())
    }

    pub fn i32(&mut self) -> Result<i32> {
        self.need(4)?;
        Ok(self.rest.get_i32())
    }

    pub fn u32(&mut self) -> Result<u32> {
        self.need(4)?;
        Ok(self.rest.get_u32())
    }

    pub fn i64(&mut self) -> Result<i64> {
        self.need(8)?;
        Ok(self.rest.get_i64())
    }

    pub fn f64(&mut self) -> Result<f64> {
        self.need(8)?;
        Ok(self.rest.get_f64())
    }

    pub fn uuid(&mut self) -> Result<Uuid> {
        self.need(16)?;
        Ok(Uuid::from(self.rest.get_u128()))
    }

    /// Base 128, low digits first, at most 32 bits.
    pub fn varint(&mut self) -> Result<u32> {
        let mut value = 0u64;
        for digit in 0..5 {
            self.need(1)?;
            let byte = self.rest.get_u8();
            value |= u64::from(byte & 0x7f) << (7 * digit);
            if byte & 0x80 == 0 {
                return u32::try_from(value).map_err(|_| self.error(Problem::LongNumber));
            }
        }
        Err(self.error(Problem::LongNumber))
    }

    /// A length in front of something; none for null. Compact: plus one, so that 0 is null.
    fn length(&mut self, flex: bool, short: bool) -> Result<Option<usize>> {
        let length = match (flex, short) {
            (true, _) => i64::from(self.varint()?) - 1,
            (false, true) => i64::from(self.i16()?),
            (false, false) => i64::from(self.i32()?),
        };
        match length {
            -1 => Ok(None),
            length if length < 0 => Err(self.error(Problem::Negative(length))),
            length => Ok(Some(length as usize)),
        }
    }

    fn not_null<T>(&self, value: Option<T>, nullable: bool) -> Result<Option<T>> {
        match value {
            None if !nullable => Err(self.error(Problem::Null)),
            value => Ok(value),
        }
    }

    fn some<T>(&self, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| self.error(Problem::Null))
    }

    pub fn nullable_string(&mut self, flex: bool, nullable: bool) -> Result<Option<String>> {
        let length = self.length(flex, true)?;
        let Some(length) = self.not_null(length, nullable)? else { return Ok(None) };
        self.need(length)?;
        self.charge(length)?;
        let bytes = self.rest.split_to(length);
        match std::str::from_utf8(&bytes) {
            Ok(text) => Ok(Some(text.to_owned())),
            Err(_) => Err(self.error(Problem::NotUtf8)),
        }
    }

    pub fn string(&mut self, flex: bool) -> Result<String> {
        let text = self.nullable_string(flex, false)?;
        self.some(text)
    }

    pub fn nullable_bytes(&mut self, flex: bool, nullable: bool) -> Result<Option<Bytes>> {
        let length = self.length(flex, false)?;
        let Some(length) = self.not_null(length, nullable)? else { return Ok(None) };
        self.need(length)?;
        Ok(Some(self.rest.split_to(length)))
    }

    pub fn bytes(&mut self, flex: bool) -> Result<Bytes> {
        let bytes = self.nullable_bytes(flex, false)?;
        self.some(bytes)
    }

    pub fn nullable_list<T>(
        &mut self,
        flex: bool,
        nullable: bool,
        mut each: impl FnMut(&mut Self) -> Result<T>,
    ) -> Result<Option<Vec<T>>> {
        let count = self.length(flex, false)?;
        let Some(count) = self.not_null(count, nullable)? else { return Ok(None) };
        // Every element takes at least a byte.
        self.need(count)?;
        self.charge(count.saturating_mul(size_of::<T>()))?;
        let mut list = Vec::with_capacity(count);
        for _ in 0..count {
            list.push(each(self)?);
        }
        Ok(Some(list))
    }

    pub fn list<T>(
        &mut self,
        flex: bool,
        each: impl FnMut(&mut Self) -> Result<T>,
    ) -> Result<Vec<T>> {
        let list = self.nullable_list(flex, false, each)?;
        self.some(list)
    }

    /// One byte in front says whether there is one (negative: null).
    pub fn nullable_struct<T>(
        &mut self,
        nullable: bool,
        read: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<Option<T>> {
        let there = (self.i8()? >= 0).then_some(());
        match self.not_null(there, nullable)? {
            None => Ok(None),
            Some(()) => read(self).map(Some),
        }
    }

    /// In a tagged field the number in front is of variable length (0: null).
    pub fn tagged_struct<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<Option<T>> {
        match self.varint()? {
            0 => Ok(None),
            _ => read(self).map(Some),
        }
    }

    /// The tagged fields of a struct: `read` says false to a tag that it does not know.
    pub fn tags(&mut self, mut read: impl FnMut(&mut Self, u32) -> Result<bool>) -> Result<()> {
        let count = self.varint()?;
        let mut last = None;
        for _ in 0..count {
            let tag = self.varint()?;
            if last.is_some_and(|last| tag <= last) {
                return Err(self.error(Problem::TagOrder(tag)));
            }
            last = Some(tag);
            let length = self.varint()? as usize;
            self.need(length)?;
            // The field sees its own bytes only.
            let behind = self.rest.split_off(length);
            self.hidden += behind.len();
            let known = read(self, tag)?;
            let left = self.left();
            if known && left > 0 {
                return Err(self.error(Problem::TagTooLong { tag, left }));
            }
            self.hidden -= behind.len();
            self.rest = behind;
        }
        Ok(())
    }
}
