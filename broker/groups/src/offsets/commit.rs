//! OffsetCommit and TxnOffsetCommit.

use levee_kafka::messages::offset_commit_key::OffsetCommitKey;
use levee_kafka::messages::offset_commit_request::OffsetCommitRequest;
use levee_kafka::messages::offset_commit_response::{
    OffsetCommitResponse, OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use levee_kafka::messages::offset_commit_value::OffsetCommitValue;
use levee_kafka::messages::txn_offset_commit_request::TxnOffsetCommitRequest;
use levee_kafka::messages::txn_offset_commit_response::{
    TxnOffsetCommitResponse, TxnOffsetCommitResponsePartition, TxnOffsetCommitResponseTopic,
};
use levee_kafka::{ErrorCode, Uuid};

use super::{AllGroups, Offsets};
use crate::api::{Caller, Producer};
use crate::classic::ClassicGroup;
use crate::groups::{Group, Step};
use crate::records::Record;

/// From this version on members of consumer groups can commit.
const EPOCHS_FROM: i16 = 9;
/// From this version on topics are named by their ids.
const IDS_FROM: i16 = 10;

/// Most that the record of an offset takes beside its names and its metadata.
const OFFSET_BYTES: usize = 160;

/// In whose name offsets are committed.
struct Committer<'a> {
    group: &'a str,
    member: &'a str,
    instance: Option<&'a str>,
    /// Or the epoch of a member; negative: of nobody.
    generation: i32,
    in_transaction: bool,
    api_version: i16,
}

/// One offset of a request, and where it is for.
struct Commit<'a> {
    topic: &'a str,
    topic_id: Uuid,
    partition: i32,
    offset: i64,
    leader_epoch: i32,
    metadata: Option<String>,
    expires: Option<i64>,
}

impl Committer<'_> {
    /// Yes, no, or: yes where each partition was the member's (its epoch is an older one).
    fn check(&self, groups: &AllGroups) -> Result<bool, ErrorCode> {
        match groups.get(self.group) {
            None if self.generation < 0 => Ok(false),
            None if self.in_transaction || self.api_version < EPOCHS_FROM => {
                Err(ErrorCode::IllegalGeneration)
            }
            None => Err(ErrorCode::GroupIdNotFound),
            Some(Group::Classic(group)) => group
                .check_commit(self.member, self.instance, self.generation, self.in_transaction)
                .map(|()| false),
            Some(Group::Consumer(group)) => {
                let nobody = self.member.is_empty() && self.instance.is_none();
                if self.generation < 0 && self.in_transaction && nobody {
                    return Ok(false);
                }
                let old = !self.in_transaction && self.api_version < EPOCHS_FROM;
                group.check_commit(self.member, self.generation, old)
            }
        }
    }

    fn check_partition(
        &self,
        groups: &AllGroups,
        id: Uuid,
        partition: i32,
    ) -> Result<(), ErrorCode> {
        match groups.get(self.group) {
            Some(Group::Consumer(group)) => {
                group.check_late_commit(self.member, self.generation, id, partition)
            }
            _ => Ok(()),
        }
    }
}

/// What a request may commit, before anything of it is.
struct Commits<'a> {
    by: &'a Committer<'a>,
    may: Result<bool, ErrorCode>,
    producer: Option<Producer>,
    ready: Vec<(OffsetCommitKey, OffsetCommitValue)>,
    /// Most that the records take.
    bytes: usize,
}

impl<'a> Commits<'a> {
    fn new(by: &'a Committer<'a>, groups: &AllGroups, producer: Option<Producer>) -> Self {
        Self { by, may: by.check(groups), producer, ready: Vec::new(), bytes: 0 }
    }

    fn add(
        &mut self,
        groups: &AllGroups,
        step: &Step<'_>,
        commit: Commit<'_>,
    ) -> Result<(), ErrorCode> {
        if self.may? {
            self.by.check_partition(groups, commit.topic_id, commit.partition)?;
        }
        let metadata = commit.metadata.unwrap_or_default();
        if metadata.len() > step.settings.offset_metadata_max_bytes {
            return Err(ErrorCode::OffsetMetadataTooLarge);
        }
        self.bytes += OFFSET_BYTES + self.by.group.len() + commit.topic.len() + metadata.len();
        if self.bytes > step.settings.batch_room() {
            // None of them will be committed.
            return Ok(());
        }
        let key = OffsetCommitKey {
            group: self.by.group.to_owned(),
            topic: commit.topic.to_owned(),
            partition: commit.partition,
        };
        let mut value = OffsetCommitValue {
            offset: commit.offset,
            leader_epoch: commit.leader_epoch,
            metadata,
            commit_timestamp: step.now,
            expire_timestamp: -1,
            topic_id: commit.topic_id,
        };
        if let Some(expires) = commit.expires {
            // The version of the record that has this time has neither of the others.
            let (leader_epoch, topic_id) = (-1, Uuid::ZERO);
            value =
                OffsetCommitValue { leader_epoch, expire_timestamp: expires, topic_id, ..value };
        }
        self.ready.push((key, value));
        Ok(())
    }
}

impl Offsets {
    pub(crate) fn commit(
        &mut self,
        groups: &mut AllGroups,
        step: &mut Step<'_>,
        caller: &Caller,
        request: OffsetCommitRequest,
    ) -> OffsetCommitResponse {
        let by = Committer {
            group: &request.group_id,
            member: &request.member_id,
            instance: request.group_instance_id.as_deref(),
            generation: request.generation_id_or_member_epoch,
            in_transaction: false,
            api_version: caller.api_version,
        };
        let mut commits = Commits::new(&by, groups, None);
        if let (Ok(_), Some(Group::Classic(group))) = (commits.may, groups.get(by.group)) {
            group.committed(step, by.member, by.generation);
        }
        let expires = Some(request.retention_time_ms).filter(|ms| *ms >= 0);
        let expires = expires.map(|ms| step.now.saturating_add(ms));
        let mut topics = Vec::with_capacity(request.topics.len());
        for asked in request.topics {
            let known = known_topic(step, caller, &asked.name, asked.topic_id);
            let mut partitions = Vec::with_capacity(asked.partitions.len());
            for partition in asked.partitions {
                let partition_index = partition.partition_index;
                let done = known.as_ref().map_err(|code| *code).and_then(|(name, id)| {
                    let commit = Commit {
                        topic: name,
                        topic_id: *id,
                        partition: partition_index,
                        offset: partition.committed_offset,
                        leader_epoch: partition.committed_leader_epoch,
                        metadata: partition.committed_metadata,
                        expires,
                    };
                    commits.add(groups, step, commit)
                });
                let error_code = done.err().unwrap_or(ErrorCode::None).into();
                partitions.push(OffsetCommitResponsePartition { partition_index, error_code });
            }
            let (name, topic_id) = (asked.name, asked.topic_id);
            topics.push(OffsetCommitResponseTopic { name, topic_id, partitions });
        }
        if let Err(code) = self.commit_all(groups, step, commits) {
            let partitions = topics.iter_mut().flat_map(|topic| &mut topic.partitions);
            refuse_rest(partitions.map(|partition| &mut partition.error_code), code);
        }
        OffsetCommitResponse { topics, ..Default::default() }
    }

    pub(crate) fn commit_pending(
        &mut self,
        groups: &mut AllGroups,
        step: &mut Step<'_>,
        caller: &Caller,
        request: TxnOffsetCommitRequest,
    ) -> TxnOffsetCommitResponse {
        let producer = Producer { id: request.producer_id, epoch: request.producer_epoch };
        let by = Committer {
            group: &request.group_id,
            member: &request.member_id,
            instance: request.group_instance_id.as_deref(),
            generation: request.generation_id,
            in_transaction: true,
            api_version: caller.api_version,
        };
        let mut commits = Commits::new(&by, groups, Some(producer));
        let mut topics = Vec::with_capacity(request.topics.len());
        for asked in request.topics {
            let known = topic_named(step, caller, &asked.name);
            let mut partitions = Vec::with_capacity(asked.partitions.len());
            for partition in asked.partitions {
                let partition_index = partition.partition_index;
                let done = known.as_ref().map_err(|code| *code).and_then(|(name, id)| {
                    let commit = Commit {
                        topic: name,
                        topic_id: *id,
                        partition: partition_index,
                        offset: partition.committed_offset,
                        leader_epoch: partition.committed_leader_epoch,
                        metadata: partition.committed_metadata,
                        expires: None,
                    };
                    commits.add(groups, step, commit)
                });
                // Producers know generations only.
                let error_code = match done.err().unwrap_or(ErrorCode::None) {
                    ErrorCode::StaleMemberEpoch => ErrorCode::IllegalGeneration,
                    code => code,
                }
                .into();
                partitions.push(TxnOffsetCommitResponsePartition { partition_index, error_code });
            }
            topics.push(TxnOffsetCommitResponseTopic { name: asked.name, partitions });
        }
        if let Err(code) = self.commit_all(groups, step, commits) {
            let partitions = topics.iter_mut().flat_map(|topic| &mut topic.partitions);
            refuse_rest(partitions.map(|partition| &mut partition.error_code), code);
        }
        TxnOffsetCommitResponse { topics, ..Default::default() }
    }

    /// All of them, in one batch, or none.
    fn commit_all(
        &mut self,
        groups: &mut AllGroups,
        step: &mut Step<'_>,
        commits: Commits<'_>,
    ) -> Result<(), ErrorCode> {
        let Commits { by, producer, ready, bytes, .. } = commits;
        if bytes > step.settings.batch_room() {
            return Err(ErrorCode::InvalidCommitOffsetSize);
        }
        if ready.is_empty() {
            return Ok(());
        }
        let group = || Group::Classic(ClassicGroup::of_offsets(by.group));
        groups.entry(by.group.to_owned()).or_insert_with(group);
        for (key, value) in ready {
            self.apply(key.clone(), Some(value.clone()), producer.map(|producer| producer.id));
            step.write(Record::Offset { key, value: Some(value) });
        }
        step.effects.producer = producer;
        Ok(())
    }
}

fn refuse_rest<'a>(codes: impl Iterator<Item = &'a mut i16>, code: ErrorCode) {
    codes.filter(|found| **found == 0).for_each(|found| *found = code.into());
}

/// Name and id of a topic that there is.
fn known_topic(
    step: &Step<'_>,
    caller: &Caller,
    name: &str,
    id: Uuid,
) -> Result<(String, Uuid), ErrorCode> {
    if caller.api_version >= IDS_FROM {
        let name = step.topics.name_of(id).ok_or(ErrorCode::UnknownTopicId)?;
        return Ok((name, id));
    }
    topic_named(step, caller, name)
}

fn topic_named(step: &Step<'_>, caller: &Caller, name: &str) -> Result<(String, Uuid), ErrorCode> {
    let topic = step.topics.by_name(name).ok_or(ErrorCode::UnknownTopicOrPartition)?;
    match caller.topic_ids.get(name) {
        Some(meant) if *meant != topic.id => Err(ErrorCode::UnknownTopicId),
        _ => Ok((name.to_owned(), topic.id)),
    }
}
