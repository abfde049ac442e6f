//! Ctrl-C and SIGTERM, counted: the first one asks, the second one means it.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// A command that ends by itself after the first signal has this long for it.
const GRACE: Duration = Duration::from_secs(10);

/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct Interrupt(watch::Receiver<u32>);

impl Interrupt {
    /// From now on signals do not end the process.
    pub fn listen() -> std::io::Result<Self> {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let (count, counted) = watch::channel(0);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                count.send_modify(|count| *count += 1);
            }
        });
        Ok(Self(counted))
    }

    pub async fn first(&self) {
        self.nth(1).await;
    }

    pub async fn second(&self) {
        self.nth(2).await;
    }

    /// When a command has to be over. `reports`: it knows of the first signal, and ends by itself.
    pub async fn ends(&self, reports: bool) {
        self.first().await;
        if reports {
            let _ = tokio::time::timeout(GRACE, self.second()).await;
        }
    }

    async fn nth(&self, number: u32) {
        // The sender lives as long as the runtime.
        let _ = self.0.clone().wait_for(|count| *count >= number).await;
    }
}
