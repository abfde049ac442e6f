//! Footers against the metadata: logs tile, epochs are those of the history, producers are told of.

use levee_proto::metalog::image::{EpochStart, Partition};
use levee_proto::object::Level;

use super::{Audit, Finding, Held, Seen};

pub(super) fn judge(seen: &Seen, audit: &mut Audit) {
    for (id, held) in &seen.held {
        if !seen.after.partitions.contains_key(id) {
            // Of a topic whose data goes.
            audit.dead_bytes += held.iter().map(|held| held.len).sum::<u64>();
        }
    }
    for (id, partition) in &seen.after.partitions {
        let held = seen.held.get(id).map(Vec::as_slice).unwrap_or_default();
        judge_one(partition, least_end(seen, partition), held, audit);
    }
}

/// Where the bucket's part of a log ends at least: where a leader took over from another session,
/// which had left everything in the bucket.
fn least_end(seen: &Seen, partition: &Partition) -> u64 {
    let Some(leader) = &partition.leader else { return 0 };
    let lane = seen.after.lanes.get(&leader.lane);
    let is_closed = lane.is_none_or(|lane| lane.end.is_some());
    let is_first = partition.epochs.len() == 1 || is_closed;
    if is_first { leader.start } else { 0 }
}

fn judge_one(partition: &Partition, least_end: u64, held: &[Held], audit: &mut Audit) {
    let (id, start) = (partition.id, partition.log_start);
    let dead = held.iter().filter(|held| held.level != Level::L0 && held.end <= start);
    audit.dead_bytes += dead.map(|held| held.len).sum::<u64>();
    for held in held.iter().filter(|held| held.end > start) {
        if !is_of_epoch(&partition.epochs, held) {
            audit.findings.push(Finding::Epoch {
                partition: id,
                key: held.key.to_string(),
                base: held.base,
                end: held.end,
                epoch: held.leader_epoch,
            });
        }
    }
    for held in uncompacted(held) {
        let Held { key, base, end, .. } = held;
        let key = key.to_string();
        audit.findings.push(Finding::Uncompacted { partition: id, key, base: *base, end: *end });
    }
    let end = held.iter().map(|held| held.end).max().unwrap_or(0).max(least_end);
    let lost = partition.losses.iter().map(|lost| (lost.from, lost.to));
    let all = held.iter().map(|held| (held.base, held.end)).chain(lost.clone());
    for (from, to) in gaps(all, start, end) {
        audit.findings.push(Finding::Gap { partition: id, from, to });
    }
    // Above the newest producer state slots tell, batch for batch.
    let told = held.iter().filter(|held| held.is_told).map(|held| held.end).max();
    let slots = held.iter().filter(|held| held.level == Level::L0);
    let slots = slots.map(|held| (held.base, held.end)).chain(lost);
    let held_end = held.iter().map(|held| held.end).max().unwrap_or(0);
    for (from, to) in gaps(slots, told.unwrap_or(0).max(start), held_end) {
        audit.findings.push(Finding::Untold { partition: id, from, to });
    }
}

/// Ranges of objects of which another one holds a part compacted. Slots are read only where no
/// object is.
fn uncompacted(held: &[Held]) -> impl Iterator<Item = &Held> {
    let objects = || held.iter().filter(|held| held.level != Level::L0);
    let compacted: Vec<&Held> = objects().filter(|held| held.compacted).collect();
    objects().filter(move |held| {
        let overlaps = |other: &&Held| other.base < held.end && held.base < other.end;
        !held.compacted && compacted.iter().any(overlaps)
    })
}

/// Whether a range lies in the epoch that it names. Epochs that ended below the log start are
/// forgotten.
fn is_of_epoch(epochs: &[EpochStart], held: &Held) -> bool {
    let at = epochs.partition_point(|epoch| epoch.start <= held.base);
    let Some(found) = at.checked_sub(1).map(|at| &epochs[at]) else { return true };
    let next = epochs.get(at).map_or(u64::MAX, |next| next.start);
    found.epoch == held.leader_epoch && held.end <= next
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
