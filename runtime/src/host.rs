//! One process as the rest of Levee sees it.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::oneshot;

use crate::disk::Disk;

/// Time since an arbitrary start, of this host's own clock: it stands still while the host is
/// paused, it never goes back. Good for delays, never for safety.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Mono(pub Duration);

impl Mono {
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl std::ops::Add<Duration> for Mono {
    type Output = Self;
    fn add(self, by: Duration) -> Self {
        Self(self.0 + by)
    }
}

/// What a process needs of the machine it runs on.
pub trait World: Send + Sync {
    fn now(&self) -> Mono;
    /// Milliseconds since 1970, as this host believes; may jump. For timestamps and people.
    fn wall_ms(&self) -> i64;
    fn sleep(&self, for_: Duration) -> BoxFuture<'static, ()>;
    fn random(&self) -> u64;
    /// Runs a future until it ends, is aborted, or the host dies.
    fn spawn(&self, name: &'static str, future: BoxFuture<'static, ()>) -> AbortTask;
    /// See [`Host::busy`]. Runs it once.
    fn busy(&self, work: &mut dyn FnMut());
    fn disk(&self) -> Arc<dyn Disk>;
}

/// Stops a task; harmless once it has ended.
pub type AbortTask = Box<dyn Fn() + Send + Sync>;

/// A cheap handle on the world of one process.
#[derive(Clone)]
pub struct Host {
    world: Arc<dyn World>,
}

/// A deadline passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Elapsed;

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("deadline passed")
    }
}

impl std::error::Error for Elapsed {}

impl Host {
    pub fn new(world: Arc<dyn World>) -> Self {
        Self { world }
    }

    pub fn now(&self) -> Mono {
        self.world.now()
    }

    pub fn wall_ms(&self) -> i64 {
        self.world.wall_ms()
    }

    pub async fn sleep(&self, for_: Duration) {
        self.world.sleep(for_).await;
    }

    pub async fn timeout<F: Future>(
        &self,
        limit: Duration,
        future: F,
    ) -> Result<F::Output, Elapsed> {
        let sleep = self.world.sleep(limit);
        tokio::pin!(future);
        tokio::select! {
            biased;
            out = &mut future => Ok(out),
            () = sleep => Err(Elapsed),
        }
    }

    pub fn random_u64(&self) -> u64 {
        self.world.random()
    }

    pub fn random_u128(&self) -> u128 {
        (u128::from(self.world.random()) << 64) | u128::from(self.world.random())
    }

    /// A number in `0..below`.
    pub fn random_below(&self, below: u64) -> u64 {
        assert!(below > 0, "an empty range has no numbers");
        ((u128::from(self.world.random()) * u128::from(below)) >> 64) as u64
    }

    /// Work that keeps a processor for long without waiting for anything: it is done when this
    /// returns, so it changes no order, and the other tasks of this thread go on elsewhere meanwhile.
    pub fn busy<T>(&self, work: impl FnOnce() -> T) -> T {
        let (mut work, mut out) = (Some(work), None);
        self.world.busy(&mut || out = work.take().map(|work| work()));
        out.expect("a world runs it once")
    }

    pub fn disk(&self) -> Arc<dyn Disk> {
        self.world.disk()
    }

    /// Runs `future` beside the caller. Dropping the task detaches it; see [`Task::abort`].
    pub fn spawn<F>(&self, name: &'static str, future: F) -> Task<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let (done, result) = oneshot::channel();
        let abort = self.world.spawn(
            name,
            Box::pin(async move {
                let _ = done.send(future.await);
            }),
        );
        Task { name, abort, result }
    }
}

/// A running task. Awaiting it gives its output, or `None` where it was aborted or panicked.
pub struct Task<T> {
    name: &'static str,
    abort: AbortTask,
    result: oneshot::Receiver<T>,
}

impl<T> Task<T> {
    pub fn name(&self) -> &'static str {
        self.name
    }

    pub fn abort(&self) {
        (self.abort)();
    }
}

impl<T> Future for Task<T> {
    type Output = Option<T>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.result).poll(cx).map(Result::ok)
    }
}
