//! Keys and values of `__consumer_offsets`, as Kafka writes them.

use bytes::{Buf, Bytes};
use levee_kafka::messages::consumer_group_current_member_assignment_key::ConsumerGroupCurrentMemberAssignmentKey;
use levee_kafka::messages::consumer_group_current_member_assignment_value::ConsumerGroupCurrentMemberAssignmentValue;
use levee_kafka::messages::consumer_group_member_metadata_key::ConsumerGroupMemberMetadataKey;
use levee_kafka::messages::consumer_group_member_metadata_value::ConsumerGroupMemberMetadataValue;
use levee_kafka::messages::consumer_group_metadata_key::ConsumerGroupMetadataKey;
use levee_kafka::messages::consumer_group_metadata_value::ConsumerGroupMetadataValue;
use levee_kafka::messages::consumer_group_regular_expression_key::ConsumerGroupRegularExpressionKey;
use levee_kafka::messages::consumer_group_regular_expression_value::ConsumerGroupRegularExpressionValue;
use levee_kafka::messages::consumer_group_target_assignment_member_key::ConsumerGroupTargetAssignmentMemberKey;
use levee_kafka::messages::consumer_group_target_assignment_member_value::ConsumerGroupTargetAssignmentMemberValue;
use levee_kafka::messages::consumer_group_target_assignment_metadata_key::ConsumerGroupTargetAssignmentMetadataKey;
use levee_kafka::messages::consumer_group_target_assignment_metadata_value::ConsumerGroupTargetAssignmentMetadataValue;
use levee_kafka::messages::group_metadata_key::GroupMetadataKey;
use levee_kafka::messages::group_metadata_value::GroupMetadataValue;
use levee_kafka::messages::offset_commit_key::OffsetCommitKey;
use levee_kafka::messages::offset_commit_value::OffsetCommitValue;
use levee_kafka::{DecodeError, Message, Reader, Writer};
use thiserror::Error;

/// Why a record of the partition cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ReplayError {
    #[error("a key of {0} bytes has no version")]
    ShortKey(usize),
    #[error("the value of {record} has no version")]
    ShortValue { record: &'static str },
    #[error("{record} has version {version}; this broker reads up to {newest}")]
    Version { record: &'static str, version: i16, newest: i16 },
    #[error("{record}: {error}")]
    Malformed { record: &'static str, error: DecodeError },
}

/// One record; no value: a tombstone.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Record {
    Offset {
        key: OffsetCommitKey,
        value: Option<OffsetCommitValue>,
    },
    Classic {
        group: String,
        value: Option<GroupMetadataValue>,
    },
    Epoch {
        group: String,
        value: Option<ConsumerGroupMetadataValue>,
    },
    Member {
        group: String,
        member: String,
        value: Option<ConsumerGroupMemberMetadataValue>,
    },
    TargetEpoch {
        group: String,
        value: Option<ConsumerGroupTargetAssignmentMetadataValue>,
    },
    Target {
        group: String,
        member: String,
        value: Option<ConsumerGroupTargetAssignmentMemberValue>,
    },
    Current {
        group: String,
        member: String,
        value: Option<ConsumerGroupCurrentMemberAssignmentValue>,
    },
    Regex {
        group: String,
        regex: String,
        value: Option<ConsumerGroupRegularExpressionValue>,
    },
}

/// Versions of keys, which say what a record is. 0 is 1 as old brokers wrote it; 4 is no longer
/// written; the others are share and streams groups'.
mod kind {
    pub(super) const OLD_OFFSET: i16 = 0;
    pub(super) const OFFSET: i16 = 1;
    pub(super) const CLASSIC: i16 = 2;
    pub(super) const EPOCH: i16 = 3;
    pub(super) const MEMBER: i16 = 5;
    pub(super) const TARGET_EPOCH: i16 = 6;
    pub(super) const TARGET: i16 = 7;
    pub(super) const CURRENT: i16 = 8;
    pub(super) const REGEX: i16 = 16;
}

impl Record {
    pub(crate) fn encode(self) -> (Bytes, Option<Bytes>) {
        match self {
            Record::Offset { key, value } => {
                // Only version 1 has a time of its own at which an offset expires.
                let version =
                    value.as_ref().map_or(0, |v| if v.expire_timestamp < 0 { 4 } else { 1 });
                (write_key(kind::OFFSET, &key), write(value, version))
            }
            Record::Classic { group, value } => {
                (write_key(kind::CLASSIC, &GroupMetadataKey { group }), write(value, 3))
            }
            Record::Epoch { group, value } => {
                let key = ConsumerGroupMetadataKey { group_id: group };
                (write_key(kind::EPOCH, &key), write(value, 0))
            }
            Record::Member { group, member, value } => {
                let key = ConsumerGroupMemberMetadataKey { group_id: group, member_id: member };
                (write_key(kind::MEMBER, &key), write(value, 0))
            }
            Record::TargetEpoch { group, value } => {
                let key = ConsumerGroupTargetAssignmentMetadataKey { group_id: group };
                (write_key(kind::TARGET_EPOCH, &key), write(value, 0))
            }
            Record::Target { group, member, value } => {
                let key =
                    ConsumerGroupTargetAssignmentMemberKey { group_id: group, member_id: member };
                (write_key(kind::TARGET, &key), write(value, 0))
            }
            Record::Current { group, member, value } => {
                let key =
                    ConsumerGroupCurrentMemberAssignmentKey { group_id: group, member_id: member };
                (write_key(kind::CURRENT, &key), write(value, 0))
            }
            Record::Regex { group, regex, value } => {
                let key = ConsumerGroupRegularExpressionKey {
                    group_id: group,
                    regular_expression: regex,
                };
                (write_key(kind::REGEX, &key), write(value, 0))
            }
        }
    }

    /// None: a record that this broker does not know, and leaves alone.
    pub(crate) fn decode(
        mut key: Bytes,
        value: Option<Bytes>,
    ) -> Result<Option<Self>, ReplayError> {
        if key.len() < 2 {
            return Err(ReplayError::ShortKey(key.len()));
        }
        let record = match key.get_i16() {
            kind::OLD_OFFSET | kind::OFFSET => {
                Record::Offset { key: read_body(key, 0)?, value: read(value)? }
            }
            kind::CLASSIC => {
                let key: GroupMetadataKey = read_body(key, 0)?;
                Record::Classic { group: key.group, value: read(value)? }
            }
            kind::EPOCH => {
                let key: ConsumerGroupMetadataKey = read_body(key, 0)?;
                Record::Epoch { group: key.group_id, value: read(value)? }
            }
            kind::MEMBER => {
                let key: ConsumerGroupMemberMetadataKey = read_body(key, 0)?;
                let value = read(value)?;
                Record::Member { group: key.group_id, member: key.member_id, value }
            }
            kind::TARGET_EPOCH => {
                let key: ConsumerGroupTargetAssignmentMetadataKey = read_body(key, 0)?;
                Record::TargetEpoch { group: key.group_id, value: read(value)? }
            }
            kind::TARGET => {
                let key: ConsumerGroupTargetAssignmentMemberKey = read_body(key, 0)?;
                let value = read(value)?;
                Record::Target { group: key.group_id, member: key.member_id, value }
            }
            kind::CURRENT => {
                let key: ConsumerGroupCurrentMemberAssignmentKey = read_body(key, 0)?;
                let value = read(value)?;
                Record::Current { group: key.group_id, member: key.member_id, value }
            }
            kind::REGEX => {
                let key: ConsumerGroupRegularExpressionKey = read_body(key, 0)?;
                let value = read(value)?;
                Record::Regex { group: key.group_id, regex: key.regular_expression, value }
            }
            _ => return Ok(None),
        };
        Ok(Some(record))
    }
}

fn write_key(kind: i16, key: &impl Message) -> Bytes {
    let mut w = Writer::new();
    w.i16(kind);
    key.encode(&mut w, 0);
    whole(w)
}

fn write<M: Message>(value: Option<M>, version: i16) -> Option<Bytes> {
    let value = value?;
    let mut w = Writer::new();
    w.i16(version);
    value.encode(&mut w, version);
    Some(whole(w))
}

/// Names that do not fit are refused where they come in: the log must say what memory does.
fn whole(w: Writer) -> Bytes {
    debug_assert!(!w.has_cut(), "a record has a name that was cut");
    w.into_bytes()
}

fn read<M: Message>(value: Option<Bytes>) -> Result<Option<M>, ReplayError> {
    let Some(mut value) = value else { return Ok(None) };
    if value.len() < 2 {
        return Err(ReplayError::ShortValue { record: M::NAME });
    }
    let version = value.get_i16();
    if !M::VERSIONS.contains(&version) {
        let newest = *M::VERSIONS.end();
        return Err(ReplayError::Version { record: M::NAME, version, newest });
    }
    read_body(value, version).map(Some)
}

fn read_body<M: Message>(bytes: Bytes, version: i16) -> Result<M, ReplayError> {
    let malformed = |error| ReplayError::Malformed { record: M::NAME, error };
    let mut r = Reader::new(bytes);
    let message = M::decode(&mut r, version).map_err(malformed)?;
    r.end().map_err(malformed)?;
    Ok(message)
}
