//! Committed offsets, and those of transactions that are not over.
//!
//! Owns: offsets by group, what may be committed and fetched, when offsets end. Does not own: who
//! is a member of a group.

mod commit;
mod delete;
mod expire;
mod fetch;

use std::collections::{BTreeMap, BTreeSet};

use levee_kafka::messages::offset_commit_key::OffsetCommitKey;
use levee_kafka::messages::offset_commit_value::OffsetCommitValue;

use crate::groups::{Group, Groups, Step};
use crate::records::Record;

#[derive(Debug, Clone, PartialEq)]
struct Offset {
    value: OffsetCommitValue,
    /// Its place among all offsets of the partition. A transaction's offset counts from when it was
    /// written, not from when the transaction ended.
    order: u64,
}

type Place = (String, i32);

#[derive(Debug, Default, PartialEq)]
struct GroupOffsets {
    /// By topic and partition.
    committed: BTreeMap<Place, Offset>,
    /// By producer.
    pending: BTreeMap<i64, BTreeMap<Place, Offset>>,
}

impl GroupOffsets {
    fn is_pending(&self, place: &Place) -> bool {
        self.pending.values().any(|offsets| offsets.contains_key(place))
    }

    /// Of committed and pending offsets.
    fn places(&self) -> BTreeSet<Place> {
        let pending = self.pending.values().flat_map(BTreeMap::keys);
        self.committed.keys().chain(pending).cloned().collect()
    }
}

#[derive(Debug, Default)]
pub(crate) struct Offsets {
    groups: BTreeMap<String, GroupOffsets>,
    /// Groups in which a producer's transaction has offsets.
    open: BTreeMap<i64, BTreeSet<String>>,
    next_order: u64,
}

impl Groups {
    /// A control batch was written or read: the producer's transaction is over.
    pub fn transaction_ended(&mut self, producer_id: i64, commit: bool) {
        self.offsets.end(producer_id, commit);
    }
}

impl Offsets {
    /// The only place where offsets change, but for the end of a transaction.
    pub(crate) fn apply(
        &mut self,
        key: OffsetCommitKey,
        value: Option<OffsetCommitValue>,
        producer: Option<i64>,
    ) {
        let place = (key.topic, key.partition);
        let Some(value) = value else { return self.remove(&key.group, &place) };
        let order = self.next_order;
        self.next_order += 1;
        let group = self.groups.entry(key.group.clone()).or_default();
        let offset = Offset { value, order };
        match producer {
            None => group.committed.insert(place, offset),
            Some(id) => {
                self.open.entry(id).or_default().insert(key.group);
                group.pending.entry(id).or_default().insert(place, offset)
            }
        };
    }

    fn remove(&mut self, id: &str, place: &Place) {
        let Some(group) = self.groups.get_mut(id) else { return };
        group.committed.remove(place);
        for (producer, offsets) in &mut group.pending {
            offsets.remove(place);
            if offsets.is_empty()
                && let Some(open) = self.open.get_mut(producer)
            {
                open.remove(id);
            }
        }
        group.pending.retain(|_, offsets| !offsets.is_empty());
        self.open.retain(|_, groups| !groups.is_empty());
        if group.committed.is_empty() && group.pending.is_empty() {
            self.groups.remove(id);
        }
    }

    fn end(&mut self, producer: i64, commit: bool) {
        for id in self.open.remove(&producer).unwrap_or_default() {
            let Some(group) = self.groups.get_mut(&id) else { continue };
            let pending = group.pending.remove(&producer).unwrap_or_default();
            for (place, offset) in pending.into_iter().filter(|_| commit) {
                let newer = group.committed.get(&place).is_some_and(|c| c.order > offset.order);
                if !newer {
                    group.committed.insert(place, offset);
                }
            }
            if group.committed.is_empty() && group.pending.is_empty() {
                self.groups.remove(&id);
            }
        }
    }

    fn write_end(&mut self, step: &mut Step<'_>, group: &str, place: Place) {
        self.remove(group, &place);
        let (topic, partition) = place;
        let key = OffsetCommitKey { group: group.to_owned(), topic, partition };
        step.write(Record::Offset { key, value: None });
        step.cut();
    }

    fn find(&self, group: &str, place: &Place) -> Option<&OffsetCommitValue> {
        self.groups.get(group)?.committed.get(place).map(|offset| &offset.value)
    }
}

/// Whether an offset is of a topic that is deleted; another one may have its name now. Whoever leads
/// the offsets' partition knows all topics that were there when they were committed: its grant is
/// younger than all that its predecessors could still append.
fn is_of_gone(step: &Step<'_>, topic: &str, value: &OffsetCommitValue) -> bool {
    let id = value.topic_id;
    !id.is_zero() && step.topics.name_of(id).is_none_or(|name| name != topic)
}

type AllGroups = BTreeMap<String, Group>;

#[cfg(test)]
impl Offsets {
    /// Everything that a move of the coordinator must keep; the order counts only among offsets.
    pub(crate) fn durable(&self) -> String {
        let plain = |offsets: &BTreeMap<Place, Offset>| {
            let each = offsets.iter().map(|(place, offset)| (place.clone(), offset.value.clone()));
            each.collect::<Vec<_>>()
        };
        let each = self.groups.iter().map(|(id, group)| {
            let pending = group.pending.iter().map(|(id, offsets)| (*id, plain(offsets)));
            (id, plain(&group.committed), pending.collect::<Vec<_>>())
        });
        format!("{:?} {:?}", each.collect::<Vec<_>>(), self.open)
    }
}
