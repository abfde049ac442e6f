//! The clock of a run: nanoseconds since its start, and waiting for one of them.

use std::time::{Duration, Instant};

use futures_timer::Delay;

#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }

    pub fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    /// Finer than tokio's timer, whose steps of a millisecond would be most of a local ack.
    pub async fn until(&self, at: u64) {
        let now = self.now();
        if at > now {
            Delay::new(Duration::from_nanos(at - now)).await;
        }
    }
}
