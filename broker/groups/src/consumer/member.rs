//! One member of a consumer group.

use std::collections::{BTreeMap, BTreeSet};

use levee_kafka::Uuid;

/// Partitions by topic.
pub(crate) type Assignment = BTreeMap<Uuid, BTreeSet<i32>>;
/// Partitions by topic, each with the member's epoch in which it came.
pub(crate) type Owned = BTreeMap<Uuid, BTreeMap<i32, i32>>;

/// How far a member is with its assignment; the numbers stand in records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum MemberState {
    /// It has what it shall have in its epoch.
    #[default]
    Stable = 0,
    /// It must give back partitions before it gets on.
    Unrevoked = 1,
    /// It waits for partitions that others have.
    Unreleased = 2,
    /// What a newer broker wrote.
    Unknown = 127,
}

impl From<i8> for MemberState {
    fn from(number: i8) -> Self {
        match number {
            0 => MemberState::Stable,
            1 => MemberState::Unrevoked,
            2 => MemberState::Unreleased,
            _ => MemberState::Unknown,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Member {
    /// A static member's.
    pub(crate) instance: Option<String>,
    pub(crate) rack: Option<String>,
    pub(crate) client_id: String,
    pub(crate) client_host: String,
    pub(crate) topics: BTreeSet<String>,
    pub(crate) regex: Option<String>,
    pub(crate) rebalance_ms: i32,
    pub(crate) assignor: Option<String>,

    pub(crate) epoch: i32,
    pub(crate) previous_epoch: i32,
    pub(crate) state: MemberState,
    /// What it was told that it has.
    pub(crate) assigned: Owned,
    /// What it was told to give back and may still use.
    pub(crate) revoking: Owned,
}

impl Member {
    pub(crate) fn assignment(&self) -> Assignment {
        let partitions = |owned: &BTreeMap<i32, i32>| owned.keys().copied().collect();
        self.assigned.iter().map(|(topic, owned)| (*topic, partitions(owned))).collect()
    }

    /// Everything that nobody else may have.
    pub(super) fn held(&self) -> impl Iterator<Item = (Uuid, i32)> + '_ {
        let owned = self.assigned.iter().chain(&self.revoking);
        owned.flat_map(|(topic, partitions)| partitions.keys().map(|p| (*topic, *p)))
    }

    /// Goes to an epoch, which may be the one that it is in.
    pub(super) fn move_to(&mut self, epoch: i32) {
        self.previous_epoch = self.epoch;
        self.epoch = epoch;
    }
}

pub(super) fn insert(owned: &mut Owned, topic: Uuid, partition: i32, epoch: i32) {
    owned.entry(topic).or_default().insert(partition, epoch);
}
