//! Bytes whose checksums are right and whose content cannot be true: each must be refused, and by
//! the check that is meant for it.

use bytes::{BufMut, Bytes, BytesMut};
use levee_proto::FormatError;
use levee_proto::crc::crc32c;
use levee_proto::metalog::{Slot, Snapshot};
use levee_proto::object::{AbortedTxn, Footer, Index, Level, ProducerSnapshot, SparseEntry};
use levee_proto::record::codecs::Compression;
use levee_proto::record::records::decode_records;
use levee_proto::wal::{GROUP_HEAD_BYTES, GroupEntry, GroupHead};

use crate::samples;

fn refused<T: std::fmt::Debug>(result: Result<T, FormatError>, why: &str) {
    let error = result.expect_err(why);
    assert!(error.why.contains(why), "{error}; expected: {why}");
}

/// A footer that was changed before it was encoded.
fn footer(level: u8, change: impl Fn(&mut Footer)) -> Result<Footer, FormatError> {
    let (_, finished) = if level == 0 { samples::object_l0() } else { samples::object_l1() };
    let mut footer = finished.footer;
    change(&mut footer);
    Footer::decode(&footer.encode())
}

#[test]
fn full_indexes_that_do_not_fit_their_range() {
    let batch =
        |footer: &mut Footer, change: fn(&mut levee_proto::object::BatchEntry)| match &mut footer
            .ranges[0]
            .index
        {
            Index::Full(batches) => change(&mut batches[1]),
            Index::Sparse(_) => unreachable!("a slot has full indexes"),
        };
    refused(footer(0, |f| f.ranges[0].batches += 1), "in a full index");
    refused(footer(0, |f| batch(f, |b| b.pos -= 1)), "batch of");
    refused(footer(0, |f| batch(f, |b| b.len += 1)), "batch of");
    refused(footer(0, |f| batch(f, |b| b.base_offset -= 1)), "batch at offset");
    refused(footer(0, |f| batch(f, |b| b.last_offset_delta += 1)), "batch at offset");
    refused(footer(0, |f| f.ranges[0].end = f.ranges[0].base - 1), "offsets");
    refused(footer(0, |f| f.ranges[0].end = 1 << 63), "offsets");
    refused(footer(0, |f| f.ranges[0].len = (1 << 30) + 1), "bytes at");
    refused(footer(0, |f| f.ranges[0].pos = u64::MAX), "bytes at");
}

#[test]
fn sparse_indexes_that_a_seek_would_go_wrong_by() {
    let first = SparseEntry { base_offset: 100, max_timestamp: 50, pos: 0, crc: 1 };
    let with =
        |second: SparseEntry| footer(1, |f| f.ranges[0].index = Index::Sparse(vec![first, second]));
    let good = SparseEntry { base_offset: 101, max_timestamp: 50, pos: 60, crc: 2 };
    with(good).unwrap();
    refused(with(SparseEntry { base_offset: 100, ..good }), "block of offset");
    refused(with(SparseEntry { base_offset: 103, ..good }), "block of offset");
    refused(with(SparseEntry { max_timestamp: 49, ..good }), "block of offset");
    refused(with(SparseEntry { pos: 0, ..good }), "block of offset");
    refused(with(SparseEntry { pos: 111, ..good }), "block of offset");
}

#[test]
fn sections_of_the_wrong_range() {
    let (_, finished) = samples::object_l1();
    let mut footer = finished.footer;
    footer.ranges[1].producers = Some(samples::producers());
    let good = footer.encode().to_vec();
    let second = 24 + 2 * 96 + 16;
    let with = |number: u8| {
        let mut bytes = good.clone();
        bytes[second] = number;
        Footer::decode(&bytes)
    };
    assert_eq!(with(1).unwrap(), footer);
    refused(with(0), "second producer state");
    refused(with(2), "there is none");
}

#[test]
fn aborted_transactions_outside_of_their_range() {
    let with = |change: fn(&mut Vec<AbortedTxn>)| {
        let mut footer = samples::object_txn(Level::L1).1.footer;
        change(&mut footer.ranges[0].aborted);
        Footer::decode(&footer.encode())
    };
    with(|_| {}).unwrap();
    refused(with(|all| all.reverse()), "in the range");
    refused(with(|all| all[0].last_offset = 99), "in the range");
    refused(with(|all| all[1].last_offset = 105), "in the range");
    refused(with(|all| all[0].first_offset = 100), "in the range");
    refused(with(|all| all[1].last_stable_offset = 106), "last stable offset");
    // The section's head stands in front of the last two entries.
    let (_, finished) = samples::object_txn(Level::L1);
    let good = finished.footer.encode().to_vec();
    let head = good.len() - 2 * 32 - 8;
    let changed = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[head + at] = value;
        Footer::decode(&bytes)
    };
    refused(changed(0, 3), "claims");
    refused(changed(3, 0xff), "claims");
    refused(changed(4, 31), "too small");
    refused(changed(4, 33), "");
    changed(6, 1).unwrap();
    // Both sections are of the one range.
    let second = 24 + 96 + 16;
    let again = |kind: u8| {
        let mut bytes = good.clone();
        bytes[second + 4] = kind;
        Footer::decode(&bytes)
    };
    refused(again(1), "second producer state");
    assert!(again(9).unwrap().ranges[0].aborted.is_empty(), "of a later release");
}

#[test]
fn producer_states() {
    let with = |change: fn(&mut ProducerSnapshot)| {
        let mut state = samples::producers();
        change(&mut state);
        let mut bytes = BytesMut::new();
        state.encode(&mut bytes);
        ProducerSnapshot::decode(&bytes)
    };
    refused(with(|s| s.producers.reverse()), "out of order");
    refused(with(|s| s.producers[1].producer_id = 5), "out of order");
    refused(with(|s| s.producers[1].batches = vec![s.producers[1].batches[0]; 6]), "6 batches");
    let head = |count: u32, producer: u16, batch: u16| {
        let mut bytes = BytesMut::new();
        bytes.put_u32_le(count);
        bytes.put_u16_le(producer);
        bytes.put_u16_le(batch);
        bytes.put_bytes(0, 100);
        ProducerSnapshot::decode(&bytes)
    };
    refused(head(u32::MAX, 32, 28), "claims");
    refused(head(1, 31, 28), "too small");
    refused(head(1, 32, 27), "too small");
}

/// A group of these entries over `data` bytes, whose crcs are right.
fn group(entries: &[GroupEntry], data: usize) -> Result<usize, FormatError> {
    let mut body = BytesMut::new();
    entries.iter().for_each(|entry| entry.encode(&mut body));
    body.put_bytes(7, data);
    let (head, ..) = samples::wal_group();
    let (entries, data_len) = (entries.len() as u32, data as u32);
    let head = GroupHead { entries, data_len, body_crc: crc32c(&body), ..head };
    GroupHead::decode(&head.encode())?.body(&body.freeze()).map(|entries| entries.len())
}

#[test]
fn wal_groups() {
    let (.., bytes) = samples::wal_group();
    let good = {
        let head = GroupHead::decode(&bytes).unwrap();
        let (entry, _) = head.body(&bytes.slice(GROUP_HEAD_BYTES..)).unwrap()[0];
        GroupEntry { len: 50, ..entry }
    };
    assert_eq!(group(&[good, good], 100).unwrap(), 2);
    refused(group(&[good, good], 99), "entry of 50 bytes");
    refused(group(&[good, good], 101), "data ends at");
    refused(group(&[GroupEntry { base: 104, ..good }], 50), "offsets 104..103");
    refused(group(&[GroupEntry { end: 1 << 63, ..good }], 50), "offsets");
    refused(group(&[GroupEntry { len: u32::MAX, ..good }], 50), "bytes");
    let (head, ..) = samples::wal_group();
    let huge = GroupHead { entries: u32::MAX, data_len: u32::MAX, ..head };
    refused(GroupHead::decode(&huge.encode()), "bytes");
    let mut other = head.encode();
    other[4] = 2;
    let crc = crc32c(&other[..60]);
    other[60..].copy_from_slice(&crc.to_le_bytes());
    refused(GroupHead::decode(&other), "version 2");
}

/// Changes bytes of something that ends in a crc, and makes that crc right.
fn resealed(bytes: &[u8], change: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = bytes[..bytes.len() - 4].to_vec();
    change(&mut bytes);
    let crc = crc32c(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

#[test]
fn metalog_slots_and_snapshots() {
    let (slot, _) = samples::slot().encode();
    refused(Slot::decode(&resealed(&slot, |b| b.push(0))), "too many");
    // Head 64, cluster 16, then the record count.
    refused(Slot::decode(&resealed(&slot, |b| b[80..84].fill(0xff))), "claims");
    refused(Slot::decode(&resealed(&slot, |b| b[80] -= 1)), "too many");
    refused(Slot::decode(&resealed(&slot, |b| b[85] = 0x7f)), "may not be skipped");
    refused(Slot::decode(&vec![0; (8 << 20) + 1]), "bytes");
    let snapshot = samples::snapshot().encode();
    // Head 64, cluster 16, then the unpacked size.
    refused(Snapshot::decode(&resealed(&snapshot, |b| b[80] -= 1)), "unpacks to");
    refused(Snapshot::decode(&resealed(&snapshot, |b| b[80] += 1)), "unpacks to");
    refused(Snapshot::decode(&resealed(&snapshot, |b| b[87] = 1)), "bytes unpacked");
}

/// A batch without compression whose record bytes were changed.
fn records(change: impl Fn(&mut Vec<u8>)) -> Result<usize, FormatError> {
    let mut bytes = samples::batch(Compression::None).to_vec();
    change(&mut bytes);
    let length = bytes.len() as u32 - 12;
    bytes[8..12].copy_from_slice(&length.to_be_bytes());
    let crc = crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    decode_records(&Bytes::from(bytes)).map(|records| records.len())
}

#[test]
fn records_of_a_batch() {
    assert_eq!(records(|_| ()).unwrap(), 3);
    refused(records(|b| b.push(0)), "behind the last one");
    refused(records(|b| b[60] = 2), "behind the last one");
    refused(records(|b| b[60] = 4), "ends early");
    refused(
        records(|b| b[57..61].copy_from_slice(&[0x7f, 0xff, 0xff, 0xff])),
        "records in 50 bytes",
    );
    // Byte 61 is the length of the first record, a zigzag number: one step is 2.
    refused(records(|b| b[61] += 2), "in place of");
    refused(records(|b| b[61] = 1), "no length");
    refused(records(|b| b[22] |= 7), "compression 7");
}

#[test]
fn compressions_stop_at_their_bound() {
    let plain = vec![0; 200_000];
    for codec in Compression::ALL.into_iter().filter(|codec| *codec != Compression::None) {
        let packed = Bytes::from(codec.compress(&plain));
        assert_eq!(codec.decompress(&packed, plain.len()).unwrap(), plain, "{codec:?}");
        refused(codec.decompress(&packed, plain.len() - 1), "unpack to more than");
    }
}
