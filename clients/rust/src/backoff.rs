//! Waiting between tries: exponential with jitter, bounded.

use std::time::Duration;

use rand::RngExt;
use tokio::time::Instant;

use crate::error::Result;

pub(crate) struct Backoff {
    next: Duration,
}

const FIRST: Duration = Duration::from_millis(20);
const MAX: Duration = Duration::from_secs(1);

impl Backoff {
    pub(crate) fn new() -> Self {
        Self { next: FIRST }
    }

    pub(crate) fn reset(&mut self) {
        self.next = FIRST;
    }

    /// Half of the present step, and a random part of the other half.
    pub(crate) fn next_delay(&mut self) -> Duration {
        let half = self.next / 2;
        let jitter = rand::rng().random_range(0..=half.as_micros() as u64);
        self.next = (self.next * 2).min(MAX);
        half + Duration::from_micros(jitter)
    }

    pub(crate) async fn wait(&mut self) {
        tokio::time::sleep(self.next_delay()).await;
    }
}

/// Asks until there is an answer that asking again cannot change, or `limit` is over.
pub(crate) async fn insist<T, F: Future<Output = Result<T>>>(
    limit: Duration,
    mut ask: impl FnMut() -> F,
) -> Result<T> {
    let (began, mut backoff) = (Instant::now(), Backoff::new());
    loop {
        match ask().await {
            Err(error) if error.retriable && began.elapsed() < limit => {
                tracing::debug!(%error, "a request is repeated");
                backoff.wait().await;
            }
            answer => return answer,
        }
    }
}
