//! Readers: at the tail, of a backlog, and of everything once more at the end. They follow the
//! chains where records are stamped.

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
use crate::workload::CatchUp;

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
}

impl Readers {
    /// Follows a partition from its start until `sent_all`, and then until everything that was
    /// acknowledged is there.
    pub async fn tail(
        self,
        number: u32,
        connection: u32,
        mut sent_all: watch::Receiver<bool>,
    ) -> Result<Tracks> {
        let mut source = self.open(number, connection).await?;
        let mut tracks = Tracks::default();
        let mut progress = tokio::time::Instant::now();
        loop {
            let bytes = tokio::select! {
                biased;
                bytes = source.next() => bytes?,
                changed = sent_all.changed() => match changed {
                    Ok(()) => Bytes::new(),
                    Err(_) => return Ok(tracks),
                },
            };
            if *sent_all.borrow() && (!self.stamped || self.log.is_complete(number, &tracks)) {
                self.take(&bytes, Some(number), &mut tracks)?;
                return Ok(tracks);
            }
            if !bytes.is_empty() {
                progress = tokio::time::Instant::now();
                self.take(&bytes, Some(number), &mut tracks)?;
            } else if *sent_all.borrow() && progress.elapsed() > QUIET_LIMIT {
                return Ok(tracks);
            }
        }
    }

    /// Reads a partition to its end.
    async fn all(&self, number: u32) -> Result<Tracks> {
        let (topic, partition) = self.log.place(number);
        let end = self.driver.end(topic, partition).await?;
        let mut tracks = Tracks::default();
        if end == 0 {
            return Ok(tracks);
        }
        let mut source = self.open_apart(number).await?;
        let mut progress = tokio::time::Instant::now();
        while source.offset() < end {
            let bytes = source.next().await?;
            if bytes.is_empty() && progress.elapsed() > QUIET_LIMIT {
                let at = source.offset();
                let why = format!("{topic} partition {partition} gives nothing at {at} of {end}");
                return Err(Error::failed(why));
            }
            if !bytes.is_empty() {
                progress = tokio::time::Instant::now();
                self.take(&bytes, None, &mut tracks)?;
            }
        }
        Ok(tracks)
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
        let mut records = 0;
        let mut broken = None;
        let whole = check_run(bytes, |at, header| {
            records += u64::from(header.last_offset_delta + 1);
            if self.stamped {
                let batch = bytes.slice(at..at + header.bytes as usize);
                broken = self.follow(&batch, header, tail, tracks).err();
            }
            broken.is_none()
        });
        let damaged = |why: String| Error::failed(format!("the target sent {why}"));
        if let Some(error) = broken {
            return Err(error);
        }
        whole.map_err(|error| damaged(error.to_string()))?;
        let bytes = bytes.len() as u64;
        if let Some(number) = tail {
            let counts = Counts { tail_records: records, tail_bytes: bytes, ..Counts::default() };
            self.recorder.moved(number, &counts);
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
            Error::failed(format!("offset {} cannot be decoded: {error}", header.base_offset))
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

    /// Reads all partitions and compares them with what was acknowledged.
    pub async fn read_back(&self, tell: impl Fn(u32)) -> Result<Findings> {
        let mut findings = Findings::default();
        let mut tasks = tokio::task::JoinSet::new();
        let count = self.log.partitions();
        let mut next = 0;
        let mut done = 0;
        while done < count {
            while next < count && tasks.len() < SIDE_BY_SIDE as usize {
                let readers = self.clone();
                let number = next;
                tasks.spawn(async move { (number, readers.all(number).await) });
                next += 1;
            }
            let Some(ended) = tasks.join_next().await else { break };
            let ended = ended.map_err(|error| Error::failed(format!("a reader ended: {error}")));
            let (number, read) = ended?;
            findings.add(&self.log.judge(number, &read?));
            done += 1;
            tell(done);
        }
        Ok(findings)
    }
}

/// Reads a backlog while `on`, once or again and again, until `on` is dropped; gives what the
/// first pass came to.
pub fn catch_up(
    readers: Readers,
    options: &CatchUp,
    on: watch::Receiver<bool>,
) -> impl Future<Output = Result<Findings>> + use<> {
    let limiter = options.limit.map(|limit| Arc::new(Limiter::new(limit.0, readers.clock)));
    read_while(readers, options.repeat, limiter, on)
}

async fn read_while(
    readers: Readers,
    repeat: bool,
    limiter: Option<Arc<Limiter>>,
    mut on: watch::Receiver<bool>,
) -> Result<Findings> {
    let count = readers.log.partitions();
    let side = count.min(SIDE_BY_SIDE);
    let findings = Arc::new(Mutex::new(Findings::default()));
    let mut tasks = tokio::task::JoinSet::new();
    for lane in 0..side {
        let (readers, on, findings) = (readers.clone(), on.clone(), findings.clone());
        let mut gate = Gate { on, limiter: limiter.clone() };
        tasks.spawn(async move {
            for pass in 0.. {
                for number in (lane..count).step_by(side as usize) {
                    let Some(read) = readers.counted(number, &mut gate).await? else {
                        return Ok(());
                    };
                    // Later passes would count the same records again.
                    if pass == 0 && readers.stamped {
                        findings.lock().add(&readers.log.judge(number, &read));
                    }
                }
                if !repeat {
                    break;
                }
            }
            Ok::<_, Error>(())
        });
    }
    loop {
        tokio::select! {
            biased;
            ended = tasks.join_next() => match ended {
                None => break,
                Some(Ok(done)) => done?,
                Some(Err(error)) => {
                    return Err(Error::failed(format!("a catch-up reader ended: {error}")));
                }
            },
            // A pass that is under way ends unjudged.
            changed = on.changed() => if changed.is_err() {
                break;
            },
        }
    }
    let findings = findings.lock().clone();
    Ok(findings)
}

/// When catch-up readers may read.
struct Gate {
    on: watch::Receiver<bool>,
    limiter: Option<Arc<Limiter>>,
}

impl Gate {
    /// False at the end of the run.
    async fn open(&mut self) -> bool {
        self.on.wait_for(|on| *on).await.is_ok()
    }

    async fn took(&self, bytes: u64) {
        if let Some(limiter) = &self.limiter {
            limiter.took(bytes).await;
        }
    }
}

/// Bytes a second, of many tasks together.
struct Limiter {
    per_second: u64,
    clock: Clock,
    /// When the next bytes are due.
    next: Mutex<u64>,
}

impl Limiter {
    fn new(per_second: u64, clock: Clock) -> Self {
        Self { per_second: per_second.max(1), clock, next: Mutex::new(0) }
    }

    async fn took(&self, bytes: u64) {
        let cost = u128::from(bytes) * 1_000_000_000 / u128::from(self.per_second);
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
    async fn counted(&self, number: u32, gate: &mut Gate) -> Result<Option<Tracks>> {
        if !gate.open().await {
            return Ok(None);
        }
        let (topic, partition) = self.log.place(number);
        let end = self.driver.end(topic, partition).await?;
        let mut tracks = Tracks::default();
        let mut source = self.open_apart(number).await?;
        while source.offset() < end {
            let bytes = source.next().await?;
            self.take(&bytes, None, &mut tracks)?;
            let catch_up_bytes = bytes.len() as u64;
            self.recorder.moved(number, &Counts { catch_up_bytes, ..Counts::default() });
            gate.took(catch_up_bytes).await;
            if !gate.open().await {
                return Ok(None);
            }
        }
        Ok(Some(tracks))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_limit_holds_for_all_tasks_together() {
        let clock = Clock::start();
        let limiter = Arc::new(Limiter::new(1_000_000, clock));
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let limiter = limiter.clone();
            tasks.spawn(async move {
                for _ in 0..5 {
                    limiter.took(10_000).await;
                }
            });
        }
        tasks.join_all().await;
        // 200 kB at 1 MB/s.
        assert!(clock.now() >= 199_000_000, "{} ns", clock.now());
    }
}
