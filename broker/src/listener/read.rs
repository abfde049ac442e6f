//! Reads by gRPC: one answer, or a stream paid for by credits.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use levee_proto::FormatError;
use levee_proto::grpc::{
    AbortedTransaction, Header, ReadRequest, ReadResponse, ReadStreamRequest, Record,
};
use levee_proto::object::{Aborted, AbortedTxn};
use levee_proto::record::BatchHeader;
use levee_proto::record::batch::check_run;
use levee_proto::record::records::{DecodedRecord, Records};
use levee_tiering::remote::ReadAhead;
use tokio::sync::{Semaphore, mpsc, watch};
use tonic::{Status, Streaming};

use super::answers::{Answer, Answers};
use crate::error::{Error, Result};
use crate::fetch::{Fetch, Fetched, Isolation};
use crate::node::Node;
use crate::partition::Partition;

const DEFAULT_BYTES: usize = 1 << 20;
/// Largest answer; one whole batch is sent even where it is larger.
const BYTES_MAX: usize = 16 << 20;
/// Memory for the decoded records of an answer, and for those of its first batch alone.
const DECODED_BYTES: usize = 16 << 20;
const FIRST_DECODED_BYTES: usize = 96 << 20;
/// Answers from this size on are decoded beside everything else, and so many of them at a time:
/// each takes memory and a processor.
const DECODE_BESIDE: usize = 64 << 10;
static DECODERS: Semaphore = Semaphore::const_new(2);
const WAIT_MAX: Duration = Duration::from_secs(300);
const DEFAULT_HEARTBEAT: Duration = Duration::from_secs(5);
const HEARTBEAT_MIN: Duration = Duration::from_millis(20);
/// Answers of a stream that are made before the client takes them.
const AHEAD: usize = 2;

/// One read.
pub(super) async fn read(node: &Node, request: &ReadRequest) -> Result<Answer> {
    let partition = node.partition(&request.topic, request.partition)?;
    let wait = Duration::from_millis(request.max_wait_ms.into()).min(WAIT_MAX);
    let min_bytes = request.min_bytes as usize;
    let isolation = isolation(request.isolation)?;
    let (offset, max_bytes) = (request.offset, size(request));
    let fetch = Fetch { offset, max_bytes, min_bytes, wait, isolation };
    // It may wait, and then it has as much time as any other request.
    let limit = wait + node.config.request_timeout;
    let answer = answer(node, &partition, fetch, request.decode, None);
    let late = |_| Err(Error::timed_out("the read", limit.as_millis() as u64));
    node.host.timeout(limit, answer).await.unwrap_or_else(late)
}

/// How long an answer waits for room. Then a small one (or one batch) is made without: clients that
/// take nothing slow the others down, and stop nobody.
const ROOM_LIMIT: Duration = Duration::from_secs(3);
const SMALL_BYTES: usize = 64 << 10;

/// Reads and answers. Where there is no room for the answer it goes, and is made again when there
/// is: who waits holds no memory.
async fn answer(
    node: &Node,
    partition: &Partition,
    mut fetch: Fetch,
    decode: bool,
    ahead: Option<&ReadAhead>,
) -> Result<Answer> {
    let (mut held, mut is_small) = (None, false);
    loop {
        let found = node.fetch_ahead(partition, &fetch, ahead).await?;
        let bytes = found.batches.len();
        let (response, wanted) = response(found, decode, fetch.offset).await?;
        if bytes == 0 {
            return Ok(Answer::small(response));
        }
        let room = node.answers.take(wanted, held.take());
        if room.is_some() || is_small {
            return Ok(Answer { response, bytes, room });
        }
        drop(response);
        held = node.host.timeout(ROOM_LIMIT, node.answers.wait(wanted)).await.ok().flatten();
        is_small = held.is_none();
        // No more than there is room for now.
        let max_bytes = if is_small { bytes.min(SMALL_BYTES) } else { bytes };
        fetch = Fetch { max_bytes, min_bytes: 1, wait: Duration::ZERO, ..fetch };
    }
}

fn size(request: &ReadRequest) -> usize {
    match request.max_bytes as usize {
        0 => DEFAULT_BYTES,
        bytes => bytes.min(BYTES_MAX),
    }
}

/// What a request says of it.
pub(super) fn isolation(asked: i32) -> Result<Isolation> {
    match levee_proto::grpc::Isolation::try_from(asked) {
        Ok(levee_proto::grpc::Isolation::ReadUncommitted) => Ok(Isolation::ReadUncommitted),
        Ok(levee_proto::grpc::Isolation::ReadCommitted) => Ok(Isolation::ReadCommitted),
        Err(_) => {
            let why = format!("isolation {asked}: 0 (uncommitted) and 1 (committed) are known");
            Err(Error::invalid_argument(why))
        }
    }
}

/// With the memory that it takes, bytes.
async fn response(found: Fetched, decode: bool, offset: u64) -> Result<(ReadResponse, usize)> {
    let mut response = ReadResponse {
        last_stable_offset: found.last_stable_offset,
        next_offset: found.next_offset,
        high_watermark: found.high_watermark,
        log_start: found.log_start,
        source: found.from.name().to_owned(),
        ..Default::default()
    };
    if !decode {
        let bytes = found.batches.len() + found.aborted.len() * size_of::<AbortedTransaction>();
        response.batches = found.batches.into_bytes();
        response.aborted = found.aborted.into_iter().map(named).collect();
        return Ok((response, bytes));
    }
    let aborted = found.aborted.into_iter().collect();
    let decoded = decoded(found.batches.into_bytes(), offset, aborted).await?;
    response.records = decoded.records;
    response.next_offset = decoded.stopped.unwrap_or(found.next_offset);
    Ok((response, decoded.memory))
}

fn named(txn: AbortedTxn) -> AbortedTransaction {
    let AbortedTxn { producer_id, first_offset, last_offset, .. } = txn;
    AbortedTransaction { producer_id, first_offset, last_offset }
}

struct Decoded {
    records: Vec<Record>,
    /// Where they stop, if that is before the end.
    stopped: Option<u64>,
    /// Bytes.
    memory: usize,
}

/// As `records`; much of it away from the threads that answer appends.
async fn decoded(batches: Bytes, offset: u64, aborted: Aborted) -> Result<Decoded> {
    if batches.len() < DECODE_BESIDE {
        return records(&batches, offset, &aborted);
    }
    let turn = DECODERS.acquire().await;
    // The turn goes with the work: a client that gives up does not end it.
    let decoding = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        records(&batches, offset, &aborted)
    });
    decoding.await.unwrap_or_else(|error| Err(Error::internal(error.to_string())))
}

/// Decoded records from `offset` on, but those that were aborted: an answer stays small, whatever
/// its batches unpack to.
fn records(batches: &Bytes, offset: u64, aborted: &Aborted) -> Result<Decoded> {
    let (mut out, mut memory, mut stopped, mut bad) = (Vec::new(), 0, None, None);
    let unreadable = |header: &BatchHeader, error: FormatError| {
        Error::batch_not_decoded((header.base_offset, header.end_offset()), &error)
    };
    let walked = check_run(batches, |at, header| {
        if aborted.holds(header) {
            return true;
        }
        let batch = batches.slice(at..at + header.bytes as usize);
        match add_records(&mut out, &batch, header, offset, DECODED_BYTES.saturating_sub(memory)) {
            Ok(bytes) => memory += bytes,
            // The first batch must go, or a reader never gets past it.
            Err(error) if out.is_empty() => bad = Some(unreadable(header, error)),
            Err(_) => stopped = Some(header.base_offset.max(offset)),
        }
        stopped.is_none() && bad.is_none()
    });
    match (walked, bad) {
        (Ok(_), None) => Ok(Decoded { records: out, stopped, memory }),
        (_, Some(error)) => Err(error),
        (Err(error), None) => Err(Error::corrupt_data(error)),
    }
}

/// Adds the records of one batch; an error where it is damaged, or needs more than `left` bytes
/// and is not the first. Returns the bytes that it takes.
fn add_records(
    out: &mut Vec<Record>,
    batch: &Bytes,
    header: &BatchHeader,
    offset: u64,
    left: usize,
) -> std::result::Result<usize, FormatError> {
    let heads = header.record_count as usize * std::mem::size_of::<Record>();
    let room = if out.is_empty() { FIRST_DECODED_BYTES } else { left };
    let Some(room) = room.checked_sub(heads) else {
        let why = format!("{} records are too many for one answer", header.record_count);
        return Err(FormatError::new("record batch", 57, why));
    };
    let found = Records::of(batch, room)?;
    let bytes = heads + found.plain_bytes();
    let before = out.len();
    for record in found {
        match record {
            Ok(record) if record.offset < offset => {}
            Ok(record) => out.push(encoded(record)),
            Err(error) => {
                out.truncate(before);
                return Err(error);
            }
        }
    }
    Ok(bytes)
}

fn encoded(record: DecodedRecord) -> Record {
    let headers = record.data.headers.into_iter();
    Record {
        timestamp_ms: record.data.timestamp_ms,
        key: record.data.key,
        value: record.data.value,
        headers: headers.map(|(key, value)| Header { key, value }).collect(),
        offset: record.offset,
    }
}

type Outgoing = mpsc::Sender<std::result::Result<Answer, Status>>;

/// Serves a read stream until the client goes away, the read fails, or this broker stops.
pub(super) async fn stream(
    node: Arc<Node>,
    mut requests: Streaming<ReadStreamRequest>,
    answers: Outgoing,
) -> std::result::Result<(), Status> {
    let mut draining = node.draining();
    let first = tokio::select! {
        first = requests.message() => first?,
        _ = draining.wait_for(|draining| *draining) => return Err(Error::shutting_down().into()),
    };
    let first = first.ok_or_else(|| Status::invalid_argument("the stream is empty"))?;
    let missing = || Error::invalid_argument("the first message must name what to read (start)");
    let start = first.start.ok_or_else(missing)?;
    let partition = node.partition(&start.topic, start.partition)?;
    let heartbeat = match first.heartbeat_ms {
        0 => DEFAULT_HEARTBEAT,
        ms => Duration::from_millis(ms.into()).max(HEARTBEAT_MIN),
    };
    let (granted, credits) = watch::channel(first.credit_bytes);
    tokio::spawn(async move {
        while let Ok(Some(more)) = requests.message().await {
            granted.send_modify(|total| *total = total.saturating_add(more.credit_bytes));
        }
    });
    let ahead = node.tiers.reader.read_ahead();
    let reader = Reader { node, partition, start, heartbeat, credits, sent: 0, ahead };
    tokio::spawn(reader.run(answers));
    Ok(())
}

struct Reader {
    node: Arc<Node>,
    partition: Arc<Partition>,
    start: ReadRequest,
    heartbeat: Duration,
    credits: watch::Receiver<u64>,
    sent: u64,
    ahead: ReadAhead,
}

/// How many answers may wait for the client.
pub(super) fn channel() -> (Outgoing, Answers) {
    let (send, receive) = mpsc::channel(AHEAD);
    (send, Answers { receive, held: None })
}

impl Reader {
    async fn run(mut self, answers: Outgoing) {
        let mut draining = self.node.draining();
        let mut offset = self.start.offset;
        loop {
            let next = tokio::select! {
                biased;
                _ = draining.wait_for(|draining| *draining) => Err(Error::shutting_down()),
                () = answers.closed() => return,
                next = self.next(offset, &answers) => next,
            };
            let (answer, ends) = match next {
                Ok(answer) => (answer, false),
                Err(error) => {
                    let error = Some(error.to_detail());
                    (Answer::small(ReadResponse { error, ..Default::default() }), true)
                }
            };
            offset = offset.max(answer.response.next_offset);
            let sent = tokio::select! {
                biased;
                sent = answers.send(Ok(answer)) => sent.is_ok(),
                // A client that takes nothing does not hold up a stop.
                _ = draining.wait_for(|draining| *draining) => false,
            };
            if !sent || ends {
                return;
            }
        }
    }

    /// The next answer: records, or nothing after the heartbeat. A read that takes longer than that
    /// gives signs of life beside it.
    async fn next(&mut self, offset: u64, answers: &Outgoing) -> Result<Answer> {
        let credit = self.credit().await;
        if credit == 0 {
            return self.sign_of_life(offset);
        }
        let max_bytes = size(&self.start).min(usize::try_from(credit).unwrap_or(usize::MAX));
        let isolation = isolation(self.start.isolation)?;
        let fetch = Fetch { offset, max_bytes, min_bytes: 1, wait: self.heartbeat, isolation };
        let (partition, ahead) = (&self.partition, Some(&self.ahead));
        let mut read =
            std::pin::pin!(answer(&self.node, partition, fetch, self.start.decode, ahead));
        // At the end of the log it answers after a heartbeat itself.
        let late = self.heartbeat * 3 / 2;
        let answer = loop {
            match tokio::time::timeout(late, &mut read).await {
                Ok(answer) => break answer?,
                // Where there is no place for it, others are on their way.
                Err(_) => drop(answers.try_send(Ok(self.sign_of_life(offset)?))),
            }
        };
        self.sent += answer.bytes as u64;
        Ok(answer)
    }

    /// An answer without records.
    fn sign_of_life(&self, offset: u64) -> Result<Answer> {
        let ladder = self.partition.readable()?;
        Ok(Answer::small(ReadResponse {
            next_offset: offset,
            high_watermark: ladder.high_watermark(),
            last_stable_offset: ladder.last_stable(),
            log_start: ladder.log_start(),
            ..Default::default()
        }))
    }

    /// Bytes that may be sent; 0 where the client grants none for a heartbeat.
    async fn credit(&mut self) -> u64 {
        let sent = self.sent;
        let heartbeat = self.heartbeat;
        let more = async {
            if self.credits.wait_for(|granted| *granted > sent).await.is_err() {
                // It closed its half: nothing more will ever be granted.
                tokio::time::sleep(heartbeat).await;
            }
        };
        // A client that is slow has granted what it has.
        let _ = tokio::time::timeout(heartbeat, more).await;
        self.credits.borrow().saturating_sub(sent)
    }
}
