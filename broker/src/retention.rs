//! Retention by time and size, and the deletion of records on request.
//!
//! Reads committed state only (I19): nothing is unreferenced before its LogStart is committed, and
//! time is that of the records.

use std::sync::Arc;

use levee_proto::ids::TopicId;
use levee_proto::metalog::{Record, TopicPurge};

use crate::cluster::message::Request;
use crate::error::{Error, Result};
use crate::node::Node;
use crate::offload;
use crate::partition::Partition;

/// Asks for everything that may be deleted.
pub const UP_TO_HIGH_WATERMARK: u64 = i64::MAX as u64;

/// Runs until the session ends.
pub async fn run(node: Arc<Node>) {
    while !node.is_ended() {
        node.host.sleep(node.config.retention_check_interval).await;
        for partition in node.all_partitions() {
            let Some(start) = due(&node, &partition) else { continue };
            if let Err(error) = set_log_start(&node, &partition, start).await {
                tracing::warn!(partition = %partition.id, %error, "retention is tried again");
            }
        }
        if let Err(error) = purge(&node).await {
            tracing::warn!(%error, "deleted topics are purged later");
        }
    }
}

/// Where the log of a partition should start now, if that is above where it does.
fn due(node: &Node, partition: &Partition) -> Option<u64> {
    let config = partition.config();
    let ladder = partition.readable().ok()?;
    let ranges = node.tiers.index.ranges(partition.id);
    let mut start = ladder.log_start();
    if let Some(keep) = config.retention_ms {
        let before = node.host.wall_ms().saturating_sub(keep.as_millis() as i64);
        // From the oldest on, as long as each is wholly too old.
        for range in &ranges {
            if range.end <= start {
                continue;
            }
            if range.base > start || range.max_timestamp >= before || range.max_timestamp < 0 {
                break;
            }
            start = range.end;
        }
    }
    if let Some(keep) = config.retention_bytes {
        let local = partition.lag().0;
        let live: Vec<_> = ranges.iter().filter(|range| range.end > start).collect();
        let mut total = live.iter().map(|range| range.len).sum::<u64>() + local;
        for range in live {
            if total.saturating_sub(range.len) < keep || range.base > start {
                break;
            }
            total -= range.len;
            start = range.end;
        }
    }
    (start > ladder.log_start()).then_some(start.min(ladder.tiered_end()))
}

async fn set_log_start(node: &Node, partition: &Partition, log_start: u64) -> Result<()> {
    let (session, partition) = (node.session, partition.id);
    node.commit(Request::SetLogStart { session, partition, log_start }).await.map(drop)
}

/// Deletes records below `before`; returns where the log starts now.
pub async fn delete_records(
    node: &Arc<Node>,
    partition: &Arc<Partition>,
    before: u64,
) -> Result<u64> {
    let ladder = partition.readable()?;
    let high = ladder.high_watermark();
    let start = if before >= UP_TO_HIGH_WATERMARK { high } else { before };
    if start > high {
        return Err(Error::offset_out_of_range(before, ladder.log_start(), high));
    }
    if start > ladder.tiered_end() {
        // Producer state at the new start must be in the bucket, or a restart forgets producers.
        offload::flush(node, std::slice::from_ref(partition)).await?;
    }
    if start > ladder.log_start() {
        set_log_start(node, partition, start).await?;
    }
    Ok(partition.ladder().log_start())
}

/// Topics whose delay is over: their data may go.
async fn purge(node: &Node) -> Result<()> {
    let now = node.host.wall_ms();
    let delay = node.config.delete_delay.as_millis() as i64;
    let over: Vec<TopicId> = {
        let state = node.view.read();
        let over = |deleted: Option<i64>| deleted.is_some_and(|at| now - at >= delay);
        state.topics.values().filter(|t| over(t.deleted_ms)).map(|t| t.id).collect()
    };
    if over.is_empty() {
        return Ok(());
    }
    let records = over.into_iter().map(|topic| Record::from(TopicPurge { topic })).collect();
    node.commit(Request::Collect(records)).await.map(drop)
}
