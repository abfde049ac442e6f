//! The local lane: groups written past the page cache into recycled files, synced once each.
//!
//! ```text
//! append -> queue -> gather (the one copy) -> write + fdatasync -> complete in order
//! ```
//! A lone entry is synced at once; under load a group holds what came while the disk was busy.
//!
//! Owns: the lane of one session on this disk. Does not own: its recovery (`recovery`), the trim
//! (MetaLog), and the lock of the data directory.

mod files;
pub mod recovery;
mod writer;

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use levee_proto::ids::{LaneId, SessionId};
use levee_proto::metalog::LaneKind;
use levee_runtime::Host;
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, watch};

use crate::lane::{Book, Entry, Lane, LaneEnd, LaneState, Refused, Reservation};
use files::Files;
use writer::Writer;

/// Number of a lane's first group.
pub const FIRST_GROUP: u64 = 1;

/// Settings of a local lane.
#[derive(Debug, Clone)]
pub struct LocalConfig {
    /// Size of a WAL file. Default 64 MiB.
    pub file_bytes: u64,
    /// Bytes of entries that may wait for the disk. Default 64 MiB.
    pub queue_bytes: usize,
    /// Bytes of a group; one larger entry makes a larger group. Default 4 MiB.
    pub group_bytes: usize,
    /// Longest that a completed `lazy_sync` entry stays unsynced. Default 50 ms.
    pub flush_interval: Duration,
    /// A disk that has not answered for this long makes the lane stalled. Default 5 s.
    pub stalled_after: Duration,
}

impl Default for LocalConfig {
    fn default() -> Self {
        Self {
            file_bytes: 64 << 20,
            queue_bytes: 64 << 20,
            group_bytes: 4 << 20,
            flush_interval: Duration::from_millis(50),
            stalled_after: Duration::from_secs(5),
        }
    }
}

/// See the module.
pub struct LocalLane {
    shared: Arc<Shared>,
}

/// What the lane's handle and its writer share.
struct Shared {
    host: Host,
    id: LaneId,
    config: LocalConfig,
    queue: Mutex<Queue>,
    wake: Notify,
    /// A drain took too long: the writer must not wait for the disk any more.
    abandoned: Notify,
    room: Arc<Semaphore>,
    state: watch::Sender<LaneState>,
    book: Mutex<Book>,
    files: Files,
    /// Highest group that is synced.
    synced: AtomicU64,
    /// First group that is not complete.
    next: AtomicU64,
}

#[derive(Default)]
struct Queue {
    entries: VecDeque<Entry>,
    closing: bool,
    ended: Option<LaneEnd>,
}

/// Folder of a lane's files below the WAL folder.
pub fn lane_dir_name(lane: LaneId) -> String {
    format!("{:08x}-{:08x}-{:04x}", lane.session.broker, lane.session.epoch, lane.lane)
}

/// The lane of a folder that [`lane_dir_name`] names.
pub fn lane_of_dir(name: &str) -> Option<LaneId> {
    let mut numbers = name.split('-').map(|part| u32::from_str_radix(part, 16).ok());
    let (broker, epoch, lane) = (numbers.next()??, numbers.next()??, numbers.next()??);
    let lane = LaneId { session: SessionId { broker, epoch }, lane: u16::try_from(lane).ok()? };
    (lane_dir_name(lane) == name).then_some(lane)
}

impl LocalLane {
    /// A new, empty lane below `wal_dir`; `LaneOpen` is in the MetaLog already.
    pub async fn open(
        host: Host,
        wal_dir: &Path,
        id: LaneId,
        config: LocalConfig,
    ) -> io::Result<Arc<Self>> {
        let dir = wal_dir.join(lane_dir_name(id));
        let files = Files::open(host.clone(), wal_dir, dir, config.file_bytes).await?;
        let shared = Arc::new(Shared {
            room: Arc::new(Semaphore::new(config.queue_bytes)),
            queue: Mutex::default(),
            wake: Notify::new(),
            abandoned: Notify::new(),
            state: watch::Sender::new(LaneState::Open),
            book: Mutex::new(Book::new(FIRST_GROUP)),
            files,
            synced: AtomicU64::new(0),
            next: AtomicU64::new(FIRST_GROUP),
            host: host.clone(),
            id,
            config,
        });
        drop(host.spawn("local-lane", Writer::new(shared.clone()).run()));
        Ok(Arc::new(Self { shared }))
    }

    /// Newest group that is synced: recovery must find it.
    pub fn synced(&self) -> u64 {
        self.shared.synced.load(Ordering::Acquire)
    }
}

impl Drop for LocalLane {
    /// Nobody can append any more: the writer ends, and with it its files are closed.
    fn drop(&mut self) {
        self.shared.queue.lock().closing = true;
        self.shared.wake.notify_one();
    }
}

impl Shared {
    fn ended(&self) -> Refused {
        Refused::Ended(self.queue.lock().ended.clone().unwrap_or(LaneEnd::Closed))
    }
}

#[async_trait]
impl Lane for LocalLane {
    fn id(&self) -> LaneId {
        self.shared.id
    }

    fn kind(&self) -> LaneKind {
        LaneKind::Local
    }

    async fn reserve(&self, bytes: usize) -> Result<Reservation, Refused> {
        let shared = &self.shared;
        // A batch larger than the whole room takes all of it, or it would wait for ever.
        let permits = bytes.min(shared.config.queue_bytes) as u32;
        let refuse = |state: &LaneState| match state {
            LaneState::Stalled(why) => Refused::Stalled(why.clone()),
            _ => shared.ended(),
        };
        if let not_open @ (LaneState::Stalled(_) | LaneState::Ended(_)) = &*shared.state.borrow() {
            return Err(refuse(not_open));
        }
        if let Ok(permit) = shared.room.clone().try_acquire_many_owned(permits) {
            return Ok(Reservation::new(permit));
        }
        let mut state = shared.state.subscribe();
        let room = shared.room.clone().acquire_many_owned(permits);
        tokio::select! {
            biased;
            not_open = state.wait_for(|state| !matches!(state, LaneState::Open)) => {
                Err(not_open.map_or_else(|_| shared.ended(), |state| refuse(&state)))
            }
            permit = room => permit.map(Reservation::new).map_err(|_| shared.ended()),
        }
    }

    fn append(&self, entry: Entry) -> Result<(), LaneEnd> {
        let mut queue = self.shared.queue.lock();
        if let Some(why) = queue.ended.clone().or(queue.closing.then_some(LaneEnd::Closed)) {
            return Err(why);
        }
        let wake = queue.entries.is_empty();
        queue.entries.push_back(entry);
        drop(queue);
        if wake {
            self.shared.wake.notify_one();
        }
        Ok(())
    }

    fn state(&self) -> watch::Receiver<LaneState> {
        self.shared.state.subscribe()
    }

    fn covered(&self) -> u64 {
        let next = self.shared.next.load(Ordering::Acquire);
        self.shared.book.lock().covered(next)
    }

    fn trimmed(&self, to: u64) {
        self.shared.files.recycle_below(to);
    }

    fn next_position(&self) -> u64 {
        self.shared.next.load(Ordering::Acquire)
    }

    async fn close(&self, drain: Duration) {
        self.shared.queue.lock().closing = true;
        self.shared.wake.notify_one();
        let mut state = self.shared.state.subscribe();
        let drained = async {
            let _ = state.wait_for(|state| matches!(state, LaneState::Ended(_))).await;
        };
        if self.shared.host.timeout(drain, drained).await.is_err() {
            self.shared.abandoned.notify_one();
            let mut state = self.shared.state.subscribe();
            let _ = state.wait_for(|state| matches!(state, LaneState::Ended(_))).await;
        }
    }
}
