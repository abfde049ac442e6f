//! Which objects are merged: sixteen of about one size, the oldest first, so that each byte is
//! written again once per factor of sixteen; and small neighbours of one partition.

use std::collections::BTreeMap;

use levee_proto::ids::PartitionId;
use levee_proto::metalog::{ObjectId, SingleRange};

/// A referenced object, as far as the choice needs it.
#[derive(Debug, Clone)]
pub struct Candidate {
    pub id: ObjectId,
    /// In ranges that are still needed.
    pub bytes: u64,
    /// Largest timestamp of its records.
    pub newest_ms: i64,
    /// L2 only.
    pub single: Option<SingleRange>,
    /// L2 only: whether it is compacted.
    pub compacted: bool,
    /// All of it is of topics that are compacted: what is written again with them is theirs.
    pub is_apart: bool,
}

/// Sizes that are told apart: each holds objects up to `fan_in` times as large as the one below.
const SIZES: u32 = 4;

/// Inputs of one job: each has a window in memory.
const NEIGHBOURS_MAX: usize = 64;

/// Inputs of the next job; empty where nothing is worth one. `fan_in`: objects of one size that
/// become one; `full`: bytes from which on an object is large enough.
pub fn pick(candidates: &[Candidate], fan_in: usize, full: u64) -> Vec<ObjectId> {
    let small = || candidates.iter().filter(|c| c.bytes < full);
    let shared: Vec<&Candidate> = small().filter(|c| c.single.is_none()).collect();
    let neighbours = || neighbours(small(), full).unwrap_or_default();
    of_one_size(shared, fan_in, full).unwrap_or_else(neighbours)
}

fn of_one_size(shared: Vec<&Candidate>, fan_in: usize, full: u64) -> Option<Vec<ObjectId>> {
    let mut sizes: BTreeMap<(bool, u32), Vec<&Candidate>> = BTreeMap::new();
    for candidate in shared {
        let size = size_of(candidate.bytes, fan_in, full);
        sizes.entry((candidate.is_apart, size)).or_default().push(candidate);
    }
    let mut group = sizes.into_values().max_by_key(Vec::len).filter(|g| g.len() >= fan_in)?;
    group.sort_by_key(|c| (c.newest_ms, c.id));
    Some(group.iter().take(fan_in).map(|c| c.id).collect())
}

/// 0 for the smallest.
fn size_of(bytes: u64, fan_in: usize, full: u64) -> u32 {
    let mut bound = full;
    for size in (1..SIZES).rev() {
        bound /= fan_in as u64;
        if bytes >= bound {
            return size;
        }
    }
    0
}

/// Objects of one partition and epoch that follow on each other and fill one object together.
fn neighbours<'a>(small: impl Iterator<Item = &'a Candidate>, full: u64) -> Option<Vec<ObjectId>> {
    type Log<'a> = Vec<(&'a SingleRange, &'a Candidate)>;
    let mut logs: BTreeMap<(PartitionId, u32, bool), Log<'_>> = BTreeMap::new();
    for candidate in small {
        if let Some(single) = &candidate.single {
            let key = (single.partition, single.leader_epoch, candidate.compacted);
            let log = logs.entry(key).or_default();
            log.push((single, candidate));
        }
    }
    for mut log in logs.into_values() {
        log.sort_by_key(|(single, c)| (single.base, c.id));
        let (mut ids, mut bytes, mut end) = (Vec::new(), 0, None);
        for (single, candidate) in log {
            if end != Some(single.base) {
                (ids, bytes) = (Vec::new(), 0);
            }
            ids.push(candidate.id);
            bytes += candidate.bytes;
            end = Some(single.end);
            if (bytes >= full && ids.len() > 1) || ids.len() == NEIGHBOURS_MAX {
                return Some(ids);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use levee_proto::ids::{TopicId, Writer};

    use super::*;

    const MIB: u64 = 1 << 20;

    fn shared(seq: u64, bytes: u64) -> Candidate {
        let id = ObjectId { writer: Writer(1), seq };
        let newest_ms = seq as i64;
        Candidate { id, bytes, newest_ms, single: None, compacted: false, is_apart: false }
    }

    fn single(seq: u64, bytes: u64, offsets: std::ops::Range<u64>) -> Candidate {
        let partition = PartitionId { topic: TopicId(1), partition: 0 };
        let (base, end) = (offsets.start, offsets.end);
        let single = SingleRange { partition, leader_epoch: 1, base, end };
        Candidate { single: Some(single), ..shared(seq, bytes) }
    }

    fn seqs(candidates: &[Candidate]) -> Vec<u64> {
        pick(candidates, 4, 64 * MIB).iter().map(|id| id.seq).collect()
    }

    #[test]
    fn as_many_as_the_fan_in_of_one_size_the_oldest_first() {
        let mut all: Vec<Candidate> = (0..3).map(|seq| shared(seq, 2 * MIB)).collect();
        assert_eq!(seqs(&all), [0u64; 0], "three are too few");
        all.push(shared(9, 40 * MIB));
        assert_eq!(seqs(&all), [0u64; 0], "another size does not count");
        all.push(shared(8, 3 * MIB));
        all.push(shared(7, 3 * MIB));
        assert_eq!(seqs(&all), [0, 1, 2, 7]);
        let full: Vec<Candidate> = (0..9).map(|seq| shared(seq, 64 * MIB)).collect();
        assert_eq!(seqs(&full), [0u64; 0], "large enough");
    }

    #[test]
    fn neighbours_of_one_partition_fill_an_object() {
        let mut all = vec![single(3, 30 * MIB, 20..30), single(1, 30 * MIB, 0..10)];
        assert_eq!(seqs(&all), [0u64; 0], "a gap between them");
        all.push(single(2, 10 * MIB, 10..20));
        assert_eq!(seqs(&all), [1, 2, 3]);
        assert_eq!(seqs(&all[1..]), [0u64; 0], "too little together");
    }

    #[test]
    fn what_is_compacted_stays_apart() {
        let mut all: Vec<Candidate> = (0..6).map(|seq| shared(seq, 2 * MIB)).collect();
        all.iter_mut().take(3).for_each(|candidate| candidate.is_apart = true);
        assert_eq!(seqs(&all), [0u64; 0], "three of each sort");
        let mut all = vec![single(1, 40 * MIB, 0..10), single(2, 40 * MIB, 10..20)];
        all[0].compacted = true;
        assert_eq!(seqs(&all), [0u64; 0]);
        all[1].compacted = true;
        assert_eq!(seqs(&all), [1, 2]);
    }

    /// However many are written, what is small stays bounded, and each byte is written again at
    /// most once per size.
    #[test]
    fn what_is_small_stays_bounded() {
        let (full, fan_in) = (64 * MIB, 16);
        let (mut all, mut written) = (Vec::new(), 0u64);
        for seq in 0..5000 {
            all.push(shared(seq, MIB / 2));
            loop {
                let picked = pick(&all, fan_in, full);
                if picked.is_empty() {
                    break;
                }
                let bytes = all.iter().filter(|c| picked.contains(&c.id)).map(|c| c.bytes).sum();
                let newest = picked.iter().map(|id| id.seq).max().unwrap();
                all.retain(|c| !picked.contains(&c.id));
                all.push(Candidate { newest_ms: newest as i64, ..shared(newest + 10_000, bytes) });
                written += bytes;
            }
        }
        assert!(all.iter().filter(|c| c.bytes < full).count() < 4 * fan_in, "{}", all.len());
        assert!(written <= 2 * 2500 * MIB, "written again {} MiB", written / MIB);
    }
}
