//! The proof before the commit: the outputs hold what was needed of the inputs, offset for offset.

use std::collections::BTreeMap;

use levee_proto::ids::{PartitionId, TopicId};
use levee_proto::object::{AbortedTxn, Footer, ProducerSnapshot, Range};
use thiserror::Error;

use super::plan::Output;
use super::tile::Tile;
use super::{Input, needed};

/// The outputs are not what the inputs were: nothing may be replaced.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{partition}: {why}")]
pub struct Unproven {
    pub partition: PartitionId,
    pub why: String,
}

/// Offsets of one epoch that follow on each other.
type Stretch = (u32, u64, u64);

/// `footers` are those of `outputs`, as they were read back.
pub fn prove(
    inputs: &[Input],
    is_needed: impl Fn(&Range) -> bool,
    outputs: &[Output],
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
    let mut planned: BTreeMap<PartitionId, Vec<&Tile>> = BTreeMap::new();
    for run in outputs.iter().flat_map(|output| &output.runs) {
        planned.entry(run.partition).or_default().extend(&run.tiles);
    }
    if !wanted.keys().eq(found.keys()) {
        let other = wanted.keys().find(|id| !found.contains_key(id)).or(found.keys().next_back());
        let partition = other.copied().unwrap_or(PartitionId { topic: TopicId(0), partition: 0 });
        return Err(Unproven { partition, why: "other partitions than the inputs have".into() });
    }
    for ((partition, wanted), found) in wanted.into_iter().zip(found.into_values()) {
        let tiles = planned.remove(&partition).unwrap_or_default();
        let one = prove_one(&wanted, &tiles, &found);
        one.map_err(|why| Unproven { partition, why })?;
    }
    Ok(())
}

fn prove_one(wanted: &[&Range], tiles: &[&Tile], found: &[&Range]) -> Result<(), String> {
    let offsets = stretches(wanted, true)?;
    let have = stretches(found, false)?;
    if offsets != have {
        return Err(format!("wanted offsets {offsets:?}, found {have:?}"));
    }
    let (bytes, have) = (sum(tiles, |tile| tile.len), sum(found, |range| range.len));
    if bytes != have {
        return Err(format!("wanted {bytes} bytes, found {have}"));
    }
    // Of a part of a range the records are not known before they are written.
    let records: Option<u64> = tiles.iter().map(|tile| tile.records).sum();
    let have = sum(found, |range| range.records);
    if records.is_some_and(|records| records != have) {
        return Err(format!("wanted {records:?} records, found {have}"));
    }
    let newest = |ranges: &[&Range]| ranges.iter().map(|range| range.max_timestamp).max();
    let (is_newer, same) = (newest(wanted) < newest(found), newest(wanted) == newest(found));
    if is_newer || (records.is_some() && wanted.len() == tiles.len() && !same) {
        return Err(format!("newest record {:?}, found {:?}", newest(wanted), newest(found)));
    }
    if told(wanted) != told(found) {
        return Err("other producers than the newest of the inputs".into());
    }
    let (aborted, have) = (aborted(wanted)?, aborted(found)?);
    if aborted != have {
        let other = aborted.iter().find(|(last, txn)| have.get(last) != Some(txn));
        let other = other.or(have.iter().find(|(last, _)| !aborted.contains_key(last)));
        return Err(format!("other aborted transactions than the inputs, first {other:?}"));
    }
    Ok(())
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

fn stretches(ranges: &[&Range], may_overlap: bool) -> Result<Vec<Stretch>, String> {
    let mut all: Vec<Stretch> =
        ranges.iter().map(|range| (range.leader_epoch, range.base, range.end)).collect();
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
