//! Reading a partition from an offset on, for ever, over broken connections.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use levee_proto::grpc::list_offsets_request::At;
use levee_proto::grpc::{ListOffsetsRequest, ReadRequest, ReadResponse, ReadStreamRequest};
use levee_proto::record::batch::check_run;
use levee_proto::record::records::{DecodedRecord, decode_records};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::backoff::Backoff;
use crate::connection::Client;
use crate::error::{Error, Result};
use levee_proto::grpc::ErrorCode;

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
    /// Silence of the broker after which the reader connects again. Default 15 s.
    pub silence: Duration,
    /// How long it tries to connect again. Default 120 s.
    pub retry_for: Duration,
}

impl Default for ReadConfig {
    fn default() -> Self {
        Self {
            window_bytes: 8 << 20,
            max_bytes: 1 << 20,
            silence: Duration::from_secs(15),
            retry_for: Duration::from_secs(120),
        }
    }
}

/// Whole record batches; the first may begin below the offset that was asked for.
#[derive(Debug, Clone)]
pub struct Batches {
    pub bytes: Bytes,
    pub next_offset: u64,
    pub high_watermark: u64,
    /// Where they came from: tail, hot, cached, remote.
    pub source: String,
}

/// See the module.
pub struct Reader {
    client: Client,
    topic: String,
    partition: u32,
    config: ReadConfig,
    offset: u64,
    stream: Option<(mpsc::Sender<ReadStreamRequest>, Streaming<ReadResponse>)>,
    records: VecDeque<DecodedRecord>,
    high_watermark: u64,
}

const HEARTBEAT_MS: u32 = 3000;

impl Reader {
    pub(crate) async fn open(
        client: Client,
        topic: &str,
        partition: u32,
        from: Position,
        config: ReadConfig,
    ) -> Result<Self> {
        let at = match from {
            Position::Offset(offset) => Err(offset),
            Position::Start => Ok(At::Start(true)),
            Position::End => Ok(At::End(true)),
            Position::Timestamp(ms) => Ok(At::TimestampMs(ms)),
        };
        let ask = |at| {
            let request = ListOffsetsRequest { topic: topic.to_owned(), partition, at: Some(at) };
            let mut log = client.log();
            async move { Ok::<_, Error>(log.list_offsets(request).await?.into_inner().offset) }
        };
        let offset = match at {
            Err(offset) => offset,
            Ok(at) => match ask(at).await? {
                Some(offset) => offset,
                None => ask(At::End(true)).await?.unwrap_or_default(),
            },
        };
        Ok(Self {
            topic: topic.to_owned(),
            partition,
            config,
            offset,
            stream: None,
            records: VecDeque::new(),
            high_watermark: 0,
            client,
        })
    }

    /// The offset that comes next.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// As the broker last said; 0 before its first answer.
    pub fn high_watermark(&self) -> u64 {
        self.high_watermark
    }

    /// The next batches; waits for them. An answer without bytes is a sign of life at the end.
    pub async fn next_batches(&mut self) -> Result<Batches> {
        let mut backoff = Backoff::new();
        let started = tokio::time::Instant::now();
        loop {
            match self.try_next().await {
                Ok(batches) => return Ok(batches),
                Err(error) if error.retriable && started.elapsed() < self.config.retry_for => {
                    self.stream = None;
                    backoff.wait().await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn try_next(&mut self) -> Result<Batches> {
        if self.stream.is_none() {
            self.stream = Some(self.connect().await?);
        }
        let Some((credits, answers)) = &mut self.stream else { return Err(Error::closed()) };
        let answer = match tokio::time::timeout(self.config.silence, answers.message()).await {
            Ok(answer) => {
                answer?.ok_or_else(|| Error::connection("the broker ended the stream"))?
            }
            Err(_) => {
                let why = format!("the broker is silent for {:?}", self.config.silence);
                return Err(Error::connection(why));
            }
        };
        if let Some(detail) = answer.error {
            return Err(detail.into());
        }
        let taken = answer.batches.len() as u64;
        if taken > 0 {
            let more = ReadStreamRequest { credit_bytes: taken, ..Default::default() };
            // A broken stream shows itself with the next answer.
            let _ = credits.send(more).await;
        }
        self.offset = self.offset.max(answer.next_offset);
        self.high_watermark = answer.high_watermark;
        Ok(Batches {
            bytes: answer.batches,
            next_offset: self.offset,
            high_watermark: answer.high_watermark,
            source: answer.source,
        })
    }

    async fn connect(&self) -> Result<(mpsc::Sender<ReadStreamRequest>, Streaming<ReadResponse>)> {
        let (credits, outgoing) = mpsc::channel(64);
        let start = ReadRequest {
            topic: self.topic.clone(),
            partition: self.partition,
            offset: self.offset,
            max_bytes: self.config.max_bytes,
            ..Default::default()
        };
        let first = ReadStreamRequest {
            start: Some(start),
            credit_bytes: self.config.window_bytes,
            heartbeat_ms: HEARTBEAT_MS,
        };
        credits.send(first).await.map_err(|_| Error::closed())?;
        let answers = self.client.log().read_stream(ReceiverStream::new(outgoing)).await?;
        Ok((credits, answers.into_inner()))
    }

    /// The next record; waits for it.
    pub async fn next(&mut self) -> Result<DecodedRecord> {
        loop {
            if let Some(record) = self.records.pop_front() {
                return Ok(record);
            }
            let from = self.offset;
            let batches = self.next_batches().await?;
            self.records = decode(&batches.bytes, from)?;
        }
    }
}

fn decode(batches: &Bytes, from: u64) -> Result<VecDeque<DecodedRecord>> {
    let mut records = VecDeque::new();
    let mut bad = None;
    let walked = check_run(batches, |at, header| {
        match decode_records(&batches.slice(at..at + header.bytes as usize)) {
            Ok(found) => records.extend(found.into_iter().filter(|r| r.offset >= from)),
            Err(error) => bad = Some(error),
        }
        bad.is_none()
    });
    match walked.err().or(bad) {
        None => Ok(records),
        Some(error) => {
            Err(Error::new(ErrorCode::CorruptData, format!("the broker sent {error}"), false))
        }
    }
}
