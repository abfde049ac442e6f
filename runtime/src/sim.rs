//! The simulated world: virtual time, seeded randomness, hosts that can be paused and killed, disks
//! that lose what was not synced.
//!
//! One thread, tokio's paused clock. The same seed gives the same run.

mod disk;
mod host;

use std::future::Future;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

pub use disk::{DiskFaults, SimDisk};
pub use host::SimHost;

/// One run.
#[derive(Clone)]
pub struct Sim {
    shared: Arc<Shared>,
}

struct Shared {
    seed: u64,
    rng: Mutex<Rng>,
    trace: Mutex<Vec<String>>,
    disks: Mutex<Vec<Weak<SimDisk>>>,
    start: tokio::time::Instant,
}

/// SplitMix64: small, and good enough to choose faults.
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Prints the seed and the end of the trace when a run panics.
struct Tell(Sim);

/// Lines of the trace that are shown then; `LEVEE_LINES` shows more.
const LINES_TOLD: usize = 60;

impl Drop for Tell {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let seed = self.0.shared.seed;
            let trace = self.0.shared.trace.lock();
            let lines = std::env::var("LEVEE_LINES").ok().and_then(|text| text.parse().ok());
            let from = trace.len().saturating_sub(lines.unwrap_or(LINES_TOLD));
            trace[from..].iter().for_each(|line| eprintln!("{line}"));
            eprintln!("simulation failed with seed {seed}: run it again with LEVEE_SEED={seed}");
        }
    }
}

impl Sim {
    /// Runs a scenario to its end, in virtual time.
    pub fn run<F: Future<Output = ()>>(seed: u64, scenario: impl FnOnce(Self) -> F) -> Vec<String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime of one thread");
        runtime.block_on(async {
            let shared = Shared {
                seed,
                rng: Mutex::new(Rng(seed)),
                trace: Mutex::default(),
                disks: Mutex::default(),
                start: tokio::time::Instant::now(),
            };
            let sim = Self { shared: Arc::new(shared) };
            let _tell = Tell(sim.clone());
            scenario(sim.clone()).await;
            // What a killed process leaves in memory is never looked at again, and may be much.
            sim.shared.disks.lock().iter().filter_map(Weak::upgrade).for_each(|disk| disk.end());
            std::mem::take(&mut *sim.shared.trace.lock())
        })
    }

    pub fn seed(&self) -> u64 {
        self.shared.seed
    }

    /// A new machine with an empty disk.
    pub fn host(&self, name: &str) -> SimHost {
        SimHost::new(self.clone(), name)
    }

    pub fn random(&self) -> u64 {
        self.shared.rng.lock().next()
    }

    /// A number in `0..below`.
    pub fn below(&self, below: u64) -> u64 {
        self.random() % below.max(1)
    }

    /// True once in `n` times.
    pub fn one_in(&self, n: u64) -> bool {
        n > 0 && self.below(n) == 0
    }

    /// A line of the run's trace.
    pub fn note(&self, line: impl AsRef<str>) {
        let at = self.shared.start.elapsed();
        self.shared.trace.lock().push(format!("{at:?} {}", line.as_ref()));
    }

    /// Milliseconds of virtual time since the start.
    pub fn elapsed_ms(&self) -> u64 {
        self.shared.start.elapsed().as_millis() as u64
    }
}
