//! Large objects, in parts, with a watchdog on progress.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};
use object_store::{MultipartUpload, ObjectStoreExt, PutPayload};

use super::{Kind, Op, Store, StoreError};

/// Larger objects go in parts; smaller ones in one request.
pub const MULTIPART_ABOVE: u64 = 16 << 20;
/// Bytes of one part.
const PART_BYTES: usize = 8 << 20;

/// Bounds of one upload.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    /// The whole upload. Default 120 s.
    pub deadline: Duration,
    /// One part. Default 30 s.
    pub stalled_after: Duration,
}

impl Default for Progress {
    fn default() -> Self {
        Self { deadline: Duration::from_secs(120), stalled_after: Duration::from_secs(30) }
    }
}

impl Store {
    /// Uploads an object whose key is unique to this attempt, so that no condition is needed.
    /// `E`: what the source of the bytes can fail with. A failed upload is aborted.
    pub async fn put_large<E: From<StoreError>>(
        &self,
        key: &str,
        parts: impl Stream<Item = Result<Bytes, E>> + Send,
        progress: Progress,
    ) -> Result<(), E> {
        let path = self.path(key);
        let mut upload =
            self.once(Op::Upload, key, self.inner.put_multipart(&path)).await.map_err(E::from)?;
        let sent = self.send_parts(key, upload.as_mut(), parts, progress);
        let result = match self.host.timeout(progress.deadline, sent).await {
            Ok(result) => result,
            Err(_) => {
                let why = format!("not done within {:?}", progress.deadline);
                Err(StoreError::new(Op::Upload, key, Kind::Timeout, why).into())
            }
        };
        if result.is_err() {
            // Best effort: what stays is swept as garbage, or by the bucket's abort rule.
            let _ = self.host.timeout(progress.stalled_after, upload.abort()).await;
        }
        result
    }

    async fn send_parts<E: From<StoreError>>(
        &self,
        key: &str,
        upload: &mut dyn MultipartUpload,
        parts: impl Stream<Item = Result<Bytes, E>> + Send,
        progress: Progress,
    ) -> Result<(), E> {
        let mut parts = std::pin::pin!(parts);
        let mut part: Vec<Bytes> = Vec::new();
        let mut held = 0;
        loop {
            let next = parts.next().await.transpose()?;
            let ended = next.is_none();
            if let Some(bytes) = next {
                held += bytes.len();
                part.push(bytes);
            }
            if held >= PART_BYTES || (ended && held > 0) {
                // Every part but the last has the same size: some stores insist.
                let (full, rest) = split(std::mem::take(&mut part), held, ended);
                held = rest.iter().map(Bytes::len).sum();
                part = rest;
                for payload in full {
                    let put = upload.put_part(PutPayload::from_iter(payload));
                    self.watched(key, put, progress).await?;
                }
            }
            if ended {
                self.watched(key, upload.complete(), progress).await?;
                return Ok(());
            }
        }
    }

    async fn watched<T>(
        &self,
        key: &str,
        step: impl Future<Output = object_store::Result<T>>,
        progress: Progress,
    ) -> Result<T, StoreError> {
        match self.host.timeout(progress.stalled_after, self.once(Op::Upload, key, step)).await {
            Ok(done) => done,
            Err(_) => {
                let why = format!("no progress for {:?}", progress.stalled_after);
                Err(StoreError::new(Op::Upload, key, Kind::Timeout, why))
            }
        }
    }
}

/// Whole parts, and what is left for the next ones (nothing at the end).
fn split(pieces: Vec<Bytes>, held: usize, ended: bool) -> (Vec<Vec<Bytes>>, Vec<Bytes>) {
    let mut all = BytesMut::new();
    // One piece that is a whole part is the common case and is not copied.
    if pieces.len() == 1 && held == PART_BYTES {
        return (vec![pieces], Vec::new());
    }
    pieces.iter().for_each(|piece| all.extend_from_slice(piece));
    let mut all = all.freeze();
    let mut full = Vec::new();
    while all.len() >= PART_BYTES {
        full.push(vec![all.split_to(PART_BYTES)]);
    }
    if ended && !all.is_empty() {
        full.push(vec![std::mem::take(&mut all)]);
    }
    let rest = if all.is_empty() { Vec::new() } else { vec![all] };
    (full, rest)
}
