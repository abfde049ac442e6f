//! A whole broker: listeners, node and everything that runs beside it; start and graceful stop.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use levee_runtime::Task;
use levee_runtime::real::RealWorld;
use levee_tiering::store::Store;
use levee_tiering::store::hedge::Hedging;
use thiserror::Error;

use crate::config::BrokerConfig;
use crate::coordinator::Coordinators;
use crate::http::{HttpServer, Readiness, Ready};
use crate::listener::grpc::{self, GrpcServer};
use crate::listener::kafka::KafkaServer;
use crate::node::start::{StartError, Started, start as start_node};
use crate::node::{Node, leave};
use crate::upkeep::beside;
use crate::{metrics, offload};

#[derive(Debug, Error)]
pub enum ServerError {
    #[error("{name} cannot listen on {addr}: {error}")]
    Listen { name: &'static str, addr: SocketAddr, error: io::Error },
    #[error("metrics: {0}")]
    Metrics(String),
    #[error(transparent)]
    Start(#[from] StartError),
}

/// A broker that serves.
pub struct Running {
    pub grpc_addr: SocketAddr,
    pub http_addr: SocketAddr,
    pub kafka_addr: Option<SocketAddr>,
    started: Started,
    grpc: GrpcServer,
    kafka: Option<KafkaServer>,
    http: HttpServer,
    beside: Vec<Task<()>>,
}

/// What `/readyz` says: nothing before the node serves.
#[derive(Default)]
struct Readable(parking_lot::Mutex<Option<Arc<Node>>>);

impl Readiness for Readable {
    fn readiness(&self) -> Ready {
        let Some(node) = self.0.lock().clone() else {
            return Ready { ready: false, reasons: vec!["starting".into()] };
        };
        if let Some(why) = node.ended().borrow().clone() {
            return Ready { ready: false, reasons: vec![format!("the session ended: {why}")] };
        }
        if node.is_draining() {
            return Ready { ready: false, reasons: vec!["stopping".into()] };
        }
        let reasons = node.lanes.stalled().into_iter().chain(node.waiting_lanes()).collect();
        Ready { ready: true, reasons }
    }
}

/// Starts a broker in the real world.
pub async fn start(config: BrokerConfig) -> Result<Running, ServerError> {
    let host = RealWorld::host();
    let recorder = metrics::install().map_err(|error| ServerError::Metrics(error.to_string()))?;
    let listen = |name, addr| move |error| ServerError::Listen { name, addr, error };
    let (grpc_listen, http_listen) = (config.grpc_listen, config.http_listen);
    let kafka_listen = config.kafka_listen;
    // Before anything is taken over from another process: a used port must not cost a session.
    let listener = grpc::bind(grpc_listen).await.map_err(listen("gRPC", grpc_listen))?;
    let kafka_listener = match kafka_listen {
        Some(addr) => Some(grpc::bind(addr).await.map_err(listen("Kafka", addr))?),
        None => None,
    };
    let readable = Arc::new(Readable::default());
    let http = HttpServer::start(http_listen, recorder, readable.clone()).await;
    let http = http.map_err(listen("HTTP", http_listen))?;
    let address = listener.local_addr().map_err(listen("gRPC", grpc_listen))?;
    let store = Store::open(config.bucket_url.expose(), host.clone()).map_err(StartError::from)?;
    let store = store.with_hedging(Hedging {
        reads: config.store_hedge_reads,
        creates: config.store_hedge_creates,
        percent: config.store_hedge_percent,
        ..Hedging::default()
    });
    let started = start_node(&host, config, store, address.to_string()).await?;
    let node = started.node.clone();
    *readable.0.lock() = Some(node.clone());
    let beside = beside(&node);
    let coordinators = Coordinators::new(node.clone());
    let mut beside = beside;
    beside.push(node.host.spawn("coordinators", coordinators.clone().keep()));
    let start_kafka = |listener| KafkaServer::start(listener, node.clone(), coordinators);
    let kafka = kafka_listener.map(start_kafka);
    let kafka = kafka.transpose().map_err(listen("Kafka", kafka_listen.unwrap_or(grpc_listen)))?;
    let grpc = GrpcServer::start(listener, node).await.map_err(listen("gRPC", grpc_listen))?;
    let (grpc_addr, http_addr) = (grpc.addr(), http.addr());
    let kafka_addr = kafka.as_ref().map(KafkaServer::addr);
    Ok(Running { grpc_addr, http_addr, kafka_addr, started, grpc, kafka, http, beside })
}

impl Running {
    pub fn node(&self) -> &Arc<Node> {
        &self.started.node
    }

    /// Waits until the session ends by itself; says why.
    pub async fn ended(&self) -> String {
        let mut ended = self.started.node.ended();
        match ended.wait_for(Option::is_some).await {
            Ok(why) => why.clone().unwrap_or_default(),
            Err(_) => "the node is gone".into(),
        }
    }

    /// Answers what is under way, uploads what is not in the bucket, and leaves the cluster. Stops
    /// anyway when `limit` is over: the next start recovers what was left.
    pub async fn shutdown(self, limit: Duration) {
        let Self { started, grpc, kafka, http, beside, .. } = self;
        let Started { node, resign, controller, identity } = started;
        let host = node.host.clone();
        let begun = host.now();
        let left = || limit.saturating_sub(host.now().since(begun));
        node.drain();
        let kafka = async {
            if let Some(kafka) = kafka {
                kafka.shutdown(left() / 2).await;
            }
        };
        futures::join!(grpc.shutdown(left() / 2), kafka);
        for lane in node.lanes.all() {
            lane.close(left() / 2).await;
        }
        let all = node.all_partitions();
        match host.timeout(left() / 2, offload::flush(&node, &all)).await {
            Ok(Ok(bytes)) => tracing::info!(bytes, "uploaded what was left"),
            Ok(Err(error)) => tracing::warn!(%error, "not all is in the bucket; the WAL has it"),
            Err(_) => tracing::warn!("not all is in the bucket yet; the WAL has it"),
        }
        // The next start need not recover what is covered, and needs no disk of ours where all is.
        node.tell_trims().await;
        beside.iter().for_each(Task::abort);
        let _ = host.timeout(left() / 2, leave::lanes(&node)).await;
        let _ = resign.send(());
        let _ = host.timeout(left(), controller).await;
        http.shutdown(Duration::from_secs(1)).await;
        drop(identity);
    }
}
