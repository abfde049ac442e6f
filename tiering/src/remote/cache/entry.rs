//! What stands in a file of the disk cache: entries that name and check themselves, and the table
//! of a full file, so that a start need not walk through it.
//!
//! ```text
//! entry    magic "LVCE" 4 | version 2 | name length 2 | number 8 | data length 4 | data crc 4
//!          | head crc 4 (of all before it, and of the name) | name | data | zeros to 4096
//! table    per entry: fingerprint 8 | first block 4 | blocks 4, zeros to 4096
//! trailer  magic "LVCT" 4 | version 2 | zeros 2 | entries 4 | first block of the table 4
//!          | crc 4 (of the table without zeros, and of all before it) | zeros to 4096
//! ```
//! Only this broker's own cache reads it, and takes what it does not know for nothing. Does not own:
//! files (`disk`).

use bytes::Bytes;
use levee_proto::codec::{FormatError, Reader};
use levee_proto::crc::{Crc32c, crc32c};
use levee_runtime::AlignedBuf;

use super::ChunkId;

/// Positions in a file count in these.
pub(super) const BLOCK: usize = 4096;
/// Largest entry that is believed.
const DATA_MAX: usize = 64 << 20;
/// Longest name; a head and its name fit into a block.
const NAME_MAX: usize = 1024;
const HEAD_BYTES: usize = 28;
const ROW_BYTES: usize = 16;
const TRAILER_BYTES: usize = 20;
const VERSION: u16 = 1;
const ENTRY_MAGIC: [u8; 4] = *b"LVCE";
const TABLE_MAGIC: [u8; 4] = *b"LVCT";
const ENTRY: &str = "cache entry";
const TABLE: &str = "cache table";

/// Where an entry stands in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) fingerprint: u64,
    pub(super) block: u32,
    pub(super) blocks: u32,
}

/// A stable short name of a chunk (FNV-1a). Two that share one only cost a miss: entries carry their
/// full names.
pub(super) fn fingerprint(id: &ChunkId) -> u64 {
    let number = id.number.to_le_bytes();
    let bytes = id.object.as_bytes().iter().chain(&number);
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Whether an entry can be made of this.
pub(super) fn fits(id: &ChunkId, data: &[u8]) -> bool {
    id.object.len() <= NAME_MAX && data.len() <= DATA_MAX
}

/// Bytes of an entry in its file.
pub(super) fn size(id: &ChunkId, data: &[u8]) -> usize {
    (HEAD_BYTES + id.object.len() + data.len()).next_multiple_of(BLOCK)
}

/// Appends an entry that `fits`.
pub(super) fn write(out: &mut AlignedBuf, id: &ChunkId, data: &[u8]) {
    let mut head = Vec::with_capacity(HEAD_BYTES);
    head.extend_from_slice(&ENTRY_MAGIC);
    head.extend_from_slice(&VERSION.to_le_bytes());
    head.extend_from_slice(&(id.object.len() as u16).to_le_bytes());
    head.extend_from_slice(&id.number.to_le_bytes());
    head.extend_from_slice(&(data.len() as u32).to_le_bytes());
    head.extend_from_slice(&crc32c(data).to_le_bytes());
    let crc = Crc32c::default().update(&head).update(id.object.as_bytes()).finish();
    head.extend_from_slice(&crc.to_le_bytes());
    out.extend(&head);
    out.extend(id.object.as_bytes());
    out.extend(data);
    out.pad();
}

/// The head of an entry.
pub(super) struct Head {
    pub(super) id: ChunkId,
    data: std::ops::Range<usize>,
    data_crc: u32,
}

impl Head {
    /// `bytes` begin at an entry and hold at least its head and name.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut r = Reader::new(ENTRY, bytes);
        if r.take(4)? != ENTRY_MAGIC || r.u16()? != VERSION {
            return Err(FormatError::new(ENTRY, 0, "wrong magic or version"));
        }
        let name_len = usize::from(r.u16()?);
        let (number, data_len, data_crc) = (r.u64()?, r.u32()? as usize, r.u32()?);
        let (head_crc, name) = (r.u32()?, r.take(name_len.min(NAME_MAX + 1))?);
        let crc = Crc32c::default().update(&bytes[..HEAD_BYTES - 4]).update(name).finish();
        if crc != head_crc || name_len > NAME_MAX || data_len > DATA_MAX {
            return Err(FormatError::new(ENTRY, 0, "the head is damaged"));
        }
        let name = std::str::from_utf8(name)
            .map_err(|_| FormatError::new(ENTRY, HEAD_BYTES, "the name is not text"))?;
        let data = HEAD_BYTES + name_len..HEAD_BYTES + name_len + data_len;
        Ok(Self { id: ChunkId { object: name.into(), number }, data, data_crc })
    }

    pub(super) fn blocks(&self) -> u32 {
        self.data.end.div_ceil(BLOCK) as u32
    }

    /// The data of an entry, checked.
    pub(super) fn data(&self, entry: &Bytes) -> Result<Bytes, FormatError> {
        if entry.len() < self.data.end {
            return Err(FormatError::new(ENTRY, entry.len(), "the data ends early"));
        }
        let data = entry.slice(self.data.clone());
        match crc32c(&data) == self.data_crc {
            true => Ok(data),
            false => Err(FormatError::new(ENTRY, self.data.start, "the data is damaged")),
        }
    }
}

/// Appends the table and trailer of a file whose entries end at block `at`.
pub(super) fn write_table(out: &mut AlignedBuf, rows: &[Row], at: u32) {
    let mut table = Vec::with_capacity(rows.len() * ROW_BYTES);
    for row in rows {
        table.extend_from_slice(&row.fingerprint.to_le_bytes());
        table.extend_from_slice(&row.block.to_le_bytes());
        table.extend_from_slice(&row.blocks.to_le_bytes());
    }
    let mut trailer = Vec::with_capacity(TRAILER_BYTES);
    trailer.extend_from_slice(&TABLE_MAGIC);
    trailer.extend_from_slice(&VERSION.to_le_bytes());
    trailer.extend_from_slice(&[0; 2]);
    trailer.extend_from_slice(&(rows.len() as u32).to_le_bytes());
    trailer.extend_from_slice(&at.to_le_bytes());
    let crc = Crc32c::default().update(&table).update(&trailer).finish();
    trailer.extend_from_slice(&crc.to_le_bytes());
    out.extend(&table);
    out.pad();
    out.extend(&trailer);
    out.pad();
}

/// What the last block of a file says of its table.
pub(super) struct Trailer {
    head: Bytes,
    entries: usize,
    /// Bytes of the file in front of the table.
    pub(super) table_at: u64,
    crc: u32,
}

impl Trailer {
    pub(super) fn decode(last_block: &Bytes) -> Result<Self, FormatError> {
        let mut r = Reader::new(TABLE, last_block);
        if r.take(4)? != TABLE_MAGIC || r.u16()? != VERSION {
            return Err(FormatError::new(TABLE, 0, "wrong magic or version"));
        }
        r.take(2)?;
        let (entries, at, crc) = (r.u32()? as usize, r.u32()?, r.u32()?);
        let table_at = u64::from(at) * BLOCK as u64;
        Ok(Self { head: last_block.slice(..TRAILER_BYTES - 4), entries, table_at, crc })
    }

    /// Bytes of the table, with what fills its last block.
    pub(super) fn table_bytes(&self) -> u64 {
        (self.entries as u64 * ROW_BYTES as u64).next_multiple_of(BLOCK as u64)
    }

    /// `table` is what stands between the entries and the trailer.
    pub(super) fn rows(&self, table: &[u8]) -> Result<Vec<Row>, FormatError> {
        let len = self.entries.saturating_mul(ROW_BYTES);
        let Some(table) = table.get(..len) else {
            return Err(FormatError::new(TABLE, table.len(), "the table ends early"));
        };
        if Crc32c::default().update(table).update(&self.head).finish() != self.crc {
            return Err(FormatError::new(TABLE, 0, "crc mismatch"));
        }
        let mut r = Reader::new(TABLE, table);
        let mut row = || Ok(Row { fingerprint: r.u64()?, block: r.u32()?, blocks: r.u32()? });
        (0..self.entries).map(|_| row()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u64) -> ChunkId {
        ChunkId { object: "d/07/x".into(), number }
    }

    fn encoded(data: &[u8]) -> Bytes {
        let mut out = AlignedBuf::with_capacity(BLOCK);
        write(&mut out, &id(7), data);
        Bytes::copy_from_slice(&out)
    }

    #[test]
    fn an_entry_gives_back_what_went_in_and_nothing_else() {
        let data = vec![5; 6000];
        let bytes = encoded(&data);
        assert_eq!((bytes.len(), size(&id(7), &data)), (8192, 8192));
        let head = Head::decode(&bytes).unwrap();
        assert_eq!((&head.id, head.blocks()), (&id(7), 2));
        assert_eq!(head.data(&bytes).unwrap(), data);
        // Any flipped bit in front of the padding is seen, any early end too.
        let end = HEAD_BYTES + 6 + data.len();
        for at in (0..end).step_by(13).chain([end - 1]) {
            let mut bad = bytes.to_vec();
            bad[at] ^= 1;
            let bad = Bytes::from(bad);
            let read = Head::decode(&bad).and_then(|head| head.data(&bad));
            assert!(read.is_err(), "byte {at}");
        }
        for len in (0..end).step_by(97) {
            let short = bytes.slice(..len);
            assert!(Head::decode(&short).and_then(|head| head.data(&short)).is_err(), "{len}");
        }
    }

    #[test]
    fn a_table_gives_back_its_rows_and_nothing_else() {
        let rows: Vec<Row> =
            (0..300).map(|n| Row { fingerprint: n * 7, block: n as u32, blocks: 1 }).collect();
        let mut out = AlignedBuf::with_capacity(BLOCK);
        write_table(&mut out, &rows, 300);
        let bytes = Bytes::copy_from_slice(&out);
        let (table, last) =
            (bytes.slice(..bytes.len() - BLOCK), bytes.slice(bytes.len() - BLOCK..));
        let trailer = Trailer::decode(&last).unwrap();
        assert_eq!(trailer.table_at, 300 * BLOCK as u64);
        assert_eq!(trailer.rows(&table).unwrap(), rows);
        assert!(trailer.rows(&table[..300 * ROW_BYTES - 1]).is_err());
        for at in (0..300 * ROW_BYTES).step_by(31) {
            let mut bad = table.to_vec();
            bad[at] ^= 1;
            assert!(trailer.rows(&bad).is_err(), "byte {at}");
        }
        for at in (0..TRAILER_BYTES).filter(|at| !(6..8).contains(at)) {
            let mut bad = last.to_vec();
            bad[at] ^= 1;
            let read = Trailer::decode(&bad.into()).and_then(|trailer| trailer.rows(&table));
            assert!(read.is_err(), "byte {at}");
        }
    }

    #[test]
    fn numbers_and_names_have_fingerprints_of_their_own() {
        let other = ChunkId { object: "d/07/y".into(), number: 7 };
        let all = [id(7), id(8), other].map(|id| fingerprint(&id));
        assert!(all[0] != all[1] && all[0] != all[2] && all[1] != all[2]);
        // Files outlive the process that wrote them: the number must never change.
        let empty = ChunkId { object: "".into(), number: 0 };
        assert_eq!(fingerprint(&empty), 0xa8c7_f832_281a_39c5);
    }
}
