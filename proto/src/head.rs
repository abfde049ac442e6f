//! The 64-byte head that every object in the bucket starts with.
//!
//! Its nonce stands at a fixed place, so that a writer that got no clear answer can fetch these
//! bytes and see whether the object there is its own.

use crate::codec::{FormatError, Reader};
use crate::crc::crc32c;
use crate::ids::{Nonce, Writer};

pub const HEAD_BYTES: usize = 64;

/// What kind of object this is. The value is its magic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `CLUSTER`: identity of the bucket root.
    Cluster,
    /// One MetaLog slot.
    MetaSlot,
    /// A MetaLog snapshot.
    MetaSnapshot,
    /// A MetaLog garbage boundary.
    MetaBoundary,
    /// A tiered object of any level; an L0 object is a WAL slot.
    Tiered,
    /// The end of an object lane.
    Fence,
    /// What the store probe writes.
    Probe,
}

impl Kind {
    pub const ALL: [Self; 7] = [
        Self::Cluster,
        Self::MetaSlot,
        Self::MetaSnapshot,
        Self::MetaBoundary,
        Self::Tiered,
        Self::Fence,
        Self::Probe,
    ];

    pub fn magic(self) -> [u8; 4] {
        match self {
            Self::Cluster => *b"LVCL",
            Self::MetaSlot => *b"LVML",
            Self::MetaSnapshot => *b"LVSN",
            Self::MetaBoundary => *b"LVGB",
            Self::Tiered => *b"LVTO",
            Self::Fence => *b"LVFE",
            Self::Probe => *b"LVPR",
        }
    }
}

/// Byte map (little-endian):
/// ```text
///  0 magic     4   kind
///  4 version   2   unknown version: refuse
///  6 flags     2   low byte: refuse unknown bits; high byte: ignore unknown bits
///  8 nonce    16   of this write
/// 24 writer    8   session (broker << 32 | epoch) or job (top bit)
/// 32 term      8   MetaLog term, 0 where there is none
/// 40 seq       8   slot, or the writer's object number
/// 48 body_len  8   bytes between this head and the footer, or the end
/// 56 extra     4   lane number in L0 and FENCE objects, else 0
/// 60 crc       4   crc32c of bytes 0..60
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    pub kind: Kind,
    pub nonce: Nonce,
    pub writer: Writer,
    pub term: u64,
    pub seq: u64,
    pub body_len: u64,
    pub extra: u32,
}

pub const VERSION: u16 = 1;

impl Head {
    pub fn encode(&self) -> [u8; HEAD_BYTES] {
        let mut out = [0; HEAD_BYTES];
        out[0..4].copy_from_slice(&self.kind.magic());
        out[4..6].copy_from_slice(&VERSION.to_le_bytes());
        out[8..24].copy_from_slice(&self.nonce.0.to_le_bytes());
        out[24..32].copy_from_slice(&self.writer.0.to_le_bytes());
        out[32..40].copy_from_slice(&self.term.to_le_bytes());
        out[40..48].copy_from_slice(&self.seq.to_le_bytes());
        out[48..56].copy_from_slice(&self.body_len.to_le_bytes());
        out[56..60].copy_from_slice(&self.extra.to_le_bytes());
        let crc = crc32c(&out[..60]);
        out[60..64].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads the head at the start of `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut r = Reader::new("object head", bytes);
        let raw = r.take(HEAD_BYTES)?;
        let mut r = Reader::new("object head", raw);
        let magic = r.take(4)?;
        let kind = Kind::ALL
            .into_iter()
            .find(|k| k.magic() == magic)
            .ok_or_else(|| FormatError::new("object head", 0, format!("magic {magic:02x?}")))?;
        let version = r.u16()?;
        if version != VERSION {
            return Err(FormatError::new(
                "object head",
                4,
                format!("version {version}; this release reads {VERSION}"),
            ));
        }
        let flags = r.u16()?;
        if flags & 0xff != 0 {
            return Err(FormatError::new("object head", 6, format!("unknown flags {flags:#06x}")));
        }
        let head = Self {
            kind,
            nonce: Nonce(r.u128()?),
            writer: Writer(r.u64()?),
            term: r.u64()?,
            seq: r.u64()?,
            body_len: r.u64()?,
            extra: r.u32()?,
        };
        if r.u32()? != crc32c(&raw[..60]) {
            return Err(FormatError::new("object head", 60, "crc mismatch"));
        }
        Ok(head)
    }

    /// As `decode`, and the object must be of this kind.
    pub fn expect(kind: Kind, bytes: &[u8]) -> Result<Self, FormatError> {
        let head = Self::decode(bytes)?;
        if head.kind != kind {
            return Err(FormatError::new(
                "object head",
                0,
                format!("is a {:?} object, expected {kind:?}", head.kind),
            ));
        }
        Ok(head)
    }
}
