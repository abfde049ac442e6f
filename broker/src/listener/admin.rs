//! The `Admin` service.

use std::sync::Arc;
use std::time::Duration;

use levee_proto::grpc::admin_server::Admin;
use levee_proto::grpc::{
    AcceptLossRequest, AcceptLossResponse, AlterTopicRequest, ConfigEntry, CreateTopicRequest,
    DeleteRecordsRequest, DeleteRecordsResponse, DeleteTopicRequest, DeleteTopicResponse,
    DescribeClusterRequest, DescribeClusterResponse, DescribeTopicRequest, FlushRequest,
    FlushResponse, ListTopicsRequest, ListTopicsResponse, PartitionDescription, TierStatusRequest,
    TierStatusResponse, TopicDescription,
};
use levee_proto::ids::PartitionId;
use levee_proto::metalog::image::Topic;
use tonic::{Request, Response, Status};

use crate::cluster::decide::class_of;
use crate::cluster::message::{Answer, Request as Command};
use crate::error::Error;
use crate::node::Node;
use crate::offload;
use crate::partition::Partition;
use crate::upkeep::retention;

/// What an operator must state before records are given up.
const STATEMENT: &str = "the old broker is stopped for good";

/// See the module.
pub struct AdminService {
    node: Arc<Node>,
}

impl AdminService {
    pub fn new(node: Arc<Node>) -> Self {
        Self { node }
    }

    fn describe(&self, name: &str) -> Result<TopicDescription, Error> {
        let topic = self.node.view.read().topic_named(name).cloned();
        topic.map(|topic| self.description(&topic)).ok_or_else(|| Error::unknown_topic(name))
    }

    fn description(&self, topic: &Topic) -> TopicDescription {
        let settings = self.node.topic_config(&self.node.view.read(), topic.id);
        let entry = |e: crate::config::TopicEntry| ConfigEntry {
            name: e.name.to_owned(),
            value: e.value,
            is_default: e.is_default,
            doc: e.doc.to_owned(),
        };
        let partitions = (0..topic.partitions)
            .map(|partition| self.partition(PartitionId { topic: topic.id, partition }));
        TopicDescription {
            name: topic.name.clone(),
            id: topic.id.to_string(),
            config: settings.entries().into_iter().map(entry).collect(),
            partitions: partitions.collect(),
            deleted_ms: topic.deleted_ms,
        }
    }

    fn partition(&self, id: PartitionId) -> PartitionDescription {
        let wanted = class_of(&self.node.view.read(), id.topic);
        let Some(partition) = self.node.partition_by_id(id) else {
            return PartitionDescription {
                partition: id.partition,
                state: "waiting".into(),
                reason: "this broker does not lead it".into(),
                ..Default::default()
            };
        };
        let status = partition.status();
        let ladder = status.ladder;
        let class = status.class.unwrap_or(wanted);
        let pending = (class != wanted).then_some(wanted);
        PartitionDescription {
            partition: id.partition,
            state: status.state.to_owned(),
            reason: status.reason,
            leader: status.lane.map_or_else(String::new, |lane| lane.session.to_string()),
            leader_epoch: status.leader_epoch,
            log_start: ladder.log_start(),
            local_start: ladder.local_start(),
            tiered_end: ladder.tiered_end(),
            high_watermark: ladder.high_watermark(),
            log_end: ladder.log_end(),
            durability_class: class.name().to_owned(),
            pending_class: pending.map_or_else(String::new, |class| class.name().to_owned()),
            hot_bytes: status.hot_bytes,
            remote_bytes: self.node.tiers.index.bytes(id),
            lag_bytes: status.lag_bytes,
            lag_ms: status.lag_ms,
        }
    }

    fn partitions_of(&self, topic: &str) -> Result<Vec<Arc<Partition>>, Error> {
        if topic.is_empty() {
            return Ok(self.node.all_partitions());
        }
        let id = self.node.view.read().topic_named(topic).map(|t| t.id);
        Ok(self.node.partitions_of(id.ok_or_else(|| Error::unknown_topic(topic))?))
    }
}

#[tonic::async_trait]
impl Admin for AdminService {
    async fn create_topic(
        &self,
        request: Request<CreateTopicRequest>,
    ) -> Result<Response<TopicDescription>, Status> {
        let request = request.into_inner();
        let config = request.config.into_iter().collect();
        self.node.create_topic(&request.name, request.partitions, config).await?;
        Ok(Response::new(self.describe(&request.name)?))
    }

    async fn list_topics(
        &self,
        _request: Request<ListTopicsRequest>,
    ) -> Result<Response<ListTopicsResponse>, Status> {
        let mut topics: Vec<Topic> = self.node.view.read().topics.values().cloned().collect();
        topics.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
        let topics = topics.iter().map(|topic| self.description(topic)).collect();
        Ok(Response::new(ListTopicsResponse { topics }))
    }

    async fn describe_topic(
        &self,
        request: Request<DescribeTopicRequest>,
    ) -> Result<Response<TopicDescription>, Status> {
        Ok(Response::new(self.describe(&request.get_ref().name)?))
    }

    async fn alter_topic(
        &self,
        request: Request<AlterTopicRequest>,
    ) -> Result<Response<TopicDescription>, Status> {
        let request = request.into_inner();
        let set = request.set.into_iter().collect();
        self.node.alter_topic(&request.name, set, request.remove, request.partitions).await?;
        Ok(Response::new(self.describe(&request.name)?))
    }

    async fn delete_topic(
        &self,
        request: Request<DeleteTopicRequest>,
    ) -> Result<Response<DeleteTopicResponse>, Status> {
        let (id, purge_ms) = self.node.delete_topic_named(&request.get_ref().name).await?;
        Ok(Response::new(DeleteTopicResponse { id: id.to_string(), purge_ms }))
    }

    async fn delete_records(
        &self,
        request: Request<DeleteRecordsRequest>,
    ) -> Result<Response<DeleteRecordsResponse>, Status> {
        let request = request.get_ref();
        let partition = self.node.partition(&request.topic, request.partition)?;
        let log_start =
            retention::delete_records(&self.node, &partition, request.before_offset).await?;
        Ok(Response::new(DeleteRecordsResponse { log_start }))
    }

    async fn tier_status(
        &self,
        request: Request<TierStatusRequest>,
    ) -> Result<Response<TierStatusResponse>, Status> {
        let name = &request.get_ref().topic;
        let topics = match name.as_str() {
            "" => self.list_topics(Request::new(ListTopicsRequest {})).await?.into_inner().topics,
            name => vec![self.describe(name)?],
        };
        let partitions = || topics.iter().flat_map(|topic| &topic.partitions);
        let state = self.node.view.read();
        let level = |level: u8| state.objects.values().filter(|o| o.level == level).count() as u64;
        let waiting = self.node.waiting_lanes();
        Ok(Response::new(TierStatusResponse {
            objects_l1: level(1),
            objects_l2: level(2),
            object_bytes: state.objects.values().map(|o| o.bytes).sum(),
            unreferenced_objects: state.unreferenced.len() as u64,
            hot_bytes: partitions().map(|p| p.hot_bytes).sum(),
            hot_budget_bytes: self.node.hot_budget(),
            lag_bytes: partitions().map(|p| p.lag_bytes).sum(),
            lag_ms: partitions().map(|p| p.lag_ms).max().unwrap_or_default(),
            bucket: self.node.store.describe().to_owned(),
            stalled: self.node.lanes.stalled().into_iter().chain(waiting).collect(),
            damaged: self.node.unrepaired.lock().values().flatten().cloned().collect(),
            topics,
        }))
    }

    async fn flush(
        &self,
        request: Request<FlushRequest>,
    ) -> Result<Response<FlushResponse>, Status> {
        let request = request.get_ref();
        let partitions = self.partitions_of(&request.topic)?;
        let limit = match request.timeout_ms {
            0 => self.node.config.request_timeout,
            ms => Duration::from_millis(ms.into()),
        };
        let flushed = offload::flush(&self.node, &partitions);
        let uploaded_bytes = match self.node.host.timeout(limit, flushed).await {
            Ok(flushed) => flushed?,
            Err(_) => return Err(Error::timed_out("the upload", limit.as_millis() as u64).into()),
        };
        let mut dropped_bytes = 0;
        if request.drop_hot {
            for partition in &partitions {
                dropped_bytes += partition.drop_local(u64::MAX, true).await;
            }
            self.node.tiers.reader.clear().await;
        }
        Ok(Response::new(FlushResponse { uploaded_bytes, dropped_bytes }))
    }

    async fn accept_loss(
        &self,
        request: Request<AcceptLossRequest>,
    ) -> Result<Response<AcceptLossResponse>, Status> {
        let request = request.get_ref();
        if request.statement != STATEMENT {
            let why = format!("the statement must be exactly {STATEMENT:?}");
            return Err(Error::invalid_argument(why).into());
        }
        let partition = self.node.partition(&request.topic, request.partition)?.id;
        let (known_end, _) = self.node.tiers.state(partition);
        let command = Command::AcceptLoss { partition, known_end };
        let committed = self.node.commit(command).await.map_err(|error| {
            // The controller knows it by its id, people by its name.
            let name = format!("{}/{}", request.topic, request.partition);
            Error { message: error.message.replace(&partition.to_string(), &name), ..error }
        });
        let Answer::NextOffset(next_offset) = committed? else {
            return Err(Error::internal("giving up a tail gave something else").into());
        };
        Ok(Response::new(AcceptLossResponse { lost_from: known_end, next_offset }))
    }

    async fn describe_cluster(
        &self,
        _request: Request<DescribeClusterRequest>,
    ) -> Result<Response<DescribeClusterResponse>, Status> {
        let state = self.node.view.read();
        let controller = state.controller.as_ref();
        let lanes = state.lanes.values().map(|lane| {
            let end = lane.end.map_or_else(|| "open".to_owned(), |end| format!("closed at {end}"));
            format!("{} {:?} trim {} {end}", lane.id, lane.kind, lane.trim)
        });
        Ok(Response::new(DescribeClusterResponse {
            cluster_id: state.cluster.to_string(),
            term: state.term,
            session: self.node.session.to_string(),
            controller: controller.map_or_else(String::new, |c| c.address.clone()),
            metalog_slot: state.head,
            bucket: self.node.store.describe().to_owned(),
            lanes: lanes.collect(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            now_ms: self.node.host.wall_ms(),
        }))
    }
}
