//! The object lane: numbered create-once slots in the bucket, completed strictly in slot order.
//!
//! Owns: gathering entries into slots, several PUTs in flight, stalling while the bucket is away.
//! Does not own: fencing another session's lane (`fence`), what references a slot later.
//!
//! ```text
//! append -> queue -> slot (linger | bytes) -> PUT if absent, up to N in flight -> complete in order
//! ```

mod slot;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use levee_hot_log::lane::{Book, Entry, Lane, LaneEnd, LaneState, Payload, Refused, Reservation};
use levee_proto::ids::LaneId;
use levee_proto::limits::FOOTER_BYTES_MAX;
use levee_proto::metalog::LaneKind;
use levee_proto::object::Footer;
use levee_runtime::{Host, Mono, Task};
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, watch};

use crate::remote::RemoteIndex;
use crate::store::{Lost, Store};
use slot::SlotPlan;

/// Settings of an object lane.
#[derive(Debug, Clone)]
pub struct ObjectLaneConfig {
    /// How long the first entry of a slot waits for company.
    pub linger: Duration,
    /// Bytes at which a slot is full; one larger entry makes a larger slot. Default 4 MiB.
    pub slot_bytes: usize,
    /// PUTs in flight. Default 8.
    pub in_flight: usize,
    /// Bytes of entries that may wait, in flight included. Default 64 MiB.
    pub queue_bytes: usize,
    /// Age of the oldest PUT at which the lane counts as stalled. Default 2 s.
    pub stalled_after: Duration,
}

impl Default for ObjectLaneConfig {
    fn default() -> Self {
        Self {
            linger: Duration::from_millis(100),
            slot_bytes: 4 << 20,
            in_flight: 8,
            queue_bytes: 64 << 20,
            stalled_after: Duration::from_secs(2),
        }
    }
}

/// Entries of one slot: keeps its footer far below what a reader takes.
const ENTRIES_MAX: usize = 1 << 16;
const _: () = assert!(ENTRIES_MAX * 256 < FOOTER_BYTES_MAX, "a slot's footer can be read");

/// See the module.
pub struct ObjectLane {
    host: Host,
    store: Store,
    /// Where its slots can be read as long as they are not trimmed.
    index: Arc<RemoteIndex>,
    id: LaneId,
    config: ObjectLaneConfig,
    queue: Mutex<Queue>,
    wake: Notify,
    /// A drain took too long: the writer must not wait for the bucket any more.
    abandoned: Notify,
    room: Arc<Semaphore>,
    state: watch::Sender<LaneState>,
    book: Mutex<Book>,
    /// First slot that is not complete.
    next_durable: AtomicU64,
    /// Committed trim, told in each slot.
    trim: AtomicU64,
}

#[derive(Default)]
struct Queue {
    entries: VecDeque<Entry>,
    bytes: usize,
    /// When the oldest queued entry came.
    since: Option<Mono>,
    closing: bool,
    ended: Option<LaneEnd>,
}

/// A slot whose PUT is under way.
struct InFlight {
    slot: u64,
    entries: Vec<Entry>,
    bytes: u64,
    footer: Footer,
    sent: Mono,
    put: Task<Result<(), Lost>>,
    /// What the store last said instead of an answer.
    trouble: Arc<Mutex<Option<String>>>,
}

/// What the writer does next.
enum Step {
    Send(Vec<Entry>),
    Landed(Option<Result<(), Lost>>),
    Tick,
    Close,
}

impl ObjectLane {
    /// A new, empty lane; `LaneOpen` is in the MetaLog already.
    pub fn open(
        host: Host,
        store: Store,
        id: LaneId,
        config: ObjectLaneConfig,
        index: Arc<RemoteIndex>,
    ) -> Arc<Self> {
        let lane = Arc::new(Self {
            room: Arc::new(Semaphore::new(config.queue_bytes)),
            queue: Mutex::default(),
            wake: Notify::new(),
            abandoned: Notify::new(),
            state: watch::Sender::new(LaneState::Open),
            book: Mutex::new(Book::new(0)),
            next_durable: AtomicU64::new(0),
            trim: AtomicU64::new(0),
            host: host.clone(),
            store,
            index,
            id,
            config,
        });
        drop(host.spawn("object-lane", lane.clone().run()));
        lane
    }

    async fn run(self: Arc<Self>) {
        let mut flying: VecDeque<InFlight> = VecDeque::new();
        let mut next_slot = 0;
        let mut prev_crc = 0;
        let why = loop {
            match self.step(&mut flying).await {
                Step::Send(entries) => {
                    let sent = self.send(next_slot, &mut prev_crc, entries);
                    flying.push_back(sent);
                    next_slot += 1;
                }
                Step::Landed(Some(Ok(()))) => {
                    let landed = flying.pop_front().expect("only the oldest PUT is waited for");
                    self.complete(landed);
                    self.judge(&flying);
                }
                Step::Landed(Some(Err(lost))) => {
                    let position = flying.front().map_or(next_slot, |f| f.slot);
                    break LaneEnd::Fenced { position, by: lost.to_string() };
                }
                Step::Landed(None) => break LaneEnd::Closed,
                Step::Tick => self.judge(&flying),
                Step::Close => break LaneEnd::Closed,
            }
        };
        flying.iter().for_each(|f| f.put.abort());
        self.end(why, flying.into_iter().flat_map(|f| f.entries).collect());
    }

    async fn step(&self, flying: &mut VecDeque<InFlight>) -> Step {
        loop {
            let woken = self.wake.notified();
            let mut wait = None;
            if flying.len() < self.config.in_flight {
                match self.take() {
                    Taken::Slot(entries) => return Step::Send(entries),
                    Taken::Later(for_) => wait = Some(for_),
                    Taken::Closed if flying.is_empty() => return Step::Close,
                    Taken::Closed | Taken::Nothing => {}
                }
            }
            let tick = flying.front().map(|_| self.config.stalled_after);
            let pause = wait.or(tick).unwrap_or(Duration::from_secs(3600));
            let paused = self.host.sleep(pause);
            tokio::select! {
                biased;
                landed = landing(flying) => return Step::Landed(landed),
                () = self.abandoned.notified() => return Step::Close,
                () = woken => {}
                () = paused => match wait {
                    Some(_) => {}
                    None => return Step::Tick,
                },
            }
        }
    }

    /// Entries of the next slot, if it is full or its first entry waited long enough.
    fn take(&self) -> Taken {
        let mut queue = self.queue.lock();
        let Some(since) = queue.since else {
            return if queue.closing { Taken::Closed } else { Taken::Nothing };
        };
        let waited = self.host.now().since(since);
        let full = queue.bytes >= self.config.slot_bytes;
        if !full && !queue.closing && waited < self.config.linger {
            return Taken::Later(self.config.linger - waited);
        }
        let mut taken = Vec::new();
        let mut bytes = 0;
        while let Some(entry) = queue.entries.front() {
            bytes += entry.payload.len();
            let full = bytes > self.config.slot_bytes || taken.len() == ENTRIES_MAX;
            if !taken.is_empty() && full {
                break;
            }
            queue.bytes -= entry.payload.len();
            taken.extend(queue.entries.pop_front());
        }
        // What is left came later than what was taken; it lingers anew.
        queue.since = (!queue.entries.is_empty()).then(|| self.host.now());
        Taken::Slot(taken)
    }

    fn send(&self, slot: u64, prev_crc: &mut u32, entries: Vec<Entry>) -> InFlight {
        let plan = SlotPlan {
            lane: self.id,
            slot,
            trim: self.trim.load(Ordering::Acquire),
            prev_crc: *prev_crc,
            nonce: levee_proto::ids::Nonce(self.host.random_u128()),
        };
        let (key, body, finished) = slot::build(&plan, &entries);
        *prev_crc = finished.trailer.body_crc;
        let (bytes, footer) = (finished.object_len, finished.footer);
        metrics::counter!("levee_wal_groups_total", "lane" => "object").increment(1);
        metrics::counter!("levee_wal_bytes_total", "lane" => "object").increment(bytes);
        let trouble: Arc<Mutex<Option<String>>> = Arc::default();
        let (store, heard) = (self.store.clone(), trouble.clone());
        let nonce = plan.nonce;
        let put = self.host.spawn("slot-put", async move {
            store
                .create_known(&key, body, nonce, |error| *heard.lock() = Some(error.to_string()))
                .await
        });
        InFlight { slot, entries, bytes, footer, sent: self.host.now(), put, trouble }
    }

    /// The one place of this lane that says "durable" (I5): the slot is Won and so are all before.
    fn complete(&self, landed: InFlight) {
        let took = self.host.now().since(landed.sent).as_secs_f64();
        metrics::histogram!("levee_wal_sync_seconds", "lane" => "object").record(took);
        self.index.add_slot(self.id, landed.slot, landed.bytes, &landed.footer);
        self.book.lock().add(landed.slot, &landed.entries);
        self.next_durable.store(landed.slot + 1, Ordering::Release);
        for entry in landed.entries {
            let hand_off = matches!(entry.payload, Payload::HandOff(_));
            entry.owner.durable(self.id, landed.slot, entry.end, hand_off);
        }
    }

    /// Stalled or open, by the age of the oldest PUT.
    fn judge(&self, flying: &VecDeque<InFlight>) {
        let now = self.host.now();
        let stalled = flying.front().filter(|f| now.since(f.sent) >= self.config.stalled_after);
        let state = match stalled {
            None => LaneState::Open,
            Some(f) => LaneState::Stalled(f.trouble.lock().clone().unwrap_or_else(|| {
                format!("no answer from the bucket for {:?}", now.since(f.sent))
            })),
        };
        self.state.send_if_modified(|old| {
            let changed = std::mem::discriminant(old) != std::mem::discriminant(&state);
            *old = state;
            changed
        });
    }

    fn end(&self, why: LaneEnd, in_hand: Vec<Entry>) {
        let queued = {
            let mut queue = self.queue.lock();
            queue.ended = Some(why.clone());
            std::mem::take(&mut queue.entries)
        };
        self.room.close();
        for entry in in_hand.into_iter().chain(queued) {
            entry.owner.failed(self.id, entry.end, &why);
        }
        self.state.send_replace(LaneState::Ended(why));
    }

    fn ended(&self) -> Refused {
        Refused::Ended(self.queue.lock().ended.clone().unwrap_or(LaneEnd::Closed))
    }
}

enum Taken {
    Slot(Vec<Entry>),
    Later(Duration),
    Nothing,
    Closed,
}

/// Waits for the oldest PUT; for ever where there is none.
async fn landing(flying: &mut VecDeque<InFlight>) -> Option<Result<(), Lost>> {
    match flying.front_mut() {
        Some(oldest) => (&mut oldest.put).await,
        None => std::future::pending().await,
    }
}

#[async_trait]
impl Lane for ObjectLane {
    fn id(&self) -> LaneId {
        self.id
    }

    fn kind(&self) -> LaneKind {
        LaneKind::Object
    }

    async fn reserve(&self, bytes: usize) -> Result<Reservation, Refused> {
        let permits = bytes.min(self.config.queue_bytes) as u32;
        let mut state = self.state.subscribe();
        let room = self.room.clone().acquire_many_owned(permits);
        tokio::select! {
            biased;
            not_open = state.wait_for(|state| !matches!(state, LaneState::Open)) => {
                match not_open.map(|state| state.clone()) {
                    Ok(LaneState::Stalled(why)) => Err(Refused::Stalled(why)),
                    _ => Err(self.ended()),
                }
            }
            permit = room => permit.map(Reservation::new).map_err(|_| self.ended()),
        }
    }

    fn append(&self, entry: Entry) -> Result<(), LaneEnd> {
        let mut queue = self.queue.lock();
        if let Some(why) = queue.ended.clone().or(queue.closing.then_some(LaneEnd::Closed)) {
            return Err(why);
        }
        queue.bytes += entry.payload.len();
        queue.since.get_or_insert_with(|| self.host.now());
        let wake = queue.entries.is_empty() || queue.bytes >= self.config.slot_bytes;
        queue.entries.push_back(entry);
        drop(queue);
        if wake {
            self.wake.notify_one();
        }
        Ok(())
    }

    fn state(&self) -> watch::Receiver<LaneState> {
        self.state.subscribe()
    }

    fn covered(&self) -> u64 {
        let next = self.next_durable.load(Ordering::Acquire);
        self.book.lock().covered(next)
    }

    fn trimmed(&self, to: u64) {
        self.trim.fetch_max(to, Ordering::AcqRel);
    }

    fn next_position(&self) -> u64 {
        self.next_durable.load(Ordering::Acquire)
    }

    async fn close(&self, drain: Duration) {
        self.queue.lock().closing = true;
        self.wake.notify_one();
        let mut state = self.state.subscribe();
        let ended = |state: &LaneState| matches!(state, LaneState::Ended(_));
        if self.host.timeout(drain, state.wait_for(ended)).await.is_err() {
            self.abandoned.notify_one();
            let _ = state.wait_for(ended).await;
        }
    }
}
