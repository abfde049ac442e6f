//! Storms: by seed, everything that happens to a broker in years, in a few virtual minutes.
//!
//! A faulty store and disk, outages, kills, power losses, pauses and take-overs, bits that rot; beside
//! the load class changes, retention, deletions, other settings at each start, merging of objects of
//! some kilobytes, scrubbing. At the end nothing that was acknowledged is lost, doubled or out of
//! order, a producer that was silent since the start is known, and the audit finds nothing. So F3
//! (lost replies), F4 (conflicts that are none) and F15 (failed syncs) are played in all their mixtures.
//!
//! `LEVEE_SEEDS` says how many seeds each test runs, `LEVEE_SEED` runs one again.

#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

use std::time::Duration;

use levee_runtime::sim::{DiskFaults, Sim, SimHost};
use levee_tests::sim::{Cluster, Faults, SimLoad, SimStore, seed};

const SETTINGS: [(&str, &str); 8] = [
    ("tier.interval", "2s"),
    ("gc.grace", "30s"),
    ("object.lane.linger", "20ms"),
    ("retention.check.interval", "1s"),
    ("delete.delay", "1s"),
    ("sweep.interval", "15s"),
    ("scrub.bytes.per.second", "64KiB"),
    ("scrub.interval", "20s"),
];

async fn later(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

struct Storm {
    sim: Sim,
    cluster: Cluster,
    /// Machines, each with its own way to the bucket. The second one has a part only where every
    /// topic is in the bucket: a local lane waits for its disk.
    machines: Vec<(SimHost, SimStore)>,
    leads: usize,
    loads: [SimLoad; 3],
}

impl Storm {
    async fn begin(sim: Sim) -> Self {
        let cluster = Cluster::new(&sim, &SETTINGS).with_small_objects();
        let names = if sim.one_in(4) { vec!["a", "b"] } else { vec!["a"] };
        let machine = |name| (sim.host(name), cluster.bucket.seen_by(name));
        let machines: Vec<_> = names.into_iter().map(machine).collect();
        let moves = machines.len() > 1;
        cluster.start(&machines[0].0, &machines[0].1).await;
        cluster.create("bucket", 2, "object").await;
        cluster.create("synced", 1, if moves { "object" } else { "local" }).await;
        let loads = [("bucket", 0), ("bucket", 1), ("synced", 0)];
        let loads = loads.map(|(topic, partition)| SimLoad::start(&cluster, topic, partition));
        for load in &loads {
            load.whisper().await;
        }
        Self { sim, cluster, machines, leads: 0, loads }
    }

    async fn rage(mut self) {
        for _ in 0..2 + self.sim.below(3) {
            self.trouble();
            for _ in 0..self.sim.below(4) {
                tokio::time::sleep(Duration::from_millis(self.sim.below(12_000))).await;
                self.do_something().await;
            }
            self.bucket().set(Faults::default());
            if self.sim.below(4) > 0 {
                self.crash().await;
            }
            for load in &self.loads {
                load.progress(10).await;
            }
            // While everything goes on.
            self.cluster.audit().await;
        }
        self.end().await;
    }

    fn machine(&self) -> &SimHost {
        &self.machines[self.leads].0
    }

    fn bucket(&self) -> &SimStore {
        &self.machines[self.leads].1
    }

    fn trouble(&self) {
        let once_in = |least: u64| match self.sim.one_in(3) {
            true => 0,
            false => least + self.sim.below(20),
        };
        self.bucket().set(Faults {
            lost_reply: once_in(5),
            refused: once_in(5),
            conflict: once_in(5),
            ghost: once_in(20),
            silent: once_in(40),
            ..Faults::default()
        });
    }

    /// What operators, services and time do.
    async fn do_something(&self) {
        let (topic, loads) = match self.sim.one_in(2) {
            true => ("bucket", &self.loads[..2]),
            false => ("synced", &self.loads[2..]),
        };
        let moves = self.machines.len() > 1;
        match self.sim.below(8) {
            0 => self.alter(topic, "durability.class", "object").await,
            1 if !moves => self.alter(topic, "durability.class", "local").await,
            2 => {
                let bytes = 1000 + self.sim.below(40_000);
                loads.iter().for_each(|load| load.retains(bytes));
                self.alter(topic, "retention.bytes", &bytes.to_string()).await;
            }
            3 => {
                let load = &loads[self.sim.below(loads.len() as u64) as usize];
                load.delete_some(&self.sim).await;
            }
            4 => self.rot().await,
            5 => self.outage().await,
            6 => later(self.sim.below(60)).await,
            _ => self.short_topic().await,
        }
    }

    async fn alter(&self, topic: &'static str, name: &str, value: &str) {
        self.sim.note(format!("{topic}: {name}={value}"));
        let set = [(name.to_owned(), value.to_owned())];
        let altered = self
            .cluster
            .ask(|node| async move { node.alter_topic(topic, set.into(), Vec::new(), 0).await });
        // In trouble it may fail, or have happened without an answer.
        drop(tokio::time::timeout(Duration::from_secs(20), altered).await);
    }

    /// A topic that lives for some seconds.
    async fn short_topic(&self) {
        let name: &'static str = format!("short{}", self.sim.random()).leak();
        let made = self.cluster.ask(|node| async move {
            let set = [("durability.class".to_owned(), "object".to_owned())];
            node.create_topic(name, 1, set.into()).await
        });
        let made = tokio::time::timeout(Duration::from_secs(20), made).await;
        if !matches!(made, Ok(Some(Ok(_)))) {
            return;
        }
        let load = SimLoad::start(&self.cluster, name, 0);
        later(self.sim.below(8)).await;
        load.stop();
        let gone =
            self.cluster.ask(|node| async move { node.delete_topic_named(name).await.map(drop) });
        drop(tokio::time::timeout(Duration::from_secs(20), gone).await);
    }

    /// A bit of an object flips, and is found and repaired, or flips back.
    async fn rot(&self) {
        if let Some((key, at)) = self.cluster.rot_some().await {
            later(self.sim.below(30)).await;
            self.cluster.heal(&key, at).await;
        }
    }

    /// Longer than a request waits for metadata.
    async fn outage(&self) {
        self.bucket().set(Faults { away: true, ..Faults::default() });
        later(self.sim.below(60)).await;
        self.trouble();
    }

    async fn crash(&mut self) {
        match self.sim.below(4) {
            0 => self.machine().kill(),
            1 => {
                let faults = DiskFaults { failing_syncs: 1, ..DiskFaults::default() };
                self.machine().disk().set_faults(faults);
                later(2).await;
                self.machine().disk().set_faults(DiskFaults::default());
                self.machine().kill();
            }
            2 if self.machines.len() > 1 => self.machine().pause(),
            _ => self.machine().power_loss(),
        }
        if self.machines.len() > 1 && self.sim.one_in(2) {
            // Whoever sleeps there wakes up to find that others went on.
            self.leads = 1 - self.leads;
            self.machine().resume();
            later(self.sim.below(3)).await;
            self.bucket().set(Faults::default());
        }
        self.machine().resume();
        self.machine().kill();
        self.cluster.start(self.machine(), self.bucket()).await;
    }

    async fn end(mut self) {
        for load in &self.loads {
            load.progress(10).await;
            load.stop();
        }
        // Uploads, merges and the sweep of what died come to rest.
        later(120).await;
        for load in &self.loads {
            load.verify().await;
        }
        let audit = self.cluster.audit().await;
        let (count, bytes) =
            (audit.shared.objects + audit.single.objects, audit.shared.bytes + audit.single.bytes);
        // Some of each size and epoch, and whole ones.
        assert!(count <= 60 + bytes / (8 << 10), "{audit:?}");
        if self.sim.one_in(3) {
            self.crash().await;
            for load in &self.loads {
                load.verify().await;
            }
        }
        self.machines.iter().for_each(|(machine, _)| machine.kill());
        self.cluster.bucket.end().await;
    }
}

async fn storm(sim: Sim) {
    Storm::begin(sim).await.rage().await;
}

fn run(first: u64, count: u64) {
    let count =
        std::env::var("LEVEE_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(count);
    let one = std::env::var_os("LEVEE_SEED").is_some();
    for number in 0..if one { 1 } else { count } {
        let seed = seed(first + number);
        Sim::run(seed, storm);
    }
}

// Tests run side by side: one half of the storms for each core of a small machine.

#[test]
fn storms_lose_nothing() {
    run(1_000_000, 5_000);
}

#[test]
fn more_storms_lose_nothing() {
    run(2_000_000, 5_000);
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let (one, two) = (Sim::run(7, storm), Sim::run(7, storm));
    let differs = one.iter().zip(&two).find(|(a, b)| a != b);
    assert_eq!(differs, None);
    assert_eq!(one.len(), two.len());
    assert_ne!(one, Sim::run(8, storm));
}
