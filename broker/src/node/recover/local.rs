//! Reading a local lane back, under the lock of its data folder.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use levee_hot_log::local::recovery::{self, ScanError};
use levee_proto::ids::{LaneId, Nonce, PartitionId};
use levee_proto::metalog::ObjectRef;
use levee_proto::object::{AbortedTxn, Footer, Level, RangeKind};
use levee_proto::record::{Marker, batch};
use levee_proto::wal::GroupEntry;
use levee_tiering::upload::{Part, Pieces, Room};

use super::super::Node;
use super::{Known, Recovered, Stays, trim_of};

/// Bytes gathered before they become an object.
const CHUNK_BYTES: usize = 64 << 20;

/// Closes a local lane: what no reference covers is copied to the bucket first.
pub(super) async fn lane(
    node: &Arc<Node>,
    lane: LaneId,
    rid: u64,
    disk: Nonce,
    store_id: Nonce,
) -> Result<(), Stays> {
    let (trim, synced) = trim_of(node, lane);
    let used = node.view.read().partitions_on(lane).next().is_some();
    if !used {
        // No partition is led on it, so nothing of it can be missing.
        let none = Recovered { known: Known::default(), objects: Vec::new(), slots: Vec::new() };
        return node.close_lane((lane, rid), (trim, trim), none).await;
    }
    if disk != store_id {
        let why = format!(
            "its records are on another disk (store {disk}): start a broker on that data folder, \
             or give up what it held with `levee topic accept-loss`"
        );
        return Err(Stays::Waits(why));
    }
    if node.waiting.lock().contains_key(&lane) {
        // It failed before: nothing is sent until all of it can be read.
        scan(node, lane, (trim, synced), None).await?;
    }
    let mut copy = Copy::new(node);
    let found = scan(node, lane, (trim, synced), Some(&mut copy)).await?;
    copy.upload().await?;
    let (known, objects) = (std::mem::take(&mut copy.known), std::mem::take(&mut copy.objects));
    let recovered = Recovered { known, objects, slots: Vec::new() };
    node.close_lane((lane, rid), (found.end, found.end), recovered).await?;
    Ok(())
}

/// Reads a lane from its trim on, and gives what it holds to `copy`.
async fn scan(
    node: &Arc<Node>,
    lane: LaneId,
    (trim, synced): (u64, u64),
    mut copy: Option<&mut Copy<'_>>,
) -> Result<recovery::Scan, Stays> {
    let (groups, mut received) = tokio::sync::mpsc::channel(4);
    let wal_dir = node.wal_dir();
    let host = node.host.clone();
    let scan = node.host.spawn("wal-scan", async move {
        recovery::scan(&host, &wal_dir, lane, trim, synced, groups).await
    });
    while let Some((_, entries)) = received.recv().await {
        let Some(copy) = copy.as_mut() else { continue };
        for (entry, bytes) in entries {
            copy.take(&entry, bytes)?;
        }
        if copy.bytes >= CHUNK_BYTES {
            copy.upload().await?;
        }
    }
    match scan.await {
        Some(Ok(found)) => Ok(found),
        Some(Err(error @ (ScanError::Missing { .. } | ScanError::Corrupt { .. }))) => {
            Err(Stays::Waits(error.to_string()))
        }
        Some(Err(error)) => Err(Stays::Failed(error.to_string())),
        None => Err(Stays::Failed("the scan was stopped".into())),
    }
}

/// Entries on their way from a local lane to the bucket.
struct Copy<'a> {
    node: &'a Arc<Node>,
    known: Known,
    chunk: BTreeMap<(PartitionId, u32), Vec<Run>>,
    bytes: usize,
    objects: Vec<(ObjectRef, Footer)>,
}

/// What was uploaded in vain will never be referenced.
impl Drop for Copy<'_> {
    fn drop(&mut self) {
        self.objects.iter().for_each(|(object, _)| self.node.tiers.numbers.settle(object.seq));
    }
}

/// Batches of one partition and epoch, without a gap.
struct Run {
    base: u64,
    end: u64,
    batches: Vec<Bytes>,
    aborted: Vec<AbortedTxn>,
}

impl<'a> Copy<'a> {
    fn new(node: &'a Arc<Node>) -> Self {
        let (known, chunk) = (Known::default(), BTreeMap::new());
        Self { node, known, chunk, bytes: 0, objects: Vec::new() }
    }

    /// Keeps what no committed reference covers and no operator gave up.
    fn take(&mut self, entry: &GroupEntry, bytes: Bytes) -> Result<(), Stays> {
        let held = || self.node.tiers.index.holds(entry.partition, entry.base, entry.end);
        if entry.kind != RangeKind::Data || held() || self.is_lost(entry) {
            return Ok(());
        }
        let header = batch::check(&bytes)?;
        let marker = Marker::in_parts(header.is_control(), &[&bytes]);
        let aborted = self.known.fold(self.node, entry.partition, &header, marker);
        self.bytes += bytes.len();
        // A slice would keep the whole window that was read.
        let bytes = Bytes::copy_from_slice(&bytes);
        let runs = self.chunk.entry((entry.partition, entry.leader_epoch)).or_default();
        let run = match runs.last_mut() {
            Some(run) if run.end == entry.base => run,
            _ => {
                let (batches, aborted) = (Vec::new(), Vec::new());
                runs.push(Run { base: entry.base, end: entry.base, batches, aborted });
                runs.last_mut().expect("it was pushed")
            }
        };
        run.end = entry.end;
        run.batches.push(bytes);
        run.aborted.extend(aborted);
        Ok(())
    }

    /// Given up, or of a topic that is gone.
    fn is_lost(&self, entry: &GroupEntry) -> bool {
        let state = self.node.view.read();
        let Some(partition) = state.partitions.get(&entry.partition) else { return true };
        partition.losses.iter().any(|lost| lost.from < entry.end && entry.base < lost.to)
    }

    async fn upload(&mut self) -> Result<(), Stays> {
        self.bytes = 0;
        let chunk = std::mem::take(&mut self.chunk);
        if chunk.is_empty() {
            return Ok(());
        }
        let (mut parts, mut room) = (Vec::new(), Room::new(u64::MAX));
        let runs = chunk.into_iter().flat_map(|(of, runs)| runs.into_iter().map(move |r| (of, r)));
        for ((partition, leader_epoch), run) in runs {
            let (end, producers) = self.known.entry(self.node, partition);
            // Only the newest run of a partition ends where its producer state stands.
            let producers = (run.end == *end).then(|| producers.snapshot());
            if !room.take(0, producers.as_ref(), &run.aborted) {
                let full = std::mem::take(&mut parts);
                self.objects
                    .push(self.node.tiers.upload(self.node.writer(), Level::L1, full).await?);
                room = Room::new(u64::MAX);
                room.take(0, producers.as_ref(), &run.aborted);
            }
            parts.push(Part {
                partition,
                leader_epoch,
                base: run.base,
                end: run.end,
                bytes: run.batches.iter().map(|b| b.len() as u64).sum(),
                producers,
                aborted: run.aborted,
                compacted: false,
                source: Box::new(Pieces::new(run.batches)),
            });
        }
        self.objects.push(self.node.tiers.upload(self.node.writer(), Level::L1, parts).await?);
        Ok(())
    }
}
