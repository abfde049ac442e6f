//! The `Log` service.

use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use futures::stream;
use levee_proto::grpc::list_offsets_request::At;
use levee_proto::grpc::log_server::Log;
use levee_proto::grpc::{
    AppendRequest, AppendResponse, InitProducerRequest, InitProducerResponse, ListOffsetsRequest,
    ListOffsetsResponse, ReadRequest, ReadResponse, ReadStreamRequest,
};
use tonic::{Request, Response, Status, Streaming};

use super::answers::Held;
use super::intake::RequestRoom;
use super::{append, read};
use crate::coordinator::Coordinators;
use crate::error::Error;
use crate::node::Node;

/// See the module.
pub struct LogService {
    node: Arc<Node>,
    coordinators: Arc<Coordinators>,
}

impl LogService {
    pub fn new(node: Arc<Node>, coordinators: Arc<Coordinators>) -> Self {
        Self { node, coordinators }
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Log for LogService {
    type AppendStreamStream = Answers<AppendResponse>;
    type ReadStreamStream = Answers<ReadResponse>;

    async fn append_stream(
        &self,
        request: Request<Streaming<AppendRequest>>,
    ) -> Result<Response<Self::AppendStreamStream>, Status> {
        let node = self.node.clone();
        let placed = append::place_all(self.coordinators.clone(), request.into_inner());
        let answers = stream::unfold((node, placed), |(node, mut placed)| async move {
            append::answer(&node, &mut placed).await.map(|answer| (answer, (node, placed)))
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn append(
        &self,
        request: Request<AppendRequest>,
    ) -> Result<Response<AppendResponse>, Status> {
        let room = request.extensions().get::<RequestRoom>().cloned();
        let request = request.into_inner();
        let id = request.id;
        let pending = append::place(&self.coordinators, request).await?;
        // It waits in its lane now, which counts its bytes.
        room.iter().for_each(RequestRoom::give_back);
        let appended = pending.done(&self.node).await?;
        Ok(Response::new(append::response(id, Ok(appended))))
    }

    async fn read_stream(
        &self,
        request: Request<Streaming<ReadStreamRequest>>,
    ) -> Result<Response<Self::ReadStreamStream>, Status> {
        let (send, answers) = read::channel();
        read::stream(self.node.clone(), request.into_inner(), send).await?;
        Ok(Response::new(Box::pin(answers)))
    }

    async fn read(&self, request: Request<ReadRequest>) -> Result<Response<ReadResponse>, Status> {
        let answer = read::read(&self.node, request.get_ref()).await?;
        let mut response = Response::new(answer.response);
        if let Some(room) = answer.room {
            response.extensions_mut().insert(Held::new(room));
        }
        Ok(response)
    }

    async fn list_offsets(
        &self,
        request: Request<ListOffsetsRequest>,
    ) -> Result<Response<ListOffsetsResponse>, Status> {
        let request = request.into_inner();
        let partition = self.node.partition(&request.topic, request.partition)?;
        let ladder = partition.readable()?;
        let missing = || Error::invalid_argument("`at` must say which offset is asked for");
        let (offset, timestamp_ms) = match request.at.ok_or_else(missing)? {
            At::Start(_) => (Some(ladder.log_start()), -1),
            At::End(_) => {
                let isolation = read::isolation(request.isolation)?;
                self.node.lease().await?;
                (Some(isolation.end(&partition.readable()?)), -1)
            }
            At::TieredEnd(_) => (Some(ladder.tiered_end()), -1),
            At::LocalStart(_) => (Some(ladder.local_start()), -1),
            At::TimestampMs(asked) => {
                let limit = self.node.config.request_timeout;
                let found = self.node.find_time(&partition, asked);
                match self.node.host.timeout(limit, found).await {
                    Ok(Ok(Some((offset, timestamp)))) => (Some(offset), timestamp),
                    Ok(Ok(None)) => (None, -1),
                    Ok(Err(error)) => return Err(error.into()),
                    Err(_) => {
                        let limit = limit.as_millis() as u64;
                        return Err(Error::timed_out("the search by time", limit).into());
                    }
                }
            }
        };
        let leader_epoch = partition.status().leader_epoch;
        Ok(Response::new(ListOffsetsResponse { offset, timestamp_ms, leader_epoch }))
    }

    async fn init_producer(
        &self,
        _request: Request<InitProducerRequest>,
    ) -> Result<Response<InitProducerResponse>, Status> {
        let producer_id = self.node.producer_id().await?;
        Ok(Response::new(InitProducerResponse { producer_id, producer_epoch: 0 }))
    }
}
