//! Large objects, in parts, with a watchdog on progress.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use object_store::{MultipartUpload, ObjectStoreExt, PutPayload};

use super::direct::{Staged, as_answer};
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
        if let Some(root) = self.folder.clone() {
            return self.write_large(root, key, parts, progress).await;
        }
        let path = self.path(key);
        let mut upload =
            self.once(Op::Upload, key, self.inner.put_multipart(&path)).await.map_err(E::from)?;
        let sent = self.send_parts(key, upload.as_mut(), parts, progress);
        let result = self.in_time(key, sent, progress).await;
        if result.is_err() {
            // Best effort: what stays is swept as garbage, or by the bucket's abort rule.
            let _ = self.host.timeout(progress.stalled_after, upload.abort()).await;
        }
        result
    }

    /// The same for a folder.
    async fn write_large<E: From<StoreError>>(
        &self,
        root: Arc<Path>,
        key: &str,
        pieces: impl Stream<Item = Result<Bytes, E>> + Send,
        progress: Progress,
    ) -> Result<(), E> {
        let answer = |error| as_answer(key, error);
        let open = async { Staged::open(&self.host, root, key).await.map_err(answer) };
        let mut file = self.watched(key, open, progress).await?;
        let written = async {
            let mut pieces = std::pin::pin!(pieces);
            while let Some(piece) = pieces.next().await.transpose()? {
                // A piece is no request: most of them only fill a buffer.
                let write = async {
                    let written = file.write(&piece).await.map_err(answer);
                    written.map_err(|error| StoreError::of(Op::Upload, key, &error))
                };
                self.moving(key, write, progress).await?;
            }
            Ok(())
        };
        let written = self.in_time(key, written, progress).await;
        if written.is_err() {
            file.discard().await;
            return written;
        }
        let finish = async { file.finish().await.map_err(answer) };
        let finished = self.watched(key, finish, progress).await;
        Ok(finished.inspect_err(StoreError::ensure_disk)?)
    }

    /// The whole of an upload, under its deadline.
    async fn in_time<E: From<StoreError>>(
        &self,
        key: &str,
        upload: impl Future<Output = Result<(), E>>,
        progress: Progress,
    ) -> Result<(), E> {
        match self.host.timeout(progress.deadline, upload).await {
            Ok(result) => result,
            Err(_) => {
                let why = format!("not done within {:?}", progress.deadline);
                Err(self.error(Op::Upload, key, Kind::Timeout, why).into())
            }
        }
    }

    async fn send_parts<E: From<StoreError>>(
        &self,
        key: &str,
        upload: &mut dyn MultipartUpload,
        pieces: impl Stream<Item = Result<Bytes, E>> + Send,
        progress: Progress,
    ) -> Result<(), E> {
        let mut pieces = std::pin::pin!(pieces);
        let mut part = Part::default();
        while let Some(piece) = pieces.next().await.transpose()? {
            let mut rest = piece;
            // Every part but the last has the same size: some stores insist.
            while let Some(full) = part.add(&mut rest) {
                self.watched(key, upload.put_part(full), progress).await?;
            }
        }
        if let Some(last) = part.take() {
            self.watched(key, upload.put_part(last), progress).await?;
        }
        self.watched(key, upload.complete(), progress).await?;
        Ok(())
    }

    async fn watched<T>(
        &self,
        key: &str,
        step: impl Future<Output = object_store::Result<T>>,
        progress: Progress,
    ) -> Result<T, StoreError> {
        self.once_within(progress.stalled_after, Op::Upload, key, step).await
    }

    async fn moving<T>(
        &self,
        key: &str,
        step: impl Future<Output = Result<T, StoreError>>,
        progress: Progress,
    ) -> Result<T, StoreError> {
        match self.host.timeout(progress.stalled_after, step).await {
            Ok(done) => done,
            Err(_) => {
                let why = format!("no progress for {:?}", progress.stalled_after);
                Err(self.error(Op::Upload, key, Kind::Timeout, why))
            }
        }
    }
}

/// A part in the making: pieces that are shared, not copied.
#[derive(Default)]
struct Part {
    pieces: Vec<Bytes>,
    bytes: usize,
}

impl Part {
    /// Takes from `rest` what fits; the whole part when it is full.
    fn add(&mut self, rest: &mut Bytes) -> Option<PutPayload> {
        let fits = rest.len().min(PART_BYTES - self.bytes);
        if fits > 0 {
            self.pieces.push(rest.split_to(fits));
            self.bytes += fits;
        }
        (self.bytes == PART_BYTES).then(|| self.take()).flatten()
    }

    fn take(&mut self) -> Option<PutPayload> {
        self.bytes = 0;
        let pieces = std::mem::take(&mut self.pieces);
        (!pieces.is_empty()).then(|| PutPayload::from_iter(pieces))
    }
}
