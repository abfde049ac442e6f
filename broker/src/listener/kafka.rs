//! The Kafka listener: sockets, frames, the order of answers.
//!
//! Owns: connections, their bounds and deadlines, answering in the order of requests. Does not own:
//! what a request does (`crate::kafka`).
//!
//! ```text
//! read: length -> room -> bytes -> Kafka::begin -> [queue of answers, in order] -> write: await, pieces
//! ```

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

use super::connections::{Connection, Connections};
use crate::coordinator::Coordinators;
use crate::kafka::{Answer, Answered, Broken, Client, Kafka};
use crate::node::Node;

/// Requests of one connection that may be under way.
const IN_FLIGHT: usize = 64;
/// Smaller requests need no room, so that heartbeats never wait for appends.
const SMALL_BYTES: usize = 16 << 10;
/// What stands around the batches of a request.
const ENVELOPE_BYTES: usize = 1 << 20;
/// How long a request may wait for room, and the least that it may take to arrive.
const ROOM_TIME: Duration = Duration::from_secs(30);
const ARRIVAL_TIME: Duration = Duration::from_secs(10);
/// The slowest line that a large request still gets through.
const SLOW_BYTES_PER_SECOND: u64 = 1 << 20;
/// The first request must come within this time; so many bytes are its fixed part.
const GREETING_TIME: Duration = Duration::from_secs(10);
const GREETING_BYTES: usize = 4 + levee_kafka::frame::FIXED_BYTES;
/// A client that takes nothing of an answer for so long is let go.
const WRITE_TIME: Duration = Duration::from_secs(60);
/// Pieces of one write: a batch is two.
const PIECES: usize = 256;
/// Between the reads of small requests.
const READ_BUFFER: usize = 8 << 10;

/// A running listener.
pub struct KafkaServer {
    addr: SocketAddr,
    stop: watch::Sender<bool>,
    serving: JoinHandle<()>,
}

impl KafkaServer {
    pub fn start(
        listener: TcpListener,
        node: Arc<Node>,
        coordinators: Arc<Coordinators>,
    ) -> io::Result<Self> {
        let addr = listener.local_addr()?;
        let most = node.config.connections_max as usize;
        let connections = Connections::new(listener, most, GREETING_TIME, GREETING_BYTES);
        let shared = Arc::new(Shared {
            room: Arc::new(Semaphore::new(node.config.request_bytes as usize)),
            request_max: node.config.max_batch_bytes as usize + ENVELOPE_BYTES,
            idle: node.config.kafka_idle_timeout,
            kafka: Kafka::new(node, coordinators),
        });
        let (stop, stopped) = watch::channel(false);
        let serving = tokio::spawn(accept(connections, shared, stopped));
        Ok(Self { addr, stop, serving })
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Takes no more connections and requests, and waits up to `limit` for those under way.
    pub async fn shutdown(mut self, limit: Duration) {
        self.stop.send_replace(true);
        if tokio::time::timeout(limit, &mut self.serving).await.is_err() {
            self.serving.abort();
        }
    }
}

struct Shared {
    kafka: Kafka,
    room: Arc<Semaphore>,
    request_max: usize,
    idle: Duration,
}

async fn accept(connections: Connections, shared: Arc<Shared>, stopped: watch::Receiver<bool>) {
    // Those that are open end with this task.
    let mut open = JoinSet::new();
    let mut stop = stopped.clone();
    loop {
        tokio::select! {
            biased;
            _ = stop.wait_for(|stopped| *stopped) => break,
            _ = open.join_next(), if !open.is_empty() => {}
            (connection, peer) = connections.accept() => {
                open.spawn(serve(connection, peer, shared.clone(), stopped.clone()));
            }
        }
    }
    while open.join_next().await.is_some() {}
}

/// One connection, until it ends.
async fn serve(
    connection: Connection,
    peer: SocketAddr,
    shared: Arc<Shared>,
    stopped: watch::Receiver<bool>,
) {
    let Ok(local) = connection.local_addr() else { return };
    let (read, write) = tokio::io::split(connection);
    let (answers, queue) = mpsc::channel(IN_FLIGHT);
    let client = Arc::new(Client::new(peer, local, shared.kafka.coordinators.connected()));
    let reading =
        requests(BufReader::with_capacity(READ_BUFFER, read), &shared, client, answers, stopped);
    let writing = write_answers(write, queue);
    tokio::pin!(reading, writing);
    // Reading may end first: what is under way is still answered. Writing that ends ends all.
    let why = tokio::select! {
        biased;
        why = &mut writing => why,
        why = &mut reading => match writing.await {
            Ok(()) => why,
            failed => failed,
        },
    };
    metrics::counter!("levee_kafka_connections_closed_total").increment(1);
    match why {
        Ok(()) => tracing::debug!(%peer, "connection closed"),
        Err(why) => tracing::debug!(%peer, %why, "connection closed"),
    }
}

type Queue = mpsc::Sender<Answer>;

/// Reads requests and begins them, until the client ends or breaks the protocol.
async fn requests<R: AsyncRead + Unpin>(
    mut read: R,
    shared: &Arc<Shared>,
    client: Arc<Client>,
    answers: Queue,
    mut stopped: watch::Receiver<bool>,
) -> Result<(), Broken> {
    loop {
        let length = tokio::select! {
            biased;
            _ = stopped.wait_for(|stopped| *stopped) => return Ok(()),
            length = tokio::time::timeout(shared.idle, read.read_i32()) => length,
        };
        let length = match length {
            Ok(Ok(length)) => length,
            Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => return Err(Broken::Idle),
        };
        let length = match usize::try_from(length) {
            Ok(length)
                if (levee_kafka::frame::FIXED_BYTES..=shared.request_max).contains(&length) =>
            {
                length
            }
            _ => return Err(Broken::Length(length, shared.request_max)),
        };
        let room = match length {
            small if small <= SMALL_BYTES => None,
            large => {
                let room = shared.room.clone().acquire_many_owned(large as u32);
                match tokio::time::timeout(ROOM_TIME, room).await {
                    Ok(Ok(room)) => Some(room),
                    _ => return Err(Broken::NoRoom(length)),
                }
            }
        };
        let slowest = Duration::from_secs(length as u64 / SLOW_BYTES_PER_SECOND);
        let frame = tokio::time::timeout(ARRIVAL_TIME + slowest, body(&mut read, length));
        let frame = frame.await.map_err(|_| Broken::Slow(length))??;
        let answer = shared.kafka.begin(&client, frame, room).await?;
        // The writer has ended: so has the client.
        if answers.send(answer).await.is_err() {
            return Ok(());
        }
    }
}

async fn body<R: AsyncRead + Unpin>(read: &mut R, length: usize) -> io::Result<Bytes> {
    let mut bytes = BytesMut::with_capacity(length);
    let mut part = read.take(length as u64);
    while bytes.len() < length {
        if part.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(bytes.freeze())
}

/// Awaits answers in the order of their requests, and writes them.
async fn write_answers<W: AsyncWrite + Unpin>(
    mut write: W,
    mut queue: mpsc::Receiver<Answer>,
) -> Result<(), Broken> {
    while let Some(answer) = queue.recv().await {
        let Answered { pieces, room, then_close } = answer.await?;
        write_pieces(&mut write, pieces).await?;
        drop(room);
        if let Some(why) = then_close {
            return Err(why);
        }
    }
    Ok(())
}

async fn write_pieces<W: AsyncWrite + Unpin>(
    write: &mut W,
    mut pieces: Vec<Bytes>,
) -> Result<(), Broken> {
    let mut first = 0;
    while first < pieces.len() {
        let slices: Vec<io::IoSlice<'_>> =
            pieces[first..].iter().take(PIECES).map(|piece| io::IoSlice::new(piece)).collect();
        let written = tokio::time::timeout(WRITE_TIME, write.write_vectored(&slices)).await;
        let mut written = match written {
            Ok(Ok(0)) => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
            Ok(written) => written?,
            Err(_) => return Err(Broken::NotTaken),
        };
        while first < pieces.len() && written >= pieces[first].len() {
            written -= pieces[first].len();
            // What is written need not wait for the rest.
            pieces[first] = Bytes::new();
            first += 1;
        }
        if written > 0 {
            pieces[first].advance(written);
        }
    }
    Ok(())
}
