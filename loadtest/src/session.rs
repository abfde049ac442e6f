//! One run on one target: its topics, its readers, and the judgement at the end.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::bucket::folder_of;
use crate::clock::Clock;
use crate::drive::fill;
use crate::driver::levee::topic_name;
use crate::error::Result;
use crate::log::{Log, Tracks};
use crate::payload::Payload;
use crate::producer::Shared;
use crate::progress::Progress;
use crate::reader::{FirstPass, Readers, catch_up};
use crate::recorder::Recorder;
use crate::results::{Ended, Verification};
use crate::stop::Stop;
use crate::target::{Target, usage};
use crate::verify::Findings;
use crate::workload::{Produce, Verify, Workload};

/// A backlog is written in large batches by some writers.
const BACKLOG_BATCH: u64 = 256 << 10;
const BACKLOG_PRODUCERS: u32 = 8;

/// See the module.
pub struct Session {
    pub workload: Workload,
    pub target: Arc<Target>,
    pub clock: Clock,
    pub recorder: Arc<Recorder>,
    pub progress: Arc<Progress>,
    pub stop: Stop,
    log: Arc<Log>,
    payload: Arc<Payload>,
    tails: Mutex<Option<Tails>>,
    backlog: Option<Backlog>,
    /// Why readers went no further.
    trouble: Arc<Mutex<Vec<String>>>,
}

struct Tails {
    sent_all: watch::Sender<bool>,
    tasks: JoinSet<(u32, Tracks)>,
}

/// Records of before, to catch up with.
struct Backlog {
    log: Arc<Log>,
    speed: Mutex<Option<watch::Sender<Option<u64>>>>,
    task: Mutex<Option<JoinHandle<FirstPass>>>,
}

impl Session {
    /// Makes the topics, writes the backlog, starts the readers.
    pub async fn open(
        workload: &Workload,
        target: Arc<Target>,
        progress: Arc<Progress>,
        stop: Stop,
    ) -> Result<Self> {
        let run: u64 = rand::random();
        let name = format!("{}-{:08x}", workload.name, run >> 32);
        let topics: Vec<_> = (0..workload.topics.count)
            .map(|number| topic_name(&format!("{name}-{number}")))
            .collect();
        for topic in &topics {
            create(&target, workload, topic).await?;
        }
        let phases = workload.phases().len().max(2);
        let producers = workload.produce.producers.max(BACKLOG_PRODUCERS);
        let mut session = Self {
            log: Arc::new(Log::new(run, topics, workload.topics.partitions, workload)),
            payload: Arc::new(Payload::new(workload)?),
            recorder: Arc::new(Recorder::new(phases, producers)),
            workload: workload.clone(),
            clock: Clock::start(),
            target,
            progress,
            stop,
            tails: Mutex::default(),
            backlog: None,
            trouble: Arc::default(),
        };
        if workload.catch_up.bytes.0 > 0 {
            let topic = topic_name(&format!("{name}-old"));
            session.backlog = Some(session.write_backlog(run.wrapping_add(1), topic).await?);
        }
        session.start_tails();
        Ok(session)
    }

    pub fn shared(&self) -> Shared {
        let produce = &self.workload.produce;
        let each = (produce.in_flight.0 / u64::from(produce.producers)).max(1);
        Shared {
            driver: self.target.driver.clone(),
            log: self.log.clone(),
            payload: self.payload.clone(),
            recorder: self.recorder.clone(),
            clock: self.clock,
            stop: self.stop.flag(),
            kind: produce.client,
            stamped: self.workload.is_stamped(),
            seed: self.workload.seed,
            bytes_max: None,
            in_flight_bytes: each,
            in_flight_sends: produce.in_flight_sends as usize,
        }
    }

    fn readers(&self, log: &Arc<Log>) -> Readers {
        Readers {
            driver: self.target.driver.clone(),
            log: log.clone(),
            recorder: self.recorder.clone(),
            clock: self.clock,
            stamped: self.workload.is_stamped(),
            first_connection: self.workload.first_catch_up_connection(),
            connections: self.workload.catch_up.connections,
            trouble: self.trouble.clone(),
        }
    }

    async fn write_backlog(&self, run: u64, topic: Arc<str>) -> Result<Backlog> {
        create(&self.target, &self.workload, &topic).await?;
        let bytes = self.workload.catch_up.bytes;
        self.progress.say(&format!("writing a backlog of {bytes}"));
        let mut workload = self.workload.clone();
        let largest = workload.sizes().iter().map(|share| share.bytes.0).max().unwrap_or(1);
        let partitions = workload.topics.partitions;
        workload.produce = Produce {
            batch_records: (BACKLOG_BATCH / largest).max(1) as u32,
            producers: BACKLOG_PRODUCERS.min(partitions),
            ..workload.produce
        };
        let log = Arc::new(Log::new(run, vec![topic.clone()], partitions, &workload));
        let producers = workload.produce.producers;
        let shared = Shared {
            log: log.clone(),
            payload: Arc::new(Payload::new(&workload)?),
            recorder: Arc::new(Recorder::new(1, producers)),
            bytes_max: Some(bytes.0 / u64::from(producers)),
            in_flight_bytes: (32 << 20) / u64::from(producers),
            ..self.shared()
        };
        fill(shared, producers).await?;
        if self.workload.catch_up.cold {
            self.progress.say("moving the backlog to the bucket");
            self.target.driver.make_cold(&topic).await?;
        }
        let speed = watch::Sender::new(None);
        let repeat = self.workload.catch_up.repeat;
        let task = tokio::spawn(catch_up(self.readers(&log), repeat, speed.subscribe()));
        Ok(Backlog { log, speed: Mutex::new(Some(speed)), task: Mutex::new(Some(task)) })
    }

    /// At most so many bytes a second; nothing: not at all.
    pub fn catch_up_at(&self, speed: Option<u64>) {
        if let Some(backlog) = &self.backlog
            && let Some(sender) = &*backlog.speed.lock()
        {
            sender.send_replace(speed);
        }
    }

    fn start_tails(&self) {
        let subscriptions = self.workload.tail.subscriptions;
        if subscriptions == 0 {
            return;
        }
        let sent_all = watch::Sender::new(false);
        let mut tasks = JoinSet::new();
        for subscription in 0..subscriptions {
            for number in 0..self.log.partitions() {
                let readers = self.readers(&self.log);
                let sent_all = sent_all.subscribe();
                let connection = self.workload.tail_connection(number + subscription);
                tasks.spawn(
                    async move { (number, readers.tail(number, connection, sent_all).await) },
                );
            }
        }
        *self.tails.lock() = Some(Tails { sent_all, tasks });
    }

    /// What readers met so far.
    pub fn trouble(&self) -> Vec<String> {
        self.trouble.lock().clone()
    }

    /// On this machine, of the target: its folder and a bucket that is a folder.
    pub fn disk_bytes(&self) -> u64 {
        let Some(process) = &self.target.process else { return 0 };
        let bucket = folder_of(&self.target.about.bucket);
        let bucket = bucket.filter(|bucket| !bucket.starts_with(&process.data));
        usage::disk_bytes(&process.data) + bucket.map_or(0, |bucket| usage::disk_bytes(&bucket))
    }

    /// Waits for the readers and compares what was read with what was acknowledged.
    pub async fn judge(&self) -> Verification {
        let (mut by, mut findings) = (Vec::new(), Findings::default());
        let mode = self.workload.verify;
        let tails = self.tails.lock().take();
        let mut stop = self.stop.flag();
        let reading = async {
            let seen = match tails {
                Some(tails) => self.join_tails(tails).await,
                None => Findings::default(),
            };
            match mode {
                Verify::Off => None,
                Verify::Tail => Some(("tail readers", seen)),
                Verify::All => {
                    let all: Vec<_> = (0..self.log.partitions()).collect();
                    Some(("read back", self.read_back(&self.log, &all).await))
                }
            }
        };
        let read = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => None,
            read = reading => read,
        };
        match read {
            Some((who, seen)) => {
                by.push(who);
                findings.add(&seen);
            }
            None => findings.add(&self.log.unread(0..self.log.partitions())),
        }
        self.judge_backlog(&mut by, &mut findings).await;
        let unfinished = match self.stop.ended() {
            Ended::Complete => self.trouble().first().cloned(),
            Ended::Interrupted => Some("the run was interrupted".to_owned()),
            Ended::TargetFailed(why) => Some(why),
        };
        Verification { mode, findings, by: by.join(", "), unfinished }
    }

    async fn read_back(&self, log: &Arc<Log>, partitions: &[u32]) -> Findings {
        let count = partitions.len();
        let tell = |done| {
            self.progress.now(&format!("reading back: {done} of {count} partitions"));
        };
        self.readers(log).read_back(partitions, tell).await
    }

    async fn judge_backlog(&self, by: &mut Vec<&str>, findings: &mut Findings) {
        let Some(backlog) = &self.backlog else { return };
        // The readers end when nobody can tell them to go on.
        backlog.speed.lock().take();
        let task = backlog.task.lock().take();
        let Some(task) = task else { return };
        let first = task.await.unwrap_or_default();
        if self.workload.verify == Verify::Off {
            return;
        }
        by.push("catch-up readers");
        findings.add(&first.findings);
        let mut left: Vec<_> = (0..backlog.log.partitions()).collect();
        left.retain(|number| !first.judged.contains(number));
        let mut stop = self.stop.flag();
        let rest = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => backlog.log.unread(left.iter().copied()),
            rest = self.read_back(&backlog.log, &left) => rest,
        };
        findings.add(&rest);
    }

    /// They read to the end, and each gives up by itself when nothing comes.
    async fn join_tails(&self, mut tails: Tails) -> Findings {
        tails.sent_all.send_replace(true);
        let mut findings = Findings::default();
        while let Some(ended) = tails.tasks.join_next().await {
            match ended {
                Ok((number, tracks)) => findings.add(&self.log.judge(number, &tracks)),
                Err(error) => self.trouble.lock().push(format!("a tail reader ended: {error}")),
            }
        }
        findings
    }

    /// Deletes the topics: of a target that goes on without this run.
    pub async fn tidy(&self) -> Result<()> {
        for topic in self.topics() {
            self.target.driver.delete_topic(&topic).await?;
        }
        Ok(())
    }

    /// Those of the load first.
    pub fn topics(&self) -> Vec<String> {
        let old = self.backlog.iter().flat_map(|backlog| &backlog.log.topics);
        self.log.topics.iter().chain(old).map(|topic| topic.to_string()).collect()
    }

    /// What the topics really have: their class, and what is synced before an ack.
    pub async fn durability(&self) -> (String, String) {
        let settings = match self.target.driver.settings_of(&self.log.topics[0]).await {
            Ok(settings) => settings,
            Err(error) => return (format!("unknown: {error}"), "unknown".into()),
        };
        let of = |name: &str| settings.get(name).map_or("unknown", String::as_str);
        let (class, flush) = (of("durability.class"), of("local.flush"));
        (class.into(), sync_of(class, flush).into())
    }
}

fn sync_of(class: &str, flush: &str) -> &'static str {
    match (class, flush) {
        ("object", _) => "the bucket has the record before the ack",
        ("local", "always") => "fdatasync of the local WAL before each ack (group commit)",
        ("local", "interval") => "written before the ack, synced within wal.flush.interval",
        _ => "unknown",
    }
}

async fn create(target: &Target, workload: &Workload, topic: &str) -> Result<()> {
    let mut settings = workload.topics.settings.clone();
    settings.extend(target.topic_settings.clone());
    target.driver.create_topic(topic, workload.topics.partitions, &settings).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drive::drive;
    use crate::driver::fake::Fake;
    use crate::workload::values::Size;
    use crate::workload::{CatchUp, Tail, Topics};

    /// A short run on a target with faults, read back or by tail readers.
    async fn judged(verify: Verify, fault: impl FnOnce(Fake) -> Fake) -> Verification {
        let workload = Workload {
            topics: Topics { partitions: 4, ..Topics::default() },
            tail: Tail { subscriptions: u32::from(verify == Verify::Tail), ..Tail::default() },
            warm_up: "0s".parse().unwrap(),
            duration: "200ms".parse().unwrap(),
            verify,
            ..Workload::default()
        };
        let driver = Arc::new(fault(Fake::new(Clock::start())));
        let (target, progress) = (Target::fake(driver), Arc::new(Progress::new()));
        let session = Session::open(&workload, Arc::new(target), progress, Stop::default()).await;
        let session = session.unwrap();
        drive(&session, &workload.phases(), 0).await.unwrap();
        session.judge().await
    }

    #[tokio::test]
    async fn one_damaged_partition_is_found_and_the_others_are_judged() {
        for verify in [Verify::All, Verify::Tail] {
            let found = judged(verify, |fake| Fake { damaged: Some(2), ..fake }).await;
            let Verification { findings, unfinished, .. } = found;
            assert_eq!((findings.acked, findings.read), (2000, 1500), "{findings:?}");
            assert_eq!((findings.lost, findings.changed), (500, 1), "{findings:?}");
            let why = unfinished.unwrap();
            assert!(why.contains("partition 2") && why.contains("crc"), "{why}");
        }
    }

    #[tokio::test]
    async fn what_catch_up_readers_did_not_get_to_is_read_back_or_left_open() {
        for is_stopped in [false, true] {
            let workload = Workload {
                topics: Topics { partitions: 4, ..Topics::default() },
                catch_up: CatchUp { bytes: Size(100_000), ..CatchUp::default() },
                verify: Verify::Tail,
                ..Workload::default()
            };
            let target = Arc::new(Target::fake(Arc::new(Fake::new(Clock::start()))));
            let (progress, stop) = (Arc::new(Progress::new()), Stop::default());
            let session = Session::open(&workload, target, progress, stop.clone()).await.unwrap();
            // No phase let them read.
            if is_stopped {
                stop.end(Ended::Interrupted);
            }
            let findings = session.judge().await.findings;
            assert!(findings.acked > 10 && findings.lost == 0, "{findings:?}");
            let (read, open) = (findings.read, findings.not_judged);
            let expected = if is_stopped { (0, findings.acked) } else { (findings.acked, 0) };
            assert_eq!((read, open), expected);
        }
    }

    #[tokio::test]
    async fn a_batch_that_is_doubled_behind_the_last_one_is_found() {
        for verify in [Verify::All, Verify::Tail] {
            let found = judged(verify, |fake| Fake { doubled: Some(1), ..fake }).await;
            let Verification { findings, unfinished, .. } = found;
            assert_eq!((findings.lost, findings.duplicated), (0, 10), "{findings:?}");
            assert_eq!(unfinished, None);
        }
    }
}
