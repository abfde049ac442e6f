//! Compaction of topics with `cleanup.policy=compact`: when, of which partitions, and the jobs.
//!
//! ```text
//! due? -> keys of what is not compacted yet -> for each window of the log: JobStart -> rewrite -> upload, verify -> prove -> JobEnd
//! ```
//! What was compacted is known by the flag of its ranges: the front of a log that is flagged without
//! a gap is clean, everything behind it is dirty. Owns: that choice, what is left out because it
//! cannot be read, and the order that keeps the flag true. Does not own: which records go
//! (`levee_tiering::compact`), the exchange (`job`).

mod due;
mod window;
mod round;

use std::collections::BTreeSet;
use std::sync::Arc;

use levee_proto::grpc::ErrorCode;
use levee_proto::ids::PartitionId;
use levee_proto::metalog::ObjectId;

use super::job::{Done, Failed};
use super::{LONGEST_ASIDE, Regularly};
use crate::aside::Aside;
use crate::error::{Error, Result};
use crate::node::Node;
use crate::partition::Partition;
use due::{Due, choose, due_now};

/// Objects of one job: each has its footer and a window in memory.
const INPUTS_MAX: usize = 64;

/// What could not be read, and is left out for a while.
struct Left {
    /// Their bytes can be copied, their records not be compacted.
    partitions: Aside<PartitionId>,
    /// They cannot even be copied: no partition is compacted from there on.
    objects: Aside<ObjectId>,
}

/// Why a round ended early. What its jobs did before stays.
enum Stopped {
    /// The bucket or the metadata did not answer, or the inputs changed: try again.
    Later(Error),
    Partition(Error, PartitionId),
    Objects(Error, Vec<ObjectId>),
}

impl From<Error> for Stopped {
    fn from(error: Error) -> Self {
        Self::Later(error)
    }
}

impl From<Failed> for Stopped {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Later(error) => Self::Later(error),
            Failed::Damaged { error, inputs } => Self::Objects(error, inputs),
            Failed::Needless => Self::Later(Error::internal("a compaction was called needless")),
        }
    }
}

/// Runs until the session ends.
pub(super) async fn run(node: Arc<Node>) {
    let (partitions, objects) = (Aside::new(LONGEST_ASIDE), Aside::new(LONGEST_ASIDE));
    let mut left = Left { partitions, objects };
    let mut times = Regularly::every(node.config.compaction_interval, "compaction");
    while times.is_due(&node).await {
        times.told(compact_all(&node, &mut left).await);
    }
}

async fn compact_all(node: &Arc<Node>, left: &mut Left) -> Result<()> {
    let (mut tried, mut failed) = (BTreeSet::new(), None);
    while !node.is_ended() {
        let _alone = node.rewriting.lock().await;
        left.forget_gone(node);
        left.tell();
        let set = choose(due_now(node, left, &tried).await);
        // Whatever comes of it: others of the set may have found no room for their keys.
        let Some(first) = set.first() else { break };
        tried.insert(first.partition.id);
        let outcome = match round::compact(node, &set).await {
            Ok((done, reached)) => {
                left.partitions.retain(|id| !reached.contains(id));
                tried.extend(&reached);
                let (partitions, Done { inputs, outputs, bytes }) = (reached.len(), done);
                tracing::info!(partitions, inputs, outputs, bytes, "compacted");
                metrics::counter!("levee_compaction_objects_total").increment(inputs as u64);
                metrics::counter!("levee_compaction_bytes_total").increment(bytes);
                Ok("ok")
            }
            Err(Stopped::Later(error)) => Err(error),
            Err(Stopped::Partition(error, id)) => {
                tried.insert(id);
                left.leave_partition(node, &set, &error, id);
                Ok("left out")
            }
            Err(Stopped::Objects(error, ids)) => {
                left.leave_objects(node, &set, &error, ids);
                Ok("left out")
            }
        };
        let name = outcome.as_ref().map_or("failed", |name| *name);
        metrics::counter!("levee_compaction_jobs_total", "outcome" => name).increment(1);
        // What changed under one partition does not hold up the others.
        match outcome {
            Err(error) if error.code == ErrorCode::StoreUnavailable => return Err(error),
            outcome => failed = failed.or(outcome.err()),
        }
    }
    failed.map_or(Ok(()), Err)
}

impl Left {
    fn leave_partition(&mut self, node: &Node, set: &[Due], error: &Error, id: PartitionId) {
        let named = set.iter().find(|due| due.partition.id == id);
        let topic = named.map_or("", |due| due.partition.topic.as_str());
        tracing::error!(
            topic, partition = id.partition, %error,
            "left out of compaction; delete its records up to the one that is named, or set cleanup.policy=delete"
        );
        self.partitions.put(id, node.host.now());
    }

    fn leave_objects(&mut self, node: &Node, set: &[Due], error: &Error, ids: Vec<ObjectId>) {
        let waits = |due: &&Due| ids.iter().any(|id| due.objects.contains(id));
        let partitions = set.iter().filter(waits).count();
        tracing::error!(
            partitions, %error,
            "compacted up to what is damaged only; delete the records up to there, or bring the object back"
        );
        ids.into_iter().for_each(|id| self.objects.put(id, node.host.now()));
    }

    fn forget_gone(&mut self, node: &Node) {
        let compacts = |partition: Arc<Partition>| partition.config().cleanup_policy.compacts();
        self.partitions.retain(|id| node.partition_by_id(*id).is_some_and(compacts));
        let state = node.view.read();
        self.objects.retain(|id| state.objects.contains_key(id));
    }

    fn tell(&self) {
        let left = self.partitions.len() + self.objects.len();
        metrics::gauge!("levee_compaction_left_out").set(left as f64);
    }
}
