//! What a move of the coordinator keeps of a classic group.

use levee_kafka::messages::group_metadata_value::{GroupMetadataValue, MemberMetadata};

use super::{ClassicGroup, Member, State};
use crate::groups::Step;
use crate::records::Record;
use crate::timers::What;

impl ClassicGroup {
    /// The group as it is now goes to the log.
    pub(crate) fn write(&self, step: &mut Step<'_>) {
        step.write(Record::Classic { group: self.id.clone(), value: Some(self.to_value()) });
    }

    pub(crate) fn to_value(&self) -> GroupMetadataValue {
        let protocol = self.protocol.as_deref().unwrap_or_default();
        let members = self.members.values().map(|member| MemberMetadata {
            member_id: member.id.clone(),
            group_instance_id: member.instance.clone(),
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            rebalance_timeout: member.rebalance_ms,
            session_timeout: member.session_ms,
            subscription: member.metadata(protocol).cloned().unwrap_or_default(),
            assignment: member.assignment.clone(),
        });
        GroupMetadataValue {
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            generation: self.generation,
            protocol: self.protocol.clone(),
            leader: self.leader.clone(),
            current_state_timestamp: self.since_ms.unwrap_or(-1),
            members: members.collect(),
        }
    }

    pub(crate) fn from_value(id: &str, value: GroupMetadataValue) -> Self {
        let mut group = Self::new(id, 0);
        group.state = if value.members.is_empty() { State::Empty } else { State::Stable };
        group.since_ms = Some(value.current_state_timestamp).filter(|ms| *ms >= 0);
        group.generation = value.generation;
        let protocol = value.protocol.clone().unwrap_or_default();
        for member in value.members {
            group.add(Member {
                id: member.member_id,
                instance: member.group_instance_id,
                client_id: member.client_id,
                client_host: member.client_host,
                rebalance_ms: match member.rebalance_timeout {
                    ms if ms < 0 => member.session_timeout,
                    ms => ms,
                },
                session_ms: member.session_timeout,
                protocol_type: value.protocol_type.clone(),
                protocols: vec![(protocol.clone(), member.subscription)],
                assignment: member.assignment,
                join: None,
                sync: None,
                new: false,
            });
        }
        group.protocol_type = Some(value.protocol_type).filter(|name| !name.is_empty());
        group.protocol = value.protocol;
        group.leader = value.leader;
        group
    }

    /// All was read: from now on members must be heard of again.
    pub(crate) fn loaded(&mut self, step: &mut Step<'_>) {
        for member in self.members.values() {
            let what = What::Session(member.id.clone());
            step.timers.set(&self.id, what, step.now, member.session_ms);
        }
        // The limit may have been lowered: members must find out who has a place.
        if self.members.len() > step.settings.max_size {
            self.rebalance(step);
        }
    }
}
