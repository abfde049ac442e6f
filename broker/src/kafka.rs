//! The Kafka protocol on this broker: what each request does.
//!
//! Owns: from a frame to its answer. Does not own: sockets (`listener::kafka`), bytes of messages
//! (`levee-kafka`), what a produce or a fetch is (`Node`, the same as for gRPC).
//!
//! One file for each API or family. A request that cannot be read, or that this broker does not
//! know, ends the connection, as Kafka does it; everything else is answered with an error code.

mod acls;
mod api_versions;
mod cluster;
mod config_resources;
mod configs;
mod describe_topics;
mod errors;
mod fetch;
mod fetch_session;
mod groups;
mod list_offsets;
mod log_dirs;
mod markers;
mod metadata;
mod produce;
mod producers;
mod quorum;
mod quotas;
mod replicas;
mod scram;
mod topics;
mod transactions;
mod versions;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use levee_kafka::frame::{self, Header};
use levee_kafka::messages::ApiKey;
use levee_kafka::{Api, DecodeError, ErrorCode, Reader, Request, Uuid};
use levee_proto::ids::TopicId;
use parking_lot::Mutex;
use thiserror::Error;
use tokio::sync::OwnedSemaphorePermit;

use crate::coordinator::Coordinators;
use crate::listener::answers::Taken;
use crate::node::Node;
use crate::partition::Partition;

pub(crate) use errors::code;

/// What all connections share.
#[derive(Clone)]
pub(crate) struct Kafka {
    node: Arc<Node>,
    pub(crate) coordinators: Arc<Coordinators>,
    sessions: Arc<fetch_session::Sessions>,
}

/// The other side of a connection.
pub(crate) struct Client {
    pub(crate) peer: SocketAddr,
    /// The address of this broker that it connected to.
    pub(crate) local: SocketAddr,
    /// A later connection has a higher number.
    pub(crate) connection: u64,
    /// Name and version of its library, as it said itself.
    pub(crate) software: Mutex<(String, String)>,
}

impl Client {
    pub(crate) fn new(peer: SocketAddr, local: SocketAddr, connection: u64) -> Self {
        Self { peer, local, connection, software: Mutex::default() }
    }
}

/// Why a connection ends.
#[derive(Debug, Error)]
pub(crate) enum Broken {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("the request cannot be read: {0}")]
    Decode(#[from] DecodeError),
    #[error("no request is {0} bytes long (at most {1}: max.batch.bytes and 1 MiB)")]
    Length(i32, usize),
    #[error("API {key} version {version} is not served here")]
    Unknown { key: i16, version: i16 },
    #[error("it said nothing for kafka.idle.timeout")]
    Idle,
    #[error("there was no room for a request of {0} bytes (request.bytes)")]
    NoRoom(usize),
    #[error("a request of {0} bytes took too long to come")]
    Slow(usize),
    #[error("it does not take its answers")]
    NotTaken,
    #[error("a request of a transaction came over a connection that its client has given up")]
    Late,
    #[error("an append without acks failed: {0}")]
    Unacked(String),
}

/// An answer that is made when it is its turn.
pub(crate) type Answer = Pin<Box<dyn Future<Output = Result<Answered, Broken>> + Send>>;

/// An answer as it is written.
#[derive(Default)]
pub(crate) struct Answered {
    pub(crate) pieces: Vec<Bytes>,
    /// Memory that it takes until it is written.
    pub(crate) room: Option<Taken>,
    pub(crate) then_close: Option<Broken>,
}

/// One request, with everything that an API may want to know.
pub(crate) struct Ask {
    pub(crate) kafka: Kafka,
    pub(crate) client: Arc<Client>,
    pub(crate) header: Header,
}

impl Ask {
    pub(crate) fn node(&self) -> &Arc<Node> {
        &self.kafka.node
    }

    pub(crate) fn version(&self) -> i16 {
        self.header.version
    }

    /// The name of a topic that is named by its name or, from some version on, by its id.
    fn topic_name(&self, name: String, id: Uuid, by_id: bool) -> Result<String, ErrorCode> {
        if !by_id {
            return Ok(name);
        }
        let state = self.node().view.read();
        let topic = state.topics.get(&TopicId(id.into()));
        let live = topic.filter(|topic| topic.deleted_ms.is_none());
        live.map(|topic| topic.name.clone()).ok_or(ErrorCode::UnknownTopicId)
    }

    fn partition(&self, topic: &str, number: i32) -> Result<Arc<Partition>, ErrorCode> {
        let number = u32::try_from(number).map_err(|_| ErrorCode::UnknownTopicOrPartition)?;
        self.node().partition(topic, number).map_err(|error| code(&error))
    }

    /// What is behind the request is not looked at, as in Kafka: librdkafka writes the null array
    /// of its request for all topics in four bytes instead of one.
    fn read<R: Request>(&self, mut body: Reader) -> Result<R, Broken> {
        Ok(R::decode(&mut body, self.header.version)?)
    }

    fn answered<R: Request>(&self, response: &R::Response) -> Answered {
        let Header { version, correlation, .. } = self.header;
        Answered {
            pieces: frame::response(R::KEY, version, correlation, response),
            ..Default::default()
        }
    }
}

impl Kafka {
    pub(crate) fn new(node: Arc<Node>, coordinators: Arc<Coordinators>) -> Self {
        Self { node, coordinators, sessions: Arc::default() }
    }

    /// Takes a request. Appends get their place here, in the order of requests; everything else
    /// happens when the answer is awaited, after the answers before it. `room` is that of the
    /// frame's bytes.
    pub(crate) async fn begin(
        &self,
        client: &Arc<Client>,
        frame: Bytes,
        room: Option<OwnedSemaphorePermit>,
    ) -> Result<Answer, Broken> {
        let frame_bytes = frame.len();
        let mut body = Reader::new(frame);
        let header = Header::decode(&mut body)?;
        let ask = Ask { kafka: self.clone(), client: client.clone(), header };
        let (key, version) = (ask.header.key, ask.header.version);
        let Some(key) = versions::served(key, version) else {
            if key == ApiKey::ApiVersions as i16 {
                let answer = api_versions::unsupported(&ask);
                return Ok(Box::pin(async move { Ok(answer) }));
            }
            return Err(Broken::Unknown { key, version });
        };
        let name = Api::of(key as i16).map_or("", |api| api.name);
        metrics::counter!("levee_kafka_requests_total", "api" => name).increment(1);
        if key == ApiKey::Produce {
            let request = ask.read(body)?;
            let placed = produce::place(&ask, request, frame_bytes).await;
            // Its batches wait in their lanes now, which count their bytes.
            drop(room);
            return Ok(Box::pin(placed.finish(ask)));
        }
        let began = self.node.host.now();
        Ok(Box::pin(async move {
            let node = ask.node().clone();
            let answered = answer(key, ask, body).await;
            drop(room);
            let took = node.host.now().since(began).as_secs_f64();
            metrics::histogram!("levee_kafka_request_seconds", "api" => name).record(took);
            answered
        }))
    }
}

/// Everything but produce.
async fn answer(key: ApiKey, ask: Ask, body: Reader) -> Result<Answered, Broken> {
    match key {
        ApiKey::ApiVersions => run(ask, body, api_versions::answer).await,
        ApiKey::Metadata => run(ask, body, metadata::answer).await,
        ApiKey::DescribeCluster => run(ask, body, cluster::describe).await,
        ApiKey::Fetch => fetch::answer(ask, body).await,
        ApiKey::ListOffsets => run(ask, body, list_offsets::answer).await,
        ApiKey::OffsetForLeaderEpoch => run(ask, body, list_offsets::epochs).await,
        ApiKey::InitProducerId => run_or_close(ask, body, producers::answer).await,
        ApiKey::AddPartitionsToTxn => run_or_close(ask, body, transactions::add_partitions).await,
        ApiKey::AddOffsetsToTxn => run_or_close(ask, body, transactions::add_offsets).await,
        ApiKey::EndTxn => run_or_close(ask, body, transactions::end).await,
        ApiKey::TxnOffsetCommit => run(ask, body, transactions::commit_offsets).await,
        ApiKey::WriteTxnMarkers => run(ask, body, markers::write).await,
        ApiKey::DescribeProducers => run(ask, body, markers::producers).await,
        ApiKey::DescribeTransactions => run(ask, body, transactions::describe).await,
        ApiKey::ListTransactions => run(ask, body, transactions::list).await,
        ApiKey::FindCoordinator => run(ask, body, groups::find_coordinator).await,
        ApiKey::JoinGroup => run(ask, body, groups::join).await,
        ApiKey::SyncGroup => run(ask, body, groups::sync).await,
        ApiKey::Heartbeat => run(ask, body, groups::heartbeat).await,
        ApiKey::LeaveGroup => run(ask, body, groups::leave).await,
        ApiKey::OffsetCommit => run(ask, body, groups::commit).await,
        ApiKey::OffsetFetch => run(ask, body, groups::fetch_offsets).await,
        ApiKey::OffsetDelete => run(ask, body, groups::delete_offsets).await,
        ApiKey::DescribeGroups => run(ask, body, groups::describe).await,
        ApiKey::ListGroups => run(ask, body, groups::list).await,
        ApiKey::DeleteGroups => run(ask, body, groups::delete).await,
        ApiKey::ConsumerGroupHeartbeat => run(ask, body, groups::consumer_heartbeat).await,
        ApiKey::ConsumerGroupDescribe => run(ask, body, groups::describe_consumer).await,
        ApiKey::CreateTopics => run(ask, body, topics::create).await,
        ApiKey::DeleteTopics => run(ask, body, topics::delete).await,
        ApiKey::CreatePartitions => run(ask, body, topics::grow).await,
        ApiKey::DeleteRecords => run(ask, body, topics::delete_records).await,
        ApiKey::DescribeConfigs => run(ask, body, configs::describe).await,
        ApiKey::AlterConfigs => run(ask, body, configs::alter).await,
        ApiKey::IncrementalAlterConfigs => run(ask, body, configs::change).await,
        ApiKey::DescribeTopicPartitions => run(ask, body, describe_topics::answer).await,
        ApiKey::ListConfigResources => run(ask, body, config_resources::list).await,
        ApiKey::DescribeLogDirs => run(ask, body, log_dirs::describe).await,
        ApiKey::AlterReplicaLogDirs => run(ask, body, log_dirs::alter).await,
        ApiKey::ElectLeaders => run(ask, body, replicas::elect).await,
        ApiKey::AlterPartitionReassignments => run(ask, body, replicas::reassign).await,
        ApiKey::ListPartitionReassignments => run(ask, body, replicas::reassignments).await,
        ApiKey::DescribeAcls => run(ask, body, acls::describe).await,
        ApiKey::CreateAcls => run(ask, body, acls::create).await,
        ApiKey::DeleteAcls => run(ask, body, acls::delete).await,
        ApiKey::DescribeClientQuotas => run(ask, body, quotas::describe).await,
        ApiKey::AlterClientQuotas => run(ask, body, quotas::alter).await,
        ApiKey::DescribeUserScramCredentials => run(ask, body, scram::describe).await,
        ApiKey::AlterUserScramCredentials => run(ask, body, scram::alter).await,
        ApiKey::DescribeQuorum => run(ask, body, quorum::describe).await,
        ApiKey::UpdateFeatures => run(ask, body, quorum::update).await,
        // `versions::served` names no other.
        _ => Err(Broken::Unknown { key: key as i16, version: ask.version() }),
    }
}

/// As `run`, for APIs that may have no answer but the end of the connection.
async fn run_or_close<R: Request>(
    ask: Ask,
    body: Reader,
    api: impl AsyncFnOnce(&Ask, R) -> Result<R::Response, Broken>,
) -> Result<Answered, Broken> {
    let request = ask.read(body)?;
    let response = api(&ask, request).await?;
    Ok(ask.answered::<R>(&response))
}

/// Reads the request, calls the API, frames what it gives.
async fn run<R: Request>(
    ask: Ask,
    body: Reader,
    api: impl AsyncFnOnce(&Ask, R) -> R::Response,
) -> Result<Answered, Broken> {
    let request = ask.read(body)?;
    let response = api(&ask, request).await;
    Ok(ask.answered::<R>(&response))
}
