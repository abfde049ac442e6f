//! Merging objects, on a real folder: whatever the inputs are, the outputs hold the same log.

#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use levee_proto::ids::{PartitionId, TopicId, Writer};
use levee_proto::object::{Aborted, AbortedTxn, Footer, Level, ProducerEntry, ProducerSnapshot};
use levee_proto::record::batch::{check, check_run};
use levee_proto::record::codecs::Compression;
use levee_proto::record::records::{BatchBuilder, RecordData, decode_records};
use levee_proto::record::{BatchHeader, StoredBatch};
use levee_runtime::Host;
use levee_runtime::real::RealWorld;
use levee_tiering::budget::Budget;
use levee_tiering::compact::{Cleaner, Cleaners, Dirty, KeyMap, Rewriter, Rules, map_keys};
use levee_tiering::merge::{
    Copies, Input, Output, RunBatches, Shape, Tile, Tiles, Windows, plan, prove, prove_compacted,
    tile,
};
use levee_tiering::store::{Progress, Store};
use levee_tiering::upload::{Part, Pieces, Planned, UploadError};
use proptest::prelude::*;

fn partition(n: u32) -> PartitionId {
    PartitionId { topic: TopicId(9), partition: n }
}

/// A log of batches of one to three records; each epoch is forty batches long.
fn log(n: u32, batches: usize) -> Vec<Bytes> {
    let (mut out, mut end) = (Vec::new(), 0u64);
    for number in 0..batches {
        let mut builder = BatchBuilder::new(Compression::None);
        for record in 0..1 + number as u64 % 3 {
            let value = Some(vec![n as u8 + number as u8; 50 + number * 7 % 400].into());
            let timestamp_ms = (end + record) as i64;
            builder.push(&RecordData { timestamp_ms, value, ..RecordData::default() });
        }
        let plain = builder.build(None);
        let epoch = 1 + number as u32 / 40;
        let stored = StoredBatch::stamp(&plain, check(&plain).unwrap(), end, epoch);
        end = stored.header.end_offset();
        out.push(stored.to_bytes());
    }
    out
}

fn offsets(batches: &[Bytes]) -> Range<u64> {
    let first = BatchHeader::decode(&batches[0]).unwrap();
    let last = BatchHeader::decode(batches.last().unwrap()).unwrap();
    first.base_offset..last.end_offset()
}

fn epoch(batch: &Bytes) -> u32 {
    BatchHeader::decode(batch).unwrap().leader_epoch
}

/// Told by how many producers it has.
fn told(count: u64) -> ProducerSnapshot {
    let entry = |id| ProducerEntry {
        producer_id: id as i64,
        producer_epoch: 0,
        coordinator_epoch: -1,
        last_timestamp: 0,
        open_txn_start: None,
        batches: Vec::new(),
    };
    ProducerSnapshot { producers: (0..count % 50).map(entry).collect() }
}

/// Transactions that count as aborted, in each log: some begin far below their marker.
fn aborts() -> impl Iterator<Item = AbortedTxn> {
    (0..40).map(|n| AbortedTxn {
        producer_id: n as i64,
        first_offset: n * 5 / 2,
        last_offset: n * 5 + 4,
        last_stable_offset: n * 5 + 5 - n % 3,
    })
}

/// No other copies.
struct Nowhere;

#[async_trait]
impl Copies for Nowhere {
    async fn other(&self, _: PartitionId, _: u64) -> Option<Bytes> {
        None
    }
}

/// Other copies of everything.
struct Everywhere(BTreeMap<PartitionId, Vec<Bytes>>);

#[async_trait]
impl Copies for Everywhere {
    async fn other(&self, id: PartitionId, offset: u64) -> Option<Bytes> {
        let log = &self.0[&id];
        let at = log.iter().position(|batch| offsets(std::slice::from_ref(batch)).end > offset)?;
        Some(log[at..].iter().take(2).flat_map(|batch| batch.to_vec()).collect::<Vec<u8>>().into())
    }
}

struct Bucket {
    host: Host,
    store: Store,
    budget: Arc<Budget>,
    folder: tempfile::TempDir,
}

impl Bucket {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let host = RealWorld::host();
        let url = format!("file://{}", folder.path().display());
        let store = Store::open(&url, host.clone()).unwrap();
        let budget = Arc::new(Budget::new(host.clone(), u64::MAX, 1_000_000));
        Self { host, store, budget, folder }
    }

    async fn put(
        &self,
        writer: Writer,
        seq: u64,
        level: Level,
        parts: Vec<Part>,
    ) -> Result<Input, UploadError> {
        let planned = Planned { level, writer, seq, parts };
        let uploaded = planned.upload(&self.store, &self.host, Progress::default()).await?;
        let verified = uploaded.verify(&self.store, true).await?;
        Ok(Input { object: verified.object, footer: Arc::new(verified.footer) })
    }

    /// A shared object of stretches of logs, split where the epoch changes.
    async fn input(&self, seq: u64, parts: Vec<(u32, Vec<Bytes>, bool)>) -> Input {
        let mut all = Vec::new();
        for (n, batches, with_producers) in parts {
            for run in batches.chunk_by(|a, b| epoch(a) == epoch(b)) {
                let Range { start: base, end } = offsets(run);
                all.push(Part {
                    partition: partition(n),
                    leader_epoch: epoch(&run[0]),
                    base,
                    end,
                    bytes: run.iter().map(|batch| batch.len() as u64).sum(),
                    producers: with_producers.then(|| told(end)),
                    aborted: aborts().filter(|t| (base..end).contains(&t.last_offset)).collect(),
                    compacted: false,
                    source: Box::new(Pieces::new(run.to_vec())),
                });
            }
        }
        self.put(Writer(7), seq, Level::L1, all).await.unwrap()
    }

    async fn merge(
        &self,
        inputs: &[Input],
        mut tiles: Tiles,
        copies: Arc<dyn Copies>,
    ) -> Result<(Vec<Output>, Vec<Input>), UploadError> {
        let windows = Windows::new(self.store.clone(), self.budget.clone(), inputs);
        windows.place(inputs, &mut tiles).await.unwrap();
        let windows = Arc::new(windows);
        let outputs = plan(tiles, Shape { object_bytes: 20_000, l2_bytes: 8_000 });
        let mut written = Vec::new();
        for (seq, output) in outputs.iter().enumerate() {
            let part = |run| source_of(run, RunBatches::new(windows.clone(), copies.clone(), run));
            let parts = output.runs.iter().map(part).collect();
            written.push(self.put(Writer::job(1), seq as u64, output.level, parts).await?);
        }
        Ok((outputs, written))
    }

    /// The offsets and bytes of a partition, as objects hold them.
    async fn read(&self, objects: &[Input], n: u32) -> BTreeMap<u64, Bytes> {
        let mut found = BTreeMap::new();
        for Input { object, footer } in objects {
            let of = |range: &&levee_proto::object::Range| range.partition == partition(n);
            for range in footer.ranges.iter().filter(of).filter(|range| range.len > 0) {
                let bytes = range.pos..range.pos + range.len;
                let bytes = self.store.get_range(&object.key(), bytes).await.unwrap().unwrap();
                let used = check_run(&bytes, |at, header| {
                    let batch = bytes.slice(at..at + header.bytes as usize);
                    assert_eq!(found.insert(header.base_offset, batch), None, "held twice");
                    assert_eq!(header.leader_epoch, range.leader_epoch);
                    true
                });
                assert_eq!(used.unwrap(), bytes.len());
            }
        }
        found
    }
}

fn source_of(run: &levee_tiering::merge::Run, source: RunBatches) -> Part {
    Part {
        partition: run.partition,
        leader_epoch: run.leader_epoch(),
        base: run.base(),
        end: run.end(),
        bytes: run.bytes(),
        producers: run.producers().cloned(),
        aborted: run.aborted(),
        compacted: run.compacted(),
        source: Box::new(source),
    }
}

/// Inputs: each some stretches (partition, from, batches, with producer state) of logs.
fn stretches() -> impl Strategy<Value = Vec<Vec<(u32, usize, usize, bool)>>> {
    let stretch = (0..3u32, 0..90usize, 1..40usize, any::<bool>());
    proptest::collection::vec(proptest::collection::vec(stretch, 1..4), 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Overlaps, gaps, epochs, deleted fronts: each needed batch is there once, byte for byte, and
    /// the newest producer state with it.
    #[test]
    fn outputs_hold_what_inputs_held(made in stretches(), log_start in 0..120u64) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(check_merge(made, log_start));
    }
}

async fn check_merge(made: Vec<Vec<(u32, usize, usize, bool)>>, log_start: u64) {
    let logs: Vec<Vec<Bytes>> = (0..3).map(|n| log(n, 100)).collect();
    let bucket = Bucket::new();
    let mut inputs = Vec::new();
    for (seq, stretches) in made.into_iter().enumerate() {
        // One object holds an offset once.
        let mut parts: Vec<(u32, Vec<Bytes>, bool)> = Vec::new();
        for (n, from, count, told) in stretches {
            if parts.iter().all(|(other, ..)| *other != n) {
                let to = (from + count).min(100);
                parts.push((n, logs[n as usize][from..to].to_vec(), told));
            }
        }
        parts.sort_by_key(|(n, ..)| *n);
        inputs.push(bucket.input(seq as u64, parts).await);
    }
    let tiles = tile(&inputs, |range| range.end > log_start);
    let (outputs, written) = bucket.merge(&inputs, tiles, Arc::new(Nowhere)).await.unwrap();
    let footers: Vec<Footer> = written.iter().map(|w| (*w.footer).clone()).collect();
    prove(&inputs, |range| range.end > log_start, &outputs, &footers).unwrap();

    for n in 0..3 {
        let needed: Vec<&levee_proto::object::Range> = inputs
            .iter()
            .flat_map(|input| &input.footer.ranges)
            .filter(|range| range.partition == partition(n) && range.end > log_start)
            .collect();
        let is_held = |batch: &&Bytes| {
            let Range { start, end } = offsets(std::slice::from_ref(*batch));
            needed.iter().any(|range| range.base <= start && end <= range.end)
        };
        let wanted: Vec<&Bytes> = logs[n as usize].iter().filter(is_held).collect();
        let found = bucket.read(&written, n).await;
        assert!(found.values().eq(wanted), "partition {n}");
        let newest = |told: &mut dyn Iterator<Item = (u64, usize)>| told.max();
        let state = |range: &levee_proto::object::Range| {
            range.producers.as_ref().map(|all| (range.end, all.producers.len()))
        };
        let ranges = footers.iter().flat_map(|footer| &footer.ranges);
        let ranges = ranges.filter(|range| range.partition == partition(n));
        assert_eq!(
            newest(&mut ranges.filter_map(state)),
            newest(&mut needed.iter().filter_map(|range| state(range))),
        );
    }
    for n in 0..3 {
        let is_found = |txn: &AbortedTxn| {
            let ranges = footers.iter().flat_map(|footer| &footer.ranges);
            ranges.filter(|range| range.partition == partition(n)).any(|range| {
                range.aborted.contains(txn) && (range.base..range.end).contains(&txn.last_offset)
            })
        };
        let is_held = |txn: &AbortedTxn| {
            let ranges = inputs.iter().flat_map(|input| &input.footer.ranges);
            ranges
                .filter(|range| range.partition == partition(n) && range.end > log_start)
                .any(|range| (range.base..range.end).contains(&txn.last_offset))
        };
        for txn in aborts() {
            assert_eq!(is_found(&txn), is_held(&txn), "partition {n}: {txn:?}");
        }
    }
    // What was lost on the way is seen.
    let told = |footer: &Footer| footer.ranges.iter().position(|range| !range.aborted.is_empty());
    if let Some((at, number)) =
        footers.iter().enumerate().find_map(|(at, footer)| Some((at, told(footer)?)))
    {
        let mut silent = footers.clone();
        silent[at].ranges[number].aborted.pop();
        prove(&inputs, |range| range.end > log_start, &outputs, &silent).unwrap_err();
    }
    if let Some(at) = footers.iter().position(|footer| !footer.ranges.is_empty()) {
        let mut lossy = footers.clone();
        lossy[at].ranges.pop();
        prove(&inputs, |range| range.end > log_start, &outputs, &lossy).unwrap_err();
    }
}

/// Bytes that rotted in the bucket come from another copy, or nothing is replaced.
#[tokio::test]
async fn a_damaged_input_is_read_from_another_copy_or_refused() {
    let bucket = Bucket::new();
    let log = log(1, 60);
    let inputs = [
        bucket.input(0, vec![(1, log[..30].to_vec(), true)]).await,
        bucket.input(1, vec![(1, log[30..].to_vec(), true)]).await,
    ];
    let file = bucket.folder.path().join(inputs[1].object.key());
    let mut bytes = std::fs::read(&file).unwrap();
    for at in [64 + 700, 64 + 2500] {
        bytes[at] ^= 0x10;
    }
    std::fs::write(&file, bytes).unwrap();
    let tiles = tile(&inputs, |_| true);

    let refused = bucket.merge(&inputs, tiles.clone(), Arc::new(Nowhere)).await;
    let Err(error) = refused else { panic!("it is damaged") };
    assert!(error.to_string().contains(&inputs[1].object.key()), "{error}");

    let copies = Everywhere([(partition(1), log.clone())].into());
    let (outputs, written) = bucket.merge(&inputs, tiles, Arc::new(copies)).await.unwrap();
    let footers: Vec<Footer> = written.iter().map(|w| (*w.footer).clone()).collect();
    prove(&inputs, |_| true, &outputs, &footers).unwrap();
    assert!(bucket.read(&written, 1).await.values().eq(&log));
}

/// A log of one partition: key `n` of each record by its offset, in batches of some records.
fn keyed(keys: &[u8]) -> Vec<Bytes> {
    let (mut out, mut end) = (Vec::new(), 0);
    for (number, keys) in keys.chunks(3).enumerate() {
        let mut builder = BatchBuilder::new(Compression::ALL[number % 5]);
        for (record, key) in keys.iter().enumerate() {
            builder.push(&RecordData {
                timestamp_ms: (end + record) as i64,
                key: Some(vec![*key].into()),
                value: Some(vec![*key; 30 + end % 90].into()),
                ..RecordData::default()
            });
        }
        let plain = builder.build(None);
        let epoch = 1 + number as u32 / 40;
        let stored = StoredBatch::stamp(&plain, check(&plain).unwrap(), end as u64, epoch);
        end += keys.len();
        out.push(stored.to_bytes());
    }
    out
}

impl Bucket {
    /// Compacts everything that some objects hold of partition 1, of which what stands from
    /// `dirty_from` on is new.
    async fn compact(&self, job: u64, inputs: &[Input], dirty_from: u64) -> Vec<Input> {
        let (id, copies) = (partition(1), Arc::new(Nowhere) as Arc<dyn Copies>);
        let mut tiles = tile(inputs, |_| true);
        let windows = Windows::new(self.store.clone(), self.budget.clone(), inputs);
        windows.place(inputs, &mut tiles).await.unwrap();
        let to = tiles[&id].last().unwrap().end;
        let of_tile =
            |tile: &Tile| Windows::of_tile(self.store.clone(), self.budget.clone(), inputs, tile);
        let (mut map, aborted) = (KeyMap::new(1 << 20), Aborted::default());
        let (tiles_of, offsets) = (tiles[&id].as_slice(), dirty_from..to);
        let dirty = Dirty { partition: id, tiles: tiles_of, offsets, aborted: &aborted };
        let reached = map_keys(&self.host, &mut map, of_tile, &copies, dirty).await.unwrap();
        assert_eq!(reached, to, "there is room for all keys");
        let (keys, map) = (map.len() as u64, Arc::new(map));
        let rules = Rules {
            partition: id,
            map,
            dirty_from,
            to,
            now_ms: 0,
            delete_retention_ms: None,
            aborted,
            local_start: 0,
        };
        let mut cleaners: Cleaners = [(id, Cleaner::new(rules))].into();
        tiles.values_mut().flatten().for_each(|tile| tile.to_compact = true);
        let mut written = Vec::new();
        let (host, windows) = (self.host.clone(), Arc::new(windows));
        let mut rewriter =
            Rewriter::new(host, windows, copies, tiles.clone(), &mut cleaners, 2_000);
        while let Some(parts) = rewriter.next().await.unwrap() {
            let (seq, level) =
                (written.len() as u64, if parts.len() == 1 { Level::L2 } else { Level::L1 });
            written.push(self.put(Writer::job(job), seq, level, parts).await.unwrap());
        }
        let cleaner = cleaners.get_mut(&id).unwrap();
        assert_eq!(cleaner.met(), keys);
        let kept = BTreeMap::from([(id, cleaner.take_kept())]);
        let footers: Vec<Footer> = written.iter().map(|w| (*w.footer).clone()).collect();
        prove_compacted(inputs, |_| true, &tiles, &kept, &footers).unwrap();
        check_lies(&footers, |lies| {
            prove_compacted(inputs, |_| true, &tiles, &kept, lies).is_err()
        });
        written
    }
}

/// Footers that say less, more or something else than what was written are seen.
fn check_lies(footers: &[Footer], is_seen: impl Fn(&[Footer]) -> bool) {
    type Lie = fn(&mut levee_proto::object::Range);
    let lies: [(&str, Lie); 6] = [
        ("flag", |range| range.compacted = !range.compacted),
        ("bytes", |range| range.len += 1),
        ("records", |range| range.records += 1),
        ("end", |range| range.end += 1),
        ("epoch", |range| range.leader_epoch += 1),
        ("time", |range| range.max_timestamp = i64::MAX),
    ];
    for (at, footer) in footers.iter().enumerate() {
        for number in 0..footer.ranges.len() {
            for (what, lie) in lies {
                let mut lying = footers.to_vec();
                lie(&mut lying[at].ranges[number]);
                assert!(is_seen(&lying), "another {what} of a range");
            }
            let mut lying = footers.to_vec();
            lying[at].ranges.remove(number);
            assert!(is_seen(&lying), "a range is missing");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// A log whose front is compacted, merged with what is not, compacted again: of each key the
    /// newest record is there as it was written, and what is compacted is told from what is not.
    #[test]
    fn what_was_compacted_stays_so_through_merges(
        keys in proptest::collection::vec(0..12u8, 9..400),
        cuts in proptest::collection::vec(0..1000usize, 1..5),
        front in 0..5usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(check_compaction(&keys, &cuts, front));
    }
}

async fn check_compaction(keys: &[u8], cuts: &[usize], front: usize) {
    let (bucket, log) = (Bucket::new(), keyed(keys));
    let mut borders: Vec<usize> = cuts.iter().map(|cut| cut % log.len()).collect();
    borders.extend([0, log.len()]);
    borders.sort_unstable();
    borders.dedup();
    let mut objects = Vec::new();
    for (seq, border) in borders.windows(2).enumerate() {
        let batches = log[border[0]..border[1]].to_vec();
        objects.push(bucket.input(seq as u64, vec![(1, batches, seq % 2 == 0)]).await);
    }
    let rest = objects.split_off(front.min(objects.len()));
    let dirty_from = objects.last().map_or(0, |object| object.footer.ranges.last().unwrap().end);
    if !objects.is_empty() {
        objects = bucket.compact(2, &objects, 0).await;
    }
    objects.extend(rest);
    let before = bucket.read(&objects, 1).await;

    let tiles = tile(&objects, |_| true);
    let (outputs, merged) = bucket.merge(&objects, tiles, Arc::new(Nowhere)).await.unwrap();
    let footers: Vec<Footer> = merged.iter().map(|w| (*w.footer).clone()).collect();
    prove(&objects, |_| true, &outputs, &footers).unwrap();
    check_lies(&footers, |lies| prove(&objects, |_| true, &outputs, lies).is_err());
    assert_eq!(bucket.read(&merged, 1).await, before, "merges change no batch");
    for range in footers.iter().flat_map(|footer| &footer.ranges) {
        assert_eq!(range.compacted, range.end <= dirty_from, "{}..{}", range.base, range.end);
    }

    let last = bucket.compact(3, &merged, dirty_from).await;
    let mut written = BTreeMap::new();
    let mut newest = BTreeMap::new();
    for record in log.iter().flat_map(|batch| decode_records(batch).unwrap()) {
        newest.insert(record.data.key.clone(), record.offset);
        written.insert(record.offset, record);
    }
    let batches = bucket.read(&last, 1).await;
    let left: Vec<_> = batches.values().flat_map(|batch| decode_records(batch).unwrap()).collect();
    let mut wanted: Vec<u64> = newest.into_values().collect();
    wanted.sort_unstable();
    let wanted: Vec<_> = wanted.iter().map(|offset| written[offset].clone()).collect();
    assert_eq!(left, wanted);
}

/// Offsets are outside of the checksums of batches, and batches of a compacted range do not prove
/// each other's: the checksum of the range does.
#[tokio::test]
async fn a_batch_of_a_compacted_range_at_another_offset_is_refused() {
    let bucket = Bucket::new();
    let keys = [0, 0, 0, 1, 1, 1, 0, 0, 0, 2, 2, 2];
    let whole = bucket.input(0, vec![(1, keyed(&keys), true)]).await;
    let compacted = bucket.compact(2, &[whole], 0).await;
    let [input] = &compacted[..] else { panic!("{} objects", compacted.len()) };
    let file = bucket.folder.path().join(input.object.key());
    let mut bytes = std::fs::read(&file).unwrap();
    let at = input.footer.ranges[0].pos as usize;
    assert_eq!(BatchHeader::decode(&bytes[at..]).unwrap().base_offset, 3, "0 to 2 are gone");
    bytes[at + 7] = 2;
    std::fs::write(&file, bytes).unwrap();
    let tiles = tile(&compacted, |_| true);
    let refused = bucket.merge(&compacted, tiles, Arc::new(Nowhere)).await;
    let Err(error) = refused else { panic!("it is damaged") };
    assert!(error.to_string().contains("another checksum"), "{error}");
}
