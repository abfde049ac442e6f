//! The contract of a lane, held by each kind: one suite, in virtual time.

#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use levee_hot_log::lane::{
    Entry, EntryOwner, Lane, LaneEnd, LaneState, Payload, Refused, Reservation,
};
use levee_hot_log::local::recovery::scan;
use levee_hot_log::{LocalConfig, LocalLane};
use levee_proto::ids::{LaneId, PartitionId, SessionId, TopicId};
use levee_proto::keys;
use levee_proto::object::{Footer, RangeKind, Trailer};
use levee_proto::record::codecs::Compression;
use levee_proto::record::records::{BatchBuilder, RecordData};
use levee_proto::record::{StoredBatch, batch};
use levee_runtime::Host;
use levee_runtime::sim::{DiskFaults, Sim, SimHost};
use levee_tests::sim::{Faults, SimStore, seed};
use levee_tiering::object_lane::{ObjectLane, ObjectLaneConfig};
use levee_tiering::store::{Deadlines, Store};
use parking_lot::Mutex;

const QUEUE_BYTES: usize = 64 << 10;
const LANE: LaneId = LaneId { session: SessionId { broker: 1, epoch: 1 }, lane: 0 };
const WAL: &str = "/data/wal";

/// A lane's world.
#[async_trait]
trait Medium: Send + Sync {
    async fn open(&self) -> Arc<dyn Lane>;
    /// It gives no answer, or does again.
    fn away(&self, away: bool);
    /// The next write ends the lane.
    async fn ruin(&self, lane: &dyn Lane);
    /// Partition, base and end of all entries that a recovery finds after a power loss.
    async fn recover(&self) -> Vec<(PartitionId, u64, u64)>;
}

struct Disk {
    machine: SimHost,
    host: Host,
}

#[async_trait]
impl Medium for Disk {
    async fn open(&self) -> Arc<dyn Lane> {
        let config = LocalConfig {
            file_bytes: 256 << 10,
            group_bytes: 32 << 10,
            queue_bytes: QUEUE_BYTES,
            ..LocalConfig::default()
        };
        self.host.disk().create_dir_all(Path::new(WAL)).await.unwrap();
        LocalLane::open(self.host.clone(), Path::new(WAL), LANE, config).await.unwrap()
    }

    fn away(&self, away: bool) {
        self.machine.disk().set_faults(DiskFaults { silent: away, ..DiskFaults::default() });
    }

    async fn ruin(&self, _: &dyn Lane) {
        self.machine.disk().set_faults(DiskFaults { failing_syncs: 100, ..DiskFaults::default() });
    }

    async fn recover(&self) -> Vec<(PartitionId, u64, u64)> {
        self.machine.power_loss();
        let host = self.machine.start();
        let (groups, mut received) = tokio::sync::mpsc::channel(64);
        let scanning = scan(&host, Path::new(WAL), LANE, 1, 0, groups);
        let mut found = Vec::new();
        let reading = async {
            while let Some((_, entries)) = received.recv().await {
                found.extend(entries.iter().map(|(e, _)| (e.partition, e.base, e.end)));
            }
        };
        let (scanned, ()) = tokio::join!(scanning, reading);
        scanned.unwrap();
        found
    }
}

struct Bucket {
    bucket: SimStore,
    seen: SimStore,
    host: Host,
}

#[async_trait]
impl Medium for Bucket {
    async fn open(&self) -> Arc<dyn Lane> {
        let config = ObjectLaneConfig {
            linger: Duration::from_millis(5),
            slot_bytes: 16 << 10,
            in_flight: 4,
            queue_bytes: QUEUE_BYTES,
            ..ObjectLaneConfig::default()
        };
        let deadlines = Deadlines { request: Duration::from_secs(3), ..Deadlines::default() };
        let store = Store::over(Arc::new(self.seen.clone()), "", self.host.clone(), "sim");
        ObjectLane::open(
            self.host.clone(),
            store.with_deadlines(deadlines),
            LANE,
            config,
            Arc::default(),
        )
    }

    fn away(&self, away: bool) {
        self.seen.set(Faults { away, ..Faults::default() });
    }

    /// Somebody else has the slots from here on.
    async fn ruin(&self, lane: &dyn Lane) {
        for slot in 0..8 {
            let key = keys::lane_slot(LANE, lane.next_position() + slot);
            if self.bucket.peek(&key).await.is_none() {
                self.bucket.plant(&key, b"not this session's".to_vec()).await;
            }
        }
    }

    async fn recover(&self) -> Vec<(PartitionId, u64, u64)> {
        let mut found = Vec::new();
        for slot in 0.. {
            let Some(object) = self.bucket.peek(&keys::lane_slot(LANE, slot)).await else { break };
            let trailer = Trailer::decode(&object, object.len() as u64).unwrap();
            let (from, len) = (trailer.footer_pos as usize, trailer.footer_len as usize);
            let footer: Footer = trailer.footer(&object[from..from + len]).unwrap();
            let data = footer.ranges.iter().filter(|r| r.kind == RangeKind::Data);
            found.extend(data.map(|r| (r.partition, r.base, r.end)));
        }
        found
    }
}

/// What the lane said, in its order.
#[derive(Default)]
struct Owner {
    said: Mutex<Vec<(u64, Said)>>,
    covered: AtomicU64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    Durable { position: u64, hand_off: bool },
    Failed,
}

impl EntryOwner for Owner {
    fn durable(&self, lane: LaneId, position: u64, end: u64, hand_off: bool) {
        assert_eq!(lane, LANE);
        self.said.lock().push((end, Said::Durable { position, hand_off }));
    }

    fn failed(&self, _: LaneId, end: u64, _: &LaneEnd) {
        self.said.lock().push((end, Said::Failed));
    }

    fn is_covered(&self, _: u32, end: u64, _: bool) -> bool {
        end <= self.covered.load(Ordering::Relaxed)
    }
}

impl Owner {
    fn durable(&self) -> Vec<u64> {
        let said = self.said.lock();
        said.iter().filter(|(_, s)| *s != Said::Failed).map(|(end, _)| *end).collect()
    }

    fn failed(&self) -> Vec<u64> {
        let said = self.said.lock();
        said.iter().filter(|(_, s)| *s == Said::Failed).map(|(end, _)| *end).collect()
    }

    async fn wait(&self, count: usize) {
        let started = tokio::time::Instant::now();
        while self.said.lock().len() < count {
            assert!(started.elapsed() < Duration::from_secs(120), "{count} entries are told");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

fn partition(n: u64) -> PartitionId {
    PartitionId { topic: TopicId(7), partition: (n % 3) as u32 }
}

fn payload(size: usize, base: u64) -> Payload {
    let mut builder = BatchBuilder::new(Compression::None);
    let value = Some(Bytes::from(vec![base as u8; size]));
    builder.push(&RecordData { value, ..RecordData::default() });
    let bytes = builder.build(None);
    let header = batch::check(&bytes).unwrap();
    Payload::Batch(StoredBatch::stamp(&bytes, header, base, 1))
}

fn entry(owner: &Arc<Owner>, base: u64, payload: Payload, reservation: Reservation) -> Entry {
    let end = base + u64::from(matches!(payload, Payload::Batch(_)));
    Entry {
        partition: partition(base),
        leader_epoch: 1,
        base,
        end,
        payload,
        aborted: None,
        lazy_sync: false,
        owner: owner.clone(),
        reservation,
    }
}

async fn append(
    lane: &dyn Lane,
    owner: &Arc<Owner>,
    base: u64,
    size: usize,
) -> Result<(), Refused> {
    let payload = payload(size, base);
    let reservation = lane.reserve(payload.len()).await?;
    lane.append(entry(owner, base, payload, reservation)).map_err(Refused::Ended)
}

/// Runs a part of the suite on each kind of lane.
fn each<F: Future<Output = ()>>(part: impl Fn(Sim, Arc<dyn Medium>) -> F) {
    for number in 0..4 {
        Sim::run(seed(number), |sim| {
            let machine = sim.host("a");
            let host = machine.start();
            part(sim, Arc::new(Disk { machine, host }))
        });
        Sim::run(seed(number), |sim| {
            let bucket = SimStore::new(&sim);
            let (seen, host) = (bucket.seen_by("a"), sim.host("a").start());
            part(sim, Arc::new(Bucket { bucket, seen, host }))
        });
    }
}

#[test]
fn completion_is_in_order_once_and_durable() {
    each(|sim, medium| async move {
        let lane = medium.open().await;
        let owner = Arc::new(Owner::default());
        let mut appended = 0;
        for base in 0..300 {
            append(&*lane, &owner, base, sim.below(3000) as usize).await.unwrap();
            appended += 1;
            if sim.one_in(20) {
                tokio::time::sleep(Duration::from_millis(sim.below(40))).await;
            }
        }
        owner.wait(appended).await;
        assert_eq!(owner.durable(), (1..=300).collect::<Vec<_>>());
        let positions: Vec<u64> = owner
            .said
            .lock()
            .iter()
            .map(|(_, said)| match said {
                Said::Durable { position, .. } => *position,
                Said::Failed => panic!("nothing fails"),
            })
            .collect();
        assert!(positions.is_sorted(), "{positions:?}");
        assert!(positions[0] < positions[299] && positions[299] < 299, "grouped: {positions:?}");
        // Whatever happens now, it is there.
        let mut found = medium.recover().await;
        found.sort();
        for base in 0..300 {
            let id = partition(base);
            let there = found.iter().any(|(p, from, to)| *p == id && (*from..*to).contains(&base));
            assert!(there, "{base} was completed and is lost");
        }
    });
}

#[test]
fn a_medium_that_is_away_stalls_the_lane_and_loses_nothing() {
    each(|_, medium| async move {
        let lane = medium.open().await;
        let owner = Arc::new(Owner::default());
        for base in 0..10 {
            append(&*lane, &owner, base, 100).await.unwrap();
        }
        owner.wait(10).await;
        medium.away(true);
        for base in 10..20 {
            append(&*lane, &owner, base, 100).await.unwrap();
        }
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert_eq!(owner.said.lock().len(), 10, "nothing is told while nobody knows");
        assert!(matches!(&*lane.state().borrow(), LaneState::Stalled(_)), "{:?}", lane.state());
        assert!(matches!(lane.reserve(1).await, Err(Refused::Stalled(_))));
        // Fifteen minutes never end it.
        tokio::time::sleep(Duration::from_secs(900)).await;
        medium.away(false);
        owner.wait(20).await;
        assert_eq!(owner.durable(), (1..=20).collect::<Vec<_>>());
        let mut state = lane.state();
        let open = state.wait_for(|state| *state == LaneState::Open);
        tokio::time::timeout(Duration::from_secs(60), open).await.unwrap().unwrap();
        append(&*lane, &owner, 20, 100).await.unwrap();
        owner.wait(21).await;
    });
}

#[test]
fn what_waits_is_bounded_in_bytes() {
    each(|_, medium| async move {
        let lane = medium.open().await;
        let owner = Arc::new(Owner::default());
        append(&*lane, &owner, 0, 100).await.unwrap();
        owner.wait(1).await;
        medium.away(true);
        let mut taken = 0;
        for base in 1.. {
            let one = append(&*lane, &owner, base, 4000);
            match tokio::time::timeout(Duration::from_millis(50), one).await {
                Ok(Ok(())) => taken += 4000,
                // Full: it waits, and is refused once the lane is seen to be stalled.
                Ok(Err(Refused::Stalled(_))) | Err(_) => break,
                Ok(Err(refused)) => panic!("{refused:?}"),
            }
        }
        assert!((QUEUE_BYTES / 2..=QUEUE_BYTES).contains(&taken), "{taken} of {QUEUE_BYTES}");
        medium.away(false);
        let mut state = lane.state();
        owner.wait(1 + taken / 4000).await;
        state.wait_for(|state| *state == LaneState::Open).await.unwrap();
        // All room is given back; more than the whole room takes all of it.
        drop(lane.reserve(QUEUE_BYTES).await.unwrap());
        drop(lane.reserve(10 * QUEUE_BYTES).await.unwrap());
    });
}

#[test]
fn an_ended_lane_fails_the_rest_in_order_and_never_completes_again() {
    each(|_, medium| async move {
        let lane = medium.open().await;
        let owner = Arc::new(Owner::default());
        append(&*lane, &owner, 0, 100).await.unwrap();
        owner.wait(1).await;
        medium.ruin(&*lane).await;
        let mut appended = 1;
        for base in 1..12 {
            match append(&*lane, &owner, base, 3000).await {
                Ok(()) => appended += 1,
                Err(Refused::Ended(_)) => break,
                Err(refused) => panic!("{refused:?}"),
            }
        }
        owner.wait(appended).await;
        let (durable, failed) = (owner.durable(), owner.failed());
        assert!(!failed.is_empty());
        let told: Vec<u64> = durable.iter().chain(&failed).copied().collect();
        assert_eq!(told, (1..=appended as u64).collect::<Vec<_>>(), "each once, in order");
        assert!(matches!(&*lane.state().borrow(), LaneState::Ended(_)));
        assert!(matches!(lane.reserve(1).await, Err(Refused::Ended(_))));
        let late = entry(&owner, 50, payload(10, 50), Reservation::none());
        assert!(lane.append(late).is_err());
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(owner.said.lock().len(), appended, "nobody is called any more");
    });
}

#[test]
fn the_trim_follows_what_is_covered() {
    each(|_, medium| async move {
        let lane = medium.open().await;
        let owner = Arc::new(Owner::default());
        let first = lane.covered();
        for base in 0..60 {
            append(&*lane, &owner, base, 2000).await.unwrap();
        }
        owner.wait(60).await;
        assert_eq!(lane.covered(), first, "nothing is covered yet");
        let position = |end: u64| {
            let said = owner.said.lock();
            said.iter().find_map(|(e, said)| match said {
                Said::Durable { position, .. } if *e == end => Some(*position),
                _ => None,
            })
        };
        for covered in [10, 30, 59] {
            owner.covered.store(covered, Ordering::Relaxed);
            assert_eq!(Some(lane.covered()), position(covered + 1), "up to what is still needed");
        }
        owner.covered.store(60, Ordering::Relaxed);
        assert_eq!(Some(lane.covered()), position(60).map(|last| last + 1));
        lane.trimmed(lane.covered());
        append(&*lane, &owner, 60, 100).await.unwrap();
        owner.wait(61).await;
    });
}

#[test]
fn a_hand_off_is_told_as_one_and_needs_no_room() {
    each(|_, medium| async move {
        let lane = medium.open().await;
        let owner = Arc::new(Owner::default());
        let room = lane.reserve(QUEUE_BYTES).await.unwrap();
        append_hand_off(&*lane, &owner, 0);
        drop(room);
        append(&*lane, &owner, 0, 10).await.unwrap();
        append_hand_off(&*lane, &owner, 1);
        owner.wait(3).await;
        let said: Vec<(u64, bool)> = owner
            .said
            .lock()
            .iter()
            .map(|(end, said)| match said {
                Said::Durable { hand_off, .. } => (*end, *hand_off),
                Said::Failed => panic!("nothing fails"),
            })
            .collect();
        assert_eq!(said, [(0, true), (1, false), (1, true)]);
    });
}

fn append_hand_off(lane: &dyn Lane, owner: &Arc<Owner>, base: u64) {
    let snapshot = Payload::HandOff(Bytes::from_static(&[0; 40]));
    lane.append(entry(owner, base, snapshot, Reservation::none())).unwrap();
}

#[test]
fn a_close_completes_what_waits_or_gives_up_in_time() {
    each(|_, medium| async move {
        let lane = medium.open().await;
        let owner = Arc::new(Owner::default());
        for base in 0..30 {
            append(&*lane, &owner, base, 500).await.unwrap();
        }
        lane.close(Duration::from_secs(10)).await;
        assert_eq!(owner.durable(), (1..=30).collect::<Vec<_>>());
        assert_eq!(*lane.state().borrow(), LaneState::Ended(LaneEnd::Closed));
    });
    each(|_, medium| async move {
        let lane = medium.open().await;
        let owner = Arc::new(Owner::default());
        append(&*lane, &owner, 0, 10).await.unwrap();
        owner.wait(1).await;
        medium.away(true);
        append(&*lane, &owner, 1, 10).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        let started = tokio::time::Instant::now();
        lane.close(Duration::from_secs(5)).await;
        assert!(started.elapsed() < Duration::from_secs(7), "{:?}", started.elapsed());
        assert_eq!((owner.durable(), owner.failed()), (vec![1], vec![2]));
    });
}

/// Only the local lane can run out of room.
#[test]
fn a_full_disk_stalls_the_local_lane_until_there_is_room() {
    Sim::run(seed(1), |sim| async move {
        let machine = sim.host("a");
        let medium = Disk { host: machine.start(), machine };
        let lane = medium.open().await;
        let owner = Arc::new(Owner::default());
        let none = DiskFaults { room: Some(0), ..DiskFaults::default() };
        medium.machine.disk().set_faults(none);
        let mut appended = 0;
        for base in 0.. {
            match append(&*lane, &owner, base, 10_000).await {
                Ok(()) => appended += 1,
                Err(Refused::Stalled(why)) => {
                    assert!(why.contains("no space left"), "{why}");
                    break;
                }
                Err(refused) => panic!("{refused:?}"),
            }
        }
        medium.machine.disk().set_faults(DiskFaults::default());
        owner.wait(appended).await;
        assert_eq!(owner.durable(), (1..=appended as u64).collect::<Vec<_>>());
        let mut state = lane.state();
        state.wait_for(|state| *state == LaneState::Open).await.unwrap();
        append(&*lane, &owner, appended as u64, 100).await.unwrap();
        owner.wait(appended + 1).await;
        assert_eq!(medium.recover().await.len(), appended + 1);
    });
}
