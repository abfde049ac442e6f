//! From a time, or a leader epoch, to an offset.

use bytes::Bytes;
use levee_proto::FormatError;
use levee_proto::ids::PartitionId;
use levee_proto::limits::BATCH_DECODED_BYTES_MAX;
use levee_proto::record::batch::check_run;
use levee_proto::record::records::{DecodedRecord, Records};

use crate::error::{Error, Result};
use crate::fetch::{Fetch, Isolation};
use crate::node::Node;
use crate::partition::Partition;

const STEP_BYTES: usize = 1 << 20;

impl Node {
    /// The first record at or after `timestamp`: its offset and time.
    pub async fn find_time(
        &self,
        partition: &Partition,
        timestamp: i64,
    ) -> Result<Option<(u64, i64)>> {
        let ladder = partition.ladder();
        let mut offset = ladder.log_start();
        let remote = self.tiers.find_time(partition.id, offset, timestamp).await?;
        offset = match remote {
            Some(block) => block.max(offset),
            // Everything in the bucket is older.
            None => partition.find_time(timestamp).max(offset),
        };
        while offset < partition.ladder().high_watermark() {
            let fetch = Fetch {
                offset,
                max_bytes: STEP_BYTES,
                min_bytes: 0,
                wait: std::time::Duration::ZERO,
                isolation: Isolation::ReadUncommitted,
            };
            let found = self.fetch(partition, &fetch).await?;
            let batches = found.batches.into_bytes();
            let (mut first, mut bad) = (None, None);
            let walked = check_run(&batches, |at, header| {
                if header.max_timestamp < timestamp {
                    return true;
                }
                match first_at(&batches.slice(at..at + header.bytes as usize), |record| {
                    record.data.timestamp_ms >= timestamp && record.offset >= offset
                }) {
                    Ok(hit) => first = hit,
                    Err(error) => bad = Some(error),
                }
                first.is_none() && bad.is_none()
            });
            if let Some(error) = walked.err().or(bad) {
                return Err(Error::corrupt_data(error));
            }
            if first.is_some() || found.next_offset <= offset {
                return Ok(first);
            }
            offset = found.next_offset;
        }
        Ok(None)
    }
}

impl Node {
    /// The largest time of any record that may still be there, by what is known of whole batches
    /// and objects.
    pub fn max_timestamp(&self, partition: &Partition) -> Option<i64> {
        let log_start = partition.ladder().log_start();
        let remote = self.tiers.index.max_timestamp(partition.id, log_start);
        remote.max(partition.untiered_max_timestamp()).filter(|time| *time >= 0)
    }

    /// Leader epoch of the record at `offset`.
    pub fn epoch_of(&self, id: PartitionId, offset: u64) -> Option<u32> {
        let state = self.view.read();
        let epochs = &state.partitions.get(&id)?.epochs;
        epochs.iter().rev().find(|epoch| epoch.start <= offset).map(|epoch| epoch.epoch)
    }

    /// The newest epoch that is not above `epoch`, and where it ended: at `end` for the last.
    pub fn epoch_end(&self, id: PartitionId, epoch: u32, end: u64) -> Option<(u32, u64)> {
        let state = self.view.read();
        let epochs = &state.partitions.get(&id)?.epochs;
        let at = epochs.iter().rposition(|known| known.epoch <= epoch)?;
        let next = epochs.get(at + 1).map_or(end, |next| next.start);
        Some((epochs[at].epoch, next))
    }
}

/// Offset and time of the first record of a batch that fits.
fn first_at(
    batch: &Bytes,
    fits: impl Fn(&DecodedRecord) -> bool,
) -> std::result::Result<Option<(u64, i64)>, FormatError> {
    for record in Records::of(batch, BATCH_DECODED_BYTES_MAX)? {
        let record = record?;
        if fits(&record) {
            return Ok(Some((record.offset, record.data.timestamp_ms)));
        }
    }
    Ok(None)
}
