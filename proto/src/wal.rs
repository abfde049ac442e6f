//! A group of the local WAL: entries of many partitions that became durable with one sync.
//!
//! ```text
//! head 64 | index: 56 bytes an entry | data: the entries' bytes in turn | zeros to WAL_ALIGN
//! ```
//! Files are recycled, so old bytes stand behind the end. A group counts only if session, lane,
//! file sequence, group sequence and the crc of the group before all fit.

use bytes::{BufMut, Bytes};

use crate::codec::{FormatError, Reader};
use crate::crc::crc32c;
use crate::ids::{LaneId, PartitionId, SessionId, TopicId};
use crate::limits::{BATCH_BYTES_MAX, WAL_ALIGN, WAL_GROUP_BYTES_MAX};
use crate::object::RangeKind;

pub const GROUP_HEAD_BYTES: usize = 64;
pub const GROUP_ENTRY_BYTES: usize = 56;
const MAGIC: [u8; 4] = *b"LVWG";
const VERSION: u16 = 1;
const WHAT: &str = "wal group";

/// The fixed part of a group.
/// ```text
///  0 magic 4 | 4 version 2 | 6 lane 2 | 8 session 8 | 16 file seq 8 | 24 group seq 8 |
/// 32 synced seq 8 | 40 prev crc 4 | 44 entries 4 | 48 data len 4 | 52 body crc 4 |
/// 56 salt 4 | 60 crc of bytes 0..60
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupHead {
    pub lane: LaneId,
    /// Of the file this group stands in; grows each time a file is recycled.
    pub file_seq: u64,
    /// Grows by one per group of the lane, from 1.
    pub group_seq: u64,
    /// Highest group sequence known durable when this one was written; 0 for none.
    pub synced_seq: u64,
    /// Head crc of the group before; 0 for the first.
    pub prev_crc: u32,
    pub entries: u32,
    pub data_len: u32,
    /// Of index and data.
    pub body_crc: u32,
    /// Random, the same in all groups of a lane: no record can hold bytes that look like its group.
    pub salt: u32,
}

/// One entry of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupEntry {
    pub partition: PartitionId,
    pub leader_epoch: u32,
    pub base: u64,
    /// Exclusive.
    pub end: u64,
    pub len: u32,
    pub kind: RangeKind,
}

impl GroupHead {
    pub fn encode(&self) -> [u8; GROUP_HEAD_BYTES] {
        let mut out = [0; GROUP_HEAD_BYTES];
        out[0..4].copy_from_slice(&MAGIC);
        out[4..6].copy_from_slice(&VERSION.to_le_bytes());
        out[6..8].copy_from_slice(&self.lane.lane.to_le_bytes());
        out[8..16].copy_from_slice(&self.lane.session.to_u64().to_le_bytes());
        out[16..24].copy_from_slice(&self.file_seq.to_le_bytes());
        out[24..32].copy_from_slice(&self.group_seq.to_le_bytes());
        out[32..40].copy_from_slice(&self.synced_seq.to_le_bytes());
        out[40..44].copy_from_slice(&self.prev_crc.to_le_bytes());
        out[44..48].copy_from_slice(&self.entries.to_le_bytes());
        out[48..52].copy_from_slice(&self.data_len.to_le_bytes());
        out[52..56].copy_from_slice(&self.body_crc.to_le_bytes());
        out[56..60].copy_from_slice(&self.salt.to_le_bytes());
        let crc = crc32c(&out[..60]);
        out[60..64].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// The crc that the next group names as `prev_crc`.
    pub fn crc(&self) -> u32 {
        crc32c(&self.encode()[..60])
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut r = Reader::new(WHAT, bytes);
        let raw = r.take(GROUP_HEAD_BYTES)?;
        let mut r = Reader::new(WHAT, raw);
        if r.take(4)? != MAGIC {
            return Err(FormatError::new(WHAT, 0, "wrong magic"));
        }
        let version = r.u16()?;
        let lane = r.u16()?;
        let session = SessionId::from_u64(r.u64()?);
        let head = Self {
            lane: LaneId { session, lane },
            file_seq: r.u64()?,
            group_seq: r.u64()?,
            synced_seq: r.u64()?,
            prev_crc: r.u32()?,
            entries: r.u32()?,
            data_len: r.u32()?,
            body_crc: r.u32()?,
            salt: r.u32()?,
        };
        if r.u32()? != crc32c(&raw[..60]) {
            return Err(FormatError::new(WHAT, 60, "crc mismatch"));
        }
        // Only after the crc: a version in a torn head says nothing.
        if version != VERSION {
            let why = format!("version {version}; this release reads {VERSION}");
            return Err(FormatError::new(WHAT, 4, why));
        }
        if head.bytes() > WAL_GROUP_BYTES_MAX as u64 {
            return Err(FormatError::new(WHAT, 44, format!("{} bytes", head.bytes())));
        }
        Ok(head)
    }

    /// Bytes of the whole group without the zeros behind it.
    pub fn bytes(&self) -> u64 {
        GROUP_HEAD_BYTES as u64
            + u64::from(self.entries) * GROUP_ENTRY_BYTES as u64
            + u64::from(self.data_len)
    }

    /// Bytes on disk, zeros included.
    pub fn disk_bytes(&self) -> u64 {
        self.bytes().next_multiple_of(WAL_ALIGN as u64)
    }

    /// Index and data of the group whose head this is, `body` being all bytes after the head.
    pub fn body(&self, body: &Bytes) -> Result<Vec<(GroupEntry, Bytes)>, FormatError> {
        let len = self.bytes() as usize - GROUP_HEAD_BYTES;
        if body.len() < len {
            return Err(FormatError::new(WHAT, 0, format!("{} of {len} body bytes", body.len())));
        }
        if crc32c(&body[..len]) != self.body_crc {
            return Err(FormatError::new(WHAT, GROUP_HEAD_BYTES, "body crc mismatch"));
        }
        let mut r = Reader::new(WHAT, &body[..len]);
        let mut at = self.entries as usize * GROUP_ENTRY_BYTES;
        let mut out = Vec::with_capacity(self.entries as usize);
        for _ in 0..self.entries {
            let entry = GroupEntry::decode(&mut r)?;
            let end = at + entry.len as usize;
            if end > len {
                return Err(r.error(format!("entry of {} bytes at {at}", entry.len)));
            }
            out.push((entry, body.slice(at..end)));
            at = end;
        }
        if at != len {
            return Err(r.error(format!("data ends at {at} of {len}")));
        }
        Ok(out)
    }
}

impl GroupEntry {
    /// ```text
    /// 0 topic 16 | 16 partition 4 | 20 leader epoch 4 | 24 base 8 | 32 end 8 | 40 len 4 | 44 kind 1 |
    /// 45 reserved 11
    /// ```
    pub fn encode(&self, out: &mut impl BufMut) {
        out.put_u128_le(self.partition.topic.0);
        out.put_u32_le(self.partition.partition);
        out.put_u32_le(self.leader_epoch);
        out.put_u64_le(self.base);
        out.put_u64_le(self.end);
        out.put_u32_le(self.len);
        out.put_u8(match self.kind {
            RangeKind::Data => 0,
            RangeKind::HandOff => 1,
        });
        out.put_bytes(0, 11);
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, FormatError> {
        let topic = TopicId(r.u128()?);
        let partition = PartitionId { topic, partition: r.u32()? };
        let leader_epoch = r.u32()?;
        let (base, end) = (r.u64()?, r.u64()?);
        let len = r.u32()?;
        let kind = match r.u8()? {
            0 => RangeKind::Data,
            1 => RangeKind::HandOff,
            other => return Err(r.error(format!("entry kind {other}"))),
        };
        r.take(11)?;
        if base > end || end > i64::MAX as u64 || len as usize > BATCH_BYTES_MAX {
            return Err(r.error(format!("{partition}: offsets {base}..{end}, {len} bytes")));
        }
        Ok(Self { partition, leader_epoch, base, end, len, kind })
    }
}
