//! Connections of readers, apart from those of producers: what a reader leaves lying would fill the
//! window of a shared connection, and acks would wait behind it.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tonic::transport::{Channel, Endpoint};

use crate::connection::{CONNECTION_WINDOW, STREAM_WINDOW};

/// Readers of one connection: as many as its window has place for, whatever they leave lying.
const READERS: u32 = CONNECTION_WINDOW / STREAM_WINDOW;

/// The connections of readers of one client, made as they are needed.
#[derive(Default)]
pub(crate) struct Seats {
    lines: Mutex<Vec<Weak<Line>>>,
}

struct Line {
    channel: Channel,
    readers: AtomicU32,
}

/// A place on a connection for a reader.
pub(crate) struct Seat {
    line: Arc<Line>,
}

impl Seats {
    pub(crate) fn take(&self, endpoint: &Endpoint) -> Seat {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.retain(|line| line.strong_count() > 0);
        let has_place = |line: &Arc<Line>| line.readers.load(Ordering::Relaxed) < READERS;
        let line = lines.iter().filter_map(Weak::upgrade).find(has_place).unwrap_or_else(|| {
            let (channel, readers) = (endpoint.connect_lazy(), AtomicU32::new(0));
            let line = Arc::new(Line { channel, readers });
            lines.push(Arc::downgrade(&line));
            line
        });
        line.readers.fetch_add(1, Ordering::Relaxed);
        Seat { line }
    }
}

impl Seat {
    pub(crate) fn channel(&self) -> Channel {
        self.line.channel.clone()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.line.readers.fetch_sub(1, Ordering::Relaxed);
    }
}
