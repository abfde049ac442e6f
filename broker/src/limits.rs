//! Admission: what an append must pass before it may take an offset.
//!
//! Owns: the upload lag contract per topic, the bound on memory, the reserve of the disk. Does not
//! own: measuring them (the keeper does, ten times a second).

use std::collections::BTreeSet;
use std::time::Duration;

use levee_proto::ids::TopicId;
use levee_runtime::Host;
use parking_lot::RwLock;
use tokio::sync::watch;

use crate::config::{BrokerConfig, LagPolicy, TopicConfig};
use crate::error::{Error, Result};

/// What is at its bound now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pressure {
    /// Topics whose upload lag is above `upload.lag.max.bytes`.
    pub lagging: BTreeSet<TopicId>,
    /// Memory for tails is full and the disk is slower than the appends.
    pub tails_full: bool,
    /// Free bytes, where that is below the reserve.
    pub disk_free: Option<u64>,
}

#[derive(Default)]
pub struct Limits {
    pressure: RwLock<Pressure>,
    changed: watch::Sender<()>,
}

impl Limits {
    pub fn set(&self, pressure: Pressure) {
        if *self.pressure.read() != pressure {
            *self.pressure.write() = pressure;
            self.changed.send_replace(());
        }
    }

    pub fn pressure(&self) -> Pressure {
        self.pressure.read().clone()
    }

    /// Lets an append pass, or waits up to `limit`, or refuses it; nothing is written then.
    pub async fn admit(
        &self,
        host: &Host,
        config: &BrokerConfig,
        topic: (&str, TopicId),
        settings: &TopicConfig,
        limit: Duration,
    ) -> Result<()> {
        if self.verdict(config, topic, settings).is_ok() {
            return Ok(());
        }
        let mut changed = self.changed.subscribe();
        let waited = host.timeout(limit, async {
            loop {
                match self.verdict(config, topic, settings) {
                    Err((error, true)) => {
                        if changed.changed().await.is_err() {
                            return Err(error);
                        }
                    }
                    Err((error, false)) => return Err(error),
                    Ok(()) => return Ok(()),
                }
            }
        });
        match waited.await {
            Ok(verdict) => verdict,
            Err(_) => match self.verdict(config, topic, settings) {
                Err((error, _)) => Err(error),
                Ok(()) => Ok(()),
            },
        }
    }

    /// Why not, and whether waiting is what was asked for.
    fn verdict(
        &self,
        config: &BrokerConfig,
        (name, topic): (&str, TopicId),
        settings: &TopicConfig,
    ) -> std::result::Result<(), (Error, bool)> {
        let pressure = self.pressure.read();
        if let Some(free) = pressure.disk_free {
            return Err((Error::disk_full(free, config.disk_reserve_bytes), false));
        }
        if pressure.tails_full {
            let what = "memory for the newest records (tail.bytes) is full: the disk, or the bucket \
                        for many small batches, is too slow";
            return Err((Error::overloaded(what), true));
        }
        if pressure.lagging.contains(&topic) {
            let what = format!("the upload lag of topic {name:?} is above upload.lag.max.bytes");
            let waits = settings.upload_lag_policy == LagPolicy::Block;
            return Err((Error::overloaded(what), waits));
        }
        Ok(())
    }
}
