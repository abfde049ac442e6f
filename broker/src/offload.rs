//! Offload: what is durable and local becomes tiered objects, in rounds.
//!
//! ```text
//! cut (size | age | asked for) -> upload -> verify -> commit -> index -> release
//! ```
//! Owns: when and how the log is cut into objects. Does not own: a single upload (`levee-tiering`).

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, StreamExt};
use levee_proto::ids::PartitionId;
use levee_proto::metalog::ObjectRef;
use levee_proto::object::{Footer, Level};
use levee_runtime::Backoff;
use levee_tiering::upload::{Batches, Part, Room, SourceError, UploadError};

use crate::error::{Error, Result};
use crate::node::Node;
use crate::node::reference::{Ends, commit};
use crate::partition::Partition;
use crate::partition::untiered::Cut;
use crate::tiers::{READ_BYTES, read_remote};

/// Objects uploaded side by side.
const SIDE_BY_SIDE: usize = 3;
/// How long a partition is left out after its local copy could not be read: what is not in the
/// bucket holds appends back in the end.
pub(crate) const LEFT_OUT: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Runs until the session ends. A failed round is tried again, for as long as it takes: until then
/// the lag contract holds appends back.
pub async fn run(node: Arc<Node>) {
    let mut backoff = fresh();
    while !node.is_ended() {
        node.host.sleep(LOOK_EVERY).await;
        if !is_due(&node) {
            continue;
        }
        match round(&node, &node.all_partitions()).await {
            Ok(_) => backoff = fresh(),
            Err(error) => {
                tracing::warn!(%error, "offload failed, trying again");
                backoff.wait(&node.host).await;
            }
        }
    }
}

fn fresh() -> Backoff {
    Backoff::new(Duration::from_millis(100), Duration::from_secs(10))
}

/// Whether its local copy could not be read a moment ago.
fn is_aside(node: &Node, id: PartitionId) -> bool {
    node.offload_aside.lock().holds(&id, node.host.now())
}

fn is_due(node: &Node) -> bool {
    let (mut bytes, mut oldest) = (0, Duration::ZERO);
    let all = node.all_partitions();
    for partition in all.iter().filter(|p| p.has_untiered() && !is_aside(node, p.id)) {
        let (lag, age) = partition.lag();
        bytes += lag;
        oldest = oldest.max(age);
    }
    bytes >= node.config.tier_bytes || oldest >= node.config.tier_interval
}

/// Uploads all that is durable now and not in the bucket, for as long as it takes. Returns the
/// bytes.
pub async fn flush(node: &Arc<Node>, partitions: &[Arc<Partition>]) -> Result<u64> {
    let (mut total, mut backoff, mut given_up) = (0, fresh(), None);
    let targets: Vec<u64> = partitions.iter().map(|p| p.ladder().durable_end()).collect();
    loop {
        let behind: Vec<Arc<Partition>> = partitions
            .iter()
            .zip(&targets)
            .filter(|(p, target)| p.ladder().tiered_end() < **target)
            .map(|(p, _)| p.clone())
            .collect();
        if behind.is_empty() {
            return Ok(total);
        }
        // A damaged copy must not keep the others from the bucket.
        if let Some(error) = &given_up
            && behind.iter().all(|p| is_aside(node, p.id))
        {
            return Err(Error::clone(error));
        }
        let before: u64 = behind.iter().map(|p| p.ladder().tiered_end()).sum();
        match round(node, &behind).await {
            // Another round has them under way.
            Ok(0) => node.host.sleep(Duration::from_millis(10)).await,
            Ok(moved) => {
                total += moved;
                backoff = fresh();
            }
            Err(error) if error.retriable => {
                tracing::warn!(%error, "flush failed, trying again");
                backoff.wait(&node.host).await;
            }
            Err(error) if behind.iter().map(|p| p.ladder().tiered_end()).sum::<u64>() == before => {
                return Err(error);
            }
            Err(error) => given_up = Some(error),
        }
    }
}

/// What goes into one object.
struct Plan {
    level: Level,
    parts: Vec<(Arc<Partition>, u32, Cut)>,
}

/// One cut through all partitions, at most one object's worth of each.
async fn round(node: &Arc<Node>, partitions: &[Arc<Partition>]) -> Result<u64> {
    let _alone = node.offloading.lock().await;
    let plans = plan(node, partitions);
    let mut done = stream::iter(plans.into_iter().map(|plan| upload(node, plan)))
        .buffer_unordered(SIDE_BY_SIDE);
    let (mut moved, mut failed) = (0, None);
    while let Some(uploaded) = done.next().await {
        match uploaded {
            Ok((object, footer, ends)) => match commit(node, object, footer, ends).await {
                Ok(bytes) => moved += bytes,
                Err(error) => failed = Some(error),
            },
            Err(error) => failed = Some(error),
        }
    }
    match failed {
        None => Ok(moved),
        Some(error) => Err(error),
    }
}

fn plan(node: &Node, partitions: &[Arc<Partition>]) -> Vec<Plan> {
    let config = &node.config;
    let (mut plans, mut shared) = (Vec::new(), Vec::new());
    let mut room = Room::new(config.tier_object_bytes);
    let free = partitions.iter().filter(|p| !is_aside(node, p.id));
    let compacts = |p: &&Arc<Partition>| p.config().cleanup_policy.compacts();
    // What is compacted is written again soon: apart, so that nobody else's bytes are.
    let (compacted, others): (Vec<_>, Vec<_>) = free.partition(compacts);
    let (first_apart, all) = (others.len(), others.into_iter().chain(compacted));
    for (number, partition) in all.enumerate() {
        if number == first_apart && !shared.is_empty() {
            plans.push(Plan { level: Level::L1, parts: std::mem::take(&mut shared) });
            room = Room::new(config.tier_object_bytes);
        }
        let Some((epoch, cut)) = partition.cut(config.tier_object_bytes) else { continue };
        if cut.bytes >= config.tier_l2_bytes {
            plans.push(Plan { level: Level::L2, parts: vec![(partition.clone(), epoch, cut)] });
            continue;
        }
        if !room.take(cut.bytes, Some(&cut.producers), &cut.aborted) {
            plans.push(Plan { level: Level::L1, parts: std::mem::take(&mut shared) });
            room = Room::new(config.tier_object_bytes);
            room.take(cut.bytes, Some(&cut.producers), &cut.aborted);
        }
        shared.push((partition.clone(), epoch, cut));
    }
    if !shared.is_empty() {
        plans.push(Plan { level: Level::L1, parts: shared });
    }
    plans
}

async fn upload(node: &Arc<Node>, plan: Plan) -> Result<(ObjectRef, Footer, Ends)> {
    let end = |(partition, _, cut): &(Arc<Partition>, u32, Cut)| (partition.clone(), cut.end);
    let ends: Ends = plan.parts.iter().map(end).collect();
    let parts = plan.parts.into_iter().map(|(partition, leader_epoch, cut)| Part {
        partition: partition.id,
        leader_epoch,
        base: cut.base,
        end: cut.end,
        bytes: cut.bytes,
        producers: Some(cut.producers),
        aborted: cut.aborted,
        compacted: false,
        source: Box::new(LocalBatches { node: node.clone(), partition }),
    });
    match node.tiers.upload(node.writer(), plan.level, parts.collect()).await {
        Ok((object, footer)) => {
            let read = |id: &PartitionId| ends.iter().any(|(partition, _)| partition.id == *id);
            node.offload_aside.lock().retain(|id| !read(id));
            Ok((object, footer, ends))
        }
        Err(error) => {
            // One bad copy must not hold the others back.
            if let UploadError::Source { partition, .. } = &error {
                node.offload_aside.lock().put(*partition, node.host.now());
            }
            Err(error.into())
        }
    }
}

/// A partition's local bytes, as an upload reads them.
struct LocalBatches {
    node: Arc<Node>,
    partition: Arc<Partition>,
}

#[async_trait]
impl Batches for LocalBatches {
    async fn next(&mut self, offset: u64) -> std::result::Result<Option<Bytes>, SourceError> {
        let Self { node, partition } = self;
        match partition.read_local(offset, READ_BYTES).await {
            Ok(read) => Ok(read),
            // A slot of the object lane has it too.
            Err(error) if node.tiers.index.holds(partition.id, offset, offset + 1) => {
                tracing::warn!(partition = %partition.id, %error, "hot copy is damaged, reading the bucket");
                read_remote(&node.tiers, partition.id, offset).await
            }
            Err(error) => Err(SourceError::Damaged(error.to_string())),
        }
    }
}
