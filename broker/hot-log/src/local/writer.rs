//! The one task that writes a local lane: takes what is queued, makes it durable, completes it.
//!
//! Owns: the order of groups and the only calls of `EntryOwner`. Does not own: the files.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use levee_proto::crc::crc32c;
use levee_proto::object::RangeKind;
use levee_proto::wal::{GROUP_ENTRY_BYTES, GROUP_HEAD_BYTES, GroupEntry, GroupHead};
use levee_runtime::{AlignedBuf, Mono};

use super::files::WalFile;
use super::{FIRST_GROUP, Shared};
use crate::lane::{Entry, LaneEnd, LaneState, Payload};

/// Between two looks for room on a full disk.
const FULL_RETRY: Duration = Duration::from_millis(200);

pub(super) struct Writer {
    shared: Arc<Shared>,
    active: Option<Active>,
    file_seq: u64,
    group_seq: u64,
    prev_crc: u32,
    salt: u32,
    /// When the oldest group was written that is not synced yet; all such are in the active file.
    unsynced_since: Option<Mono>,
    /// Reused from group to group.
    buffer: Option<AlignedBuf>,
}

struct Active {
    file: WalFile,
    pos: u64,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let salt = shared.host.random_u64() as u32;
        Self {
            shared,
            active: None,
            file_seq: 0,
            group_seq: FIRST_GROUP,
            prev_crc: 0,
            salt,
            unsynced_since: None,
            buffer: None,
        }
    }

    pub(super) async fn run(mut self) {
        let mut in_hand = Vec::new();
        let why = match self.write_groups(&mut in_hand).await {
            Ok(()) => LaneEnd::Closed,
            Err(why) => why,
        };
        if why != LaneEnd::Closed {
            tracing::error!(lane = %self.shared.id, %why, "the local lane ended");
        }
        let queued = {
            let mut queue = self.shared.queue.lock();
            queue.ended = Some(why.clone());
            std::mem::take(&mut queue.entries)
        };
        self.shared.room.close();
        for entry in in_hand.into_iter().chain(queued) {
            entry.owner.failed(self.shared.id, entry.end, &why);
        }
        self.shared.state.send_replace(LaneState::Ended(why));
    }

    async fn write_groups(&mut self, in_hand: &mut Vec<Entry>) -> Result<(), LaneEnd> {
        loop {
            let (entries, closing) = self.take();
            if entries.is_empty() {
                if closing || self.flush_is_due() {
                    self.flush().await?;
                }
                if closing {
                    return Ok(());
                }
                self.wait_for_work().await;
                continue;
            }
            *in_hand = entries;
            let lazy = in_hand.iter().all(|entry| entry.lazy_sync);
            let sync = !lazy || self.flush_is_due();
            self.write(in_hand, sync).await?;
            self.complete(std::mem::take(in_hand), sync);
        }
    }

    /// Entries of the next group: as many as fit, at least one if there is one.
    fn take(&self) -> (Vec<Entry>, bool) {
        let mut queue = self.shared.queue.lock();
        let mut taken = Vec::with_capacity(queue.entries.len().min(1024));
        let mut bytes = 0;
        while let Some(entry) = queue.entries.front() {
            bytes += entry.payload.len() + GROUP_ENTRY_BYTES;
            if !taken.is_empty() && bytes > self.shared.config.group_bytes {
                break;
            }
            taken.extend(queue.entries.pop_front());
        }
        (taken, queue.closing)
    }

    fn flush_is_due(&self) -> bool {
        let interval = self.shared.config.flush_interval;
        self.unsynced_since.is_some_and(|since| self.shared.host.now().since(since) >= interval)
    }

    async fn wait_for_work(&self) {
        let woken = self.shared.wake.notified();
        match self.unsynced_since {
            None => woken.await,
            Some(since) => {
                let age = self.shared.host.now().since(since);
                let left = self.shared.config.flush_interval.saturating_sub(age);
                // Early or late: the loop looks at queue and clock again.
                let _ = self.shared.host.timeout(left, woken).await;
            }
        }
    }

    /// Syncs what is written but not synced.
    async fn flush(&mut self) -> Result<(), LaneEnd> {
        if let (Some(active), Some(_)) = (&self.active, self.unsynced_since) {
            let path = active.file.describe();
            self.watched("sync", &path, active.file.file.sync()).await?;
            self.note_synced();
        }
        Ok(())
    }

    fn note_synced(&mut self) {
        self.unsynced_since = None;
        self.shared.synced.store(self.group_seq - 1, Ordering::Release);
    }

    async fn write(&mut self, entries: &[Entry], sync: bool) -> Result<(), LaneEnd> {
        let started = self.shared.host.now();
        let (mut buffer, body_len) = self.gather(entries);
        let bytes = buffer.len() as u64;
        self.roll_if_full(bytes).await?;
        let head = self.seal(&mut buffer, body_len, entries.len());
        let active = self.active.as_ref().expect("rolling leaves an active file");
        let path = active.file.describe();
        let put = active.file.file.write_aligned(active.pos, buffer, sync);
        let buffer = self.watched("write", &path, put).await?;
        if buffer.capacity() <= 2 * self.shared.config.group_bytes {
            self.buffer = Some(buffer);
        }
        if let Some(active) = &mut self.active {
            active.pos += bytes;
        }
        self.prev_crc = head.crc();
        self.group_seq += 1;
        let took = self.shared.host.now().since(started).as_secs_f64();
        metrics::histogram!("levee_wal_sync_seconds", "lane" => "local").record(took);
        metrics::counter!("levee_wal_groups_total", "lane" => "local").increment(1);
        metrics::counter!("levee_wal_bytes_total", "lane" => "local").increment(bytes);
        Ok(())
    }

    /// Index and data behind room for the head, padded; and their length.
    fn gather(&mut self, entries: &[Entry]) -> (AlignedBuf, usize) {
        let data: usize = entries.iter().map(|e| e.payload.len()).sum();
        let bytes = GROUP_HEAD_BYTES + entries.len() * GROUP_ENTRY_BYTES + data;
        let reused = self.buffer.take().filter(|b| b.capacity() >= bytes);
        let mut buffer = reused
            .unwrap_or_else(|| AlignedBuf::with_capacity(bytes.next_power_of_two().max(64 << 10)));
        buffer.clear();
        buffer.extend(&[0; GROUP_HEAD_BYTES]);
        let mut index = Vec::with_capacity(entries.len() * GROUP_ENTRY_BYTES);
        for entry in entries {
            let kind = match entry.payload {
                Payload::Batch(_) => RangeKind::Data,
                Payload::HandOff(_) => RangeKind::HandOff,
            };
            GroupEntry {
                partition: entry.partition,
                leader_epoch: entry.leader_epoch,
                base: entry.base,
                end: entry.end,
                len: entry.payload.len() as u32,
                kind,
            }
            .encode(&mut index);
        }
        buffer.extend(&index);
        for entry in entries {
            match &entry.payload {
                Payload::Batch(batch) => batch.parts().iter().for_each(|p| buffer.extend(p)),
                Payload::HandOff(bytes) => buffer.extend(bytes),
            }
        }
        buffer.pad();
        (buffer, bytes - GROUP_HEAD_BYTES)
    }

    /// Writes the head; only now the file and what is synced are known.
    fn seal(&self, buffer: &mut AlignedBuf, body_len: usize, entries: usize) -> GroupHead {
        let body = &buffer[GROUP_HEAD_BYTES..GROUP_HEAD_BYTES + body_len];
        let head = GroupHead {
            lane: self.shared.id,
            file_seq: self.file_seq,
            group_seq: self.group_seq,
            synced_seq: self.shared.synced.load(Ordering::Acquire),
            prev_crc: self.prev_crc,
            entries: entries as u32,
            data_len: (body_len - entries * GROUP_ENTRY_BYTES) as u32,
            body_crc: crc32c(body),
            salt: self.salt,
        };
        buffer[..GROUP_HEAD_BYTES].copy_from_slice(&head.encode());
        head
    }

    async fn roll_if_full(&mut self, bytes: u64) -> Result<(), LaneEnd> {
        let full = |a: &Active| a.pos > 0 && a.pos + bytes > a.file.bytes;
        if self.active.as_ref().is_some_and(|active| !full(active)) {
            return Ok(());
        }
        // A later sync is one of the next file and says nothing about this one.
        self.flush().await?;
        if let Some(left) = self.active.take() {
            self.shared.files.leave(left.file, self.group_seq - 1);
        }
        let file = self.next_file(bytes).await?;
        self.file_seq += 1;
        self.active = Some(Active { file, pos: 0 });
        Ok(())
    }

    /// A full disk costs nothing that was written: the lane is stalled until there is room.
    async fn next_file(&self, bytes: u64) -> Result<WalFile, LaneEnd> {
        let shared = &self.shared;
        let mut full = false;
        loop {
            let take = async {
                match shared.files.take(bytes).await {
                    Err(error) if is_full(&error) => Ok(Err(error)),
                    taken => taken.map(Ok),
                }
            };
            let error = match self.watched("make", "the next file", take).await? {
                Ok(file) => {
                    if full {
                        shared.state.send_replace(LaneState::Open);
                    }
                    return Ok(file);
                }
                Err(error) => error,
            };
            let why = format!("no space left for the next WAL file ({error})");
            if !std::mem::replace(&mut full, true) {
                tracing::error!(lane = %shared.id, %why, "the local lane is stalled");
            }
            shared.state.send_replace(LaneState::Stalled(why));
            if shared.host.timeout(FULL_RETRY, shared.abandoned.notified()).await.is_ok() {
                return Err(LaneEnd::Closed);
            }
        }
    }

    /// The one place of this lane that says "durable" (I5).
    fn complete(&mut self, entries: Vec<Entry>, synced: bool) {
        let group = self.group_seq - 1;
        self.shared.book.lock().add(group, &entries);
        self.shared.next.store(self.group_seq, Ordering::Release);
        if synced {
            self.note_synced();
        } else if self.unsynced_since.is_none() {
            self.unsynced_since = Some(self.shared.host.now());
        }
        for entry in entries {
            let hand_off = matches!(entry.payload, Payload::HandOff(_));
            entry.owner.durable(self.shared.id, group, entry.end, hand_off);
        }
    }

    /// Waits for the disk; says so when it does not answer; its failure ends the lane (I18).
    async fn watched<T>(
        &self,
        what: &str,
        path: &str,
        work: impl Future<Output = io::Result<T>>,
    ) -> Result<T, LaneEnd> {
        let shared = &self.shared;
        let limit = shared.config.stalled_after;
        let mut late = std::pin::pin!(shared.host.sleep(limit));
        let mut work = std::pin::pin!(work);
        let mut stalled = false;
        loop {
            tokio::select! {
                biased;
                done = &mut work => {
                    let failed = |error| LaneEnd::Disk(format!("{what} of {path}: {error}"));
                    let done = done.map_err(failed)?;
                    if stalled {
                        shared.state.send_replace(LaneState::Open);
                    }
                    return Ok(done);
                }
                () = shared.abandoned.notified() => return Err(LaneEnd::Closed),
                () = &mut late, if !stalled => {
                    stalled = true;
                    let why = format!("the disk has not answered for {limit:?} to a {what} of {path}");
                    tracing::warn!(lane = %shared.id, %why, "the local lane is stalled");
                    shared.state.send_replace(LaneState::Stalled(why));
                }
            }
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
