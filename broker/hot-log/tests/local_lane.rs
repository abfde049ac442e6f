//! The local lane and its recovery on a real folder.

#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use levee_hot_log::lane::{Entry, EntryOwner, Lane, LaneEnd, LaneState, Payload, Refused};
use levee_hot_log::local::recovery::{Group, ScanError, scan};
use levee_hot_log::{LocalConfig, LocalLane};
use levee_proto::crc::crc32c;
use levee_proto::ids::{LaneId, PartitionId, SessionId, TopicId};
use levee_proto::record::{StoredBatch, batch};
use levee_runtime::Host;
use levee_runtime::real::RealWorld;
use parking_lot::Mutex;
use tokio::sync::Notify;

fn lane_id() -> LaneId {
    LaneId { session: SessionId { broker: 1, epoch: 1 }, lane: 1 }
}

fn partition(n: u32) -> PartitionId {
    PartitionId { topic: TopicId(9), partition: n }
}

/// A whole batch with one opaque record of `size` bytes.
fn batch_bytes(size: usize, fill: u8) -> Bytes {
    let mut b = BytesMut::new();
    b.put_i64(0);
    b.put_i32((61 + size - 12) as i32);
    b.put_i32(0);
    b.put_u8(2);
    b.put_u32(0);
    b.put_i16(0);
    b.put_i32(0);
    b.put_i64(1);
    b.put_i64(1);
    b.put_i64(-1);
    b.put_i16(-1);
    b.put_i32(-1);
    b.put_i32(1);
    b.put_bytes(fill, size);
    let crc = crc32c(&b[21..]);
    b[17..21].copy_from_slice(&crc.to_be_bytes());
    b.freeze()
}

#[derive(Default)]
struct Owner {
    /// Ends in the order of completion.
    durable: Mutex<Vec<u64>>,
    failed: Mutex<Vec<u64>>,
    covered: AtomicU64,
    changed: Notify,
}

impl EntryOwner for Owner {
    fn durable(&self, _lane: LaneId, _position: u64, end: u64, _hand_off: bool) {
        self.durable.lock().push(end);
        self.changed.notify_waiters();
    }
    fn failed(&self, _lane: LaneId, end: u64, _why: &LaneEnd) {
        self.failed.lock().push(end);
        self.changed.notify_waiters();
    }
    fn is_covered(&self, _epoch: u32, end: u64, _hand_off: bool) -> bool {
        end <= self.covered.load(Ordering::Relaxed)
    }
}

impl Owner {
    async fn wait(&self, count: usize) {
        loop {
            let changed = self.changed.notified();
            if self.durable.lock().len() + self.failed.lock().len() >= count {
                return;
            }
            changed.await;
        }
    }
}

async fn append(lane: &LocalLane, owner: &Arc<Owner>, offset: u64, bytes: &Bytes) {
    let reservation = lane.reserve(bytes.len()).await.expect("room");
    let header = batch::check(bytes).expect("a whole batch");
    lane.append(Entry {
        partition: partition((offset % 3) as u32),
        leader_epoch: 1,
        base: offset,
        end: offset + 1,
        payload: Payload::Batch(StoredBatch::stamp(bytes, header, offset, 1)),
        aborted: None,
        lazy_sync: false,
        owner: owner.clone(),
        reservation,
    })
    .expect("the lane takes it");
}

fn small() -> LocalConfig {
    LocalConfig { file_bytes: 1 << 20, group_bytes: 64 << 10, ..LocalConfig::default() }
}

async fn open(host: &Host, dir: &Path) -> Arc<LocalLane> {
    LocalLane::open(host.clone(), dir, lane_id(), small()).await.expect("lane opens")
}

/// Offsets found, by number of the group that holds them.
async fn read_back(
    host: &Host,
    dir: &Path,
    trim: u64,
    floor: u64,
) -> Result<(BTreeMap<u64, Bytes>, u64), ScanError> {
    let mut found = BTreeMap::new();
    let (groups, mut received) = tokio::sync::mpsc::channel::<Group>(1);
    let collect = async {
        while let Some((_, entries)) = received.recv().await {
            for (entry, bytes) in entries {
                found.insert(entry.base, bytes);
            }
        }
    };
    let (scanned, ()) = tokio::join!(scan(host, dir, lane_id(), trim, floor, groups), collect);
    let scanned = scanned?;
    Ok((found, scanned.end))
}

fn wal_files(dir: &Path) -> Vec<PathBuf> {
    let lane = fs::read_dir(dir).unwrap().next().unwrap().unwrap().path();
    let mut files: Vec<_> = fs::read_dir(lane).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    files
}

#[tokio::test]
async fn what_completed_is_read_back_in_order_across_rolled_and_recycled_files() {
    let (host, dir) = (RealWorld::host(), tempfile::tempdir().unwrap());
    let lane = open(&host, dir.path()).await;
    let owner = Arc::new(Owner::default());
    let bytes = batch_bytes(20_000, 7);
    let mut trim = 0;
    for offset in 0..600 {
        append(&lane, &owner, offset, &bytes).await;
        if offset % 100 == 99 {
            owner.wait(offset as usize + 1).await;
            // All but the newest 50 are in the bucket now.
            owner.covered.store(offset - 50, Ordering::Relaxed);
            trim = lane.covered();
            lane.trimmed(trim);
        }
    }
    lane.close(Duration::from_secs(10)).await;
    let durable = owner.durable.lock().clone();
    assert_eq!(durable, (1..=600).collect::<Vec<_>>(), "completion follows append order");
    assert!(wal_files(dir.path()).len() <= 8, "files are recycled: {:?}", wal_files(dir.path()));
    let (found, _) = read_back(&host, dir.path(), trim, 0).await.unwrap();
    let wanted: Vec<u64> = (549..600).collect();
    let kept: Vec<u64> = found.keys().copied().filter(|o| *o >= 549).collect();
    assert_eq!(kept, wanted);
    for (offset, bytes) in found {
        assert_eq!(batch::check(&bytes).unwrap().base_offset, offset);
    }
}

#[tokio::test]
async fn f15_a_torn_last_group_is_cut_and_nothing_else() {
    let (host, dir) = (RealWorld::host(), tempfile::tempdir().unwrap());
    let lane = open(&host, dir.path()).await;
    let owner = Arc::new(Owner::default());
    let bytes = batch_bytes(5_000, 1);
    for offset in 0..20 {
        append(&lane, &owner, offset, &bytes).await;
        owner.wait(offset as usize + 1).await;
    }
    lane.close(Duration::from_secs(10)).await;
    // The 20th group starts at 19 * 8192; no later head says that it was synced.
    let file = fs::OpenOptions::new().write(true).open(&wal_files(dir.path())[0]).unwrap();
    file.write_all_at(&[0; 512], 19 * 8192 + 4096).unwrap();
    let (found, end) = read_back(&host, dir.path(), 1, 0).await.unwrap();
    assert_eq!((found.len(), end), (19, 20));
    // A heartbeat that knows better makes it corruption, not a torn tail.
    let error = read_back(&host, dir.path(), 1, 20).await.unwrap_err();
    assert!(matches!(error, ScanError::Corrupt { group: 20, synced: 20, .. }), "{error}");
}

#[tokio::test]
async fn f16_a_flipped_bit_below_the_synced_end_is_reported_not_truncated() {
    let (host, dir) = (RealWorld::host(), tempfile::tempdir().unwrap());
    let lane = open(&host, dir.path()).await;
    let owner = Arc::new(Owner::default());
    let bytes = batch_bytes(5_000, 1);
    for offset in 0..20 {
        append(&lane, &owner, offset, &bytes).await;
        owner.wait(offset as usize + 1).await;
    }
    lane.close(Duration::from_secs(10)).await;
    let path = &wal_files(dir.path())[0];
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 5 * 8192 + 3000).unwrap();
    file.write_all_at(&[byte[0] ^ 4], 5 * 8192 + 3000).unwrap();
    let before = fs::read(path).unwrap();
    let error = read_back(&host, dir.path(), 1, 0).await.unwrap_err();
    assert!(matches!(error, ScanError::Corrupt { group: 6, .. }), "{error}");
    assert_eq!(fs::read(path).unwrap(), before, "recovery changes nothing");
    // Below the trim it does not matter any more.
    assert_eq!(read_back(&host, dir.path(), 8, 0).await.map(|(_, end)| end).unwrap(), 21);
}

#[tokio::test]
async fn a_full_queue_makes_writers_wait_and_an_ended_lane_refuses() {
    let (host, dir) = (RealWorld::host(), tempfile::tempdir().unwrap());
    let config = LocalConfig { queue_bytes: 10_000, ..small() };
    let lane = LocalLane::open(host.clone(), dir.path(), lane_id(), config).await.unwrap();
    let held = lane.reserve(10_000).await.unwrap();
    let waits = host.timeout(Duration::from_millis(30), lane.reserve(1)).await;
    assert!(waits.is_err(), "no room is given twice");
    drop(held);
    // Larger than the queue itself: takes all of it rather than waiting for ever.
    drop(lane.reserve(50_000).await.unwrap());
    lane.close(Duration::from_secs(5)).await;
    assert_eq!(*lane.state().borrow(), LaneState::Ended(LaneEnd::Closed));
    assert!(matches!(lane.reserve(1).await, Err(Refused::Ended(LaneEnd::Closed))));
    let owner = Arc::new(Owner::default());
    let bytes = batch_bytes(10, 0);
    let header = batch::check(&bytes).unwrap();
    let refused = lane.append(Entry {
        partition: partition(0),
        leader_epoch: 1,
        base: 0,
        end: 1,
        payload: Payload::Batch(StoredBatch::stamp(&bytes, header, 0, 1)),
        aborted: None,
        lazy_sync: false,
        owner: owner.clone(),
        reservation: levee_hot_log::lane::Reservation::none(),
    });
    assert_eq!(refused, Err(LaneEnd::Closed));
    assert_eq!((owner.failed.lock().len(), owner.durable.lock().len()), (0, 0));
}

#[tokio::test]
async fn a_wiped_disk_is_missing_and_not_empty() {
    let (host, dir) = (RealWorld::host(), tempfile::tempdir().unwrap());
    let error = read_back(&host, dir.path(), 1, 0).await.unwrap_err();
    assert!(matches!(error, ScanError::Missing { .. }), "{error}");
}
