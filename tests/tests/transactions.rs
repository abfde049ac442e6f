//! Transactions of a partition, in virtual time: what readers of committed records see, wherever
//! the records are and whatever happens to the broker in between.
//!
//! `LEVEE_SEEDS` says how many seeds each test runs, `LEVEE_SEED` runs one again.

#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

use std::time::Duration;

use levee_broker::fetch::{Fetch, From, Isolation};
use levee_broker::partition::append::Where;
use levee_broker::partition::{Asked, EndTxn};
use levee_broker::produce::Acks;
use levee_proto::grpc::ErrorCode;
use levee_proto::record::codecs::Compression;
use levee_proto::record::records::{BatchBuilder, ProducerStamp, RecordData};
use levee_runtime::sim::Sim;
use levee_tests::sim::{Cluster, TxnLoad, seed};
use levee_tiering::remote::Source;

const SETTINGS: [(&str, &str); 5] = [
    ("tier.interval", "2s"),
    ("gc.grace", "30s"),
    ("object.lane.linger", "20ms"),
    ("retention.check.interval", "1s"),
    ("sweep.interval", "15s"),
];

async fn later(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

/// Drops every local copy of what is in the bucket.
async fn flush(cluster: &Cluster, topic: &'static str) {
    let flushed = cluster.ask(move |node| async move {
        let led = node.partition(topic, 0)?;
        levee_broker::offload::flush(&node, std::slice::from_ref(&led)).await?;
        led.drop_local(u64::MAX, true).await;
        Ok::<_, levee_broker::error::Error>(led.ladder())
    });
    flushed.await.unwrap().unwrap();
}

async fn alter(cluster: &Cluster, topic: &'static str, class: &'static str) {
    let set = [("durability.class".to_owned(), class.to_owned())].into();
    let altered =
        cluster.ask(move |node| async move { node.alter_topic(topic, set, Vec::new(), 0).await });
    altered.await.unwrap().unwrap();
}

/// Tail, hot segments, slots, objects, merged ones; crashes, and a change of class in the middle.
fn everywhere(given: u64, class: &'static str, other: &'static str) {
    Sim::run(seed(given), move |sim| async move {
        let cluster = Cluster::new(&sim, &SETTINGS).with_small_objects();
        let machine = sim.host("a");
        let bucket = cluster.bucket.seen_by("a");
        cluster.start(&machine, &bucket).await;
        cluster.create("orders", 1, class).await;
        let load = TxnLoad::start(&cluster, "orders", 3);
        for round in 0..4 {
            load.progress(15).await;
            load.verify().await;
            flush(&cluster, "orders").await;
            load.verify().await;
            load.progress(5).await;
            load.verify().await;
            match round {
                1 => alter(&cluster, "orders", other).await,
                _ => {
                    machine.kill();
                    cluster.start(&machine, &bucket).await;
                }
            }
            load.verify().await;
        }
        load.stop().await;
        load.verify().await;
        // Merging comes to rest, and nothing is read from here.
        flush(&cluster, "orders").await;
        later(60).await;
        load.verify().await;
        machine.kill();
        cluster.start(&machine, &bucket).await;
        load.verify().await;
        cluster.audit().await;
        // What jobs wrote tells of aborted transactions.
        let node = cluster.node().unwrap();
        let id = node.partition("orders", 0).unwrap().id;
        let told = node.tiers.index.aborts(id, 0..u64::MAX);
        let is_merged = |source| matches!(source, Source::Object(id) if id.writer.0 >> 63 == 1);
        assert!(told.iter().any(|range| is_merged(range.source)), "{told:?}");
    });
}

fn seeds(first: u64, run: impl Fn(u64)) {
    let count = std::env::var("LEVEE_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(4);
    let one = std::env::var_os("LEVEE_SEED").is_some();
    (0..if one { 1 } else { count }).for_each(|number| run(first + number));
}

#[test]
fn committed_records_of_a_local_topic_are_read_and_no_others() {
    seeds(70_000, |given| everywhere(given, "local", "object"));
}

#[test]
fn committed_records_of_a_bucket_topic_are_read_and_no_others() {
    seeds(75_000, |given| everywhere(given, "object", "local"));
}

/// One transaction that stays open over a crash, a flush and a change of class.
#[test]
fn an_open_transaction_holds_readers_of_committed_records_until_its_end() {
    Sim::run(seed(780), |sim| async move {
        let cluster = Cluster::new(&sim, &SETTINGS);
        let machine = sim.host("a");
        let bucket = cluster.bucket.seen_by("a");
        cluster.start(&machine, &bucket).await;
        cluster.create("orders", 1, "local").await;
        let load = TxnLoad::start(&cluster, "orders", 2);
        load.progress(10).await;
        let stamp = ProducerStamp { producer_id: 7, producer_epoch: 4, base_sequence: 0 };
        let held = load.append(stamp, 2, true).await;
        load.progress(10).await;
        let is_held = || async {
            let first = held.start;
            let ladder = cluster.ask(|node| async move {
                let led = node.partition("orders", 0).unwrap();
                assert!(led.ongoing_transaction(7, 4) && !led.ongoing_transaction(7, 5));
                led.readable()
            });
            assert_eq!(ladder.await.unwrap().unwrap().last_stable(), first);
            load.verify().await;
        };
        is_held().await;
        machine.kill();
        cluster.start(&machine, &bucket).await;
        is_held().await;
        flush(&cluster, "orders").await;
        machine.kill();
        cluster.start(&machine, &bucket).await;
        is_held().await;
        alter(&cluster, "orders", "object").await;
        load.progress(10).await;
        is_held().await;
        machine.kill();
        cluster.start(&machine, &bucket).await;
        is_held().await;

        // A reader that waits at the last stable offset hears of its end.
        let wait = Duration::from_secs(60);
        let (offset, isolation) = (held.start, Isolation::ReadCommitted);
        let fetch = Fetch { offset, max_bytes: 1 << 20, min_bytes: 1, wait, isolation };
        let reader = cluster.clone();
        let waiting = tokio::spawn(async move {
            let asked = reader.ask(|node| async move {
                node.fetch(&*node.partition("orders", 0)?, &fetch).await
            });
            asked.await.unwrap().unwrap()
        });
        later(5).await;
        assert!(!waiting.is_finished());
        load.end(7, 5, false).await;
        let fetched = waiting.await.unwrap();
        assert!(fetched.last_stable_offset > held.start && fetched.from != From::Nowhere);
        let first = fetched.aborted.iter().find(|txn| txn.producer_id == 7).unwrap();
        assert_eq!(first.first_offset, held.start);
        load.stop().await;
        load.verify().await;
    });
}

/// F20: what belongs to an older transaction, or comes from an older coordinator, is refused.
#[test]
fn f20_late_markers_and_batches_are_refused() {
    Sim::run(seed(790), |sim| async move {
        let cluster = Cluster::new(&sim, &SETTINGS);
        let machine = sim.host("a");
        let bucket = cluster.bucket.seen_by("a");
        cluster.start(&machine, &bucket).await;
        cluster.create("orders", 1, "local").await;
        let load = TxnLoad::start(&cluster, "orders", 0);
        let stamp = |producer_epoch, base_sequence| ProducerStamp {
            producer_id: 7,
            producer_epoch,
            base_sequence,
        };
        load.append(stamp(4, 0), 1, true).await;
        load.end(7, 5, false).await;
        load.append(stamp(5, 0), 1, true).await;
        for restarts in 0..2 {
            let end = |producer_epoch, coordinator_epoch| EndTxn {
                producer_id: 7,
                producer_epoch,
                coordinator_epoch,
                commit: true,
                transaction_version: 2,
            };
            let ended = |end: EndTxn| {
                cluster.ask(move |node| async move {
                    let limit = Duration::from_secs(5);
                    let pending = node.end_transaction("orders", 0, &end, limit).await;
                    pending.map(drop).map_err(|error| error.code)
                })
            };
            assert_eq!(ended(end(5, 3)).await, Some(Err(ErrorCode::ProducerFenced)));
            let fenced = ErrorCode::TransactionCoordinatorFenced;
            assert_eq!(ended(end(6, 2)).await, Some(Err(fenced)), "{restarts}");
            machine.kill();
            cluster.start(&machine, &bucket).await;
        }
        load.end(7, 6, false).await;
        load.stop().await;
        load.verify().await;
    });
}

/// Old clients keep their epoch from transaction to transaction: only the guard tells a batch that
/// was on its way from the first one of the next.
#[test]
fn f20_a_batch_that_its_own_end_overtook_begins_no_transaction() {
    Sim::run(seed(791), |sim| async move {
        const LIMIT: Duration = Duration::from_secs(5);
        let cluster = Cluster::new(&sim, &SETTINGS);
        let machine = sim.host("a");
        let bucket = cluster.bucket.seen_by("a");
        cluster.start(&machine, &bucket).await;
        cluster.create("orders", 1, "local").await;
        let asked = || {
            let asked = cluster.ask(|node| async move { node.partition("orders", 0) });
            async move { asked.await.unwrap().unwrap().asked() }
        };
        let append = |asked: Asked, base_sequence| {
            let mut builder = BatchBuilder::new(Compression::None);
            builder.push(&RecordData { value: Some("a".into()), ..RecordData::default() });
            let stamp = ProducerStamp { producer_id: 7, producer_epoch: 4, base_sequence };
            let batch = builder.transactional().build(Some(stamp));
            cluster.ask(move |node| async move {
                let holds = Where::from(asked);
                let placed =
                    node.append_where(("orders", 0), batch, Acks::All, LIMIT, holds).await?;
                placed.done(&node).await.map(drop)
            })
        };
        let end = || {
            let end = EndTxn {
                producer_id: 7,
                producer_epoch: 4,
                coordinator_epoch: 0,
                commit: false,
                transaction_version: 0,
            };
            cluster.ask(move |node| async move {
                let placed = node.end_transaction("orders", 0, &end, LIMIT).await?;
                placed.done(&node).await.map(drop)
            })
        };
        let first = asked().await;
        append(first, 0).await.unwrap().unwrap();
        // Its coordinator says that the transaction is under way, and then that it ends.
        let before = asked().await;
        end().await.unwrap().unwrap();
        let late = append(before, 1).await.unwrap().unwrap_err();
        assert_eq!(late.code, ErrorCode::InvalidTxnState, "{late}");
        let stable = cluster.ask(|node| async move { node.partition("orders", 0) });
        let ladder = stable.await.unwrap().unwrap().ladder();
        assert_eq!(ladder.last_stable(), ladder.high_watermark(), "nothing is open");
        // The next transaction, of which the coordinator was asked after that.
        append(asked().await, 1).await.unwrap().unwrap();
        // What was said in another leader epoch says nothing.
        let before = asked().await;
        machine.kill();
        cluster.start(&machine, &bucket).await;
        let late = append(before, 2).await.unwrap().unwrap_err();
        assert_eq!(late.code, ErrorCode::NotLeader, "{late}");
        append(asked().await, 2).await.unwrap().unwrap();
        end().await.unwrap().unwrap();
    });
}
