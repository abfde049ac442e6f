//! Hot segments on a real folder.

#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

use bytes::{BufMut, Bytes, BytesMut};
use levee_hot_log::segment::{HotSegments, SegmentError};
use levee_proto::crc::crc32c;
use levee_proto::record::{StoredBatch, batch};
use levee_runtime::real::RealWorld;

const EPOCH: u32 = 1;

/// A stamped batch of `count` records of some opaque bytes.
fn stored(base: u64, count: u32, size: usize) -> StoredBatch {
    let mut b = BytesMut::new();
    b.put_i64(0);
    b.put_i32((61 + size - 12) as i32);
    b.put_i32(0);
    b.put_u8(2);
    b.put_u32(0);
    b.put_i16(0);
    b.put_i32(count as i32 - 1);
    b.put_i64(1000 + base as i64);
    b.put_i64(1000 + base as i64);
    b.put_i64(-1);
    b.put_i16(-1);
    b.put_i32(-1);
    b.put_i32(count as i32);
    b.put_bytes(base as u8, size);
    let crc = crc32c(&b[21..]);
    b[17..21].copy_from_slice(&crc.to_be_bytes());
    let bytes = b.freeze();
    let header = batch::check(&bytes).unwrap();
    StoredBatch::stamp(&bytes, header, base, EPOCH)
}

fn bases(bytes: &Bytes) -> Vec<u64> {
    let mut found = Vec::new();
    let whole = batch::check_run(bytes, |_, header| {
        found.push(header.base_offset);
        true
    });
    assert_eq!(whole.unwrap(), bytes.len(), "only whole batches");
    found
}

#[tokio::test]
async fn every_offset_is_found_and_bounds_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let hot = HotSegments::new(RealWorld::host(), dir.path().join("p"), 300_000);
    for n in 0..100u64 {
        hot.append(&[stored(n * 10, 5, 9_000), stored(n * 10 + 5, 5, 200)]).await.unwrap();
    }
    assert_eq!((hot.start(), hot.end()), (Some(0), Some(1000)));
    for offset in 0..1000 {
        let bytes = hot.read(offset, 20_000, false).await.unwrap();
        assert_eq!(hot.read(offset, 20_000, true).await.unwrap(), bytes);
        let found = bases(&bytes);
        assert_eq!(found[0], offset / 5 * 5, "the first batch holds the offset");
        assert!(bytes.len() <= 20_000);
        assert!(found.windows(2).all(|w| w[1] == w[0] + 5), "no batch is left out: {found:?}");
    }
    // One batch is given even where it is larger than asked for.
    assert_eq!(bases(&hot.read(10, 1, false).await.unwrap()), [10]);
    let block = hot.find_time(1500).unwrap();
    assert!(block <= 500 && block > 400, "{block}");
    hot.drop_below(500).await;
    let start = hot.start().unwrap();
    assert!(start > 300 && start <= 500, "whole segments only: {start}");
    assert!(matches!(hot.read(3, 10, false).await, Err(SegmentError::Gone(3))));
}

#[tokio::test]
async fn a_large_batch_behind_small_ones_and_a_flipped_bit() {
    let dir = tempfile::tempdir().unwrap();
    let hot = HotSegments::new(RealWorld::host(), dir.path().join("p"), 64 << 20);
    hot.append(&[stored(0, 1, 100), stored(1, 1, 3 << 20), stored(2, 1, 100)]).await.unwrap();
    assert_eq!(bases(&hot.read(1, 100, false).await.unwrap()), [1]);
    assert_eq!(bases(&hot.read(0, 100, false).await.unwrap()), [0]);
    let path = std::fs::read_dir(dir.path().join("p")).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[2 << 20] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    assert!(matches!(hot.read(1, 100, false).await, Err(SegmentError::Corrupt { .. })));
    assert_eq!(bases(&hot.read(2, 100, false).await.unwrap()), [2]);
}

/// I17: whatever bit of three batches flips, heads included, a read gives their bytes or an error.
#[tokio::test]
async fn no_flipped_bit_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let hot = HotSegments::new(RealWorld::host(), dir.path().join("p"), 64 << 20);
    let batches = [stored(10, 5, 90), stored(15, 7, 60), stored(22, 5, 80)];
    hot.append(&batches).await.unwrap();
    let path = std::fs::read_dir(dir.path().join("p")).unwrap().next().unwrap().unwrap().path();
    let file = std::fs::read(&path).unwrap();
    let good: Vec<Bytes> = batches.iter().map(StoredBatch::to_bytes).collect();
    let mut refused = 0;
    for bit in 0..8 * good.concat().len() {
        let mut bad = file.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(&path, bad).unwrap();
        for (number, offset) in [10, 18, 26].into_iter().enumerate() {
            for most in [1, 1 << 20] {
                match hot.read(offset, most, false).await {
                    Ok(read) => {
                        let wanted = good[number..].concat();
                        assert!(wanted.starts_with(&read), "bit {bit}, offset {offset}");
                    }
                    Err(SegmentError::Corrupt { .. }) => refused += 1,
                    Err(other) => panic!("{other}"),
                }
            }
        }
    }
    assert!(refused > 0);
}
