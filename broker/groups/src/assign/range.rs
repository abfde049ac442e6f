//! `range`: of each topic everybody gets partitions that are next to each other, and of topics with
//! as many partitions and the same readers the same ones, so that they can be joined.

use std::collections::BTreeMap;

use levee_kafka::Uuid;

use super::Spec;
use crate::consumer::Assignment;

pub(super) fn assign(spec: &Spec) -> BTreeMap<String, Assignment> {
    let mut alike: BTreeMap<(Vec<&str>, i32), Vec<Uuid>> = BTreeMap::new();
    for (topic, readers) in spec.readers() {
        alike.entry((readers, spec.partitions(topic))).or_default().push(topic);
    }
    let mut target: BTreeMap<String, Assignment> =
        spec.members.keys().map(|id| (id.clone(), Assignment::new())).collect();
    for ((mut readers, partitions), topics) in alike {
        // Who has lower partitions stays before who has higher ones: ranges move little.
        readers.sort_by_cached_key(|id| place(spec, id, &topics));
        let each = partitions / readers.len() as i32;
        let more = partitions % readers.len() as i32;
        let mut from = 0;
        for (at, id) in (0..).zip(readers) {
            let to = from + each + i32::from(at < more);
            if from < to
                && let Some(assignment) = target.get_mut(id)
            {
                for topic in &topics {
                    assignment.insert(*topic, (from..to).collect());
                }
            }
            from = to;
        }
    }
    target
}

/// Where a member stands among the readers of topics. New ones come last: static members by their
/// instances, which stay the same, then the others.
fn place(spec: &Spec, id: &str, topics: &[Uuid]) -> (i32, bool, String) {
    let Some(member) = spec.members.get(id) else { return (i32::MAX, true, id.to_owned()) };
    let firsts = topics.iter().filter_map(|topic| member.has.get(topic)?.first());
    let first = firsts.min().copied().unwrap_or(i32::MAX);
    let name = member.instance.clone().unwrap_or_else(|| id.to_owned());
    (first, member.instance.is_none(), name)
}
