//! Waiting between tries: exponential, with jitter, with an upper bound.

use std::time::Duration;

use crate::host::Host;

/// Delays of one series of tries: each up to twice the last, never above `max`, and a random
/// half of it so that many waiters spread.
#[derive(Debug, Clone)]
pub struct Backoff {
    next: Duration,
    max: Duration,
}

impl Backoff {
    pub fn new(first: Duration, max: Duration) -> Self {
        Self { next: first, max }
    }

    /// How long to wait now.
    pub fn next_delay(&mut self, host: &Host) -> Duration {
        let full = self.next.min(self.max);
        self.next = (full * 2).min(self.max);
        let half = full / 2;
        let jitter = host.random_below(half.as_micros().max(1) as u64);
        half + Duration::from_micros(jitter)
    }

    pub async fn wait(&mut self, host: &Host) {
        let delay = self.next_delay(host);
        host.sleep(delay).await;
    }
}
