//! One slot of the MetaLog, and the garbage boundary.

use bytes::{BufMut, Bytes, BytesMut};

use super::record::{RECORD_HEAD_BYTES, Record};
use crate::codec::{FormatError, Reader};
use crate::crc::crc32c;
use crate::head::{HEAD_BYTES, Head, Kind};
use crate::ids::{Nonce, Writer};
use crate::limits::METALOG_SLOT_BYTES_MAX;

/// ```text
/// head 64 (seq = slot, extra = crc of the slot before) | cluster 16 | record count 4 | records |
/// crc 4 of everything before it
/// ```
/// That crc is what the next slot names: the chain.
#[derive(Debug, Clone, PartialEq)]
pub struct Slot {
    pub cluster: Nonce,
    pub slot: u64,
    pub term: u64,
    pub nonce: Nonce,
    /// The controller's broker id, as a session word with epoch 0.
    pub writer: Writer,
    /// 0 for the first slot.
    pub prev_crc: u32,
    pub records: Vec<Record>,
}

const WHAT: &str = "metalog slot";

impl Slot {
    /// The bytes, and the crc that the next slot chains to.
    pub fn encode(&self) -> (Bytes, u32) {
        let mut body = BytesMut::new();
        body.put_u128_le(self.cluster.0);
        body.put_u32_le(self.records.len() as u32);
        self.records.iter().for_each(|record| record.put(&mut body));
        let head = Head {
            kind: Kind::MetaSlot,
            nonce: self.nonce,
            writer: self.writer,
            term: self.term,
            seq: self.slot,
            body_len: body.len() as u64,
            extra: self.prev_crc,
        };
        let mut out = BytesMut::with_capacity(HEAD_BYTES + body.len() + 4);
        out.put_slice(&head.encode());
        out.put_slice(&body);
        let crc = crc32c(&out);
        out.put_u32_le(crc);
        (out.freeze(), crc)
    }

    /// Returns the slot and its chain crc.
    pub fn decode(bytes: &[u8]) -> Result<(Self, u32), FormatError> {
        if bytes.len() > METALOG_SLOT_BYTES_MAX {
            return Err(FormatError::new(WHAT, 0, format!("{} bytes", bytes.len())));
        }
        let head = Head::expect(Kind::MetaSlot, bytes)?;
        let crc_at = bytes
            .len()
            .checked_sub(4)
            .filter(|at| *at >= HEAD_BYTES)
            .ok_or_else(|| FormatError::new(WHAT, HEAD_BYTES, "no body"))?;
        let crc = crc32c(&bytes[..crc_at]);
        if bytes[crc_at..] != crc.to_le_bytes() {
            return Err(FormatError::new(WHAT, crc_at, "crc mismatch"));
        }
        let mut r = Reader::new(WHAT, &bytes[HEAD_BYTES..crc_at]);
        let cluster = Nonce(r.u128()?);
        let count = r.count(RECORD_HEAD_BYTES)?;
        let records = (0..count).map(|_| Record::get(&mut r)).collect::<Result<_, _>>()?;
        r.end()?;
        let slot = Self {
            cluster,
            slot: head.seq,
            term: head.term,
            nonce: head.nonce,
            writer: head.writer,
            prev_crc: head.extra,
            records,
        };
        Ok((slot, crc))
    }
}

/// Slots below this one may be gone. Create-once; the largest one counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Boundary {
    pub slot: u64,
    pub term: u64,
    pub nonce: Nonce,
    pub writer: Writer,
}

impl Boundary {
    pub fn encode(&self) -> Bytes {
        let head = Head {
            kind: Kind::MetaBoundary,
            nonce: self.nonce,
            writer: self.writer,
            term: self.term,
            seq: self.slot,
            body_len: 0,
            extra: 0,
        };
        Bytes::copy_from_slice(&head.encode())
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let head = Head::expect(Kind::MetaBoundary, bytes)?;
        Ok(Self { slot: head.seq, term: head.term, nonce: head.nonce, writer: head.writer })
    }
}
