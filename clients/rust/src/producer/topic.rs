//! The partitions of one topic, and which of them a record without one goes to.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use levee_proto::record::records::RecordData;
use parking_lot::{Mutex, RwLock};
use rand::RngExt;
use tokio::time::Instant;

use super::lane::Lane;
use super::together::Together;
use super::{ProducerConfig, size};
use crate::connection::Client;
use crate::error::{Error, Result};
use crate::partitioner::by_key;

/// Partitions may be added to a topic: how old the knowledge of their number may be.
const COUNT_AGE: Duration = Duration::from_secs(300);

pub(super) struct Topic {
    name: Arc<str>,
    together: Option<Arc<Together>>,
    lanes: RwLock<BTreeMap<u32, Arc<Lane>>>,
    /// How many partitions there are, and since when that is known.
    count: Mutex<Option<(u32, Instant)>>,
    turn: Mutex<Turn>,
}

/// Records without a key fill one partition's batch before the next one's (Kafka, KIP-794).
#[derive(Default)]
struct Turn {
    partition: Option<u32>,
    bytes: usize,
}

impl Topic {
    pub(super) fn new(name: &str, together: Option<Arc<Together>>) -> Self {
        let (lanes, count, turn) = (RwLock::default(), Mutex::default(), Mutex::default());
        Self { name: name.into(), together, lanes, count, turn }
    }

    pub(super) fn lane(
        &self,
        partition: u32,
        start: impl FnOnce(Arc<Lane>),
        config: &Arc<ProducerConfig>,
    ) -> Arc<Lane> {
        if let Some(known) = self.lanes.read().get(&partition) {
            return known.clone();
        }
        let mut lanes = self.lanes.write();
        let lane = lanes.entry(partition).or_insert_with(|| {
            let (name, together) = (self.name.clone(), self.together.clone());
            let lane = Arc::new(Lane::new(name, partition, config.clone(), together));
            start(lane.clone());
            lane
        });
        lane.clone()
    }

    pub(super) fn lanes(&self) -> Vec<Arc<Lane>> {
        self.lanes.read().values().cloned().collect()
    }

    pub(super) async fn choose(
        &self,
        client: &Client,
        record: &RecordData,
        batch_bytes: usize,
    ) -> Result<u32> {
        let count = self.partitions(client).await?;
        Ok(match &record.key {
            Some(key) => by_key(key, count),
            None => self.in_turn(count, size(record), batch_bytes),
        })
    }

    fn in_turn(&self, count: u32, bytes: usize, batch_bytes: usize) -> u32 {
        let mut turn = self.turn.lock();
        let present = match turn.partition {
            Some(partition) if turn.bytes < batch_bytes => partition % count,
            Some(partition) => (partition + 1) % count,
            // Many producers that begin together spread.
            None => rand::rng().random_range(0..count),
        };
        if turn.partition != Some(present) || turn.bytes >= batch_bytes {
            turn.bytes = 0;
        }
        turn.partition = Some(present);
        turn.bytes += bytes;
        present
    }

    async fn partitions(&self, client: &Client) -> Result<u32> {
        let known = *self.count.lock();
        let stale = match known {
            Some((count, since)) if since.elapsed() < COUNT_AGE => return Ok(count),
            stale => stale,
        };
        match client.partitions(&self.name).await {
            Ok(0) => Err(Error::invalid(format!("topic {:?} has no partitions", self.name))),
            Ok(count) => {
                *self.count.lock() = Some((count, Instant::now()));
                Ok(count)
            }
            // The number only grows: an old one is still good for a while.
            Err(error) if error.retriable && stale.is_some() => {
                Ok(stale.map_or(1, |(count, _)| count))
            }
            Err(error) => Err(error),
        }
    }
}
