//! The real world: tokio, the operating system's clock, randomness and file system.

mod disk;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::future::BoxFuture;
use rand::Rng;

pub use disk::RealDisk;

use crate::disk::Disk;
use crate::host::{AbortTask, Host, Mono, World};

/// See the module.
pub struct RealWorld {
    start: std::time::Instant,
    disk: Arc<RealDisk>,
}

impl RealWorld {
    /// The host of this process. Must be called inside a tokio runtime's life.
    pub fn host() -> Host {
        Host::new(Arc::new(Self {
            start: std::time::Instant::now(),
            disk: Arc::new(RealDisk::default()),
        }))
    }
}

impl World for RealWorld {
    fn now(&self) -> Mono {
        Mono(self.start.elapsed())
    }

    fn wall_ms(&self) -> i64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        since.as_millis() as i64
    }

    fn sleep(&self, for_: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(for_))
    }

    fn random(&self) -> u64 {
        rand::rng().next_u64()
    }

    fn spawn(&self, _name: &'static str, future: BoxFuture<'static, ()>) -> AbortTask {
        let handle = tokio::spawn(future).abort_handle();
        Box::new(move || handle.abort())
    }

    fn disk(&self) -> Arc<dyn Disk> {
        self.disk.clone()
    }
}
