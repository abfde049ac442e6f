//! Golden files: what released versions wrote must be read for ever, and what this release writes
//! must not change by accident.
//!
//! `LEVEE_BLESS=1 cargo test -p levee-proto --test formats` writes the files anew. Do that only
//! for a format that no release wrote yet; for all others a changed file is a broken format.

use std::path::PathBuf;

use bytes::{Bytes, BytesMut};
use levee_proto::crc::crc32c;
use levee_proto::head::Head;
use levee_proto::ids::Writer;
use levee_proto::keys;
use levee_proto::metalog::wire::Wire;
use levee_proto::metalog::{Boundary, ClusterId, Image, Record, Slot, Snapshot};
use levee_proto::object::writer::Finished;
use levee_proto::object::{BatchEntry, Index, Level, ProducerSnapshot, Trailer};
use levee_proto::record::Marker;
use levee_proto::record::codecs::Compression;
use levee_proto::record::records::decode_records;
use levee_proto::wal::{GROUP_HEAD_BYTES, GroupHead};

use crate::samples;

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden/v1").join(name)
}

/// The bytes of a golden file; `now` goes there first where the files are blessed.
fn golden(name: &str, now: &[u8]) -> Bytes {
    let path = path(name);
    if std::env::var_os("LEVEE_BLESS").is_some() {
        std::fs::write(&path, now).unwrap();
    }
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).into()
}

/// As `golden`, and this release must write the very same bytes.
fn golden_exact(name: &str, now: &[u8]) -> Bytes {
    let file = golden(name, now);
    let at = now.iter().zip(&file).position(|(a, b)| a != b);
    assert!(
        now == file,
        "{name}: this release writes {} bytes, the file has {}; they part at byte {:?}",
        now.len(),
        file.len(),
        at.unwrap_or(now.len().min(file.len()))
    );
    file
}

#[test]
fn head() {
    let file = golden_exact("head.bin", &samples::head().encode());
    assert_eq!(Head::decode(&file).unwrap(), samples::head());
}

#[test]
fn batches() {
    for codec in Compression::ALL {
        let name = format!("batch_{}.bin", codec.name());
        let now = samples::batch(codec);
        // What a compressor writes may change with its version; what it reads may not.
        let file = match codec {
            Compression::None => golden_exact(&name, &now),
            _ => golden(&name, &now),
        };
        let read = decode_records(&file).unwrap();
        let offsets: Vec<_> = read.iter().map(|r| r.offset).collect();
        let data: Vec<_> = read.into_iter().map(|r| r.data).collect();
        assert_eq!((offsets, data), (vec![0, 1, 2], samples::record_data()), "{name}");
    }
}

#[test]
fn objects() {
    for (name, (now, finished)) in [
        ("object_l0.bin", samples::object_l0()),
        ("object_l1.bin", samples::object_l1()),
        ("object_l0_transactions.bin", samples::object_txn(Level::L0)),
        ("object_l1_transactions.bin", samples::object_txn(Level::L1)),
        ("object_compacted.bin", samples::object_compacted()),
    ] {
        let file = golden_exact(name, &now);
        let Finished { footer, trailer, object_len, .. } = finished;
        assert_eq!(object_len, file.len() as u64);
        assert_eq!(Trailer::decode(&file, object_len).unwrap(), trailer);
        let pos = trailer.footer_pos as usize;
        let read = trailer.footer(&file[pos..pos + trailer.footer_len as usize]).unwrap();
        assert_eq!(read, footer);
        assert_eq!(crc32c(&file[..pos]), trailer.body_crc);
    }
}

#[test]
fn marker() {
    let file = golden_exact("batch_marker.bin", &samples::marker(100).to_bytes());
    assert_eq!(Marker::of(&file).unwrap(), Some(samples::MARKER));
}

/// A restart reads the footers of slots and no data.
#[test]
fn a_full_index_tells_what_markers_say() {
    let (_, finished) = samples::object_txn(Level::L0);
    let Index::Full(entries) = &finished.footer.ranges[0].index else { panic!("it is full") };
    let said: Vec<_> = entries.iter().map(BatchEntry::marker).collect();
    assert_eq!(said, [Some(samples::MARKER), None, Some(samples::MARKER)]);
    for (entry, batch) in entries.iter().zip([samples::marker(100), samples::stored(101, 7)]) {
        let header = entry.header();
        assert_eq!(header.attributes, batch.header.attributes);
        assert_eq!(header.base_sequence, batch.header.base_sequence);
        assert_eq!(header.producer_epoch, batch.header.producer_epoch);
    }
    assert_eq!(finished.footer.ranges[0].aborted, samples::aborted());
}

#[test]
fn producer_state() {
    let mut now = BytesMut::new();
    samples::producers().encode(&mut now);
    let file = golden_exact("producers.bin", &now);
    assert_eq!(ProducerSnapshot::decode(&file).unwrap(), samples::producers());
}

#[test]
fn wal_group() {
    let (head, entries, now) = samples::wal_group();
    let file = golden_exact("wal_group.bin", &now);
    let read = GroupHead::decode(&file).unwrap();
    assert_eq!(read, head);
    assert_eq!(read.body(&file.slice(GROUP_HEAD_BYTES..)).unwrap(), entries);
}

#[test]
fn metalog_slot() {
    let mut kinds: Vec<_> = samples::records().iter().map(Record::kind).collect();
    kinds.dedup();
    let all: Vec<_> = (1..=25).chain([0x8001, 11]).collect();
    assert_eq!(kinds, all, "the sample has every kind");
    let next = Record::Skipped { kind: 26, body: Bytes::new() };
    let mut bytes = BytesMut::new();
    next.put(&mut bytes);
    let unknown = Record::get(&mut levee_proto::codec::Reader::new("record", &bytes));
    let why = unknown.unwrap_err().why;
    assert!(why.contains("not known"), "kind 26 begins: add it to the sample ({why})");

    let (now, crc) = samples::slot().encode();
    let file = golden_exact("metalog_slot.bin", &now);
    assert_eq!(Slot::decode(&file).unwrap(), (samples::slot(), crc));
}

#[test]
fn metalog_snapshot_and_image() {
    let mut now = BytesMut::new();
    samples::image().put(&mut now);
    let file = golden_exact("metalog_image.bin", &now);
    let mut reader = levee_proto::codec::Reader::new("image", &file);
    assert_eq!(Image::get(&mut reader).unwrap(), samples::image());
    reader.end().unwrap();
    // Not exact: the image in it is packed by zstd.
    let file = golden("metalog_snapshot.bin", &samples::snapshot().encode());
    assert_eq!(Snapshot::decode(&file).unwrap(), samples::snapshot());
}

#[test]
fn cluster() {
    let id = ClusterId(samples::NONCE);
    let file = golden_exact("cluster.bin", &id.encode());
    assert_eq!(ClusterId::decode(&file).unwrap(), id);
}

#[test]
fn metalog_boundary() {
    let file = golden_exact("metalog_boundary.bin", &samples::boundary().encode());
    assert_eq!(Boundary::decode(&file).unwrap(), samples::boundary());
}

#[test]
fn bucket_keys() {
    let (session, job) = (Writer::session(samples::SESSION), Writer::job(0xabc));
    let (id, nonce) = (samples::partition(9), samples::NONCE);
    let now = [
        keys::CLUSTER.to_string(),
        keys::meta_slot(41),
        keys::meta_snapshot(45, 46, nonce),
        keys::meta_boundary(43),
        keys::lane_slot(samples::LANE, 0x2a),
        keys::shared(session, 3, nonce),
        keys::shared(job, 4, nonce),
        keys::single(id, 40, 3, session, 5, nonce),
        keys::single(id, 40, 3, job, 6, nonce),
    ];
    golden_exact("keys.txt", (now.join("\n") + "\n").as_bytes());
    assert_eq!(keys::meta_slot_of(&now[1]), Some(41));
    assert_eq!(keys::meta_slot_of(&now[2]), Some(45));
    assert_eq!(keys::meta_slot_of(&now[3]), Some(43));
    assert_eq!(keys::lane_slot_of(&now[4]), Some(0x2a));
    assert_eq!(keys::object_of(&now[6]), Some((job, 4)));
    assert_eq!(keys::object_of(&now[7]), Some((session, 5)));
}
