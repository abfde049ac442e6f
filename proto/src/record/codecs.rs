//! The compressions of record batches. Unpacking is bounded: no claim of the bytes is believed.
//!
//! Source: Apache Kafka, "Record Batch", attributes bits 0-2; snappy comes framed as the Java
//! client writes it (xerial: 16-byte head, then blocks with a length) or raw.

use std::io::{Read, Write};

use bytes::Bytes;

use crate::codec::FormatError;

/// Bits 0-2 of a batch's attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    #[default]
    None = 0,
    Gzip = 1,
    Snappy = 2,
    Lz4 = 3,
    Zstd = 4,
}

const WHAT: &str = "compressed records";
const XERIAL_MAGIC: [u8; 8] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0];
const XERIAL_HEAD: usize = 16;

impl Compression {
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    pub fn of(attributes: i16) -> Result<Self, FormatError> {
        let bits = attributes & 7;
        let found = Self::ALL.into_iter().find(|codec| *codec as i16 == bits);
        found.ok_or_else(|| FormatError::new("record batch", 21, format!("compression {bits}")))
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|codec| codec.name() == name)
    }

    pub fn compress(self, plain: &[u8]) -> Vec<u8> {
        let packed = match self {
            Self::None => Ok(plain.to_vec()),
            Self::Gzip => {
                let level = flate2::Compression::default();
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
                encoder.write_all(plain).and_then(|()| encoder.finish())
            }
            Self::Snappy => return xerial(plain),
            Self::Lz4 => {
                let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
                encoder.write_all(plain).and_then(|()| encoder.finish().map_err(Into::into))
            }
            Self::Zstd => zstd::bulk::compress(plain, zstd::DEFAULT_COMPRESSION_LEVEL),
        };
        packed.expect("compressing to memory does not fail")
    }

    /// At most `max` bytes come out.
    pub fn decompress(self, packed: &Bytes, max: usize) -> Result<Bytes, FormatError> {
        match self {
            Self::None => Ok(packed.clone()),
            Self::Gzip => bounded(flate2::read::GzDecoder::new(&packed[..]), max),
            Self::Snappy => unsnap(packed, max),
            Self::Lz4 => bounded(lz4_flex::frame::FrameDecoder::new(&packed[..]), max),
            Self::Zstd => match zstd::stream::read::Decoder::new(&packed[..]) {
                Ok(decoder) => bounded(decoder, max),
                Err(error) => Err(FormatError::new(WHAT, 0, error.to_string())),
            },
        }
    }
}

fn bounded(reader: impl Read, max: usize) -> Result<Bytes, FormatError> {
    let mut plain = Vec::new();
    let read = reader.take(max as u64 + 1).read_to_end(&mut plain);
    read.map_err(|error| FormatError::new(WHAT, 0, error.to_string()))?;
    if plain.len() > max {
        return Err(too_large(max));
    }
    Ok(plain.into())
}

fn too_large(max: usize) -> FormatError {
    FormatError::new(WHAT, 0, format!("unpack to more than {max} bytes"))
}

fn xerial(plain: &[u8]) -> Vec<u8> {
    const BLOCK: usize = 32 << 10;
    let mut out = Vec::from(XERIAL_MAGIC);
    out.extend_from_slice(&1u32.to_be_bytes());
    out.extend_from_slice(&1u32.to_be_bytes());
    for block in plain.chunks(BLOCK) {
        let packed = snap::raw::Encoder::new().compress_vec(block);
        let packed = packed.expect("a block of 32 KiB is never too large");
        out.extend_from_slice(&(packed.len() as u32).to_be_bytes());
        out.extend_from_slice(&packed);
    }
    out
}

fn unsnap(packed: &[u8], max: usize) -> Result<Bytes, FormatError> {
    let mut plain = Vec::new();
    if !packed.starts_with(&XERIAL_MAGIC) {
        unsnap_block(packed, 0, max, &mut plain)?;
        return Ok(plain.into());
    }
    let mut at = XERIAL_HEAD;
    while at < packed.len() {
        let short = || FormatError::new(WHAT, at, "snappy block ends early");
        let head: [u8; 4] =
            packed.get(at..at + 4).and_then(|h| h.try_into().ok()).ok_or_else(short)?;
        let len = u32::from_be_bytes(head) as usize;
        let block =
            at.checked_add(4 + len).and_then(|end| packed.get(at + 4..end)).ok_or_else(short)?;
        unsnap_block(block, at, max, &mut plain)?;
        at += 4 + len;
    }
    Ok(plain.into())
}

fn unsnap_block(block: &[u8], at: usize, max: usize, out: &mut Vec<u8>) -> Result<(), FormatError> {
    let wrong = |error: snap::Error| FormatError::new(WHAT, at, error.to_string());
    let len = snap::raw::decompress_len(block).map_err(wrong)?;
    // Snappy never shrinks below a 64th: a larger claim is a lie.
    if out.len() + len > max || len / 64 > block.len() + 64 {
        return Err(too_large(max));
    }
    let plain = snap::raw::Decoder::new().decompress_vec(block).map_err(wrong)?;
    out.extend_from_slice(&plain);
    Ok(())
}
