//! From a time to an offset, and ids for producers.

use levee_proto::record::batch::check_run;
use levee_proto::record::records::decode_records;

use crate::cluster::message::{Answer, Request};
use crate::error::{Error, Result};
use crate::fetch::Fetch;
use crate::node::Node;
use crate::partition::Partition;

const STEP_BYTES: usize = 1 << 20;
/// Producer ids taken from the controller at once.
const ID_BLOCK: u64 = 1000;

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
            };
            let found = self.fetch(partition, &fetch).await?;
            let (mut first, mut bad) = (None, None);
            let walked = check_run(&found.batches, |at, header| {
                if header.max_timestamp < timestamp {
                    return true;
                }
                match decode_records(&found.batches.slice(at..at + header.bytes as usize)) {
                    Ok(records) => {
                        let hit = records
                            .iter()
                            .find(|r| r.data.timestamp_ms >= timestamp && r.offset >= offset);
                        first = hit.map(|r| (r.offset, r.data.timestamp_ms));
                    }
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

    /// An id that no producer ever had.
    pub async fn producer_id(&self) -> Result<i64> {
        let mut block = self.producer_ids.lock().await;
        if block.is_empty() {
            let request = Request::ProducerIds { count: ID_BLOCK };
            let Answer::ProducerIds(first) = self.commit(request).await? else {
                return Err(Error::internal("asking for producer ids gave something else"));
            };
            *block = first..first + ID_BLOCK;
        }
        let next = block.next().ok_or_else(|| Error::internal("an empty block of producer ids"))?;
        i64::try_from(next).map_err(|_| Error::internal("producer ids are used up"))
    }
}
