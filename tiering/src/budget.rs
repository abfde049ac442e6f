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

#[cfg(test)]
mod tests {
    use levee_runtime::sim::Sim;

    use super::*;

    #[test]
    fn a_request_waits_until_those_before_it_are_paid() {
        Sim::run(1, |sim| async move {
            let host = sim.host("a").start();
            let budget = Budget::new(host.clone(), 1000, 2);
            let waited = async |bytes| {
                let before = host.now();
                budget.take(bytes).await;
                host.now().since(before).as_millis()
            };
            for _ in 0..2 {
                // Of all that time only a second is made up for.
                host.sleep(Duration::from_secs(3600)).await;
                assert_eq!(waited(1000).await, 0);
                assert_eq!(waited(5000).await, 0, "whoever takes, takes whole");
                assert_eq!(waited(0).await, 5000, "the debt of the one before");
                assert_eq!(waited(200).await, 500, "two requests in a second");
                assert_eq!(waited(2000).await, 500, "a small request is still one");
                assert_eq!(waited(1).await, 2000);
            }
        });
    }
}
