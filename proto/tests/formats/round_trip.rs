//! Arbitrary values come back as they were, and indexes find what a plain scan finds.

use bytes::{BufMut, Bytes, BytesMut};
use levee_proto::codec::Reader;
use levee_proto::crc::crc32c;
use levee_proto::head::Head;
use levee_proto::ids::{Nonce, PartitionId, Writer};
use levee_proto::limits::{SPARSE_INDEX_STRIDE, WAL_ALIGN};
use levee_proto::metalog::{Record, Slot, Snapshot};
use levee_proto::object::writer::{Finished, ObjectPlan};
use levee_proto::object::{
    BatchEntry, Index, Level, ObjectWriter, ProducerSnapshot, Range, RangeKind, SparseEntry,
    Trailer,
};
use levee_proto::record::codecs::Compression;
use levee_proto::record::records::{BatchBuilder, ProducerStamp, RecordData, decode_records};
use levee_proto::record::{StoredBatch, batch};
use levee_proto::wal::{GroupEntry, GroupHead};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::make::Source;

/// Bytes that values are made from.
fn seed(max: usize) -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..max)
}

fn make_batch(s: &mut Source<'_>, records: &[RecordData]) -> StoredBatch {
    let mut builder = BatchBuilder::new(Compression::ALL[s.byte() as usize % 5]);
    records.iter().for_each(|record| builder.push(record));
    let producer = s.make::<bool>().then(|| ProducerStamp {
        producer_id: s.make(),
        producer_epoch: s.make(),
        base_sequence: s.make(),
    });
    let bytes = builder.build(producer);
    let header = batch::check(&bytes).unwrap();
    StoredBatch::stamped(&bytes, header)
}

/// A batch of up to 60 KB that does not compress, from few bytes of the source, so that there are
/// enough of them for several blocks of a sparse index.
fn make_large_batch(s: &mut Source<'_>) -> StoredBatch {
    let mut noise = u64::from(s.byte()) + 1;
    let value = (0..s.below(60_000)).map(|_| {
        noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (noise >> 56) as u8
    });
    let value = Some(value.collect());
    let timestamp_ms = i64::from(s.byte()) - 2;
    let record = RecordData { timestamp_ms, value, ..RecordData::default() };
    let records = vec![record; 1 + usize::from(s.byte().is_multiple_of(40))];
    make_batch(s, &records)
}

/// An object, its batches by range, and what its writer says of it.
struct Made {
    bytes: Bytes,
    finished: Finished,
    batches: Vec<Vec<StoredBatch>>,
}

fn make_object(s: &mut Source<'_>) -> Made {
    let level = [Level::L0, Level::L1, Level::L2][s.byte() as usize % 3];
    let mut batches: Vec<Vec<StoredBatch>> = Vec::new();
    let mut starts: Vec<(PartitionId, u32, u64, u64)> = Vec::new();
    for _ in 0..s.byte() % 4 {
        let base = u64::from(s.make::<u32>());
        let mut offset = base;
        let mut range = Vec::new();
        for _ in 0..s.byte() % 16 {
            offset += s.below(5) as u64;
            let fresh = make_large_batch(s);
            let stamped = StoredBatch::stamp(&fresh.to_bytes(), fresh.header, offset, 3);
            offset = stamped.header.end_offset();
            range.push(stamped);
        }
        starts.push((s.make(), s.make(), base, offset + s.below(5) as u64));
        batches.push(range);
    }
    let hand_off = s.make::<Option<ProducerSnapshot>>().map(|state| {
        let mut bytes = BytesMut::new();
        state.encode(&mut bytes);
        bytes
    });
    let data: usize = batches.iter().flatten().map(StoredBatch::len).sum();
    let plan = ObjectPlan {
        level,
        nonce: s.make(),
        writer: s.make(),
        seq: s.make(),
        lane: s.make(),
        data_len: (data + hand_off.as_ref().map_or(0, BytesMut::len)) as u64,
        lane_trim: s.make(),
        prev_slot_crc: s.make(),
    };
    let (mut writer, head) = ObjectWriter::new(plan);
    let mut out = BytesMut::from(&head[..]);
    for ((partition, epoch, base, end), range) in starts.into_iter().zip(&batches) {
        writer.begin(partition, epoch, RangeKind::Data, base);
        for batch in range {
            writer.batch(&batch.header, &batch.parts());
            batch.write_to(&mut out);
        }
        writer.end(end, s.make());
    }
    if let Some(state) = hand_off {
        writer.begin(s.make(), 3, RangeKind::HandOff, 77);
        writer.opaque(&state);
        out.put_slice(&state);
        writer.end(77, None);
        batches.push(Vec::new());
    }
    let finished = writer.finish().unwrap();
    out.put_slice(&finished.tail);
    Made { bytes: out.freeze(), finished, batches }
}

/// Position, first batch wins.
fn scan(batches: &[StoredBatch], wanted: impl Fn(&StoredBatch) -> bool) -> Option<usize> {
    let mut pos = 0;
    for batch in batches {
        if wanted(batch) {
            return Some(pos);
        }
        pos += batch.len();
    }
    None
}

/// Where a seek must end: at the batch itself, or at the start of the block that it is in, where
/// `passes` says of a block that what is looked for lies before it.
fn check_seek(range: &Range, found: u32, wanted: usize, passes: impl Fn(&SparseEntry) -> bool) {
    match &range.index {
        Index::Full(_) => assert_eq!(found as usize, wanted),
        Index::Sparse(blocks) => {
            assert!(found as usize <= wanted, "found {found}, it is at {wanted}");
            assert!(found == 0 || blocks.iter().any(|block| block.pos == found));
            let next = blocks.iter().find(|block| block.pos > found);
            let is_last = next.is_none_or(|next| passes(next) || next.pos as usize > wanted);
            assert!(is_last, "found {found}, a later block would do: {next:?} for {wanted}");
        }
    }
}

fn check_range(object: &Bytes, range: &Range, batches: &[StoredBatch]) {
    let bytes = object.slice(range.pos as usize..(range.pos + range.len) as usize);
    assert_eq!(crc32c(&bytes), range.crc);
    if range.kind == RangeKind::HandOff {
        ProducerSnapshot::decode(&bytes).unwrap();
        return;
    }
    let mut found = Vec::new();
    let whole = batch::check_run(&bytes, |at, header| {
        found.push(BatchEntry::of(header, None, at as u32));
        true
    });
    assert_eq!(whole.unwrap(), bytes.len());
    assert_eq!((found.len(), range.batches as usize), (batches.len(), batches.len()));
    match &range.index {
        Index::Full(entries) => assert_eq!(entries, &found),
        Index::Sparse(blocks) => {
            let ends = blocks.iter().skip(1).map(|b| b.pos as usize).chain([bytes.len()]);
            for (block, end) in blocks.iter().zip(ends) {
                let block_bytes = &bytes[block.pos as usize..end];
                assert_eq!(crc32c(block_bytes), block.crc);
                let largest = batches.iter().map(StoredBatch::len).max().unwrap_or(0);
                assert!(block_bytes.len() < SPARSE_INDEX_STRIDE + largest, "too large a block");
            }
        }
    }
    // Around the edges of every batch, where a search goes wrong by one.
    let edges = batches.iter().flat_map(|b| [b.header.base_offset, b.header.end_offset()]);
    for offset in edges.flat_map(|at| [at.saturating_sub(1), at, at + 1]) {
        let wanted = scan(batches, |b| b.header.end_offset() > offset).unwrap_or(bytes.len());
        check_seek(range, range.seek(offset), wanted, |block| block.base_offset > offset);
    }
    let times = batches.iter().map(|b| b.header.max_timestamp);
    for time in times.flat_map(|at| [at.saturating_sub(1), at, at.saturating_add(1)]) {
        let wanted = scan(batches, |b| b.header.max_timestamp >= time);
        match (range.seek_time(time), wanted) {
            (Some(found), Some(wanted)) => {
                let found = match &range.index {
                    Index::Full(all) => all.iter().find(|b| b.base_offset == found).unwrap().pos,
                    Index::Sparse(all) => all.iter().find(|b| b.base_offset == found).unwrap().pos,
                };
                check_seek(range, found, wanted, |_| false);
            }
            // -1 stands for a range without timestamps, so below it everything fits.
            (found, wanted) => assert!(found.is_none() == wanted.is_none() || time < 0),
        }
    }
}

proptest! {
    #[test]
    fn heads(seed in seed(100)) {
        let head: Head = Source(&seed).make();
        prop_assert_eq!(Head::decode(&head.encode()).unwrap(), head);
    }

    #[test]
    fn batches_of_every_codec(seed in seed(2000)) {
        let s = &mut Source(&seed);
        let records: Vec<RecordData> = (0..=s.byte() % 20).map(|_| s.make()).collect();
        for codec in Compression::ALL {
            let mut builder = BatchBuilder::new(codec);
            records.iter().for_each(|record| builder.push(record));
            let read = decode_records(&builder.build(None)).unwrap();
            prop_assert!(read.iter().map(|r| r.offset).eq(0..records.len() as u64));
            prop_assert!(read.iter().map(|r| &r.data).eq(&records));
        }
    }

    #[test]
    fn a_stamp_moves_a_batch_and_keeps_its_records(seed in seed(600), base in 0u64..1 << 62, epoch: u32) {
        let s = &mut Source(&seed);
        let records: Vec<RecordData> = (0..=s.byte() % 4).map(|_| s.make()).collect();
        let fresh = make_batch(s, &records);
        let stored = StoredBatch::stamp(&fresh.to_bytes(), fresh.header, base, epoch);
        let bytes = stored.to_bytes();
        let header = batch::check(&bytes).unwrap();
        prop_assert_eq!((header.base_offset, header.leader_epoch), (base, epoch));
        prop_assert_eq!(header, stored.header);
        let data = |bytes: &Bytes| {
            decode_records(bytes).unwrap().into_iter().map(|r| r.data).collect::<Vec<_>>()
        };
        prop_assert_eq!(data(&bytes), data(&fresh.to_bytes()));
    }

    #[test]
    fn producer_states(seed in seed(1000)) {
        let state: ProducerSnapshot = Source(&seed).make();
        let mut bytes = BytesMut::new();
        state.encode(&mut bytes);
        prop_assert_eq!(ProducerSnapshot::decode(&bytes).unwrap(), state);
    }

    #[test]
    fn objects_and_their_indexes(seed in seed(1500)) {
        let made = make_object(&mut Source(&seed));
        let Finished { footer, trailer, object_len, .. } = &made.finished;
        prop_assert_eq!(*object_len, made.bytes.len() as u64);
        let read = Trailer::decode(&made.bytes, *object_len).unwrap();
        prop_assert_eq!(&read, trailer);
        let pos = read.footer_pos as usize;
        prop_assert_eq!(crc32c(&made.bytes[..pos]), read.body_crc);
        let back = read.footer(&made.bytes[pos..pos + read.footer_len as usize]).unwrap();
        prop_assert_eq!(&back, footer);
        prop_assert_eq!(back.ranges.len(), made.batches.len());
        for (range, batches) in back.ranges.iter().zip(&made.batches) {
            check_range(&made.bytes, range, batches);
        }
    }

    #[test]
    fn wal_groups(seed in seed(600), padding in 0usize..5000) {
        let s = &mut Source(&seed);
        let mut entries = Vec::new();
        for _ in 0..s.byte() % 5 {
            let bytes: Bytes = s.make();
            let base = s.make::<u64>() >> 2;
            let kind = [RangeKind::Data, RangeKind::HandOff][s.byte() as usize % 2];
            let entry = GroupEntry {
                partition: s.make(),
                leader_epoch: s.make(),
                base,
                end: base + s.below(1000) as u64,
                len: bytes.len() as u32,
                kind,
            };
            entries.push((entry, bytes));
        }
        let mut body = BytesMut::new();
        entries.iter().for_each(|(entry, _)| entry.encode(&mut body));
        entries.iter().for_each(|(_, bytes)| body.put_slice(bytes));
        let head = GroupHead {
            lane: s.make(),
            file_seq: s.make(),
            group_seq: s.make(),
            synced_seq: s.make(),
            prev_crc: s.make(),
            entries: entries.len() as u32,
            data_len: entries.iter().map(|(_, bytes)| bytes.len() as u32).sum(),
            body_crc: crc32c(&body),
            salt: s.make(),
        };
        // What a recycled file holds behind a group must not matter.
        body.put_bytes(0xee, padding);
        prop_assert_eq!(GroupHead::decode(&head.encode()).unwrap(), head);
        prop_assert_eq!(head.body(&body.freeze()).unwrap(), entries);
        prop_assert!(head.disk_bytes().is_multiple_of(WAL_ALIGN as u64));
        prop_assert!(head.disk_bytes() - head.bytes() < WAL_ALIGN as u64);
    }

    #[test]
    fn metalog_records(seed in seed(500)) {
        let record: Record = Source(&seed).make();
        let mut bytes = BytesMut::new();
        record.put(&mut bytes);
        let mut reader = Reader::new("record", &bytes);
        prop_assert_eq!(Record::get(&mut reader).unwrap(), record);
        reader.end().unwrap();
    }

    #[test]
    fn fields_of_a_later_release_are_ignored(seed in seed(500), more in vec(any::<u8>(), 1..40)) {
        let record: Record = Source(&seed).make();
        prop_assume!(record.kind() & 0x8000 == 0);
        let mut bytes = BytesMut::new();
        record.put(&mut bytes);
        bytes.put_slice(&more);
        let len = (bytes.len() - 8) as u32;
        bytes[4..8].copy_from_slice(&len.to_le_bytes());
        let mut reader = Reader::new("record", &bytes);
        prop_assert_eq!(Record::get(&mut reader).unwrap(), record);
        reader.end().unwrap();
    }

    #[test]
    fn metalog_slots_and_their_chain(seed in seed(1500)) {
        let slot: Slot = Source(&seed).make();
        let (bytes, crc) = slot.encode();
        prop_assert_eq!(Slot::decode(&bytes).unwrap(), (slot, crc));
        prop_assert_eq!(&bytes[bytes.len() - 4..], &crc.to_le_bytes());
    }

    #[test]
    fn metalog_snapshots(seed in seed(3000)) {
        let snapshot: Snapshot = Source(&seed).make();
        prop_assert_eq!(Snapshot::decode(&snapshot.encode()).unwrap(), snapshot);
    }

    #[test]
    fn keys_name_their_object(broker: u32, epoch: u32, job in 0u64..1 << 63, seq: u64, base: u64) {
        let session = levee_proto::ids::SessionId { broker: broker & 0x7fff_ffff, epoch };
        let id = PartitionId { topic: levee_proto::ids::TopicId(u128::from(base)), partition: epoch };
        for writer in [Writer::session(session), Writer::job(job)] {
            let single = levee_proto::keys::single(id, base, epoch, writer, seq, Nonce(7));
            prop_assert_eq!(levee_proto::keys::object_of(&single), Some((writer, seq)));
            let shared = levee_proto::keys::shared(writer, seq, Nonce(7));
            prop_assert_eq!(levee_proto::keys::object_of(&shared), Some((writer, seq)));
        }
    }
}
