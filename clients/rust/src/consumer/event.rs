//! What a consumer says, and as whom.

use std::sync::Arc;

use levee_proto::record::records::DecodedRecord;

use crate::offsets::{Offsets, TopicIds, TopicPartition};

/// What a consumer has to say.
#[derive(Debug)]
pub enum Event {
    Records(Records),
    /// These are read from now on.
    Assigned(Vec<TopicPartition>),
    /// These go to another member when `next` is called again: the last chance to commit for them.
    /// With `auto_commit` that is done already.
    Revoked(Vec<TopicPartition>),
    /// These went to another member without a word, after this one was not heard of for too long:
    /// what was not committed is read again there.
    Lost(Vec<TopicPartition>),
}

/// Records of one partition, in their order.
#[derive(Debug)]
pub struct Records {
    pub at: TopicPartition,
    pub records: Vec<DecodedRecord>,
    next: u64,
}

impl Records {
    /// `next`: the offset behind them.
    pub(super) fn new(at: TopicPartition, records: Vec<DecodedRecord>, next: u64) -> Self {
        Self { at, records, next }
    }

    /// Where to go on when all of them are done.
    pub fn next(&self) -> Offsets {
        Offsets::from([(self.at.clone(), self.next)])
    }
}

/// As whom a consumer reads: what transactions hold their offsets against.
#[derive(Debug, Clone, Default)]
pub struct Membership {
    pub group: Arc<str>,
    /// Empty: of somebody who reads alone.
    pub member_id: String,
    /// `None` of a member: it has lost what it read.
    pub epoch: Option<u32>,
    pub instance_id: String,
    /// Of the topics that it read.
    pub topic_ids: TopicIds,
}

impl Membership {
    /// Of somebody who reads alone, without a group session.
    pub fn alone(group: impl Into<Arc<str>>) -> Self {
        Self { group: group.into(), ..Self::default() }
    }
}
