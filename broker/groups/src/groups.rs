//! All groups of one partition: which group a request is for, and what happens by itself.

use std::collections::BTreeMap;

use bytes::Bytes;
use levee_kafka::ErrorCode;
use levee_kafka::messages::heartbeat_request::HeartbeatRequest;
use levee_kafka::messages::heartbeat_response::HeartbeatResponse;
use levee_kafka::messages::join_group_request::JoinGroupRequest;
use levee_kafka::messages::leave_group_request::{LeaveGroupRequest, MemberIdentity};
use levee_kafka::messages::leave_group_response::{LeaveGroupResponse, MemberResponse};
use levee_kafka::messages::sync_group_request::SyncGroupRequest;
use levee_kafka::messages::sync_group_response::SyncGroupResponse;

use crate::api::{Answer, Caller, Effects, Producer, Request, Token};
use crate::classic::{self, ClassicGroup};
use crate::consumer::ConsumerGroup;
use crate::offsets::Offsets;
use crate::records::{Record, ReplayError};
use crate::settings::{NAME_MAX, Settings, TOPIC_NAME_MAX, record_bytes};
use crate::timers::{Timer, Timers, What};
use crate::topics::Topics;

/// What one call works with, beside the groups.
pub(crate) struct Step<'a> {
    pub(crate) now: i64,
    pub(crate) settings: &'a Settings,
    pub(crate) topics: &'a dyn Topics,
    pub(crate) timers: &'a mut Timers,
    pub(crate) effects: &'a mut Effects,
    /// Of the records behind the last cut, and of all.
    pub(crate) uncut_bytes: usize,
    pub(crate) bytes: usize,
}

impl<'a> Step<'a> {
    pub(crate) fn new(
        now: i64,
        settings: &'a Settings,
        topics: &'a dyn Topics,
        timers: &'a mut Timers,
        effects: &'a mut Effects,
    ) -> Self {
        Self { now, settings, topics, timers, effects, uncut_bytes: 0, bytes: 0 }
    }

    pub(crate) fn answer(&mut self, token: Token, answer: Answer) {
        self.effects.answers.push((token, answer));
    }

    pub(crate) fn write(&mut self, record: Record) {
        let (key, value) = record.encode();
        let bytes = record_bytes(&key, value.as_deref());
        (self.uncut_bytes, self.bytes) = (self.uncut_bytes + bytes, self.bytes + bytes);
        self.effects.records.push((key, value));
    }

    /// What was written so far makes sense without what follows.
    pub(crate) fn cut(&mut self) {
        if self.uncut_bytes > 0 {
            self.effects.cuts.push(self.effects.records.len());
            self.uncut_bytes = 0;
        }
    }
}

#[derive(Debug)]
pub(crate) enum Group {
    Classic(ClassicGroup),
    Consumer(ConsumerGroup),
}

impl Group {
    /// Has it no members?
    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Group::Classic(group) => group.state == classic::State::Empty,
            Group::Consumer(group) => group.members.is_empty(),
        }
    }

    /// Has it none, and is none about to join?
    pub(crate) fn is_idle(&self) -> bool {
        match self {
            Group::Classic(group) => group.is_idle(),
            Group::Consumer(group) => group.members.is_empty(),
        }
    }

    /// The log says that the group is no more.
    pub(crate) fn write_end(&self, step: &mut Step<'_>) {
        match self {
            Group::Classic(group) => {
                step.write(Record::Classic { group: group.id.clone(), value: None });
            }
            Group::Consumer(group) => group.write_end(step),
        }
    }

    pub(crate) fn is_subscribed(&self, topic: &str) -> bool {
        match self {
            Group::Classic(group) => group.is_subscribed(topic),
            Group::Consumer(group) => group.is_subscribed(topic),
        }
    }

    /// Since when an offset counts as unused; none: it does not expire now.
    pub(crate) fn unused_since(&self, committed_ms: i64) -> Option<i64> {
        match self {
            Group::Classic(group) => group.unused_since(committed_ms),
            Group::Consumer(_) => Some(committed_ms),
        }
    }
}

/// The groups of one partition of `__consumer_offsets`.
#[derive(Debug)]
pub struct Groups {
    pub(crate) settings: Settings,
    pub(crate) groups: BTreeMap<String, Group>,
    pub(crate) offsets: Offsets,
    pub(crate) timers: Timers,
    /// When offsets are looked through for some that expired; none before all was read.
    pub(crate) next_check: Option<i64>,
    /// Where that goes on.
    pub(crate) check_from: String,
}

impl Groups {
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            groups: BTreeMap::new(),
            offsets: Offsets::default(),
            timers: Timers::default(),
            next_check: None,
            check_from: String::new(),
        }
    }

    /// A record of the partition, in the order of the log; `producer`: of a batch that is part of a
    /// transaction (not of a control batch, which is [`Groups::transaction_ended`]).
    pub fn replay(
        &mut self,
        key: Bytes,
        value: Option<Bytes>,
        producer: Option<Producer>,
    ) -> Result<(), ReplayError> {
        if let Some(record) = Record::decode(key, value)? {
            self.apply(record, producer);
        }
        Ok(())
    }

    /// All of the partition was read: sessions begin.
    pub fn loaded(&mut self, now: i64, topics: &dyn Topics) -> Effects {
        self.next_check = Some(now.saturating_add(self.settings.offsets_check_ms));
        self.step(now, topics, |groups, _, step| {
            for group in groups.values_mut() {
                match group {
                    Group::Classic(group) => group.loaded(step),
                    Group::Consumer(group) => group.loaded(step),
                }
            }
        })
    }

    /// When [`Groups::tick`] wants to be called.
    pub fn deadline(&self) -> Option<i64> {
        self.timers.next().into_iter().chain(self.next_check).min()
    }

    /// Does what is due.
    pub fn tick(&mut self, now: i64, topics: &dyn Topics) -> Effects {
        let mut effects = self.step(now, topics, |groups, _, step| {
            // The rest follows at once, in the next tick.
            while step.bytes < step.settings.batch_room()
                && let Some(timer) = step.timers.take_due(now)
            {
                fire(groups, step, timer);
                step.cut();
            }
        });
        if self.next_check.is_some_and(|at| at <= now) {
            self.expire_offsets(now, topics, &mut effects);
        }
        effects
    }

    pub fn request(
        &mut self,
        now: i64,
        topics: &dyn Topics,
        caller: &Caller,
        token: Token,
        request: Request,
    ) -> Effects {
        let caller = &*caller.with_short_names();
        self.step(now, topics, |groups, offsets, step| {
            let answer = match request {
                Request::JoinGroup(request) => return join(groups, step, caller, token, request),
                Request::SyncGroup(request) => return sync(groups, step, token, request),
                Request::Heartbeat(request) => Answer::Heartbeat(heartbeat(groups, step, request)),
                Request::LeaveGroup(request) => {
                    Answer::LeaveGroup(leave(groups, step, caller, request))
                }
                Request::ConsumerGroupHeartbeat(request) => Answer::ConsumerGroupHeartbeat(
                    ConsumerGroup::take_heartbeat(groups, step, caller, request),
                ),
                Request::OffsetCommit(request) => {
                    Answer::OffsetCommit(offsets.commit(groups, step, caller, request))
                }
                Request::TxnOffsetCommit(request) => {
                    Answer::TxnOffsetCommit(offsets.commit_pending(groups, step, caller, request))
                }
                Request::OffsetFetch(request) => {
                    Answer::OffsetFetch(offsets.fetch(groups, step, caller, request))
                }
                Request::OffsetDelete(request) => {
                    Answer::OffsetDelete(offsets.delete(groups, step, request))
                }
                Request::DeleteGroups(request) => {
                    Answer::DeleteGroups(offsets.delete_groups(groups, step, request))
                }
                Request::ListGroups(request) => {
                    Answer::ListGroups(crate::describe::list(groups, request))
                }
                Request::DescribeGroups(request) => {
                    Answer::DescribeGroups(crate::describe::describe(groups, caller, request))
                }
                Request::ConsumerGroupDescribe(request) => Answer::ConsumerGroupDescribe(
                    crate::describe::describe_consumer(groups, step, request),
                ),
            };
            step.answer(token, answer);
        })
    }

    /// Runs one step; its effects come back.
    pub(crate) fn step(
        &mut self,
        now: i64,
        topics: &dyn Topics,
        run: impl FnOnce(&mut BTreeMap<String, Group>, &mut Offsets, &mut Step<'_>),
    ) -> Effects {
        let mut effects = Effects::default();
        let (settings, timers) = (&self.settings, &mut self.timers);
        let mut step = Step::new(now, settings, topics, timers, &mut effects);
        run(&mut self.groups, &mut self.offsets, &mut step);
        effects
    }

    fn apply(&mut self, record: Record, producer: Option<Producer>) {
        match record {
            Record::Offset { key, value } => {
                if value.is_some() && !self.groups.contains_key(&key.group) {
                    let group = ClassicGroup::of_offsets(&key.group);
                    self.groups.insert(key.group.clone(), Group::Classic(group));
                }
                self.offsets.apply(key, value, producer.map(|producer| producer.id));
            }
            Record::Classic { group: id, value: Some(value) } => {
                let group = ClassicGroup::from_value(&id, value);
                self.groups.insert(id, Group::Classic(group));
            }
            Record::Classic { group: id, value: None } => {
                if let Some(Group::Classic(_)) = self.groups.get(&id) {
                    self.groups.remove(&id);
                }
            }
            record => ConsumerGroup::replay(&mut self.groups, record),
        }
    }
}

fn fire(groups: &mut BTreeMap<String, Group>, step: &mut Step<'_>, timer: Timer) {
    match (groups.get_mut(&timer.group), timer.what) {
        (Some(Group::Classic(group)), What::Join) => group.join_is_due(step),
        (Some(Group::Classic(group)), What::Sync) => group.sync_is_due(step),
        (Some(Group::Classic(group)), What::Session(id)) => group.session_is_over(step, &id),
        (Some(Group::Consumer(group)), What::Session(id)) => group.fence(step, &id),
        (Some(Group::Consumer(group)), What::Revocation(id)) => group.fence(step, &id),
        (_, _) => {}
    }
}

/// The classic group of this name, which its members must have joined before.
fn classic<'a>(
    groups: &'a mut BTreeMap<String, Group>,
    id: &str,
) -> Result<&'a mut ClassicGroup, ErrorCode> {
    match groups.get_mut(id) {
        _ if id.is_empty() => Err(ErrorCode::InvalidGroupId),
        Some(Group::Classic(group)) => Ok(group),
        _ => Err(ErrorCode::UnknownMemberId),
    }
}

fn join(
    groups: &mut BTreeMap<String, Group>,
    step: &mut Step<'_>,
    caller: &Caller,
    token: Token,
    request: JoinGroupRequest,
) {
    let id = request.group_id.clone();
    let refuse = |step: &mut Step<'_>, code| {
        let answer = classic::refused(&request.member_id, code);
        step.answer(token, Answer::JoinGroup(answer));
    };
    let allowed = step.settings.min_session_ms..=step.settings.max_session_ms;
    if id.is_empty() {
        return refuse(step, ErrorCode::InvalidGroupId);
    }
    if !allowed.contains(&request.session_timeout_ms) {
        return refuse(step, ErrorCode::InvalidSessionTimeout);
    }
    if request.protocol_type.is_empty() || request.protocols.is_empty() {
        return refuse(step, ErrorCode::InconsistentGroupProtocol);
    }
    if has_long_name(&request) {
        return refuse(step, ErrorCode::InvalidRequest);
    }
    match groups.get_mut(&id) {
        Some(Group::Classic(group)) => return group.join(step, caller, token, request),
        Some(group) if !group.is_empty() => {
            return refuse(step, ErrorCode::InconsistentGroupProtocol);
        }
        _ if !request.member_id.is_empty() => return refuse(step, ErrorCode::UnknownMemberId),
        // Nobody is in it: it becomes a classic one, and keeps its offsets.
        Some(Group::Consumer(group)) => group.write_end(step),
        _ => {}
    }
    let mut group = ClassicGroup::new(&id, step.now);
    step.cut();
    // A group is durable from its first moment, as everything else that may be seen of it.
    group.write(step);
    group.join(step, caller, token, request);
    groups.insert(id, Group::Classic(group));
}

fn has_long_name(request: &JoinGroupRequest) -> bool {
    let mut names = request.protocols.iter().map(|protocol| &protocol.name);
    request.protocol_type.len() > NAME_MAX
        || names.any(|name| name.len() > NAME_MAX)
        || request.group_instance_id.as_ref().is_some_and(|name| name.len() > TOPIC_NAME_MAX)
}

fn sync(
    groups: &mut BTreeMap<String, Group>,
    step: &mut Step<'_>,
    token: Token,
    request: SyncGroupRequest,
) {
    match classic(groups, &request.group_id) {
        Ok(group) => group.sync(step, token, request),
        Err(code) => {
            let answer = SyncGroupResponse { error_code: code.into(), ..Default::default() };
            step.answer(token, Answer::SyncGroup(answer));
        }
    }
}

fn heartbeat(
    groups: &mut BTreeMap<String, Group>,
    step: &mut Step<'_>,
    request: HeartbeatRequest,
) -> HeartbeatResponse {
    let answer =
        classic(groups, &request.group_id).and_then(|group| group.heartbeat(step, &request));
    let code = answer.err().unwrap_or(ErrorCode::None);
    HeartbeatResponse { error_code: code.into(), ..Default::default() }
}

/// From this version on a request names several members, each with an answer of its own.
const LEAVE_LISTS_FROM: i16 = 3;

fn leave(
    groups: &mut BTreeMap<String, Group>,
    step: &mut Step<'_>,
    caller: &Caller,
    request: LeaveGroupRequest,
) -> LeaveGroupResponse {
    let one = MemberIdentity { member_id: request.member_id, ..Default::default() };
    let listed = caller.api_version >= LEAVE_LISTS_FROM;
    let members = if listed { request.members } else { vec![one] };
    if let Some(Group::Consumer(group)) = groups.get_mut(&request.group_id) {
        return left(listed, group.remove_members(step, &members), members);
    }
    let codes = match classic(groups, &request.group_id) {
        Ok(group) => group.leave(step, &members),
        Err(ErrorCode::InvalidGroupId) => {
            let error_code = ErrorCode::InvalidGroupId.into();
            return LeaveGroupResponse { error_code, ..Default::default() };
        }
        Err(code) => vec![Err(code); members.len()],
    };
    left(listed, codes, members)
}

/// `listed`: each member has its own answer; else there is one, for all of it.
fn left(
    listed: bool,
    codes: Vec<Result<(), ErrorCode>>,
    members: Vec<MemberIdentity>,
) -> LeaveGroupResponse {
    let mut codes = codes.into_iter().map(|left| i16::from(left.err().unwrap_or(ErrorCode::None)));
    if !listed {
        let error_code = codes.next().unwrap_or_default();
        return LeaveGroupResponse { error_code, ..Default::default() };
    }
    let answers = members.into_iter().zip(codes).map(|(member, error_code)| MemberResponse {
        member_id: member.member_id,
        group_instance_id: member.group_instance_id,
        error_code,
    });
    LeaveGroupResponse { members: answers.collect(), ..Default::default() }
}
