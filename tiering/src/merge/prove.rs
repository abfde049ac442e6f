//! The proof before the commit: the outputs hold what was needed of the inputs, offset for offset.

use std::collections::{BTreeMap, BTreeSet};

use levee_proto::ids::{PartitionId, TopicId};
use levee_proto::object::{AbortedTxn, Footer, ProducerSnapshot, Range};
use levee_proto::record::BatchHeader;
use thiserror::Error;

use super::plan::Output;
use super::tile::{Tile, Tiles};
use super::{Input, needed};

/// The outputs are not what the inputs were: nothing may be replaced.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{partition}: {why}")]
pub struct Unproven {
    pub partition: PartitionId,
    pub why: String,
}

/// What compaction left of a partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kept {
    pub bytes: u64,
    pub records: u64,
    /// Markers of aborted transactions that are told of no more.
    pub dropped_aborts: BTreeSet<u64>,
}

impl Kept {
    pub fn add(&mut self, header: &BatchHeader) {
        self.bytes += u64::from(header.bytes);
        self.records += u64::from(header.record_count);
    }
}

/// Offsets of one epoch that follow on each other.
type Stretch = (u32, u64, u64);
type Planned<'a> = BTreeMap<PartitionId, Vec<&'a Tile>>;

/// `footers` are those of `outputs`, as they were read back.
pub fn prove(
    inputs: &[Input],
    is_needed: impl Fn(&Range) -> bool,
    outputs: &[Output],
    footers: &[Footer],
) -> Result<(), Unproven> {
    let mut planned = Planned::new();
    for run in outputs.iter().flat_map(|output| &output.runs) {
        planned.entry(run.partition).or_default().extend(&run.tiles);
    }
    prove_all(inputs, is_needed, planned, &BTreeMap::new(), footers)
}

/// As `prove`, where of some partitions only a part was kept. Their tiles are marked as compacted as
/// far as they are.
pub fn prove_compacted(
    inputs: &[Input],
    is_needed: impl Fn(&Range) -> bool,
    tiles: &Tiles,
    kept: &BTreeMap<PartitionId, Kept>,
    footers: &[Footer],
) -> Result<(), Unproven> {
    let planned = tiles.iter().map(|(id, tiles)| (*id, tiles.iter().collect())).collect();
    prove_all(inputs, is_needed, planned, kept, footers)
}

fn prove_all(
    inputs: &[Input],
    is_needed: impl Fn(&Range) -> bool,
    mut planned: Planned<'_>,
    kept: &BTreeMap<PartitionId, Kept>,
    footers: &[Footer],
) -> Result<(), Unproven> {
    let mut wanted: BTreeMap<PartitionId, Vec<&Range>> = BTreeMap::new();
    for (_, _, range) in needed(inputs, is_needed) {
        wanted.entry(range.partition).or_default().push(range);
    }
    let mut found: BTreeMap<PartitionId, Vec<&Range>> = BTreeMap::new();
    for range in footers.iter().flat_map(|footer| &footer.ranges) {
        found.entry(range.partition).or_default().push(range);
    }
    if !wanted.keys().eq(found.keys()) {
        let other = wanted.keys().find(|id| !found.contains_key(id)).or(found.keys().next_back());
        let partition = other.copied().unwrap_or(PartitionId { topic: TopicId(0), partition: 0 });
        return Err(Unproven { partition, why: "other partitions than the inputs have".into() });
    }
    for ((partition, wanted), found) in wanted.into_iter().zip(found.into_values()) {
        let tiles = planned.remove(&partition).unwrap_or_default();
        let one = prove_one(&wanted, &tiles, kept.get(&partition), &found);
        one.map_err(|why| Unproven { partition, why })?;
    }
    Ok(())
}

fn prove_one(
    wanted: &[&Range],
    tiles: &[&Tile],
    kept: Option<&Kept>,
    found: &[&Range],
) -> Result<(), String> {
    let offsets = stretches(wanted.iter().map(|range| stretch(range)), true)?;
    let have = stretches(found.iter().map(|range| stretch(range)), false)?;
    if offsets != have {
        return Err(format!("wanted offsets {offsets:?}, found {have:?}"));
    }
    prove_compacted_offsets(wanted, tiles, kept.is_some(), found)?;
    let bytes = kept.map_or_else(|| sum(tiles, |tile| tile.len), |kept| kept.bytes);
    let have = sum(found, |range| range.len);
    if bytes != have {
        return Err(format!("wanted {bytes} bytes, found {have}"));
    }
    // Of a part of a range the records are not known before they are written.
    let all: Option<u64> = tiles.iter().map(|tile| tile.records).sum();
    let records = kept.map_or(all, |kept| Some(kept.records));
    let have = sum(found, |range| range.records);
    if records.is_some_and(|records| records != have) || all.is_some_and(|all| all < have) {
        return Err(format!("wanted {records:?} records of {all:?}, found {have}"));
    }
    let newest = |ranges: &[&Range]| ranges.iter().map(|range| range.max_timestamp).max();
    let (is_newer, same) = (newest(wanted) < newest(found), newest(wanted) == newest(found));
    let is_whole = all.is_some() && wanted.len() == tiles.len() && kept.is_none();
    if is_newer || (is_whole && !same) {
        return Err(format!("newest record {:?}, found {:?}", newest(wanted), newest(found)));
    }
    if told(wanted) != told(found) {
        return Err("other producers than the newest of the inputs".into());
    }
    let (mut aborted, have) = (aborted(wanted)?, aborted(found)?);
    if let Some(kept) = kept {
        aborted.retain(|last, _| !kept.dropped_aborts.contains(last));
    }
    if aborted != have {
        let other = aborted.iter().find(|(last, txn)| have.get(last) != Some(txn));
        let other = other.or(have.iter().find(|(last, _)| !aborted.contains_key(last)));
        return Err(format!("other aborted transactions than the inputs, first {other:?}"));
    }
    Ok(())
}

/// What was compacted stays told as such, and nothing else is.
fn prove_compacted_offsets(
    wanted: &[&Range],
    tiles: &[&Tile],
    is_compacted_now: bool,
    found: &[&Range],
) -> Result<(), String> {
    let compacted = |ranges: &[&Range]| {
        let compacted = ranges.iter().filter(|range| range.compacted);
        stretches(compacted.map(|range| stretch(range)), false)
    };
    let planned = tiles.iter().filter(|tile| tile.compacted || tile.to_compact);
    let planned = stretches(planned.map(|t| (t.leader_epoch, t.base, t.end)), false)?;
    let (before, have) = (compacted(wanted)?, compacted(found)?);
    let wanted = if is_compacted_now { planned } else { before };
    match wanted == have {
        true => Ok(()),
        false => Err(format!("wanted compacted offsets {wanted:?}, found {have:?}")),
    }
}

fn stretch(range: &Range) -> Stretch {
    (range.leader_epoch, range.base, range.end)
}

/// Aborted transactions by the offset of their marker.
fn aborted(ranges: &[&Range]) -> Result<BTreeMap<u64, AbortedTxn>, String> {
    let mut all = BTreeMap::new();
    for txn in ranges.iter().flat_map(|range| &range.aborted) {
        let before = all.insert(txn.last_offset, *txn);
        if before.is_some_and(|before| before != *txn) {
            return Err(format!("{before:?} and {txn:?} have the same marker"));
        }
    }
    Ok(all)
}

fn sum<T>(all: &[&T], of: impl Fn(&T) -> u64) -> u64 {
    all.iter().map(|one| of(one)).sum()
}

/// The newest producer state, and where it stands.
fn told<'a>(ranges: &[&'a Range]) -> Option<(u64, &'a ProducerSnapshot)> {
    let told = ranges.iter().filter_map(|range| Some((range.end, range.producers.as_ref()?)));
    told.max_by_key(|(end, _)| *end)
}

fn stretches(
    all: impl Iterator<Item = Stretch>,
    may_overlap: bool,
) -> Result<Vec<Stretch>, String> {
    let mut all: Vec<Stretch> = all.collect();
    all.sort_by_key(|(_, base, end)| (*base, *end));
    let mut joined: Vec<Stretch> = Vec::new();
    for (epoch, base, end) in all {
        match joined.last_mut() {
            Some((last, _, to))
                if *last == epoch && (base == *to || (may_overlap && base < *to)) =>
            {
                *to = end.max(*to);
            }
            Some((last, _, to)) if base < *to => {
                return Err(format!("epochs {last} and {epoch} both hold offset {base}"));
            }
            _ => joined.push((epoch, base, end)),
        }
    }
    Ok(joined)
}
