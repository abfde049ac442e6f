//! The audit: what the MetaLog says, what a listing shows and what footers hold must add up.
//!
//! Owns: the proof that nothing referenced is missing, that logs tile, and what is garbage. Only
//! reads, so that it can run beside any cluster. Does not own: the data's own checksums (scrub).

mod listing;
mod tiling;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use levee_proto::ids::{LaneId, PartitionId};
use levee_proto::keys;
use levee_proto::metalog::{LaneKind, ObjectId};
use levee_proto::object::{Footer, Level, RangeKind};
use thiserror::Error;

use crate::budget::Budget;
use crate::metalog::{LoadError, MetaLog, MetaState};
use crate::remote::{FootersError, Wanted, read_footers};
use crate::store::{Listed, Store, StoreError};

#[derive(Debug, Error)]
pub enum AuditError {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What is wrong. Each names where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// Referenced, and not in the bucket.
    Missing { key: String },
    /// Not as long as its reference says.
    Size { key: String, wanted: u64, found: u64 },
    /// Its footer cannot be read, or is not the one that was referenced.
    Footer { key: String, why: String },
    /// Below where the bucket's part of a log ends nothing holds these offsets.
    Gap { partition: PartitionId, from: u64, to: u64 },
    /// A range says another leader epoch than the history of its partition.
    Epoch { partition: PartitionId, key: String, base: u64, end: u64, epoch: u32 },
    /// An object holds what another one holds compacted: what was left out might come back.
    Uncompacted { partition: PartitionId, key: String, base: u64, end: u64 },
    /// Nothing tells of the producers of the newest records: a restart would begin before them.
    Untold { partition: PartitionId, from: u64, to: u64 },
    /// A closed lane without its FENCE: its writer could go on.
    Unfenced { lane: LaneId },
    /// Nobody of this cluster writes such a key.
    Foreign { key: String },
}

/// Objects of one sort.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    pub objects: u64,
    pub bytes: u64,
}

/// What an audit saw.
#[derive(Debug, Clone, Default)]
pub struct Audit {
    /// The slot of the MetaLog that it is true of.
    pub slot: u64,
    pub partitions: u64,
    /// Part of the log: slots of lanes, shared objects, objects of one partition.
    pub slots: Count,
    pub shared: Count,
    pub single: Count,
    /// Bytes of ranges in objects that nobody needs any more, and that go with their object.
    pub dead_bytes: u64,
    /// Replaced or deleted, and not over its grace time.
    pub unreferenced: Count,
    /// Written by a session or job that lives.
    pub in_flight: Count,
    /// Left behind by writers that ended, until the next sweep.
    pub orphans: Count,
    pub metadata: Count,
    pub findings: Vec<Finding>,
}

impl Audit {
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }

    /// Referenced objects (not slots) for each GiB of them.
    pub fn objects_per_gib(&self) -> f64 {
        let objects = (self.shared.objects + self.single.objects) as f64;
        let gib = (self.shared.bytes + self.single.bytes) as f64 / (1u64 << 30) as f64;
        if gib > 0.0 { objects / gib } else { 0.0 }
    }
}

impl Count {
    fn add(&mut self, bytes: u64) {
        self.objects += 1;
        self.bytes += bytes;
    }
}

/// Everything that an audit judges.
struct Seen {
    /// The state before and after the listing: what both say must be there.
    before: MetaState,
    after: MetaState,
    listed: BTreeMap<String, Listed>,
    /// What is part of the log and in the bucket.
    held: BTreeMap<PartitionId, Vec<Held>>,
    unreadable: Vec<Unreadable>,
}

/// A range of an object or slot, as much as is judged of it.
struct Held {
    key: Arc<str>,
    level: Level,
    leader_epoch: u32,
    base: u64,
    end: u64,
    len: u64,
    /// Whether it tells of producers at its end.
    is_told: bool,
    compacted: bool,
}

struct Unreadable {
    /// Nothing for a slot.
    object: Option<ObjectId>,
    key: String,
    why: String,
}

/// A bucket that changed all the while is looked at so often.
const TRIES: usize = 3;

/// Reads metadata, listing and footers, and judges them.
pub async fn audit(log: &MetaLog, store: &Store, budget: &Budget) -> Result<Audit, AuditError> {
    let mut tries = 1;
    loop {
        let seen = look(log, store, budget).await?;
        // What was replaced and deleted under the look must not count as missing.
        let gone = match seen.unreadable.is_empty() {
            true => false,
            false => {
                let now = log.load().await?;
                let is_gone = |id: &ObjectId| !now.objects.contains_key(id);
                seen.unreadable.iter().filter_map(|one| one.object.as_ref()).any(is_gone)
            }
        };
        if !gone || tries == TRIES {
            return Ok(judge(&seen));
        }
        tries += 1;
    }
}

async fn look(log: &MetaLog, store: &Store, budget: &Budget) -> Result<Seen, AuditError> {
    let before = log.load().await?;
    let mut listed = BTreeMap::new();
    for folder in [keys::DATA, keys::PARTITIONS, keys::META] {
        let found = store.list(folder).await?;
        listed.extend(found.into_iter().map(|found| (found.key.clone(), found)));
    }
    let after = log.load().await?;
    let objects = after.objects.values();
    let objects = objects.map(|object| (Some(object.id()), Wanted::object(object)));
    let slots = slots(&before, &after, &listed).into_iter().map(|slot| (None, slot));
    let all: Vec<(Option<ObjectId>, Wanted)> = objects.chain(slots).collect();
    let (mut held, mut unreadable) = (BTreeMap::new(), Vec::new());
    for some in all.chunks(AT_ONCE) {
        for _ in some {
            budget.take(FOOTER_BYTES).await;
        }
        let asked: Vec<_> = some.iter().map(|(_, asked)| asked.clone()).collect();
        let read = read_footers(store, asked).await;
        for ((object, Wanted { key, .. }), read) in some.iter().zip(read) {
            match read {
                Ok(footer) => hold(&footer, key, &mut held),
                // A store that does not answer says nothing about an object.
                Err(FootersError::Store(error)) => return Err(error.into()),
                Err(error) => {
                    let (object, key, why) = (*object, key.to_string(), error.to_string());
                    unreadable.push(Unreadable { object, key, why });
                }
            }
        }
    }
    Ok(Seen { before, after, listed, held, unreadable })
}

/// What most footers take.
const FOOTER_BYTES: u64 = 64 << 10;
/// Footers in memory at a time.
const AT_ONCE: usize = 64;

/// Slots that count: of lanes that both looks know as closed.
fn slots(before: &MetaState, after: &MetaState, listed: &BTreeMap<String, Listed>) -> Vec<Wanted> {
    let mut counting = Vec::new();
    for lane in after.lanes.values().filter(|lane| lane.kind == LaneKind::Object) {
        let was_closed = before.lanes.get(&lane.id).is_some_and(|lane| lane.end.is_some());
        let Some(end) = lane.end.filter(|_| was_closed) else { continue };
        for slot in lane.trim..end {
            let key = keys::lane_slot(lane.id, slot);
            // One that is missing is found by the listing.
            if let Some(bytes) = listed.get(&key).map(|found| found.bytes) {
                counting.push(Wanted::slot(lane.id, slot, bytes));
            }
        }
    }
    counting
}

fn hold(footer: &Footer, key: &str, all: &mut BTreeMap<PartitionId, Vec<Held>>) {
    let key: Arc<str> = key.into();
    for range in footer.ranges.iter().filter(|range| range.kind == RangeKind::Data) {
        all.entry(range.partition).or_default().push(Held {
            key: key.clone(),
            level: footer.level,
            leader_epoch: range.leader_epoch,
            base: range.base,
            end: range.end,
            len: range.len,
            is_told: range.producers.is_some(),
            compacted: range.compacted,
        });
    }
}

fn judge(seen: &Seen) -> Audit {
    let mut audit = Audit {
        slot: seen.after.head,
        partitions: seen.after.partitions.len() as u64,
        ..Audit::default()
    };
    for Unreadable { key, why, .. } in &seen.unreadable {
        audit.findings.push(Finding::Footer { key: key.clone(), why: why.clone() });
    }
    listing::judge(seen, &mut audit);
    tiling::judge(seen, &mut audit);
    audit
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { key } => write!(f, "{key} is referenced and not in the bucket"),
            Self::Size { key, wanted, found } => {
                write!(f, "{key} has {found} bytes, its reference says {wanted}")
            }
            Self::Footer { key, why } => write!(f, "{key}: {why}"),
            Self::Gap { partition, from, to } => {
                write!(f, "{partition}: nothing holds offsets {from} to {to} (exclusive)")
            }
            Self::Epoch { partition, key, base, end, epoch } => write!(
                f,
                "{partition}: {key} says that {base} to {end} (exclusive) are of leader epoch \
                 {epoch}, the metadata says another"
            ),
            Self::Uncompacted { partition, key, base, end } => write!(
                f,
                "{partition}: {key} holds offsets {base} to {end} (exclusive) as they were before \
                 another object compacted them"
            ),
            Self::Untold { partition, from, to } => write!(
                f,
                "{partition}: nothing tells of the producers of offsets {from} to {to} (exclusive)"
            ),
            Self::Unfenced { lane } => write!(f, "lane {lane} is closed and has no FENCE"),
            Self::Foreign { key } => write!(f, "{key} is nothing that Levee writes"),
        }
    }
}
