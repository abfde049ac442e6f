//! One producer: sends what is due to its partitions, and takes the acks.
//!
//! Owns: the due time of each send, what is under way, and coming back after the target was away.
//! A send that is due waits for room in flight, never the other way round: it keeps its due time.

use std::collections::BTreeMap;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::watch;

use crate::clock::Clock;
use crate::driver::{Ack, Driver, Link, Shipment};
use crate::error::{Error, Result};
use crate::log::Log;
use crate::payload::{Payload, key};
use crate::recorder::{Counts, IDLE, Recorder};
use crate::schedule::{Pace, Schedule};
use crate::stamp::Stamp;
use crate::workload::{ClientKind, Keys};

/// How long a target may be away before the run counts as over.
const AWAY_LIMIT: Duration = Duration::from_secs(60);
/// How long acks are waited for after the last send.
const DRAIN_LIMIT: Duration = Duration::from_secs(60);
/// The same in a run that was stopped: somebody waits for the report.
const STOPPED_LIMIT: Duration = Duration::from_secs(5);
/// Nanoseconds in which sends that were due in a phase may still go after it.
const SPILL: u64 = 1_000_000_000;
const RETRY: Duration = Duration::from_millis(100);

/// A phase on the run's clock.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    pub phase: usize,
    pub start: u64,
    pub end: u64,
    /// Nothing: as fast as acks come.
    pub pace: Option<Pace>,
}

/// What producers of a run share.
#[derive(Clone)]
pub struct Shared {
    pub driver: Arc<dyn Driver>,
    pub log: Arc<Log>,
    pub payload: Arc<Payload>,
    pub recorder: Arc<Recorder>,
    pub clock: Clock,
    /// True: end now.
    pub stop: watch::Receiver<bool>,
    pub kind: ClientKind,
    pub stamped: bool,
    pub seed: u64,
    /// Sends end once so many bytes were sent by one producer.
    pub bytes_max: Option<u64>,
    /// Bounds of what one producer has under way.
    pub in_flight_bytes: u64,
    pub in_flight_sends: usize,
}

/// See the module.
pub struct Producer {
    shared: Shared,
    number: u32,
    connection: u32,
    /// Its partitions, taken in turn.
    partitions: Vec<u32>,
    link: Link,
    under_way: BTreeMap<u64, UnderWay>,
    under_way_bytes: u64,
    next_id: u64,
    sent_bytes: u64,
    random: StdRng,
}

struct UnderWay {
    due: u64,
    due_in: usize,
    sent: u64,
    partition: u32,
    first: u64,
    bytes: u64,
}

impl Producer {
    pub async fn open(
        shared: Shared,
        number: u32,
        connection: u32,
        partitions: Vec<u32>,
    ) -> Result<Self> {
        let link = shared.driver.link(connection, shared.kind, shared.in_flight_sends).await?;
        let random = StdRng::seed_from_u64(shared.seed.wrapping_add(u64::from(number)));
        Ok(Self {
            shared,
            number,
            connection,
            partitions,
            link,
            under_way: BTreeMap::new(),
            under_way_bytes: 0,
            next_id: 0,
            sent_bytes: 0,
            random,
        })
    }

    /// Sends what the windows ask for, and waits for the last ack.
    pub async fn run(mut self, windows: Vec<Window>) -> Result<()> {
        let done = self.send_all(&windows).await;
        self.shared.recorder.next_due(self.number, IDLE);
        let drained = match &done {
            Ok(()) => self.drain().await,
            Err(_) => Ok(()),
        };
        self.give_up("no answer within the time of the run");
        done.and(drained)
    }

    async fn send_all(&mut self, windows: &[Window]) -> Result<()> {
        for window in windows {
            let seed = self.shared.seed.wrapping_add(window.phase as u64);
            let mut schedule = window
                .pace
                .map(|pace| Schedule::new(pace, self.number, window.start, window.end, seed));
            let mut over = pin!(until(self.shared.clock, window.end + SPILL));
            let mut due = self.next_due(&mut schedule, window);
            while let Some(at) = due {
                let known = if schedule.is_some() { at } else { IDLE };
                self.shared.recorder.next_due(self.number, known);
                match self.one_step(at, over.as_mut()).await? {
                    Step::Due => self.send(at, window.phase),
                    // At full speed a send is due when there is room for it.
                    Step::Acked if schedule.is_none() => {}
                    Step::Acked => continue,
                    Step::Over if schedule.is_none() => break,
                    Step::Over => {
                        let rest = std::iter::once(at).chain(schedule.into_iter().flatten());
                        self.leave_unsent(rest, window.phase);
                        break;
                    }
                    Step::Stopped => return Ok(()),
                }
                due = self.next_due(&mut schedule, window);
            }
        }
        Ok(())
    }

    /// What could not go: at least so late, and said.
    fn leave_unsent(&self, due: impl Iterator<Item = u64>, phase: usize) {
        let now = self.shared.clock.now();
        for due in due {
            self.shared.recorder.unsent(self.number, phase, now.saturating_sub(due));
        }
    }

    fn next_due(&self, schedule: &mut Option<Schedule>, window: &Window) -> Option<u64> {
        if self.shared.bytes_max.is_some_and(|most| self.sent_bytes >= most) {
            return None;
        }
        match schedule {
            Some(schedule) => schedule.next(),
            None => {
                let now = self.shared.clock.now().max(window.start);
                (now < window.end).then_some(now)
            }
        }
    }

    async fn one_step(
        &mut self,
        due: u64,
        over: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<Step> {
        let has_room = self.under_way.is_empty()
            || (self.under_way_bytes < self.shared.in_flight_bytes
                && self.under_way.len() < self.shared.in_flight_sends);
        let clock = self.shared.clock;
        let ack = tokio::select! {
            biased;
            () = stopped(&mut self.shared.stop) => return Ok(Step::Stopped),
            ack = self.link.acks.next() => ack,
            () = over => return Ok(Step::Over),
            () = clock.until(due), if has_room => return Ok(Step::Due),
        };
        self.answered(ack).await?;
        Ok(Step::Acked)
    }

    fn send(&mut self, due: u64, phase: usize) {
        let id = self.next_id;
        let partition = self.partitions[id as usize % self.partitions.len()];
        let records = u64::from(self.shared.payload.records);
        let (batch, first) = self.batch(id as usize, partition, due);
        let (topic, place) = self.shared.log.place(partition);
        let bytes = batch.len() as u64;
        let shipment = Shipment { id, topic: topic.clone(), partition: place, batch };
        let sent = self.shared.clock.now();
        self.next_id += 1;
        self.under_way.insert(id, UnderWay { due, due_in: phase, sent, partition, first, bytes });
        self.under_way_bytes += bytes;
        self.sent_bytes += bytes;
        self.shared.log.with_ledger(partition, self.number, |ledger| ledger.sent(records));
        // Full only where the link is dead: it holds as many as may be under way. Its acks say so.
        let _ = self.link.sends.try_send(shipment);
    }

    /// The next records of a partition's chain.
    fn batch(&mut self, id: usize, partition: u32, due: u64) -> (bytes::Bytes, u64) {
        let (shared, writer) = (&self.shared, self.number);
        let (payload, keys) = (&shared.payload, shared.log.keys(partition));
        let chain = shared.log.with_ledger(partition, writer, |ledger| (ledger.sent, ledger.last));
        let (first, mut previous) = chain;
        let is_keyed = payload.keys != Keys::None && !keys.is_empty();
        if !shared.stamped && !is_keyed {
            return (payload.plain(id), first);
        }
        let (run, mut sequence, random) = (shared.log.run, first, &mut self.random);
        let batch = payload.stamped(id, |key_bytes, value| {
            if is_keyed {
                let at = match payload.keys {
                    Keys::Random => random.random_range(0..keys.len()),
                    _ => sequence as usize % keys.len(),
                };
                key_bytes.copy_from_slice(&key(keys[at]));
            }
            if shared.stamped {
                let stamp = Stamp { run, writer, sequence, due, previous, own: 0 };
                previous = stamp.write(key_bytes, value);
            }
            sequence += 1;
        });
        shared.log.with_ledger(partition, writer, |ledger| ledger.last = previous);
        (batch, first)
    }

    async fn answered(&mut self, ack: Option<Result<Ack>>) -> Result<()> {
        let now = self.shared.clock.now();
        let why = match ack {
            Some(Ok(ack)) => {
                self.acked(ack, now);
                return Ok(());
            }
            Some(Err(error)) => error.to_string(),
            None => "the target ended the stream".into(),
        };
        self.give_up(&why);
        self.come_back(&why).await
    }

    fn acked(&mut self, ack: Ack, now: u64) {
        let Some(send) = self.under_way.remove(&ack.id) else { return };
        let records = u64::from(self.shared.payload.records);
        self.under_way_bytes -= send.bytes;
        if let Some(why) = ack.refused {
            self.shared.recorder.failed(self.number, send.due_in, &why);
            self.shared.log.not_acked(send.partition, self.number, send.first, records);
            return;
        }
        let recorder = &self.shared.recorder;
        recorder.acked(self.number, send.due_in, now - send.due.min(now), now - send.sent);
        let counts = Counts { sends: 1, records, bytes: send.bytes, ..Counts::default() };
        recorder.moved(self.number, &counts);
    }

    /// The outcome of what is under way will not be known.
    fn give_up(&mut self, why: &str) {
        let lost = std::mem::take(&mut self.under_way);
        self.under_way_bytes = 0;
        let records = u64::from(self.shared.payload.records);
        for send in lost.values() {
            self.shared.recorder.failed(self.number, send.due_in, why);
            self.shared.log.not_acked(send.partition, self.number, send.first, records);
        }
    }

    async fn come_back(&mut self, why: &str) -> Result<()> {
        let until = tokio::time::Instant::now() + AWAY_LIMIT;
        let depth = self.shared.in_flight_sends;
        while tokio::time::Instant::now() < until && !*self.shared.stop.borrow() {
            tokio::time::sleep(RETRY).await;
            if let Ok(link) =
                self.shared.driver.link(self.connection, self.shared.kind, depth).await
            {
                self.link = link;
                return Ok(());
            }
        }
        match *self.shared.stop.borrow() {
            true => Ok(()),
            false => Err(Error::failed(format!("{why}, and it did not come back"))),
        }
    }

    async fn drain(&mut self) -> Result<()> {
        let limit = if *self.shared.stop.borrow() { STOPPED_LIMIT } else { DRAIN_LIMIT };
        let until = tokio::time::Instant::now() + limit;
        while !self.under_way.is_empty() {
            let next = tokio::time::timeout_at(until, self.link.acks.next()).await;
            let Ok(ack) = next else { return Ok(()) };
            self.answered(ack).await?;
        }
        Ok(())
    }
}

enum Step {
    Acked,
    Due,
    /// The phase ended long enough ago.
    Over,
    Stopped,
}

async fn until(clock: Clock, at: u64) {
    clock.until(at).await;
}

/// Waits until the run ends; for ever where nobody can end it.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    if stop.wait_for(|stop| *stop).await.is_err() {
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests;
