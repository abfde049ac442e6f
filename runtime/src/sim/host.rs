//! A machine: its processes can be paused, killed, and cut from power.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures::future::BoxFuture;
use parking_lot::Mutex;

use super::{Rng, Sim, SimDisk};
use crate::disk::Disk;
use crate::host::{AbortTask, Host, Mono, World};

/// Milliseconds since 1970 at which every run begins.
const EPOCH_MS: i64 = 1_800_000_000_000;

/// See the module. `start` gives a process on it; one at a time.
#[derive(Clone)]
pub struct SimHost {
    sim: Sim,
    name: Arc<str>,
    disk: Arc<SimDisk>,
    process: Arc<Mutex<Option<Arc<Process>>>>,
}

struct Process {
    sim: Sim,
    rng: Mutex<Rng>,
    disk: Arc<SimDisk>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    paused: bool,
    killed: bool,
    sleepers: Vec<Waker>,
    /// Grows when the sleepers are woken: then they must lie down again.
    woken: u64,
    /// Virtual time that went by while it was paused: its clock stood still.
    lost: Duration,
    paused_at: Option<tokio::time::Instant>,
}

impl SimHost {
    pub(super) fn new(sim: Sim, name: &str) -> Self {
        let disk = Arc::new(SimDisk::new(sim.clone(), name));
        sim.shared.disks.lock().push(Arc::downgrade(&disk));
        Self { sim, name: name.into(), disk, process: Arc::default() }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Starts a process; one that ran here before must have been killed.
    pub fn start(&self) -> Host {
        let process = Arc::new(Process {
            sim: self.sim.clone(),
            rng: Mutex::new(Rng(self.sim.random())),
            disk: self.disk.clone(),
            state: Mutex::default(),
        });
        let before = self.process.lock().replace(process.clone());
        assert!(before.is_none_or(|p| p.state.lock().killed), "one process at a time");
        Host::new(Arc::new(SimWorld { process }))
    }

    pub fn disk(&self) -> &Arc<SimDisk> {
        &self.disk
    }

    /// Nothing happens where no process was started.
    fn with(&self, change: impl FnOnce(&mut State)) {
        let Some(process) = self.process.lock().clone() else { return };
        let mut state = process.state.lock();
        change(&mut state);
        let wake: Vec<Waker> = state.sleepers.drain(..).collect();
        state.woken += 1;
        drop(state);
        wake.into_iter().for_each(Waker::wake);
    }

    /// SIGSTOP: nothing of it runs, and its clock stands still.
    pub fn pause(&self) {
        self.sim.note(format!("{} pauses", self.name));
        self.with(|state| {
            state.paused = true;
            state.paused_at = Some(tokio::time::Instant::now());
        });
    }

    pub fn resume(&self) {
        self.sim.note(format!("{} resumes", self.name));
        self.with(|state| {
            state.paused = false;
            if let Some(at) = state.paused_at.take() {
                state.lost += at.elapsed();
            }
        });
    }

    /// SIGKILL: the page cache stays.
    pub fn kill(&self) {
        self.sim.note(format!("{} is killed", self.name));
        self.with(|state| state.killed = true);
        self.disk.release();
    }

    /// SIGKILL, and every page and name that was not synced may be gone.
    pub fn power_loss(&self) {
        self.kill();
        self.sim.note(format!("{} loses power", self.name));
        self.disk.lose_unsynced();
    }

    /// A new, empty disk.
    pub fn wipe(&self) {
        self.disk.wipe();
    }
}

struct SimWorld {
    process: Arc<Process>,
}

impl World for SimWorld {
    fn now(&self) -> Mono {
        let state = self.process.state.lock();
        let standing = state.paused_at.map_or(Duration::ZERO, |at| at.elapsed());
        let run = self.process.sim.shared.start.elapsed();
        Mono(run.saturating_sub(state.lost + standing))
    }

    fn wall_ms(&self) -> i64 {
        EPOCH_MS + self.process.sim.elapsed_ms() as i64
    }

    fn sleep(&self, for_: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(for_))
    }

    fn random(&self) -> u64 {
        self.process.rng.lock().next()
    }

    fn spawn(&self, _name: &'static str, future: BoxFuture<'static, ()>) -> AbortTask {
        let gated = Gated { process: self.process.clone(), future: Some(future), asleep: None };
        let handle = tokio::spawn(gated).abort_handle();
        Box::new(move || handle.abort())
    }

    /// One thread has them all: it takes no virtual time.
    fn busy(&self, work: &mut dyn FnMut()) {
        work();
    }

    fn disk(&self) -> Arc<dyn Disk> {
        Arc::new(super::disk::ProcessDisk::new(self.process.disk.clone()))
    }
}

/// A task of a process: not polled while it is paused, gone when it is killed.
struct Gated {
    process: Arc<Process>,
    future: Option<BoxFuture<'static, ()>>,
    /// What is registered with the process, and since which waking.
    asleep: Option<(u64, Waker)>,
}

impl Future for Gated {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        {
            let process = self.process.clone();
            let mut state = process.state.lock();
            if state.killed {
                drop(state);
                self.future = None;
                return Poll::Ready(());
            }
            // Wakes it on pause, resume and kill alike.
            let known = |(woken, waker): &(u64, Waker)| {
                *woken == state.woken && waker.will_wake(cx.waker())
            };
            if !self.asleep.as_ref().is_some_and(known) {
                state.sleepers.push(cx.waker().clone());
                self.asleep = Some((state.woken, cx.waker().clone()));
            }
            if state.paused {
                return Poll::Pending;
            }
        }
        match &mut self.future {
            Some(future) => future.as_mut().poll(cx),
            None => Poll::Ready(()),
        }
    }
}
