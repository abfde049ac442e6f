//! Whole brokers in virtual time. Each test names the failure of the design that it plays (F1..);
//! what `storms` plays by seed has no test of its own here (F3, F4).

#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

use std::path::PathBuf;
use std::time::Duration;

use levee_broker::fetch::{Fetch, Isolation};
use levee_runtime::sim::{DiskFaults, Sim};
use levee_tests::sim::{Cluster, Faults, SimLoad, seed};
use levee_tiering::audit::Finding;

const FAST: [(&str, &str); 3] =
    [("tier.interval", "2s"), ("gc.grace", "30s"), ("object.lane.linger", "20ms")];

async fn later(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

/// F16, F24: an object rots in the bucket. Where the broker has another copy it is written again;
/// where not, the place is named, and everything else stays readable.
#[test]
fn f16_scrub_repairs_from_another_copy_or_names_the_place() {
    Sim::run(seed(161), |sim| async move {
        let mut settings = FAST.to_vec();
        settings.extend([("scrub.bytes.per.second", "64KiB"), ("scrub.interval", "30s")]);
        let cluster = Cluster::new(&sim, &settings);
        let machine = sim.host("a");
        let bucket = cluster.bucket.seen_by("a");
        let node = cluster.start(&machine, &bucket).await;
        cluster.create("synced", 1, "local").await;
        let load = SimLoad::start(&cluster, "synced", 0);
        load.progress(100).await;
        load.stop();
        later(30).await;
        let key = cluster.rot(64 + 61 + 5).await;
        later(120).await;
        assert!(node.unrepaired.lock().is_empty());
        let keys = cluster.bucket.keys().await;
        assert!(!keys.contains(&key), "it was replaced");
        cluster.audit().await;

        // Without a hot copy.
        machine.kill();
        let node = cluster.start(&machine, &bucket).await;
        let key = cluster.rot(64 + 61 + 5).await;
        later(180).await;
        let damages = node.unrepaired.lock().clone();
        let named: Vec<&String> = damages.values().flatten().collect();
        assert!(named.len() == 1 && named[0].contains(&key), "{named:?}");
        assert!(named[0].contains("offsets 0 to") && named[0].contains("bytes 64 to"), "{named:?}");
        cluster.audit().await;
        cluster.heal(&key, 64 + 61 + 5).await;
        later(180).await;
        assert!(node.unrepaired.lock().is_empty());
        load.verify().await;
    });
}

/// The oracle itself: what is missing is seen, and where.
#[test]
fn an_audit_names_what_is_missing() {
    Sim::run(seed(25), |sim| async move {
        let cluster = Cluster::new(&sim, &FAST).with_small_objects();
        let machine = sim.host("a");
        let bucket = cluster.bucket.seen_by("a");
        cluster.start(&machine, &bucket).await;
        cluster.create("synced", 1, "local").await;
        let load = SimLoad::start(&cluster, "synced", 0);
        load.progress(400).await;
        load.stop();
        later(30).await;
        cluster.audit().await;
        // Not one that was replaced and waits for its end.
        let node = cluster.node().unwrap();
        let id = node.partition("synced", 0).unwrap().id;
        let key = node.tiers.index.locate(id, 0).unwrap().key.to_string();
        cluster.bucket.remove(&key).await;
        cluster.bucket.plant("d/00/stranger", vec![1]).await;
        let found = cluster.findings().await.findings;
        assert!(found.contains(&Finding::Missing { key: key.clone() }), "{found:?}");
        assert!(found.contains(&Finding::Foreign { key: "d/00/stranger".into() }), "{found:?}");
        assert!(found.iter().any(|f| matches!(f, Finding::Footer { key: k, .. } if *k == key)));
        assert!(found.iter().any(|f| matches!(f, Finding::Gap { from: 0, .. })), "{found:?}");
    });
}

/// F1: the leader stands still with PUTs in flight, another takes over, the first wakes up.
#[test]
fn f1_a_paused_leader_acknowledges_nothing_after_the_take_over() {
    Sim::run(seed(1), |sim| async move {
        let cluster = Cluster::new(&sim, &FAST);
        let (first, second) = (sim.host("a"), sim.host("b"));
        let (near, far) = (cluster.bucket.seen_by("a"), cluster.bucket.seen_by("b"));
        let old = cluster.start(&first, &near).await;
        cluster.create("bucket", 1, "object").await;
        let load = SimLoad::start(&cluster, "bucket", 0);
        load.progress(50).await;
        first.pause();
        cluster.start(&second, &far).await;
        load.progress(50).await;
        later(60).await;
        first.resume();
        later(20).await;
        assert!(old.is_ended(), "it knows that it was fenced");
        load.finish().await;
    });
}

/// F9: the bucket is away for a quarter of an hour.
#[test]
fn f9_a_bucket_that_is_away_stalls_object_topics_and_nothing_else() {
    Sim::run(seed(9), |sim| async move {
        let cluster = Cluster::new(&sim, &FAST);
        let machine = sim.host("a");
        let bucket = cluster.bucket.seen_by("a");
        let node = cluster.start(&machine, &bucket).await;
        cluster.create("bucket", 1, "object").await;
        cluster.create("synced", 1, "local").await;
        let safe = SimLoad::start(&cluster, "bucket", 0);
        let local = SimLoad::start(&cluster, "synced", 0);
        safe.progress(50).await;
        local.progress(50).await;
        bucket.set(Faults { away: true, ..Faults::default() });
        later(10).await;
        let stalled = safe.acks();
        // Another process may have taken over: nobody here knows where the log ends now (I20).
        assert!(node.ensure_lease().is_err());
        for _ in 0..15 {
            local.progress(50).await;
            later(60).await;
        }
        assert_eq!(safe.acks(), stalled);
        assert!(!node.is_ended(), "the session goes on");
        bucket.set(Faults::default());
        safe.progress(50).await;
        node.ensure_lease().unwrap();
        safe.finish().await;
        local.finish().await;
    });
}

/// A bucket that answers late makes a start slow, and nothing else: the session that it ends with is
/// not taken for one that fell silent.
#[test]
fn a_start_may_take_long() {
    Sim::run(seed(20), |sim| async move {
        let cluster = Cluster::new(&sim, &FAST);
        let machine = sim.host("a");
        let bucket = cluster.bucket.seen_by("a");
        cluster.start(&machine, &bucket).await;
        cluster.create("bucket", 1, "object").await;
        cluster.create("synced", 1, "local").await;
        let loads = [SimLoad::start(&cluster, "bucket", 0), SimLoad::start(&cluster, "synced", 0)];
        for _ in 0..4 {
            for load in &loads {
                load.progress(50).await;
            }
            // Slots of closed lanes are left: each is listed and read by the next start.
            machine.kill();
            cluster.start(&machine, &bucket).await;
        }
        for load in &loads {
            load.progress(50).await;
        }
        machine.kill();
        bucket.set(Faults { slow_reads: 2000, ..Faults::default() });
        let node = cluster.start(&machine, &bucket).await;
        later(20).await;
        assert!(!node.is_ended(), "the session goes on");
        for load in &loads {
            load.progress(20).await;
            load.stop();
        }
        bucket.set(Faults::default());
        later(15).await;
        for load in &loads {
            load.verify().await;
        }
    });
}

/// F15: one failed sync ends the session, and nothing of that group was acknowledged.
#[test]
fn f15_a_failed_sync_ends_the_session_and_acknowledges_nothing() {
    Sim::run(seed(15), |sim| async move {
        let cluster = Cluster::new(&sim, &FAST);
        let machine = sim.host("a");
        let bucket = cluster.bucket.seen_by("a");
        let node = cluster.start(&machine, &bucket).await;
        cluster.create("synced", 1, "local").await;
        let load = SimLoad::start(&cluster, "synced", 0);
        load.progress(50).await;
        machine.disk().set_faults(DiskFaults { failing_syncs: 1, ..DiskFaults::default() });
        later(5).await;
        assert!(node.is_ended());
        let acks = load.acks();
        later(5).await;
        assert_eq!(load.acks(), acks, "nothing is acknowledged after");
        machine.power_loss();
        cluster.start(&machine, &bucket).await;
        load.progress(50).await;
        load.finish().await;
    });
}

/// F2: a slot of a fenced session lands after its lane was collected; the fence is still there.
#[test]
fn f2_a_ghost_slot_of_a_fenced_session_changes_nothing() {
    Sim::run(seed(2), |sim| async move {
        let cluster = Cluster::new(&sim, &FAST);
        let machine = sim.host("a");
        let bucket = cluster.bucket.seen_by("a");
        cluster.start(&machine, &bucket).await;
        cluster.create("bucket", 1, "object").await;
        let load = SimLoad::start(&cluster, "bucket", 0);
        load.progress(50).await;
        bucket.set(Faults { ghost: 2, ..Faults::default() });
        later(3).await;
        machine.kill();
        bucket.set(Faults::default());
        cluster.start(&machine, &bucket).await;
        load.progress(50).await;
        // Ghosts walk for ten minutes; the lane is collected meanwhile.
        later(1200).await;
        machine.kill();
        cluster.start(&machine, &bucket).await;
        load.progress(50).await;
        load.finish().await;
    });
}

/// F5: a controller sleeps for an hour, far past the garbage collection of the slot it would write.
#[test]
fn f5_a_controller_that_slept_past_garbage_collection_says_nothing() {
    Sim::run(seed(5), |sim| async move {
        let short = [("meta.retain", "1m"), ("meta.snapshot.interval", "20s")];
        let cluster = Cluster::new(&sim, &short);
        let (first, second) = (sim.host("a"), sim.host("b"));
        let (near, far) = (cluster.bucket.seen_by("a"), cluster.bucket.seen_by("b"));
        let old = cluster.start(&first, &near).await;
        cluster.create("bucket", 1, "object").await;
        first.pause();
        cluster.start(&second, &far).await;
        let load = SimLoad::start(&cluster, "bucket", 0);
        later(3600).await;
        let slots = |keys: Vec<String>| keys.iter().filter(|k| k.starts_with("meta/log/")).count();
        assert!(slots(cluster.bucket.keys().await) < 300, "old slots are collected");
        // What the sleeper is asked for now was asked for in vain.
        let asked = old.clone();
        let answer = old
            .host
            .spawn("late", async move { asked.create_topic("late", 1, Default::default()).await });
        first.resume();
        later(60).await;
        assert!(old.is_ended());
        assert!(answer.await.is_none_or(|answer| answer.is_err()), "it decides nothing any more");
        load.finish().await;
        let state = cluster.node().unwrap().view.read().topic_named("late").cloned();
        assert_eq!(state, None);
    });
}

/// F6: two processes claim at once, with lost replies; one leads, the other one waits its turn.
#[test]
fn f6_two_claims_of_one_slot_make_one_controller() {
    for number in 0..5 {
        Sim::run(seed(600 + number), |sim| async move {
            let cluster = Cluster::new(&sim, &FAST);
            let (first, second) = (sim.host("a"), sim.host("b"));
            let (near, far) = (cluster.bucket.seen_by("a"), cluster.bucket.seen_by("b"));
            for bucket in [&near, &far] {
                bucket.set(Faults { lost_reply: 3, conflict: 5, ..Faults::default() });
            }
            let one = tokio::spawn({
                let (cluster, first, near) = (cluster.clone(), first.clone(), near.clone());
                async move { cluster.try_start(&first, &near).await }
            });
            let two = tokio::spawn({
                let (cluster, second, far) = (cluster.clone(), second.clone(), far.clone());
                async move { cluster.try_start(&second, &far).await }
            });
            later(120).await;
            let led = [one.is_finished(), two.is_finished()];
            assert_eq!(led.iter().filter(|led| **led).count(), 1, "{led:?}");
            cluster.create("bucket", 1, "object").await;
            let load = SimLoad::start(&cluster, "bucket", 0);
            load.progress(20).await;
            match led[0] {
                true => first.kill(),
                false => second.kill(),
            }
            load.progress(20).await;
            load.finish().await;
        });
    }
}

/// F16: a flipped bit in the WAL below what was synced: reported, nothing cut, nothing wrong served.
#[test]
fn f16_a_flipped_bit_in_the_wal_stops_that_lane_and_names_it() {
    Sim::run(seed(16), |sim| async move {
        let cluster = Cluster::new(&sim, &[("tier.interval", "1h")]);
        let machine = sim.host("a");
        let bucket = cluster.bucket.seen_by("a");
        cluster.start(&machine, &bucket).await;
        cluster.create("synced", 1, "local").await;
        let load = SimLoad::start(&cluster, "synced", 0);
        load.progress(50).await;
        load.stop();
        later(15).await;
        machine.kill();
        assert!(machine.disk().flip("00000001.wal", 10 * 4096 + 150));
        let node = cluster.start(&machine, &bucket).await;
        let waiting = node.waiting_lanes();
        assert!(waiting.len() == 1 && waiting[0].contains("damaged"), "{waiting:?}");
        let refused = cluster.ask(|node| async move {
            let led = node.partition("synced", 0)?;
            led.append(vec![0; 100].into(), Duration::from_millis(10)).await.map(drop)
        });
        assert!(refused.await.unwrap().is_err());
        // The disk is repaired: no restart is needed.
        assert!(machine.disk().flip("00000001.wal", 10 * 4096 + 150));
        later(30).await;
        load.verify().await;
    });
}

/// F16: a flipped bit in the bucket is found, and no wrong byte is served.
#[test]
fn f16_a_flipped_bit_in_the_bucket_is_an_error_and_never_data() {
    Sim::run(seed(160), |sim| async move {
        let cluster = Cluster::new(&sim, &FAST);
        let machine = sim.host("a");
        let bucket = cluster.bucket.seen_by("a");
        cluster.start(&machine, &bucket).await;
        cluster.create("synced", 1, "local").await;
        let load = SimLoad::start(&cluster, "synced", 0);
        load.progress(50).await;
        load.stop();
        later(30).await;
        let keys = cluster.bucket.keys().await;
        let key = keys.iter().find(|key| key.contains("/shared/")).unwrap();
        let mut bytes = cluster.bucket.peek(key).await.unwrap();
        bytes[64 + 61 + 5] ^= 1;
        cluster.bucket.plant(key, bytes).await;
        machine.kill();
        cluster.start(&machine, &bucket).await;
        let read = cluster.ask(|node| async move {
            let led = node.partition("synced", 0)?;
            let fetch = Fetch {
                offset: 0,
                max_bytes: 1000,
                min_bytes: 0,
                wait: Duration::ZERO,
                isolation: Isolation::ReadUncommitted,
            };
            node.fetch(&led, &fetch).await
        });
        let error = read.await.unwrap().unwrap_err();
        assert!(error.message.contains("crc") && error.message.contains(key), "{error}");
    });
}

/// F17: recoverers die again and again, at any point; the last one finishes.
#[test]
fn f17_recoverers_that_die_leave_one_truth() {
    for number in 0..4 {
        Sim::run(seed(1700 + number), |sim| async move {
            let cluster = Cluster::new(&sim, &FAST);
            let machine = sim.host("a");
            let bucket = cluster.bucket.seen_by("a");
            cluster.start(&machine, &bucket).await;
            cluster.create("bucket", 1, "object").await;
            cluster.create("synced", 1, "local").await;
            let safe = SimLoad::start(&cluster, "bucket", 0);
            let local = SimLoad::start(&cluster, "synced", 0);
            safe.progress(30).await;
            local.progress(30).await;
            for _ in 0..8 {
                machine.power_loss();
                let starts = cluster.try_start(&machine, &bucket);
                let dies = Duration::from_millis(sim.below(1500));
                let _ = tokio::time::timeout(dies, starts).await;
            }
            machine.kill();
            cluster.start(&machine, &bucket).await;
            safe.progress(30).await;
            local.progress(30).await;
            safe.finish().await;
            local.finish().await;
        });
    }
}

/// F18: the class changes back and forth, and the process dies in the middle of it.
#[test]
fn f18_a_crash_in_a_hand_off_keeps_offsets_and_order() {
    for number in 0..6 {
        Sim::run(seed(1800 + number), |sim| async move {
            let cluster = Cluster::new(&sim, &FAST);
            let machine = sim.host("a");
            let bucket = cluster.bucket.seen_by("a");
            cluster.start(&machine, &bucket).await;
            cluster.create("moves", 1, "local").await;
            let load = SimLoad::start(&cluster, "moves", 0);
            for round in 0..10 {
                load.progress(10).await;
                let class = if round % 2 == 0 { "object" } else { "local" };
                let set = [("durability.class".to_owned(), class.to_owned())];
                let altered = cluster.ask(|node| async move {
                    node.alter_topic("moves", set.into(), Vec::new(), 0).await
                });
                altered.await.unwrap().unwrap();
                tokio::time::sleep(Duration::from_millis(sim.below(400))).await;
                if sim.one_in(2) {
                    machine.power_loss();
                    cluster.start(&machine, &bucket).await;
                }
            }
            load.progress(10).await;
            load.finish().await;
        });
    }
}

/// F23: retention is lowered and raised while uploads fail and processes die: nothing inside the
/// rule goes.
#[test]
fn f23_retention_beside_failing_uploads_deletes_nothing_inside_the_rule() {
    Sim::run(seed(23), |sim| async move {
        let mut settings = FAST.to_vec();
        settings.push(("retention.check.interval", "1s"));
        let cluster = Cluster::new(&sim, &settings);
        let machine = sim.host("a");
        let bucket = cluster.bucket.seen_by("a");
        cluster.start(&machine, &bucket).await;
        cluster.create("kept", 1, "local").await;
        let load = SimLoad::start(&cluster, "kept", 0);
        for round in 0..6u64 {
            bucket.set(Faults { refused: 3, lost_reply: 6, ..Faults::default() });
            load.progress(100).await;
            // Far above what is there: lowered and raised, and always without effect.
            let bytes = (1u64 << (30 + round % 3)).to_string();
            let set = [("retention.bytes".to_owned(), bytes)];
            let altered = cluster.ask(|node| async move {
                node.alter_topic("kept", set.into(), Vec::new(), 0).await
            });
            drop(altered.await);
            bucket.set(Faults::default());
            machine.power_loss();
            cluster.start(&machine, &bucket).await;
        }
        later(120).await;
        load.finish().await;
    });
}

/// Keys come again in another cluster: copies of the one before are nothing there.
#[test]
fn a_new_cluster_takes_over_no_cached_copies() {
    Sim::run(seed(60), |sim| async move {
        let machine = sim.host("a");
        let cached = || {
            let names = machine.disk().names();
            names.into_iter().filter(|name| name.starts_with("/data/cache")).collect::<Vec<_>>()
        };
        let mut before = Vec::new();
        for _ in 0..2 {
            let cluster = Cluster::new(&sim, &FAST);
            cluster.start(&machine, &cluster.bucket).await;
            assert!(before.iter().all(|old| !cached().contains(old)), "{before:?}");
            cluster.create("synced", 1, "local").await;
            let load = SimLoad::start(&cluster, "synced", 0);
            load.progress(100).await;
            later(30).await;
            before = cached();
            assert!(!before.is_empty(), "footers of uploads are kept");
            load.stop();
            machine.kill();
            let disk = machine.start().disk();
            disk.remove_file("/data/identity.json".as_ref()).await.unwrap();
            disk.remove_dir_all("/data/wal".as_ref()).await.unwrap();
            machine.kill();
        }
    });
}

/// A number names other bytes where chunks have another size.
#[test]
fn another_chunk_size_finds_no_older_chunks() {
    Sim::run(seed(61), |sim| async move {
        let cluster = Cluster::new(&sim, &FAST);
        let machine = sim.host("a");
        let bucket = cluster.bucket.seen_by("a");
        cluster.start(&machine, &bucket).await;
        cluster.create("bucket", 1, "object").await;
        let load = SimLoad::start(&cluster, "bucket", 0);
        load.progress(200).await;
        load.stop();
        later(60).await;
        machine.kill();
        let chunks = |size: u64| {
            let of_size = format!("/chunks-{size}/");
            let is_one = |name: &&PathBuf| name.to_string_lossy().contains(&of_size);
            machine.disk().names().iter().filter(is_one).count()
        };
        cluster.start(&machine, &bucket).await;
        for _ in 0..3 {
            load.verify().await;
            later(10).await;
        }
        assert!(chunks(1 << 20) > 0, "{:?}", machine.disk().names());
        machine.kill();
        let mut settings = FAST.to_vec();
        settings.push(("cache.chunk.bytes", "64KiB"));
        cluster.with_settings(&settings).start(&machine, &bucket).await;
        assert_eq!(chunks(1 << 20), 0, "they are gone");
        load.verify().await;
    });
}
