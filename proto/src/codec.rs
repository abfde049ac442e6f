//! Reading bytes that may be anything. Every read is checked; every count is held against the
//! bytes that are really there before anything is allocated for it.

use thiserror::Error;

/// What was wrong with some bytes, and where.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("corrupt {what} at byte {at}: {why}")]
pub struct FormatError {
    /// The structure that was being read, e.g. `record batch`.
    pub what: &'static str,
    /// Position from the start of that structure.
    pub at: u64,
    pub why: String,
}

impl FormatError {
    pub fn new(what: &'static str, at: usize, why: impl Into<String>) -> Self {
        Self { what, at: at as u64, why: why.into() }
    }
}

/// A cursor over untrusted bytes. Little-endian, as all of Levee's own formats are.
pub struct Reader<'a> {
    what: &'static str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { what, bytes, at: 0 }
    }

    pub fn at(&self) -> usize {
        self.at
    }

    pub fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    pub fn error(&self, why: impl Into<String>) -> FormatError {
        FormatError::new(self.what, self.at, why)
    }

    pub fn take(&mut self, len: usize) -> Result<&'a [u8], FormatError> {
        if len > self.remaining() {
            return Err(self.error(format!("needs {len} bytes, {} are left", self.remaining())));
        }
        let part = &self.bytes[self.at..self.at + len];
        self.at += len;
        Ok(part)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    pub fn u8(&mut self) -> Result<u8, FormatError> {
        Ok(self.array::<1>()?[0])
    }
    pub fn u16(&mut self) -> Result<u16, FormatError> {
        self.array().map(u16::from_le_bytes)
    }
    pub fn u32(&mut self) -> Result<u32, FormatError> {
        self.array().map(u32::from_le_bytes)
    }
    pub fn u64(&mut self) -> Result<u64, FormatError> {
        self.array().map(u64::from_le_bytes)
    }
    pub fn i16(&mut self) -> Result<i16, FormatError> {
        self.array().map(i16::from_le_bytes)
    }
    pub fn i32(&mut self) -> Result<i32, FormatError> {
        self.array().map(i32::from_le_bytes)
    }
    pub fn i64(&mut self) -> Result<i64, FormatError> {
        self.array().map(i64::from_le_bytes)
    }
    pub fn u128(&mut self) -> Result<u128, FormatError> {
        self.array().map(u128::from_le_bytes)
    }

    /// A `u32` count of things that take at least `each` bytes: refused when they cannot be there.
    pub fn count(&mut self, each: usize) -> Result<usize, FormatError> {
        let count = self.u32()? as usize;
        if count.saturating_mul(each) > self.remaining() {
            return Err(self.error(format!(
                "claims {count} entries of {each} bytes, {} bytes are left",
                self.remaining()
            )));
        }
        Ok(count)
    }

    /// The structure must end here.
    pub fn end(self) -> Result<(), FormatError> {
        if self.remaining() != 0 {
            return Err(self.error(format!("{} bytes too many", self.remaining())));
        }
        Ok(())
    }
}
