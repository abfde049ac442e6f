//! Read-ahead of one reader: what it will ask for next, on its way before it asks.
//!
//! Nothing is fetched for the first read. A reader that goes on from where it was gets a window of
//! two chunks; each time it has to wait the window doubles, up to its share of the bound for all.
//! A reader that takes its time gets half; one that jumps, stops for [`IDLE`] or leaves gets none.
//! So the window settles at what the bucket needs to keep up with the reader.
//!
//! Bytes read ahead are held here until they are used, so the cache cannot lose them in between.
//! Does not own: fetching (`cache`).

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use levee_proto::ids::PartitionId;
use levee_proto::object::Footer;
use levee_runtime::{Host, Mono};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::cache::{ChunkId, Chunks, Coming, Urgency};
use super::footers::Footers;
use super::index::{RangeRef, RemoteIndex};

/// A reader that comes back after this long is slower than any bucket.
const SLOW: Duration = Duration::from_secs(1);
/// A reader that does not come back for this long gives back what was read ahead for it.
const IDLE: Duration = Duration::from_secs(5);
/// Ranges that one look ahead goes through: small ones share chunks.
const RANGES: usize = 64;

/// Readers without a window of their own that are known at a time.
const STRAYS: usize = 32;

/// What all readers share.
pub(crate) struct Ahead {
    pub(crate) host: Host,
    pub(crate) chunks: Arc<Chunks>,
    pub(crate) index: Arc<RemoteIndex>,
    pub(crate) footers: Arc<Footers>,
    /// Largest window of one reader.
    pub(crate) reader_bytes: u64,
    /// All windows together.
    pub(crate) total_bytes: u64,
    room: Arc<Semaphore>,
    /// Readers that have a window.
    readers: AtomicUsize,
}

/// One reader's window; ends when it is dropped.
pub struct ReadAhead {
    shared: Arc<Ahead>,
    window: Arc<Mutex<Window>>,
}

#[derive(Default)]
struct Window {
    before: Option<Before>,
    bytes: u64,
    /// In the order in which they will be asked for.
    coming: VecDeque<Prepared>,
    last_read: Mono,
    /// A task looks after a reader that stops.
    is_watched: bool,
}

/// The newest read.
struct Before {
    partition: PartitionId,
    offsets: Range<u64>,
    /// Where the next batch begins.
    object: Arc<str>,
    pos: u64,
}

struct Prepared {
    id: ChunkId,
    chunk: Coming,
    bytes: u64,
    is_used: bool,
    _room: OwnedSemaphorePermit,
}

/// A read that was answered, as far as it matters to the next one.
pub(crate) struct Answered<'a> {
    pub(crate) partition: PartitionId,
    pub(crate) place: &'a RangeRef,
    pub(crate) footer: &'a Footer,
    /// The offset asked for, and the one after the last batch.
    pub(crate) from: u64,
    pub(crate) next: u64,
    /// Where in the object the next batch begins.
    pub(crate) pos: u64,
    pub(crate) has_waited: bool,
}

impl Ahead {
    pub(crate) fn new(
        host: Host,
        chunks: Arc<Chunks>,
        index: Arc<RemoteIndex>,
        footers: Arc<Footers>,
        (reader_bytes, total_bytes): (u64, u64),
    ) -> Self {
        let room = Arc::new(Semaphore::new(total_bytes as usize));
        let readers = AtomicUsize::new(0);
        Self { host, chunks, index, footers, reader_bytes, total_bytes, room, readers }
    }

    /// Bytes that are held for readers, or on their way to them.
    pub(crate) fn held_bytes(&self) -> u64 {
        self.total_bytes - self.room.available_permits() as u64
    }

    /// Largest window now: readers that go on share the bound for all.
    fn window_max(&self) -> u64 {
        let readers = self.readers.load(Ordering::Relaxed).max(1) as u64;
        (self.total_bytes / readers).min(self.reader_bytes)
    }

    /// Chunks that follow on `pos` of a range, over the borders of objects, each with the size of
    /// its object: about `bytes` of them.
    fn plan(self: &Arc<Self>, answered: &Answered<'_>, bytes: u64) -> Vec<(ChunkId, u64)> {
        let size = self.chunks.chunk_bytes();
        let (mut plan, mut left) = (Vec::<(ChunkId, u64)>::new(), bytes);
        let (mut place, mut pos) = (answered.place.clone(), answered.pos);
        let range = answered.footer.ranges.get(place.number as usize);
        let mut end = range.map_or(pos, |range| range.pos + range.len);
        for _ in 0..RANGES {
            let numbers = if pos < end { pos / size..end.div_ceil(size) } else { 0..0 };
            for number in numbers {
                let id = ChunkId { object: place.key.clone(), number };
                if plan.last().is_none_or(|(last, _)| *last != id) {
                    left = left.saturating_sub(size);
                    plan.push((id, place.object_bytes));
                }
                if left == 0 {
                    return plan;
                }
            }
            let at = place.end;
            let Some(next) = self.index.locate(answered.partition, at) else { return plan };
            let Some(footer) = self.footers.here(&next.key) else {
                // The next look ahead has it.
                self.footers.prepare(&next.wanted());
                return plan;
            };
            let Some(range) = footer.ranges.get(next.number as usize) else { return plan };
            // The one before it may hold a part of it: these bytes are not asked for.
            pos = range.pos + u64::from(range.seek(at.max(range.base)));
            end = range.pos + range.len;
            place = next;
        }
        plan
    }
}

impl ReadAhead {
    pub(crate) fn new(shared: Arc<Ahead>) -> Self {
        Self { shared, window: Arc::default() }
    }

    /// Where in an object a reader that goes on at `offset` finds its next batch.
    pub(crate) fn place(&self, object: &str, offset: u64) -> Option<u64> {
        let window = self.window.lock();
        let before = window.before.as_ref()?;
        (before.offsets.end == offset && *before.object == *object).then_some(before.pos)
    }

    /// A chunk, if it was read ahead.
    pub(crate) fn take(&self, id: &ChunkId) -> Option<Coming> {
        let mut window = self.window.lock();
        // A failure is not kept: whoever asks now, asks anew.
        window.coming.retain(|prepared| prepared.id != *id || !prepared.chunk.has_failed());
        let prepared = window.coming.iter_mut().find(|prepared| prepared.id == *id)?;
        prepared.is_used = true;
        Some(prepared.chunk.clone())
    }

    /// Not to be given out again.
    pub(crate) fn forget(&self) {
        self.window.lock().resize(&self.shared, 0);
    }

    /// Sets the window by how the reader behaves, and has it filled.
    pub(crate) fn answered(&self, answered: &Answered<'_>) {
        let shared = &self.shared;
        let now = shared.host.now();
        let mut window = self.window.lock();
        let chunk = shared.chunks.chunk_bytes();
        let goes_on = window.is_before(answered.partition, answered.from);
        let is_slow = now.since(window.last_read) > SLOW;
        let bytes = match (goes_on, window.bytes) {
            (false, _) => 0,
            (true, 0) => 2 * chunk,
            (true, bytes) if is_slow => (bytes / 2).max(chunk),
            (true, bytes) if answered.has_waited => bytes * 2,
            (true, bytes) => bytes,
        };
        window.before = Some(Before {
            partition: answered.partition,
            offsets: answered.from..answered.next,
            object: answered.place.key.clone(),
            pos: answered.pos,
        });
        window.last_read = now;
        window.resize(shared, bytes.min(shared.window_max()));
        window.fill(shared, answered);
        if window.bytes > 0 && !std::mem::replace(&mut window.is_watched, true) {
            drop(shared.host.spawn("read-ahead", watch(shared.clone(), self.window.clone())));
        }
    }
}

/// Takes the window of a reader that has stopped.
async fn watch(shared: Arc<Ahead>, window: Arc<Mutex<Window>>) {
    loop {
        shared.host.sleep(IDLE).await;
        let mut window = window.lock();
        if shared.host.now().since(window.last_read) >= IDLE || window.bytes == 0 {
            window.resize(&shared, 0);
            window.is_watched = false;
            return;
        }
    }
}

/// Windows of readers that bring none: who asks for what follows on a read is the same reader.
#[derive(Default)]
pub(crate) struct Strays {
    windows: Mutex<VecDeque<ReadAhead>>,
}

impl Strays {
    /// The window of whoever asks for this, until it is put back.
    pub(crate) fn take(
        &self,
        shared: &Arc<Ahead>,
        partition: PartitionId,
        offset: u64,
    ) -> ReadAhead {
        let mut windows = self.windows.lock();
        let known = windows.iter().position(|w| w.window.lock().is_before(partition, offset));
        let known = known.and_then(|at| windows.remove(at));
        known.unwrap_or_else(|| ReadAhead::new(shared.clone()))
    }

    pub(crate) fn clear(&self) {
        self.windows.lock().clear();
    }

    pub(crate) fn put_back(&self, window: ReadAhead) {
        let mut windows = self.windows.lock();
        windows.push_back(window);
        if windows.len() > STRAYS {
            windows.pop_front();
        }
    }
}

impl Window {
    /// Whether a read from `offset` on goes on from the newest one. A reader need not have taken all
    /// that it was given.
    fn is_before(&self, partition: PartitionId, offset: u64) -> bool {
        self.before.as_ref().is_some_and(|before| {
            let Range { start, end } = before.offsets;
            before.partition == partition && (start + 1..=end).contains(&offset)
        })
    }

    fn resize(&mut self, shared: &Ahead, bytes: u64) {
        match (self.bytes, bytes) {
            (0, 1..) => drop(shared.readers.fetch_add(1, Ordering::Relaxed)),
            (1.., 0) => drop(shared.readers.fetch_sub(1, Ordering::Relaxed)),
            _ => {}
        }
        self.bytes = bytes;
        if bytes == 0 {
            self.coming.drain(..).for_each(|prepared| prepared.count());
        }
    }

    /// Drops what lies behind the reader, and asks for what is missing in front of it.
    fn fill(&mut self, shared: &Arc<Ahead>, answered: &Answered<'_>) {
        if self.bytes == 0 {
            return;
        }
        let plan = shared.plan(answered, self.bytes);
        let (keep, gone): (VecDeque<_>, VecDeque<_>) =
            self.coming.drain(..).partition(|p| plan.iter().any(|(id, _)| *id == p.id));
        self.coming = keep;
        gone.into_iter().for_each(|prepared| prepared.count());
        for (id, object_bytes) in plan {
            if self.coming.iter().any(|prepared| prepared.id == id) {
                continue;
            }
            let bytes = shared.chunks.chunk_bytes();
            let Ok(room) = shared.room.clone().try_acquire_many_owned(bytes as u32) else { return };
            let chunk = shared.chunks.ask(&id, object_bytes, Urgency::Ahead);
            self.coming.push_back(Prepared { id, chunk, bytes, is_used: false, _room: room });
        }
    }
}

impl Prepared {
    fn count(self) {
        let outcome = if self.is_used { "used" } else { "wasted" };
        metrics::counter!("levee_readahead_bytes_total", "outcome" => outcome)
            .increment(self.bytes);
    }
}

impl Drop for ReadAhead {
    fn drop(&mut self) {
        self.window.lock().resize(&self.shared, 0);
    }
}
