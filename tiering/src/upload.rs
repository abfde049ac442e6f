//! From local bytes to an object that may be referenced: planned, uploaded, verified (I11).
//!
//! Owns: checking every batch on its way, and the proof that what is in the bucket is what was sent.
//! Does not own: what goes into an object, the commit of its reference.

mod room;

use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream;
use levee_proto::FormatError;
use levee_proto::crc::Crc32c;
use levee_proto::ids::{Nonce, PartitionId, Writer};
use levee_proto::metalog::{ObjectRef, SingleRange};
use levee_proto::object::writer::{Finished, ObjectPlan};
use levee_proto::object::{
    AbortedTxn, Footer, Level, ObjectWriter, ProducerSnapshot, RangeKind, Trailer,
};
use levee_proto::record::batch;
use levee_runtime::Host;
use parking_lot::Mutex;
use thiserror::Error;

pub use room::Room;

use crate::store::{Created, MULTIPART_ABOVE, Progress, Store, StoreError};

/// Bytes read back at once.
const VERIFY_BYTES: u64 = 8 << 20;

#[derive(Debug, Error)]
pub enum UploadError {
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The bytes to upload are not what they should be; nothing was referenced.
    #[error("batches of {partition} at offset {offset}: {why}")]
    Source { partition: PartitionId, offset: u64, why: String },
    /// The object would be one that no reader takes; nothing was referenced.
    #[error("object {key} cannot be made: {error}")]
    Unmade { key: String, error: FormatError },
    /// The object in the bucket is not what was sent; it is garbage now.
    #[error("object {key} is not what was sent: {why}")]
    Unlike { key: String, why: String },
}

/// Why a source gives no batches.
#[derive(Debug, Error)]
pub enum SourceError {
    /// They may be there later.
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{0}")]
    Damaged(String),
}

/// Gives the batches of a part, in order.
#[async_trait]
pub trait Batches: Send {
    /// The next whole batches from `offset` on; nothing at the end.
    async fn next(&mut self, offset: u64) -> Result<Option<Bytes>, SourceError>;
}

/// Batches that are in memory already.
pub struct Pieces(VecDeque<Bytes>);

impl Pieces {
    pub fn new(batches: Vec<Bytes>) -> Self {
        Self(batches.into())
    }
}

#[async_trait]
impl Batches for Pieces {
    async fn next(&mut self, _offset: u64) -> Result<Option<Bytes>, SourceError> {
        Ok(self.0.pop_front())
    }
}

/// One partition's share of an object.
pub struct Part {
    pub partition: PartitionId,
    pub leader_epoch: u32,
    pub base: u64,
    /// Exclusive.
    pub end: u64,
    /// Bytes of all its batches; must come out exactly.
    pub bytes: u64,
    /// Producer state at `end`.
    pub producers: Option<ProducerSnapshot>,
    /// Transactions whose abort marker stands in it, by its offset.
    pub aborted: Vec<AbortedTxn>,
    /// Its batches need not fill it.
    pub compacted: bool,
    pub source: Box<dyn Batches>,
}

/// What to upload. A key belongs to one attempt: another one takes a new number (I12).
pub struct Planned {
    pub level: Level,
    pub writer: Writer,
    pub seq: u64,
    pub parts: Vec<Part>,
}

/// In the bucket, as far as the store says.
pub struct Uploaded {
    object: ObjectRef,
    key: String,
    finished: Finished,
}

/// In the bucket, read back: only now it may be referenced.
pub struct Verified {
    pub object: ObjectRef,
    pub footer: Footer,
}

impl Planned {
    pub async fn upload(
        self,
        store: &Store,
        host: &Host,
        progress: Progress,
    ) -> Result<Uploaded, UploadError> {
        let nonce = Nonce(host.random_u128());
        let data_len = self.parts.iter().map(|part| part.bytes).sum();
        let single = match (self.level, self.parts.as_slice()) {
            (Level::L2, [one]) => Some(SingleRange {
                partition: one.partition,
                leader_epoch: one.leader_epoch,
                base: one.base,
                end: one.end,
            }),
            (Level::L1, _) => None,
            (level, parts) => unreachable!("{level:?} object of {} parts", parts.len()),
        };
        let mut object = ObjectRef {
            level: self.level as u8,
            writer: self.writer,
            seq: self.seq,
            nonce,
            bytes: 0,
            footer_crc: 0,
            single,
        };
        let key = object.key();
        let (writer, head) = ObjectWriter::new(ObjectPlan {
            level: self.level,
            nonce,
            writer: self.writer,
            seq: self.seq,
            lane: 0,
            data_len,
            lane_trim: 0,
            prev_slot_crc: 0,
        });
        let flow = Flow { writer, parts: self.parts.into(), open: None, head: Some(head) };
        let finished = match data_len <= MULTIPART_ABOVE {
            true => flow.put_whole(store, &key, nonce).await?,
            false => flow.put_parts(store, &key, progress).await?,
        };
        object.bytes = finished.object_len;
        object.footer_crc = finished.trailer.footer_crc;
        Ok(Uploaded { object, key, finished })
    }
}

/// The bytes of an object in the making.
struct Flow {
    writer: ObjectWriter,
    parts: VecDeque<Part>,
    /// The part that is being written, and the next offset in it.
    open: Option<(Part, u64)>,
    head: Option<Bytes>,
}

impl Flow {
    async fn put_whole(
        mut self,
        store: &Store,
        key: &str,
        nonce: Nonce,
    ) -> Result<Finished, UploadError> {
        let mut body = Vec::new();
        while let Some(piece) = self.next().await? {
            body.push(piece);
        }
        let finished = finish(self.writer, key)?;
        body.push(finished.tail.clone());
        match store.create(key, body, nonce).await {
            Created::Won => Ok(finished),
            Created::Lost(lost) => {
                Err(UploadError::Unlike { key: key.into(), why: lost.to_string() })
            }
            Created::Unknown(error) => Err(error.into()),
        }
    }

    async fn put_parts(
        self,
        store: &Store,
        key: &str,
        progress: Progress,
    ) -> Result<Finished, UploadError> {
        let name = key.to_owned();
        let done: Arc<Mutex<Option<Finished>>> = Arc::default();
        let made = done.clone();
        let pieces = stream::try_unfold(Some(self), move |flow| {
            let (made, name) = (made.clone(), name.clone());
            async move {
                let Some(mut flow) = flow else { return Ok::<_, UploadError>(None) };
                if let Some(piece) = flow.next().await? {
                    return Ok(Some((piece, Some(flow))));
                }
                let finished = finish(flow.writer, &name)?;
                let tail = finished.tail.clone();
                *made.lock() = Some(finished);
                Ok(Some((tail, None)))
            }
        });
        store.put_large(key, pieces, progress).await?;
        let finished = done.lock().take();
        Ok(finished.expect("an upload ends with its footer"))
    }

    /// The next piece of head or data.
    async fn next(&mut self) -> Result<Option<Bytes>, UploadError> {
        if let Some(head) = self.head.take() {
            return Ok(Some(head));
        }
        loop {
            if self.open.is_none() {
                let Some(part) = self.parts.pop_front() else { return Ok(None) };
                self.writer.begin(part.partition, part.leader_epoch, RangeKind::Data, part.base);
                if part.compacted {
                    self.writer.compacted();
                }
                let base = part.base;
                self.open = Some((part, base));
            }
            let Some((part, offset)) = &mut self.open else { continue };
            if *offset < part.end && !(part.compacted && part.bytes == 0) {
                let (piece, next) = next_piece(&mut self.writer, part, *offset).await?;
                *offset = next;
                return Ok(Some(piece));
            }
            if let Some((part, _)) = self.open.take() {
                part.aborted.into_iter().for_each(|txn| self.writer.aborted(txn));
                self.writer.end(part.end, part.producers);
            }
        }
    }
}

fn finish(writer: ObjectWriter, key: &str) -> Result<Finished, UploadError> {
    writer.finish().map_err(|error| UploadError::Unmade { key: key.into(), error })
}

/// Takes batches from the source, checks each, and tells the writer.
async fn next_piece(
    writer: &mut ObjectWriter,
    part: &mut Part,
    offset: u64,
) -> Result<(Bytes, u64), UploadError> {
    let partition = part.partition;
    let bad = |offset: u64, why: String| UploadError::Source { partition, offset, why };
    let got = part.source.next(offset).await.map_err(|error| match error {
        SourceError::Store(error) => error.into(),
        SourceError::Damaged(why) => bad(offset, why),
    })?;
    let bytes = got.ok_or_else(|| bad(offset, format!("ends before {}", part.end)))?;
    let (mut next, mut used) = (offset, 0);
    let end = part.end;
    let mut wrong = None;
    let mut left = part.bytes;
    let checked = batch::check_run(&bytes, |at, header| {
        if header.base_offset >= end {
            return false;
        }
        let len = u64::from(header.bytes);
        if header.base_offset < next || header.end_offset() > end || len > left {
            wrong = Some(format!("batch {}..{}", header.base_offset, header.end_offset()));
            return false;
        }
        let to = at + header.bytes as usize;
        writer.batch(header, &[&bytes[at..to]]);
        (next, used, left) = (header.end_offset(), to, left - len);
        true
    });
    checked.map_err(|error: FormatError| bad(offset, error.to_string()))?;
    match wrong {
        Some(why) => Err(bad(next, format!("{why} does not fit {offset}..{end}"))),
        None if used == 0 => Err(bad(offset, "no batch".into())),
        None if next == end && left > 0 => Err(bad(next, format!("{left} bytes are missing"))),
        None => {
            part.bytes = left;
            Ok((bytes.slice(..used), next))
        }
    }
}

impl Uploaded {
    /// Reads back size and end of the object; all of it with `data`.
    pub async fn verify(self, store: &Store, data: bool) -> Result<Verified, UploadError> {
        let Self { object, key, finished } = self;
        let unlike = |why: String| UploadError::Unlike { key: key.clone(), why };
        let wanted = finished.object_len;
        let len = store.len(&key).await?;
        if len != Some(wanted) {
            return Err(unlike(format!("{len:?} of {wanted} bytes are there")));
        }
        let from = wanted - finished.tail.len() as u64;
        let tail = store.get_range(&key, from..wanted).await?;
        if tail.as_ref() != Some(&finished.tail) {
            return Err(unlike("its footer differs".into()));
        }
        if data {
            let mut crc = Crc32c::default();
            for at in (0..from).step_by(VERIFY_BYTES as usize) {
                let piece = store.get_range(&key, at..from.min(at + VERIFY_BYTES)).await?;
                crc.update(&piece.ok_or_else(|| unlike("it is gone".into()))?);
            }
            if crc.finish() != finished.trailer.body_crc {
                return Err(unlike("its data differs".into()));
            }
        }
        // What is referenced can be read: by the reader's own code.
        let trailer = Trailer::decode(&finished.tail, wanted);
        let footer = trailer
            .and_then(|trailer| trailer.footer(&finished.tail[..trailer.footer_len as usize]))
            .map_err(|error| UploadError::Unmade { key: key.clone(), error })?;
        assert_eq!(footer, finished.footer, "a footer reads as it was written");
        Ok(Verified { object, footer })
    }
}
