//! Readers: at the tail, of a backlog, and of everything once more at the end. They follow the
//! chains where records are stamped.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use levee_proto::record::batch::{BatchHeader, check_run};
use levee_proto::record::records::decode_records;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::clock::Clock;
use crate::driver::{Driver, Source};
use crate::error::{Error, Result};
use crate::log::{Log, Tracks};
use crate::recorder::{Counts, Recorder};
use crate::stamp::Stamp;
use crate::verify::Findings;

/// How long what is missing is waited for without any progress.
const QUIET_LIMIT: Duration = Duration::from_secs(30);
/// Partitions that are read back side by side.
pub const SIDE_BY_SIDE: u32 = 16;

/// What readers of a run share.
#[derive(Clone)]
pub struct Readers {
    pub driver: Arc<dyn Driver>,
    pub log: Arc<Log>,
    pub recorder: Arc<Recorder>,
    pub clock: Clock,
    pub stamped: bool,
    /// Of those that catch up or read back.
    pub first_connection: u32,
    pub connections: u32,
    /// What readers met, in words.
    pub trouble: Arc<Mutex<Vec<String>>>,
}

impl Readers {
    /// Follows a partition from its start until `sent_all`, and then to its end.
    pub async fn tail(
        self,
        number: u32,
        connection: u32,
        sent_all: watch::Receiver<bool>,
    ) -> Tracks {
        let mut tracks = Tracks::default();
        let read = self.follow_tail(number, connection, sent_all, &mut tracks).await;
        self.ended(number, read, tracks)
    }

    async fn follow_tail(
        &self,
        number: u32,
        connection: u32,
        mut sent_all: watch::Receiver<bool>,
        tracks: &mut Tracks,
    ) -> Result<()> {
        let mut source = self.open(number, connection).await?;
        loop {
            let bytes = tokio::select! {
                biased;
                bytes = source.next() => bytes?,
                _ = sent_all.changed() => break,
            };
            self.take(&bytes, Some(number), tracks)?;
        }
        // All of it: what was written twice may be behind the last record.
        self.read_to_end(number, source, Some(number), tracks).await
    }

    /// Reads a partition to its end.
    async fn all(&self, number: u32) -> Tracks {
        let mut tracks = Tracks::default();
        let read = match self.open_apart(number).await {
            Ok(source) => self.read_to_end(number, source, None, &mut tracks).await,
            Err(error) => Err(error),
        };
        self.ended(number, read, tracks)
    }

    async fn read_to_end(
        &self,
        number: u32,
        mut source: Box<dyn Source>,
        tail: Option<u32>,
        tracks: &mut Tracks,
    ) -> Result<()> {
        let (topic, partition) = self.log.place(number);
        let end = self.driver.end(topic, partition).await?;
        let mut progress = tokio::time::Instant::now();
        while source.offset() < end {
            let bytes = source.next().await?;
            if !bytes.is_empty() {
                progress = tokio::time::Instant::now();
                self.take(&bytes, tail, tracks)?;
            } else if progress.elapsed() > QUIET_LIMIT {
                let at = source.offset();
                return Err(Error::failed(format!("nothing comes at offset {at} of {end}")));
            }
        }
        Ok(())
    }

    /// One partition that cannot be read is no reason to forget the others.
    fn ended(&self, number: u32, read: Result<()>, mut tracks: Tracks) -> Tracks {
        if let Err(error) = read {
            let (topic, partition) = self.log.place(number);
            let error = error.at(format!("reading {topic} partition {partition}"));
            self.trouble.lock().push(error.to_string());
            tracks.broken = Some(error);
        }
        tracks
    }

    /// On one of the connections of catch-up readers.
    async fn open_apart(&self, number: u32) -> Result<Box<dyn Source>> {
        self.open(number, self.first_connection + number % self.connections.max(1)).await
    }

    async fn open(&self, number: u32, connection: u32) -> Result<Box<dyn Source>> {
        let (topic, partition) = self.log.place(number);
        self.driver.read(connection, topic, partition).await
    }

    /// `tail`: counts as read at the tail, by this partition's number.
    fn take(&self, bytes: &Bytes, tail: Option<u32>, tracks: &mut Tracks) -> Result<()> {
        let mut broken = None;
        let whole = check_run(bytes, |at, header| {
            if self.stamped {
                let batch = bytes.slice(at..at + header.bytes as usize);
                broken = self.follow(&batch, header, tail, tracks).err();
            }
            broken.is_none()
        });
        if let Some(error) = broken {
            return Err(error);
        }
        whole.map_err(|error| Error::wrong(format!("the target sent {error}")))?;
        if let Some(number) = tail {
            let tail_bytes = bytes.len() as u64;
            self.recorder.moved(number, &Counts { tail_bytes, ..Counts::default() });
        }
        Ok(())
    }

    fn follow(
        &self,
        batch: &Bytes,
        header: &BatchHeader,
        tail: Option<u32>,
        tracks: &mut Tracks,
    ) -> Result<()> {
        let records = decode_records(batch).map_err(|error| {
            Error::wrong(format!("offset {} cannot be decoded: {error}", header.base_offset))
        })?;
        let mut due = None;
        for record in &records {
            let value = record.data.value.as_deref().unwrap_or_default();
            let key = record.data.key.as_deref().unwrap_or_default();
            match Stamp::read(value).filter(|stamp| stamp.run == self.log.run) {
                Some(stamp) => {
                    due = due.or(Some(stamp.due));
                    let track = tracks.by_writer.entry(stamp.writer).or_default();
                    track.see(&stamp, stamp.is_intact(key, value));
                }
                None => tracks.foreign += 1,
            }
        }
        // The records of a batch were due together.
        if let (Some(number), Some(due)) = (tail, due) {
            self.recorder.arrived(number, self.clock.now().saturating_sub(due));
        }
        Ok(())
    }

    /// Reads partitions and compares them with what was acknowledged.
    pub async fn read_back(&self, partitions: &[u32], tell: impl Fn(usize)) -> Findings {
        let mut findings = Findings::default();
        let mut tasks = tokio::task::JoinSet::new();
        let mut left = partitions.iter().copied();
        let mut done = 0;
        loop {
            while tasks.len() < SIDE_BY_SIDE as usize
                && let Some(number) = left.next()
            {
                let readers = self.clone();
                tasks.spawn(async move { (number, readers.all(number).await) });
            }
            let Some(ended) = tasks.join_next().await else { break };
            match ended {
                Ok((number, tracks)) => findings.add(&self.log.judge(number, &tracks)),
                Err(error) => self.trouble.lock().push(format!("a reader ended: {error}")),
            }
            done += 1;
            tell(done);
        }
        findings
    }
}

/// What a first pass over a backlog came to.
#[derive(Default)]
pub struct FirstPass {
    pub findings: Findings,
    /// Partitions that were read to their end, or as far as they can be.
    pub judged: BTreeSet<u32>,
}

/// Reads a backlog, once or again and again, until `speed` is dropped; gives what the first pass
/// came to. `speed`: bytes a second of all readers together; nothing: they pause.
pub async fn catch_up(
    readers: Readers,
    repeat: bool,
    mut speed: watch::Receiver<Option<u64>>,
) -> FirstPass {
    let count = readers.log.partitions();
    let lanes = count.min(SIDE_BY_SIDE);
    let limiter = Arc::new(Limiter { clock: readers.clock, next: Mutex::default() });
    let first = Arc::new(Mutex::new(FirstPass::default()));
    let mut tasks = tokio::task::JoinSet::new();
    for lane in 0..lanes {
        let (readers, first) = (readers.clone(), first.clone());
        let mut gate = Gate { speed: speed.clone(), limiter: limiter.clone() };
        tasks.spawn(async move {
            for pass in 0.. {
                for number in (lane..count).step_by(lanes as usize) {
                    let Some(tracks) = readers.counted(number, &mut gate).await else { return };
                    // Later passes would count the same records again.
                    if pass == 0 && readers.stamped {
                        let mut first = first.lock();
                        first.findings.add(&readers.log.judge(number, &tracks));
                        first.judged.insert(number);
                    }
                    if tracks.broken.is_some() {
                        return;
                    }
                }
                if !repeat {
                    return;
                }
            }
        });
    }
    loop {
        tokio::select! {
            biased;
            ended = tasks.join_next() => match ended {
                None => break,
                Some(Ok(())) => {}
                Some(Err(error)) => {
                    readers.trouble.lock().push(format!("a catch-up reader ended: {error}"));
                }
            },
            // A pass that is under way ends unjudged.
            changed = speed.changed() => if changed.is_err() {
                break;
            },
        }
    }
    std::mem::take(&mut *first.lock())
}

/// When catch-up readers may read.
struct Gate {
    speed: watch::Receiver<Option<u64>>,
    limiter: Arc<Limiter>,
}

impl Gate {
    /// False at the end of the run.
    async fn open(&mut self) -> bool {
        self.speed.wait_for(Option::is_some).await.is_ok()
    }

    async fn took(&self, bytes: u64) {
        let speed = *self.speed.borrow();
        self.limiter.took(bytes, speed.unwrap_or(u64::MAX)).await;
    }
}

/// Bytes a second, of many tasks together.
struct Limiter {
    clock: Clock,
    /// When the next bytes are due.
    next: Mutex<u64>,
}

impl Limiter {
    async fn took(&self, bytes: u64, per_second: u64) {
        let cost = u128::from(bytes) * 1_000_000_000 / u128::from(per_second.max(1));
        let due = {
            let mut next = self.next.lock();
            *next = (*next).max(self.clock.now()) + cost as u64;
            *next
        };
        self.clock.until(due).await;
    }
}

impl Readers {
    /// As `all`, counted as catch-up while it goes; nothing where the run ended before.
    async fn counted(&self, number: u32, gate: &mut Gate) -> Option<Tracks> {
        let mut tracks = Tracks::default();
        let read = self.read_through(number, gate, &mut tracks).await;
        match read {
            Ok(false) => None,
            read => Some(self.ended(number, read.map(drop), tracks)),
        }
    }

    /// False where the run ended before.
    async fn read_through(
        &self,
        number: u32,
        gate: &mut Gate,
        tracks: &mut Tracks,
    ) -> Result<bool> {
        if !gate.open().await {
            return Ok(false);
        }
        let (topic, partition) = self.log.place(number);
        let end = self.driver.end(topic, partition).await?;
        let mut source = self.open_apart(number).await?;
        while source.offset() < end {
            let bytes = source.next().await?;
            self.take(&bytes, None, tracks)?;
            let catch_up_bytes = bytes.len() as u64;
            self.recorder.moved(number, &Counts { catch_up_bytes, ..Counts::default() });
            gate.took(catch_up_bytes).await;
            if !gate.open().await {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_limit_holds_for_all_tasks_together() {
        let clock = Clock::start();
        let limiter = Arc::new(Limiter { clock, next: Mutex::default() });
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let limiter = limiter.clone();
            tasks.spawn(async move {
                for _ in 0..5 {
                    limiter.took(10_000, 1_000_000).await;
                }
            });
        }
        tasks.join_all().await;
        // 200 kB at 1 MB/s.
        assert!(clock.now() >= 199_000_000, "{} ns", clock.now());
    }
}
