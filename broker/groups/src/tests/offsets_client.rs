//! Commits and fetches, in few words.

use levee_kafka::messages::offset_commit_request::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use levee_kafka::messages::offset_delete_request::{
    OffsetDeleteRequest, OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use levee_kafka::messages::offset_fetch_request::{
    OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopics,
};
use levee_kafka::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartitions,
};
use levee_kafka::messages::txn_offset_commit_request::{
    TxnOffsetCommitRequest, TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};

use super::{GROUP, World};
use crate::{Answer, Request};

/// In whose name: member, instance, generation or epoch.
#[derive(Clone, Copy)]
pub(super) struct By<'a>(pub(super) &'a str, pub(super) Option<&'a str>, pub(super) i32);

pub(super) const NOBODY: By<'static> = By("", None, -1);

pub(super) fn commit_request(
    by: By<'_>,
    topic: &str,
    offsets: &[(i32, i64)],
) -> OffsetCommitRequest {
    let each = offsets.iter().map(|(partition, offset)| OffsetCommitRequestPartition {
        partition_index: *partition,
        committed_offset: *offset,
        committed_leader_epoch: 7,
        committed_metadata: Some("meta".into()),
    });
    OffsetCommitRequest {
        group_id: GROUP.into(),
        generation_id_or_member_epoch: by.2,
        member_id: by.0.into(),
        group_instance_id: by.1.map(Into::into),
        topics: vec![OffsetCommitRequestTopic {
            name: topic.into(),
            partitions: each.collect(),
            ..Default::default()
        }],
        ..Default::default()
    }
}

impl World {
    pub(super) fn commit_with(&mut self, version: i16, request: OffsetCommitRequest) -> i16 {
        match self.ask(version, Request::OffsetCommit(request)) {
            Answer::OffsetCommit(answer) => answer.topics[0].partitions[0].error_code,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn commit(&mut self, by: By<'_>, partition: i32, offset: i64) -> i16 {
        self.commit_with(9, commit_request(by, "t", &[(partition, offset)]))
    }

    pub(super) fn txn_commit(
        &mut self,
        producer: i64,
        by: By<'_>,
        partition: i32,
        offset: i64,
    ) -> i16 {
        let request = TxnOffsetCommitRequest {
            transactional_id: "x".into(),
            group_id: GROUP.into(),
            producer_id: producer,
            producer_epoch: 0,
            generation_id: by.2,
            member_id: by.0.into(),
            group_instance_id: by.1.map(Into::into),
            topics: vec![TxnOffsetCommitRequestTopic {
                name: "t".into(),
                partitions: vec![TxnOffsetCommitRequestPartition {
                    partition_index: partition,
                    committed_offset: offset,
                    committed_leader_epoch: -1,
                    committed_metadata: None,
                }],
            }],
        };
        match self.ask(5, Request::TxnOffsetCommit(request)) {
            Answer::TxnOffsetCommit(answer) => answer.topics[0].partitions[0].error_code,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn fetch_group(
        &mut self,
        version: i16,
        stable: bool,
        group: OffsetFetchRequestGroup,
    ) -> OffsetFetchResponseGroup {
        let request = OffsetFetchRequest {
            groups: vec![group],
            require_stable: stable,
            ..Default::default()
        };
        match self.ask(version, Request::OffsetFetch(request)) {
            Answer::OffsetFetch(answer) => answer.groups.into_iter().next().unwrap(),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn fetch_one(
        &mut self,
        stable: bool,
        partition: i32,
    ) -> OffsetFetchResponsePartitions {
        let topics = vec![OffsetFetchRequestTopics {
            name: "t".into(),
            partition_indexes: vec![partition],
            ..Default::default()
        }];
        let group = OffsetFetchRequestGroup {
            group_id: GROUP.into(),
            topics: Some(topics),
            ..Default::default()
        };
        let answer = self.fetch_group(9, stable, group);
        assert_eq!(answer.error_code, 0);
        answer.topics[0].partitions[0].clone()
    }

    /// The offset, -1 where there is none.
    pub(super) fn offset(&mut self, partition: i32) -> i64 {
        self.fetch_one(false, partition).committed_offset
    }

    pub(super) fn delete_offset(&mut self, topic: &str, partition: i32) -> (i16, Option<i16>) {
        let request = OffsetDeleteRequest {
            group_id: GROUP.into(),
            topics: vec![OffsetDeleteRequestTopic {
                name: topic.into(),
                partitions: vec![OffsetDeleteRequestPartition { partition_index: partition }],
            }],
        };
        match self.ask(0, Request::OffsetDelete(request)) {
            Answer::OffsetDelete(answer) => (
                answer.error_code,
                answer.topics.first().map(|topic| topic.partitions[0].error_code),
            ),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn delete_group(&mut self) -> i16 {
        use levee_kafka::messages::delete_groups_request::DeleteGroupsRequest;
        let request = DeleteGroupsRequest { groups_names: vec![GROUP.into()] };
        match self.ask(2, Request::DeleteGroups(request)) {
            Answer::DeleteGroups(answer) => answer.results[0].error_code,
            other => panic!("{other:?}"),
        }
    }
}
