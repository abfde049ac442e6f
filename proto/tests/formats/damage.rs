//! Bytes that are anything: no decoder panics, none believes a count, and where a crc covers the
//! bytes no damage is taken for a value.

use bytes::{BufMut, Bytes, BytesMut};
use levee_proto::FormatError;
use levee_proto::codec::Reader;
use levee_proto::crc::crc32c;
use levee_proto::head::Head;
use levee_proto::metalog::wire::Wire;
use levee_proto::metalog::{Boundary, ClusterId, Image, Record, Slot, Snapshot};
use levee_proto::object::{Footer, Level, ProducerSnapshot, Trailer};
use levee_proto::record::Marker;
use levee_proto::record::batch::{self, BatchHeader};
use levee_proto::record::codecs::Compression;
use levee_proto::record::records::decode_records;
use levee_proto::record::seek::{Run, seek};
use levee_proto::wal::{GROUP_HEAD_BYTES, GroupHead};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index as At;

use crate::samples;

/// Everything that reads bytes; answers do not matter, that there is one does.
fn decode_all(bytes: &Bytes) {
    drop(Head::decode(bytes));
    drop(BatchHeader::decode(bytes));
    drop(decode_records(bytes));
    drop(batch::check_run(bytes, |_, _| true));
    for compacted in [false, true] {
        let mut run = Run { next: 0, end: u64::MAX, leader_epoch: 0, compacted };
        drop(seek(bytes, &mut run, 5, 1000));
    }
    drop(Footer::decode(bytes).map(|footer| footer.encode()));
    if let Ok(trailer) = Trailer::decode(bytes, bytes.len() as u64) {
        let pos = trailer.footer_pos as usize;
        drop(trailer.footer(&bytes[pos..pos + trailer.footer_len as usize]));
    }
    drop(ProducerSnapshot::decode(bytes));
    if let Ok(head) = GroupHead::decode(bytes) {
        drop(head.body(&bytes.slice(GROUP_HEAD_BYTES..)));
    }
    drop(Slot::decode(bytes));
    drop(Marker::of(bytes));
    drop(Record::get(&mut Reader::new("record", bytes)));
    drop(Snapshot::decode(bytes));
    drop(Image::get(&mut Reader::new("image", bytes)));
    drop(Boundary::decode(bytes));
    for codec in Compression::ALL {
        drop(codec.decompress(bytes, 10_000));
    }
}

/// One valid encoding of each format.
fn valid() -> Vec<Bytes> {
    let mut producers = BytesMut::new();
    samples::producers().encode(&mut producers);
    let mut image = BytesMut::new();
    samples::image().put(&mut image);
    let mut all = vec![
        Bytes::copy_from_slice(&samples::head().encode()),
        samples::object_l0().0,
        samples::object_l1().0,
        samples::object_l0().1.footer.encode(),
        samples::object_l1().1.footer.encode(),
        samples::object_txn(Level::L0).1.footer.encode(),
        samples::object_txn(Level::L1).1.footer.encode(),
        samples::marker(100).to_bytes(),
        producers.freeze(),
        samples::wal_group().2,
        samples::slot().encode().0,
        samples::snapshot().encode(),
        image.freeze(),
    ];
    all.extend(Compression::ALL.map(samples::batch));
    all
}

/// Makes every crc right again that guards the start or the end of these bytes, so that damage
/// gets past it.
fn with_right_crcs(bytes: &mut [u8]) {
    let len = bytes.len();
    if len < 68 {
        return;
    }
    let put = |bytes: &mut [u8], at: usize, covered: std::ops::Range<usize>| {
        let crc = crc32c(&bytes[covered]);
        bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
    };
    match &bytes[..4] {
        b"LVML" | b"LVSN" => {
            put(bytes, 60, 0..60);
            put(bytes, len - 4, 0..len - 4);
        }
        b"LVWG" => {
            put(bytes, 52, 64..len);
            put(bytes, 60, 0..60);
        }
        _ if bytes[16] == 2 => {
            put(bytes, 17, 21..len);
            bytes[17..21].reverse();
        }
        _ => {}
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..600)) {
        decode_all(&bytes.into());
    }

    #[test]
    fn damage_behind_a_right_crc_never_panics(
        which: At,
        changes in vec((any::<At>(), any::<u8>()), 1..6),
        keep in prop::option::of(any::<At>()),
    ) {
        let all = valid();
        let mut bytes = which.get(&all).to_vec();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(keep) = keep {
            bytes.truncate(keep.index(bytes.len()));
        }
        with_right_crcs(&mut bytes);
        decode_all(&bytes.into());
    }

    #[test]
    fn what_a_damaged_footer_decodes_to_is_stable(
        changes in vec((any::<At>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = samples::object_l1().1.footer.encode().to_vec();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(footer) = Footer::decode(&bytes) {
            prop_assert_eq!(Footer::decode(&footer.encode()).unwrap(), footer);
        }
    }
}

#[test]
fn no_single_byte_behind_a_right_crc_makes_a_panic() {
    for good in valid() {
        for at in 0..good.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff, good[at] ^ 2] {
                let mut bytes = good.to_vec();
                bytes[at] = value;
                with_right_crcs(&mut bytes);
                decode_all(&bytes.into());
            }
        }
    }
}

/// Each single bit of `covered` changed, and each shorter length, must be refused.
fn refuses_damage<T: std::fmt::Debug>(
    what: &str,
    bytes: &[u8],
    covered: impl IntoIterator<Item = usize>,
    decode: impl Fn(&[u8]) -> Result<T, FormatError>,
) {
    decode(bytes).unwrap();
    for at in covered {
        for bit in 0..8 {
            let mut bad = bytes.to_vec();
            bad[at] ^= 1 << bit;
            assert!(decode(&bad).is_err(), "{what}: bit {bit} of byte {at} went unseen");
        }
    }
    for len in 0..bytes.len() {
        assert!(decode(&bytes[..len]).is_err(), "{what}: cut at {len} went unseen");
    }
}

#[test]
fn no_damage_under_a_crc_goes_unseen() {
    let head = samples::head().encode();
    refuses_damage("head", &head, 0..head.len(), Head::decode);
    let cluster = ClusterId(samples::NONCE).encode();
    refuses_damage("cluster", &cluster, 0..cluster.len(), ClusterId::decode);
    let boundary = samples::boundary().encode();
    refuses_damage("boundary", &boundary, 0..boundary.len(), Boundary::decode);
    let (slot, _) = samples::slot().encode();
    refuses_damage("slot", &slot, 0..slot.len(), Slot::decode);
    let snapshot = samples::snapshot().encode();
    refuses_damage("snapshot", &snapshot, 0..snapshot.len(), Snapshot::decode);
    let (_, _, group) = samples::wal_group();
    refuses_damage("wal group", &group, 0..group.len(), |bytes| {
        let head = GroupHead::decode(bytes)?;
        head.body(&Bytes::copy_from_slice(&bytes[GROUP_HEAD_BYTES..]))
    });
    for codec in Compression::ALL {
        // Base offset and leader epoch are the leader's to stamp, the crc does not cover them.
        let batch = samples::batch(codec);
        let covered = (8..12).chain(16..batch.len());
        refuses_damage("batch", &batch, covered, |bytes| {
            decode_records(&Bytes::copy_from_slice(bytes))
        });
    }
    for (object, _) in [samples::object_l0(), samples::object_l1()] {
        refuses_damage("object", &object, 0..object.len(), read_object);
    }
}

/// All that a whole object's checksums can tell.
fn read_object(bytes: &[u8]) -> Result<Footer, FormatError> {
    Head::decode(bytes)?;
    let trailer = Trailer::decode(bytes, bytes.len() as u64)?;
    let pos = trailer.footer_pos as usize;
    let footer = trailer.footer(&bytes[pos..pos + trailer.footer_len as usize])?;
    match crc32c(&bytes[..pos]) == trailer.body_crc {
        true => Ok(footer),
        false => Err(FormatError::new("object", 0, "body crc mismatch")),
    }
}

/// A footer of `ranges` ranges whose indexes all are the same `entries` bytes of heap.
fn shared_heap(ranges: u32, entries: u32, kind: u8) -> Vec<u8> {
    let mut out = BytesMut::new();
    out.put_u8(1);
    out.put_bytes(0, 15);
    out.put_u32_le(ranges);
    out.put_u32_le(0);
    for _ in 0..ranges {
        // Topic, partition, epoch, base, then end and len large enough for the entries below.
        out.put_bytes(0, 32);
        out.put_u64_le(1 << 40);
        out.put_u64_le(64);
        out.put_u64_le(1 << 20);
        out.put_bytes(0, 20);
        out.put_u32_le(entries);
        out.put_slice(&[0, kind, 0, 0]);
        out.put_u32_le(0);
        out.put_u32_le(entries);
        out.put_u32_le(0);
    }
    for entry in 0..entries {
        out.put_u64_le(u64::from(entry));
        match kind {
            0 => {
                out.put_u32_le(0);
                out.put_u32_le(entry);
                out.put_u32_le(1);
                out.put_bytes(0, 28);
            }
            _ => {
                out.put_u64_le(0);
                out.put_u32_le(entry);
                out.put_u32_le(0);
            }
        }
    }
    out.to_vec()
}

#[test]
fn ranges_cannot_share_one_index() {
    for kind in [0, 1] {
        assert_eq!(Footer::decode(&shared_heap(1, 100, kind)).unwrap().ranges.len(), 1);
        let error = Footer::decode(&shared_heap(2, 100, kind)).unwrap_err();
        assert!(error.why.contains("of the heap"), "{error}");
    }
}

#[test]
fn a_range_outside_of_the_data_is_refused() {
    let (_, finished) = samples::object_l1();
    let last = finished.footer.ranges.last().unwrap();
    for pos in [63, last.pos + 1] {
        let mut footer = finished.footer.clone();
        footer.ranges.last_mut().unwrap().pos = pos;
        let bytes = footer.encode();
        let trailer = Trailer { footer_crc: crc32c(&bytes), ..finished.trailer };
        assert_eq!(bytes.len(), trailer.footer_len as usize);
        let error = trailer.footer(&bytes).unwrap_err();
        assert!(error.why.contains("bytes at"), "{error}");
    }
    let trailer = Trailer { footer_pos: 63, footer_len: 100, ..finished.trailer };
    let tail = trailer.encode();
    assert!(Trailer::decode(&tail, 63 + 100 + 24).is_err(), "a footer inside the head");
}

#[test]
fn flags_and_sections_follow_the_rules_of_compatibility() {
    let good = samples::object_l1().1.footer.encode().to_vec();
    let changed = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        Footer::decode(&bytes)
    };
    let (footer_flags, range_flags, section) = (1, 24 + 82, 24 + 2 * 96);
    let (kind, section_flags) = (section + 4, section + 6);
    for (at, unknown) in [(footer_flags, 1), (range_flags, 2), (section_flags, 1)] {
        assert!(changed(at, unknown).is_err(), "a low flag at {at} must be refused");
    }
    assert!(changed(range_flags, 1).unwrap().ranges[0].compacted);
    for at in [range_flags + 1, section_flags + 1] {
        assert!(changed(at, 0x80).is_ok(), "a high flag at {at} must be ignored");
    }
    let skipped = changed(kind, 9).unwrap();
    assert!(skipped.ranges.iter().all(|range| range.producers.is_none()));
}

#[test]
fn producer_state_of_a_later_release_is_read() {
    // One producer with one batch, 8 bytes more in the one and 4 in the other.
    let mut bytes = BytesMut::new();
    bytes.put_u32_le(1);
    bytes.put_u16_le(32 + 8);
    bytes.put_u16_le(28 + 4);
    bytes.put_i64_le(7);
    bytes.put_i16_le(1);
    bytes.put_u16_le(1);
    bytes.put_i32_le(-1);
    bytes.put_i64_le(1000);
    bytes.put_u64_le(u64::MAX);
    bytes.put_bytes(0xaa, 8);
    bytes.put_u64_le(50);
    bytes.put_u32_le(2);
    bytes.put_i32_le(10);
    bytes.put_i32_le(12);
    bytes.put_i64_le(900);
    bytes.put_bytes(0xbb, 4);
    let state = ProducerSnapshot::decode(&bytes).unwrap();
    assert_eq!((state.producers.len(), state.producers[0].producer_id), (1, 7));
    assert_eq!(state.producers[0].batches[0].last_sequence, 12);
    assert_eq!(state.producers[0].open_txn_start, None);
}
