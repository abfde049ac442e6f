//! What the targets share: checksums made right, so that a fuzzer does not have to guess them.

use levee_proto::crc::crc32c;

fn put(bytes: &mut [u8], at: usize, covered: std::ops::Range<usize>) {
    let crc = crc32c(&bytes[covered]);
    bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
}

/// Bytes 0..60 are covered by the crc behind them.
pub fn seal_head(bytes: &mut [u8]) {
    if bytes.len() >= 64 {
        put(bytes, 60, 0..60);
    }
}

/// A head, then a body, then a crc of both.
pub fn seal_object(bytes: &mut [u8]) {
    seal_head(bytes);
    if bytes.len() >= 68 {
        let end = bytes.len() - 4;
        put(bytes, end, 0..end);
    }
}

/// A WAL group that takes all bytes behind its head.
pub fn seal_group(bytes: &mut [u8]) {
    if bytes.len() >= 64 {
        put(bytes, 52, 64..bytes.len());
        seal_head(bytes);
    }
}

/// A record batch that takes all bytes.
pub fn seal_batch(bytes: &mut [u8]) {
    if bytes.len() >= 61 {
        let length = bytes.len() as u32 - 12;
        bytes[8..12].copy_from_slice(&length.to_be_bytes());
        put(bytes, 17, 21..bytes.len());
        bytes[17..21].reverse();
    }
}
