//! What upkeep may take of the bucket: bytes and requests per second, for all its work together.

use std::time::Duration;

use levee_runtime::{Host, Mono};
use parking_lot::Mutex;

/// A token bucket that goes into debt: who takes, takes whole, and waits until it is paid.
pub struct Budget {
    host: Host,
    bytes_per_second: u64,
    requests_per_second: u64,
    /// When everything taken so far is paid.
    paid_at: Mutex<Mono>,
}

/// Unused time that may be made up for.
const BURST: Duration = Duration::from_secs(1);

impl Budget {
    pub fn new(host: Host, bytes_per_second: u64, requests_per_second: u64) -> Self {
        Self { host, bytes_per_second, requests_per_second, paid_at: Mutex::default() }
    }

    /// Takes one request of `bytes`; returns when it may be sent.
    pub async fn take(&self, bytes: u64) {
        let wait = self.charge(bytes);
        if !wait.is_zero() {
            self.host.sleep(wait).await;
        }
    }

    /// How long `bytes` take at most, in requests of at least `request_bytes`, where others take
    /// as much.
    pub fn patience(&self, bytes: u64, request_bytes: u64) -> Duration {
        let seconds = bytes.div_ceil(self.bytes_per_second.max(1))
            + bytes.div_ceil(request_bytes.max(1)).div_ceil(self.requests_per_second.max(1));
        Duration::from_secs(seconds.saturating_mul(4))
    }

    /// How long to wait before the request is sent.
    fn charge(&self, bytes: u64) -> Duration {
        let by_bytes = bytes as f64 / self.bytes_per_second.max(1) as f64;
        let by_requests = 1.0 / self.requests_per_second.max(1) as f64;
        let cost = Duration::from_secs_f64(by_bytes.max(by_requests));
        let now = self.host.now();
        let mut paid_at = self.paid_at.lock();
        // Before the debt of this one: the first of a burst does not wait.
        let start = (*paid_at).max(Mono(now.0.saturating_sub(BURST)));
        *paid_at = start + cost;
        start.since(now)
    }
}
