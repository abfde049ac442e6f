//! The first bytes of a stamped record: its place in its writer's chain, and when it was due.
//!
//! `run u64 | writer u32 | key length u32 | sequence u64 | due u64 (ns of the run) | previous u64 |
//! own u64`, big-endian. `own` is a checksum over everything else in the record, `previous` the
//! `own` of the writer's record before in the same partition: a chain. It finds what hardware and
//! software get wrong; it is no defence against somebody who forges records.

use crc_fast::{CrcAlgorithm, Digest};

pub const STAMP_BYTES: usize = 48;
/// Where `own` is: it covers what is before, and what follows the stamp.
const OWN_AT: usize = 40;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    pub run: u64,
    pub writer: u32,
    pub sequence: u64,
    pub due: u64,
    pub previous: u64,
    pub own: u64,
}

impl Stamp {
    /// Writes the stamp over the first bytes of `value`; gives `own`, the next one's `previous`.
    pub fn write(mut self, key: &[u8], value: &mut [u8]) -> u64 {
        value[..8].copy_from_slice(&self.run.to_be_bytes());
        value[8..12].copy_from_slice(&self.writer.to_be_bytes());
        value[12..16].copy_from_slice(&(key.len() as u32).to_be_bytes());
        value[16..24].copy_from_slice(&self.sequence.to_be_bytes());
        value[24..32].copy_from_slice(&self.due.to_be_bytes());
        value[32..OWN_AT].copy_from_slice(&self.previous.to_be_bytes());
        self.own = own(key, value);
        value[OWN_AT..STAMP_BYTES].copy_from_slice(&self.own.to_be_bytes());
        self.own
    }

    /// Nothing where the record is too short for a stamp.
    pub fn read(value: &[u8]) -> Option<Self> {
        let (run, rest) = value.split_first_chunk::<8>()?;
        let (writer, rest) = rest.split_first_chunk::<4>()?;
        let (_, rest) = rest.split_first_chunk::<4>()?;
        let (sequence, rest) = rest.split_first_chunk::<8>()?;
        let (due, rest) = rest.split_first_chunk::<8>()?;
        let (previous, rest) = rest.split_first_chunk::<8>()?;
        let (own, _) = rest.split_first_chunk::<8>()?;
        Some(Self {
            run: u64::from_be_bytes(*run),
            writer: u32::from_be_bytes(*writer),
            sequence: u64::from_be_bytes(*sequence),
            due: u64::from_be_bytes(*due),
            previous: u64::from_be_bytes(*previous),
            own: u64::from_be_bytes(*own),
        })
    }

    pub fn is_intact(&self, key: &[u8], value: &[u8]) -> bool {
        value.len() >= STAMP_BYTES && own(key, value) == self.own
    }
}

fn own(key: &[u8], value: &[u8]) -> u64 {
    let mut digest = Digest::new(CrcAlgorithm::Crc64Nvme);
    digest.update(key);
    digest.update(&value[..OWN_AT]);
    digest.update(&value[STAMP_BYTES..]);
    digest.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_reads_back_and_covers_every_byte() {
        let mut value = vec![7; 200];
        let stamp = Stamp { run: 1, writer: 2, sequence: 3, due: 4, previous: 5, own: 0 };
        let own = stamp.write(b"key", &mut value);
        let read = Stamp::read(&value).unwrap();
        assert_eq!(read, Stamp { own, ..stamp });
        assert!(read.is_intact(b"key", &value));
        assert!(!read.is_intact(b"kex", &value));
        for at in 0..value.len() {
            let mut changed = value.clone();
            changed[at] ^= 1;
            assert!(!Stamp::read(&changed).unwrap().is_intact(b"key", &changed), "byte {at}");
        }
        assert!(Stamp::read(&value[..47]).is_none());
    }
}
