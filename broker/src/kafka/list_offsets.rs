//! ListOffsets (KIP-79, KIP-405, KIP-1005, KIP-1023) and OffsetForLeaderEpoch (KIP-101).

use std::sync::Arc;

use futures::stream::{self, StreamExt};
use levee_kafka::ErrorCode;
use levee_kafka::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsRequest};
use levee_kafka::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsResponse, ListOffsetsTopicResponse,
};
use levee_kafka::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderEpochRequest, OffsetForLeaderPartition,
};
use levee_kafka::messages::offset_for_leader_epoch_response::{
    EpochEndOffset, OffsetForLeaderEpochResponse, OffsetForLeaderTopicResult,
};

use super::fetch::isolation;
use super::{Ask, code};
use crate::error::Error;
use crate::fetch::Isolation;
use crate::partition::Partition;

/// Partitions of one request that are looked at side by side.
const SIDE_BY_SIDE: usize = 16;

/// What a negative timestamp asks for.
mod at {
    pub(super) const LATEST: i64 = -1;
    pub(super) const EARLIEST: i64 = -2;
    pub(super) const MAX_TIMESTAMP: i64 = -3;
    pub(super) const EARLIEST_LOCAL: i64 = -4;
    pub(super) const LATEST_TIERED: i64 = -5;
    pub(super) const EARLIEST_PENDING_UPLOAD: i64 = -6;
}

pub(super) async fn answer(ask: &Ask, request: ListOffsetsRequest) -> ListOffsetsResponse {
    let isolation = isolation(request.isolation_level);
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let name = topic.name.as_str();
        let partitions = stream::iter(topic.partitions)
            .map(|asked| one(ask, name, asked, isolation))
            .buffered(SIDE_BY_SIDE)
            .collect()
            .await;
        topics.push(ListOffsetsTopicResponse { name: topic.name, partitions });
    }
    ListOffsetsResponse { topics, ..Default::default() }
}

async fn one(
    ask: &Ask,
    topic: &str,
    asked: ListOffsetsPartition,
    isolation: Isolation,
) -> ListOffsetsPartitionResponse {
    let partition_index = asked.partition_index;
    let found = find(ask, topic, &asked, isolation).await;
    match found {
        Ok((offset, timestamp, leader_epoch)) => ListOffsetsPartitionResponse {
            partition_index,
            timestamp,
            offset,
            leader_epoch,
            ..Default::default()
        },
        Err(code) => ListOffsetsPartitionResponse {
            partition_index,
            error_code: code.into(),
            ..Default::default()
        },
    }
}

/// Offset, its time and epoch; -1 where there is none.
async fn find(
    ask: &Ask,
    topic: &str,
    asked: &ListOffsetsPartition,
    isolation: Isolation,
) -> Result<(i64, i64, i32), ErrorCode> {
    let node = ask.node();
    let partition = ask.partition(topic, asked.partition_index)?;
    let status = partition.status();
    check_epoch(asked.current_leader_epoch, status.leader_epoch)?;
    let ladder = partition.readable().map_err(|e| code(&e))?;
    let epoch_of = |offset| node.epoch_of(partition.id, offset).map_or(-1, |epoch| epoch as i32);
    let offset = match asked.timestamp {
        at::LATEST => {
            // It was still ours after it was read (I20).
            let end = isolation.end(&ladder);
            node.lease().await.map_err(|e| code(&e))?;
            end
        }
        at::EARLIEST => ladder.log_start(),
        at::EARLIEST_LOCAL => ladder.local_start().max(ladder.log_start()),
        // The newest that is in the bucket, not the one behind it.
        at::LATEST_TIERED => match ladder.tiered_end().checked_sub(1) {
            Some(offset) if offset >= ladder.log_start() => offset,
            _ => return Ok((-1, -1, -1)),
        },
        at::EARLIEST_PENDING_UPLOAD => ladder.tiered_end(),
        at::MAX_TIMESTAMP => return largest_time(ask, &partition).await,
        time if time >= 0 => return at_time(ask, &partition, time).await,
        _ => return Err(ErrorCode::InvalidRequest),
    };
    Ok((offset as i64, -1, epoch_of(offset)))
}

async fn at_time(
    ask: &Ask,
    partition: &Arc<Partition>,
    time: i64,
) -> Result<(i64, i64, i32), ErrorCode> {
    let node = ask.node();
    let limit = node.config.request_timeout;
    let late = |_| Err(Error::timed_out("the search by time", limit.as_millis() as u64));
    let found = node.host.timeout(limit, node.find_time(partition, time)).await;
    let found = found.unwrap_or_else(late).map_err(|e| code(&e))?;
    Ok(match found {
        Some((offset, time)) => {
            let epoch = node.epoch_of(partition.id, offset).map_or(-1, |epoch| epoch as i32);
            (offset as i64, time, epoch)
        }
        None => (-1, -1, -1),
    })
}

/// The record with the largest time: the first one that has it.
async fn largest_time(ask: &Ask, partition: &Arc<Partition>) -> Result<(i64, i64, i32), ErrorCode> {
    match ask.node().max_timestamp(partition) {
        Some(time) => at_time(ask, partition, time).await,
        None => Ok((-1, -1, -1)),
    }
}

/// What the client believes the leader epoch to be, where it says so (KIP-320).
pub(super) fn check_epoch(believed: i32, known: u32) -> Result<(), ErrorCode> {
    match u32::try_from(believed) {
        Ok(believed) if believed < known => Err(ErrorCode::FencedLeaderEpoch),
        Ok(believed) if believed > known => Err(ErrorCode::UnknownLeaderEpoch),
        _ => Ok(()),
    }
}

pub(super) async fn epochs(
    ask: &Ask,
    request: OffsetForLeaderEpochRequest,
) -> OffsetForLeaderEpochResponse {
    let topics = request.topics.into_iter().map(|topic| {
        let one = |asked: OffsetForLeaderPartition| epoch_end(ask, &topic.topic, &asked);
        let partitions = topic.partitions.into_iter().map(one).collect();
        OffsetForLeaderTopicResult { topic: topic.topic.clone(), partitions }
    });
    OffsetForLeaderEpochResponse { topics: topics.collect(), ..Default::default() }
}

fn epoch_end(ask: &Ask, topic: &str, asked: &OffsetForLeaderPartition) -> EpochEndOffset {
    let answer = EpochEndOffset { partition: asked.partition, ..Default::default() };
    let found = || -> Result<_, ErrorCode> {
        let partition = ask.partition(topic, asked.partition)?;
        let ladder = partition.readable().map_err(|e| code(&e))?;
        let known = partition.status().leader_epoch;
        check_epoch(asked.current_leader_epoch, known)?;
        let Ok(epoch) = u32::try_from(asked.leader_epoch) else { return Ok(None) };
        Ok(ask.node().epoch_end(partition.id, epoch, ladder.high_watermark()))
    };
    match found() {
        Ok(Some((epoch, end))) => {
            EpochEndOffset { leader_epoch: epoch as i32, end_offset: end as i64, ..answer }
        }
        Ok(None) => answer,
        Err(code) => EpochEndOffset { error_code: i16::from(code), ..answer },
    }
}
