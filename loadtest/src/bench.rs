//! The numbers of the README: suites of workloads, each beside its floor, as Markdown tables.
//!
//! Owns: the work folder, one broker for each measurement, the tables. Does not own: the floors
//! (`floor`), and what each suite asks for (a file each).

mod acks;
mod backfill;
mod floor;
mod kafka;
mod partitions;
mod paths;
mod reads;
mod round_trip;
mod soak;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use clap::ValueEnum;
use comfy_table::{Table, presets};
use parking_lot::Mutex;
use tempfile::TempDir;

use crate::bucket::{OwnPrefix, url_of, without_query};
use crate::error::{Error, Exit, Result};
use crate::report;
use crate::results::{Ended, Machine, Results};
use crate::run::{Options, measure};
use crate::target::{Spec, Started, Target};
use crate::workload::Workload;
use crate::workload::values::Span;

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Suite {
    /// Acks beside bare fdatasync and PUT loops of the same bytes.
    Acks,
    /// Produce and reads of every tier: rates and CPU seconds per GB; memory; restart.
    Paths,
    /// Cold reads beside a bare ranged-GET loop over the same objects.
    Reads,
    /// 10,000 partitions on one broker.
    Partitions,
    /// Produce latency without and with a backfill of everything.
    Backfill,
    /// Mixed load for a long time: memory and disk. Not part of `all`.
    Soak,
    /// Beside Apache Kafka, with the load tools of its Java client and of librdkafka. Not part of
    /// `all`: it needs Java, Maven and a C compiler.
    Kafka,
    All,
}

const ALL: [Suite; 5] =
    [Suite::Acks, Suite::Paths, Suite::Reads, Suite::Partitions, Suite::Backfill];

#[derive(clap::Args)]
pub struct Args {
    #[arg(long, value_enum, value_delimiter = ',', default_value = "paths")]
    suite: Vec<Suite>,
    /// The broker's binary; the one beside this program without it.
    #[arg(long, value_name = "FILE")]
    levee: Option<PathBuf>,
    /// Bucket URL; a folder in the work folder without it. A prefix of its own is added.
    #[arg(long, value_name = "URL")]
    bucket: Option<String>,
    /// Length of each measurement.
    #[arg(long, default_value = "10s", value_name = "TIME")]
    duration: Span,
    /// Where data folders are made, and removed again: the disk that is measured.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Partitions of the suite of that name.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    partitions: u32,
    /// Folder for results.json and report.html of each run.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Where the suite `kafka` installs Apache Kafka and librdkafka's load tool, once.
    #[arg(long, default_value = "target/peers", value_name = "DIR")]
    peers: PathBuf,
}

/// What suites share.
struct Bench {
    levee: Option<PathBuf>,
    bucket: Option<String>,
    duration: Span,
    partitions: u32,
    out: Option<PathBuf>,
    peers: PathBuf,
    work: TempDir,
    /// What brokers wrote to and nobody removed yet, by URL.
    written: Mutex<BTreeMap<String, OwnPrefix>>,
    options: Options,
}

pub async fn bench(args: Args, options: Options) -> Result<Exit> {
    let made = match &args.data {
        Some(folder) => tempfile::Builder::new().prefix("levee-bench-").tempdir_in(folder),
        None => tempfile::Builder::new().prefix("levee-bench-").tempdir(),
    };
    let work = made.map_err(|error| Error::usage(format!("no folder to work in: {error}")))?;
    let bench = Bench {
        levee: args.levee,
        bucket: args.bucket,
        duration: args.duration,
        partitions: args.partitions,
        out: args.out,
        peers: args.peers,
        work,
        written: Mutex::default(),
        options,
    };
    report::print(&bench.conditions())?;
    let suites = match args.suite.contains(&Suite::All) {
        true => ALL.to_vec(),
        false => args.suite,
    };
    let done = bench.run(suites).await;
    // The work folder goes with all that is in it.
    for own in bench.written.lock().values().filter(|_| bench.bucket.is_some()) {
        bench.say(&format!("not removed: what was written to {own}"));
    }
    done
}

impl Bench {
    async fn run(&self, suites: Vec<Suite>) -> Result<Exit> {
        for suite in suites {
            let done = match suite {
                Suite::Acks => acks::run(self).await,
                Suite::Paths => paths::run(self).await,
                Suite::Reads => reads::run(self).await,
                Suite::Partitions => partitions::run(self).await,
                Suite::Backfill => backfill::run(self).await,
                Suite::Soak => soak::run(self).await,
                Suite::Kafka => kafka::run(self).await,
                Suite::All => Ok(()),
            };
            match self.options.stop.is_set() {
                true => return Ok(Exit::Interrupted),
                false => done?,
            }
        }
        Ok(Exit::Done)
    }

    fn conditions(&self) -> String {
        let machine = Machine::here();
        let bucket = self.bucket.as_deref().unwrap_or("a folder on the same disk");
        format!(
            "{} ({} cores), {}, commit {}, load average before {:.1}; bucket: {}; data on {}; {} \
             each\n",
            machine.cpu,
            machine.cores,
            machine.kernel,
            machine.commit,
            machine.load_before,
            without_query(bucket),
            self.work.path().display(),
            self.duration
        )
    }

    /// A broker with data and bucket of its own.
    fn started(&self, name: &str, set: &[(&str, &str)], topic: &[(&str, &str)]) -> Result<Started> {
        let below = self.bucket.clone().map_or_else(|| url_of(self.work.path()), Ok)?;
        // The work folder's name is nobody else's.
        let run = self.work.path().file_name().unwrap_or_default().to_string_lossy();
        let own = OwnPrefix::below(&below, format!("{run}-{name}"))?;
        let bucket = own.expose().to_owned();
        self.written.lock().insert(bucket.clone(), own);
        Ok(Started {
            path: self.levee.clone(),
            bucket: Some(bucket),
            data: Some(self.work.path().join(format!("data-{name}"))),
            set: pairs(set),
            topic: pairs(topic),
            ..Started::default()
        })
    }

    /// Measures on a new broker, which goes on.
    async fn measure(
        &self,
        workload: &Workload,
        started: &Started,
    ) -> Result<(Results, Arc<Target>)> {
        let target = Arc::new(Target::open(&Spec::Started(started.clone()), workload).await?);
        Ok((self.measure_on(workload, &target).await?, target))
    }

    async fn measure_on(&self, workload: &Workload, target: &Arc<Target>) -> Result<Results> {
        workload.check()?;
        let results = measure(workload, target, &self.options).await?;
        if let Some(out) = &self.out {
            report::write_files(&report::make_folder(out, &workload.name)?, &results)?;
        }
        if results.exit() == Exit::Wrong {
            report::print(&report::text(&results))?;
            return Err(Error::wrong(report::verified(&results.verification)));
        }
        if let Ended::TargetFailed(why) = &results.ended {
            return Err(Error::failed(format!("the target failed: {why}")));
        }
        if let Some(why) = results.notes.iter().find(|note| note.starts_with("first failed")) {
            self.options.progress.say(why);
        }
        Ok(results)
    }

    /// Ends a broker and takes away what it wrote: the next measurement finds an empty disk.
    async fn clear(&self, target: &Target, started: &Started) -> Result<()> {
        target.close().await?;
        if let Some(data) = &started.data {
            let _ = std::fs::remove_dir_all(data);
        }
        let Some(url) = &started.bucket else { return Ok(()) };
        let own = self.written.lock().remove(url);
        if let Some(own) = own
            && let Err(error) = own.remove().await
        {
            self.say(&format!("{own} stays: {error}"));
        }
        Ok(())
    }

    fn say(&self, line: &str) {
        self.options.progress.say(line);
    }
}

fn pairs(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// Prints a table in Markdown, with a title.
fn print_table(title: &str, header: &[&str], rows: Vec<Vec<String>>) -> Result<()> {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(header.iter().copied());
    for row in rows {
        table.add_row(row);
    }
    report::print(&format!("\n{title}\n\n{table}\n"))
}

/// The one measured phase.
fn measured(results: &Results) -> Result<&crate::results::PhaseResult> {
    results.measured().next().ok_or_else(|| Error::failed("nothing was measured"))
}
