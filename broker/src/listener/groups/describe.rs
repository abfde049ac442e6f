//! What a group looks like: one of this protocol and Kafka's new one, or a classic one.

use bytes::Bytes;
use levee_groups::{Answer, Request};
use levee_kafka::messages::consumer_group_describe_request::ConsumerGroupDescribeRequest;
use levee_kafka::messages::consumer_group_describe_response as consumer;
use levee_kafka::messages::consumer_protocol_assignment::ConsumerProtocolAssignment;
use levee_kafka::messages::describe_groups_request::DescribeGroupsRequest;
use levee_kafka::messages::describe_groups_response as classic;
use levee_kafka::{ErrorCode, Message, Reader};
use levee_proto::grpc::{GroupDescription, MemberDescription, TopicPartitions};
use levee_proto::ids::TopicId;

use super::super::coordinated::{Asker, Coordinated, failure, mixed_up, numbers};
use super::super::refusals::of_group;
use crate::error::Result;

/// Versions of Kafka's requests.
const DESCRIBE_CONSUMER: i16 = 1;
const DESCRIBE_CLASSIC: i16 = 6;

pub(super) async fn describe(
    coordinated: &Coordinated,
    asker: &Asker,
    group: &str,
) -> Result<GroupDescription> {
    let request =
        ConsumerGroupDescribeRequest { group_ids: vec![group.to_owned()], ..Default::default() };
    let request = Request::ConsumerGroupDescribe(request);
    let answer = coordinated.group(asker, group, DESCRIBE_CONSUMER, request).await?;
    let Answer::ConsumerGroupDescribe(answer) = answer else { return Err(mixed_up()) };
    let found = answer.groups.into_iter().next().ok_or_else(mixed_up)?;
    match failure(found.error_code) {
        None => Ok(of_consumers(found)),
        // Not there, or not of this kind.
        Some(ErrorCode::GroupIdNotFound) => describe_classic(coordinated, asker, group).await,
        Some(code) => Err(of_group(code, group, found.error_message)),
    }
}

async fn describe_classic(
    coordinated: &Coordinated,
    asker: &Asker,
    group: &str,
) -> Result<GroupDescription> {
    let request = DescribeGroupsRequest { groups: vec![group.to_owned()], ..Default::default() };
    let request = Request::DescribeGroups(request);
    let answer = coordinated.group(asker, group, DESCRIBE_CLASSIC, request).await?;
    let Answer::DescribeGroups(answer) = answer else { return Err(mixed_up()) };
    let found = answer.groups.into_iter().next().ok_or_else(mixed_up)?;
    match failure(found.error_code) {
        None => Ok(of_classic(found)),
        Some(code) => Err(of_group(code, group, None)),
    }
}

fn of_consumers(group: consumer::DescribedGroup) -> GroupDescription {
    let members = group.members.into_iter().map(|member| MemberDescription {
        member_id: member.member_id,
        instance_id: member.instance_id.unwrap_or_default(),
        rack: member.rack_id.unwrap_or_default(),
        client_id: member.client_id,
        client_host: member.client_host,
        member_epoch: u32::try_from(member.member_epoch).unwrap_or_default(),
        topics: member.subscribed_topic_names,
        topic_pattern: member.subscribed_topic_regex.unwrap_or_default(),
        assigned: partitions(member.assignment),
        target: partitions(member.target_assignment),
    });
    GroupDescription {
        group: group.group_id,
        r#type: "consumer".to_owned(),
        state: group.group_state,
        group_epoch: u32::try_from(group.group_epoch).unwrap_or_default(),
        assignment_epoch: u32::try_from(group.assignment_epoch).unwrap_or_default(),
        assignor: group.assignor_name,
        members: members.collect(),
    }
}

fn partitions(assignment: consumer::Assignment) -> Vec<TopicPartitions> {
    let each = assignment.topic_partitions.into_iter().map(|topic| TopicPartitions {
        topic: topic.topic_name,
        topic_id: TopicId(topic.topic_id.into()).to_string(),
        partitions: numbers(&topic.partitions),
    });
    each.collect()
}

fn of_classic(group: classic::DescribedGroup) -> GroupDescription {
    let is_consumer = group.protocol_type == "consumer";
    let members = group.members.into_iter().map(|member| {
        let assigned = match is_consumer {
            true => classic_partitions(member.member_assignment),
            false => Vec::new(),
        };
        MemberDescription {
            member_id: member.member_id,
            instance_id: member.group_instance_id.unwrap_or_default(),
            client_id: member.client_id,
            client_host: member.client_host,
            target: assigned.clone(),
            assigned,
            ..Default::default()
        }
    });
    GroupDescription {
        group: group.group_id,
        r#type: "classic".to_owned(),
        state: group.group_state,
        assignor: group.protocol_data,
        members: members.collect(),
        ..Default::default()
    }
}

/// Bytes of another client: what cannot be read is shown as nothing.
fn classic_partitions(assignment: Bytes) -> Vec<TopicPartitions> {
    let mut r = Reader::new(assignment);
    let newest = *ConsumerProtocolAssignment::VERSIONS.end();
    let Some(version) = r.i16().ok().filter(|version| *version >= 0) else { return Vec::new() };
    let Ok(read) = ConsumerProtocolAssignment::decode(&mut r, version.min(newest)) else {
        return Vec::new();
    };
    let each = read.assigned_partitions.into_iter().map(|topic| TopicPartitions {
        topic: topic.topic,
        topic_id: String::new(),
        partitions: numbers(&topic.partitions),
    });
    each.collect()
}
