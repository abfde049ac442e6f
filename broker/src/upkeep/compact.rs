//! Compaction of topics with `cleanup.policy=compact`: when, of which partitions, and the jobs.
//!
//! ```text
//! due? -> keys of what is not compacted yet -> for each group of objects: JobStart -> rewrite -> upload, verify -> prove -> JobEnd
//! ```
//! What was compacted is known by the flag of its ranges: the front of a log that is flagged without
//! a gap is clean, everything behind it is dirty. Owns: that choice, and the order that keeps it
//! true. Does not own: which records go (`levee_tiering::compact`), the exchange (`job`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use levee_proto::ids::{PartitionId, Writer};
use levee_proto::metalog::{JOB_COMPACT, ObjectId};
use levee_proto::object::{Footer, Level, Range};
use levee_tiering::compact::{Cleaner, Cleaners, KeyMap, Rewriter, Rules, Unread, map_keys};
use levee_tiering::merge::{Copies, Input, Kept, Tile, Tiles, Windows, prove_compacted, tile};
use levee_tiering::remote::{RangeRef, Source};
use levee_tiering::upload::{Planned, SourceError};

use super::job::{self, Done, Failed, OtherCopies, Written};
use super::needed::Needed;
use super::{LONGEST_ASIDE, Regularly};
use crate::aside::Aside;
use crate::error::{Error, Result};
use crate::node::Node;
use crate::partition::Partition;

/// Objects of one job: each has a window in memory.
const INPUTS_MAX: usize = 64;
/// Data that is gathered in memory for one object.
const OBJECT_BYTES: u64 = 32 << 20;

/// Runs until the session ends.
pub(super) async fn run(node: Arc<Node>) {
    let mut aside = Aside::new(LONGEST_ASIDE);
    let mut times = Regularly::every(node.config.compaction_interval, "compaction");
    while times.is_due(&node).await {
        times.told(compact_all(&node, &mut aside).await);
    }
}

/// A partition that is worth compacting.
struct Due {
    partition: Arc<Partition>,
    /// Objects that hold a part of it below `to`, and the offsets that each holds.
    objects: BTreeMap<ObjectId, (u64, u64)>,
    log_start: u64,
    /// Everything below is clean, and everything below `to` may be compacted.
    dirty_from: u64,
    to: u64,
    dirty_bytes: u64,
}

async fn compact_all(node: &Arc<Node>, aside: &mut Aside<PartitionId>) -> Result<()> {
    let mut tried = BTreeSet::new();
    while !node.is_ended() {
        let _alone = node.rewriting.lock().await;
        let set = choose(due_now(node, aside, &tried).await);
        if set.is_empty() {
            break;
        }
        let ids: Vec<PartitionId> = set.iter().map(|due| due.partition.id).collect();
        // The others may have found no room for their keys.
        tried.extend(ids.first());
        let outcome = match compact(node, &set).await {
            Ok((done, reached)) => {
                aside.retain(|id| !reached.contains(id));
                tried.extend(&reached);
                let (partitions, Done { inputs, outputs, bytes }) = (reached.len(), done);
                tracing::info!(partitions, inputs, outputs, bytes, "compacted");
                metrics::counter!("levee_compaction_objects_total").increment(inputs as u64);
                metrics::counter!("levee_compaction_bytes_total").increment(bytes);
                Ok("ok")
            }
            Err(Failed::Damaged { error, inputs }) => {
                tracing::error!(%error, "some partitions cannot be compacted");
                let is_blamed = |due: &&Due| inputs.iter().any(|id| due.objects.contains_key(id));
                tried.extend(&ids);
                let blamed = set.iter().filter(is_blamed);
                blamed.for_each(|due| aside.put(due.partition.id, node.host.now()));
                Ok("damaged")
            }
            Err(Failed::Later(error)) => Err(error),
            Err(Failed::Needless) => {
                tried.extend(&ids);
                Ok("needless")
            }
        };
        let name = outcome.as_ref().map_or("failed", |name| *name);
        metrics::counter!("levee_compaction_jobs_total", "outcome" => name).increment(1);
        outcome?;
    }
    Ok(())
}

/// The dirtiest first.
async fn due_now(
    node: &Node,
    aside: &Aside<PartitionId>,
    tried: &BTreeSet<PartitionId>,
) -> Vec<Due> {
    // The index must have caught up with what is committed.
    drop(node.view.settled_state().await);
    let now = node.host.now();
    let is_free = |p: &Arc<Partition>| !tried.contains(&p.id) && !aside.holds(&p.id, now);
    let free = node.all_partitions().into_iter().filter(is_free);
    let mut all: Vec<Due> = free.filter_map(|partition| due(node, partition)).collect();
    {
        let state = node.view.read();
        let is_free = |id: &ObjectId| state.objects.contains_key(id) && !state.is_held(id);
        all.retain(|due| due.objects.keys().all(is_free));
    }
    all.sort_by_key(|due| (std::cmp::Reverse(due.dirty_bytes), due.partition.id));
    all
}

fn due(node: &Node, partition: Arc<Partition>) -> Option<Due> {
    let config = partition.config();
    if !config.cleanup_policy.compacts() {
        return None;
    }
    let ladder = partition.readable().ok()?;
    let (id, index, now_ms) = (partition.id, &node.tiers.index, node.host.wall_ms());
    let log_start = ladder.log_start();
    let end = ladder.last_stable().min(ladder.tiered_end());
    let ranges = index.ranges(id);
    // Slots that no object holds whole become one that overlaps: it must find nothing compacted.
    let loose = ranges.iter().filter(|range| {
        let is_slot = matches!(range.source, Source::Slot(..)) && range.end > log_start;
        is_slot && !index.in_objects(id, range.base, range.end)
    });
    let end = loose.map(|range| range.base).fold(end, u64::min);
    // Without a lag whatever time a client gave its record.
    let before_ms = match millis(config.min_compaction_lag_ms)? {
        0 => i64::MAX,
        lag => now_ms.saturating_sub(lag),
    };
    let is_old = |range: &RangeRef| range.compacted || range.max_timestamp <= before_ms;
    let tiles = index.tiling(id, log_start, end);
    let tiles: Vec<RangeRef> = tiles
        .into_iter()
        .take_while(|tile| {
            matches!(tile.source, Source::Object(_)) && tile.end <= end && is_old(tile)
        })
        .collect();
    let to = tiles.last()?.end;
    let first = tiles.iter().find(|tile| !tile.compacted)?;
    let dirty = tiles.iter().filter(|tile| !tile.compacted);
    let dirty_bytes: u64 = dirty.clone().map(|tile| tile.len).sum();
    let all_bytes: u64 = tiles.iter().map(|tile| tile.len).sum();
    let oldest = dirty.map(|tile| tile.first_timestamp).filter(|time| *time >= 0).min();
    let waits = millis(config.max_compaction_lag_ms).zip(oldest);
    let is_late = waits.is_some_and(|(most, oldest)| oldest < now_ms.saturating_sub(most));
    let is_dirty = dirty_bytes as f64 >= config.min_cleanable_dirty_ratio * all_bytes as f64;
    if !is_late && !is_dirty {
        return None;
    }
    let mut objects = BTreeMap::new();
    for range in ranges.iter().filter(|range| range.end > log_start && range.base < to) {
        if let Source::Object(object) = range.source {
            let held = objects.entry(object).or_insert((range.base, range.end));
            *held = (held.0.min(range.base), held.1.max(range.end));
        }
    }
    let dirty_from = first.base.max(log_start);
    Some(Due { partition, objects, log_start, dirty_from, to, dirty_bytes })
}

fn millis(duration: Option<std::time::Duration>) -> Option<i64> {
    duration.map(|duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX))
}

/// Partitions that are compacted together: the dirtiest, and those that share its objects.
fn choose(all: Vec<Due>) -> Vec<Due> {
    let mut objects: BTreeSet<ObjectId> = BTreeSet::new();
    let mut set: Vec<Due> = Vec::new();
    for due in all {
        let more = due.objects.keys().filter(|id| !objects.contains(id)).count();
        if set.is_empty() || objects.len() + more <= INPUTS_MAX {
            objects.extend(due.objects.keys());
            set.push(due);
        }
    }
    set
}

/// Objects that are replaced together, each group by a job of its own, in the order of the log: what
/// a job marks as compacted must be all that is compared with what is below.
fn groups(set: &[Due]) -> Vec<Vec<ObjectId>> {
    let all: BTreeSet<ObjectId> = set.iter().flat_map(|due| due.objects.keys().copied()).collect();
    let [one] = set else { return vec![all.into_iter().collect()] };
    in_order(&one.objects)
}

fn in_order(objects: &BTreeMap<ObjectId, (u64, u64)>) -> Vec<Vec<ObjectId>> {
    let mut held: Vec<(u64, u64, ObjectId)> =
        objects.iter().map(|(id, (base, end))| (*base, *end, *id)).collect();
    held.sort_unstable();
    let mut groups: Vec<Vec<ObjectId>> = Vec::new();
    let mut reach = 0;
    for (base, end, id) in held {
        match groups.last_mut() {
            // One that begins below the end of another belongs to it.
            Some(group) if base < reach || group.len() < INPUTS_MAX => group.push(id),
            _ => groups.push(vec![id]),
        }
        reach = reach.max(end);
    }
    groups
}

/// What all jobs of a round need.
struct Round<'a> {
    node: &'a Arc<Node>,
    /// Ranges by partition and end.
    needed: BTreeSet<(PartitionId, u64)>,
    inputs: Vec<Input>,
    copies: Arc<dyn Copies>,
}

/// Also the partitions that the map of keys had room for.
async fn compact(
    node: &Arc<Node>,
    set: &[Due],
) -> std::result::Result<(Done, BTreeSet<PartitionId>), Failed> {
    let ids: BTreeSet<ObjectId> = set.iter().flat_map(|due| due.objects.keys().copied()).collect();
    let all: Vec<ObjectId> = ids.iter().copied().collect();
    let inputs = job::inputs(node, &all).await?;
    let copies: Arc<dyn Copies> = Arc::new(OtherCopies { node: node.clone(), not_from: ids });
    let needed = Needed::now(node).await.in_inputs(node, &inputs);
    let round = Round { node, needed, inputs, copies };
    let (mut cleaners, keys) = round.map(set).await?;
    let reached = |due: &&Due| cleaners.contains_key(&due.partition.id);
    let reached: Vec<ObjectId> = set
        .iter()
        .filter(reached)
        .flat_map(|due| {
            let to = cleaners.get(&due.partition.id).map_or(0, Cleaner::to);
            due.objects.iter().filter(move |(_, (base, _))| *base < to).map(|(id, _)| *id)
        })
        .collect();
    let mut groups = groups(set);
    groups.iter_mut().for_each(|group| group.retain(|id| reached.contains(id)));
    groups.retain(|group| !group.is_empty());
    let (mut done, last) = (Done::default(), groups.len().saturating_sub(1));
    for (number, group) in groups.into_iter().enumerate() {
        let job = job::begin(node, JOB_COMPACT, &group).await?;
        let expected = (number == last).then_some(keys);
        let written = round.write(job, &group, &mut cleaners, expected).await;
        let Done { inputs, outputs, bytes } = job::end(node, job, group.len(), written).await?;
        done = Done {
            inputs: done.inputs + inputs,
            outputs: done.outputs + outputs,
            bytes: done.bytes + bytes,
        };
    }
    // From now on readers meet what was compacted, and nothing keeps room for what was left out.
    for due in set {
        if let Some(cleaner) = cleaners.get(&due.partition.id) {
            due.partition.drop_local(cleaner.to(), true).await;
        }
    }
    Ok((done, cleaners.into_keys().collect()))
}

impl Round<'_> {
    fn is_needed(&self, range: &Range) -> bool {
        self.needed.contains(&(range.partition, range.end))
    }

    /// Reads what is dirty. How far each partition can be compacted, and how many keys there are.
    async fn map(&self, set: &[Due]) -> std::result::Result<(Cleaners, u64), Failed> {
        let node = self.node;
        let mut tiles = tile(&self.inputs, |range| self.is_needed(range));
        tiles.retain(|id, _| set.iter().any(|due| due.partition.id == *id));
        let windows = Windows::new(node.store.clone(), node.budget.clone(), &self.inputs);
        let placed = windows.place(&self.inputs, &mut tiles).await;
        placed
            .map_err(|(input, error)| self.failed(error, vec![self.inputs[input].object.id()]))?;
        let mut map = KeyMap::new(node.config.compaction_map_bytes);
        let mut found = Vec::new();
        for due in set {
            let id = due.partition.id;
            let Some(tiles) = tiles.get(&id) else { continue };
            let aborted = node.aborted_in(&due.partition, due.log_start..due.to).await;
            let aborted = aborted.map_err(|error| Failed::Later(error.into()))?;
            let of_tile = |tile: &Tile| {
                Windows::of_tile(node.store.clone(), node.budget.clone(), &self.inputs, tile)
            };
            let dirty = (tiles.as_slice(), due.dirty_from..due.to);
            let told = aborted.iter().copied().collect();
            let to = map_keys(&mut map, of_tile, &self.copies, id, dirty, &told).await;
            let to =
                to.map_err(|error| self.failed(error, due.objects.keys().copied().collect()))?;
            // Without room for the next key there is none for other partitions either.
            if to > due.dirty_from {
                found.push((due, to, told));
            }
            if to < due.to {
                break;
            }
        }
        let (keys, map) = (map.len() as u64, Arc::new(map));
        let rules = |(due, to, aborted): (&Due, u64, _)| {
            let Due { partition, dirty_from, .. } = due;
            let rules = Rules {
                partition: partition.id,
                map: map.clone(),
                dirty_from: *dirty_from,
                to,
                now_ms: node.host.wall_ms(),
                delete_retention_ms: millis(partition.config().delete_retention_ms),
                aborted,
                local_start: partition.local_start(),
            };
            (partition.id, Cleaner::new(rules))
        };
        Ok((found.into_iter().map(rules).collect(), keys))
    }

    /// `keys`: how many there are, for the job that ends the round.
    async fn write(
        &self,
        job: u64,
        group: &[ObjectId],
        cleaners: &mut Cleaners,
        keys: Option<u64>,
    ) -> std::result::Result<Written, Failed> {
        let node = self.node;
        let inputs = self.inputs.iter().filter(|input| group.contains(&input.object.id()));
        let inputs: Vec<Input> = inputs.cloned().collect();
        let mut tiles = marked(tile(&inputs, |range| self.is_needed(range)), cleaners);
        let windows = Arc::new(Windows::new(node.store.clone(), node.budget.clone(), &inputs));
        let placed = windows.place(&inputs, &mut tiles).await;
        placed.map_err(|(input, error)| self.failed(error, vec![inputs[input].object.id()]))?;
        let copies = self.copies.clone();
        let object_bytes = node.config.tier_object_bytes.min(OBJECT_BYTES);
        let mut written = Vec::new();
        let mut rewriter = Rewriter::new(windows, copies, tiles.clone(), cleaners, object_bytes);
        loop {
            let parts = rewriter.next().await.map_err(|unread| self.unread(unread, group))?;
            let Some(parts) = parts else { break };
            let level = if parts.len() == 1 { Level::L2 } else { Level::L1 };
            let (writer, seq) = (Writer::job(job), written.len() as u64);
            let planned = Planned { level, writer, seq, parts };
            let (object, footer) = node
                .tiers
                .put(planned, node.tiers.progress)
                .await
                .map_err(|error| Failed::Later(error.into()))?;
            job::ensure_whole(node, &object, &footer).await?;
            written.push((object, footer));
        }
        let kept = kept(&tiles, cleaners);
        let footers: Vec<Footer> = written.iter().map(|(_, footer)| footer.clone()).collect();
        let blame =
            |why: String| Failed::Damaged { error: Error::internal(why), inputs: group.to_vec() };
        prove_compacted(&inputs, |range| self.is_needed(range), &tiles, &kept, &footers)
            .map_err(|unproven| blame(unproven.to_string()))?;
        let met: u64 = cleaners.values().map(Cleaner::met).sum();
        match keys {
            Some(keys) if keys != met => {
                Err(blame(format!("{keys} keys, the newest records of {met} were met")))
            }
            _ => Ok(written),
        }
    }

    fn unread(&self, unread: Unread, group: &[ObjectId]) -> Failed {
        let Unread { partition, offset, error } = unread;
        match self.failed(error, group.to_vec()) {
            Failed::Damaged { error, inputs } => {
                let why = format!("{partition} from offset {offset} on: {}", error.message);
                Failed::Damaged { error: Error::corrupt_data(why), inputs }
            }
            later => later,
        }
    }

    fn failed(&self, error: SourceError, inputs: Vec<ObjectId>) -> Failed {
        match error {
            SourceError::Store(error) => Failed::Later(Error::store_unavailable(error)),
            damaged => Failed::Damaged { error: Error::corrupt_data(damaged), inputs },
        }
    }
}

/// Tiles below the end of their cleaner are to be compacted; one that reaches over it is cut.
fn marked(tiles: Tiles, cleaners: &Cleaners) -> Tiles {
    let one = |(id, tiles): (PartitionId, Vec<Tile>)| {
        let to = cleaners.get(&id).map_or(0, Cleaner::to);
        let mark = |tile: Tile| match tile {
            tile if tile.end <= to => vec![Tile { to_compact: true, ..tile }],
            tile if tile.base < to => {
                let (below, above) = tile.cut(to);
                vec![Tile { to_compact: true, ..below }, above]
            }
            tile => vec![tile],
        };
        (id, tiles.into_iter().flat_map(mark).collect())
    };
    tiles.into_iter().map(one).collect()
}

/// What is left of the partitions that were compacted in this job.
fn kept(tiles: &Tiles, cleaners: &mut Cleaners) -> BTreeMap<PartitionId, Kept> {
    let compacted = cleaners.iter_mut().filter(|(id, _)| tiles.contains_key(id));
    compacted.map(|(id, cleaner)| (*id, cleaner.take_kept())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_follow_on_each_other_and_never_interleave() {
        let id = |seq| ObjectId { writer: Writer(1), seq };
        let objects = |held: &[(u64, u64)]| {
            held.iter().enumerate().map(|(seq, held)| (id(seq as u64), *held)).collect()
        };
        let many: Vec<(u64, u64)> = (0..150).map(|n| (n * 10, n * 10 + 10)).collect();
        let sizes: Vec<usize> = in_order(&objects(&many)).iter().map(Vec::len).collect();
        assert_eq!(sizes, [64, 64, 22]);
        // One that holds the front and the end of the log holds all of it together.
        let mut wide = many.clone();
        wide.push((0, 1500));
        assert_eq!(in_order(&objects(&wide)).len(), 1);
        assert!(in_order(&objects(&[])).is_empty());
    }
}
