//! Scrub: everything in the bucket is read again, slowly, one object after the other. What is
//! damaged is written again from another copy, or reported to the byte.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use levee_proto::metalog::{JOB_REPAIR, ObjectId, ObjectRef};
use levee_tiering::budget::Budget;
use levee_tiering::remote::{FootersError, HeldRange, Source};
use levee_tiering::scrub::{Damage, scrub};

use super::job::{self, Failed};
use crate::error::{Error, Result};
use crate::node::Node;

/// How long a bucket that does not answer is left alone, and how often one object is tried.
const PAUSE: Duration = Duration::from_secs(30);
const TRIES: u32 = 3;

/// Objects that are damaged and could not be repaired, in words that name the place.
pub type Damages = BTreeMap<ObjectId, Vec<String>>;

/// Runs until the session ends.
pub(super) async fn run(node: Arc<Node>) {
    let Some(rate) = node.config.scrub_bytes_per_second else { return };
    let own = Budget::new(node.host.clone(), rate, u64::MAX);
    while !node.is_ended() {
        let started = node.host.now();
        pass(&node, &own).await;
        let took = node.host.now().since(started);
        metrics::gauge!("levee_scrub_pass_seconds").set(took.as_secs_f64());
        let rest = node.config.scrub_interval.saturating_sub(took).max(Duration::from_secs(1));
        node.host.sleep(rest).await;
    }
}

/// All objects that are referenced now, from a random one on: so that frequent restarts still get
/// everywhere.
async fn pass(node: &Arc<Node>, own: &Budget) {
    let mut objects: Vec<(String, ObjectId)> = {
        let state = node.view.read();
        state.objects.values().map(|object| (object.key(), object.id())).collect()
    };
    objects.sort();
    let first = node.host.random_below(objects.len().max(1) as u64) as usize;
    objects.rotate_left(first);
    for (key, id) in objects {
        for _ in 0..TRIES {
            if node.is_ended() {
                return;
            }
            let referenced = {
                let state = node.view.read();
                state.objects.get(&id).filter(|_| !state.is_held(&id)).cloned()
            };
            let Some(object) = referenced else { break };
            match one(node, own, &key, &object).await {
                Ok(()) => break,
                Err(error) => {
                    tracing::warn!(key, %error, "scrub waits");
                    node.host.sleep(PAUSE).await;
                }
            }
        }
        forget_unreferenced(node);
    }
}

async fn one(node: &Arc<Node>, own: &Budget, key: &str, object: &ObjectRef) -> Result<()> {
    let damages = match node.tiers.fresh_footer(object).await {
        Ok(footer) => {
            let budgets = [own, &*node.budget];
            let found = scrub(&node.store, &budgets, key, &footer).await;
            found.map_err(Error::store_unavailable)?
        }
        Err(FootersError::Store(error)) => return Err(Error::store_unavailable(error)),
        Err(error) => {
            tracing::error!(key, %error, "the footer of a referenced object cannot be read");
            all_of(node, object)
        }
    };
    metrics::counter!("levee_scrub_objects_total").increment(1);
    metrics::counter!("levee_scrub_bytes_total").increment(object.bytes);
    let id = object.id();
    // It may have been replaced and deleted under the read.
    if damages.is_empty() || !node.view.read().objects.contains_key(&id) {
        node.unrepaired.lock().remove(&id);
        return Ok(());
    }
    for damage in &damages {
        tracing::error!(key, %damage, "damaged in the bucket");
    }
    repair(node, key, id, &damages).await
}

/// What the index knows of an object whose footer is lost.
fn all_of(node: &Node, object: &ObjectRef) -> Vec<Damage> {
    let held = node.tiers.index.held_by(Source::Object(object.id()));
    let damage = |held: &HeldRange| {
        let HeldRange { partition, base, end, .. } = *held;
        Damage { partition, base, end, bytes: 0..object.bytes }
    };
    held.map(|held| held.ranges.iter().map(damage).collect()).unwrap_or_default()
}

/// Writes the object again: each batch from the object where it is whole, else from another copy.
async fn repair(node: &Arc<Node>, key: &str, id: ObjectId, damages: &[Damage]) -> Result<()> {
    match job::run(node, JOB_REPAIR, vec![id]).await {
        Ok(_) => {
            metrics::counter!("levee_scrub_damaged_total", "outcome" => "repaired").increment(1);
            tracing::info!(key, "repaired from another copy");
            Ok(())
        }
        Err(Failed::Damaged { error, .. }) => {
            metrics::counter!("levee_scrub_damaged_total", "outcome" => "lost").increment(1);
            tracing::error!(key, %error, "no other copy: these records cannot be read");
            let places = damages.iter().map(|damage| format!("{key}: {damage}")).collect();
            node.unrepaired.lock().insert(id, places);
            Ok(())
        }
        Err(Failed::Later(error)) => Err(error),
        Err(Failed::Needless) => Ok(()),
    }
}

/// Objects that were replaced or deleted since are no damage any more.
fn forget_unreferenced(node: &Node) {
    let state = node.view.read();
    let mut unrepaired = node.unrepaired.lock();
    unrepaired.retain(|id, _| state.objects.contains_key(id));
    metrics::gauge!("levee_scrub_damaged_objects").set(unrepaired.len() as f64);
}
