//! Topics and the state of the broker: one call each, with a deadline and typed errors.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use levee_proto::grpc::list_offsets_request::At;
use levee_proto::grpc::{
    AcceptLossRequest, AcceptLossResponse, AlterTopicRequest, CreateTopicRequest,
    DeleteRecordsRequest, DeleteTopicRequest, DeleteTopicResponse, DescribeClusterRequest,
    DescribeClusterResponse, DescribeTopicRequest, FlushRequest, FlushResponse, Isolation,
    ListOffsetsRequest, ListOffsetsResponse, ListTopicsRequest, TierStatusRequest,
    TierStatusResponse, TopicDescription,
};
use tonic::{Response, Status};

use crate::connection::Client;
use crate::error::{Error, Result};

/// Longest wait for an answer, unless the call names its own.
const LIMIT: Duration = Duration::from_secs(30);
/// What a call that carries its own limit to the broker may take longer here.
const GRACE: Duration = Duration::from_secs(5);

/// See the module. Nothing is retried: a caller sees from `Error::retriable` what may help.
#[derive(Clone)]
pub struct Admin {
    pub(crate) client: Client,
    pub(crate) limit: Duration,
}

impl Client {
    /// Topics and the state of the broker, with deadlines and typed errors.
    pub fn manage(&self) -> Admin {
        Admin::new(self.clone())
    }

    /// How many partitions a topic has.
    pub async fn partitions(&self, topic: &str) -> Result<u32> {
        Ok(self.manage().describe_topic(topic).await?.partitions.len() as u32)
    }
}

impl Admin {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, limit: LIMIT }
    }

    /// Waits so long for each answer, in place of 30 s.
    #[must_use]
    pub fn with_limit(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }

    /// 0 partitions: as many as the broker makes by default.
    pub async fn create_topic(
        &self,
        name: &str,
        partitions: u32,
        config: BTreeMap<String, String>,
    ) -> Result<TopicDescription> {
        let config = config.into_iter().collect();
        let request = CreateTopicRequest { name: name.to_owned(), partitions, config };
        within(self.limit, "creating the topic", self.client.admin().create_topic(request)).await
    }

    pub async fn list_topics(&self) -> Result<Vec<TopicDescription>> {
        let mut admin = self.client.admin();
        let asked = admin.list_topics(ListTopicsRequest {});
        Ok(within(self.limit, "listing topics", asked).await?.topics)
    }

    pub async fn describe_topic(&self, name: &str) -> Result<TopicDescription> {
        let request = DescribeTopicRequest { name: name.to_owned() };
        within(self.limit, "describing the topic", self.client.admin().describe_topic(request))
            .await
    }

    /// Sets and removes settings; `partitions` adds some, 0 leaves them.
    pub async fn alter_topic(
        &self,
        name: &str,
        set: BTreeMap<String, String>,
        remove: Vec<String>,
        partitions: u32,
    ) -> Result<TopicDescription> {
        let (name, set) = (name.to_owned(), set.into_iter().collect());
        let request = AlterTopicRequest { name, set, remove, partitions };
        within(self.limit, "changing the topic", self.client.admin().alter_topic(request)).await
    }

    pub async fn delete_topic(&self, name: &str) -> Result<DeleteTopicResponse> {
        let request = DeleteTopicRequest { name: name.to_owned() };
        within(self.limit, "deleting the topic", self.client.admin().delete_topic(request)).await
    }

    /// Deletes records below `before_offset`; gives the first offset that is left.
    pub async fn delete_records(
        &self,
        topic: &str,
        partition: u32,
        before_offset: u64,
    ) -> Result<u64> {
        let request = DeleteRecordsRequest { topic: topic.to_owned(), partition, before_offset };
        let mut admin = self.client.admin();
        Ok(within(self.limit, "deleting records", admin.delete_records(request)).await?.log_start)
    }

    /// Of one topic, or of all.
    pub async fn tier_status(&self, topic: Option<&str>) -> Result<TierStatusResponse> {
        let request = TierStatusRequest { topic: topic.unwrap_or_default().to_owned() };
        within(self.limit, "asking for the tiers", self.client.admin().tier_status(request)).await
    }

    /// Uploads everything that is durable, of one topic or of all; with `drop_hot` the hot copies
    /// go afterwards.
    pub async fn flush(
        &self,
        topic: Option<&str>,
        drop_hot: bool,
        limit: Duration,
    ) -> Result<FlushResponse> {
        let topic = topic.unwrap_or_default().to_owned();
        let timeout_ms = u32::try_from(limit.as_millis()).unwrap_or(u32::MAX);
        let request = FlushRequest { topic, drop_hot, timeout_ms };
        within(limit + GRACE, "uploading", self.client.admin().flush(request)).await
    }

    /// See the protocol: `statement` must be word for word what it says there.
    pub async fn accept_loss(
        &self,
        topic: &str,
        partition: u32,
        statement: &str,
    ) -> Result<AcceptLossResponse> {
        let (topic, statement) = (topic.to_owned(), statement.to_owned());
        let request = AcceptLossRequest { topic, partition, statement };
        within(self.limit, "accepting the loss", self.client.admin().accept_loss(request)).await
    }

    pub async fn describe_cluster(&self) -> Result<DescribeClusterResponse> {
        let mut admin = self.client.admin();
        let asked = admin.describe_cluster(DescribeClusterRequest {});
        within(self.limit, "describing the cluster", asked).await
    }

    pub async fn list_offsets(
        &self,
        topic: &str,
        partition: u32,
        at: At,
    ) -> Result<ListOffsetsResponse> {
        self.list_offsets_as(topic, partition, at, Isolation::ReadUncommitted).await
    }

    /// As `list_offsets`; the end is that of what a reader of this isolation sees.
    pub async fn list_offsets_as(
        &self,
        topic: &str,
        partition: u32,
        at: At,
        isolation: Isolation,
    ) -> Result<ListOffsetsResponse> {
        let (topic, isolation) = (topic.to_owned(), isolation.into());
        let request = ListOffsetsRequest { topic, partition, at: Some(at), isolation };
        within(self.limit, "asking for offsets", self.client.log().list_offsets(request)).await
    }
}

pub(crate) async fn within<T>(
    limit: Duration,
    what: &str,
    answer: impl Future<Output = std::result::Result<Response<T>, Status>>,
) -> Result<T> {
    match tokio::time::timeout(limit, answer).await {
        Ok(answer) => Ok(answer?.into_inner()),
        Err(_) => Err(Error::timed_out(what, limit)),
    }
}
