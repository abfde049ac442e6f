//! The trailer of a tiered object: where its footer is, and what both must add up to.

use super::FOOTER;
use super::footer::Footer;
use crate::codec::{FormatError, Reader};
use crate::crc::crc32c;
use crate::head::HEAD_BYTES;
use crate::limits::FOOTER_BYTES_MAX;

pub const TRAILER_BYTES: usize = 24;
const TRAILER_MAGIC: [u8; 4] = *b"LVTE";
const WHAT: &str = "object trailer";

/// The last 24 bytes of an object.
/// ```text
///  0 footer pos 8 | 8 footer len 4 | 12 footer crc 4 | 16 body crc 4 | 20 magic "LVTE"
/// ```
/// The body crc covers head and data: byte 0 to the footer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trailer {
    pub footer_pos: u64,
    pub footer_len: u32,
    pub footer_crc: u32,
    pub body_crc: u32,
}

impl Trailer {
    pub fn encode(&self) -> [u8; TRAILER_BYTES] {
        let mut out = [0; TRAILER_BYTES];
        out[0..8].copy_from_slice(&self.footer_pos.to_le_bytes());
        out[8..12].copy_from_slice(&self.footer_len.to_le_bytes());
        out[12..16].copy_from_slice(&self.footer_crc.to_le_bytes());
        out[16..20].copy_from_slice(&self.body_crc.to_le_bytes());
        out[20..24].copy_from_slice(&TRAILER_MAGIC);
        out
    }

    /// `tail` is the end of an object of `object_len` bytes.
    pub fn decode(tail: &[u8], object_len: u64) -> Result<Self, FormatError> {
        let start = tail.len().checked_sub(TRAILER_BYTES).ok_or_else(|| {
            FormatError::new(WHAT, 0, format!("{} bytes, it has {TRAILER_BYTES}", tail.len()))
        })?;
        let mut r = Reader::new(WHAT, &tail[start..]);
        let trailer = Self {
            footer_pos: r.u64()?,
            footer_len: r.u32()?,
            footer_crc: r.u32()?,
            body_crc: r.u32()?,
        };
        if r.take(4)? != TRAILER_MAGIC {
            return Err(FormatError::new(WHAT, 20, "wrong magic: torn or not a tiered object"));
        }
        let end = trailer
            .footer_pos
            .checked_add(u64::from(trailer.footer_len))
            .and_then(|end| end.checked_add(TRAILER_BYTES as u64));
        let is_inside = trailer.footer_pos >= HEAD_BYTES as u64 && end == Some(object_len);
        if !is_inside || trailer.footer_len as usize > FOOTER_BYTES_MAX {
            return Err(FormatError::new(
                WHAT,
                0,
                format!(
                    "footer of {} bytes at {} in an object of {object_len}",
                    trailer.footer_len, trailer.footer_pos
                ),
            ));
        }
        Ok(trailer)
    }

    /// Checks the crc of the footer and decodes it.
    pub fn footer(&self, bytes: &[u8]) -> Result<Footer, FormatError> {
        if bytes.len() != self.footer_len as usize || crc32c(bytes) != self.footer_crc {
            return Err(FormatError::new(FOOTER, 0, "crc mismatch"));
        }
        let footer = Footer::decode(bytes)?;
        // Only here both are known: every range lies between the head and the footer.
        let data = HEAD_BYTES as u64..self.footer_pos;
        match footer.ranges.iter().find(|r| r.pos < data.start || r.pos + r.len > data.end) {
            None => Ok(footer),
            Some(r) => {
                let why = format!("{}: {} bytes at {} of {data:?}", r.partition, r.len, r.pos);
                Err(FormatError::new(FOOTER, 0, why))
            }
        }
    }
}
