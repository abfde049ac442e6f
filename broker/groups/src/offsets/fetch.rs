//! OffsetFetch.

use std::collections::{BTreeMap, BTreeSet};

use levee_kafka::messages::offset_commit_value::OffsetCommitValue;
use levee_kafka::messages::offset_fetch_request::{
    OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopics,
};
use levee_kafka::messages::offset_fetch_response::{
    OffsetFetchResponse, OffsetFetchResponseGroup, OffsetFetchResponsePartition,
    OffsetFetchResponsePartitions, OffsetFetchResponseTopic, OffsetFetchResponseTopics,
};
use levee_kafka::{ErrorCode, Uuid};

use super::{AllGroups, Offsets, is_of_gone};
use crate::api::Caller;
use crate::groups::{Group, Step};

/// From this version on a request names several groups.
const GROUPS_FROM: i16 = 8;
/// From this version on topics are named by their ids.
const IDS_FROM: i16 = 10;
/// Up to this version a group's error stands with its partitions.
const NO_GROUP_ERROR_UP_TO: i16 = 1;

impl Offsets {
    pub(crate) fn fetch(
        &self,
        groups: &AllGroups,
        step: &Step<'_>,
        caller: &Caller,
        request: OffsetFetchRequest,
    ) -> OffsetFetchResponse {
        let stable = request.require_stable;
        let version = caller.api_version;
        if version >= GROUPS_FROM {
            let each = |asked| self.fetch_group(groups, step, version, stable, asked);
            let groups = request.groups.into_iter().map(each).collect();
            return OffsetFetchResponse { groups, ..Default::default() };
        }
        let topics = request.topics.map(|topics| {
            let each = topics.into_iter().map(|topic| OffsetFetchRequestTopics {
                name: topic.name,
                partition_indexes: topic.partition_indexes,
                ..Default::default()
            });
            each.collect()
        });
        let asked =
            OffsetFetchRequestGroup { group_id: request.group_id, topics, ..Default::default() };
        let group = self.fetch_group(groups, step, version, stable, asked);
        let topics = group.topics.into_iter().map(|topic| OffsetFetchResponseTopic {
            name: topic.name,
            partitions: topic.partitions.into_iter().map(old_partition).collect(),
        });
        let topics = topics.collect();
        OffsetFetchResponse { topics, error_code: group.error_code, ..Default::default() }
    }

    fn fetch_group(
        &self,
        groups: &AllGroups,
        step: &Step<'_>,
        version: i16,
        stable: bool,
        asked: OffsetFetchRequestGroup,
    ) -> OffsetFetchResponseGroup {
        let group_id = asked.group_id;
        if let Some(Group::Consumer(group)) = groups.get(&group_id)
            && let Err(code) = group.check_fetch(asked.member_id.as_deref(), asked.member_epoch)
            && version > NO_GROUP_ERROR_UP_TO
        {
            let error_code = code.into();
            return OffsetFetchResponseGroup { group_id, error_code, ..Default::default() };
        }
        let topics = match asked.topics {
            Some(topics) => once_each(topics)
                .map(|topic| self.fetch_topic(step, version, stable, &group_id, topic))
                .collect(),
            None => self.fetch_all(step, version, stable, &group_id),
        };
        OffsetFetchResponseGroup { group_id, topics, ..Default::default() }
    }

    fn fetch_topic(
        &self,
        step: &Step<'_>,
        version: i16,
        stable: bool,
        group: &str,
        asked: OffsetFetchRequestTopics,
    ) -> OffsetFetchResponseTopics {
        let name = match version >= IDS_FROM {
            true => step.topics.name_of(asked.topic_id),
            false => Some(asked.name.clone()),
        };
        let partitions = asked.partition_indexes.into_iter().map(|partition| match &name {
            Some(name) => self.fetch_one(step, stable, group, name, partition),
            None => absent(partition, ErrorCode::UnknownTopicId),
        });
        let partitions = partitions.collect();
        let topic_id = match version >= IDS_FROM {
            true => asked.topic_id,
            false => step.topics.by_name(&asked.name).map_or(Uuid::ZERO, |topic| topic.id),
        };
        OffsetFetchResponseTopics { name: asked.name, topic_id, partitions }
    }

    fn fetch_all(
        &self,
        step: &Step<'_>,
        version: i16,
        stable: bool,
        group: &str,
    ) -> Vec<OffsetFetchResponseTopics> {
        let Some(offsets) = self.groups.get(group) else { return Vec::new() };
        let mut topics: BTreeMap<&str, Vec<OffsetFetchResponsePartitions>> = BTreeMap::new();
        for ((topic, partition), offset) in &offsets.committed {
            if is_of_gone(step, topic, &offset.value) {
                continue;
            }
            let one = self.fetch_one(step, stable, group, topic, *partition);
            topics.entry(topic).or_default().push(one);
        }
        let listed = topics.into_iter().filter_map(|(name, partitions)| {
            let topic_id = step.topics.by_name(name).map_or(Uuid::ZERO, |topic| topic.id);
            // A topic that is gone has no id to be named by.
            let named = version < IDS_FROM || !topic_id.is_zero();
            let name = name.to_owned();
            named.then_some(OffsetFetchResponseTopics { name, topic_id, partitions })
        });
        listed.collect()
    }

    fn fetch_one(
        &self,
        step: &Step<'_>,
        stable: bool,
        group: &str,
        topic: &str,
        partition: i32,
    ) -> OffsetFetchResponsePartitions {
        let place = (topic.to_owned(), partition);
        if stable && self.groups.get(group).is_some_and(|offsets| offsets.is_pending(&place)) {
            return absent(partition, ErrorCode::UnstableOffsetCommit);
        }
        match self.find(group, &place) {
            Some(value) if !is_of_gone(step, topic, value) => present(partition, value),
            _ => absent(partition, ErrorCode::None),
        }
    }
}

/// Who asks for the same again is not told it twice: answers have kilobytes where requests have
/// bytes.
fn once_each(
    topics: Vec<OffsetFetchRequestTopics>,
) -> impl Iterator<Item = OffsetFetchRequestTopics> {
    let mut seen = BTreeSet::new();
    topics.into_iter().map(move |mut topic| {
        let (name, id) = (topic.name.clone(), topic.topic_id.0);
        topic.partition_indexes.retain(|number| seen.insert((name.clone(), id, *number)));
        topic
    })
}

fn present(partition_index: i32, value: &OffsetCommitValue) -> OffsetFetchResponsePartitions {
    OffsetFetchResponsePartitions {
        partition_index,
        committed_offset: value.offset,
        committed_leader_epoch: value.leader_epoch,
        metadata: Some(value.metadata.clone()),
        error_code: 0,
    }
}

fn absent(partition_index: i32, code: ErrorCode) -> OffsetFetchResponsePartitions {
    OffsetFetchResponsePartitions {
        partition_index,
        committed_offset: -1,
        committed_leader_epoch: -1,
        metadata: Some(String::new()),
        error_code: code.into(),
    }
}

fn old_partition(new: OffsetFetchResponsePartitions) -> OffsetFetchResponsePartition {
    OffsetFetchResponsePartition {
        partition_index: new.partition_index,
        committed_offset: new.committed_offset,
        committed_leader_epoch: new.committed_leader_epoch,
        metadata: new.metadata,
        error_code: new.error_code,
    }
}
