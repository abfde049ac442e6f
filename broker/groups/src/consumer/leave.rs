//! Members leave, for good or for a while, and come back.

use levee_kafka::ErrorCode;
use levee_kafka::messages::consumer_group_heartbeat_request::ConsumerGroupHeartbeatRequest;
use levee_kafka::messages::consumer_group_heartbeat_response::ConsumerGroupHeartbeatResponse;
use levee_kafka::messages::leave_group_request::MemberIdentity;

use super::member::{Member, MemberState};
use super::subscribe::target_bytes;
use super::{AWAY, ConsumerGroup};
use crate::api::Refusal;
use crate::groups::Step;
use crate::records::Record;
use crate::timers::What;

impl ConsumerGroup {
    pub(super) fn leave(
        &mut self,
        step: &mut Step<'_>,
        request: &ConsumerGroupHeartbeatRequest,
    ) -> Result<ConsumerGroupHeartbeatResponse, Refusal> {
        self.leaver(request)?;
        let id = &request.member_id;
        match request.member_epoch == AWAY {
            true => self.go_away(step, id),
            false => self.fence(step, id),
        }
        Ok(ConsumerGroupHeartbeatResponse {
            member_id: Some(id.clone()),
            member_epoch: request.member_epoch,
            ..Default::default()
        })
    }

    /// A static member stops, and keeps what it has until its session ends.
    fn go_away(&mut self, step: &mut Step<'_>, id: &str) {
        let Some(mut member) = self.members.get(id).cloned() else { return };
        member.epoch = AWAY;
        member.state = MemberState::Stable;
        member.revoking.clear();
        // Whoever takes its place may commit in whatever epoch it is given.
        member
            .assigned
            .values_mut()
            .flat_map(|partitions| partitions.values_mut())
            .for_each(|epoch| *epoch = 0);
        self.write(step, member.to_current(&self.id, id));
        step.timers.cancel(&self.id, What::Revocation(id.to_owned()));
    }

    /// A static member is back, perhaps under a new id; it takes over what it had.
    pub(super) fn come_back(&mut self, step: &mut Step<'_>, before: &str, id: &str) {
        let Some(mut member) = self.members.get(before).cloned() else { return };
        let target = self.target.get(before).cloned();
        if before != id {
            self.write_removal(step, before);
        }
        member.epoch = 0;
        member.previous_epoch = 0;
        self.write(step, member.to_record(&self.id, id));
        if let Some(target) = target
            && before != id
        {
            self.write_target(step, id, &target);
        }
        self.write(step, member.to_current(&self.id, id));
    }

    /// An admin removes members: static ones by their instances, others by their ids. What became
    /// of each, in their order.
    pub(crate) fn remove_members(
        &mut self,
        step: &mut Step<'_>,
        members: &[MemberIdentity],
    ) -> Vec<Result<(), ErrorCode>> {
        let remove = |who: &MemberIdentity| {
            let id = match &who.group_instance_id {
                Some(instance) => self.instances.get(instance).cloned(),
                None => Some(who.member_id.clone()),
            };
            let id = id.filter(|id| self.members.contains_key(id));
            let id = id.ok_or(ErrorCode::UnknownMemberId)?;
            if !who.member_id.is_empty() && who.member_id != id {
                return Err(ErrorCode::FencedInstanceId);
            }
            self.write_removal(step, &id);
            self.cut_if_large(step);
            Ok(())
        };
        let removed: Vec<_> = members.iter().map(remove).collect();
        self.cut_removals(step);
        removed
    }

    /// Whose topics have more partitions by now than a record holds is out; what it reads is not left
    /// without a reader in silence: it is told when it joins again.
    pub(super) fn remove_who_reads_too_much(&mut self, step: &mut Step<'_>) {
        let room = step.settings.target_room();
        let too_much = |member: &Member| target_bytes(step, &self.topics_of(member)) > room;
        let each = self.members.iter().filter(|(_, member)| too_much(member));
        let gone: Vec<String> = each.map(|(id, _)| id.clone()).collect();
        for id in gone {
            self.write_removal(step, &id);
            self.cut_if_large(step);
        }
        self.cut_removals(step);
    }

    /// Members that are out, and the epoch that says so, are in one batch.
    fn cut_if_large(&mut self, step: &mut Step<'_>) {
        if step.uncut_bytes > step.settings.batch_room() / 8 {
            self.cut_removals(step);
        }
    }

    fn cut_removals(&mut self, step: &mut Step<'_>) {
        if step.uncut_bytes > 0 {
            self.bump_without(step);
            step.cut();
        }
    }

    /// The member is out: it left, or was not heard of, or did not give back in time.
    pub(crate) fn fence(&mut self, step: &mut Step<'_>, id: &str) {
        if !self.members.contains_key(id) {
            return;
        }
        self.write_removal(step, id);
        self.bump_without(step);
    }

    fn write_removal(&mut self, step: &mut Step<'_>, id: &str) {
        let (group, member) = (self.id.clone(), id.to_owned());
        let current = Record::Current { group: group.clone(), member: member.clone(), value: None };
        let target = Record::Target { group: group.clone(), member: member.clone(), value: None };
        let member = Record::Member { group, member, value: None };
        [current, target, member].into_iter().for_each(|record| self.write(step, record));
        step.timers.cancel(&self.id, What::Session(id.to_owned()));
        step.timers.cancel(&self.id, What::Revocation(id.to_owned()));
    }

    /// The log says that the group, which nobody is in, is no more.
    pub(crate) fn write_end(&self, step: &mut Step<'_>) {
        let group = || self.id.clone();
        for regex in self.regexes.keys() {
            step.write(Record::Regex { group: group(), regex: regex.clone(), value: None });
            step.cut();
        }
        for member in self.target.keys() {
            let member = member.clone();
            step.write(Record::Target { group: group(), member, value: None });
            step.cut();
        }
        step.write(Record::TargetEpoch { group: group(), value: None });
        step.write(Record::Epoch { group: group(), value: None });
    }
}
