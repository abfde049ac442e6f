//! Reads from the bucket and their caches, in virtual time: what is kept, what is fetched, and that
//! nothing wrong is ever given out.

#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use levee_proto::ids::{PartitionId, TopicId, Writer};
use levee_proto::object::Level;
use levee_proto::record::batch::check;
use levee_proto::record::codecs::Compression;
use levee_proto::record::records::{BatchBuilder, RecordData};
use levee_proto::record::{BatchHeader, StoredBatch};
use levee_runtime::Host;
use levee_runtime::sim::{DiskFaults, Sim, SimHost};
use levee_tests::sim::{Faults, SimStore, seed};
use levee_tiering::remote::{
    ChunkId, DiskCache, Footers, ReadAhead, ReadConfig, RemoteIndex, RemoteReader, Wanted,
};
use levee_tiering::store::{Progress, Store};
use levee_tiering::upload::{Part, Pieces, Planned};

const CHUNK: u64 = 64 << 10;
const ID: PartitionId = PartitionId { topic: TopicId(9), partition: 0 };

async fn later(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

/// Stamped batches of about 8 KiB, from an offset on.
fn batches(from: u64, bytes: usize) -> Vec<StoredBatch> {
    let (mut out, mut end, mut total) = (Vec::new(), from, 0);
    while total < bytes {
        let mut builder = BatchBuilder::new(Compression::None);
        for n in 0..10u64 {
            let value = Some(vec![(end + n) as u8; 800].into());
            builder.push(&RecordData { timestamp_ms: 5, value, ..RecordData::default() });
        }
        let plain = builder.build(None);
        let stored = StoredBatch::stamp(&plain, check(&plain).unwrap(), end, 3);
        end = stored.header.end_offset();
        total += stored.len();
        out.push(stored);
    }
    out
}

/// A bucket with one partition in it, and its bytes.
struct Tier {
    bucket: SimStore,
    index: Arc<RemoteIndex>,
    all: Vec<u8>,
    /// Where its batches begin, by offset.
    starts: BTreeMap<u64, usize>,
    objects: Vec<Wanted>,
}

/// What a process has of it.
struct Process {
    host: Host,
    reader: RemoteReader,
    footers: Arc<Footers>,
    chunks_on_disk: Option<Arc<DiskCache>>,
}

#[derive(Clone, Copy)]
struct Sizes {
    memory: u64,
    disk: u64,
    ahead: (u64, u64),
}

impl Tier {
    /// Objects of so many bytes each.
    async fn new(sim: &Sim, machine: &SimHost, objects: &[usize]) -> Self {
        let bucket = SimStore::new(sim);
        let host = machine.start();
        let store = Store::over(Arc::new(bucket.clone()), "", host.clone(), "sim");
        let index = Arc::new(RemoteIndex::default());
        let (mut all, mut starts, mut made, mut end) = (Vec::new(), BTreeMap::new(), Vec::new(), 0);
        for (number, bytes) in objects.iter().enumerate() {
            let batches = batches(end, *bytes);
            let base = std::mem::replace(&mut end, batches.last().unwrap().header.end_offset());
            let pieces: Vec<Bytes> = batches.iter().map(StoredBatch::to_bytes).collect();
            for batch in &batches {
                starts.insert(batch.header.base_offset, all.len());
                all.extend_from_slice(&batch.to_bytes());
            }
            let part = Part {
                partition: ID,
                leader_epoch: 3,
                base,
                end,
                bytes: pieces.iter().map(|piece| piece.len() as u64).sum(),
                producers: None,
                aborted: Vec::new(),
                compacted: false,
                source: Box::new(Pieces::new(pieces)),
            };
            let planned = Planned {
                level: Level::L1,
                writer: Writer(7),
                seq: number as u64,
                parts: vec![part],
            };
            let uploaded = planned.upload(&store, &host, Progress::default()).await.unwrap();
            let verified = uploaded.verify(&store, false).await.unwrap();
            index.add_object(&verified.object, &verified.footer);
            made.push(Wanted::object(&verified.object));
        }
        machine.kill();
        Self { bucket, index, all, starts, objects: made }
    }

    async fn start(&self, machine: &SimHost, sizes: Sizes) -> Process {
        let host = machine.start();
        let store = Store::over(Arc::new(self.bucket.clone()), "", host.clone(), "sim");
        let open =
            |dir, name| DiskCache::open(host.clone(), Path::new(dir).into(), name, sizes.disk);
        let (chunks, footers) = match sizes.disk {
            0 => (None, None),
            _ => {
                (Some(open("/c/chunks", "chunks").await), Some(open("/c/footers", "footers").await))
            }
        };
        let footers = Arc::new(Footers::new(host.clone(), store.clone(), 1 << 20, footers));
        let config = ReadConfig {
            cache_bytes: sizes.memory,
            chunk_bytes: CHUNK,
            readahead_bytes: sizes.ahead.0,
            readahead_total_bytes: sizes.ahead.1,
        };
        let (index, kept) = (self.index.clone(), footers.clone());
        let on_disk = chunks.clone();
        let reader = RemoteReader::new(host.clone(), store, config, index, kept, on_disk);
        Process { host, reader, footers, chunks_on_disk: chunks }
    }

    /// Ranged reads that the bucket has answered.
    fn gets(&self) -> u64 {
        self.bucket.gets()
    }

    fn offset_of_byte(&self, at: usize) -> u64 {
        let held = self.starts.iter().take_while(|(_, pos)| **pos <= at);
        *held.last().unwrap().0
    }
}

impl Process {
    /// Reads these offsets as one reader, and checks every byte.
    async fn pass(&self, tier: &Tier, offsets: std::ops::Range<u64>, ahead: Option<&ReadAhead>) {
        let mut offset = offsets.start;
        while offset < offsets.end {
            let read = self.reader.read(ID, offset, 32 << 10, ahead).await.unwrap();
            let Some(read) = read else { return };
            let base = BatchHeader::decode(&read.batches).unwrap().base_offset;
            let at = tier.starts[&base];
            let written = &tier.all[at..at + read.batches.len()];
            assert!(read.batches == written, "offset {offset}: bytes that were never written");
            assert!(base <= offset && read.next_offset > offset);
            offset = read.next_offset;
        }
    }
}

#[test]
fn many_readers_share_one_fetch_and_one_that_gives_up_stops_nobody() {
    Sim::run(seed(301), |sim| async move {
        let machine = sim.host("a");
        let tier = Tier::new(&sim, &machine, &[40 << 10]).await;
        let sizes = Sizes { memory: 1 << 20, disk: 0, ahead: (CHUNK, CHUNK) };
        let process = Arc::new(tier.start(&machine, sizes).await);
        tier.bucket.set(Faults { slow_reads: 500, ..Faults::default() });
        let before = tier.gets();
        let read = |process: Arc<Process>| async move {
            let read = process.reader.read(ID, 0, 1000, None).await;
            read.unwrap().unwrap().batches.len()
        };
        // The first one asks, and leaves before the answer.
        let first = process.host.spawn("reader", read(process.clone()));
        later(700).await;
        let others: Vec<_> =
            (0..50).map(|_| process.host.spawn("reader", read(process.clone()))).collect();
        later(10).await;
        first.abort();
        for other in others {
            assert!(other.await.unwrap() > 0);
        }
        assert_eq!(tier.gets() - before, 2, "a footer and a chunk");
    });
}

#[test]
fn a_failure_is_for_those_who_waited_and_is_not_kept() {
    Sim::run(seed(302), |sim| async move {
        let machine = sim.host("a");
        let tier = Tier::new(&sim, &machine, &[200 << 10]).await;
        let sizes = Sizes { memory: 1 << 20, disk: 1 << 20, ahead: (CHUNK, CHUNK) };
        let process = tier.start(&machine, sizes).await;
        process.pass(&tier, 0..1, None).await;
        tier.bucket.set(Faults { away: true, ..Faults::default() });
        let far = tier.offset_of_byte(150 << 10);
        process.reader.read(ID, far, 1000, None).await.unwrap_err();
        tier.bucket.set(Faults::default());
        process.pass(&tier, far..far + 1, None).await;
    });
}

#[test]
fn what_could_not_be_read_ahead_is_asked_for_again() {
    Sim::run(seed(310), |sim| async move {
        let machine = sim.host("a");
        let tier = Tier::new(&sim, &machine, &[1 << 20]).await;
        let sizes = Sizes { memory: 1 << 20, disk: 0, ahead: (8 * CHUNK, 8 * CHUNK) };
        let process = tier.start(&machine, sizes).await;
        let window = process.reader.read_ahead();
        let far = tier.offset_of_byte(100 << 10);
        process.pass(&tier, 0..far, Some(&window)).await;
        process.reader.clear().await;
        tier.bucket.set(Faults { away: true, ..Faults::default() });
        let (mut offset, mut failed) = (far, false);
        while !failed {
            match process.reader.read(ID, offset, 8 << 10, Some(&window)).await {
                Ok(read) => offset = read.unwrap().next_offset,
                Err(_) => failed = true,
            }
        }
        tier.bucket.set(Faults::default());
        process.pass(&tier, offset..u64::MAX, Some(&window)).await;
    });
}

/// A working set in memory, or on the disk; then everything ten times over, once; then the set.
async fn scan(sim: Sim, sizes: Sizes, set: u64) {
    let machine = sim.host("a");
    let budget = sizes.memory.max(sizes.disk);
    let objects = vec![4 << 20; (budget * 10 / (4 << 20)) as usize + 1];
    let tier = Tier::new(&sim, &machine, &objects).await;
    let process = tier.start(&machine, sizes).await;
    let end = tier.offset_of_byte(set as usize);
    for _ in 0..4 {
        process.pass(&tier, 0..end, None).await;
        // What goes to the disk goes there beside the readers.
        later(2000).await;
    }
    let before = tier.gets();
    process.pass(&tier, 0..end, None).await;
    assert_eq!(tier.gets(), before, "the working set is here");
    let ahead = process.reader.read_ahead();
    process.pass(&tier, end..u64::MAX, Some(&ahead)).await;
    drop(ahead);
    let fetched = tier.gets() - before;
    let chunks = tier.all.len() as u64 / CHUNK;
    assert!(fetched > chunks / 2 && fetched < chunks * 11 / 10, "{fetched} for {chunks} chunks");
    later(2000).await;
    let before = tier.gets();
    process.pass(&tier, 0..end, None).await;
    let missed = tier.gets() - before;
    let chunks = set / CHUNK;
    assert!(missed * 10 <= chunks, "{missed} of {chunks} chunks of the working set are gone");
    if let Some(disk) = &process.chunks_on_disk {
        assert!(disk.used() <= sizes.disk, "{} of {}", disk.used(), sizes.disk);
    }
}

#[test]
fn a_backfill_flushes_no_memory() {
    let sizes = Sizes { memory: 4 << 20, disk: 0, ahead: (1 << 20, 2 << 20) };
    Sim::run(seed(303), |sim| scan(sim, sizes, 2 << 20));
}

#[test]
fn a_backfill_flushes_no_disk() {
    let sizes = Sizes { memory: 1 << 20, disk: 16 << 20, ahead: (1 << 20, 2 << 20) };
    Sim::run(seed(304), |sim| scan(sim, sizes, 8 << 20));
}

/// Damages what is on the disk, at places that the seed chooses.
fn flip_some(sim: &Sim, machine: &SimHost) {
    for path in machine.disk().names() {
        let name = path.to_string_lossy().into_owned();
        for _ in 0..5 {
            machine.disk().flip(&name, sim.below(200 << 10) as usize);
        }
    }
}

/// F16, and a power loss: torn entries, flipped bits, a disk that hangs or is full.
#[test]
fn f16_a_damaged_cached_copy_is_read_from_the_bucket() {
    for number in 0..6 {
        Sim::run(seed(1600 + number), |sim| async move {
            let machine = sim.host("a");
            let tier = Tier::new(&sim, &machine, &[1 << 20, 1 << 20, 1 << 20]).await;
            let sizes = Sizes { memory: 256 << 10, disk: 4 << 20, ahead: (CHUNK, 4 * CHUNK) };
            let mut process = tier.start(&machine, sizes).await;
            for round in 0..8 {
                process.pass(&tier, 0..u64::MAX, None).await;
                later(3000).await;
                let disk = machine.disk();
                match round % 4 {
                    0 => disk.set_faults(DiskFaults { silent: true, ..Default::default() }),
                    1 => disk.set_faults(DiskFaults { room: Some(0), ..Default::default() }),
                    _ => flip_some(&sim, &machine),
                }
                process.pass(&tier, 0..u64::MAX, None).await;
                disk.set_faults(DiskFaults::default());
                match sim.below(3) {
                    0 => continue,
                    1 => machine.kill(),
                    _ => machine.power_loss(),
                }
                flip_some(&sim, &machine);
                process = tier.start(&machine, sizes).await;
            }
            process.pass(&tier, 0..u64::MAX, None).await;
        });
    }
}

#[test]
fn what_was_kept_is_there_after_a_restart() {
    Sim::run(seed(305), |sim| async move {
        let machine = sim.host("a");
        let tier = Tier::new(&sim, &machine, &[300 << 10; 40]).await;
        let sizes = Sizes { memory: 256 << 10, disk: 64 << 20, ahead: (CHUNK, 4 * CHUNK) };
        let process = tier.start(&machine, sizes).await;
        let before = tier.gets();
        process.footers.get_all(tier.objects.clone()).await.unwrap();
        assert_eq!(tier.gets() - before, 40, "a request for each footer");
        // The second pass shows that it is used again.
        for _ in 0..2 {
            process.pass(&tier, 0..u64::MAX, None).await;
        }
        later(5000).await;
        machine.kill();
        let process = tier.start(&machine, sizes).await;
        let before = tier.gets();
        let footers = process.footers.get_all(tier.objects.clone()).await.unwrap();
        process.pass(&tier, 0..u64::MAX, None).await;
        assert_eq!((footers.len(), tier.gets() - before), (40, 0), "no request");
    });
}

#[test]
fn a_disk_that_gets_short_takes_the_room_back() {
    Sim::run(seed(306), |sim| async move {
        let machine = sim.host("a");
        let tier = Tier::new(&sim, &machine, &[4 << 20]).await;
        let sizes = Sizes { memory: 256 << 10, disk: 16 << 20, ahead: (CHUNK, 4 * CHUNK) };
        let process = tier.start(&machine, sizes).await;
        for _ in 0..2 {
            process.pass(&tier, 0..u64::MAX, None).await;
            later(2000).await;
        }
        let disk = process.chunks_on_disk.as_ref().unwrap();
        let used = disk.used();
        assert!(used > 3 << 20, "{used}");
        let on_machine = || machine.disk().names().len();
        let files = on_machine();
        disk.fit(used / 2).await;
        assert!(disk.used() <= used / 2 && on_machine() < files);
        disk.fit(0).await;
        assert_eq!(disk.used(), 0);
        process.pass(&tier, 0..u64::MAX, None).await;
        later(2000).await;
        assert_eq!(disk.used(), 0, "nothing is kept where nothing may be");
    });
}

#[test]
fn read_ahead_follows_the_reader() {
    Sim::run(seed(307), |sim| async move {
        let machine = sim.host("a");
        let tier = Tier::new(&sim, &machine, &[1 << 20; 8]).await;
        let sizes = Sizes { memory: 1 << 20, disk: 0, ahead: (16 * CHUNK, 24 * CHUNK) };
        let process = tier.start(&machine, sizes).await;
        process.footers.get_all(tier.objects.clone()).await.unwrap();
        tier.bucket.set(Faults { slow_reads: 100, ..Faults::default() });
        let asked_for = |from: u64| tier.gets() - from;
        let one = async |ahead: &ReadAhead, offset: u64| {
            let read = process.reader.read(ID, offset, 8 << 10, Some(ahead)).await.unwrap();
            read.unwrap().next_offset
        };
        // One record: one chunk, and the one that its last batch reaches into.
        let (taster, before) = (process.reader.read_ahead(), tier.gets());
        one(&taster, 0).await;
        later(1000).await;
        assert!(asked_for(before) <= 2, "{}", asked_for(before));
        // One that goes on is a window ahead, over the borders of objects, and waits less and less.
        let (fast, before) = (process.reader.read_ahead(), sim.elapsed_ms());
        process.pass(&tier, 0..u64::MAX, Some(&fast)).await;
        let took = sim.elapsed_ms() - before;
        let chunks = tier.all.len() as u64 / CHUNK;
        assert!(took < chunks * 110 / 4, "{took} ms for {chunks} chunks of 100 ms");
        // Slow ones ask for little more than they take.
        let (slow, before) = (process.reader.read_ahead(), tier.gets());
        process.reader.clear().await;
        let mut offset = 0;
        for _ in 0..4 {
            offset = one(&slow, offset).await;
            later(1500).await;
        }
        assert!(asked_for(before) <= 6, "{}", asked_for(before));
    });
}

#[test]
fn readers_that_go_on_share_the_memory_for_all() {
    Sim::run(seed(308), |sim| async move {
        let machine = sim.host("a");
        let tier = Tier::new(&sim, &machine, &[4 << 20; 4]).await;
        let sizes = Sizes { memory: 1 << 20, disk: 0, ahead: (32 * CHUNK, 32 * CHUNK) };
        let process = Arc::new(tier.start(&machine, sizes).await);
        process.footers.get_all(tier.objects.clone()).await.unwrap();
        tier.bucket.set(Faults { slow_reads: 100, ..Faults::default() });
        let mut readers = Vec::new();
        for number in 0..8u64 {
            let ahead = process.reader.read_ahead();
            let mut offset = number * 2000;
            for _ in 0..40 {
                let read = process.reader.read(ID, offset, 32 << 10, Some(&ahead)).await.unwrap();
                offset = read.unwrap().next_offset;
                assert!(process.reader.ahead_bytes() <= 32 * CHUNK);
            }
            readers.push(ahead);
        }
        // Who leaves gives back at once, who stops a little later.
        let held = process.reader.ahead_bytes();
        drop(readers.pop());
        let left = process.reader.ahead_bytes();
        assert!(left > 0 && left < held, "{left} of {held}");
        later(12_000).await;
        assert_eq!(process.reader.ahead_bytes(), 0);
        assert_eq!(readers.len(), 7);
    });
}

/// A reader that waits goes before what is only read ahead, also where that was asked for first.
#[test]
fn who_joins_a_read_ahead_does_not_wait_behind_all_of_it() {
    Sim::run(seed(311), |sim| async move {
        let machine = sim.host("a");
        let tier = Tier::new(&sim, &machine, &[8 << 20; 4]).await;
        let sizes = Sizes { memory: 8 << 20, disk: 0, ahead: (64 * CHUNK, 64 * CHUNK) };
        let process = tier.start(&machine, sizes).await;
        process.footers.get_all(tier.objects.clone()).await.unwrap();
        tier.bucket.set(Faults { slow_reads: 500, ..Faults::default() });
        let (window, mut offset) = (process.reader.read_ahead(), 0);
        while process.reader.ahead_bytes() < 60 * CHUNK {
            let read = process.reader.read(ID, offset, 8 << 10, Some(&window)).await.unwrap();
            offset = read.unwrap().next_offset;
        }
        // The last of what is on its way, or waits for its turn.
        let far = tier.offset_of_byte(tier.starts[&offset] + 58 * CHUNK as usize);
        let before = sim.elapsed_ms();
        process.reader.read(ID, far, 1000, None).await.unwrap().unwrap();
        let took = sim.elapsed_ms() - before;
        assert!(took < 750, "{took} ms, for reads of 500");
    });
}

/// The same below the reader, where no batch has a checksum of its own.
#[test]
fn f16_the_disk_cache_gives_back_what_it_was_given_or_nothing() {
    let id = |number| ChunkId { object: "d/00/object".into(), number };
    // Of many lengths: some fill their blocks.
    let data = |number: u64| Bytes::from(vec![number as u8; 3000 + (number as usize * 777) % 9000]);
    for number in 0..10 {
        Sim::run(seed(1650 + number), |sim| async move {
            let machine = sim.host("a");
            let (mut right, mut gone) = (0, 0);
            for round in 0..20 {
                let host = machine.start();
                let disk = DiskCache::open(host.clone(), "/c".into(), "chunks", 1 << 20).await;
                for _ in 0..60 {
                    let number = sim.below(200);
                    match disk.get(&id(number)).await {
                        Some(found) => {
                            assert!(found == data(number), "round {round}: chunk {number}");
                            right += 1;
                        }
                        None => gone += 1,
                    }
                    disk.put(id(number), data(number));
                    if sim.one_in(3) {
                        later(20).await;
                    }
                    if sim.one_in(40) {
                        flip_some(&sim, &machine);
                    }
                    assert!(disk.used() <= 1 << 20, "{}", disk.used());
                }
                match sim.below(3) {
                    0 => machine.power_loss(),
                    _ => machine.kill(),
                }
            }
            assert!(right > 100 && gone > 100, "{right} {gone}: neither is put to the test");
        });
    }
}

/// The ring turns many times; what is read in between stays, the rest goes, the budget holds.
#[test]
fn what_is_read_gets_a_second_chance_on_disk() {
    Sim::run(seed(309), |sim| async move {
        let machine = sim.host("a");
        let disk = DiskCache::open(machine.start(), "/c".into(), "chunks", 8 << 20).await;
        let id = |number| ChunkId { object: "o".into(), number };
        let data = |number: u64| Bytes::from(vec![number as u8; 60 << 10]);
        let mut missed = 0;
        for number in 0..3000 {
            disk.put(id(number), data(number));
            later(10).await;
            // Twenty chunks that somebody wants again and again.
            let wanted = number % 20;
            if disk.get(&id(wanted)).await.is_none() {
                missed += 1;
                disk.put(id(wanted), data(wanted));
            }
            assert!(disk.used() <= 8 << 20, "{}", disk.used());
        }
        assert!(missed <= 30, "{missed} of 3000");
        assert!(!disk.holds(&id(700)) && disk.holds(&id(2999)));
    });
}
