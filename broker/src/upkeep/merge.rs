//! Merging of small objects: when, and which. The work itself is a `job`.

use std::collections::BTreeSet;
use std::sync::Arc;

use levee_proto::ids::TopicId;
use levee_proto::metalog::{JOB_MERGE, ObjectId, ObjectRef};
use levee_tiering::merge::{Candidate, pick};
use levee_tiering::remote::{HeldRange, Source};

use super::job::{self, Done, Failed};
use super::needed::Needed;
use super::{LONGEST_ASIDE, Regularly};
use crate::aside::Aside;
use crate::error::{Error, Result};
use crate::node::Node;
use crate::partition::Partition;

/// Rounds between two looks at how much of the large objects is still needed.
const SLOW_ROUNDS: u32 = 30;

/// Runs until the session ends.
pub(super) async fn run(node: Arc<Node>) {
    let mut aside = Aside::new(LONGEST_ASIDE);
    let mut round = 0;
    let mut times = Regularly::every(node.config.merge_interval, "merging");
    while times.is_due(&node).await {
        times.told(merge_all(&node, &mut aside, round % SLOW_ROUNDS == 0).await);
        round += 1;
    }
}

async fn merge_all(node: &Arc<Node>, aside: &mut Aside<ObjectId>, all: bool) -> Result<()> {
    while !node.is_ended()
        && let Some(Done { inputs, outputs, bytes }) = merge(node, aside, all).await?
    {
        tracing::info!(inputs, outputs, bytes, "small objects merged");
    }
    Ok(())
}

/// One job; nothing where nothing is worth one.
async fn merge(node: &Arc<Node>, aside: &mut Aside<ObjectId>, all: bool) -> Result<Option<Done>> {
    let full = node.config.tier_object_bytes / 2;
    let _alone = node.rewriting.lock().await;
    {
        let state = node.view.read();
        aside.retain(|id| state.objects.contains_key(id));
    }
    let candidates = candidates(node, aside, full, all).await;
    let inputs = pick(&candidates, node.config.merge_fan_in as usize, full);
    if inputs.is_empty() {
        return Ok(None);
    }
    match job::run(node, JOB_MERGE, inputs.clone()).await {
        Ok(done) => {
            metrics::counter!("levee_merge_jobs_total", "outcome" => "ok").increment(1);
            metrics::counter!("levee_merge_objects_total").increment(done.inputs as u64);
            metrics::counter!("levee_merge_bytes_total").increment(done.bytes);
            Ok(Some(done))
        }
        Err(failed) => {
            metrics::counter!("levee_merge_jobs_total", "outcome" => "failed").increment(1);
            let (error, left_out) = match failed {
                Failed::Later(error) => (error, Vec::new()),
                Failed::Damaged { error, inputs } => (error, inputs),
                Failed::Needless => (Error::internal("merging made nothing fewer"), inputs),
            };
            left_out.into_iter().for_each(|id| aside.put(id, node.host.now()));
            Err(error)
        }
    }
}

/// Objects that may be merged. Large ones only with `all`: how much of them is needed is known by
/// a look at each of their ranges.
async fn candidates(node: &Node, aside: &Aside<ObjectId>, full: u64, all: bool) -> Vec<Candidate> {
    let now = node.host.now();
    let compacted: BTreeSet<TopicId> = {
        let all = node.all_partitions().into_iter();
        let compacts = |p: &Arc<Partition>| p.config().cleanup_policy.compacts();
        all.filter(compacts).map(|partition| partition.id.topic).collect()
    };
    let (needed, objects): (Needed, Vec<ObjectRef>) = {
        let state = node.view.settled_state().await;
        let free = state.objects.values().filter(|object| {
            let id = object.id();
            (all || object.bytes < full) && !aside.holds(&id, now) && !state.is_held(&id)
        });
        (Needed::of(&state), free.cloned().collect())
    };
    let index = &node.tiers.index;
    let candidate = |object: ObjectRef| {
        let id = object.id();
        let held = index.held_by(Source::Object(id))?;
        let bytes = match all {
            true => {
                let is_needed =
                    |held: &&HeldRange| needed.in_object(node, held.partition, held.end);
                held.ranges.iter().filter(is_needed).map(|held| held.len).sum()
            }
            false => object.bytes,
        };
        Some(Candidate {
            id,
            bytes,
            newest_ms: held.newest_ms,
            single: object.single,
            compacted: held.ranges.iter().all(|held| held.compacted),
            is_apart: held.ranges.iter().all(|held| compacted.contains(&held.partition.topic)),
        })
    };
    objects.into_iter().filter_map(candidate).collect()
}
