//! What an earlier life of this broker left in the folder of a disk cache.
//!
//! A full file has a table at its end; the others are walked from entry to entry. Only heads are
//! looked at: data is checked as it is read.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use levee_runtime::disk::DirEntry;
use levee_runtime::{File, Host, Mono, OpenMode};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::super::entry::{BLOCK, Head, Row, Trailer, fingerprint};
use super::{DiskCache, EXTENSION, Kept, QUEUE_BYTES, Ring, Writer};

/// A disk that needs longer begins with what it has shown by then.
const OPEN_LIMIT: Duration = Duration::from_secs(20);
/// Bytes read at once on a walk: one head of a large entry, or many small entries.
const WALK_BYTES: usize = 64 << 10;

impl DiskCache {
    /// Takes over what is in `dir`; whatever cannot be read is not there.
    pub async fn open(host: Host, dir: PathBuf, name: &'static str, allowed: u64) -> Arc<Self> {
        let ring = Ring {
            places: BTreeMap::new(),
            files: BTreeMap::new(),
            used: 0,
            allowed,
            next: 0,
            paused_until: Mono::default(),
        };
        let cache = Arc::new(Self {
            host: host.clone(),
            dir,
            name,
            ring: Mutex::new(ring),
            writer: tokio::sync::Mutex::new(Writer::default()),
            queue: Arc::new(Semaphore::new(QUEUE_BYTES)),
        });
        match host.timeout(OPEN_LIMIT, cache.load()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => {}
            Ok(Err(error)) => {
                tracing::warn!(dir = %cache.dir.display(), %error, "the disk cache begins empty");
            }
            Err(_) => {
                tracing::warn!(dir = %cache.dir.display(), "the disk is slow: cached copies are lost");
            }
        }
        cache.fit(allowed).await;
        cache
    }

    async fn load(&self) -> io::Result<()> {
        for DirEntry { name, is_dir, .. } in self.host.disk().list(&self.dir).await? {
            let number = name.strip_suffix(EXTENSION).and_then(|name| name.strip_suffix('.'));
            let Some(number) = number.and_then(|hex| u32::from_str_radix(hex, 16).ok()) else {
                continue;
            };
            if is_dir {
                continue;
            }
            {
                // Its name is taken, whatever is in it.
                let mut ring = self.ring.lock();
                ring.next = ring.next.max(number);
            }
            if let Err(error) = self.load_file(number).await {
                tracing::warn!(file = name, %error, "a file of the cache is not used");
                let _ = self.host.disk().remove_file(&self.path(number)).await;
            }
        }
        Ok(())
    }

    async fn load_file(&self, number: u32) -> io::Result<()> {
        let mode = OpenMode { create: false, write: false, direct: true };
        let file = self.host.disk().open(&self.path(number), mode).await?;
        let len = file.len().await?;
        let rows = match table(&file, len).await? {
            Some(rows) => rows,
            None => walk(&file, len).await?,
        };
        if rows.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "nothing in it is whole"));
        }
        let mut ring = self.ring.lock();
        ring.used += len;
        ring.files.insert(number, Kept { file, bytes: len, entries: Vec::new() });
        for row in rows {
            ring.add(number, row, false);
        }
        Ok(())
    }
}

/// The rows of a full file; nothing where it has no whole table.
async fn table(file: &Arc<dyn File>, len: u64) -> io::Result<Option<Vec<Row>>> {
    let Some(last_at) = len.checked_sub(BLOCK as u64).filter(|at| at % BLOCK as u64 == 0) else {
        return Ok(None);
    };
    let last = file.read_at(last_at, BLOCK).await?;
    let Ok(trailer) = Trailer::decode(&last) else { return Ok(None) };
    let Some(table_len) = last_at.checked_sub(trailer.table_at) else { return Ok(None) };
    let table = file.read_at(trailer.table_at, table_len as usize).await?;
    let rows = trailer.rows(&table).unwrap_or_default();
    let end = trailer.table_at / BLOCK as u64;
    let is_inside = |row: &Row| u64::from(row.block) + u64::from(row.blocks) <= end;
    Ok((!rows.is_empty() && rows.iter().all(is_inside)).then_some(rows))
}

/// The entries of a file from its start up to the first one that is not whole.
async fn walk(file: &Arc<dyn File>, len: u64) -> io::Result<Vec<Row>> {
    let (mut rows, mut at, mut ahead) = (Vec::new(), 0, Bytes::new());
    while at + BLOCK as u64 <= len {
        if ahead.len() < BLOCK {
            ahead = file.read_at(at, WALK_BYTES).await?;
        }
        let Ok(head) = Head::decode(&ahead) else { break };
        let (block, blocks) = ((at / BLOCK as u64) as u32, head.blocks());
        let bytes = u64::from(blocks) * BLOCK as u64;
        if at + bytes > len {
            break;
        }
        rows.push(Row { fingerprint: fingerprint(&head.id), block, blocks });
        at += bytes;
        ahead = ahead.slice((bytes as usize).min(ahead.len())..);
    }
    Ok(rows)
}
