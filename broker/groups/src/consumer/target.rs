//! The target assignment of an epoch.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use levee_kafka::messages::consumer_group_target_assignment_member_value as target_value;
use levee_kafka::messages::consumer_group_target_assignment_metadata_value::ConsumerGroupTargetAssignmentMetadataValue;

use super::ConsumerGroup;
use super::member::Assignment;
use crate::assign::{self, Asks, Spec};
use crate::groups::Step;
use crate::records::Record;

impl ConsumerGroup {
    /// The assignor that most members ask for.
    pub(crate) fn assignor(&self) -> &str {
        let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
        for name in self.members.values().filter_map(|member| member.assignor.as_deref()) {
            *votes.entry(name).or_default() += 1;
        }
        let most = votes.into_iter().max_by_key(|(name, votes)| (*votes, Reverse(*name)));
        most.map_or(assign::ASSIGNORS[0], |(name, _)| name)
    }

    /// Computes the target of the epoch that the group is in.
    pub(super) fn retarget(&mut self, step: &mut Step<'_>) {
        let mut spec = Spec::default();
        for (id, member) in &self.members {
            let mut asks = Asks { instance: member.instance.clone(), ..Default::default() };
            asks.has = self.target.get(id).cloned().unwrap_or_default();
            for name in self.topics_of(member) {
                if let Some(topic) = step.topics.by_name(&name) {
                    spec.topics.insert(topic.id, topic.partitions);
                    asks.topics.insert(topic.id);
                }
            }
            spec.members.insert(id.clone(), asks);
        }
        let target = assign::assign(self.assignor(), &spec);
        for (id, assignment) in target {
            let before = self.target.get(&id);
            if before.map_or(assignment.is_empty(), |before| *before == assignment) {
                continue;
            }
            self.write_target(step, &id, &assignment);
            // Until the epoch of the target follows it is made again.
            step.cut();
        }
        let value = ConsumerGroupTargetAssignmentMetadataValue {
            assignment_epoch: self.epoch,
            assignment_timestamp: step.now,
        };
        self.write(step, Record::TargetEpoch { group: self.id.clone(), value: Some(value) });
        step.cut();
    }

    pub(super) fn write_target(&mut self, step: &mut Step<'_>, id: &str, target: &Assignment) {
        let topics = target.iter().map(|(topic_id, partitions)| target_value::TopicPartition {
            topic_id: *topic_id,
            partitions: partitions.iter().copied().collect(),
        });
        let value = target_value::ConsumerGroupTargetAssignmentMemberValue {
            topic_partitions: topics.collect(),
        };
        let (group, member) = (self.id.clone(), id.to_owned());
        self.write(step, Record::Target { group, member, value: Some(value) });
    }
}
