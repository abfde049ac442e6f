//! A broker of a few lines behind a real socket: keeps what is appended, judges sequences as a
//! broker does, and makes the trouble that a test asks for.

#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, unreachable_pub, reason = "a part of tests")]

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures::Stream;
use levee_client::grpc::list_offsets_request::At;
use levee_client::grpc::log_server::{Log, LogServer};
use levee_client::grpc::*;
use levee_proto::record::batch::{check, sequence_add};
use levee_proto::record::records::{DecodedRecord, decode_records};
use levee_proto::record::{BatchHeader, StoredBatch};
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

/// What happens to one append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Append {
    Good,
    /// Not written; may be tried again.
    Stalled,
    /// Written, but the answer says that nobody knows.
    WrittenTimedOut,
    /// Judged as any other, but the answer never comes.
    Unanswered,
    /// Not written, and will not be.
    TooLarge,
    /// The stream ends with the word that it is too large: it was not even looked at.
    RefuseStream,
    /// The stream breaks before it is written.
    BreakBefore,
    /// The stream breaks after it is written, before the answer.
    BreakAfter,
    /// The stream ends without a status of its own.
    EndBefore,
    /// All producers are forgotten before it is looked at.
    Forget,
    Slow,
}

/// What happens to one answer of a read stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    Good,
    Break,
    End,
    /// No answer and no sign of life.
    Silent,
    Corrupt,
    NotLeader,
}

#[derive(Default)]
pub struct Model {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    partitions: BTreeMap<u32, Partition>,
    appends: VecDeque<Append>,
    reads: VecDeque<Read>,
    next_producer: i64,
    streams: usize,
}

#[derive(Default)]
struct Partition {
    batches: Vec<Bytes>,
    end: u64,
    /// Per producer: batches as (first sequence, last sequence, base offset), at most five.
    producers: BTreeMap<i64, VecDeque<(i32, i32, u64)>>,
}

impl Model {
    pub fn new(appends: &[Append], reads: &[Read]) -> Arc<Self> {
        let (appends, reads) = (appends.iter().copied().collect(), reads.iter().copied().collect());
        let state = State { appends, reads, next_producer: 100, ..State::default() };
        Arc::new(Self { state: Mutex::new(state) })
    }

    pub fn records(&self, partition: u32) -> Vec<DecodedRecord> {
        let state = self.state.lock().unwrap();
        let batches = state.partitions.get(&partition).map(|p| p.batches.clone());
        batches.unwrap_or_default().iter().flat_map(|b| decode_records(b).unwrap()).collect()
    }

    pub fn batches(&self, partition: u32) -> usize {
        self.state.lock().unwrap().partitions.get(&partition).map_or(0, |p| p.batches.len())
    }

    pub fn trouble_left(&self) -> usize {
        let state = self.state.lock().unwrap();
        state.appends.len() + state.reads.len()
    }

    pub fn streams(&self) -> usize {
        self.state.lock().unwrap().streams
    }

    pub fn producers_given(&self) -> i64 {
        self.state.lock().unwrap().next_producer - 100
    }

    pub fn append_now(&self, partition: u32, batch: &Bytes) {
        self.state.lock().unwrap().append(partition, batch, check(batch).unwrap()).unwrap();
    }

    fn step(&self, request: &AppendRequest) -> Result<(AppendResponse, Append), Status> {
        let mut state = self.state.lock().unwrap();
        let step = state.appends.pop_front().unwrap_or(Append::Good);
        let broken = || Status::unavailable("scripted break");
        let refused = |code: ErrorCode, retriable, may_be_written| {
            let message = "scripted".to_owned();
            let error = ErrorDetail {
                code: code.into(),
                message,
                retriable,
                may_be_written,
                ..Default::default()
            };
            AppendResponse { id: request.id, error: Some(error), ..Default::default() }
        };
        match step {
            Append::Stalled => return Ok((refused(ErrorCode::Stalled, true, false), step)),
            Append::TooLarge => return Ok((refused(ErrorCode::BatchTooLarge, false, false), step)),
            Append::RefuseStream => {
                let code = ErrorCode::BatchTooLarge.into();
                let detail = ErrorDetail { code, ..Default::default() }.encode_to_vec();
                let code = tonic::Code::InvalidArgument;
                return Err(Status::with_details(code, "scripted", detail.into()));
            }
            Append::BreakBefore | Append::EndBefore => return Err(broken()),
            Append::Forget => state.partitions.values_mut().for_each(|p| p.producers.clear()),
            _ => {}
        }
        let header = check(&request.batch).expect("a client sends right crcs");
        let answer = match state.append(request.partition, &request.batch, header) {
            Ok((base_offset, duplicate)) => AppendResponse {
                id: request.id,
                base_offset,
                end_offset: base_offset + u64::from(header.last_offset_delta) + 1,
                duplicate,
                ..Default::default()
            },
            Err(code) => refused(code, false, false),
        };
        match step {
            Append::BreakAfter => Err(broken()),
            Append::WrittenTimedOut => Ok((refused(ErrorCode::TimedOut, true, true), step)),
            _ => Ok((answer, step)),
        }
    }
}

impl State {
    /// As a broker: duplicates are told their place, an unknown producer begins at sequence 0.
    fn append(
        &mut self,
        partition: u32,
        batch: &Bytes,
        header: BatchHeader,
    ) -> Result<(u64, bool), ErrorCode> {
        let partition = self.partitions.entry(partition).or_default();
        let span = (header.base_sequence, header.last_sequence());
        if header.is_idempotent() {
            if header.base_sequence > 0 && !partition.producers.contains_key(&header.producer_id) {
                return Err(ErrorCode::UnknownProducer);
            }
            let known = partition.producers.entry(header.producer_id).or_default();
            if let Some(found) = known.iter().find(|b| (b.0, b.1) == span) {
                return Ok((found.2, true));
            }
            if known.back().map_or(0, |last| sequence_add(last.1, 1)) != span.0 {
                return Err(ErrorCode::OutOfOrderSequence);
            }
            known.push_back((span.0, span.1, partition.end));
            if known.len() > 5 {
                known.pop_front();
            }
        }
        let stored = StoredBatch::stamp(batch, header, partition.end, 1);
        partition.batches.push(stored.to_bytes());
        let base = partition.end;
        partition.end = stored.header.end_offset();
        Ok((base, false))
    }
}

struct Service(Arc<Model>);

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Log for Service {
    type AppendStreamStream = Answers<AppendResponse>;
    type ReadStreamStream = Answers<ReadResponse>;

    async fn append_stream(
        &self,
        request: Request<Streaming<AppendRequest>>,
    ) -> Result<Response<Self::AppendStreamStream>, Status> {
        let (model, mut requests) = (self.0.clone(), request.into_inner());
        model.state.lock().unwrap().streams += 1;
        let (answers, outgoing) = mpsc::channel(16);
        tokio::spawn(async move {
            while let Ok(Some(request)) = requests.message().await {
                let ends = model.state.lock().unwrap().appends.front() == Some(&Append::EndBefore);
                let step = model.step(&request);
                if ends {
                    return;
                }
                let (answer, step) = match step {
                    Ok((answer, step)) => (Ok(answer), step),
                    Err(status) => (Err(status), Append::Good),
                };
                if step == Append::Slow {
                    tokio::time::sleep(Duration::from_millis(30)).await;
                }
                if step == Append::Unanswered {
                    continue;
                }
                let breaks = answer.is_err();
                if answers.send(answer).await.is_err() || breaks {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing))))
    }

    async fn read_stream(
        &self,
        request: Request<Streaming<ReadStreamRequest>>,
    ) -> Result<Response<Self::ReadStreamStream>, Status> {
        let (model, mut requests) = (self.0.clone(), request.into_inner());
        model.state.lock().unwrap().streams += 1;
        let first = requests.message().await?.expect("a first message");
        let (answers, outgoing) = mpsc::channel(1);
        tokio::spawn(read_stream(model, first, requests, answers));
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing))))
    }

    async fn list_offsets(
        &self,
        request: Request<ListOffsetsRequest>,
    ) -> Result<Response<ListOffsetsResponse>, Status> {
        let request = request.into_inner();
        let state = self.0.state.lock().unwrap();
        let end = state.partitions.get(&request.partition).map_or(0, |p| p.end);
        let offset = match request.at {
            Some(At::Start(_)) => Some(0),
            Some(At::End(_)) => Some(end),
            _ => None,
        };
        Ok(Response::new(ListOffsetsResponse { offset, ..Default::default() }))
    }

    async fn init_producer(
        &self,
        _: Request<InitProducerRequest>,
    ) -> Result<Response<InitProducerResponse>, Status> {
        let mut state = self.0.state.lock().unwrap();
        state.next_producer += 1;
        let producer_id = state.next_producer;
        Ok(Response::new(InitProducerResponse { producer_id, producer_epoch: 0 }))
    }

    async fn append(&self, _: Request<AppendRequest>) -> Result<Response<AppendResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn read(&self, _: Request<ReadRequest>) -> Result<Response<ReadResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }
}

async fn read_stream(
    model: Arc<Model>,
    first: ReadStreamRequest,
    mut requests: Streaming<ReadStreamRequest>,
    answers: mpsc::Sender<Result<ReadResponse, Status>>,
) {
    let start = first.start.expect("the first message names what to read");
    let (mut credit, mut offset) = (first.credit_bytes, start.offset);
    let heartbeat = Duration::from_millis(u64::from(first.heartbeat_ms));
    loop {
        let (answer, step) = {
            let mut state = model.state.lock().unwrap();
            let step = state.reads.pop_front().unwrap_or(Read::Good);
            (state.answer(&start, offset, credit), step)
        };
        let answer = match step {
            Read::Good => Ok(answer),
            Read::Break => Err(Status::unavailable("scripted break")),
            Read::End => return,
            Read::Silent => std::future::pending().await,
            Read::Corrupt => {
                let mut bytes = BytesMut::from(&answer.batches[..]);
                if let Some(last) = bytes.last_mut() {
                    *last ^= 1;
                }
                Ok(ReadResponse { batches: bytes.freeze(), ..answer })
            }
            Read::NotLeader => {
                let code = ErrorCode::NotLeader.into();
                let error = ErrorDetail { code, retriable: true, ..Default::default() };
                Ok(ReadResponse { error: Some(error), ..Default::default() })
            }
        };
        let (sent, ends) = match &answer {
            Ok(answer) => (answer.batches.len() as u64, answer.error.is_some()),
            Err(_) => (0, true),
        };
        offset = answer.as_ref().map_or(offset, |answer| offset.max(answer.next_offset));
        if answers.send(answer).await.is_err() || ends {
            return;
        }
        credit = credit.saturating_sub(sent);
        let wait = if sent == 0 { heartbeat } else { Duration::ZERO };
        // Out of credit: only a grant or the heartbeat goes on.
        match tokio::time::timeout(wait.max(Duration::from_millis(1)), requests.message()).await {
            Ok(Ok(Some(more))) => credit += more.credit_bytes,
            Ok(_) => return,
            Err(_) => {}
        }
    }
}

impl State {
    /// Up to two batches, the first of which may begin below the offset.
    fn answer(&self, start: &ReadRequest, offset: u64, credit: u64) -> ReadResponse {
        let mut batches = BytesMut::new();
        let mut next_offset = offset;
        let none = Partition::default();
        let partition = self.partitions.get(&start.partition).unwrap_or(&none);
        for batch in &partition.batches {
            let header = BatchHeader::decode(batch).unwrap();
            let fits = (batches.len() + batch.len()) as u64 <= credit;
            if header.end_offset() > offset && fits && batches.len() < 4000 {
                batches.put_slice(batch);
                next_offset = header.end_offset();
            } else if header.end_offset() > offset {
                break;
            }
        }
        let high_watermark = partition.end;
        ReadResponse {
            batches: batches.freeze(),
            next_offset,
            high_watermark,
            ..Default::default()
        }
    }
}

/// The model behind a socket; a runtime of its own, so that it can die at once.
pub struct Server {
    runtime: Option<tokio::runtime::Runtime>,
    pub address: String,
}

impl Server {
    pub fn start(model: &Arc<Model>) -> Self {
        Self::start_at(model, "127.0.0.1:0")
    }

    pub fn start_at(model: &Arc<Model>, address: &str) -> Self {
        let listener = std::net::TcpListener::bind(address).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let service = LogServer::new(Service(model.clone()));
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let incoming = TcpListenerStream::new(listener);
            let server = tonic::transport::Server::builder().add_service(service);
            server.serve_with_incoming(incoming).await.unwrap();
        });
        Self { runtime: Some(runtime), address }
    }

    /// All sockets close at once, in the middle of whatever they do.
    pub fn kill(mut self) -> String {
        self.end();
        self.address.clone()
    }

    fn end(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}
