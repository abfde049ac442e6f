//! Connections of readers, apart from those of producers: what a reader leaves lying would fill the
//! window of a shared connection, and acks would wait behind it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tonic::transport::{Channel, Endpoint};

/// Streams of one connection: a server lets a bounded number of them run side by side.
const STREAMS: u64 = 64;
/// Part of a connection's window that readers may leave full.
const FILLED: u64 = 48 << 20;

/// The connections of readers of one client, made as they are needed.
#[derive(Default)]
pub(crate) struct Seats {
    lines: Mutex<Vec<Weak<Line>>>,
}

struct Line {
    channel: Channel,
    streams: AtomicU64,
    bytes: AtomicU64,
}

/// A place on a connection for a reader with a window of so many bytes.
pub(crate) struct Seat {
    line: Arc<Line>,
    bytes: u64,
}

impl Seats {
    pub(crate) fn take(&self, endpoint: &Endpoint, bytes: u64) -> Seat {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.retain(|line| line.strong_count() > 0);
        let free = lines.iter().filter_map(Weak::upgrade).find(|line| line.has_room(bytes));
        let line = free.unwrap_or_else(|| {
            let channel = endpoint.connect_lazy();
            let line = Line { channel, streams: AtomicU64::new(0), bytes: AtomicU64::new(0) };
            let line = Arc::new(line);
            lines.push(Arc::downgrade(&line));
            line
        });
        line.streams.fetch_add(1, Ordering::Relaxed);
        line.bytes.fetch_add(bytes, Ordering::Relaxed);
        Seat { line, bytes }
    }
}

impl Line {
    fn has_room(&self, bytes: u64) -> bool {
        self.streams.load(Ordering::Relaxed) < STREAMS
            && self.bytes.load(Ordering::Relaxed).saturating_add(bytes) <= FILLED
    }
}

impl Seat {
    pub(crate) fn channel(&self) -> Channel {
        self.line.channel.clone()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.line.streams.fetch_sub(1, Ordering::Relaxed);
        self.line.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
