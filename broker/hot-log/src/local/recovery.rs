//! Reading a local lane back after its session ended.
//!
//! Owns: telling a torn tail from a corrupt or old disk. Never truncates what was once synced
//! (I17): a break below the highest synced group stops recovery and is reported.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use levee_proto::FormatError;
use levee_proto::ids::LaneId;
use levee_proto::limits::WAL_ALIGN;
use levee_proto::object::RangeKind;
use levee_proto::record::batch;
use levee_proto::wal::{GROUP_HEAD_BYTES, GroupEntry, GroupHead};
use levee_runtime::{File, Host, OpenMode};
use thiserror::Error;
use tokio::sync::mpsc;

use super::{FIRST_GROUP, lane_dir_name};

/// Bytes read at once.
const READ_BYTES: usize = 4 << 20;

/// Why a lane could not be read back.
#[derive(Debug, Error)]
pub enum ScanError {
    #[error("{path}: {error}")]
    Disk { path: PathBuf, error: io::Error },
    /// The lane's folder is not on this disk.
    #[error("{path} is not here: the disk of lane {lane} is elsewhere or was wiped")]
    Missing { path: PathBuf, lane: LaneId },
    /// Something that was durable once is damaged or gone.
    #[error(
        "{path}: group {group} of lane {lane} at byte {pos} is damaged ({why}), but group \
         {synced} was durable: this disk is corrupt or an old copy; nothing was cut off"
    )]
    Corrupt { path: PathBuf, lane: LaneId, group: u64, pos: u64, synced: u64, why: String },
    #[error("nobody takes what is read")]
    Stopped,
}

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scan {
    /// Exclusive: the first group that is not there.
    pub end: u64,
    /// Highest group that some head says was synced.
    pub synced: u64,
}

/// One group: its number and entries, checked.
pub type Group = (u64, Vec<(GroupEntry, Bytes)>);

struct Found {
    path: PathBuf,
    file: Arc<dyn File>,
    len: u64,
    first: Option<GroupHead>,
}

struct Break {
    path: PathBuf,
    pos: u64,
    why: String,
}

/// Sends all groups from `trim` on, in order. `synced_floor` is the highest group that a heartbeat
/// in the MetaLog calls synced. The caller holds the exclusive lock of the data folder (I7).
/// What is damaged below `trim` does not matter: references cover it.
pub async fn scan(
    host: &Host,
    wal_dir: &Path,
    lane: LaneId,
    trim: u64,
    synced_floor: u64,
    groups: mpsc::Sender<Group>,
) -> Result<Scan, ScanError> {
    let dir = wal_dir.join(lane_dir_name(lane));
    let trim = trim.max(FIRST_GROUP);
    let files = open_files(host, &dir, lane).await?;
    let mut synced = synced_floor;
    let mut chain: Option<Link> = None;
    let mut broken: Option<Break> = None;
    let mut ended = false;
    for found in &files {
        let mut reader = Window::new(found);
        let mut pos = 0;
        if let (Some(first), false) = (found.first, ended) {
            match chain {
                // The chain goes on here: what follows its last group in the file before is old.
                Some(link) if link.fits(&first) => {}
                // Files that were recycled leave gaps, all of them below the trim.
                _ if first.group_seq > trim => ended = true,
                _ => chain = Some(Link::to(&first)),
            }
            if let (Some(link), false) = (&mut chain, ended) {
                let file = Walk { lane, file_seq: first.file_seq, trim };
                let walked = file.run(&mut reader, link, &groups).await?;
                pos = walked.pos;
                synced = synced.max(walked.synced);
                broken = Some(walked.broken);
            }
        }
        synced = synced.max(look(&mut reader, lane, chain.map(|link| link.salt), pos).await?);
    }
    let end = chain.map_or(trim, |link| link.next.max(trim));
    if synced >= end {
        let (path, pos, why) = match broken {
            Some(b) => (b.path, b.pos, b.why),
            None => (dir, 0, "it is not in any file".into()),
        };
        return Err(ScanError::Corrupt { path, lane, group: end, pos, synced, why });
    }
    Ok(Scan { end, synced })
}

/// Opens and syncs every file, then reads first heads; those in use come first, in file order.
async fn open_files(host: &Host, dir: &Path, lane: LaneId) -> Result<Vec<Found>, ScanError> {
    let disk = host.disk();
    let failed = |path: &Path, error| ScanError::Disk { path: path.to_owned(), error };
    let listed = match disk.list(dir).await {
        Ok(listed) => listed,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(ScanError::Missing { path: dir.to_owned(), lane });
        }
        Err(error) => return Err(failed(dir, error)),
    };
    let mut files = Vec::new();
    for entry in listed.iter().filter(|e| e.name.ends_with(".wal")) {
        let path = dir.join(&entry.name);
        let mode = OpenMode { create: false, write: true, direct: true };
        let file = disk.open(&path, mode).await.map_err(|e| failed(&path, e))?;
        // What is read below must also be there after the next power loss.
        file.sync().await.map_err(|e| failed(&path, e))?;
        let len = file.len().await.map_err(|e| failed(&path, e))?;
        files.push(Found { path, file, len, first: None });
    }
    for found in &mut files {
        let bytes = read(found, 0, WAL_ALIGN).await?;
        let head = GroupHead::decode(&bytes).ok();
        found.first = head.filter(|head| head.lane == lane);
    }
    files.sort_by_key(|f| f.first.map_or(u64::MAX, |head| head.file_seq));
    Ok(files)
}

async fn read(found: &Found, pos: u64, len: usize) -> Result<Bytes, ScanError> {
    let fail = |error| ScanError::Disk { path: found.path.clone(), error };
    found.file.read_at(pos, len).await.map_err(fail)
}

/// A file read forward, in large pieces.
struct Window<'a> {
    found: &'a Found,
    start: u64,
    bytes: Bytes,
}

impl<'a> Window<'a> {
    fn new(found: &'a Found) -> Self {
        Self { found, start: 0, bytes: Bytes::new() }
    }

    /// Up to `len` bytes; fewer only at the end of the file. Both are multiples of `WAL_ALIGN`.
    async fn at(&mut self, pos: u64, len: usize) -> Result<Bytes, ScanError> {
        let inside = pos >= self.start && pos + len as u64 <= self.start + self.bytes.len() as u64;
        if !inside {
            self.bytes = read(self.found, pos, len.max(READ_BYTES)).await?;
            self.start = pos;
        }
        let from = ((pos - self.start) as usize).min(self.bytes.len());
        Ok(self.bytes.slice(from..self.bytes.len().min(from + len)))
    }
}

/// What the next group of the chain must be.
#[derive(Clone, Copy)]
struct Link {
    next: u64,
    prev_crc: u32,
    salt: u32,
}

impl Link {
    /// The link that leads to this group.
    fn to(head: &GroupHead) -> Self {
        Self { next: head.group_seq, prev_crc: head.prev_crc, salt: head.salt }
    }

    fn fits(&self, head: &GroupHead) -> bool {
        (self.next, self.prev_crc, self.salt) == (head.group_seq, head.prev_crc, head.salt)
    }
}

struct Walked {
    pos: u64,
    synced: u64,
    broken: Break,
}

/// One file of the chain.
struct Walk {
    lane: LaneId,
    file_seq: u64,
    trim: u64,
}

impl Walk {
    /// Follows the chain through the file, to the first thing that is not its next group.
    async fn run(
        &self,
        reader: &mut Window<'_>,
        link: &mut Link,
        groups: &mpsc::Sender<Group>,
    ) -> Result<Walked, ScanError> {
        let (mut pos, mut synced) = (0, 0);
        loop {
            let why = match self.head_at(reader, pos, *link).await? {
                Ok(head) => match self.entries_at(reader, pos, &head).await? {
                    Ok(entries) => {
                        synced = synced.max(head.synced_seq);
                        pos += head.disk_bytes();
                        let salt = head.salt;
                        *link = Link { next: head.group_seq + 1, prev_crc: head.crc(), salt };
                        if let Some(entries) = entries {
                            let sent = groups.send((head.group_seq, entries)).await;
                            sent.map_err(|_| ScanError::Stopped)?;
                        }
                        continue;
                    }
                    Err(error) => error.to_string(),
                },
                Err(error) => error.to_string(),
            };
            if link.next < self.trim
                && let Some((at, head)) = self.resume(reader, pos, *link).await?
            {
                pos = at;
                *link = Link::to(&head);
                continue;
            }
            let broken = Break { path: reader.found.path.clone(), pos, why };
            return Ok(Walked { pos, synced, broken });
        }
    }

    async fn head_at(
        &self,
        reader: &mut Window<'_>,
        pos: u64,
        link: Link,
    ) -> Result<Result<GroupHead, FormatError>, ScanError> {
        let head = match GroupHead::decode(&reader.at(pos, WAL_ALIGN).await?) {
            Ok(head) => head,
            Err(error) => return Ok(Err(error)),
        };
        let odd = |why: String| Ok(Err(FormatError::new("wal group", 0, why)));
        if head.lane != self.lane || head.file_seq != self.file_seq {
            return odd(format!("of lane {} file {}", head.lane, head.file_seq));
        }
        if !link.fits(&head) {
            return odd(format!("number {} in place of {}", head.group_seq, link.next));
        }
        Ok(Ok(head))
    }

    /// Entries of a group at or above the trim; none of others, whose bytes nobody needs.
    async fn entries_at(
        &self,
        reader: &mut Window<'_>,
        pos: u64,
        head: &GroupHead,
    ) -> Result<Result<Option<Vec<(GroupEntry, Bytes)>>, FormatError>, ScanError> {
        if head.group_seq < self.trim {
            return Ok(Ok(None));
        }
        let whole = reader.at(pos, head.disk_bytes() as usize).await?;
        if (whole.len() as u64) < head.bytes() {
            let why = format!("{} of {} bytes", whole.len(), head.bytes());
            return Ok(Err(FormatError::new("wal group", 0, why)));
        }
        let entries = match head.body(&whole.slice(GROUP_HEAD_BYTES..)) {
            Ok(entries) => entries,
            Err(error) => return Ok(Err(error)),
        };
        for (entry, bytes) in &entries {
            if entry.kind == RangeKind::Data
                && let Err(error) = batch::check(bytes)
            {
                // The group is whole, so it was written so: no torn tail.
                return Err(ScanError::Corrupt {
                    path: reader.found.path.clone(),
                    lane: self.lane,
                    group: head.group_seq,
                    pos,
                    synced: head.group_seq,
                    why: format!("{} offset {}: {error}", entry.partition, entry.base),
                });
            }
        }
        Ok(Ok(Some(entries)))
    }

    /// The next readable group of this file at or below the trim, behind damage that nobody needs.
    async fn resume(
        &self,
        reader: &mut Window<'_>,
        mut pos: u64,
        link: Link,
    ) -> Result<Option<(u64, GroupHead)>, ScanError> {
        loop {
            pos += WAL_ALIGN as u64;
            let unit = reader.at(pos, WAL_ALIGN).await?;
            if unit.len() < WAL_ALIGN {
                return Ok(None);
            }
            if let Ok(head) = GroupHead::decode(&unit)
                && (head.lane, head.file_seq, head.salt) == (self.lane, self.file_seq, link.salt)
                && head.group_seq > link.next
                && head.group_seq <= self.trim
            {
                return Ok(Some((pos, head)));
            }
        }
    }
}

/// Highest synced group that any head of this lane from `pos` on names.
async fn look(
    reader: &mut Window<'_>,
    lane: LaneId,
    salt: Option<u32>,
    mut pos: u64,
) -> Result<u64, ScanError> {
    let mut synced = 0;
    while pos < reader.found.len {
        let unit = reader.at(pos, WAL_ALIGN).await?;
        if unit.is_empty() {
            break;
        }
        // Most units are data or zeros: look at the magic before the crc.
        if unit.starts_with(b"LVWG")
            && let Ok(head) = GroupHead::decode(&unit)
            && head.lane == lane
            && salt.is_none_or(|salt| salt == head.salt)
        {
            synced = synced.max(head.synced_seq);
        }
        pos += WAL_ALIGN as u64;
    }
    Ok(synced)
}
