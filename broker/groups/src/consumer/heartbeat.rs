//! ConsumerGroupHeartbeat: join, report, get the next piece of the assignment.

use std::collections::BTreeMap;

use levee_kafka::ErrorCode;
use levee_kafka::messages::consumer_group_heartbeat_request::ConsumerGroupHeartbeatRequest;
use levee_kafka::messages::consumer_group_heartbeat_response as response;
use levee_kafka::messages::consumer_group_heartbeat_response::ConsumerGroupHeartbeatResponse;

use super::member::{Assignment, Member};
use super::subscribe::Says;
use super::{AWAY, ConsumerGroup, validate};
use crate::api::{Caller, Refusal};
use crate::groups::{Group, Step};
use crate::timers::What;

/// A heartbeat that may be followed.
struct Admitted {
    owned: Option<Assignment>,
    /// As whom its member was known.
    before: Option<String>,
    says: Says,
}

impl ConsumerGroup {
    pub(crate) fn take_heartbeat(
        groups: &mut BTreeMap<String, Group>,
        step: &mut Step<'_>,
        caller: &Caller,
        request: ConsumerGroupHeartbeatRequest,
    ) -> ConsumerGroupHeartbeatResponse {
        heartbeat(groups, step, caller, request).unwrap_or_else(|refusal| {
            ConsumerGroupHeartbeatResponse {
                error_code: refusal.code.into(),
                error_message: Some(refusal.message),
                ..Default::default()
            }
        })
    }

    /// What a heartbeat comes to, before anything of it is written.
    fn admit(
        &self,
        step: &Step<'_>,
        caller: &Caller,
        request: &ConsumerGroupHeartbeatRequest,
    ) -> Result<Admitted, Refusal> {
        let owned = request.topic_partitions.as_ref().map(|list| {
            let each = list.iter().map(|t| (t.topic_id, t.partitions.iter().copied().collect()));
            each.collect::<Assignment>()
        });
        let max_size = step.settings.consumer_max_size;
        let before = self.member_for(request, owned.as_ref(), max_size)?;
        let says = self.says(step, caller, request, before.as_deref())?;
        Ok(Admitted { owned, before, says })
    }

    fn heartbeat(
        &mut self,
        step: &mut Step<'_>,
        request: ConsumerGroupHeartbeatRequest,
        admitted: Admitted,
    ) -> Result<ConsumerGroupHeartbeatResponse, Refusal> {
        let Admitted { owned, before, says } = admitted;
        let id = request.member_id.clone();
        if let Some(before) = before
            && (before != id || self.members.get(&before).is_some_and(|m| m.epoch == AWAY))
        {
            self.come_back(step, &before, &id);
        }
        let had = self.members.get(&id).map(Member::assignment);
        let moved = says.moved;
        self.subscribe(step, &id, says);
        step.cut();
        if moved {
            self.remove_who_reads_too_much(step);
        }
        if self.epoch > self.target_epoch {
            self.retarget(step);
        }
        self.reconcile(step, &id, owned.as_ref());
        let what = What::Session(id.clone());
        step.timers.set(&self.id, what, step.now, step.settings.consumer_session_ms);
        let member = self.members.get(&id).ok_or_else(|| self.unknown(&id))?;
        let assignment = member.assignment();
        // A member that tells all wants to be told all: it joins, or an answer was lost.
        let full = request.rebalance_timeout_ms != -1
            && request.topic_partitions.is_some()
            && (request.subscribed_topic_names.is_some()
                || request.subscribed_topic_regex.is_some());
        let tell = full || request.member_epoch == 0 || had.as_ref() != Some(&assignment);
        Ok(ConsumerGroupHeartbeatResponse {
            member_id: Some(id),
            member_epoch: member.epoch,
            heartbeat_interval_ms: step.settings.consumer_heartbeat_ms,
            assignment: tell.then(|| to_answer(assignment)),
            ..Default::default()
        })
    }
}

fn heartbeat(
    groups: &mut BTreeMap<String, Group>,
    step: &mut Step<'_>,
    caller: &Caller,
    mut request: ConsumerGroupHeartbeatRequest,
) -> Result<ConsumerGroupHeartbeatResponse, Refusal> {
    validate::check(&request, caller.api_version)?;
    if request.member_id.is_empty() {
        request.member_id = caller.fresh_id.clone();
    }
    let id = request.group_id.clone();
    match groups.get_mut(&id) {
        Some(Group::Consumer(group)) if request.member_epoch < 0 => {
            return group.leave(step, &request);
        }
        Some(Group::Consumer(group)) => {
            let admitted = group.admit(step, caller, &request)?;
            return group.heartbeat(step, request, admitted);
        }
        Some(group) if request.member_epoch == 0 && group.is_empty() => {}
        Some(_) => {
            let message = format!("Group {id} is not a consumer group.");
            return Err(Refusal::new(ErrorCode::GroupIdNotFound, message));
        }
        None if request.member_epoch == 0 => {}
        None => {
            let message = format!("Consumer group {id} not found.");
            return Err(Refusal::new(ErrorCode::GroupIdNotFound, message));
        }
    }
    let mut group = ConsumerGroup::new(&id);
    let admitted = group.admit(step, caller, &request)?;
    if let Some(before) = groups.get(&id) {
        // Nobody is in it: it becomes a consumer group, and keeps its offsets.
        before.write_end(step);
        step.cut();
        step.timers.cancel_all(&id);
    }
    let answer = group.heartbeat(step, request, admitted);
    groups.insert(id, Group::Consumer(group));
    answer
}

fn to_answer(assignment: Assignment) -> response::Assignment {
    let topics = assignment.into_iter().map(|(topic_id, partitions)| response::TopicPartitions {
        topic_id,
        partitions: partitions.into_iter().collect(),
    });
    response::Assignment { topic_partitions: topics.collect() }
}
