//! An S3 server in the test's process that misbehaves on demand.
//!
//! Speaks what the store sends: conditional PUT, ranged GET, HEAD, LIST in pages, bulk DELETE,
//! multipart uploads. Objects are in memory; a create has exactly one winner, unless the server is
//! told to ignore conditions. Signatures are not checked; the name of the key, the token of a
//! temporary one, and hashes and checksums of bodies are. Speaks TLS with a certificate of its own,
//! and gives keys to web identities.

mod integrity;
mod objects;
mod request;
mod sts;
mod tls;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use objects::Objects;
pub use request::Op;
use request::{Answer, Body, Operation, error, operation};
pub use sts::WEB_TOKEN;
use tls::Tls;

const ACCESS_KEY: &str = "levee-test";

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is done, this status is answered.
    Status(u16),
    /// It is done, this status is answered.
    StatusAfter(u16),
    /// Nothing is done, the connection ends.
    Cut,
    /// It is done, the connection ends: a lost reply.
    CutAfter,
    /// It is done after so long.
    Slow(Duration),
    /// The answer's body ends in its middle.
    Torn,
    /// One bit of the answer's body is wrong.
    Flipped,
    /// No answer, ever.
    Hang,
    /// It is done, and there is no answer, ever.
    HangAfter,
    /// An error now; it is done so much later, whatever happened meanwhile.
    Ghost(Duration),
}

/// Which requests meet a fault.
#[derive(Debug, Clone)]
pub struct Rule {
    pub op: Op,
    /// Part of the key.
    pub key: String,
    /// Every so many matching requests; 1 for all.
    pub every: u64,
    /// So many times at most.
    pub times: u64,
    pub fault: Fault,
}

impl Rule {
    /// Every request of this kind.
    pub fn all(op: Op, fault: Fault) -> Self {
        Self { op, key: String::new(), every: 1, times: u64::MAX, fault }
    }

    /// The next one only.
    pub fn next(op: Op, fault: Fault) -> Self {
        Self { times: 1, ..Self::all(op, fault) }
    }

    pub fn on(self, key: &str) -> Self {
        Self { key: key.into(), ..self }
    }

    pub fn every(self, every: u64) -> Self {
        Self { every, ..self }
    }
}

#[derive(Default)]
struct Shared {
    objects: Mutex<Objects>,
    /// With how many requests each has matched.
    rules: Mutex<Vec<(Rule, u64)>>,
    offline: AtomicBool,
    read_only: AtomicBool,
    requests: AtomicU64,
    /// The newest request of each kind.
    last: Mutex<Vec<(Op, Sent)>>,
    /// What it calls itself.
    name: Mutex<String>,
}

/// What came with a request.
#[derive(Debug, Clone)]
pub struct Sent {
    /// With the bucket, as it stood in the request.
    pub path: String,
    headers: HeaderMap,
}

impl Sent {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// A running server; ends when dropped.
pub struct FakeS3 {
    addr: SocketAddr,
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
    tls: Option<Tls>,
}

impl FakeS3 {
    pub async fn start() -> Self {
        Self::start_with(None).await
    }

    /// With TLS, and a certificate that nobody trusts unless told.
    pub async fn start_tls() -> Self {
        Self::start_with(Some(Tls::new())).await
    }

    async fn start_with(tls: Option<Tls>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("its address");
        let shared = Arc::new(Shared::default());
        "FakeS3".clone_into(&mut shared.name.lock());
        let acceptor = tls.as_ref().map(Tls::acceptor);
        let task = tokio::spawn(serve(listener, acceptor, shared.clone()));
        Self { addr, shared, task, tls }
    }

    /// `http://HOST:PORT`.
    pub fn endpoint(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.addr)
    }

    /// The certificate that signed this server's, as file.
    pub fn ca_file(&self) -> String {
        self.tls.as_ref().expect("started with TLS").ca_file()
    }

    /// Where web identities get their keys.
    pub fn sts(&self) -> String {
        format!("{}/sts", self.endpoint())
    }

    /// The newest request of a kind.
    pub fn last(&self, op: Op) -> Sent {
        let last = self.shared.last.lock();
        let found = last.iter().find(|(of, _)| *of == op);
        found.map(|(_, sent)| sent.clone()).expect("such a request came")
    }

    /// What its answers say in `Server`.
    pub fn call_it(&self, name: &str) {
        name.clone_into(&mut self.shared.name.lock());
    }

    /// Below `prefix` of a bucket.
    pub fn url(&self, prefix: &str) -> String {
        self.url_with(prefix, ACCESS_KEY)
    }

    /// With credentials of one's own.
    pub fn url_with(&self, prefix: &str, access_key: &str) -> String {
        format!(
            "{}&access_key_id={access_key}&secret_access_key=kept-secret",
            self.bare_url(prefix)
        )
    }

    /// Without credentials.
    pub fn bare_url(&self, prefix: &str) -> String {
        let trust = match &self.tls {
            None => "allow_http=true".to_owned(),
            Some(tls) => format!("ca_file={}", tls.ca_file()),
        };
        let endpoint = self.endpoint();
        format!("s3://bucket/{prefix}?endpoint={endpoint}&{trust}&region=us-east-1")
    }

    pub fn add(&self, rule: Rule) {
        self.shared.rules.lock().push((rule, 0));
    }

    /// No more faults.
    pub fn heal(&self) {
        self.shared.rules.lock().clear();
        self.offline(false);
        self.read_only(false);
    }

    /// Every connection ends without an answer.
    pub fn offline(&self, offline: bool) {
        self.shared.offline.store(offline, Ordering::SeqCst);
    }

    /// Writes and deletes are denied.
    pub fn read_only(&self, read_only: bool) {
        self.shared.read_only.store(read_only, Ordering::SeqCst);
    }

    /// A store that Levee must refuse.
    pub fn ignore_conditions(&self) {
        self.shared.objects.lock().ignores_conditions = true;
    }

    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::SeqCst)
    }

    /// Keys that contain `part`, without the bucket.
    pub fn keys(&self, part: &str) -> Vec<String> {
        self.shared.objects.lock().keys(part)
    }

    /// Flips one bit of an object as it is stored.
    pub fn damage(&self, key: &str, at: usize) {
        self.shared.objects.lock().flip(key, at);
    }
}

impl Drop for FakeS3 {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, shared: Arc<Shared>) {
    // Ends with this task, and with it every connection.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { return };
        connections.spawn(accept(stream, tls.clone(), shared.clone()));
        while connections.try_join_next().is_some() {}
    }
}

async fn accept(stream: TcpStream, tls: Option<TlsAcceptor>, shared: Arc<Shared>) {
    match tls {
        None => connection(stream, shared).await,
        Some(tls) => {
            if let Ok(stream) = tls.accept(stream).await {
                connection(stream, shared).await;
            }
        }
    }
}

async fn connection<S>(stream: S, shared: Arc<Shared>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let service = service_fn(|request| handle(request, shared.clone()));
    // An error is how a connection is cut.
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn handle(request: Request<Incoming>, shared: Arc<Shared>) -> Answer {
    shared.requests.fetch_add(1, Ordering::SeqCst);
    if shared.offline.load(Ordering::SeqCst) {
        return Err(std::io::Error::other("offline"));
    }
    let operation = operation(request).await?;
    let name = shared.name.lock().parse().expect("a header");
    let mut answer = answer_to(operation, shared).await?;
    answer.headers_mut().insert("server", name);
    Ok(answer)
}

async fn answer_to(operation: Operation, shared: Arc<Shared>) -> Answer {
    if operation.asks("Action").is_some() {
        return Ok(sts::answer_to(&operation));
    }
    shared.note(&operation);
    if !operation.signed_by(ACCESS_KEY) && !sts::signed(&operation) {
        return Ok(error(403, "InvalidAccessKeyId", "no such access key"));
    }
    if let Err(what) = integrity::check(&operation) {
        return Ok(error(400, "BadDigest", &what));
    }
    if operation.op.writes() && shared.read_only.load(Ordering::SeqCst) {
        return Ok(error(403, "AccessDenied", "this bucket is read-only"));
    }
    let fault = shared.fault_of(operation.op, &operation.key);
    let apply = || shared.objects.lock().apply(&operation);
    match fault {
        None => Ok(apply()),
        Some(Fault::Status(status)) => Ok(error(status, code(status), "as the test wants")),
        Some(Fault::StatusAfter(status)) => {
            apply();
            Ok(error(status, code(status), "as the test wants"))
        }
        Some(Fault::Cut) => Err(std::io::Error::other("cut")),
        Some(Fault::CutAfter) => {
            apply();
            Err(std::io::Error::other("cut"))
        }
        Some(Fault::Slow(delay)) => {
            tokio::time::sleep(delay).await;
            Ok(apply())
        }
        Some(Fault::Torn) => Ok(changed(apply(), Body::torn)),
        Some(Fault::Flipped) => Ok(changed(apply(), Body::flipped)),
        Some(Fault::Hang) => std::future::pending().await,
        Some(Fault::HangAfter) => {
            apply();
            std::future::pending().await
        }
        Some(Fault::Ghost(delay)) => {
            let late = shared.clone();
            tokio::spawn(async move {
                tokio::time::sleep(delay).await;
                late.objects.lock().apply(&operation);
            });
            Ok(error(500, "InternalError", "as the test wants"))
        }
    }
}

fn changed(answer: Response<Body>, change: fn(Bytes) -> Body) -> Response<Body> {
    answer.map(|body| change(body.whole()))
}

fn code(status: u16) -> &'static str {
    match status {
        403 => "AccessDenied",
        404 => "NoSuchBucket",
        501 => "NotImplemented",
        409 => "ConditionalRequestConflict",
        412 => "PreconditionFailed",
        429 => "TooManyRequests",
        503 => "SlowDown",
        _ => "InternalError",
    }
}

impl Shared {
    fn note(&self, operation: &Operation) {
        let (path, headers) = (operation.path.clone(), operation.headers.clone());
        let mut last = self.last.lock();
        last.retain(|(op, _)| *op != operation.op);
        last.push((operation.op, Sent { path, headers }));
    }

    fn fault_of(&self, op: Op, key: &str) -> Option<Fault> {
        let mut rules = self.rules.lock();
        let meets = |rule: &Rule| rule.op == op && rule.times > 0 && key.contains(&rule.key);
        let (rule, seen) = rules.iter_mut().find(|(rule, _)| meets(rule))?;
        *seen += 1;
        if !seen.is_multiple_of(rule.every) {
            return None;
        }
        rule.times -= 1;
        Some(rule.fault)
    }
}
