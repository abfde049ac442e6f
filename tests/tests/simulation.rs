//! Whole brokers in virtual time. Each test names the failure of the design that it plays (F1..).

#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

use std::time::Duration;

use levee_runtime::sim::{DiskFaults, Sim};
use levee_tests::sim::{Cluster, Faults, SimLoad, seed};

const FAST: [(&str, &str); 3] =
    [("tier.interval", "2s"), ("gc.grace", "30s"), ("object.lane.linger", "20ms")];

async fn later(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

/// A store that loses replies, conflicts, refuses and stays silent; kills and power losses.
async fn storm(sim: Sim) {
    let cluster = Cluster::new(&sim, &FAST);
    let machine = sim.host("a");
    let bucket = cluster.bucket.seen_by("a");
    cluster.start(&machine, &bucket).await;
    cluster.create("bucket", 1, "object").await;
    cluster.create("synced", 1, "local").await;
    let loads = [SimLoad::start(&cluster, "bucket", 0), SimLoad::start(&cluster, "synced", 0)];
    for _ in 0..4 {
        bucket.set(Faults {
            lost_reply: 5 + sim.below(20),
            refused: 5 + sim.below(20),
            conflict: 5 + sim.below(20),
            ghost: 20 + sim.below(20),
            silent: 40 + sim.below(40),
            away: false,
        });
        tokio::time::sleep(Duration::from_millis(1000 + sim.below(20_000))).await;
        match sim.below(3) {
            0 => machine.kill(),
            _ => machine.power_loss(),
        }
        bucket.set(Faults::default());
        cluster.start(&machine, &bucket).await;
        for load in &loads {
            load.progress(20).await;
        }
    }
    later(60).await;
    for load in &loads {
        load.stop();
    }
    later(15).await;
    for load in &loads {
        load.verify().await;
    }
}

#[test]
fn f3_f4_f15_storms_of_faults_and_power_losses_lose_nothing() {
    let runs = if std::env::var_os("LEVEE_LONG").is_some() { 200 } else { 8 };
    for number in 0..runs {
        Sim::run(seed(number), storm);
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let (one, two) = (Sim::run(7, storm), Sim::run(7, storm));
    let differs = one.iter().zip(&two).find(|(a, b)| a != b);
    assert_eq!(differs, None);
    assert_eq!(one.len(), two.len());
    assert_ne!(one, Sim::run(8, storm));
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
        load.stop();
        later(15).await;
        load.verify().await;
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
        for _ in 0..15 {
            local.progress(50).await;
            later(60).await;
        }
        assert_eq!(safe.acks(), stalled);
        assert!(!node.is_ended(), "the session goes on");
        bucket.set(Faults::default());
        safe.progress(50).await;
        safe.stop();
        local.stop();
        later(15).await;
        safe.verify().await;
        local.verify().await;
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
        machine.disk().set_faults(DiskFaults { failing_syncs: 1, room: None });
        later(5).await;
        assert!(node.is_ended());
        let acks = load.acks();
        later(5).await;
        assert_eq!(load.acks(), acks, "nothing is acknowledged after");
        machine.power_loss();
        cluster.start(&machine, &bucket).await;
        load.progress(50).await;
        load.stop();
        later(15).await;
        load.verify().await;
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
        load.stop();
        later(15).await;
        load.verify().await;
    });
}
