//! ConsumerGroupHeartbeat: requests that say yes to nothing.

use levee_kafka::ErrorCode;
use levee_kafka::messages::consumer_group_heartbeat_request::ConsumerGroupHeartbeatRequest;

use super::{AWAY, ConsumerGroup, LEFT, Member, MemberState, subscribe};
use crate::api::Refusal;
use crate::assign::ASSIGNORS;
use crate::consumer::member::Assignment;
use crate::settings::{NAME_MAX, TOPIC_NAME_MAX};

/// From this version on members choose their ids.
const OWN_ID_FROM: i16 = 1;

/// What can be told without knowing the group.
pub(super) fn check(
    request: &ConsumerGroupHeartbeatRequest,
    api_version: i16,
) -> Result<(), Refusal> {
    let invalid = |message: &str| Err(Refusal::new(ErrorCode::InvalidRequest, message));
    let empty = |text: &Option<String>| text.as_ref().is_some_and(String::is_empty);
    let joins = request.member_epoch == 0;
    if request.member_id.is_empty() && (api_version >= OWN_ID_FROM || !joins) {
        return invalid("MemberId can't be empty.");
    }
    if request.group_id.is_empty() {
        return invalid("GroupId can't be empty.");
    }
    if empty(&request.instance_id) {
        return invalid("InstanceId can't be empty.");
    }
    if empty(&request.rack_id) {
        return invalid("RackId can't be empty.");
    }
    let long = |text: &Option<String>, max| text.as_ref().is_some_and(|text| text.len() > max);
    let names = request.subscribed_topic_names.iter().flatten();
    if request.member_id.len() > NAME_MAX || long(&request.rack_id, NAME_MAX) {
        return invalid("MemberId and RackId have at most 1024 bytes.");
    }
    if long(&request.instance_id, TOPIC_NAME_MAX) {
        return invalid("InstanceId has at most 249 bytes.");
    }
    if names.map(String::len).any(|bytes| bytes > TOPIC_NAME_MAX) {
        return invalid("SubscribedTopicNames have at most 249 bytes each.");
    }
    if request.member_epoch < AWAY {
        return invalid("MemberEpoch is invalid.");
    }
    if request.member_epoch == AWAY && request.instance_id.is_none() {
        return invalid("InstanceId can't be null.");
    }
    if joins {
        if request.rebalance_timeout_ms == -1 {
            return invalid("RebalanceTimeoutMs must be provided in first request.");
        }
        if request.topic_partitions.as_ref().is_none_or(|owned| !owned.is_empty()) {
            return invalid("TopicPartitions must be empty when (re-)joining.");
        }
        if request.subscribed_topic_names.is_none() && request.subscribed_topic_regex.is_none() {
            return invalid(
                "Either SubscribedTopicNames or SubscribedTopicRegex must be non-null when \
                 (re-)joining.",
            );
        }
    }
    if let Some(assignor) = &request.server_assignor
        && !ASSIGNORS.contains(&assignor.as_str())
    {
        let known = ASSIGNORS.join(", ");
        let message =
            format!("ServerAssignor {assignor} is not supported. Supported assignors: {known}.");
        return Err(Refusal::new(ErrorCode::UnsupportedAssignor, message));
    }
    match &request.subscribed_topic_regex {
        Some(regex) if request.member_epoch >= 0 && !regex.is_empty() => {
            subscribe::compile(regex).map(|_| ())
        }
        _ => Ok(()),
    }
}

impl ConsumerGroup {
    pub(super) fn unknown(&self, id: &str) -> Refusal {
        let message = format!("Member {id} is not a member of group {}.", self.id);
        Refusal::new(ErrorCode::UnknownMemberId, message)
    }

    /// The member as which a request comes; none: a new one. A static member that comes back is the
    /// one that it was.
    pub(super) fn member_for(
        &self,
        request: &ConsumerGroupHeartbeatRequest,
        owned: Option<&Assignment>,
        max_size: usize,
    ) -> Result<Option<String>, Refusal> {
        let id = &request.member_id;
        let joins = request.member_epoch == 0;
        let holder = request.instance_id.as_ref().and_then(|name| self.instances.get(name));
        let found = match (&request.instance_id, holder) {
            (Some(instance), Some(holder)) if holder != id => {
                let away = self.members.get(holder).is_some_and(|m| m.epoch == AWAY);
                match (joins, away) {
                    (true, true) => Some(holder.clone()),
                    (true, false) => return Err(unreleased(instance, holder)),
                    (false, _) => return Err(fenced_instance(instance, id)),
                }
            }
            (Some(_), None) if !joins => return Err(self.unknown(id)),
            _ => self.members.contains_key(id).then(|| id.clone()),
        };
        match found.as_ref().and_then(|id| self.members.get(id)) {
            Some(member) => check_epoch(member, request.member_epoch, owned)?,
            None if !joins => return Err(self.unknown(id)),
            None if self.members.len() >= max_size.max(1) => {
                let message = format!("The group has reached its size of {max_size} members.");
                return Err(Refusal::new(ErrorCode::GroupMaxSizeReached, message));
            }
            None => {}
        }
        Ok(found)
    }

    /// The member that leaves.
    pub(super) fn leaver(&self, request: &ConsumerGroupHeartbeatRequest) -> Result<(), Refusal> {
        debug_assert!(request.member_epoch == LEFT || request.member_epoch == AWAY);
        let id = &request.member_id;
        if let Some(instance) = &request.instance_id {
            match self.instances.get(instance) {
                None => return Err(self.unknown(id)),
                Some(holder) if holder != id => return Err(fenced_instance(instance, id)),
                Some(_) => {}
            }
        }
        match self.members.contains_key(id) {
            true => Ok(()),
            false => Err(self.unknown(id)),
        }
    }
}

fn unreleased(instance: &str, holder: &str) -> Refusal {
    let message = format!(
        "Static member with instance id {instance} was not released by member {holder}; it is \
         when that one leaves or its session ends."
    );
    Refusal::new(ErrorCode::UnreleasedInstanceId, message)
}

fn fenced_instance(instance: &str, id: &str) -> Refusal {
    let message = format!("Instance id {instance} is another member's than {id} now.");
    Refusal::new(ErrorCode::FencedInstanceId, message)
}

/// A member says its epoch; 0: it joins (again). The epoch before is fine where the answer with the
/// new one may have been lost, which it was not if the member has more than it got.
fn check_epoch(member: &Member, epoch: i32, owned: Option<&Assignment>) -> Result<(), Refusal> {
    if member.state == MemberState::Unknown && owned.is_none_or(|owned| !owned.is_empty()) {
        let message = "The consumer group member is in a state that this broker does not know. \
                       The member must abandon all its partitions and rejoin.";
        return Err(Refusal::new(ErrorCode::FencedMemberEpoch, message));
    }
    let lost =
        epoch == member.previous_epoch && owned.is_some_and(|owned| is_within(owned, member));
    if epoch == 0 || epoch == member.epoch || (epoch < member.epoch && lost) {
        return Ok(());
    }
    let side = if epoch > member.epoch { "greater" } else { "smaller" };
    let message = format!(
        "The consumer group member has a {side} member epoch ({epoch}) than the one known by the \
         group coordinator ({}). The member must abandon all its partitions and rejoin.",
        member.epoch
    );
    Err(Refusal::new(ErrorCode::FencedMemberEpoch, message))
}

fn is_within(owned: &Assignment, member: &Member) -> bool {
    owned.iter().all(|(topic, partitions)| {
        let assigned = member.assigned.get(topic);
        partitions.iter().all(|p| assigned.is_some_and(|assigned| assigned.contains_key(p)))
    })
}
