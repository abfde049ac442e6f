//! Footers against the metadata: logs tile, epochs are those of the history.

use std::collections::BTreeMap;

use levee_proto::ids::PartitionId;
use levee_proto::keys;
use levee_proto::metalog::image::{EpochStart, Partition};
use levee_proto::object::{Footer, Level, Range, RangeKind};

use super::{Audit, Finding, Seen};

/// A range and whose.
struct Held<'a> {
    range: &'a Range,
    key: String,
    level: Level,
}

pub(super) fn judge(seen: &Seen, audit: &mut Audit) {
    let mut logs: BTreeMap<PartitionId, Vec<Held<'_>>> = BTreeMap::new();
    for (object, read) in seen.objects.values() {
        match read {
            Ok(footer) => hold(footer, &object.key(), &mut logs),
            Err(why) => {
                audit.findings.push(Finding::Footer { key: object.key(), why: why.clone() });
            }
        }
    }
    for ((lane, slot), read) in &seen.slots {
        let key = keys::lane_slot(*lane, *slot);
        match read {
            Ok(footer) => hold(footer, &key, &mut logs),
            Err(why) => audit.findings.push(Finding::Footer { key, why: why.clone() }),
        }
    }
    for (id, held) in logs {
        match seen.after.partitions.get(&id) {
            Some(partition) => judge_one(partition, held, audit),
            // Of a topic whose data goes.
            None => audit.dead_bytes += held.iter().map(|held| held.range.len).sum::<u64>(),
        }
    }
}

fn hold<'a>(footer: &'a Footer, key: &str, logs: &mut BTreeMap<PartitionId, Vec<Held<'a>>>) {
    for range in footer.ranges.iter().filter(|range| range.kind == RangeKind::Data) {
        let held = Held { range, key: key.to_owned(), level: footer.level };
        logs.entry(range.partition).or_default().push(held);
    }
}

fn judge_one(partition: &Partition, mut held: Vec<Held<'_>>, audit: &mut Audit) {
    let is_dead = |held: &Held<'_>| {
        let end = held.range.end;
        end <= partition.log_start || (held.level != Level::L2 && end <= partition.l2_end)
    };
    let dead = held.iter().filter(|held| held.level != Level::L0 && is_dead(held));
    audit.dead_bytes += dead.map(|held| held.range.len).sum::<u64>();
    held.sort_by_key(|held| held.range.base);
    for held in &held {
        let Range { base, end, leader_epoch, .. } = *held.range;
        if end > partition.log_start && !is_of_epoch(&partition.epochs, held.range) {
            let (partition, key) = (partition.id, held.key.clone());
            audit.findings.push(Finding::Epoch { partition, key, base, end, epoch: leader_epoch });
        }
    }
    let id = partition.id;
    let end = held.iter().map(|held| held.range.end).max().unwrap_or(0);
    let lost: Vec<(u64, u64)> = partition.losses.iter().map(|lost| (lost.from, lost.to)).collect();
    let all = held.iter().map(|held| (held.range.base, held.range.end)).chain(lost.clone());
    for (from, to) in gaps(all, partition.log_start, end) {
        audit.findings.push(Finding::Gap { partition: id, from, to });
    }
    let large = held.iter().filter(|held| held.level == Level::L2);
    let large = large.map(|held| (held.range.base, held.range.end)).chain(lost);
    for (from, to) in gaps(large, partition.log_start, partition.l2_end) {
        audit.findings.push(Finding::Large { partition: id, from, to });
    }
}

/// Whether a range lies in the epoch that it names. Epochs that ended below the log start are
/// forgotten.
fn is_of_epoch(epochs: &[EpochStart], range: &Range) -> bool {
    let at = epochs.partition_point(|epoch| epoch.start <= range.base);
    let Some(found) = at.checked_sub(1).map(|at| &epochs[at]) else { return true };
    let next = epochs.get(at).map_or(u64::MAX, |next| next.start);
    found.epoch == range.leader_epoch && range.end <= next
}

/// What none of some stretches holds between `from` and `to`.
fn gaps(held: impl Iterator<Item = (u64, u64)>, from: u64, to: u64) -> Vec<(u64, u64)> {
    let mut held: Vec<(u64, u64)> = held.collect();
    held.sort_unstable();
    let (mut at, mut gaps) = (from, Vec::new());
    for (base, end) in held {
        if base > at && at < to {
            gaps.push((at, base.min(to)));
        }
        at = at.max(end);
    }
    if at < to {
        gaps.push((at, to));
    }
    gaps
}

#[cfg(test)]
mod tests {
    use super::gaps;

    #[test]
    fn gaps_are_what_nothing_holds() {
        let held = || [(10, 20), (0, 5), (15, 30), (40, 50)].into_iter();
        assert_eq!(gaps(held(), 0, 50), [(5, 10), (30, 40)]);
        assert_eq!(gaps(held(), 12, 35), [(30, 35)]);
        assert_eq!(gaps(held(), 45, 60), [(50, 60)]);
        assert_eq!(gaps(held(), 60, 60), []);
    }
}
