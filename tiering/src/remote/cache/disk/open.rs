//! What an earlier life of this broker left in the folder of a disk cache.
//!
//! A full file has a table at its end, and a name that says so; the others are walked from entry to
//! entry. Only heads are looked at: data is checked as it is read.

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
use super::{DiskCache, FULL, Kept, OPEN, QUEUE_BYTES, Ring, Writer};

/// A disk that needs longer begins with what it has shown by then.
const OPEN_LIMIT: Duration = Duration::from_secs(20);
/// Bytes read at once on a walk: one head of a large entry, or many small entries.
const WALK_BYTES: usize = 64 << 10;
/// No ring gets that far: a larger number was written by nobody here.
const NUMBER_MAX: u32 = u32::MAX / 2;

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
            let Some((number, is_full)) = number_of(&name).filter(|_| !is_dir) else { continue };
            {
                // Its name is taken, whatever is in it.
                let mut ring = self.ring.lock();
                ring.next = ring.next.max(number);
            }
            if let Err(error) = self.load_file(number, is_full).await {
                tracing::warn!(file = name, %error, "a file of the cache is not used");
                let _ = self.host.disk().remove_file(&self.path(number, is_full)).await;
            }
        }
        Ok(())
    }

    async fn load_file(&self, number: u32, is_full: bool) -> io::Result<()> {
        let mode = OpenMode { create: false, write: false, direct: true };
        let file = self.host.disk().open(&self.path(number, is_full), mode).await?;
        let len = file.len().await?;
        let table = if is_full { table(&file, len).await? } else { None };
        let rows = match table {
            Some(rows) => rows,
            None => walk(&file, len).await?,
        };
        if rows.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "nothing in it is whole"));
        }
        let mut ring = self.ring.lock();
        ring.used += len;
        ring.files.insert(number, Kept { file, bytes: len, is_full, entries: Vec::new() });
        for row in rows {
            ring.add(number, row, false);
        }
        Ok(())
    }
}

/// Number of a file by its name, and whether it is full.
fn number_of(name: &str) -> Option<(u32, bool)> {
    let (hex, kind) = name.split_once('.')?;
    let number = u32::from_str_radix(hex, 16).ok().filter(|number| *number <= NUMBER_MAX)?;
    // Not every way to write a number is a name of ours.
    let is_ours = hex == format!("{number:08x}") && [OPEN, FULL].contains(&kind);
    is_ours.then_some((number, kind == FULL))
}

/// The rows of a full file; nothing where it has no whole table.
async fn table(file: &Arc<dyn File>, len: u64) -> io::Result<Option<Vec<Row>>> {
    let Some(last_at) = len.checked_sub(BLOCK as u64).filter(|at| at % BLOCK as u64 == 0) else {
        return Ok(None);
    };
    let last = file.read_at(last_at, BLOCK).await?;
    let Ok(trailer) = Trailer::decode(&last) else { return Ok(None) };
    // Not a byte more than its rows need: nothing of it was checked yet.
    if trailer.table_at + trailer.table_bytes() != last_at {
        return Ok(None);
    }
    let table = file.read_at(trailer.table_at, trailer.table_bytes() as usize).await?;
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

#[cfg(test)]
mod tests {
    use levee_runtime::AlignedBuf;
    use levee_runtime::sim::Sim;

    use super::super::super::{ChunkId, entry};
    use super::*;

    fn id(name: &str) -> ChunkId {
        ChunkId { object: name.into(), number: 0 }
    }

    /// Data of an entry that holds, at block borders of the file, an entry of another object and a
    /// table that points there.
    fn forged(outer: &ChunkId, inner: &ChunkId, at: u32) -> Vec<u8> {
        let mut file = AlignedBuf::with_capacity(BLOCK);
        entry::write(&mut file, inner, b"forged");
        let row = Row { fingerprint: fingerprint(inner), block: at + 1, blocks: 1 };
        entry::write_table(&mut file, &[row], at + 2);
        let mut data = vec![0; BLOCK - (28 + outer.object.len())];
        data.extend_from_slice(&file);
        data
    }

    /// What producers write into their records says nothing to a cache.
    #[test]
    fn data_that_looks_like_a_table_is_none() {
        Sim::run(7, |sim| async move {
            let machine = sim.host("a");
            let (outer, victim) = (id("d/00/theirs"), id("d/00/another"));
            let data = Bytes::from(forged(&outer, &victim, 0));
            let host = machine.start();
            let open = || DiskCache::open(host.clone(), "/c".into(), "chunks", 64 << 20);
            let disk = open().await;
            disk.put(outer.clone(), data.clone());
            host.sleep(Duration::from_secs(5)).await;
            assert!(disk.holds(&outer));
            let disk = open().await;
            assert_eq!(disk.get(&victim).await, None);
            assert_eq!(disk.get(&outer).await, Some(data));
        });
    }

    #[test]
    fn only_names_of_ours_are_taken() {
        for (name, number) in [
            ("00000001.cache", Some((1, false))),
            ("0000abcd.full", Some((0xabcd, true))),
            ("+1.cache", None),
            ("1.cache", None),
            ("0000ABCD.full", None),
            ("ffffffff.cache", None),
            ("00000001.tmp", None),
            ("00000001", None),
        ] {
            assert_eq!(number_of(name), number, "{name}");
        }
    }
}
