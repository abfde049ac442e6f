//! `/metrics`, `/healthz` and `/readyz`.
//!
//! Owns: the listener and its bounds: 64 connections, one request each, ten seconds for all of
//! it, so that nobody can hold it. Does not own: what readiness means ([`Readiness`]).

// Sockets are not part of the simulation: tokio is used directly.
#![allow(clippy::disallowed_methods)]

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use axum::{Router, serve::Listener};
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::listener::connections::{Connection, Connections};
use crate::metrics::process_metrics;

const BOUNDS: Bounds = Bounds { connections: 64, deadline: Duration::from_secs(10) };
/// Histograms hold every sample until this runs.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy)]
struct Bounds {
    /// At a time; more wait in the kernel's backlog.
    connections: usize,
    /// From accept to the end of the answer.
    deadline: Duration,
}

/// What `/readyz` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ready {
    pub ready: bool,
    /// What is waited for, or what does not work; may name something while ready.
    pub reasons: Vec<String>,
}

/// Who knows whether this broker serves. Must answer at once.
pub trait Readiness: Send + Sync {
    fn readiness(&self) -> Ready;
}

/// A running listener.
pub struct HttpServer {
    addr: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<io::Result<()>>,
    upkeep: JoinHandle<()>,
}

#[derive(Clone)]
struct Shared {
    metrics: PrometheusHandle,
    readiness: Arc<dyn Readiness>,
}

impl HttpServer {
    /// Listens. `/readyz` says no for as long as `readiness` does, so start it first.
    pub async fn start(
        listen: SocketAddr,
        metrics: PrometheusHandle,
        readiness: Arc<dyn Readiness>,
    ) -> io::Result<Self> {
        Self::start_bounded(listen, metrics, readiness, BOUNDS).await
    }

    async fn start_bounded(
        listen: SocketAddr,
        metrics: PrometheusHandle,
        readiness: Arc<dyn Readiness>,
        bounds: Bounds,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        let addr = listener.local_addr()?;
        let (most, within) = (bounds.connections, bounds.deadline);
        let listener = HttpListener(Connections::new(listener, most, within, usize::MAX));
        let routes = routes(Shared { metrics: metrics.clone(), readiness });
        let (stop, stopped) = oneshot::channel();
        let serving = tokio::spawn(async move {
            axum::serve(listener, routes)
                .with_graceful_shutdown(async {
                    let _ = stopped.await;
                })
                .await
        });
        let upkeep = tokio::spawn(async move {
            loop {
                tokio::time::sleep(UPKEEP_INTERVAL).await;
                metrics.run_upkeep();
            }
        });
        Ok(Self { addr, stop: Some(stop), serving, upkeep })
    }

    /// The real address, also where port 0 was asked for.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Takes no more connections, lets those that are open end, and stops at the deadline anyway.
    pub async fn shutdown(mut self, deadline: Duration) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        let _ = tokio::time::timeout(deadline, &mut self.serving).await;
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.serving.abort();
        self.upkeep.abort();
    }
}

fn routes(shared: Shared) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { closing("ok\n") }))
        .route("/readyz", get(readyz))
        .fallback(|| async { closing((StatusCode::NOT_FOUND, "not found\n")) })
        .with_state(shared)
}

async fn metrics(State(shared): State<Shared>) -> Response {
    // Both take locks and read files of /proc: not on a thread that serves records.
    let render = move || shared.metrics.render() + &process_metrics();
    match tokio::task::spawn_blocking(render).await {
        Ok(text) => {
            let kind = (header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8");
            closing(([kind], text))
        }
        Err(_) => closing((StatusCode::INTERNAL_SERVER_ERROR, "metrics failed\n")),
    }
}

async fn readyz(State(shared): State<Shared>) -> Response {
    let answer = shared.readiness.readiness();
    let status = if answer.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    closing((status, Json(answer)))
}

/// One request per connection: see the module.
fn closing(answer: impl IntoResponse) -> Response {
    let mut answer = answer.into_response();
    answer.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("close"));
    answer
}

/// All of a connection must be over in time, so no number of bytes lifts its deadline.
struct HttpListener(Connections);

impl Listener for HttpListener {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        self.0.accept().await
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use metrics_exporter_prometheus::PrometheusBuilder;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    struct Switch(AtomicBool);

    impl Readiness for Switch {
        fn readiness(&self) -> Ready {
            match self.0.load(Ordering::Relaxed) {
                true => Ready { ready: true, reasons: Vec::new() },
                false => Ready { ready: false, reasons: vec!["recovering \"t\" 3".into()] },
            }
        }
    }

    async fn start(bounds: Bounds) -> (HttpServer, Arc<Switch>) {
        let switch = Arc::new(Switch(AtomicBool::new(false)));
        let handle = PrometheusBuilder::new().build_recorder().handle();
        let addr = SocketAddr::from(([127, 0, 0, 1], 0));
        let server = HttpServer::start_bounded(addr, handle, switch.clone(), bounds).await;
        (server.unwrap(), switch)
    }

    async fn ask(addr: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        // Ends because the server closes after one answer.
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn answers_each_path_and_closes() {
        let (server, switch) = start(BOUNDS).await;
        let waiting = ask(server.addr(), "/readyz").await;
        assert!(waiting.starts_with("HTTP/1.1 503 "), "{waiting}");
        assert!(waiting.ends_with(r#"{"ready":false,"reasons":["recovering \"t\" 3"]}"#));
        switch.0.store(true, Ordering::Relaxed);
        assert!(ask(server.addr(), "/readyz").await.starts_with("HTTP/1.1 200 "));
        assert!(ask(server.addr(), "/healthz").await.starts_with("HTTP/1.1 200 "));
        assert!(ask(server.addr(), "/nothing").await.starts_with("HTTP/1.1 404 "));
        assert!(ask(server.addr(), "/metrics").await.contains("process_resident_memory_bytes "));
        server.shutdown(Duration::from_secs(5)).await;
    }

    /// Silent connections take all room; their deadline gives it back.
    #[tokio::test]
    async fn silent_connections_end_at_the_deadline() {
        let bounds = Bounds { connections: 2, deadline: Duration::from_millis(500) };
        let (server, _) = start(bounds).await;
        let mut silent = Vec::new();
        for _ in 0..bounds.connections {
            silent.push(TcpStream::connect(server.addr()).await.unwrap());
        }
        assert!(ask(server.addr(), "/healthz").await.starts_with("HTTP/1.1 200 "));
        for stream in &mut silent {
            assert_eq!(stream.read(&mut [0; 16]).await.unwrap_or(0), 0, "closed, no answer");
        }
    }

    #[tokio::test]
    async fn shutdown_frees_the_address() {
        let (server, _) = start(BOUNDS).await;
        let addr = server.addr();
        server.shutdown(Duration::from_secs(5)).await;
        TcpListener::bind(addr).await.unwrap();
    }
}
