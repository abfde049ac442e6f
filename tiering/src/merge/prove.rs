//! The proof before the commit: the outputs hold what was needed of the inputs, offset for offset.

use std::collections::BTreeMap;

use levee_proto::ids::PartitionId;
use levee_proto::object::{Footer, Range};
use thiserror::Error;

use super::plan::Output;
use super::tile::Tile;

/// The outputs are not what the inputs were: nothing may be replaced.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{partition}: {why}")]
pub struct Unproven {
    pub partition: PartitionId,
    pub why: String,
}

/// What a partition adds up to.
#[derive(Debug, Default, PartialEq)]
struct Sum {
    /// Leader epoch, base, end: what follows on each other counts as one.
    offsets: Vec<(u32, u64, u64)>,
    bytes: u64,
    /// Nothing where it is not known of all.
    records: Option<u64>,
    max_timestamp: i64,
    /// Where the newest producer state stands, and of how many.
    producers: Option<(u64, usize)>,
}

/// `footers` are those of `outputs`, as they were read back.
pub fn prove(outputs: &[Output], footers: &[Footer]) -> Result<(), Unproven> {
    let mut wanted: BTreeMap<PartitionId, Vec<&Tile>> = BTreeMap::new();
    for run in outputs.iter().flat_map(|output| &output.runs) {
        wanted.entry(run.partition).or_default().extend(&run.tiles);
    }
    let mut found: BTreeMap<PartitionId, Vec<&Range>> = BTreeMap::new();
    for range in footers.iter().flat_map(|footer| &footer.ranges) {
        found.entry(range.partition).or_default().push(range);
    }
    if let Some(extra) = found.keys().find(|id| !wanted.contains_key(id)) {
        return Err(Unproven { partition: *extra, why: "nothing of it was asked for".into() });
    }
    for (partition, tiles) in wanted {
        let ranges = found.remove(&partition).unwrap_or_default();
        let (wanted, mut found) = (sum_of_tiles(&tiles), sum_of_ranges(&ranges));
        if wanted.records.is_none() && found.max_timestamp <= wanted.max_timestamp {
            // Of a part of a range neither is known before it is written.
            (found.records, found.max_timestamp) = (None, wanted.max_timestamp);
        }
        if wanted != found {
            let why = format!("wanted {wanted:?}, found {found:?}");
            return Err(Unproven { partition, why });
        }
    }
    Ok(())
}

fn sum_of_tiles(tiles: &[&Tile]) -> Sum {
    let mut tiles = tiles.to_vec();
    tiles.sort_by_key(|tile| tile.base);
    let mut sum = Sum { max_timestamp: -1, records: Some(0), ..Sum::default() };
    for tile in tiles {
        let producers = tile.producers.as_ref().map(|all| all.producers.len());
        sum.add((tile.leader_epoch, tile.base, tile.end), tile.len, tile.records, producers);
        sum.max_timestamp = sum.max_timestamp.max(tile.max_timestamp);
    }
    sum
}

fn sum_of_ranges(ranges: &[&Range]) -> Sum {
    let mut ranges = ranges.to_vec();
    ranges.sort_by_key(|range| range.base);
    let mut sum = Sum { max_timestamp: -1, records: Some(0), ..Sum::default() };
    for range in ranges {
        let producers = range.producers.as_ref().map(|all| all.producers.len());
        let offsets = (range.leader_epoch, range.base, range.end);
        sum.add(offsets, range.len, Some(range.records), producers);
        sum.max_timestamp = sum.max_timestamp.max(range.max_timestamp);
    }
    sum
}

impl Sum {
    fn add(
        &mut self,
        (epoch, base, end): (u32, u64, u64),
        bytes: u64,
        records: Option<u64>,
        producers: Option<usize>,
    ) {
        match self.offsets.last_mut() {
            Some((last, _, to)) if *last == epoch && *to == base => *to = end,
            _ => self.offsets.push((epoch, base, end)),
        }
        self.bytes += bytes;
        self.records = self.records.zip(records).map(|(sum, more)| sum + more);
        if let Some(count) = producers {
            self.producers = self.producers.max(Some((end, count)));
        }
    }
}
