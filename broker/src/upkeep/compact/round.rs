//! One round: the keys of what is dirty, then the log from its start on, a job for each window.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range as Offsets;
use std::sync::Arc;

use levee_proto::ids::{PartitionId, Writer};
use levee_proto::metalog::{JOB_COMPACT, ObjectId};
use levee_proto::object::{Aborted, Footer, Level, Range};
use levee_tiering::compact::{
    Cleaner, Cleaners, Dirty, KeyMap, Rewriter, Rules, Unread, Why, map_keys,
};
use levee_tiering::merge::{Copies, Input, Kept, Tile, Tiles, Windows, prove_compacted, tile};
use levee_tiering::remote::RangeRef;
use levee_tiering::upload::{Planned, SourceError, UploadError};

use super::due::{Due, millis, object_of};
use super::window::{Window, window};
use super::{INPUTS_MAX, Stopped};
use crate::error::Error;
use crate::node::Node;
use crate::upkeep::job::{self, Done, OtherCopies, Written};
use crate::upkeep::needed::Needed;

/// Data that is gathered in memory for one object.
const OBJECT_BYTES: u64 = 32 << 20;

type Result<T> = std::result::Result<T, Stopped>;

/// See the module.
struct Round<'a> {
    node: &'a Arc<Node>,
    set: &'a [Due],
}

/// What one job compacts.
struct Step {
    objects: Vec<ObjectId>,
    offsets: Offsets<u64>,
}

/// Also the partitions that the map of keys had room for.
pub(super) async fn compact(
    node: &Arc<Node>,
    set: &[Due],
) -> Result<(Done, BTreeSet<PartitionId>)> {
    let round = Round { node, set };
    let (map, mut cleaners) = round.map().await?;
    let (mut done, mut from) = (Done::default(), 0);
    while let Some(step) = round.step(&cleaners, from)? {
        let job = job::begin(node, JOB_COMPACT, &step.objects).await?;
        let written = round.write(job, &step, &map, &mut cleaners).await;
        let Done { inputs, outputs, bytes } =
            job::end(node, job, step.objects.len(), written).await?;
        done = Done {
            inputs: done.inputs + inputs,
            outputs: done.outputs + outputs,
            bytes: done.bytes + bytes,
        };
        from = step.offsets.end;
        // From now on readers meet what was compacted, and nothing keeps room for what was left out.
        for due in set {
            if let Some(cleaner) = cleaners.get(&due.partition.id) {
                due.partition.drop_local(cleaner.to().min(from), true).await;
            }
        }
    }
    Ok((done, cleaners.into_keys().collect()))
}

impl Round<'_> {
    /// Reads what is dirty. How far each partition can be compacted, and the newest of each key.
    async fn map(&self) -> Result<(Arc<KeyMap>, Cleaners)> {
        let node = self.node;
        let mut map = KeyMap::new(node.config.compaction_map_bytes);
        let mut found = Vec::new();
        for due in self.set {
            let offsets = due.log_start..due.to;
            let aborted: Aborted =
                match node.aborted_in(&due.partition, offsets).await.map_err(Error::from) {
                    Ok(aborted) => aborted.into_iter().collect(),
                    Err(error) if error.retriable => return Err(error.into()),
                    Err(error) => return Err(Stopped::Partition(error, due.partition.id)),
                };
            let to = self.map_one(&mut map, due, &aborted).await?;
            // Without room for the next key there is none for other partitions either.
            if to > due.dirty_from {
                found.push((due, to, aborted));
            }
            if to < due.to {
                break;
            }
        }
        let map = Arc::new(map);
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
        let cleaners = found.into_iter().map(rules).collect();
        Ok((map, cleaners))
    }

    /// Up to where the keys of a partition found room.
    async fn map_one(&self, map: &mut KeyMap, due: &Due, aborted: &Aborted) -> Result<u64> {
        let (node, id) = (self.node, due.partition.id);
        let mut from = due.dirty_from;
        while from < due.to {
            let Window { objects, end } = self.window(due, from..due.to)?;
            let inputs = job::inputs(node, &objects).await?;
            let is_needed = |range: &Range| range.partition == id && range.end > due.log_start;
            let mut tiles = tile(&inputs, is_needed);
            let own = tiles.values_mut();
            own.for_each(|tiles| tiles.retain(|tile| tile.end > from && tile.base < end));
            self.place(&inputs, &mut tiles).await?;
            let tiles = tiles.remove(&id).unwrap_or_default();
            let of_tile = |tile: &Tile| {
                Windows::of_tile(node.store.clone(), node.budget.clone(), &inputs, tile)
            };
            let dirty = Dirty { partition: id, tiles: &tiles, offsets: from..end, aborted };
            let reached = map_keys(&node.host, map, of_tile, &self.copies(objects), dirty).await;
            let reached = reached.map_err(|unread| stopped(unread, &inputs))?;
            if reached < end {
                return Ok(reached);
            }
            from = end;
        }
        Ok(due.to)
    }

    /// The next job; nothing at the end.
    fn step(&self, cleaners: &Cleaners, from: u64) -> Result<Option<Step>> {
        let to = |due: &Due| cleaners.get(&due.partition.id).map_or(0, Cleaner::to);
        let (objects, end) = match self.set {
            [one] if from < to(one) => {
                let window = self.window(one, from.max(one.log_start)..to(one))?;
                (window.objects, window.end)
            }
            // They fit one job together.
            [_, _, ..] if from == 0 => {
                let below = |due: &Due| {
                    let (log_start, to) = (due.log_start, to(due));
                    let ranges = self.node.tiers.index.ranges(due.partition.id).into_iter();
                    ranges.filter(move |range| range.end > log_start && range.base < to)
                };
                let ranges = self.set.iter().flat_map(below);
                let objects: BTreeSet<ObjectId> =
                    ranges.filter_map(|range: RangeRef| object_of(&range)).collect();
                (objects.into_iter().collect(), u64::MAX)
            }
            _ => return Ok(None),
        };
        let step = Step { objects, offsets: from..end };
        Ok(Some(step).filter(|step| !step.objects.is_empty()))
    }

    fn window(&self, due: &Due, offsets: Offsets<u64>) -> Result<Window> {
        let id = due.partition.id;
        let from = offsets.start;
        window(&self.node.tiers.index.ranges(id), offsets).map_err(|objects| {
            let why = format!(
                "{objects} objects hold what stands at offset {from}, and a job takes {INPUTS_MAX}"
            );
            Stopped::Partition(Error::internal(why), id)
        })
    }

    fn copies(&self, objects: Vec<ObjectId>) -> Arc<dyn Copies> {
        let not_from = objects.into_iter().collect();
        Arc::new(OtherCopies { node: self.node.clone(), not_from })
    }

    async fn place(&self, inputs: &[Input], tiles: &mut Tiles) -> Result<Windows> {
        let node = self.node;
        let windows = Windows::new(node.store.clone(), node.budget.clone(), inputs);
        match windows.place(inputs, tiles).await {
            Ok(()) => Ok(windows),
            Err((_, SourceError::Store(error))) => Err(Error::store_unavailable(error).into()),
            Err((input, damaged)) => {
                let inputs = vec![inputs[input].object.id()];
                Err(Stopped::Objects(Error::corrupt_data(damaged), inputs))
            }
        }
    }

    async fn write(
        &self,
        job: u64,
        step: &Step,
        map: &KeyMap,
        cleaners: &mut Cleaners,
    ) -> Result<Written> {
        let node = self.node;
        let inputs = job::inputs(node, &step.objects).await?;
        let needed = Needed::now(node).await.in_inputs(node, &inputs);
        // As far as the map has it, whatever was deleted since.
        let log_starts: BTreeMap<PartitionId, u64> =
            self.set.iter().map(|due| (due.partition.id, due.log_start)).collect();
        let is_needed = |range: &Range| {
            needed.contains(&(range.partition, range.end))
                || log_starts.get(&range.partition).is_some_and(|start| range.end > *start)
        };
        let mut tiles = marked(tile(&inputs, is_needed), cleaners, &step.offsets);
        let windows = Arc::new(self.place(&inputs, &mut tiles).await?);
        let copies = self.copies(step.objects.clone());
        let object_bytes = node.config.tier_object_bytes.min(OBJECT_BYTES);
        let (met_before, now_ms) = (met(cleaners), node.host.wall_ms());
        cleaners.values_mut().for_each(|cleaner| cleaner.begin(now_ms));
        let mut written = Vec::new();
        let host = node.host.clone();
        let mut rewriter =
            Rewriter::new(host, windows, copies, tiles.clone(), cleaners, object_bytes);
        while let Some(parts) = rewriter.next().await.map_err(|unread| stopped(unread, &inputs))? {
            let level = if parts.len() == 1 { Level::L2 } else { Level::L1 };
            let first = parts.first().map_or(self.set[0].partition.id, |part| part.partition);
            let (writer, seq) = (Writer::job(job), written.len() as u64);
            let planned = Planned { level, writer, seq, parts };
            let (object, footer) = match node.tiers.put(planned, node.tiers.progress).await {
                Ok(put) => put,
                Err(error @ UploadError::Source { partition, .. }) => {
                    return Err(Stopped::Partition(error.into(), partition));
                }
                Err(error @ UploadError::Unmade { .. }) => {
                    return Err(Stopped::Partition(error.into(), first));
                }
                Err(error) => return Err(Error::from(error).into()),
            };
            job::ensure_whole(node, &object, &footer).await?;
            written.push((object, footer));
        }
        let kept = kept(&tiles, cleaners);
        let footers: Vec<Footer> = written.iter().map(|(_, footer)| footer.clone()).collect();
        prove_compacted(&inputs, is_needed, &tiles, &kept, &footers).map_err(|unproven| {
            Stopped::Partition(Error::internal(unproven.to_string()), unproven.partition)
        })?;
        let keys = node.host.busy(|| map.count(step.offsets.clone()));
        self.ensure_met(keys, met(cleaners) - met_before)?;
        Ok(written)
    }

    /// Each newest record that the map has of these offsets was met once.
    fn ensure_met(&self, keys: u64, met: u64) -> Result<()> {
        if keys == met {
            return Ok(());
        }
        let start = |due: &Due| due.partition.readable().map(|ladder| ladder.log_start());
        if self.set.iter().any(|due| start(due).ok() != Some(due.log_start)) {
            return Err(Error::internal("records were deleted meanwhile").into());
        }
        let why = format!("{keys} keys, the newest records of {met} were met");
        Err(Stopped::Partition(Error::internal(why), self.set[0].partition.id))
    }
}

fn met(cleaners: &Cleaners) -> u64 {
    cleaners.values().map(Cleaner::met).sum()
}

fn stopped(unread: Unread, inputs: &[Input]) -> Stopped {
    let Unread { partition, offset, why } = unread;
    match why {
        Why::Store(error) => Error::store_unavailable(error).into(),
        Why::Damaged { input, why } => {
            let why = format!("{partition} from offset {offset} on: {why}");
            Stopped::Objects(Error::corrupt_data(why), vec![inputs[input].object.id()])
        }
        Why::Packed(error) => {
            let why = format!("{partition}, the batch at offset {offset}: {error}");
            Stopped::Partition(Error::corrupt_data(why), partition)
        }
    }
}

/// Tiles at these offsets and below the end of their cleaner are to be compacted; one that reaches
/// over it is cut.
fn marked(tiles: Tiles, cleaners: &Cleaners, offsets: &Offsets<u64>) -> Tiles {
    let cut = |tile: Tile, at: u64| match tile.base < at && at < tile.end {
        true => {
            let (below, above) = tile.cut(at);
            vec![below, above]
        }
        false => vec![tile],
    };
    let one = |(id, tiles): (PartitionId, Vec<Tile>)| {
        let (from, to) = (offsets.start, cleaners.get(&id).map_or(0, Cleaner::to));
        let to = to.min(offsets.end);
        let tiles = tiles.into_iter().flat_map(|tile| cut(tile, from));
        let tiles = tiles.flat_map(|tile| cut(tile, to));
        let mark = |tile: Tile| {
            let to_compact = from <= tile.base && tile.end <= to;
            Tile { to_compact, ..tile }
        };
        (id, tiles.map(mark).collect())
    };
    tiles.into_iter().map(one).collect()
}

/// What is left of the partitions that were compacted in this job.
fn kept(tiles: &Tiles, cleaners: &mut Cleaners) -> BTreeMap<PartitionId, Kept> {
    let compacted = cleaners.iter_mut().filter(|(id, _)| tiles.contains_key(id));
    compacted.map(|(id, cleaner)| (*id, cleaner.take_kept())).collect()
}
