//! Objects in a bucket, as uploads make them and readers find them.

#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

use std::sync::Arc;

use bytes::Bytes;
use levee_proto::ids::{PartitionId, TopicId, Writer};
use levee_proto::object::{Level, ProducerBatch, ProducerEntry, ProducerSnapshot};
use levee_proto::record::batch::{check, check_run};
use levee_proto::record::codecs::Compression;
use levee_proto::record::records::{BatchBuilder, RecordData};
use levee_proto::record::{BatchHeader, StoredBatch};
use levee_runtime::Host;
use levee_runtime::real::RealWorld;
use levee_tests::s3::{FakeS3, Fault, Op, Rule};
use levee_tiering::remote::{
    ChunkId, DiskCache, Footers, ReadAhead, ReadConfig, RemoteIndex, RemoteReader,
};
use levee_tiering::store::{Progress, Store};
use levee_tiering::upload::{Part, Pieces, Planned, UploadError};

const WRITER: Writer = Writer(7);

fn partition(n: u32) -> PartitionId {
    PartitionId { topic: TopicId(9), partition: n }
}

/// Stamped batches of ten records each, `bytes` in all or a little more.
fn batches(bytes: usize) -> Vec<Bytes> {
    let (mut out, mut end, mut total) = (Vec::new(), 0u64, 0);
    while total < bytes {
        let mut builder = BatchBuilder::new(Compression::None);
        for n in 0..10u64 {
            let value = Some(vec![(end + n) as u8; 1500].into());
            let timestamp_ms = (end + n) as i64;
            builder.push(&RecordData { timestamp_ms, value, ..RecordData::default() });
        }
        let plain = builder.build(None);
        let stored = StoredBatch::stamp(&plain, check(&plain).unwrap(), end, 3);
        end = stored.header.end_offset();
        total += stored.len();
        out.push(stored.to_bytes());
    }
    out
}

fn part(n: u32, batches: &[Bytes], producers: Option<ProducerSnapshot>) -> Part {
    let last = BatchHeader::decode(batches.last().unwrap()).unwrap();
    Part {
        partition: partition(n),
        leader_epoch: 3,
        base: 0,
        end: last.end_offset(),
        bytes: batches.iter().map(|b| b.len() as u64).sum(),
        producers,
        aborted: Vec::new(),
        compacted: false,
        source: Box::new(Pieces::new(batches.to_vec())),
    }
}

/// A bucket with its index.
struct Tier {
    host: Host,
    store: Store,
    index: Arc<RemoteIndex>,
    footers: Arc<Footers>,
}

impl Tier {
    fn new(url: &str) -> Self {
        let host = RealWorld::host();
        let store = Store::open(url, host.clone()).unwrap();
        let footers = Arc::new(Footers::new(host.clone(), store.clone(), 1 << 20, None));
        Self { host, store, index: Arc::default(), footers }
    }

    async fn upload(&self, level: Level, seq: u64, parts: Vec<Part>) -> Result<(), UploadError> {
        let planned = Planned { level, writer: WRITER, seq, parts };
        let uploaded = planned.upload(&self.store, &self.host, Progress::default()).await?;
        let verified = uploaded.verify(&self.store, true).await?;
        self.index.add_object(&verified.object, &verified.footer);
        Ok(())
    }

    fn reader(&self) -> RemoteReader {
        let (cache_bytes, chunk_bytes) = (64 << 20, 256 << 10);
        let (readahead_bytes, readahead_total_bytes) = (4 << 20, 16 << 20);
        let config =
            ReadConfig { cache_bytes, chunk_bytes, readahead_bytes, readahead_total_bytes };
        let (store, index) = (self.store.clone(), self.index.clone());
        RemoteReader::new(self.host.clone(), store, config, index, self.footers.clone(), None)
    }
}

/// Everything from `offset` on, in reads of so many bytes, and how many were in memory already.
async fn read_all(
    reader: &RemoteReader,
    n: u32,
    max_bytes: usize,
    ahead: Option<&ReadAhead>,
) -> (Vec<u8>, usize) {
    let (mut out, mut offset, mut cached) = (Vec::new(), 0, 0);
    while let Some(read) = reader.read(partition(n), offset, max_bytes, ahead).await.unwrap() {
        let walked = check_run(&read.batches, |_, header| {
            offset = header.end_offset();
            true
        });
        assert_eq!(walked.unwrap(), read.batches.len(), "whole batches");
        out.extend_from_slice(&read.batches);
        cached += usize::from(read.cached);
        // What is read ahead needs a moment.
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    (out, cached)
}

#[tokio::test]
async fn shared_and_single_objects_give_back_what_went_in() {
    let tier = Tier::new("memory://");
    let (small, large) = (batches(400_000), batches(20 << 20));
    let parts = vec![part(1, &small, None), part(2, &small[..1], None)];
    tier.upload(Level::L1, 1, parts).await.unwrap();
    tier.upload(Level::L2, 2, vec![part(3, &large, None)]).await.unwrap();
    let keys = tier.store.list("p").await.unwrap();
    assert_eq!(keys.len(), 1, "one partition has an object of its own");
    assert_eq!(tier.store.list("d").await.unwrap().len(), 1);
    let reader = tier.reader();
    assert_eq!(read_all(&reader, 1, 50_000, None).await.0, small.concat());
    assert_eq!(read_all(&reader, 2, 50_000, None).await.0, small[0]);
    assert_eq!(read_all(&reader, 3, 1 << 20, Some(&reader.read_ahead())).await.0, large.concat());
    // In the middle of a batch: the one that holds the offset is the first.
    let read = reader.read(partition(3), 12_345, 1, None).await.unwrap().unwrap();
    assert_eq!(BatchHeader::decode(&read.batches).unwrap().base_offset, 12_340);
    assert!(reader.read(partition(4), 0, 1, None).await.unwrap().is_none());
}

#[tokio::test]
async fn a_reader_that_goes_on_finds_what_was_read_ahead() {
    let tier = Tier::new("memory://");
    let large = batches(20 << 20);
    tier.upload(Level::L2, 1, vec![part(1, &large, None)]).await.unwrap();
    let reads = (20 << 20) / (128 << 10);
    // Without, half of the reads of 128 KiB fall into a chunk of 256 KiB that the one before fetched.
    for has_window in [true, false] {
        let reader = tier.reader();
        let window = has_window.then(|| reader.read_ahead());
        let (_, ahead) = read_all(&reader, 1, 128 << 10, window.as_ref()).await;
        assert!(ahead > reads * 9 / 10, "{ahead} of {reads}");
    }
}

#[tokio::test]
async fn a_footer_larger_than_the_first_guess_is_read_whole() {
    let tier = Tier::new("memory://");
    let data = batches(100_000);
    let producer = |id: i64| ProducerEntry {
        producer_id: id,
        producer_epoch: 0,
        coordinator_epoch: -1,
        last_timestamp: 5,
        open_txn_start: None,
        batches: vec![ProducerBatch {
            base_offset: 0,
            last_offset_delta: 9,
            base_sequence: 0,
            last_sequence: 9,
            max_timestamp: 5,
        }],
    };
    let many = ProducerSnapshot { producers: (0..3000).map(producer).collect() };
    tier.upload(Level::L1, 1, vec![part(1, &data, Some(many.clone()))]).await.unwrap();
    assert_eq!(read_all(&tier.reader(), 1, 10_000, None).await.0, data.concat());
    let (_, found) = tier.index.producers(partition(1)).unwrap();
    assert_eq!(found, many);
}

#[tokio::test]
async fn nothing_that_is_not_what_was_sent_is_verified() {
    let tier = Tier::new("memory://");
    let data = batches(100_000);
    // A source that ends early, and one whose bytes are damaged.
    let short = Part { source: Box::new(Pieces::new(data[1..].to_vec())), ..part(1, &data, None) };
    let error = tier.upload(Level::L1, 1, vec![short]).await.unwrap_err();
    assert!(matches!(error, UploadError::Source { .. }), "{error}");
    let mut flipped = data.clone();
    let mut bytes = flipped[2].to_vec();
    bytes[200] ^= 1;
    flipped[2] = bytes.into();
    let error = tier.upload(Level::L1, 2, vec![part(1, &flipped, None)]).await.unwrap_err();
    assert!(matches!(error, UploadError::Source { offset: 20, .. }), "{error}");
    // The bucket gives back other bytes than it was sent.
    let s3 = FakeS3::start().await;
    let tier = Tier::new(&s3.url("p"));
    s3.add(Rule::all(Op::Get, Fault::Flipped));
    let error = tier.upload(Level::L1, 1, vec![part(1, &data, None)]).await.unwrap_err();
    assert!(matches!(error, UploadError::Unlike { .. }), "{error}");
    s3.heal();
    tier.upload(Level::L1, 2, vec![part(1, &data, None)]).await.unwrap();
}

/// Past the page cache, on a real file system: what was kept is found by the next start.
#[tokio::test]
async fn a_disk_cache_outlives_its_process() {
    let dir = tempfile::tempdir().unwrap();
    let host = RealWorld::host();
    let open = || DiskCache::open(host.clone(), dir.path().join("c"), "chunks", 64 << 20);
    let id = |number| ChunkId { object: "d/00/object".into(), number };
    let data = |number: u64| Bytes::from(vec![number as u8; 1000 + number as usize * 9000]);
    let disk = open().await;
    for number in 0..100 {
        disk.put(id(number), data(number));
        let kept = async {
            while !disk.holds(&id(number)) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(60), kept).await.unwrap();
    }
    let files = std::fs::read_dir(dir.path().join("c")).unwrap().count();
    assert!(files > 10, "{files}: full files have a table, the last one is walked");
    for disk in [&disk, &open().await] {
        for number in 0..100 {
            assert_eq!(disk.get(&id(number)).await, Some(data(number)), "{number}");
        }
    }
    disk.clear().await;
    assert_eq!(std::fs::read_dir(dir.path().join("c")).unwrap().count(), 0);
    assert_eq!(open().await.get(&id(5)).await, None);
}

/// I17: a flipped bit anywhere in three batches, heads included, gives the same bytes or an error.
#[tokio::test]
async fn a_flipped_bit_in_a_batch_is_never_served() {
    let dir = tempfile::tempdir().unwrap();
    let tier = Tier::new(&format!("file://{}", dir.path().display()));
    let log = batches(40_000);
    assert!(log.len() >= 3);
    tier.upload(Level::L1, 1, vec![part(1, &log, None)]).await.unwrap();
    let file = dir.path().join(&tier.store.list("d").await.unwrap()[0].key);
    let good = std::fs::read(&file).unwrap();
    let at = |batch: usize| 64 + log[..batch].iter().map(Bytes::len).sum::<usize>();
    for batch in 0..3 {
        for (byte, bit) in (0..24).flat_map(|byte| [(byte, 1), (byte, 64)]) {
            let mut bad = good.clone();
            bad[at(batch) + byte] ^= bit;
            std::fs::write(&file, &bad).unwrap();
            for (from, most) in [(0, 1), (0, 1 << 20), (1, 1), (2, 1)] {
                let offset = 10 * from as u64 + 5;
                let read = tier.reader().read(partition(1), offset, most, None).await;
                if let Ok(Some(read)) = read {
                    let good = log[from..].concat().starts_with(&read.batches);
                    assert!(good, "offset {offset}, batch {batch} byte {byte}");
                }
            }
        }
    }
}
