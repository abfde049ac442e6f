//! The gRPC listener: services, bounds, graceful stop.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::stream;
use levee_proto::grpc::DESCRIPTORS;
use levee_proto::grpc::admin_server::AdminServer;
use levee_proto::grpc::groups_server::GroupsServer;
use levee_proto::grpc::log_server::LogServer;
use levee_proto::grpc::transactions_server::TransactionsServer;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::transport::Server;

use super::admin::AdminService;
use super::answers::AnswerLayer;
use super::connections::Connections;
use super::groups::GroupsService;
use super::intake::{ENVELOPE_BYTES, IntakeLayer};
use super::log::LogService;
use super::transactions::TransactionsService;
use crate::coordinator::Coordinators;
use crate::node::Node;

/// HTTP/2 windows: bytes of one stream and of one connection that may be under way. A stream that
/// waits for room keeps its own window and nobody else's, or those that have room starve.
const STREAM_WINDOW: u32 = 256 << 10;
const STREAMS_MAX: u32 = 1024;
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * STREAMS_MAX;
const FRAME_BYTES: u32 = 1 << 20;
/// A message to a coordinator: unpacked it takes some tens of times as much.
const COORDINATED_BYTES: usize = 1 << 20;
/// The greeting of an HTTP/2 client, and how long it may take.
const GREETING_BYTES: usize = 24;
const GREETING_TIME: Duration = Duration::from_secs(10);

/// A running listener.
pub struct GrpcServer {
    addr: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<Result<(), tonic::transport::Error>>,
}

/// Binds first, so that a used port is found before anything is taken over.
pub async fn bind(listen: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(listen).await
}

impl GrpcServer {
    pub async fn start(
        listener: TcpListener,
        node: Arc<Node>,
        coordinators: Arc<Coordinators>,
    ) -> io::Result<Self> {
        let addr = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel();
        let config = &node.config;
        let message_max = config.max_batch_bytes as usize + ENVELOPE_BYTES;
        let intake = IntakeLayer::new(config.request_bytes as usize, message_max);
        let most = config.connections_max as usize;
        let connections = Connections::new(listener, most, GREETING_TIME, GREETING_BYTES);
        let log = LogServer::new(LogService::new(node.clone(), coordinators.clone()))
            .max_decoding_message_size(message_max)
            .max_encoding_message_size(usize::MAX);
        let admin = AdminServer::new(AdminService::new(node));
        let groups = GroupsServer::new(GroupsService::new(coordinators.clone()))
            .max_decoding_message_size(COORDINATED_BYTES);
        let transactions = TransactionsServer::new(TransactionsService::new(coordinators))
            .max_decoding_message_size(COORDINATED_BYTES);
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_serving::<LogServer<LogService>>().await;
        health.set_serving::<AdminServer<AdminService>>().await;
        health.set_serving::<GroupsServer<GroupsService>>().await;
        health.set_serving::<TransactionsServer<TransactionsService>>().await;
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1()
            .map_err(io::Error::other)?;
        let server = Server::builder()
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME_BYTES)
            .max_concurrent_streams(STREAMS_MAX)
            .http2_keepalive_interval(Some(Duration::from_secs(20)))
            .http2_keepalive_timeout(Some(Duration::from_secs(20)))
            .layer(intake)
            .layer(AnswerLayer)
            .add_service(log)
            .add_service(admin)
            .add_service(groups)
            .add_service(transactions)
            .add_service(health_service)
            .add_service(reflection);
        let incoming = stream::unfold(connections, |connections| async {
            let (connection, _) = connections.accept().await;
            Some((io::Result::Ok(connection), connections))
        });
        let until = async {
            let _ = stopped.await;
        };
        let serving = tokio::spawn(server.serve_with_incoming_shutdown(incoming, until));
        Ok(Self { addr, stop: Some(stop), serving })
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Takes no more connections, and waits up to `limit` for requests under way.
    pub async fn shutdown(mut self, limit: Duration) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if tokio::time::timeout(limit, &mut self.serving).await.is_err() {
            self.serving.abort();
        }
    }
}
