//! A consumer group as records, and from them.

use std::collections::BTreeMap;

use levee_kafka::messages::consumer_group_current_member_assignment_value::{
    ConsumerGroupCurrentMemberAssignmentValue, TopicPartitions,
};
use levee_kafka::messages::consumer_group_member_metadata_value::ConsumerGroupMemberMetadataValue;

use super::member::{Assignment, Member, MemberState, Owned};
use super::subscribe::Resolved;
use super::{ConsumerGroup, LEFT};
use crate::groups::{Group, Step};
use crate::records::Record;
use crate::timers::What;

impl Member {
    pub(super) fn to_record(&self, group: &str, id: &str) -> Record {
        let value = ConsumerGroupMemberMetadataValue {
            instance_id: self.instance.clone(),
            rack_id: self.rack.clone(),
            client_id: self.client_id.clone(),
            client_host: self.client_host.clone(),
            subscribed_topic_names: self.topics.iter().cloned().collect(),
            subscribed_topic_regex: self.regex.clone(),
            rebalance_timeout_ms: self.rebalance_ms,
            server_assignor: self.assignor.clone(),
            classic_member_metadata: None,
        };
        Record::Member { group: group.to_owned(), member: id.to_owned(), value: Some(value) }
    }

    pub(super) fn to_current(&self, group: &str, id: &str) -> Record {
        let value = ConsumerGroupCurrentMemberAssignmentValue {
            member_epoch: self.epoch,
            previous_member_epoch: self.previous_epoch,
            state: self.state as i8,
            assigned_partitions: to_list(&self.assigned),
            partitions_pending_revocation: to_list(&self.revoking),
        };
        Record::Current { group: group.to_owned(), member: id.to_owned(), value: Some(value) }
    }

    fn set(&mut self, value: ConsumerGroupMemberMetadataValue) {
        self.instance = value.instance_id;
        self.rack = value.rack_id;
        self.client_id = value.client_id;
        self.client_host = value.client_host;
        self.topics = value.subscribed_topic_names.into_iter().collect();
        self.regex = value.subscribed_topic_regex.filter(|regex| !regex.is_empty());
        self.rebalance_ms = value.rebalance_timeout_ms;
        self.assignor = value.server_assignor;
    }

    fn set_current(&mut self, value: Option<ConsumerGroupCurrentMemberAssignmentValue>) {
        let value = value.unwrap_or_else(|| ConsumerGroupCurrentMemberAssignmentValue {
            member_epoch: LEFT,
            previous_member_epoch: LEFT,
            ..Default::default()
        });
        self.epoch = value.member_epoch;
        self.previous_epoch = value.previous_member_epoch;
        self.state = MemberState::from(value.state);
        self.assigned = from_list(value.assigned_partitions, self.epoch);
        self.revoking = from_list(value.partitions_pending_revocation, self.epoch);
    }
}

impl ConsumerGroup {
    /// A record of any group of the partition: one that says that there is a group makes it.
    pub(crate) fn replay(groups: &mut BTreeMap<String, Group>, record: Record) {
        let (id, there) = match &record {
            Record::Epoch { group, value } => (group, value.is_some()),
            Record::Member { group, value, .. } => (group, value.is_some()),
            Record::TargetEpoch { group, value } => (group, value.is_some()),
            Record::Target { group, value, .. } => (group, value.is_some()),
            Record::Current { group, value, .. } => (group, value.is_some()),
            Record::Regex { group, value, .. } => (group, value.is_some()),
            Record::Offset { .. } | Record::Classic { .. } => return,
        };
        let known = matches!(groups.get(id), Some(Group::Consumer(_)));
        let ends = matches!(record, Record::Epoch { value: None, .. });
        if ends && known {
            groups.remove(id);
            return;
        }
        if there && !known {
            groups.insert(id.clone(), Group::Consumer(Self::new(id)));
        }
        if let Some(Group::Consumer(group)) = groups.get_mut(id) {
            group.apply(record);
        }
    }

    pub(super) fn write(&mut self, step: &mut Step<'_>, record: Record) {
        self.apply(record.clone());
        step.write(record);
    }

    /// The only place where anything durable changes.
    fn apply(&mut self, record: Record) {
        match record {
            Record::Epoch { value, .. } => {
                let value = value.unwrap_or_default();
                self.epoch = value.epoch;
                self.metadata_hash = value.metadata_hash;
            }
            Record::Member { member: id, value: Some(value), .. } => {
                let instance = value.instance_id.clone();
                self.members.entry(id.clone()).or_default().set(value);
                self.instances.retain(|_, holder| *holder != id);
                if let Some(instance) = instance {
                    self.instances.insert(instance, id);
                }
            }
            Record::Member { member: id, value: None, .. } => {
                self.members.remove(&id);
                self.instances.retain(|_, holder| *holder != id);
                self.owners.retain(|_, owner| *owner != id);
            }
            Record::TargetEpoch { value, .. } => {
                self.target_epoch = value.map_or(0, |value| value.assignment_epoch);
            }
            Record::Target { member: id, value: Some(value), .. } => {
                let topics = value.topic_partitions.into_iter();
                let each = topics.map(|t| (t.topic_id, t.partitions.into_iter().collect()));
                self.target.insert(id, each.collect::<Assignment>());
            }
            Record::Target { member: id, value: None, .. } => {
                self.target.remove(&id);
            }
            Record::Current { member: id, value, .. } => self.apply_current(id, value),
            Record::Regex { regex, value: Some(value), .. } => {
                let topics = value.topics.into_iter().collect();
                let (version, timestamp) = (value.version, value.timestamp);
                self.regexes.insert(regex, Resolved { topics, version, timestamp });
            }
            Record::Regex { regex, value: None, .. } => {
                self.regexes.remove(&regex);
            }
            Record::Offset { .. } | Record::Classic { .. } => {}
        }
    }

    fn apply_current(
        &mut self,
        id: String,
        value: Option<ConsumerGroupCurrentMemberAssignmentValue>,
    ) {
        if value.is_none() && !self.members.contains_key(&id) {
            return;
        }
        let member = self.members.entry(id.clone()).or_default();
        for place in member.held() {
            if self.owners.get(&place) == Some(&id) {
                self.owners.remove(&place);
            }
        }
        member.set_current(value);
        for place in member.held() {
            self.owners.insert(place, id.clone());
        }
    }

    /// All was read: from now on members must be heard of again.
    pub(crate) fn loaded(&mut self, step: &mut Step<'_>) {
        for (id, member) in &self.members {
            let what = What::Session(id.clone());
            step.timers.set(&self.id, what, step.now, step.settings.consumer_session_ms);
            if member.state == MemberState::Unrevoked {
                let what = What::Revocation(id.clone());
                step.timers.set(&self.id, what, step.now, member.rebalance_ms);
            }
        }
    }
}

fn to_list(owned: &Owned) -> Vec<TopicPartitions> {
    let each = owned.iter().map(|(topic_id, partitions)| TopicPartitions {
        topic_id: *topic_id,
        partitions: partitions.keys().copied().collect(),
        assignment_epochs: Some(partitions.values().copied().collect()),
    });
    each.collect()
}

/// Records of brokers before 4.3 have no epochs: then it is the member's.
fn from_list(list: Vec<TopicPartitions>, epoch: i32) -> Owned {
    let each = list.into_iter().map(|topic| {
        let epochs = topic.assignment_epochs.unwrap_or_default();
        let epoch_of = |at: usize| epochs.get(at).copied().unwrap_or(epoch);
        let partitions = topic.partitions.into_iter().enumerate();
        (topic.topic_id, partitions.map(|(at, partition)| (partition, epoch_of(at))).collect())
    });
    each.collect()
}

#[cfg(test)]
impl ConsumerGroup {
    /// Everything that a move of the coordinator must keep.
    pub(crate) fn durable(&self) -> String {
        format!(
            "{} {} {:#?} {} {:?} {:?} {:?} {:?}",
            self.epoch,
            self.metadata_hash,
            self.members,
            self.target_epoch,
            self.target,
            self.regexes,
            self.instances,
            self.owners
        )
    }
}
