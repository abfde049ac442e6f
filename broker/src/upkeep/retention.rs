//! Retention by time and size, and the deletion of records on request.
//!
//! Reads committed state only (I19): nothing is unreferenced before its LogStart is committed, and
//! time is that of the records. Whole ranges go by the index; inside of a range, which may span days
//! once it is merged, blocks of 64 KiB go by its footer.

use std::collections::BTreeMap;
use std::sync::Arc;

use levee_proto::ids::{PartitionId, TopicId};
use levee_proto::metalog::{Record, TopicPurge};
use levee_tiering::remote::{RangeRef, Source};

use super::Regularly;
use crate::cluster::message::Request;
use crate::error::{Error, Result};
use crate::node::Node;
use crate::offload;
use crate::partition::Partition;

/// Asks for everything that may be deleted.
pub const UP_TO_HIGH_WATERMARK: u64 = i64::MAX as u64;

/// Partitions whose log start one request moves.
const STARTS_AT_ONCE: usize = 1000;

/// Bytes above its bound from which on a log is cut inside of a range, or this part of the bound.
const EXCESS_BYTES: u64 = 1 << 20;
const EXCESS_PART: u64 = 16;
/// A log is cut inside of a range once its oldest block is older than allowed by this part.
const LATE_PART: i64 = 64;

/// When the first range of a log has something to drop again: a look into a footer tells, and a
/// footer may be a request.
type Next = BTreeMap<PartitionId, (Source, i64)>;

/// Runs until the session ends.
pub(super) async fn run(node: Arc<Node>) {
    let mut next = Next::new();
    let mut times = Regularly::every(node.config.retention_check_interval, "retention");
    while times.is_due(&node).await {
        times.told(retain(&node, &mut next).await);
        times.told(purge(&node).await);
    }
}

async fn retain(node: &Node, next: &mut Next) -> Result<()> {
    let mut starts = Vec::new();
    let partitions = node.all_partitions();
    next.retain(|id, _| partitions.iter().any(|p| p.id == *id));
    for partition in &partitions {
        match due(node, partition, next).await {
            Ok(Some(start)) => starts.push((partition.id, start)),
            Ok(None) => {}
            // The others go on.
            Err(error) => {
                tracing::warn!(partition = %partition.id, %error, "retention is tried again");
            }
        }
    }
    set_log_starts(node, starts).await
}

/// Where the log of a partition should start now, if that is above where it does. What is not in
/// the bucket stays.
async fn due(node: &Node, partition: &Partition, next: &mut Next) -> Result<Option<u64>> {
    let config = partition.config();
    if !config.cleanup_policy.deletes() {
        return Ok(None);
    }
    let Ok(ladder) = partition.readable() else { return Ok(None) };
    let tiled = node.tiers.index.tiling(partition.id, ladder.log_start(), ladder.tiered_end());
    let mut start = ladder.log_start();
    if let Some(keep) = config.retention_ms {
        let keep = keep.as_millis() as i64;
        let before = node.host.wall_ms().saturating_sub(keep);
        // Compaction may have left nothing of a range, not even a time.
        let is_old =
            |range: &RangeRef| range.len == 0 || (0..before).contains(&range.max_timestamp);
        start = drop_while(node, partition, &tiled, start, is_old);
        if let Some(range) = holding(&tiled, start) {
            let known = next.get(&partition.id).filter(|(source, _)| *source == range.source);
            let oldest = known.map_or(range.first_timestamp, |(_, oldest)| *oldest);
            if oldest >= 0 && oldest < before.saturating_sub(keep / LATE_PART) {
                let footer = node.tiers.footer(range).await?;
                if let Some(found) = footer.ranges.get(range.number as usize) {
                    let (border, oldest) = found.older(before);
                    start = start.max(border);
                    next.insert(partition.id, (range.source, oldest));
                }
            }
        }
    }
    if let Some(keep) = config.retention_bytes {
        let live = tiled.iter().filter(|range| range.end > start);
        let mut total = live.map(|range| range.len).sum::<u64>() + partition.lag().0;
        let is_over = |range: &RangeRef| {
            let over = total.saturating_sub(range.len) >= keep;
            total -= if over { range.len } else { 0 };
            over
        };
        start = drop_while(node, partition, &tiled, start, is_over);
        if let Some(range) = holding(&tiled, start)
            && total.saturating_sub(keep) > EXCESS_BYTES.max(keep / EXCESS_PART)
        {
            let footer = node.tiers.footer(range).await?;
            let rest = total - range.len;
            if let Some(found) = footer.ranges.get(range.number as usize) {
                start = start.max(found.border_with(start, keep.saturating_sub(rest)));
            }
        }
    }
    let start = start.min(ladder.tiered_end());
    Ok((start > ladder.log_start()).then_some(start))
}

/// The object range that a log starts in.
fn holding(tiled: &[RangeRef], start: u64) -> Option<&RangeRef> {
    let first = tiled.iter().find(|range| range.end > start)?;
    (first.base <= start && matches!(first.source, Source::Object(_))).then_some(first)
}

/// Goes from `start` over whole ranges, oldest first, for as long as each is over. Nothing is
/// passed over but what an operator gave up.
fn drop_while(
    node: &Node,
    partition: &Partition,
    tiled: &[RangeRef],
    mut start: u64,
    mut is_over: impl FnMut(&RangeRef) -> bool,
) -> u64 {
    for range in tiled {
        if range.end <= start {
            continue;
        }
        let begins = match node.given_up(partition.id, start) {
            Some(end) => end.max(start),
            None => start,
        };
        if range.base > begins || !is_over(range) {
            break;
        }
        start = range.end;
    }
    start
}

/// One slot of the MetaLog for many partitions.
async fn set_log_starts(node: &Node, starts: Vec<(PartitionId, u64)>) -> Result<()> {
    for starts in starts.chunks(STARTS_AT_ONCE) {
        let (session, starts) = (node.session, starts.to_vec());
        node.commit(Request::SetLogStarts { session, starts }).await?;
    }
    Ok(())
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
        let limit = node.config.request_timeout;
        let flushed = offload::flush(node, std::slice::from_ref(partition));
        match node.host.timeout(limit, flushed).await {
            Ok(flushed) => flushed?,
            Err(_) => return Err(Error::timed_out("uploading", limit.as_millis() as u64)),
        };
    }
    if start > ladder.log_start() {
        set_log_starts(node, vec![(partition.id, start)]).await?;
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
