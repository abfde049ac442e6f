//! The controller: the one writer of the MetaLog.
//!
//! Owns: one slot in flight, answers only after it is Won (I2), idle slots, snapshots, the garbage
//! boundary. Does not own: what a request means (`decide`), bytes of the log (`levee-tiering`).

use std::collections::BTreeMap;
use std::time::Duration;

use futures::FutureExt;
use levee_proto::ids::SessionId;
use levee_proto::limits::METALOG_SLOT_BYTES_MAX;
use levee_proto::metalog::{LaneTrim, Record, Resign, SessionBeat, SessionFencing, Slot};
use levee_runtime::{Host, Mono, Task};
use levee_tiering::metalog::{Known, MetaLog, MetaState};
use tokio::sync::{mpsc, oneshot};

use super::decide::{Given, decide};
use super::message::{Answer, Beat, Committed, Envelope, Request};
use crate::error::Error;

/// An idle controller still writes a slot this often: its heartbeat.
const IDLE_SLOT: Duration = Duration::from_secs(1);
/// A session that was not heard of for so long is fenced.
const SESSION_TTL: Duration = Duration::from_secs(6);
/// The same before its first beat: it makes its lanes, and a disk may be slow.
const OPENING_TTL: Duration = Duration::from_secs(60);
/// How long after it sent its newest slot a controller says that a session is alive (I20).
const ANSWERS_FOR: Duration = Duration::from_secs(3);
/// Requests of one slot; more wait for the next.
const REQUESTS_PER_SLOT: usize = 512;
/// Bytes of records at which a slot takes no further request.
const SLOT_BYTES: usize = 1 << 20;
/// Largest request; with a full slot before it and the housekeeping behind it, every reader still
/// takes the slot.
const REQUEST_BYTES_MAX: usize = METALOG_SLOT_BYTES_MAX - (2 << 20);

/// Settings of the controller.
#[derive(Debug, Clone)]
pub struct ControllerConfig {
    pub broker: u32,
    pub snapshot_interval: Duration,
    pub snapshot_bytes: u64,
    /// How long slots stay readable one by one.
    pub retain: Duration,
}

/// A slot that is Won, on its way to every broker.
pub type Push = (Slot, u32);

/// Why the controller stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deposed {
    /// Another process wrote the slot that was ours to write.
    Lost(String),
    /// It resigned on request.
    Resigned,
    /// Every broker of this process is gone.
    Unwatched,
}

/// See the module.
pub struct Controller {
    host: Host,
    log: MetaLog,
    /// With the records of the slot in flight folded in.
    state: MetaState,
    config: ControllerConfig,
    inbox: mpsc::Receiver<Envelope>,
    pushes: mpsc::Sender<Push>,
    beats: BTreeMap<SessionId, (Mono, Beat)>,
    /// When sessions were opened that sent no beat yet.
    opened: BTreeMap<SessionId, Mono>,
    /// Silence of sessions counts from here at the earliest.
    started: Mono,
    /// When it last looked for silent sessions.
    looked: Mono,
    /// When the newest slot was sent: until then, nobody else was the controller.
    sent: Mono,
    snapshot_at: Mono,
    bytes_since_snapshot: u64,
    /// The newest snapshot and collection.
    upkeep: Option<Task<()>>,
}

/// Bytes of records in a slot.
fn size(records: &[Record]) -> usize {
    let mut bytes = bytes::BytesMut::new();
    records.iter().for_each(|record| record.put(&mut bytes));
    bytes.len()
}

/// Who waits for this slot. A refusal waits as well: it may rest on a record in front of it.
struct Pending {
    reply: oneshot::Sender<Committed>,
    answer: Result<Answer, Error>,
}

impl Controller {
    /// `state` is what `become_controller` returned.
    pub fn new(
        host: Host,
        log: MetaLog,
        state: MetaState,
        config: ControllerConfig,
        inbox: mpsc::Receiver<Envelope>,
        pushes: mpsc::Sender<Push>,
    ) -> Self {
        let now = host.now();
        Self {
            host,
            log,
            state,
            config,
            inbox,
            pushes,
            beats: BTreeMap::new(),
            opened: BTreeMap::new(),
            started: now,
            looked: now,
            sent: now,
            snapshot_at: now,
            bytes_since_snapshot: 0,
            upkeep: None,
        }
    }

    /// Serves until deposed, or until `resign` is told.
    pub async fn run(mut self, mut resign: oneshot::Receiver<()>) -> Deposed {
        loop {
            let idle = self.host.sleep(IDLE_SLOT.saturating_sub(self.host.now().since(self.sent)));
            let first = tokio::select! {
                biased;
                _ = &mut resign => return self.resign().await,
                first = self.inbox.recv() => match first {
                    Some(first) => Some(first),
                    None => return Deposed::Unwatched,
                },
                () = idle => None,
            };
            let (mut records, pending) = self.gather(first);
            let idle = self.host.now().since(self.sent) >= IDLE_SLOT;
            if records.is_empty() && !idle {
                // What changes nothing is answered from what is committed.
                self.answer(pending, self.state.head);
                continue;
            }
            records.extend(self.housekeeping());
            if let Err(deposed) = self.commit(records, pending).await {
                return deposed;
            }
            self.maintain();
        }
    }

    /// Decides requests one after the other, each on the state that the ones before it made.
    fn gather(&mut self, first: Option<Envelope>) -> (Vec<Record>, Vec<Pending>) {
        let (mut records, mut pending) = (Vec::new(), Vec::new());
        let mut next = first;
        let (mut count, mut bytes) = (0, 0);
        while let Some(Envelope { request, reply }) = next {
            // Nobody waits for it any more, so nobody would know of what it did.
            if !reply.is_closed() {
                let answer = self.admit(request).map(|(more, answer)| {
                    bytes += size(&more);
                    records.extend(more);
                    answer
                });
                pending.push(Pending { reply, answer });
            }
            count += 1;
            let room = count < REQUESTS_PER_SLOT && bytes < SLOT_BYTES;
            next = if room { self.inbox.try_recv().ok() } else { None };
        }
        (records, pending)
    }

    fn admit(&mut self, request: Request) -> Result<(Vec<Record>, Answer), Error> {
        if let Request::Beat(beat) = request {
            if !self.state.is_open(beat.session) {
                return Err(Error::session_ended(format!("session {} is fenced", beat.session)));
            }
            let now = self.host.now();
            self.opened.remove(&beat.session);
            self.beats.insert(beat.session, (now, beat));
            return match now.since(self.sent) < ANSWERS_FOR {
                true => Ok((Vec::new(), Answer::Done)),
                false => Err(Error::store_unavailable("the metadata log stands still")),
            };
        }
        let given = Given { wall_ms: self.host.wall_ms(), random: self.host.random_u128() };
        let (records, answer) = decide(&self.state, &request, &given)?;
        let bytes = size(&records);
        if bytes > REQUEST_BYTES_MAX {
            let why = format!("{bytes} bytes of metadata at once, the most is {REQUEST_BYTES_MAX}");
            return Err(Error::invalid_argument(why));
        }
        self.fold(&records)?;
        if let Answer::Session(session) = answer {
            self.opened.insert(session, self.host.now());
        }
        Ok((records, answer))
    }

    /// All records or none.
    fn fold(&mut self, records: &[Record]) -> Result<(), Error> {
        let slot = self.state.head + 1;
        let refused =
            |error: levee_tiering::metalog::FoldError| Error::invalid_argument(error.to_string());
        if let [one] = records {
            return self.state.apply(slot, one).map_err(refused);
        }
        let mut trial = self.state.clone();
        for record in records {
            trial.apply(slot, record).map_err(refused)?;
        }
        self.state = trial;
        Ok(())
    }

    /// Beats, trims, and sessions that fell silent; each record on its own.
    fn housekeeping(&mut self) -> Vec<Record> {
        let now = self.host.now();
        // After a pause of its own it has heard nobody: that says nothing about them.
        if now.since(std::mem::replace(&mut self.looked, now)) >= SESSION_TTL / 2 {
            self.started = now;
        }
        self.beats.retain(|session, _| self.state.is_open(*session));
        self.opened.retain(|session, _| self.state.is_open(*session));
        let mut wanted: Vec<Record> = Vec::new();
        for (_, beat) in self.beats.values() {
            wanted.push(
                SessionBeat {
                    session: beat.session,
                    synced: beat.synced.clone(),
                    upload_floor: beat.upload_floor,
                }
                .into(),
            );
            for (lane, trim) in &beat.covered {
                let committed = self.state.lanes.get(lane).map_or(0, |l| l.trim);
                if *trim > committed {
                    wanted.push(LaneTrim { lane: *lane, trim: *trim }.into());
                }
            }
        }
        for session in self.state.sessions.values() {
            let beat = self.beats.get(&session.id).map(|(at, _)| *at);
            let opened = self.opened.get(&session.id).copied();
            let ttl = if opened.is_some() { OPENING_TTL } else { SESSION_TTL };
            let heard = beat.or(opened).unwrap_or(self.started).max(self.started);
            if self.state.is_open(session.id) && now.since(heard) > ttl {
                let reason = format!("silent for {:?}", now.since(heard));
                let (session, rid) = (session.id, session.rid + 1);
                wanted.push(SessionFencing { session, rid, reason }.into());
            }
        }
        let slot = self.state.head + 1;
        wanted.retain(|record| match self.state.apply(slot, record) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(%error, "left out of the slot");
                false
            }
        });
        wanted
    }

    /// Writes the slot and says what is in it only after it is Won.
    async fn commit(&mut self, records: Vec<Record>, pending: Vec<Pending>) -> Result<(), Deposed> {
        let slot = self.log.next_slot(&self.state, self.state.term, self.config.broker, records);
        self.sent = self.host.now();
        let mut told = false;
        let written = self.log.write(&slot, |error| {
            if !std::mem::replace(&mut told, true) {
                tracing::warn!(%error, slot = slot.slot, "metalog: the bucket gives no answer");
            }
        });
        let written = written.await;
        let crc = match written {
            Ok(crc) => crc,
            Err(lost) => {
                let why = Error::session_ended(format!("another controller took over: {lost}"));
                pending.into_iter().for_each(|p| drop(p.reply.send(Err(why.clone()))));
                return Err(Deposed::Lost(lost.to_string()));
            }
        };
        self.state.head = slot.slot;
        self.state.chain_crc = crc;
        self.bytes_since_snapshot += slot.encode().0.len() as u64;
        let number = slot.slot;
        if self.pushes.send((slot, crc)).await.is_err() {
            return Err(Deposed::Unwatched);
        }
        self.answer(pending, number);
        Ok(())
    }

    fn answer(&self, pending: Vec<Pending>, slot: u64) {
        for Pending { reply, answer } in pending {
            let _ = reply.send(answer.map(|answer| (slot, answer)));
        }
    }

    /// Snapshot and garbage boundary when they are due; a failure is tried again later. Beside the
    /// log: whatever it takes, the next slot does not wait for it.
    fn maintain(&mut self) {
        let now = self.host.now();
        let due = now.since(self.snapshot_at) >= self.config.snapshot_interval
            || self.bytes_since_snapshot >= self.config.snapshot_bytes;
        if !due {
            return;
        }
        if let Some(mut running) = self.upkeep.take()
            && (&mut running).now_or_never().is_none()
        {
            self.upkeep = Some(running);
            return;
        }
        self.snapshot_at = now;
        self.bytes_since_snapshot = 0;
        let (log, state) = (self.log.clone(), self.state.clone());
        let (broker, retain) = (self.config.broker, self.config.retain);
        self.upkeep = Some(self.host.spawn("metalog-upkeep", async move {
            if let Err(error) = log.write_snapshot(&state, broker).await {
                tracing::warn!(%error, "metalog snapshot not written");
                return;
            }
            match log.collect(&Known::of(&state, broker), retain).await {
                Ok(0) => {}
                Ok(slots) => tracing::debug!(slots, "metalog slots collected"),
                Err(error) => tracing::warn!(%error, "metalog not collected"),
            }
        }));
    }

    /// The last slot of this controller: anybody may claim at once.
    async fn resign(mut self) -> Deposed {
        let record: Record = Resign { term: self.state.term }.into();
        if self.fold(std::slice::from_ref(&record)).is_ok()
            && self.commit(vec![record], Vec::new()).await.is_ok()
            && let Err(error) = self.log.write_snapshot(&self.state, self.config.broker).await
        {
            tracing::warn!(%error, "no snapshot at the end");
        }
        Deposed::Resigned
    }
}
