//! The `Groups` service: groups of consumers and their offsets, by gRPC.
//!
//! Owns: requests that come alone. Does not own: the session of a member (`session`), what a group
//! is (`levee-groups`, behind the same coordinators that Kafka clients ask).

mod describe;
mod session;

use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, stream};
use levee_groups::{Answer, Request as Ask};
use levee_kafka::ErrorCode;
use levee_kafka::messages::delete_groups_request::DeleteGroupsRequest;
use levee_kafka::messages::list_groups_request as kafka_list;
use levee_kafka::messages::offset_commit_request::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use levee_kafka::messages::offset_commit_response::OffsetCommitResponse;
use levee_kafka::messages::offset_delete_request::{
    OffsetDeleteRequest, OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use levee_kafka::messages::offset_fetch_request::{
    OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopics,
};
use levee_kafka::messages::offset_fetch_response::OffsetFetchResponseGroup;
use levee_proto::grpc::ErrorCode as Code;
use levee_proto::grpc::groups_server::Groups;
use levee_proto::grpc::{
    CommitOffsetsRequest, CommitOffsetsResponse, DeleteGroupRequest, DeleteGroupResponse,
    DeleteOffsetsRequest, DeleteOffsetsResponse, DescribeGroupRequest, FetchOffsetsRequest,
    FetchOffsetsResponse, GroupDescription, GroupListing, ListGroupsRequest, ListGroupsResponse,
    OffsetError, PartitionOffset, SessionRequest, SessionResponse, TopicOffsets,
};
use levee_proto::ids::TopicId;
use tonic::{Request, Response, Status, Streaming};

use super::coordinated::{
    Asker, Coordinated, bounded, check_offsets, failure, indexes, mixed_up, to_commit,
};
use super::refusals::of_group;
use crate::coordinator::Coordinators;
use crate::coordinator::groups::Call;
use crate::error::{Error, Result};

/// Versions of Kafka's requests that these calls stand for.
const COMMIT: i16 = 9;
const FETCH: i16 = 9;
const DELETE_OFFSETS: i16 = 0;
const DELETE: i16 = 2;
const LIST: i16 = 5;

/// See the module.
pub struct GroupsService {
    coordinated: Coordinated,
}

impl GroupsService {
    pub fn new(all: Arc<Coordinators>) -> Self {
        Self { coordinated: Coordinated { all } }
    }
}

type Answers = Pin<Box<dyn Stream<Item = Result<SessionResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Groups for GroupsService {
    type SessionStreamStream = Answers;

    async fn session_stream(
        &self,
        request: Request<Streaming<SessionRequest>>,
    ) -> Result<Response<Answers>, Status> {
        let asker = Asker::of(&request);
        let answers = session::serve(self.coordinated.clone(), asker, request.into_inner());
        let answers = stream::unfold(answers, |mut answers| async move {
            answers.recv().await.map(|answer| (answer, answers))
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn commit_offsets(
        &self,
        request: Request<CommitOffsetsRequest>,
    ) -> Result<Response<CommitOffsetsResponse>, Status> {
        let asker = Asker::of(&request);
        let CommitOffsetsRequest { group, offsets } = request.into_inner();
        let nobody = Committer { group: &group, member_id: "", epoch: -1, instance_id: None };
        let failed = commit(&self.coordinated, &asker, &nobody, &offsets).await?;
        Ok(Response::new(CommitOffsetsResponse { failed }))
    }

    async fn fetch_offsets(
        &self,
        request: Request<FetchOffsetsRequest>,
    ) -> Result<Response<FetchOffsetsResponse>, Status> {
        let asker = Asker::of(&request);
        let FetchOffsetsRequest { group, partitions, require_stable } = request.into_inner();
        let mut topics = Vec::with_capacity(partitions.len());
        for asked in &partitions {
            topics.push(OffsetFetchRequestTopics {
                name: asked.topic.clone(),
                partition_indexes: indexes(&asked.partitions)?,
                ..Default::default()
            });
        }
        let asked = OffsetFetchRequestGroup {
            group_id: group.clone(),
            topics: (!topics.is_empty()).then_some(topics),
            ..Default::default()
        };
        let fetch =
            OffsetFetchRequest { groups: vec![asked], require_stable, ..Default::default() };
        let answer = self.coordinated.group(&asker, &group, FETCH, Ask::OffsetFetch(fetch)).await?;
        // It rests on nothing that is appended for it: a broker that was paused while another took
        // over must not tell what it remembers (I20, F22).
        self.coordinated.node().lease().await?;
        let Answer::OffsetFetch(answer) = answer else { return Err(mixed_up().into()) };
        let found = answer.groups.into_iter().next().ok_or_else(mixed_up)?;
        let remedy = "name the partitions, fewer of them at once";
        Ok(bounded(fetched(&group, found)?, "the offsets of the group", remedy)?)
    }

    async fn delete_offsets(
        &self,
        request: Request<DeleteOffsetsRequest>,
    ) -> Result<Response<DeleteOffsetsResponse>, Status> {
        let asker = Asker::of(&request);
        let DeleteOffsetsRequest { group, partitions } = request.into_inner();
        let mut topics = Vec::with_capacity(partitions.len());
        for asked in &partitions {
            let partitions = indexes(&asked.partitions)?.into_iter();
            let partitions =
                partitions.map(|partition_index| OffsetDeleteRequestPartition { partition_index });
            let (name, partitions) = (asked.topic.clone(), partitions.collect());
            topics.push(OffsetDeleteRequestTopic { name, partitions });
        }
        let delete = Ask::OffsetDelete(OffsetDeleteRequest { group_id: group.clone(), topics });
        let answer = self.coordinated.group(&asker, &group, DELETE_OFFSETS, delete).await?;
        let Answer::OffsetDelete(answer) = answer else { return Err(mixed_up().into()) };
        if let Some(code) = failure(answer.error_code) {
            return Err(of_group(code, &group, None).into());
        }
        let each = answer.topics.iter().flat_map(|topic| {
            topic.partitions.iter().map(|p| (&*topic.name, p.partition_index, p.error_code))
        });
        let failed = each.filter_map(|(topic, p, code)| failed_offset(&group, topic, p, code));
        Ok(Response::new(DeleteOffsetsResponse { failed: failed.collect() }))
    }

    async fn list_groups(
        &self,
        request: Request<ListGroupsRequest>,
    ) -> Result<Response<ListGroupsResponse>, Status> {
        let node = self.coordinated.node();
        let caller = Asker::of(&request).caller(node, LIST);
        let list = Ask::ListGroups(kafka_list::ListGroupsRequest::default());
        let asked = self.coordinated.all.ask_all_groups(Call::new(caller, list));
        let answers = self.coordinated.in_time("listing groups", asked).await?;
        let answers = answers.map_err(|code| of_group(code, "", None))?;
        let listed = answers.into_iter().flat_map(|answer| match answer {
            Answer::ListGroups(answer) => answer.groups,
            _ => Vec::new(),
        });
        let mut groups: Vec<_> = listed
            .map(|group| GroupListing {
                group: group.group_id,
                r#type: group.group_type,
                state: group.group_state,
            })
            .collect();
        groups.sort_by(|a, b| a.group.cmp(&b.group));
        let (what, remedy) =
            ("the groups of this broker", "describe those that you look for by name");
        Ok(bounded(ListGroupsResponse { groups }, what, remedy)?)
    }

    async fn describe_group(
        &self,
        request: Request<DescribeGroupRequest>,
    ) -> Result<Response<GroupDescription>, Status> {
        let asker = Asker::of(&request);
        let group = request.into_inner().group;
        let described = describe::describe(&self.coordinated, &asker, &group).await?;
        let remedy = "members that subscribe to fewer topics make it smaller";
        Ok(bounded(described, "what there is to say of the group", remedy)?)
    }

    async fn delete_group(
        &self,
        request: Request<DeleteGroupRequest>,
    ) -> Result<Response<DeleteGroupResponse>, Status> {
        let asker = Asker::of(&request);
        let group = request.into_inner().group;
        let delete = DeleteGroupsRequest { groups_names: vec![group.clone()] };
        let delete = Ask::DeleteGroups(delete);
        let answer = self.coordinated.group(&asker, &group, DELETE, delete).await?;
        let Answer::DeleteGroups(answer) = answer else { return Err(mixed_up().into()) };
        let result = answer.results.first().ok_or_else(mixed_up)?;
        match failure(result.error_code) {
            Some(code) => Err(of_group(code, &group, None).into()),
            None => Ok(Response::new(DeleteGroupResponse {})),
        }
    }
}

/// In whose name offsets are committed.
struct Committer<'a> {
    group: &'a str,
    member_id: &'a str,
    epoch: i32,
    instance_id: Option<&'a str>,
}

/// The offsets that were not committed.
async fn commit(
    coordinated: &Coordinated,
    asker: &Asker,
    by: &Committer<'_>,
    offsets: &[TopicOffsets],
) -> Result<Vec<OffsetError>> {
    check_offsets(offsets)?;
    let mut topics = Vec::with_capacity(offsets.len());
    for topic in offsets {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for asked in &topic.partitions {
            let (partition_index, committed_offset, committed_leader_epoch, committed_metadata) =
                to_commit(asked)?;
            partitions.push(OffsetCommitRequestPartition {
                partition_index,
                committed_offset,
                committed_leader_epoch,
                committed_metadata,
            });
        }
        let name = topic.topic.clone();
        topics.push(OffsetCommitRequestTopic { name, partitions, ..Default::default() });
    }
    let request = OffsetCommitRequest {
        group_id: by.group.to_owned(),
        generation_id_or_member_epoch: by.epoch,
        member_id: by.member_id.to_owned(),
        group_instance_id: by.instance_id.map(str::to_owned),
        topics,
        ..Default::default()
    };
    let (asker, ask) = (asker.commits(offsets)?, Ask::OffsetCommit(request));
    let answer = coordinated.group(&asker, by.group, COMMIT, ask).await?;
    let Answer::OffsetCommit(OffsetCommitResponse { topics, .. }) = answer else {
        return Err(mixed_up());
    };
    let each = topics.iter().flat_map(|topic| {
        topic.partitions.iter().map(|p| (&*topic.name, p.partition_index, p.error_code))
    });
    Ok(each.filter_map(|(topic, p, code)| failed_offset(by.group, topic, p, code)).collect())
}

pub(super) fn failed_offset(
    group: &str,
    topic: &str,
    partition: i32,
    code: i16,
) -> Option<OffsetError> {
    let code = failure(code)?;
    let error = match code {
        ErrorCode::UnknownTopicOrPartition => Error::unknown_topic(topic),
        ErrorCode::UnknownTopicId => {
            let what = format!("topic {topic:?} is another one by now: it was made again");
            Error::refused(Code::UnknownTopic, what, "begin with what there is of the new one")
        }
        code => of_group(code, group, None),
    };
    Some(OffsetError {
        topic: topic.to_owned(),
        partition: u32::try_from(partition).unwrap_or_default(),
        error: Some(error.to_detail()),
    })
}

fn fetched(group: &str, found: OffsetFetchResponseGroup) -> Result<FetchOffsetsResponse> {
    if let Some(code) = failure(found.error_code) {
        return Err(of_group(code, group, None));
    }
    let mut answer = FetchOffsetsResponse::default();
    for topic in found.topics {
        let mut partitions = Vec::new();
        for found in topic.partitions {
            let (partition, code) = (found.partition_index, found.error_code);
            answer.failed.extend(failed_offset(group, &topic.name, partition, code));
            // Minus one: nothing is committed.
            if let (Ok(partition), Ok(offset)) =
                (u32::try_from(partition), u64::try_from(found.committed_offset))
            {
                partitions.push(PartitionOffset {
                    partition,
                    offset,
                    leader_epoch: u32::try_from(found.committed_leader_epoch).ok(),
                    metadata: found.metadata.unwrap_or_default(),
                });
            }
        }
        if !partitions.is_empty() {
            let topic_id = TopicId(topic.topic_id.into()).to_string();
            answer.offsets.push(TopicOffsets { topic: topic.name, topic_id, partitions });
        }
    }
    Ok(answer)
}
