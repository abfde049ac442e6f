//! Fetch: from an offset to whole batches, wherever they are.
//!
//! One locate per step: tail, hot segment, bucket, or wait at the end.

mod batches;

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use levee_hot_log::segment::SegmentError;
use levee_proto::object::AbortedTxn;
use levee_proto::record::{BatchHeader, HEADER_BYTES};
use levee_tiering::remote::{FootersError, ReadAhead};

use crate::error::{Error, Result};
use crate::node::Node;
use crate::partition::ladder::Ladder;
use crate::partition::{Local, Partition};

pub use batches::Batches;

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
    pub batches: Batches,
    pub next_offset: u64,
    pub high_watermark: u64,
    pub last_stable_offset: u64,
    pub log_start: u64,
    pub from: From,
    /// For readers of committed records: every aborted transaction that overlaps what was read, by
    /// first offset.
    pub aborted: Vec<AbortedTxn>,
}

/// Whose records a reader sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Isolation {
    /// All that is durable.
    #[default]
    ReadUncommitted,
    /// Up to the last stable offset; the answer says what of it was aborted.
    ReadCommitted,
}

impl Isolation {
    /// First offset that such a reader does not see.
    pub fn end(self, ladder: &Ladder) -> u64 {
        match self {
            Self::ReadUncommitted => ladder.high_watermark(),
            Self::ReadCommitted => ladder.last_stable(),
        }
    }
}

/// What to read.
#[derive(Debug, Clone)]
pub struct Fetch {
    pub offset: u64,
    pub max_bytes: usize,
    /// Wait for so much, up to `wait`.
    pub min_bytes: usize,
    pub wait: Duration,
    pub isolation: Isolation,
}

/// How often a place may change under a read before that is an error.
const TRIES: usize = 4;
/// Stretches without a record that one read goes over.
const HOLES: usize = 64;

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
            let found = self.fetch_now(partition, fetch, ahead).await;
            let (found, end) = match found {
                Ok(found) => found,
                Err(error) => {
                    count("none", error.code.as_str_name(), 0);
                    return Err(error);
                }
            };
            let left = fetch.wait.saturating_sub(self.host.now().since(started));
            let enough = found.batches.len() >= fetch.min_bytes.max(1);
            // Only at the end of what it sees there is more to wait for.
            let at_end = found.next_offset >= end;
            if enough || !at_end || left.is_zero() || self.is_draining() {
                count_read(found.from, found.batches.len(), self.host.now().since(looked));
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

    /// What is there now; also the first offset that the reader did not see.
    pub(crate) async fn fetch_now(
        &self,
        partition: &Partition,
        fetch: &Fetch,
        ahead: Option<&ReadAhead>,
    ) -> Result<(Fetched, u64)> {
        let (mut last, mut tries, mut holes, mut offset) = (None, 0, 0, fetch.offset);
        while tries < TRIES {
            let ladder = partition.readable()?;
            let end = fetch.isolation.end(&ladder);
            match self.fetch_once(partition, (offset, fetch.max_bytes), end, ahead).await {
                // Clients that know batches only would ask for the same again and again.
                Ok(Some((none, next, _))) if none.is_empty() && next > offset && holes < HOLES => {
                    (offset, holes) = (next, holes + 1);
                }
                Ok(Some((batches, next_offset, from))) => {
                    let fetched = Fetched {
                        batches,
                        next_offset,
                        high_watermark: ladder.high_watermark(),
                        last_stable_offset: ladder.last_stable(),
                        log_start: ladder.log_start(),
                        from,
                        aborted: self.aborted(partition, fetch, next_offset).await?,
                    };
                    return Ok((fetched, end));
                }
                Ok(None) => tries += 1,
                Err(Missed::Moved(error)) => {
                    last = Some(error);
                    tries += 1;
                }
                Err(Missed::Failed(error)) => return Err(error),
            }
        }
        let moves = || Error::internal(format!("offset {} moves under the read", fetch.offset));
        Err(last.unwrap_or_else(moves))
    }

    /// One look; nothing where the place changed under it.
    async fn fetch_once(
        &self,
        partition: &Partition,
        (offset, max): (u64, usize),
        end: u64,
        ahead: Option<&ReadAhead>,
    ) -> std::result::Result<Option<(Batches, u64, From)>, Missed> {
        let remote = async || {
            let (bytes, next, from) = self.fetch_remote(partition, offset, max, ahead).await?;
            let read = bytes.len();
            match below(bytes, end) {
                // All of it: what was compacted may end behind its last batch, what an operator
                // gave up above the end.
                (all, to) if all.len() == read => Ok((all.into(), next.min(end).max(to), from)),
                (none, _) if none.is_empty() => Ok((Batches::default(), next.min(end), from)),
                (bytes, next) => Ok((bytes.into(), next, from)),
            }
        };
        match partition.locate(offset, max, end) {
            Local::AtEnd => Ok(Some((Batches::default(), offset, From::Nowhere))),
            Local::OutOfRange { log_start, high_watermark } => {
                let error = Error::offset_out_of_range(offset, log_start, high_watermark);
                Err(Missed::Failed(error))
            }
            Local::Tail(batches) => {
                let next = batches.last().map_or(offset, |b| b.header.end_offset());
                Ok(Some((Batches::of(&batches), next, From::Tail)))
            }
            Local::Hot => match partition.read_hot(offset, max).await {
                Ok(bytes) => {
                    let (bytes, next) = below(bytes, end);
                    Ok(Some((bytes.into(), next.max(offset), From::Hot)))
                }
                Err(SegmentError::Gone(_)) => Ok(None),
                // The bucket may have a good copy (I17).
                Err(error) if self.tiers.index.holds(partition.id, offset, offset + 1) => {
                    tracing::warn!(%error, "hot copy is damaged, reading the bucket");
                    remote().await.map(Some).map_err(Missed::Failed)
                }
                Err(error) => Err(Missed::Failed(Error::corrupt_data(error))),
            },
            Local::Remote => match remote().await {
                Ok(found) => Ok(Some(found)),
                // It may have moved under the read; a bucket that is away has been tried again.
                Err(error) if !error.retriable => Err(Missed::Moved(error)),
                Err(error) => Err(Missed::Failed(error)),
            },
        }
    }

    /// Aborted transactions that overlap what was read. All of them have ended: a reader of
    /// committed records sees nothing at or above the first one that has not.
    async fn aborted(
        &self,
        partition: &Partition,
        fetch: &Fetch,
        next: u64,
    ) -> Result<Vec<AbortedTxn>> {
        if fetch.isolation == Isolation::ReadUncommitted || next <= fetch.offset {
            return Ok(Vec::new());
        }
        Ok(self.aborted_in(partition, fetch.offset..next).await?)
    }

    /// Aborted transactions that overlap some offsets below the last stable one, by first offset.
    pub(crate) async fn aborted_in(
        &self,
        partition: &Partition,
        offsets: std::ops::Range<u64>,
    ) -> std::result::Result<Vec<AbortedTxn>, FootersError> {
        let (mut found, is_older) = partition.aborted(offsets.clone());
        if is_older {
            let told = self.tiers.aborted(partition.id, offsets).await?;
            let known: BTreeSet<u64> = found.iter().map(|txn| txn.last_offset).collect();
            found.extend(told.into_iter().filter(|txn| !known.contains(&txn.last_offset)));
        }
        found.sort_by_key(|txn| txn.first_offset);
        Ok(found)
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
        let is_hole = read.as_ref().is_none_or(|read| read.is_hole);
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

/// Why a look found nothing.
enum Missed {
    /// Another look may find it.
    Moved(Error),
    Failed(Error),
}

/// The batches that begin below `end`, of checked whole batches, and the offset after the last.
fn below(batches: Bytes, end: u64) -> (Bytes, u64) {
    let (mut at, mut next) = (0, 0);
    while batches.len() - at >= HEADER_BYTES {
        let Ok(header) = BatchHeader::decode(&batches[at..]) else { break };
        let to = at + header.bytes as usize;
        if header.base_offset >= end || to > batches.len() {
            break;
        }
        (at, next) = (to, header.end_offset());
    }
    (batches.slice(..at), next)
}

/// Counts a read that is answered, and how long it took.
pub(crate) fn count_read(from: From, bytes: usize, took: Duration) {
    count(from.name(), "ok", bytes);
    metrics::histogram!("levee_read_seconds", "source" => from.name()).record(took.as_secs_f64());
}

fn count(source: &'static str, outcome: &'static str, bytes: usize) {
    metrics::counter!("levee_read_requests_total", "source" => source, "outcome" => outcome)
        .increment(1);
    metrics::counter!("levee_read_bytes_total", "source" => source).increment(bytes as u64);
}
