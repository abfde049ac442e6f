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
use levee_proto::metalog::{LaneKind, ObjectId, ObjectRef};
use levee_proto::object::Footer;
use thiserror::Error;

use crate::metalog::{LoadError, MetaLog, MetaState};
use crate::remote::{Footers, FootersError};
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
    /// Large objects do not hold all that they are said to.
    Large { partition: PartitionId, from: u64, to: u64 },
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

/// Footers as they were read, or why they were not.
type Read = Result<Arc<Footer>, String>;

/// Everything that an audit judges.
pub(crate) struct Seen {
    /// The state before and after the listing: what both say must be there.
    before: MetaState,
    after: MetaState,
    listed: BTreeMap<String, Listed>,
    objects: BTreeMap<ObjectId, (ObjectRef, Read)>,
    /// Slots of closed lanes that count.
    slots: BTreeMap<(LaneId, u64), Read>,
}

/// Reads metadata, listing and footers, and judges them. `footers` keeps what was read.
pub async fn audit(log: &MetaLog, store: &Store, footers: &Footers) -> Result<Audit, AuditError> {
    let before = log.load().await?;
    let mut listed = BTreeMap::new();
    for folder in [keys::DATA, keys::PARTITIONS, keys::META] {
        let found = store.list(folder).await?;
        listed.extend(found.into_iter().map(|found| (found.key.clone(), found)));
    }
    let after = log.load().await?;
    let mut objects = BTreeMap::new();
    let all: Vec<&ObjectRef> = after.objects.values().collect();
    for some in all.chunks(1000) {
        let asked = some.iter().map(|object| (object.key().into(), object.bytes)).collect();
        for (object, read) in some.iter().zip(footers.read_all(asked).await) {
            objects.insert(object.id(), ((*object).clone(), readable(read)?));
        }
    }
    let slots = slots(&before, &after, &listed, footers).await?;
    Ok(judge(&Seen { before, after, listed, objects, slots }))
}

/// A store that does not answer says nothing about an object.
fn readable(read: Result<Arc<Footer>, FootersError>) -> Result<Read, StoreError> {
    match read {
        Ok(footer) => Ok(Ok(footer)),
        Err(FootersError::Store(error)) => Err(error),
        Err(error) => Ok(Err(error.to_string())),
    }
}

async fn slots(
    before: &MetaState,
    after: &MetaState,
    listed: &BTreeMap<String, Listed>,
    footers: &Footers,
) -> Result<BTreeMap<(LaneId, u64), Read>, StoreError> {
    let mut counting = Vec::new();
    for lane in after.lanes.values().filter(|lane| lane.kind == LaneKind::Object) {
        let was_closed = before.lanes.get(&lane.id).is_some_and(|lane| lane.end.is_some());
        let Some(end) = lane.end.filter(|_| was_closed) else { continue };
        for slot in lane.trim..end {
            let key = keys::lane_slot(lane.id, slot);
            // One that is missing is found by the listing.
            if let Some(found) = listed.get(&key) {
                counting.push(((lane.id, slot), (Arc::from(key.as_str()), found.bytes)));
            }
        }
    }
    let mut slots = BTreeMap::new();
    for some in counting.chunks(1000) {
        let asked = some.iter().map(|(_, asked)| asked.clone()).collect();
        for ((slot, _), read) in some.iter().zip(footers.read_all(asked).await) {
            slots.insert(*slot, readable(read)?);
        }
    }
    Ok(slots)
}

fn judge(seen: &Seen) -> Audit {
    let mut audit = Audit {
        slot: seen.after.head,
        partitions: seen.after.partitions.len() as u64,
        ..Audit::default()
    };
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
            Self::Large { partition, from, to } => write!(
                f,
                "{partition}: no large object holds offsets {from} to {to} (exclusive), and \
                 smaller ones may go"
            ),
            Self::Unfenced { lane } => write!(f, "lane {lane} is closed and has no FENCE"),
            Self::Foreign { key } => write!(f, "{key} is nothing that Levee writes"),
        }
    }
}
