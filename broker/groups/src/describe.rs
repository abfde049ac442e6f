//! ListGroups, DescribeGroups and ConsumerGroupDescribe.

use std::collections::BTreeMap;

use bytes::Bytes;
use levee_kafka::ErrorCode;
use levee_kafka::messages::consumer_group_describe_request::ConsumerGroupDescribeRequest;
use levee_kafka::messages::consumer_group_describe_response as consumer;
use levee_kafka::messages::consumer_group_describe_response::ConsumerGroupDescribeResponse;
use levee_kafka::messages::describe_groups_request::DescribeGroupsRequest;
use levee_kafka::messages::describe_groups_response::{
    DescribeGroupsResponse, DescribedGroup, DescribedGroupMember,
};
use levee_kafka::messages::list_groups_request::ListGroupsRequest;
use levee_kafka::messages::list_groups_response::{ListGroupsResponse, ListedGroup};

use crate::api::Caller;
use crate::classic::{ClassicGroup, State};
use crate::consumer::{Assignment, ConsumerGroup, Member};
use crate::groups::{Group, Step};

/// From this version on a group that is not there is an error; before it is a dead one.
const NOT_FOUND_FROM: i16 = 6;
/// What a group that is not there is called.
const DEAD: &str = "Dead";
/// Of a member that speaks the protocol of consumer groups.
const CONSUMER_MEMBER: i8 = 1;

pub(crate) fn list(
    groups: &BTreeMap<String, Group>,
    request: ListGroupsRequest,
) -> ListGroupsResponse {
    let asked = |filter: &[String], name: &str| {
        filter.is_empty() || filter.iter().any(|asked| asked.eq_ignore_ascii_case(name))
    };
    let each = groups.iter().map(|(id, group)| {
        let (kind, protocol, state) = match group {
            Group::Classic(group) => {
                ("classic", group.protocol_type.as_deref().unwrap_or_default(), group.state.name())
            }
            Group::Consumer(group) => ("consumer", "consumer", group.state_name()),
        };
        ListedGroup {
            group_id: id.clone(),
            protocol_type: protocol.to_owned(),
            group_state: state.to_owned(),
            group_type: kind.to_owned(),
        }
    });
    let groups = each.filter(|group| {
        asked(&request.states_filter, &group.group_state)
            && asked(&request.types_filter, &group.group_type)
    });
    ListGroupsResponse { groups: groups.collect(), ..Default::default() }
}

pub(crate) fn describe(
    groups: &BTreeMap<String, Group>,
    caller: &Caller,
    request: DescribeGroupsRequest,
) -> DescribeGroupsResponse {
    let each = request.groups.into_iter().map(|id| match groups.get(&id) {
        Some(Group::Classic(group)) => describe_classic(group),
        other => {
            let problem = if other.is_some() { "is not a classic group" } else { "not found" };
            let code = match caller.api_version >= NOT_FOUND_FROM {
                true => ErrorCode::GroupIdNotFound,
                false => ErrorCode::None,
            };
            DescribedGroup {
                error_code: code.into(),
                error_message: Some(format!("Group {id} {problem}.")),
                group_id: id,
                group_state: DEAD.to_owned(),
                ..Default::default()
            }
        }
    });
    DescribeGroupsResponse { groups: each.collect(), ..Default::default() }
}

fn describe_classic(group: &ClassicGroup) -> DescribedGroup {
    // What members said and got is known for certain in this state only.
    let protocol = group.protocol.clone().filter(|_| group.state == State::Stable);
    let members = group.members.values().map(|member| {
        let metadata = protocol.as_deref().and_then(|protocol| member.metadata(protocol));
        DescribedGroupMember {
            member_id: member.id.clone(),
            group_instance_id: member.instance.clone(),
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            member_metadata: metadata.cloned().unwrap_or_default(),
            member_assignment: match protocol {
                Some(_) => member.assignment.clone(),
                None => Bytes::new(),
            },
        }
    });
    DescribedGroup {
        group_id: group.id.clone(),
        group_state: group.state.name().to_owned(),
        protocol_type: group.protocol_type.clone().unwrap_or_default(),
        members: members.collect(),
        protocol_data: protocol.clone().unwrap_or_default(),
        ..Default::default()
    }
}

pub(crate) fn describe_consumer(
    groups: &BTreeMap<String, Group>,
    step: &Step<'_>,
    request: ConsumerGroupDescribeRequest,
) -> ConsumerGroupDescribeResponse {
    let each = request.group_ids.into_iter().map(|id| match groups.get(&id) {
        Some(Group::Consumer(group)) => describe_one(group, step),
        other => {
            let problem = if other.is_some() { "is not a consumer group" } else { "not found" };
            consumer::DescribedGroup {
                error_code: ErrorCode::GroupIdNotFound.into(),
                error_message: Some(format!("Group {id} {problem}.")),
                group_id: id,
                ..Default::default()
            }
        }
    });
    ConsumerGroupDescribeResponse { groups: each.collect(), ..Default::default() }
}

fn describe_one(group: &ConsumerGroup, step: &Step<'_>) -> consumer::DescribedGroup {
    let member = |(id, member): (&String, &Member)| consumer::Member {
        member_id: id.clone(),
        instance_id: member.instance.clone(),
        rack_id: member.rack.clone(),
        member_epoch: member.epoch,
        client_id: member.client_id.clone(),
        client_host: member.client_host.clone(),
        subscribed_topic_names: member.topics.iter().cloned().collect(),
        subscribed_topic_regex: member.regex.clone(),
        assignment: named(step, &member.assignment()),
        target_assignment: group.target.get(id).map(|t| named(step, t)).unwrap_or_default(),
        member_type: CONSUMER_MEMBER,
    };
    consumer::DescribedGroup {
        group_id: group.id.clone(),
        group_state: group.state_name().to_owned(),
        group_epoch: group.epoch,
        assignment_epoch: group.target_epoch,
        assignor_name: group.assignor().to_owned(),
        members: group.members.iter().map(member).collect(),
        ..Default::default()
    }
}

/// Topics that are gone are left out.
fn named(step: &Step<'_>, assignment: &Assignment) -> consumer::Assignment {
    let topics = assignment.iter().filter_map(|(topic_id, partitions)| {
        Some(consumer::TopicPartitions {
            topic_id: *topic_id,
            topic_name: step.topics.name_of(*topic_id)?,
            partitions: partitions.iter().copied().collect(),
        })
    });
    consumer::Assignment { topic_partitions: topics.collect() }
}
