//! `uniform`: everybody gets the same number of partitions, as far as subscriptions allow, and keeps
//! what it has as far as that allows.

use std::collections::{BTreeMap, BTreeSet};

use levee_kafka::Uuid;

use super::Spec;
use crate::consumer::Assignment;

type Partition = (Uuid, i32);

/// Topics that the same members read: any of their partitions may go to any of these members.
struct Class<'a> {
    readers: Vec<&'a str>,
    topics: BTreeSet<Uuid>,
    held: BTreeMap<&'a str, BTreeSet<Partition>>,
}

pub(super) fn assign(spec: &Spec) -> BTreeMap<String, Assignment> {
    let mut by_readers: BTreeMap<Vec<&str>, BTreeSet<Uuid>> = BTreeMap::new();
    for (topic, readers) in spec.readers() {
        by_readers.entry(readers).or_default().insert(topic);
    }
    let class = |(readers, topics)| Class { readers, topics, held: BTreeMap::new() };
    let mut classes: Vec<Class<'_>> = by_readers.into_iter().map(class).collect();
    // Who has the least choice is served first.
    classes.sort_by_key(|class| class.readers.len());

    let mut loads: BTreeMap<&str, usize> = spec.members.keys().map(|id| (id.as_str(), 0)).collect();
    let mut free: Vec<Vec<Partition>> = Vec::with_capacity(classes.len());
    for class in &mut classes {
        free.push(class.keep(spec, &mut loads));
    }
    for (class, free) in classes.iter_mut().zip(free) {
        class.spread(free, &mut loads);
    }
    // Each move makes the sum of the squares of loads smaller, so this ends.
    let mut moved = true;
    while moved {
        moved = false;
        for class in &mut classes {
            moved |= class.balance(&mut loads);
        }
    }

    let mut target: BTreeMap<String, Assignment> =
        spec.members.keys().map(|id| (id.clone(), Assignment::new())).collect();
    for (id, partitions) in classes.into_iter().flat_map(|class| class.held) {
        let Some(assignment) = target.get_mut(id) else { continue };
        for (topic, partition) in partitions {
            assignment.entry(topic).or_default().insert(partition);
        }
    }
    target
}

impl<'a> Class<'a> {
    /// Everybody keeps what it has and still reads. What is left?
    fn keep(&mut self, spec: &'a Spec, loads: &mut BTreeMap<&'a str, usize>) -> Vec<Partition> {
        let mut free: BTreeSet<Partition> = self
            .topics
            .iter()
            .flat_map(|topic| (0..spec.partitions(*topic)).map(|p| (*topic, p)))
            .collect();
        for id in &self.readers {
            let Some(member) = spec.members.get(*id) else { continue };
            for topic in &self.topics {
                for partition in member.has.get(topic).into_iter().flatten() {
                    if free.remove(&(*topic, *partition)) {
                        self.held.entry(id).or_default().insert((*topic, *partition));
                        *loads.entry(id).or_default() += 1;
                    }
                }
            }
        }
        free.into_iter().collect()
    }

    /// The readers, who has least first.
    fn by_load(&self, loads: &BTreeMap<&'a str, usize>) -> BTreeSet<(usize, &'a str)> {
        let load = |id: &&'a str| (loads.get(id).copied().unwrap_or(0), *id);
        self.readers.iter().map(load).collect()
    }

    fn spread(&mut self, free: Vec<Partition>, loads: &mut BTreeMap<&'a str, usize>) {
        let mut by_load = self.by_load(loads);
        for partition in free {
            let Some((load, id)) = by_load.pop_first() else { return };
            self.held.entry(id).or_default().insert(partition);
            by_load.insert((load + 1, id));
        }
        loads.extend(by_load.into_iter().map(|(load, id)| (id, load)));
    }

    /// Moves partitions from who has most to who has least, one by one. Any?
    fn balance(&mut self, loads: &mut BTreeMap<&'a str, usize>) -> bool {
        let mut by_load = self.by_load(loads);
        let mut moved = false;
        while let Some((least, to)) = by_load.first().copied() {
            let gives = |(_, id): &&(usize, &'a str)| {
                self.held.get(id).is_some_and(|held| !held.is_empty())
            };
            let Some((most, from)) = by_load.iter().rev().find(gives).copied() else { break };
            if most <= least + 1 {
                break;
            }
            let Some(partition) = self.held.get_mut(from).and_then(BTreeSet::pop_last) else {
                break;
            };
            self.held.entry(to).or_default().insert(partition);
            by_load.remove(&(least, to));
            by_load.remove(&(most, from));
            by_load.insert((least + 1, to));
            by_load.insert((most - 1, from));
            moved = true;
        }
        loads.extend(by_load.into_iter().map(|(load, id)| (id, load)));
        moved
    }
}
