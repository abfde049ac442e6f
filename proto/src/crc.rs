//! CRC32C (Castagnoli), the one checksum of every Levee and Kafka format.

use crc_fast::{CrcAlgorithm, Digest};

/// Of one piece.
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// Of several pieces in turn.
pub struct Crc32c(Digest);

impl Default for Crc32c {
    fn default() -> Self {
        Self(Digest::new(CrcAlgorithm::Crc32Iscsi))
    }
}

impl Crc32c {
    pub fn update(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.update(bytes);
        self
    }

    pub fn finish(&self) -> u32 {
        self.0.finalize() as u32
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn matches_the_published_check_value() {
        // RFC 3720 appendix B.4: the CRC32C check value of "123456789".
        assert_eq!(super::crc32c(b"123456789"), 0xE306_9283);
        assert_eq!(super::Crc32c::default().update(b"1234").update(b"56789").finish(), 0xE306_9283);
    }
}
