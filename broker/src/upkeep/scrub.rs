//! Scrub: everything in the bucket is read again, slowly, one object after the other. What is
//! damaged is written again from another copy, or reported to the byte.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use levee_proto::metalog::{JOB_REPAIR, ObjectId, ObjectRef};
use levee_tiering::budget::Budget;
use levee_tiering::remote::FootersError;
use levee_tiering::scrub::{Damage, scrub};

use super::job::{self, Failed};
use crate::error::{Error, Result};
use crate::node::Node;

/// How long a scrub with nothing to read, or a bucket that does not answer, waits.
const IDLE: Duration = Duration::from_secs(30);

/// Objects that are damaged and could not be repaired, in words that name the place.
pub type Damages = BTreeMap<ObjectId, Vec<String>>;

/// Runs until the session ends. A restart goes on at a random place, so that frequent restarts
/// still get everywhere.
pub async fn run(node: Arc<Node>) {
    let Some(rate) = node.config.scrub_bytes_per_second else { return };
    let own = Budget::new(node.host.clone(), rate, u64::MAX);
    let mut cursor = start(&node);
    let mut since = node.host.now();
    while !node.is_ended() {
        let Some((key, object)) = next(&node, cursor.as_deref()) else {
            let took = node.host.now().since(since);
            if cursor.take().is_some() {
                metrics::gauge!("levee_scrub_pass_seconds").set(took.as_secs_f64());
            }
            node.host.sleep(IDLE).await;
            since = node.host.now();
            continue;
        };
        match one(&node, &own, &key, &object).await {
            Ok(()) => cursor = Some(key),
            Err(error) => {
                tracing::warn!(key, %error, "scrub waits");
                node.host.sleep(IDLE).await;
            }
        }
    }
}

fn start(node: &Node) -> Option<String> {
    let state = node.view.read();
    let keys: Vec<String> = state.objects.values().map(ObjectRef::key).collect();
    let at = node.host.random_below(keys.len().max(1) as u64);
    keys.into_iter().nth(at as usize)
}

/// The next object by key that no job works on.
fn next(node: &Node, after: Option<&str>) -> Option<(String, ObjectRef)> {
    let state = node.view.read();
    let keyed = state.objects.values().map(|object| (object.key(), object));
    let left = keyed.filter(|(key, object)| {
        after.is_none_or(|after| key.as_str() > after) && !state.is_held(&object.id())
    });
    let (key, object) = left.min_by(|(a, _), (b, _)| a.cmp(b))?;
    Some((key, object.clone()))
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
            // It may have been deleted since; a referenced one is damaged from end to end.
            if !node.view.read().objects.contains_key(&object.id()) {
                return Ok(());
            }
            tracing::error!(key, %error, "the footer of a referenced object cannot be read");
            all_of(node, object)
        }
    };
    metrics::counter!("levee_scrub_objects_total").increment(1);
    metrics::counter!("levee_scrub_bytes_total").increment(object.bytes);
    let is_referenced = node.view.read().objects.contains_key(&object.id());
    if damages.is_empty() || !is_referenced {
        forget(node, object.id());
        return Ok(());
    }
    for damage in &damages {
        tracing::error!(key, %damage, "damaged in the bucket");
    }
    repair(node, key, object.id(), damages).await;
    Ok(())
}

/// What the index knows of an object whose footer is lost.
fn all_of(node: &Node, object: &ObjectRef) -> Vec<Damage> {
    let source = levee_tiering::remote::Source::Object(object.id());
    let held = node.tiers.index.held_by(source).unwrap_or_default();
    let damage = |(partition, base, end)| Damage { partition, base, end, bytes: 0..object.bytes };
    held.into_iter().map(damage).collect()
}

/// Writes the object again: each batch from the object where it is whole, else from another copy.
async fn repair(node: &Arc<Node>, key: &str, id: ObjectId, damages: Vec<Damage>) {
    let repaired = job::run(node, JOB_REPAIR, vec![id]).await;
    let outcome = if repaired.is_ok() { "repaired" } else { "lost" };
    metrics::counter!("levee_scrub_damaged_total", "outcome" => outcome).increment(1);
    match repaired {
        Ok(_) => {
            tracing::info!(key, "repaired from another copy");
            forget(node, id);
        }
        Err(Failed { error, .. }) => {
            tracing::error!(key, %error, "no other copy: these records cannot be read");
            let places = damages.iter().map(|damage| format!("{key}: {damage}")).collect();
            node.damages.lock().insert(id, places);
            count(node);
        }
    }
}

fn forget(node: &Node, id: ObjectId) {
    node.damages.lock().remove(&id);
    count(node);
}

fn count(node: &Node) {
    metrics::gauge!("levee_scrub_damaged_objects").set(node.damages.lock().len() as f64);
}
