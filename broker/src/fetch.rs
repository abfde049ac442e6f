//! Fetch: from an offset to whole batches, wherever they are.
//!
//! One locate per step: tail, hot segment, bucket, or wait at the end.

use std::time::Duration;

use bytes::Bytes;
use levee_hot_log::segment::SegmentError;
use levee_proto::record::{BatchHeader, HEADER_BYTES};
use levee_tiering::remote::ReadAhead;

use crate::error::{Error, Result};
use crate::node::Node;
use crate::partition::local::join;
use crate::partition::{Local, Partition};

/// Where bytes came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    Tail,
    Hot,
    Cached,
    Remote,
    Nowhere,
}

impl From {
    pub fn name(self) -> &'static str {
        match self {
            Self::Tail => "tail",
            Self::Hot => "hot",
            Self::Cached => "cached",
            Self::Remote => "remote",
            Self::Nowhere => "none",
        }
    }
}

/// Whole batches; the first one may begin below the offset asked for.
#[derive(Debug, Clone)]
pub struct Fetched {
    pub batches: Bytes,
    pub next_offset: u64,
    pub high_watermark: u64,
    pub log_start: u64,
    pub from: From,
}

/// What to read.
#[derive(Debug, Clone)]
pub struct Fetch {
    pub offset: u64,
    pub max_bytes: usize,
    /// Wait for so much, up to `wait`.
    pub min_bytes: usize,
    pub wait: Duration,
}

/// How often a place may change under a read before that is an error.
const TRIES: usize = 4;

impl Node {
    /// Reads, and waits at the end of the log for up to `wait`.
    pub async fn fetch(&self, partition: &Partition, fetch: &Fetch) -> Result<Fetched> {
        self.fetch_ahead(partition, fetch, None).await
    }

    /// As `fetch`, for a reader that goes from offset to offset.
    pub async fn fetch_ahead(
        &self,
        partition: &Partition,
        fetch: &Fetch,
        ahead: Option<&ReadAhead>,
    ) -> Result<Fetched> {
        let started = self.host.now();
        let (mut ends, mut draining) = (partition.ends(), self.draining());
        loop {
            ends.borrow_and_update();
            let looked = self.host.now();
            let found = self.fetch_now(partition, fetch.offset, fetch.max_bytes, ahead).await;
            let found = match found {
                Ok(found) => found,
                Err(error) => {
                    count("none", error.code.as_str_name(), 0);
                    return Err(error);
                }
            };
            let left = fetch.wait.saturating_sub(self.host.now().since(started));
            let enough = found.batches.len() >= fetch.min_bytes.max(1);
            // Only at the end of the log there is more to wait for.
            let at_end = found.next_offset >= found.high_watermark;
            if enough || !at_end || left.is_zero() || self.is_draining() {
                let source = found.from.name();
                count(source, "ok", found.batches.len());
                let took = self.host.now().since(looked).as_secs_f64();
                metrics::histogram!("levee_read_seconds", "source" => source).record(took);
                return Ok(found);
            }
            // Whatever changed, the loop looks again; so it does after the time is over.
            let changed = async {
                tokio::select! {
                    _ = ends.changed() => {}
                    _ = draining.wait_for(|draining| *draining) => {}
                }
            };
            let _ = self.host.timeout(left, changed).await;
        }
    }

    /// What is there now.
    pub(crate) async fn fetch_now(
        &self,
        partition: &Partition,
        offset: u64,
        max: usize,
        ahead: Option<&ReadAhead>,
    ) -> Result<Fetched> {
        let mut last = None;
        for _ in 0..TRIES {
            let ladder = partition.readable()?;
            let place = partition.locate(offset, max);
            let answer = |batches: Bytes, next_offset, from| Fetched {
                batches,
                next_offset,
                high_watermark: ladder.high_watermark(),
                log_start: ladder.log_start(),
                from,
            };
            match place {
                Local::AtEnd => return Ok(answer(Bytes::new(), offset, From::Nowhere)),
                Local::OutOfRange { log_start, high_watermark } => {
                    return Err(Error::offset_out_of_range(offset, log_start, high_watermark));
                }
                Local::Tail(batches) => {
                    let next = batches.last().map_or(offset, |b| b.header.end_offset());
                    return Ok(answer(join(&batches), next, From::Tail));
                }
                Local::Hot => match partition.read_hot(offset, max).await {
                    Ok(bytes) => {
                        let next = end_of(&bytes).max(offset);
                        return Ok(answer(bytes, next, From::Hot));
                    }
                    Err(SegmentError::Gone(_)) => {}
                    // The bucket may have a good copy (I17).
                    Err(error) if self.tiers.index.holds(partition.id, offset, offset + 1) => {
                        tracing::warn!(%error, "hot copy is damaged, reading the bucket");
                        let (bytes, next, from) =
                            self.fetch_remote(partition, offset, max, ahead).await?;
                        return Ok(answer(bytes, next, from));
                    }
                    Err(error) => return Err(Error::corrupt_data(error)),
                },
                Local::Remote => match self.fetch_remote(partition, offset, max, ahead).await {
                    Ok((bytes, next, from)) => return Ok(answer(bytes, next, from)),
                    // It may have moved under the read; a bucket that is away has been tried again.
                    Err(error) if !error.retriable => last = Some(error),
                    Err(error) => return Err(error),
                },
            }
        }
        Err(last
            .unwrap_or_else(|| Error::internal(format!("offset {offset} moves under the read"))))
    }

    async fn fetch_remote(
        &self,
        partition: &Partition,
        offset: u64,
        max: usize,
        ahead: Option<&ReadAhead>,
    ) -> Result<(Bytes, u64, From)> {
        let turn = self.pace.turn(max as u64).await;
        let read = self.tiers.reader.read(partition.id, offset, max, ahead).await;
        let bytes = read.as_ref().ok().and_then(Option::as_ref).map_or(0, |r| r.batches.len());
        self.pace.settle(&turn, bytes as u64);
        let read = read?;
        let first = read.as_ref().and_then(|read| BatchHeader::decode(&read.batches).ok());
        let is_hole = first.is_none_or(|header| header.base_offset > offset);
        match (read, self.given_up(partition.id, offset)) {
            (Some(read), _) if !is_hole => {
                let from = if read.cached { From::Cached } else { From::Remote };
                Ok((read.batches, read.next_offset, from))
            }
            // Go on behind what an operator gave up.
            (_, Some(end)) => Ok((Bytes::new(), end, From::Nowhere)),
            // Nothing else may ever be missing: say so rather than pass over it.
            (_, None) => {
                let (topic, number) = (&partition.topic, partition.id.partition);
                let what =
                    format!("no object holds offset {offset} of {topic:?} partition {number}");
                Err(Error::corrupt_data(what))
            }
        }
    }

    /// End of the given up range that holds `offset`.
    pub(crate) fn given_up(&self, id: levee_proto::ids::PartitionId, offset: u64) -> Option<u64> {
        let state = self.view.read();
        let losses = &state.partitions.get(&id)?.losses;
        losses.iter().find(|lost| (lost.from..lost.to).contains(&offset)).map(|lost| lost.to)
    }
}

/// Offset after the last batch of checked whole batches.
fn end_of(batches: &[u8]) -> u64 {
    let (mut at, mut end) = (0, 0);
    while batches.len() - at >= HEADER_BYTES {
        let Ok(header) = BatchHeader::decode(&batches[at..]) else { break };
        end = header.end_offset();
        at += header.bytes as usize;
        if at > batches.len() {
            break;
        }
    }
    end
}

fn count(source: &'static str, outcome: &'static str, bytes: usize) {
    metrics::counter!("levee_read_requests_total", "source" => source, "outcome" => outcome)
        .increment(1);
    metrics::counter!("levee_read_bytes_total", "source" => source).increment(bytes as u64);
}
