//! The keepers of memory and disk. Ten times a second one measures and says what is at its bound;
//! it waits for nothing. The other one moves tails to hot segments and drops hot copies that are in
//! the bucket, as fast as the disk lets it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use levee_hot_log::lane::LaneState;
use levee_proto::ids::TopicId;

use crate::limits::Pressure;
use crate::node::{Lanes, Node};
use crate::partition::Partition;

const EVERY: Duration = Duration::from_millis(100);
/// Bytes of one write to a hot segment.
const MOVE_BYTES: usize = 4 << 20;
/// Gauges are set, and free space is asked for, every so many rounds.
const SLOW_ROUNDS: u64 = 10;

/// Measures until the session ends.
pub async fn measure(node: Arc<Node>) {
    let mut round = 0;
    while !node.is_ended() {
        let partitions = node.all_partitions();
        if round % SLOW_ROUNDS == 0 {
            count(&node, &partitions);
        }
        if node.tails.get() > node.config.tail_bytes {
            // The disk does not keep up, or hangs: what the bucket has needs no memory either.
            partitions.iter().for_each(|p| p.drop_covered_tail());
        }
        let free = *node.disk_free.lock();
        node.limits.set(pressure(&node, &partitions, free));
        round += 1;
        node.host.sleep(EVERY).await;
    }
}

/// Keeps tails and hot copies within their bounds until the session ends.
pub async fn tidy(node: Arc<Node>) {
    let mut round = 0;
    while !node.is_ended() {
        let partitions = node.all_partitions();
        if round % SLOW_ROUNDS == 0 {
            let free = node.host.disk().free_bytes(&node.config.data_dir).await.ok();
            *node.disk_free.lock() = free;
            // A disk that does not say it now will say it later.
            if let Some(free) = free {
                node.tiers.fit_caches(&node.config, free).await;
            }
        }
        move_tails(&node, &partitions).await;
        make_room(&node, &partitions).await;
        round += 1;
        node.host.sleep(EVERY).await;
    }
}

impl Node {
    /// Bytes that hot segments may take: of what they take now and what is free.
    pub fn hot_budget(&self) -> u64 {
        let free = self.disk_free.lock().unwrap_or(u64::MAX);
        let hot = self.all_partitions().iter().map(|p| p.hot_bytes()).sum();
        self.config.hot_budget(free.saturating_add(hot))
    }
}

/// Largest tails first, until memory is at three quarters of its bound.
async fn move_tails(node: &Node, partitions: &[Arc<Partition>]) {
    let goal = node.config.tail_bytes / 4 * 3;
    if node.tails.get() <= goal {
        return;
    }
    let mut by_size: Vec<_> = partitions.iter().map(|p| (p.tail_memory(), p)).collect();
    by_size.sort_by_key(|(bytes, p)| (std::cmp::Reverse(*bytes), p.id));
    for (bytes, partition) in by_size {
        let mut left = bytes;
        while left > 0 && node.tails.get() > goal {
            match partition.flush_tail(MOVE_BYTES).await {
                // What is not durable yet stays.
                Ok(0) => break,
                Ok(moved) => left = left.saturating_sub(moved),
                Err(error) => {
                    tracing::warn!(partition = %partition.id, %error, "tail stays in memory");
                    break;
                }
            }
        }
        if node.tails.get() <= goal {
            return;
        }
    }
}

/// Drops copies of what is in the bucket: by the topics' own settings, then as room is needed.
async fn make_room(node: &Node, partitions: &[Arc<Partition>]) {
    let mut total = 0;
    for partition in partitions {
        partition.drop_deleted_hot().await;
        if let Some(bytes) = partition.config().local_retention_bytes {
            while partition.hot_bytes() > bytes && partition.drop_oldest_hot().await > 0 {}
        }
        if let Some(age) = partition.config().local_retention_ms {
            let before = node.host.wall_ms() - age.as_millis() as i64;
            partition.drop_hot_before(before).await;
        }
        total += partition.hot_bytes();
    }
    let (budget, free) = (node.hot_budget(), *node.disk_free.lock());
    let short = free.is_some_and(|free| free < node.config.disk_reserve_bytes.saturating_mul(2));
    if total <= budget && !short {
        return;
    }
    let goal = if short { total / 2 } else { budget };
    let mut by_size: Vec<_> = partitions.iter().map(|p| (p.hot_bytes(), p)).collect();
    by_size.sort_by_key(|(bytes, p)| (std::cmp::Reverse(*bytes), p.id));
    for (_, partition) in by_size {
        while total > goal {
            match partition.drop_oldest_hot().await {
                0 => break,
                freed => total = total.saturating_sub(freed),
            }
        }
    }
}

fn pressure(node: &Node, partitions: &[Arc<Partition>], free: Option<u64>) -> Pressure {
    let mut lags: BTreeMap<TopicId, u64> = BTreeMap::new();
    let mut lagging = BTreeSet::new();
    let mut untiered = 0;
    for partition in partitions {
        untiered += partition.untiered_memory() as u64;
        let lag = lags.entry(partition.id.topic).or_default();
        *lag += partition.lag().0;
        if partition.config().upload_lag_max_bytes.is_some_and(|max| *lag > max) {
            lagging.insert(partition.id.topic);
        }
    }
    let (tails, bound) = (node.tails.get(), node.config.tail_bytes);
    Pressure {
        lagging,
        tails_full: tails > bound.saturating_mul(2) || tails + untiered > bound.saturating_mul(4),
        disk_free: free.filter(|free| *free < node.config.disk_reserve_bytes),
    }
}

/// Gauges that nobody else moves.
fn count(node: &Node, partitions: &[Arc<Partition>]) {
    let (mut hot, mut states) = (0, BTreeMap::new());
    let mut lags: BTreeMap<&str, (u64, Duration)> = BTreeMap::new();
    for partition in partitions {
        hot += partition.hot_bytes();
        *states.entry(partition.state()).or_insert(0u32) += 1;
        let (bytes, age) = partition.lag();
        let lag = lags.entry(&partition.topic).or_default();
        *lag = (lag.0 + bytes, lag.1.max(age));
    }
    metrics::gauge!("levee_tail_bytes").set(node.tails.get() as f64);
    metrics::gauge!("levee_hot_bytes").set(hot as f64);
    metrics::gauge!("levee_answer_bytes").set(node.answers.used() as f64);
    for (topic, (bytes, age)) in lags {
        let topic = topic.to_owned();
        metrics::gauge!("levee_upload_lag_bytes", "topic" => topic.clone()).set(bytes as f64);
        metrics::gauge!("levee_upload_lag_seconds", "topic" => topic).set(age.as_secs_f64());
    }
    for state in ["serving", "waiting", "handing_off", "ended"] {
        let count = states.get(state).copied().unwrap_or(0);
        metrics::gauge!("levee_partitions", "state" => state).set(f64::from(count));
    }
    for lane in node.lanes.all() {
        let stalled = matches!(&*lane.state().borrow(), LaneState::Stalled(_));
        let name = Lanes::name(lane.kind());
        metrics::gauge!("levee_wal_stalled", "lane" => name).set(f64::from(u8::from(stalled)));
    }
}
