//! Compaction, on whole brokers in virtual time: of each key the newest record stays at its offset,
//! whatever happens beside it.
//!
//! A thousandth of `LEVEE_SEEDS` is how many seeds the storm runs, `LEVEE_SEED` runs one again.

#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use levee_broker::config::BrokerConfig;
use levee_broker::error::Error;
use levee_broker::fetch::{Fetch, Isolation};
use levee_broker::node::Node;
use levee_broker::partition::EndTxn;
use levee_broker::produce::Acks;
use levee_proto::crc::crc32c;
use levee_proto::metalog::JOB_COMPACT;
use levee_proto::object::Aborted;
use levee_proto::record::batch::check_run;
use levee_proto::record::codecs::Compression;
use levee_proto::record::records::{BatchBuilder, ProducerStamp, RecordData, decode_records};
use levee_runtime::sim::Sim;
use levee_tests::sim::{Cluster, Faults, seed};
use levee_tiering::remote::Source;
use parking_lot::Mutex;

const LIMIT: Duration = Duration::from_secs(5);
const FAST: [(&str, &str); 5] = [
    ("tier.interval", "2s"),
    ("gc.grace", "30s"),
    ("object.lane.linger", "20ms"),
    ("compaction.interval", "1s"),
    ("sweep.interval", "15s"),
];
/// Keys of a load.
const KEYS: u64 = 20;

async fn later(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

async fn create(cluster: &Cluster, topic: &'static str, class: &str, more: &[(&str, &str)]) {
    let own = [("durability.class", class), ("cleanup.policy", "compact")];
    let config = own.iter().chain(more).map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let made = cluster.ask(|node| async move { node.create_topic(topic, 1, config).await });
    made.await.expect("it serves").expect("the topic is made");
}

/// What was written: key, and value or none.
type Entry = (String, Option<String>);

#[derive(Default)]
struct Model {
    /// Every acknowledged record by its offset, and whether it is of an aborted transaction.
    written: BTreeMap<u64, (Entry, bool)>,
    running: usize,
    stop: bool,
}

/// Producers that write few keys again and again: one plain, the others in transactions.
#[derive(Clone)]
struct Keyed {
    cluster: Cluster,
    topic: &'static str,
    model: Arc<Mutex<Model>>,
}

/// What a reader got: records by offset.
type Read = BTreeMap<u64, Entry>;

impl Keyed {
    fn start(cluster: &Cluster, topic: &'static str, producers: i64) -> Self {
        let load = Self { cluster: cluster.clone(), topic, model: Arc::default() };
        load.model.lock().running = producers as usize;
        for producer in 0..producers {
            let load = load.clone();
            tokio::spawn(async move {
                load.run(100 + producer, producer > 0).await;
                load.model.lock().running -= 1;
            });
        }
        load
    }

    async fn run(&self, producer_id: i64, transactional: bool) {
        let sim = self.cluster.sim.clone();
        let (mut epoch, mut sequence, mut number) = (0, 0, 0);
        while !self.model.lock().stop {
            let mut written = BTreeMap::new();
            for _ in 0..1 + sim.below(3) {
                let entries: Vec<Entry> = (0..1 + sim.below(5))
                    .map(|_| {
                        number += 1;
                        let value = format!(
                            "{producer_id} {number} {}",
                            "x".repeat(sim.below(90) as usize)
                        );
                        (format!("key-{}", sim.below(KEYS)), (!sim.one_in(6)).then_some(value))
                    })
                    .collect();
                let stamp =
                    ProducerStamp { producer_id, producer_epoch: epoch, base_sequence: sequence };
                sequence += entries.len() as i32;
                let base = self.append(stamp, &entries, transactional).await;
                written.extend((base..).zip(entries));
                tokio::time::sleep(Duration::from_millis(sim.below(100))).await;
            }
            let mut aborts = false;
            if transactional {
                aborts = sim.one_in(3);
                (epoch, sequence) = (epoch + 1, 0);
                self.end(producer_id, epoch, !aborts).await;
            }
            let written = written.into_iter().map(|(offset, entry)| (offset, (entry, aborts)));
            self.model.lock().written.extend(written);
        }
    }

    async fn append(&self, stamp: ProducerStamp, entries: &[Entry], transactional: bool) -> u64 {
        let codec = Compression::ALL[self.cluster.sim.below(5) as usize];
        self.append_as(codec, stamp, entries, transactional).await
    }

    async fn append_as(
        &self,
        codec: Compression,
        stamp: ProducerStamp,
        entries: &[Entry],
        transactional: bool,
    ) -> u64 {
        let mut builder = BatchBuilder::new(codec);
        if transactional {
            builder = builder.transactional();
        }
        for (key, value) in entries {
            builder.push(&RecordData {
                timestamp_ms: 1_800_000_000_000 + self.cluster.sim.elapsed_ms() as i64,
                key: Some(key.clone().into()),
                value: value.clone().map(Into::into),
                ..RecordData::default()
            });
        }
        let (batch, topic) = (builder.build(Some(stamp)), self.topic);
        let appended = self.retried(move |node| {
            let batch = batch.clone();
            async move {
                let pending = node.append(topic, 0, batch, Acks::All, LIMIT).await?;
                pending.done(&node).await
            }
        });
        appended.await.base_offset
    }

    async fn end(&self, producer_id: i64, producer_epoch: i16, commit: bool) {
        let (topic, coordinator_epoch, transaction_version) = (self.topic, 3, 2);
        let end =
            EndTxn { producer_id, producer_epoch, coordinator_epoch, commit, transaction_version };
        self.retried(move |node| async move {
            let pending = node.end_transaction(topic, 0, &end, LIMIT).await?;
            pending.done(&node).await
        })
        .await;
    }

    async fn retried<T, F>(&self, request: impl Fn(Arc<Node>) -> F + Clone + Send + 'static) -> T
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        loop {
            let asked = self.cluster.ask(request.clone());
            match tokio::time::timeout(Duration::from_secs(10), asked).await {
                Ok(Some(Ok(done))) => return done,
                Ok(Some(Err(error))) if !error.retriable => panic!("{error}"),
                Ok(Some(Err(_)) | None) | Err(_) => later(1).await,
            }
        }
    }

    fn written(&self) -> usize {
        self.model.lock().written.len()
    }

    async fn progress(&self, more: usize) {
        let goal = self.written() + more;
        for _ in 0..20_000 {
            if self.written() >= goal {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("no {more} records more in time");
    }

    async fn stop(&self) {
        self.model.lock().stop = true;
        for _ in 0..20_000 {
            if self.model.lock().running == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("it did not stop in time");
    }

    async fn read(&self, from: u64, max_bytes: usize, isolation: Isolation) -> Read {
        let (mut read, mut offset) = (Read::new(), from);
        loop {
            let (topic, wait) = (self.topic, Duration::ZERO);
            let fetch = Fetch { offset, max_bytes, min_bytes: 0, wait, isolation };
            let fetched = self.retried(move |node| {
                let fetch = fetch.clone();
                async move { node.fetch(&*node.partition(topic, 0)?, &fetch).await }
            });
            let fetched = fetched.await;
            let aborted: Aborted = fetched.aborted.iter().copied().collect();
            let batches = fetched.batches.into_bytes();
            let walked = check_run(&batches, |at, header| {
                assert!(header.end_offset() > offset, "a batch below {offset}");
                if isolation == Isolation::ReadCommitted && aborted.holds(header) {
                    return true;
                }
                let batch = batches.slice(at..at + header.bytes as usize);
                for record in decode_records(&batch).unwrap() {
                    let text = |bytes: bytes::Bytes| String::from_utf8(bytes.to_vec()).unwrap();
                    let entry = (text(record.data.key.unwrap()), record.data.value.map(text));
                    if record.offset >= offset {
                        let twice = read.insert(record.offset, entry);
                        assert_eq!(twice, None, "offset {} is there twice", record.offset);
                    }
                }
                true
            });
            assert_eq!(walked.unwrap(), batches.len());
            let end = match isolation {
                Isolation::ReadUncommitted => fetched.high_watermark,
                Isolation::ReadCommitted => fetched.last_stable_offset,
            };
            if fetched.next_offset >= end {
                return read;
            }
            assert!(fetched.next_offset > offset, "no progress at {offset}");
            // Who knows batches only must come on as well.
            assert!(!batches.is_empty(), "nothing at {offset} of {end}");
            offset = fetched.next_offset;
        }
    }

    /// Readers of both kinds see what the rule keeps, where it was written, and nothing else. Only
    /// when no transaction is open.
    async fn verify(&self) {
        let seen = self.read(0, 1 << 16, Isolation::ReadUncommitted).await;
        let stable = self.read(0, 1 << 16, Isolation::ReadCommitted).await;
        let written = self.model.lock().written.clone();
        for (offset, entry) in seen.iter().chain(&stable) {
            let known = written.get(offset).map(|(entry, _)| entry);
            assert_eq!(known, Some(entry), "offset {offset} of {}", self.topic);
        }
        let aborted = stable.keys().find(|offset| written[offset].1);
        assert_eq!(aborted, None, "aborted and read");
        let mut newest: BTreeMap<&String, u64> = BTreeMap::new();
        for (offset, ((key, _), aborted)) in &written {
            if !aborted {
                newest.insert(key, *offset);
            }
        }
        for (key, offset) in newest {
            let is_tombstone = written[&offset].0.1.is_none();
            assert!(is_tombstone || stable.contains_key(&offset), "{key} at {offset} is lost");
            assert!(is_tombstone || seen.contains_key(&offset), "{key} at {offset} is lost");
            // A deleted key must not come back: nothing of it is left without its tombstone.
            let left = stable.iter().rfind(|(_, (of, _))| of == key);
            assert!(left.is_none_or(|(at, _)| *at == offset), "{key} came back at {left:?}");
        }
        for _ in 0..5 {
            let end = written.keys().next_back().copied().unwrap_or(0);
            let from = self.cluster.sim.below(end + 1);
            let bytes = 1 + self.cluster.sim.below(2000) as usize;
            let again = self.read(from, bytes, Isolation::ReadCommitted).await;
            assert!(again.iter().eq(stable.range(from..)), "from {from}, {bytes} bytes at a time");
        }
    }

    /// Keys of the objects that hold it.
    async fn objects(&self) -> BTreeSet<String> {
        let topic = self.topic;
        let asked = self.cluster.ask(move |node| async move {
            let id = node.partition(topic, 0)?.id;
            let ranges = node.tiers.index.ranges(id);
            Ok::<_, Error>(ranges.iter().map(|range| range.key.to_string()).collect())
        });
        asked.await.expect("it serves").expect("it is led")
    }

    /// How many of its ranges in the bucket are compacted, and of how many.
    async fn ranges(&self) -> (usize, usize) {
        let topic = self.topic;
        let asked = self.cluster.ask(move |node| async move {
            let led = node.partition(topic, 0)?;
            let ladder = led.readable()?;
            let tiles = node.tiers.index.tiling(led.id, ladder.log_start(), u64::MAX);
            let tiles = tiles.iter().filter(|tile| matches!(tile.source, Source::Object(_)));
            let compacted = tiles.clone().filter(|tile| tile.compacted).count();
            Ok::<_, Error>((compacted, tiles.count()))
        });
        asked.await.expect("it serves").expect("it is led")
    }
}

const EAGER: [(&str, &str); 2] =
    [("min.cleanable.dirty.ratio", "0"), ("delete.retention.ms", "20000")];

/// Many updates of few keys, in both classes: everything is compacted in the end, and small; after
/// a start of another process too.
#[test]
fn of_each_key_the_newest_record_stays() {
    Sim::run(seed(501), |sim| async move {
        let cluster = Cluster::new(&sim, &FAST).with_small_objects();
        let machine = sim.host("a");
        let bucket = cluster.bucket.seen_by("a");
        cluster.start(&machine, &bucket).await;
        create(&cluster, "bucket", "object", &EAGER).await;
        create(&cluster, "synced", "local", &EAGER).await;
        let loads = ["bucket", "synced"].map(|topic| Keyed::start(&cluster, topic, 3));
        for _ in 0..4 {
            for load in &loads {
                load.progress(300).await;
            }
            cluster.audit().await;
        }
        for load in &loads {
            load.stop().await;
        }
        // Tombstones and markers go a round after their time.
        later(60).await;
        for load in &loads {
            load.verify().await;
        }
        machine.kill();
        cluster.start(&machine, &bucket).await;
        later(30).await;
        for load in &loads {
            load.verify().await;
            let (compacted, all) = load.ranges().await;
            assert!(compacted == all && all > 0, "{compacted} of {all} ranges");
            // From the bucket alone, as local copies went with the process.
            let left = load.read(0, 1 << 16, Isolation::ReadUncommitted).await;
            assert!(left.len() as u64 <= KEYS, "{} records of {KEYS} keys", left.len());
        }
        // Where nothing is dirty nothing is written again.
        let mut before = Vec::new();
        for load in &loads {
            before.push(load.objects().await);
        }
        later(300).await;
        for (load, before) in loads.iter().zip(before) {
            assert_eq!(load.objects().await, before, "{}", load.topic);
        }
        cluster.audit().await;
    });
}

/// What is too young, and what is clean enough, stays as it is.
#[test]
fn lags_and_the_dirty_ratio_hold_back_and_force() {
    Sim::run(seed(502), |sim| async move {
        let cluster = Cluster::new(&sim, &FAST);
        let machine = sim.host("a");
        cluster.start(&machine, &cluster.bucket.seen_by("a")).await;
        let young = [("min.cleanable.dirty.ratio", "0"), ("min.compaction.lag.ms", "3600000")];
        create(&cluster, "young", "local", &young).await;
        create(
            &cluster,
            "late",
            "local",
            &[("min.cleanable.dirty.ratio", "1"), ("max.compaction.lag.ms", "600000")],
        )
        .await;
        let loads = ["young", "late"].map(|topic| Keyed::start(&cluster, topic, 1));
        for load in &loads {
            load.progress(200).await;
            load.stop().await;
        }
        later(60).await;
        assert_eq!(loads[0].ranges().await.0, 0, "too young");
        // A ratio of 1 is reached once: while nothing is clean.
        let (compacted, all) = loads[1].ranges().await;
        assert!(0 < compacted && compacted < all, "clean enough: {compacted} of {all}");
        later(700).await;
        let (compacted, all) = loads[1].ranges().await;
        assert!(compacted == all && all > 0, "max.compaction.lag.ms: {compacted} of {all}");
        assert_eq!(loads[0].ranges().await.0, 0, "still too young");
        later(3600).await;
        let (compacted, all) = loads[0].ranges().await;
        assert!(compacted == all && all > 0, "{compacted} of {all}");
        for load in &loads {
            load.verify().await;
        }
        cluster.audit().await;
    });
}

/// Kills and power losses at any moment, a bucket that fails: compaction changes nothing but what
/// it may, and goes on where it stopped.
#[test]
fn a_storm_over_compacted_topics() {
    // One takes as long as a thousand of the other storms.
    let seeds: Option<u64> = std::env::var("LEVEE_SEEDS").ok().and_then(|text| text.parse().ok());
    for number in 0..seeds.map_or(8, |seeds| seeds.div_ceil(1000)) {
        Sim::run(seed(600 + number), |sim| async move {
            let cluster = Cluster::new(&sim, &FAST).with_small_objects();
            let machine = sim.host("a");
            let bucket = cluster.bucket.seen_by("a");
            cluster.start(&machine, &bucket).await;
            create(&cluster, "bucket", "object", &EAGER).await;
            create(&cluster, "synced", "local", &EAGER).await;
            let loads = ["bucket", "synced"].map(|topic| Keyed::start(&cluster, topic, 3));
            for _ in 0..8 {
                tokio::time::sleep(Duration::from_millis(sim.below(20_000))).await;
                match sim.below(4) {
                    0 => {
                        bucket.set(Faults { away: true, ..Faults::default() });
                        later(sim.below(10)).await;
                        bucket.set(Faults::default());
                    }
                    1 => {
                        machine.power_loss();
                        cluster.start(&machine, &bucket).await;
                    }
                    _ => {
                        machine.kill();
                        cluster.start(&machine, &bucket).await;
                    }
                }
            }
            for load in &loads {
                load.stop().await;
            }
            later(90).await;
            for load in &loads {
                load.verify().await;
                assert!(load.ranges().await.0 > 0, "nothing was compacted");
            }
            machine.kill();
            cluster.start(&machine, &bucket).await;
            later(30).await;
            for load in &loads {
                load.verify().await;
            }
            cluster.audit().await;
        });
    }
}

/// Like the offsets of consumers: a hundred thousand updates of a few keys stay a few records.
#[test]
fn updates_without_end_stay_small() {
    Sim::run(seed(503), |sim| async move {
        let cluster = Cluster::new(&sim, &FAST);
        let machine = sim.host("a");
        let bucket = cluster.bucket.seen_by("a");
        cluster.start(&machine, &bucket).await;
        create(&cluster, "offsets", "local", &[]).await;
        let load = Keyed { cluster: cluster.clone(), topic: "offsets", model: Arc::default() };
        let mut sequence = 0;
        for round in 0..100 {
            let entries: Vec<Entry> = (0..1000)
                .map(|n| (format!("group-{}", n % 10), Some(format!("{round} {n}"))))
                .collect();
            let stamp =
                ProducerStamp { producer_id: 5, producer_epoch: 0, base_sequence: sequence };
            sequence += entries.len() as i32;
            let base = load.append(stamp, &entries, false).await;
            let written = (base..).zip(entries.into_iter().map(|entry| (entry, false)));
            load.model.lock().written.extend(written);
            later(1).await;
        }
        later(30).await;
        machine.kill();
        let node = cluster.start(&machine, &bucket).await;
        later(5).await;
        let id = node.partition("offsets", 0).unwrap().id;
        let bytes = node.tiers.index.bytes(id);
        assert!(bytes < 20_000, "{bytes} bytes of a hundred thousand updates");
        load.verify().await;
        cluster.audit().await;
    });
}

/// As `create`d and changed later: what was written before was not looked at.
async fn becomes_compacted(cluster: &Cluster, topic: &'static str) {
    let asked = cluster.ask(move |node| async move {
        let set = [("cleanup.policy".to_owned(), "compact".to_owned())].into();
        node.alter_topic(topic, set, Vec::new(), 0).await
    });
    asked.await.expect("it serves").expect("it is altered");
}

/// A batch whose checksum is right and whose records nobody can unpack.
fn no_gzip() -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    builder.push(&RecordData { key: Some("a".into()), ..RecordData::default() });
    let mut batch = builder.build(None).to_vec();
    batch[22] |= Compression::Gzip as u8;
    let crc = crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    batch.into()
}

/// Such a batch stands in the objects of others too: only its own partition waits.
#[test]
fn a_batch_that_nobody_unpacks_holds_back_its_own_partition_only() {
    Sim::run(seed(504), |sim| async move {
        let cluster = Cluster::new(&sim, &FAST).with_small_objects();
        let machine = sim.host("a");
        let bucket = cluster.bucket.seen_by("a");
        cluster.start(&machine, &bucket).await;
        create(&cluster, "good", "local", &EAGER).await;
        create(&cluster, "bad", "local", &[EAGER[0], ("cleanup.policy", "delete")]).await;
        let load = Keyed::start(&cluster, "good", 1);
        let bad = Keyed { cluster: cluster.clone(), topic: "bad", model: Arc::default() };
        bad.retried(|node| async move {
            let pending = node.append("bad", 0, no_gzip(), Acks::All, LIMIT).await?;
            pending.done(&node).await
        })
        .await;
        becomes_compacted(&cluster, "bad").await;
        load.progress(100).await;
        load.stop().await;
        later(20).await;
        let (compacted, all) = load.ranges().await;
        assert!(compacted == all && all > 0, "{compacted} of {all} ranges");
        assert_eq!(bad.ranges().await.0, 0, "it cannot be compacted");
        load.verify().await;
        cluster.audit().await;
    });
}

/// A block that rotted where no other copy is: what stands below it is compacted, of every
/// partition in that object; all of it once the block is whole again.
#[test]
fn what_stands_below_a_damaged_object_is_compacted() {
    Sim::run(seed(505), |sim| async move {
        let mut settings = FAST.to_vec();
        settings.extend([("merge.interval", "1h"), ("scrub.bytes.per.second", "off")]);
        let mut slow = settings.clone();
        slow.push(("compaction.interval", "1h"));
        let cluster = Cluster::new(&sim, &slow);
        let machine = sim.host("a");
        let bucket = cluster.bucket.seen_by("a");
        let node = cluster.start(&machine, &bucket).await;
        create(&cluster, "good", "local", &EAGER).await;
        create(&cluster, "bad", "local", &EAGER).await;
        let loads = ["good", "bad"].map(|topic| Keyed::start(&cluster, topic, 1));
        for load in &loads {
            load.progress(300).await;
            load.stop().await;
        }
        later(10).await;
        let of = |topic| node.tiers.index.ranges(node.partition(topic, 0).unwrap().id);
        let (good, bad) = (of("good"), of("bad"));
        let shared = |at: usize| good.iter().find(|range| range.key == bad[at].key);
        let at = (0..bad.len()).rfind(|at| shared(*at).is_some()).expect("they share");
        let (rotten, border) = (bad[at].clone(), shared(at).map(|range| range.base).unwrap());
        let footer = node.tiers.footer(&rotten).await.unwrap();
        let byte = footer.ranges[rotten.number as usize].pos as usize + 70;
        assert!(border > 0 && rotten.base > 0, "in the middle");
        machine.kill();
        cluster.heal(&rotten.key, byte).await;
        let cluster = cluster.with_settings(&settings);
        let loads = loads.map(|load| Keyed { cluster: cluster.clone(), ..load });
        let node = cluster.start(&machine, &bucket).await;
        later(20).await;
        let clean = |topic| {
            let ranges = node.tiers.index.ranges(node.partition(topic, 0).unwrap().id);
            ranges.iter().take_while(|range| range.compacted).map(|range| range.end).last()
        };
        assert_eq!((clean("good"), clean("bad")), (Some(border), Some(rotten.base)));
        loads[0].verify().await;
        cluster.heal(&rotten.key, byte).await;
        later(300).await;
        for load in &loads {
            load.verify().await;
            let (compacted, all) = load.ranges().await;
            assert!(compacted == all && all > 0, "{compacted} of {all} ranges of {}", load.topic);
        }
        cluster.audit().await;
    });
}

/// Most objects that one job took, as often as it is looked at.
fn watch_jobs(cluster: &Cluster) -> Arc<Mutex<(usize, BTreeSet<u64>)>> {
    let (seen, cluster) = (Arc::<Mutex<(usize, BTreeSet<u64>)>>::default(), cluster.clone());
    let out = seen.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let Some(node) = cluster.node() else { continue };
            for job in node.view.read().jobs.values().filter(|job| job.kind == JOB_COMPACT) {
                let mut seen = seen.lock();
                seen.0 = seen.0.max(job.inputs.len());
                seen.1.insert(job.id);
            }
        }
    });
    out
}

/// A small object that holds the front and the end of a long log, as merging makes them, does not
/// make one job of all that stands between.
#[test]
fn a_log_whose_objects_interleave_is_compacted_in_bounded_jobs() {
    Sim::run(seed(506), |sim| async move {
        let mut settings = FAST.to_vec();
        settings.extend([("merge.interval", "1s"), ("scrub.bytes.per.second", "off")]);
        let mut slow = settings.clone();
        slow.push(("compaction.interval", "10h"));
        let small: fn(&Sim, &mut BrokerConfig) = |_, config| {
            config.tier_object_bytes = 64 << 10;
            config.tier_l2_bytes = 32 << 10;
        };
        let cluster = Cluster::new(&sim, &slow).tweaked(small);
        let machine = sim.host("a");
        let bucket = cluster.bucket.seen_by("a");
        cluster.start(&machine, &bucket).await;
        create(&cluster, "long", "local", &EAGER).await;
        let load = Keyed { cluster: cluster.clone(), topic: "long", model: Arc::default() };
        for round in 0..166 {
            // Sixteen small objects become one; those of 40 KiB are large enough.
            let bytes = if (8..158).contains(&round) { 40 << 10 } else { 100 };
            let key = format!("key-{}", round % 20);
            let entries = [(key, Some(format!("{round} {}", "x".repeat(bytes))))];
            let stamp = ProducerStamp { producer_id: 5, producer_epoch: 0, base_sequence: round };
            let base = load.append_as(Compression::None, stamp, &entries, false).await;
            let [entry] = entries;
            load.model.lock().written.insert(base, (entry, false));
            later(3).await;
        }
        later(10).await;
        let cluster = cluster.with_settings(&settings);
        machine.kill();
        let node = cluster.start(&machine, &bucket).await;
        let id = node.partition("long", 0).unwrap().id;
        let ranges = node.tiers.index.ranges(id);
        let (first, last) = (ranges.first().unwrap(), ranges.last().unwrap());
        assert_eq!(first.key, last.key, "one object holds the front and the end");
        assert!(ranges.len() > 100, "{} ranges", ranges.len());
        let jobs = watch_jobs(&cluster);
        let load = Keyed { cluster: cluster.clone(), ..load };
        later(60).await;
        let (compacted, all) = load.ranges().await;
        assert!(compacted == all && all > 0, "{compacted} of {all} ranges");
        let (most, jobs) = jobs.lock().clone();
        assert!(most <= 64 && jobs.len() > 2, "{most} objects in one of {} jobs", jobs.len());
        load.verify().await;
        cluster.audit().await;
    });
}
