//! Beside Apache Kafka: the same machine, the same clients, the same topic, one broker after the
//! other.
//!
//! CPU time counts until a broker is at rest again, so that what it does later (uploads, flushes)
//! is not left out.

mod apache;
mod tools;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::process::Command;

use super::{Bench, print_table};
use crate::error::{Error, Result};
use crate::target::Started;
use crate::target::process::Process;
use crate::target::usage::of_process;
use apache::Apache;
use tools::{Produced, RECORD_BYTES, Tools};

const INSTALL: &str = include_str!("../../peers");
const PARTITIONS: u32 = 16;
/// Records of the runs at full speed; fewer where each one is flushed.
const FULL: u64 = 2_000_000;
const JAVA_FULL: u64 = 1_000_000;
const FLUSHED_SHARE: u64 = 4;
const RATES: [u64; 2] = [20_000, 2_000];
/// Before a rate counts.
const WARM_SECONDS: u64 = 5;
/// A broker that uses less of a core is at rest.
const REST: f64 = 0.05;
const REST_STEP: Duration = Duration::from_millis(500);
const REST_LIMIT: Duration = Duration::from_secs(30);

/// Who is measured.
struct Contender {
    name: &'static str,
    kind: Kind,
    /// Of the records of the others.
    share: u64,
}

enum Kind {
    Apache(&'static [(&'static str, &'static str)]),
    Levee(&'static [(&'static str, &'static str)]),
}

/// In the order in which the ratios want them.
const CONTENDERS: [Contender; 5] = [
    Contender { name: "Levee `local`, each ack synced", kind: Kind::Levee(&[]), share: 1 },
    Contender { name: "Kafka, defaults", kind: Kind::Apache(&[]), share: 1 },
    Contender {
        name: "Levee `local`, synced at intervals",
        kind: Kind::Levee(&[("topic.local.flush", "interval")]),
        share: 1,
    },
    Contender {
        name: "Kafka, a flush per message",
        kind: Kind::Apache(&[("log.flush.interval.messages", "1")]),
        share: FLUSHED_SHARE,
    },
    Contender {
        name: "Levee `object`",
        kind: Kind::Levee(&[("topic.durability.class", "object")]),
        share: 1,
    },
];

/// What came of one.
struct Figures {
    name: &'static str,
    start: Duration,
    idle_bytes: u64,
    loaded_bytes: u64,
    rdkafka: Cost<Produced>,
    rdkafka_read: Cost<f64>,
    java: Cost<Produced>,
    java_read: Cost<f64>,
    at_rate: Vec<Cost<Produced>>,
}

/// A measurement, and the broker's CPU seconds per GB of it.
struct Cost<T> {
    of: T,
    cpu_per_gb: f64,
}

pub async fn run(bench: &Bench) -> Result<()> {
    bench.say(&format!("installing peers into {}", bench.peers.display()));
    let peers = install(&bench.peers).await?;
    let mut all = Vec::new();
    for contender in &CONTENDERS {
        bench.say(contender.name);
        let broker = Broker::start(bench, contender, &peers).await?;
        let figures = measure(bench, contender, &broker, &peers).await;
        broker.stop().await?;
        all.push(figures.map_err(|error| error.at(contender.name))?);
    }
    print(&all)
}

/// See the script: what is there stays.
async fn install(folder: &Path) -> Result<PathBuf> {
    let failed = |why: String| Error::failed(format!("the peers cannot be installed: {why}"));
    let mut command = Command::new("bash");
    command.args(["-c", INSTALL, "peers"]).arg(folder);
    let out = command.output().await.map_err(|error| failed(error.to_string()))?;
    if !out.status.success() {
        return Err(failed(String::from_utf8_lossy(&out.stderr).trim().to_owned()));
    }
    std::fs::canonicalize(folder).map_err(|error| failed(error.to_string()))
}

struct Broker {
    kind: Running,
    address: String,
    start: Duration,
    folder: PathBuf,
}

enum Running {
    Apache(Apache),
    Levee(Process),
}

impl Broker {
    async fn start(bench: &Bench, contender: &Contender, peers: &Path) -> Result<Self> {
        let folder = bench.work.path().join("broker");
        match &contender.kind {
            Kind::Apache(more) => {
                let node = Apache::start(&jars(peers)?, folder.clone(), more).await?;
                let (address, start) = (node.address.clone(), node.start);
                Ok(Self { kind: Running::Apache(node), address, start, folder })
            }
            Kind::Levee(set) => {
                let started = Started {
                    path: bench.levee.clone(),
                    data: Some(folder.clone()),
                    set: super::pairs(set),
                    ..Started::default()
                };
                let began = Instant::now();
                let process = Process::start(&started).await?;
                let (address, start) = (process.kafka.clone(), began.elapsed());
                Ok(Self { kind: Running::Levee(process), address, start, folder })
            }
        }
    }

    fn pid(&self) -> u32 {
        match &self.kind {
            Running::Apache(node) => node.pid(),
            Running::Levee(process) => process.pid,
        }
    }

    /// The next one finds an empty disk.
    async fn stop(self) -> Result<()> {
        match self.kind {
            Running::Apache(node) => node.stop().await?,
            Running::Levee(process) => process.kill().await?,
        }
        let removed = std::fs::remove_dir_all(&self.folder);
        removed.map_err(|error| Error::failed(format!("{}: {error}", self.folder.display())))
    }

    fn cpu(&self) -> f64 {
        of_process(self.pid()).cpu_seconds
    }

    fn resident(&self) -> u64 {
        of_process(self.pid()).resident_bytes
    }

    /// Waits until it is at rest, or has had long enough to be.
    async fn rest(&self) {
        let began = Instant::now();
        let mut before = self.cpu();
        while began.elapsed() < REST_LIMIT {
            tokio::time::sleep(REST_STEP).await;
            let now = self.cpu();
            if now - before < REST * REST_STEP.as_secs_f64() {
                return;
            }
            before = now;
        }
    }

    /// What a measurement over so many records cost.
    async fn cost<T>(
        &self,
        records: u64,
        measured: impl Future<Output = Result<T>>,
    ) -> Result<Cost<T>> {
        let before = self.cpu();
        let of = measured.await?;
        self.rest().await;
        let gb = (records * RECORD_BYTES) as f64 / 1e9;
        Ok(Cost { of, cpu_per_gb: (self.cpu() - before) / gb })
    }
}

/// The folder of Kafka's jars among the peers.
fn jars(peers: &Path) -> Result<PathBuf> {
    let missing = || Error::failed(format!("no Kafka in {}", peers.display()));
    let entries = std::fs::read_dir(peers).map_err(|_| missing())?;
    let libs = entries.flatten().map(|entry| entry.path().join("libs"));
    libs.into_iter().find(|libs| libs.is_dir()).ok_or_else(missing)
}

async fn measure(
    bench: &Bench,
    contender: &Contender,
    broker: &Broker,
    peers: &Path,
) -> Result<Figures> {
    let rdkafka = peers.join("rdkafka_performance");
    let tools = Tools { jars: jars(peers)?, rdkafka, address: broker.address.clone() };
    broker.rest().await;
    let idle_bytes = broker.resident();
    for topic in ["warm", "load", "java", "rates"] {
        tools.create_topic(topic, PARTITIONS).await?;
    }
    let (full, java_full) = (FULL / contender.share, JAVA_FULL / contender.share);
    // A virtual machine is slow before it has seen the work.
    tools.rdkafka_produce("warm", full).await?;
    tools.rdkafka_consume("warm", "warm", full).await?;
    broker.rest().await;

    let rdkafka = broker.cost(full, tools.rdkafka_produce("load", full)).await?;
    let rdkafka_read = broker.cost(full, tools.rdkafka_consume("load", "load", full)).await?;
    let java_read = broker.cost(full, tools.java_consume("load", full)).await?;
    let java = broker
        .cost(java_full, tools.java_produce("java", (java_full, java_full / 5), None))
        .await?;
    let mut at_rate = Vec::new();
    for rate in RATES {
        let warm = rate * WARM_SECONDS;
        let records = warm + rate * bench.duration.0.as_secs().max(1);
        let produced = tools.java_produce("rates", (records, warm), Some(rate));
        at_rate.push(broker.cost(records, produced).await?);
    }
    let loaded_bytes = broker.resident();
    Ok(Figures {
        name: contender.name,
        start: broker.start,
        idle_bytes,
        loaded_bytes,
        rdkafka,
        rdkafka_read,
        java,
        java_read,
        at_rate,
    })
}

fn print(all: &[Figures]) -> Result<()> {
    let [levee, kafka, _, flushed, ..] = all else {
        return Err(Error::failed("not everybody was measured"));
    };
    print_table(
        "Levee beside Apache Kafka, as ratios of this run",
        &["", "ratio", "aim"],
        ratios(levee, kafka, flushed),
    )?;
    print_table(
        "Full speed, 1 KiB records, 16 partitions, acks=all: records/s, broker CPU s/GB",
        &["", "librdkafka produce", "librdkafka read", "Java produce", "Java read"],
        all.iter().map(full_speed).collect(),
    )?;
    let at_rates = RATES.map(|rate| format!("{rate}/s"));
    print_table(
        "Java producer, p50 / p99 / p99.9 ms, and broker CPU s/GB",
        &["", "full speed", &at_rates[0], &at_rates[1]],
        all.iter().map(latencies).collect(),
    )?;
    print_table(
        "Start and memory",
        &["", "start", "resident, idle", "resident, after all of it"],
        all.iter().map(start_and_memory).collect(),
    )
}

fn ratios(levee: &Figures, kafka: &Figures, flushed: &Figures) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    let mut add = |name: String, a: f64, b: f64, aim: &str| {
        rows.push(vec![name, format!("{:.2}", a / b), aim.to_owned()]);
    };
    let to = "Kafka's over Levee's, each ack synced";
    let (a, b) = (kafka.rdkafka.cpu_per_gb, levee.rdkafka.cpu_per_gb);
    add(format!("CPU per GB produced, librdkafka: {to}"), a, b, "at least 3");
    let (a, b) = (kafka.java.cpu_per_gb, levee.java.cpu_per_gb);
    add(format!("CPU per GB produced, Java: {to}"), a, b, "at least 3");
    let (a, b) = (levee.rdkafka_read.cpu_per_gb, kafka.rdkafka_read.cpu_per_gb);
    add("CPU per GB read, librdkafka: Levee's over Kafka's".into(), a, b, "at most 1");
    let (a, b) = (levee.java_read.cpu_per_gb, kafka.java_read.cpu_per_gb);
    add("CPU per GB read, Java: Levee's over Kafka's".into(), a, b, "at most 1");
    for (at, rate) in RATES.iter().enumerate() {
        let p99 = |figures: &Figures| figures.at_rate[at].of.latency_ms.map_or(0.0, |ms| ms[1]);
        let name = format!("p99 at {rate}/s: Levee's, synced, over Kafka's");
        add(name, p99(levee), p99(kafka), "at most 0.33");
    }
    let (a, b) = (levee.java.of.records_per_second, flushed.java.of.records_per_second);
    add("Java records/s: Levee's over those of a Kafka that flushes".into(), a, b, "at least 5");
    let (a, b) = (levee.loaded_bytes as f64, kafka.loaded_bytes as f64);
    add("resident after all of it: Levee's over Kafka's".into(), a, b, "at most 0.1");
    let (a, b) = (levee.start.as_secs_f64(), kafka.start.as_secs_f64());
    add("start: Levee's over Kafka's".into(), a, b, "at most 0.1");
    rows
}

fn full_speed(figures: &Figures) -> Vec<String> {
    let cell = |rate: f64, cpu: f64| format!("{rate:.0}, {cpu:.2}");
    let produced = |cost: &Cost<Produced>| cell(cost.of.records_per_second, cost.cpu_per_gb);
    let was_read = |cost: &Cost<f64>| cell(cost.of, cost.cpu_per_gb);
    vec![
        figures.name.to_owned(),
        produced(&figures.rdkafka),
        was_read(&figures.rdkafka_read),
        produced(&figures.java),
        was_read(&figures.java_read),
    ]
}

fn latencies(figures: &Figures) -> Vec<String> {
    let cell = |cost: &Cost<Produced>| {
        let [p50, p99, p999] = cost.of.latency_ms.unwrap_or_default();
        format!("{p50:.0} / {p99:.0} / {p999:.0}, {:.1}", cost.cpu_per_gb)
    };
    let mut row = vec![figures.name.to_owned(), cell(&figures.java)];
    row.extend(figures.at_rate.iter().map(cell));
    row
}

fn start_and_memory(figures: &Figures) -> Vec<String> {
    let mib = |bytes: u64| format!("{} MiB", bytes >> 20);
    vec![
        figures.name.to_owned(),
        format!("{} ms", figures.start.as_millis()),
        mib(figures.idle_bytes),
        mib(figures.loaded_bytes),
    ]
}
