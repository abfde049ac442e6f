//! Reading a partition from an offset on, for ever, over broken connections.
//!
//! Owns: where to read on, credits, and telling silence from a quiet partition. Records come once
//! and in order: what comes again after a reconnect is skipped.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use levee_proto::grpc::list_offsets_request::At;
use levee_proto::grpc::{ErrorCode, Isolation, ReadRequest, ReadResponse, ReadStreamRequest};
use levee_proto::object::Aborted;
use levee_proto::record::batch::{BatchHeader, check_run};
use levee_proto::record::records::{DecodedRecord, decode_records};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::backoff::Backoff;
use crate::connection::{Client, log_over};
use crate::error::{Error, ErrorKind, Result};
use crate::seat::Seat;
use crate::trouble::Trouble;

/// Where to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    Start,
    End,
    Offset(u64),
    /// First record at or after this time, milliseconds since 1970; the end where there is none.
    Timestamp(i64),
}

/// How a reader reads.
#[derive(Debug, Clone)]
pub struct ReadConfig {
    /// Bytes the broker may send ahead. Default 8 MiB.
    pub window_bytes: u64,
    /// Bytes of one answer. Default 1 MiB.
    pub max_bytes: u32,
    /// Silence of the broker after which the reader connects again. The broker is asked for a sign
    /// of life three times as often. Default 15 s.
    pub silence: Duration,
    /// How long it tries to connect again. Default 120 s.
    pub retry_for: Duration,
    /// Read only up to where every transaction has ended, and leave out the records of aborted
    /// ones. Default false.
    pub read_committed: bool,
}

impl Default for ReadConfig {
    fn default() -> Self {
        Self {
            window_bytes: 8 << 20,
            max_bytes: 1 << 20,
            silence: Duration::from_secs(15),
            retry_for: Duration::from_secs(120),
            read_committed: false,
        }
    }
}

impl ReadConfig {
    fn isolation(&self) -> Isolation {
        match self.read_committed {
            true => Isolation::ReadCommitted,
            false => Isolation::ReadUncommitted,
        }
    }
}

/// Whole record batches with right crcs, none of them wholly below the offset that was asked for;
/// the first may begin below it.
#[derive(Debug, Clone)]
pub struct Batches {
    pub bytes: Bytes,
    pub next_offset: u64,
    pub high_watermark: u64,
    /// Where the oldest transaction begins that has not ended; else the high watermark.
    pub last_stable_offset: u64,
    /// Of a reader of committed records: which of the batches were aborted.
    pub aborted: Aborted,
    /// Where they came from: tail, hot, cached, remote.
    pub source: String,
}

/// See the module.
pub struct Reader {
    seat: Seat,
    trouble: Trouble,
    topic: String,
    partition: u32,
    config: ReadConfig,
    /// Of the next batches to come.
    offset: u64,
    stream: Option<Stream>,
    /// Batches that were read and not decoded yet, and the first offset wanted of them.
    undecoded: Bytes,
    from: u64,
    aborted: Aborted,
    records: VecDeque<DecodedRecord>,
    high_watermark: u64,
}

struct Stream {
    requests: mpsc::Sender<ReadStreamRequest>,
    answers: Streaming<ReadResponse>,
    /// Bytes taken that were not granted again yet.
    owed: u64,
}

/// How long the broker may take to begin.
const OPEN_LIMIT: Duration = Duration::from_secs(10);
/// Credits under way; a grant that finds no room goes with the next one.
const GRANTS: usize = 16;
/// How often damaged bytes are asked for again before it is said.
const CORRUPT_TRIES: u32 = 3;

impl Client {
    pub async fn read(
        &self,
        topic: &str,
        partition: u32,
        from: Position,
        config: ReadConfig,
    ) -> Result<Reader> {
        Reader::open(self.clone(), topic, partition, from, config).await
    }
}

impl Reader {
    pub(crate) async fn open(
        client: Client,
        topic: &str,
        partition: u32,
        from: Position,
        config: ReadConfig,
    ) -> Result<Self> {
        if config.window_bytes == 0 || config.silence < Duration::from_millis(3) {
            return Err(Error::invalid("window_bytes and silence of a reader must not be zero"));
        }
        let admin = client.manage();
        let isolation = config.isolation();
        let at = match from {
            Position::Offset(_) => None,
            Position::Start => Some(At::Start(true)),
            Position::End => Some(At::End(true)),
            Position::Timestamp(ms) => Some(At::TimestampMs(ms)),
        };
        let found = match at {
            None => None,
            Some(at) => admin.list_offsets_as(topic, partition, at, isolation).await?.offset,
        };
        let offset = match (found, from) {
            (Some(offset), _) | (None, Position::Offset(offset)) => offset,
            (None, _) => {
                let end = admin.list_offsets_as(topic, partition, At::End(true), isolation);
                let end = end.await?.offset;
                end.ok_or_else(|| Error::connection("the broker gave no end of the partition"))?
            }
        };
        Ok(Self {
            seat: client.seat(),
            trouble: client.trouble(),
            topic: topic.to_owned(),
            partition,
            config,
            offset,
            stream: None,
            undecoded: Bytes::new(),
            from: offset,
            aborted: Aborted::default(),
            records: VecDeque::new(),
            high_watermark: 0,
        })
    }

    /// The offset to go on from: records that were decoded and not taken are before it.
    pub fn offset(&self) -> u64 {
        if self.undecoded.is_empty() { self.offset } else { self.from }
    }

    /// As the broker last said; 0 before its first answer.
    pub fn high_watermark(&self) -> u64 {
        self.high_watermark
    }

    /// The next batches; waits for them. An answer without bytes is a sign of life at the end.
    pub async fn next_batches(&mut self) -> Result<Batches> {
        let mut backoff = Backoff::new();
        let started = Instant::now();
        let mut corrupt = 0;
        loop {
            let error = match self.try_next().await {
                Ok(batches) => {
                    self.trouble.is_over();
                    return Ok(batches);
                }
                Err(error) => error,
            };
            self.stream = None;
            corrupt += u32::from(error.kind == ErrorKind::Corrupt);
            let out_of_time = started.elapsed() >= self.config.retry_for;
            if !error.retriable || out_of_time || corrupt >= CORRUPT_TRIES {
                let (topic, partition) = (&self.topic, self.partition);
                let address = self.trouble.address();
                return Err(error.at(&format!("{topic} partition {partition} at {address}")));
            }
            self.trouble.is(&error);
            tracing::debug!(topic = self.topic, partition = self.partition, %error,
                "read stream broke, reading on from {}", self.offset);
            backoff.wait().await;
        }
    }

    /// The next record; waits for it.
    pub async fn next(&mut self) -> Result<DecodedRecord> {
        loop {
            if let Some(record) = self.records.pop_front() {
                return Ok(record);
            }
            self.records = self.next_records().await?.into();
        }
    }

    /// The next records; none is a sign of life at the end. Not to be mixed with `next`, which
    /// keeps what it has not given yet. A batch that cannot be decoded is an error once; the next
    /// call reads on behind it.
    pub async fn next_records(&mut self) -> Result<Vec<DecodedRecord>> {
        loop {
            if self.undecoded.is_empty() {
                let from = self.offset;
                let batches = self.next_batches().await?;
                if batches.bytes.is_empty() {
                    return Ok(Vec::new());
                }
                (self.undecoded, self.from) = (batches.bytes, from);
                self.aborted = batches.aborted;
            }
            let records = self.decode_batch()?;
            if !records.is_empty() {
                return Ok(records);
            }
        }
    }

    /// Takes the first batch of what was read and not decoded yet.
    fn decode_batch(&mut self) -> Result<Vec<DecodedRecord>> {
        let rest = std::mem::take(&mut self.undecoded);
        let header = BatchHeader::decode(&rest).map_err(|error| Error::corrupt(&error))?;
        let len = (header.bytes as usize).min(rest.len());
        let from = std::mem::replace(&mut self.from, header.end_offset());
        self.undecoded = rest.slice(len..);
        if self.aborted.holds(&header) {
            return Ok(Vec::new());
        }
        let decoded = decode_records(&rest.slice(..len)).map_err(|error| {
            // The crc was right, so this is what was appended: it will not get better.
            let (base, end) = (header.base_offset, header.end_offset());
            let place = format!(
                "offsets {base}..{end} of {} partition {} cannot be decoded, read on from {end}",
                self.topic, self.partition
            );
            Error { retriable: false, ..Error::corrupt(&error).at(&place) }
        })?;
        Ok(decoded.into_iter().filter(|record| record.offset >= from).collect())
    }

    async fn try_next(&mut self) -> Result<Batches> {
        let stream = match self.stream.take() {
            Some(stream) => stream,
            None => connect(&self.seat, &self.request(), &self.config).await?,
        };
        let stream = self.stream.insert(stream);
        let silence = self.config.silence;
        let answer = tokio::time::timeout(silence, stream.answers.message()).await;
        let silent = |_| Error::connection(format!("the broker is silent for {silence:?}"));
        let ended = || Error::connection("the broker ended the read stream");
        let answer = answer.map_err(silent)??.ok_or_else(ended)?;
        if let Some(detail) = answer.error {
            return Err(detail.into());
        }
        stream.grant(answer.batches.len() as u64, self.config.window_bytes);
        let (bytes, end) = from_offset(answer.batches, self.offset)?;
        self.offset = end.max(answer.next_offset).max(self.offset);
        self.high_watermark = answer.high_watermark;
        let mut aborted = Aborted::default();
        for txn in &answer.aborted {
            aborted.add(txn.producer_id, txn.first_offset, txn.last_offset);
        }
        Ok(Batches {
            last_stable_offset: answer.last_stable_offset,
            aborted,
            bytes,
            next_offset: self.offset,
            high_watermark: answer.high_watermark,
            source: answer.source,
        })
    }

    fn request(&self) -> ReadRequest {
        ReadRequest {
            topic: self.topic.clone(),
            partition: self.partition,
            offset: self.offset,
            max_bytes: self.config.max_bytes,
            isolation: self.config.isolation().into(),
            ..ReadRequest::default()
        }
    }
}

async fn connect(seat: &Seat, start: &ReadRequest, config: &ReadConfig) -> Result<Stream> {
    let (requests, outgoing) = mpsc::channel(GRANTS);
    let first = ReadStreamRequest {
        start: Some(start.clone()),
        credit_bytes: config.window_bytes,
        heartbeat_ms: u32::try_from(config.silence.as_millis() / 3).unwrap_or(u32::MAX),
    };
    let gone = |_| Error::connection("the read stream takes no request");
    requests.try_send(first).map_err(gone)?;
    let mut log = log_over(seat.channel());
    let opening = log.read_stream(ReceiverStream::new(outgoing));
    let opened = tokio::time::timeout(OPEN_LIMIT, opening).await;
    let opened = opened.map_err(|_| Error::timed_out("opening a read stream", OPEN_LIMIT))?;
    Ok(Stream { requests, answers: opened?.into_inner(), owed: 0 })
}

impl Stream {
    /// Gives back what was taken, in parts of the window that are worth a message.
    fn grant(&mut self, taken: u64, window: u64) {
        self.owed += taken;
        if self.owed < window.div_ceil(8) {
            return;
        }
        let more = ReadStreamRequest { credit_bytes: self.owed, ..Default::default() };
        // Full: with the next answer. Closed: the next answer says so.
        if self.requests.try_send(more).is_ok() {
            self.owed = 0;
        }
    }
}

/// The checked batches that reach to `offset` or above it, and where they end.
fn from_offset(bytes: Bytes, offset: u64) -> Result<(Bytes, u64)> {
    let mut from = None;
    let mut wrong = None;
    let mut end = offset;
    let whole = check_run(&bytes, |at, header| {
        if header.end_offset() > offset {
            if from.is_some() && header.base_offset < end {
                wrong = Some(header.base_offset);
                return false;
            }
            from.get_or_insert(at);
            end = header.end_offset();
        }
        true
    });
    let whole = whole.map_err(|error| Error::corrupt(&error))?;
    if let Some(base) = wrong {
        let error = Error::connection(format!("the broker sent offset {base} behind {end}"));
        return Err(Error { kind: ErrorKind::Corrupt, code: ErrorCode::CorruptData, ..error });
    }
    Ok((bytes.slice(from.unwrap_or(whole)..whole), end))
}
