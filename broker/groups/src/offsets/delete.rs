//! OffsetDelete and DeleteGroups.

use levee_kafka::ErrorCode;
use levee_kafka::messages::delete_groups_request::DeleteGroupsRequest;
use levee_kafka::messages::delete_groups_response::{DeletableGroupResult, DeleteGroupsResponse};
use levee_kafka::messages::offset_delete_request::OffsetDeleteRequest;
use levee_kafka::messages::offset_delete_response::{
    OffsetDeleteResponse, OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};

use super::{AllGroups, Offsets, Place};
use crate::groups::{Group, Step};

impl Offsets {
    pub(crate) fn delete(
        &mut self,
        groups: &AllGroups,
        step: &mut Step<'_>,
        request: OffsetDeleteRequest,
    ) -> OffsetDeleteResponse {
        let id = request.group_id;
        let refused = match groups.get(&id) {
            None => Some(ErrorCode::GroupIdNotFound),
            Some(Group::Classic(group)) if !group.is_consumer() && !is_empty(groups, &id) => {
                Some(ErrorCode::NonEmptyGroup)
            }
            Some(_) => None,
        };
        if let Some(code) = refused {
            return OffsetDeleteResponse { error_code: code.into(), ..Default::default() };
        }
        let mut topics = Vec::with_capacity(request.topics.len());
        for topic in request.topics {
            let read = groups.get(&id).is_some_and(|group| group.is_subscribed(&topic.name));
            let code = if read { ErrorCode::GroupSubscribedToTopic } else { ErrorCode::None };
            let mut partitions = Vec::with_capacity(topic.partitions.len());
            for partition in topic.partitions {
                let place = (topic.name.clone(), partition.partition_index);
                if !read && self.has(&id, &place) {
                    self.write_end(step, &id, place);
                }
                partitions.push(OffsetDeleteResponsePartition {
                    partition_index: partition.partition_index,
                    error_code: code.into(),
                });
            }
            topics.push(OffsetDeleteResponseTopic { name: topic.name, partitions });
        }
        OffsetDeleteResponse { topics, ..Default::default() }
    }

    fn has(&self, group: &str, place: &Place) -> bool {
        let group = self.groups.get(group);
        group.is_some_and(|g| g.committed.contains_key(place) || g.is_pending(place))
    }

    pub(crate) fn delete_groups(
        &mut self,
        groups: &mut AllGroups,
        step: &mut Step<'_>,
        request: DeleteGroupsRequest,
    ) -> DeleteGroupsResponse {
        let mut results = Vec::with_capacity(request.groups_names.len());
        for group_id in request.groups_names {
            let code = match groups.get(&group_id) {
                None => ErrorCode::GroupIdNotFound,
                Some(group) if !group.is_empty() => ErrorCode::NonEmptyGroup,
                Some(_) => {
                    self.end_group(groups, step, &group_id);
                    ErrorCode::None
                }
            };
            results.push(DeletableGroupResult { group_id, error_code: code.into() });
        }
        DeleteGroupsResponse { results, ..Default::default() }
    }

    /// A group that nobody is in ends, with its offsets.
    pub(super) fn end_group(&mut self, groups: &mut AllGroups, step: &mut Step<'_>, id: &str) {
        let places = self.groups.get(id).map(|offsets| offsets.places()).unwrap_or_default();
        for place in places {
            self.write_end(step, id, place);
        }
        if let Some(group) = groups.remove(id) {
            group.write_end(step);
            step.cut();
        }
        step.timers.cancel_all(id);
    }
}

fn is_empty(groups: &AllGroups, id: &str) -> bool {
    groups.get(id).is_none_or(Group::is_empty)
}
