//! Closing the lanes of sessions that ended: fence or read back, then take their partitions over.
//!
//! Owns: the one way by which records of an older session become part of the log again. Does not
//! own: who is fenced (the controller), the proof of a lane's end (`fence`, `local::recovery`).

mod local;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use levee_hot_log::local::lane_of_dir;
use levee_proto::ids::{LaneId, Nonce, PartitionId, Writer};
use levee_proto::metalog::image::SessionState;
use levee_proto::metalog::{LaneClosed, LaneKind, ObjectRef};
use levee_proto::object::{AbortedTxn, Footer, Index, Level};
use levee_proto::record::{BatchHeader, Marker};
use levee_tiering::fence;
use tokio::sync::oneshot;

use super::{FOR_EVER, Node};
use crate::cluster::message::{CloseLane, Request};
use crate::error::Error;
use crate::partition::producers::Producers;
use crate::tiers::Slot;

/// How long a start waits for the first pass: what takes longer is recovered beside the service.
const FIRST_PASS: Duration = Duration::from_secs(2);
/// How often lanes that wait are tried again.
const AGAIN: Duration = Duration::from_secs(5);
const AGAIN_MAX: Duration = Duration::from_secs(60);

/// Ends and producer state of partitions, as recovery finds them.
#[derive(Default)]
pub struct Known {
    partitions: BTreeMap<PartitionId, (u64, Producers)>,
}

impl Known {
    fn entry(&mut self, node: &Node, id: PartitionId) -> &mut (u64, Producers) {
        self.partitions.entry(id).or_insert_with(|| node.tiers.state(id))
    }

    /// Gives the transaction that the batch aborts.
    fn fold(
        &mut self,
        node: &Node,
        id: PartitionId,
        header: &BatchHeader,
        marker: Option<Marker>,
    ) -> Option<AbortedTxn> {
        let (end, producers) = self.entry(node, id);
        if header.base_offset < *end {
            return None;
        }
        *end = header.end_offset();
        producers.appended(header, marker)?.aborted()
    }
}

/// What one lane held. It counts from the slot of its LaneClosed on, and not before.
pub struct Recovered {
    known: Known,
    objects: Vec<(ObjectRef, Footer)>,
    slots: Vec<Slot>,
}

impl Node {
    /// The lane is closed: what recovery found becomes readable, before the grants of the same slot.
    pub(super) fn lane_closed(&self, closed: &LaneClosed) {
        let Some(found) = self.recovered.lock().remove(&(closed.lane, closed.rid)) else { return };
        for (object, footer) in &found.objects {
            self.tiers.index.add_object(object, footer);
            self.tiers.numbers.settle(object.seq);
        }
        self.tiers.add_slots(found.slots);
        self.known.lock().partitions.extend(found.known.partitions);
    }

    /// Producer state at the start of a grant: the end of all that is known, or above it where a
    /// lost tail was given up (I15).
    pub(super) fn producers_at(&self, id: PartitionId, start: u64) -> Producers {
        let known = self.known.lock().partitions.remove(&id);
        let (end, producers) = known.unwrap_or_else(|| self.tiers.state(id));
        assert!(end <= start, "I15: producer state of {id} at {end}, start {start}");
        producers
    }
}

/// Why a lane stays open.
enum Stays {
    /// It can be closed later, when what it says is here.
    Waits(String),
    Failed(String),
}

impl<E: std::error::Error> From<E> for Stays {
    fn from(error: E) -> Self {
        Self::Failed(error.to_string())
    }
}

/// One pass over all lanes of sessions that are being fenced. The object lane of a session goes
/// first, and its local lane waits for it: what a local lane holds follows on what the object lane
/// holds, and so does producer state.
async fn pass(node: &Arc<Node>, store_id: Nonce) {
    if let Err(error) = adopt(node).await {
        tracing::warn!(%error, "partitions that were left behind are adopted later");
    }
    let lanes = open_lanes(node);
    node.waiting.lock().retain(|waits, _| lanes.iter().any(|(lane, ..)| lane == waits));
    let mut stays_open: Option<LaneId> = None;
    for (lane, kind, rid, disk) in lanes {
        if let Some(before) = stays_open
            && before.session == lane.session
        {
            node.wait_for_lane(lane, &format!("lane {before} of its session must be closed first"));
            continue;
        }
        let done = match kind {
            LaneKind::Object => object_lane(node, lane, rid).await,
            LaneKind::Local => local::lane(node, lane, rid, disk, store_id).await,
        };
        match done {
            Ok(()) => drop(node.waiting.lock().remove(&lane)),
            Err(stays) => {
                stays_open = Some(lane);
                let why = match stays {
                    Stays::Waits(why) => why,
                    Stays::Failed(why) => format!("recovery failed, it is tried again: {why}"),
                };
                node.wait_for_lane(lane, &why);
            }
        }
    }
    clear_closed_lanes(node).await;
}

/// Folders of lanes that are closed hold nothing that anybody needs.
async fn clear_closed_lanes(node: &Arc<Node>) {
    let (disk, wal_dir) = (node.host.disk(), node.wal_dir());
    let Ok(entries) = disk.list(&wal_dir).await else { return };
    let is_over = |name: &String| {
        let state = node.view.read();
        lane_of_dir(name).is_some_and(|lane| match state.lanes.get(&lane) {
            Some(known) => known.end.is_some(),
            None => state.has_ended(lane.session),
        })
    };
    let names = entries.into_iter().filter(|entry| entry.is_dir).map(|entry| entry.name);
    for name in names.filter(is_over).collect::<Vec<_>>() {
        if let Err(error) = disk.remove_dir_all(&wal_dir.join(&name)).await {
            tracing::warn!(name, %error, "files of a closed lane stay");
        }
    }
}

/// Partitions whose leader closed its lane and left: all that they hold is in the bucket.
async fn adopt(node: &Arc<Node>) -> Result<(), Error> {
    let ends: BTreeMap<PartitionId, u64> = {
        let state = node.view.settled_state().await;
        state.orphans().map(|p| (p.id, node.tiers.state(p.id).0)).collect()
    };
    if ends.is_empty() {
        return Ok(());
    }
    let partitions = ends.len();
    node.commit_within(Request::Adopt { session: node.session, ends }, FOR_EVER).await?;
    tracing::info!(partitions, "partitions of sessions that left are served here");
    Ok(())
}

/// Recovers for as long as the session lives: what waits is tried again, and sessions may be fenced
/// at any time. Returns after the first pass, or when that takes long.
pub async fn start(node: &Arc<Node>, store_id: Nonce) {
    let (told, first) = oneshot::channel();
    let recovering = node.clone();
    let run = async move {
        pass(&recovering, store_id).await;
        let _ = told.send(());
        let mut pause = AGAIN;
        while !recovering.is_ended() {
            recovering.host.sleep(pause).await;
            // What waits for an operator is not read again and again while he sleeps.
            let before = open_lanes(&recovering);
            pass(&recovering, store_id).await;
            let same = !before.is_empty() && open_lanes(&recovering) == before;
            pause = if same { (pause * 2).min(AGAIN_MAX) } else { AGAIN };
        }
    };
    drop(node.host.spawn("recover", run));
    if node.host.timeout(FIRST_PASS, first).await.is_err() {
        for (lane, ..) in open_lanes(node) {
            node.wait_for_lane(lane, "its records are being recovered");
        }
    }
}

type Open = (LaneId, LaneKind, u64, Nonce);

fn open_lanes(node: &Node) -> Vec<Open> {
    let state = node.view.read();
    let fencing = state.sessions.values().filter(|s| s.state == SessionState::Fencing);
    fencing
        .filter(|s| s.id != node.session)
        .flat_map(|s| state.lanes_of(s.id).map(move |lane| (lane, s.rid, s.store_id)))
        .filter(|(lane, _, _)| lane.end.is_none())
        .map(|(lane, rid, disk)| (lane.id, lane.kind, rid, disk))
        .collect()
}

fn trim_of(node: &Node, lane: LaneId) -> (u64, u64) {
    node.view.read().lanes.get(&lane).map_or((0, 0), |l| (l.trim, l.synced))
}

impl Node {
    fn wait_for_lane(self: &Arc<Self>, lane: LaneId, why: &str) {
        let first = self.waiting.lock().insert(lane, why.to_owned()).is_none();
        if first {
            tracing::warn!(%lane, why, "partitions of this lane wait");
        }
        let state = self.view.read();
        for found in state.partitions_on(lane) {
            let deleted = state.topics.get(&found.id.topic).is_none_or(|t| t.deleted_ms.is_some());
            if !deleted {
                self.partition_or_new(found.id, &state).wait(why);
            }
        }
    }

    async fn close_lane(
        self: &Arc<Self>,
        (lane, rid): (LaneId, u64),
        (trim, end): (u64, u64),
        found: Recovered,
    ) -> Result<(), Stays> {
        let led: Vec<PartitionId> = self.view.read().partitions_on(lane).map(|p| p.id).collect();
        let mut ends = BTreeMap::new();
        for id in &led {
            let known = found.known.partitions.get(id).map(|(end, _)| *end);
            ends.insert(*id, known.unwrap_or_else(|| self.tiers.state(*id).0));
        }
        let objects = found.objects.iter().map(|(object, _)| object.clone()).collect();
        self.recovered.lock().insert((lane, rid), found);
        let close = CloseLane { session: self.session, lane, rid, trim, end, objects, ends };
        // No other attempt may begin while this one can still be committed.
        let committed = self.commit_within(Request::CloseLane(close), FOR_EVER).await;
        if let Some(refused) = self.recovered.lock().remove(&(lane, rid)) {
            refused.objects.iter().for_each(|(object, _)| self.tiers.numbers.settle(object.seq));
        }
        committed?;
        tracing::info!(%lane, trim, end, partitions = led.len(), "lane of an older session closed");
        Ok(())
    }
}

async fn object_lane(node: &Arc<Node>, lane: LaneId, rid: u64) -> Result<(), Stays> {
    let (trim, _) = trim_of(node, lane);
    let term = node.view.read().term;
    let writer = Writer::session(node.session);
    let fenced = fence::fence(&node.store, &node.host, lane, trim, term, writer).await?;
    let slots = node.tiers.slot_footers(lane, &fenced.slots).await?;
    let mut known = Known::default();
    for Slot { slot, footer, .. } in &slots {
        check_slot(lane, *slot, footer).map_err(Stays::Failed)?;
        for range in &footer.ranges {
            if let Index::Full(batches) = &range.index {
                for batch in batches {
                    // Footers of slots tell of aborted transactions themselves.
                    known.fold(node, range.partition, &batch.header(), batch.marker());
                }
            }
        }
    }
    let found = Recovered { known, objects: Vec::new(), slots };
    node.close_lane((lane, rid), (trim, fenced.end), found).await
}

fn check_slot(lane: LaneId, slot: u64, footer: &Footer) -> Result<(), String> {
    match footer.level {
        Level::L0 => Ok(()),
        other => Err(format!("slot {slot} of lane {lane} holds a {other:?} object")),
    }
}
