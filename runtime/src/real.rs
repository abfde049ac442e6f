//! The real world: tokio, the operating system's clock, randomness and file system.

mod disk;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::future::BoxFuture;
use rand::Rng;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::Semaphore;

pub use disk::RealDisk;

use crate::disk::Disk;
use crate::host::{AbortTask, Host, Mono, World};

/// Threads beside the usual ones: each may hold as much memory as its work takes.
const BUSY_MAX: usize = 4;

/// See the module.
pub struct RealWorld {
    start: std::time::Instant,
    busy: Semaphore,
    disk: Arc<RealDisk>,
}

impl RealWorld {
    /// The host of this process. Must be called inside a tokio runtime's life.
    pub fn host() -> Host {
        Host::new(Arc::new(Self {
            start: std::time::Instant::now(),
            busy: Semaphore::new(BUSY_MAX),
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

    fn busy(&self, work: &mut dyn FnMut()) {
        let flavor = Handle::try_current().map(|handle| handle.runtime_flavor());
        match (flavor, self.busy.try_acquire()) {
            (Ok(RuntimeFlavor::MultiThread), Ok(_turn)) => tokio::task::block_in_place(work),
            // There are no other threads that could go on, or enough of them.
            _ => work(),
        }
    }

    fn disk(&self) -> Arc<dyn Disk> {
        self.disk.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// One thread, two tasks: the second runs while the first is busy.
    #[test]
    fn others_go_on_while_a_task_is_busy() {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).enable_all().build().unwrap();
        let (send, receive) = mpsc::channel();
        let first = runtime.spawn(async move {
            let host = RealWorld::host();
            let second = host.spawn("second", async move { send.send(7).unwrap() });
            let got = host.busy(|| receive.recv_timeout(Duration::from_secs(20)));
            assert_eq!(second.await, Some(()));
            got
        });
        assert_eq!(runtime.block_on(first).unwrap(), Ok(7));
    }

    #[tokio::test]
    async fn one_thread_alone_does_it_at_once() {
        assert_eq!(RealWorld::host().busy(|| 7), 7);
    }
}
