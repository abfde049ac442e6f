//! One broker process: its session, lanes and partitions, and everything that runs beside them.
//!
//! Owns: what the parts share, looking partitions up, and how a session ends. Does not own: the
//! order of a start (`start`), what the MetaLog tells (`follow`), recovery (`recover`).

pub mod identity;
pub mod leave;
pub mod start;
pub mod follow;
pub mod recover;
pub mod reference;
pub mod beat;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use levee_hot_log::LocalLane;
use levee_hot_log::lane::{Lane, LaneState};
use levee_hot_log::segment::HotSegments;
use levee_proto::ids::{LaneId, PartitionId, SessionId, TopicId, Writer};
use levee_proto::metalog::{LaneKind, ObjectId};
use levee_runtime::{Host, Mono};
use levee_tiering::budget::Budget;
use levee_tiering::metalog::MetaState;
use levee_tiering::object_lane::ObjectLane;
use levee_tiering::store::Store;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Semaphore, watch};

use crate::aside::Aside;
use crate::cluster::message::{Answer, ControllerClient, Request};
use crate::cluster::view::View;
use crate::config::{BrokerConfig, TopicConfig};
use crate::error::{Error, Result};
use crate::listener::answers::AnswerRoom;
use crate::pace::Pace;
use crate::partition::{Partition, TailBytes};
use crate::tiers::Tiers;
use crate::upkeep::needed::LastTold;
use crate::upkeep::scrub::Damages;
use recover::{Known, Recovered};
use reference::Upload;

/// Folders in the data folder.
pub(crate) const HOT_DIR: &str = "hot";
pub(crate) const WAL_DIR: &str = "wal";
/// A metadata commit is one write to the bucket; this bounds a bucket that is away.
const COMMIT_LIMIT: Duration = Duration::from_secs(30);
/// The controller of this process always answers, or ends and takes the process with it.
pub(crate) const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// See the module.
pub struct Node {
    pub host: Host,
    pub config: Arc<BrokerConfig>,
    pub store: Store,
    pub view: Arc<View>,
    pub controller: ControllerClient,
    pub session: SessionId,
    pub lanes: Lanes,
    pub tiers: Tiers,
    pub tails: Arc<TailBytes>,
    partitions: RwLock<BTreeMap<PartitionId, Arc<Partition>>>,
    /// Lanes of older sessions that cannot be closed yet, and why.
    waiting: Mutex<BTreeMap<LaneId, String>>,
    /// What was found in lanes whose end is being committed, by lane and recovery attempt.
    recovered: Mutex<BTreeMap<(LaneId, u64), Recovered>>,
    /// What is known of partitions between the close of their lane and their next grant.
    known: Mutex<Known>,
    ended: watch::Sender<Option<String>>,
    draining: watch::Sender<bool>,
    /// Partitions whose local copy could not be read.
    pub(crate) offload_aside: Mutex<Aside<PartitionId>>,
    /// One round of offload at a time.
    pub(crate) offloading: tokio::sync::Mutex<()>,
    /// One merge or compaction at a time: each needs its inputs to itself.
    pub(crate) rewriting: tokio::sync::Mutex<()>,
    /// When the newest beat was sent that the controller answered.
    lease: Mutex<Option<Mono>>,
    /// Objects on their way into the log: verified, and not known to be committed or refused.
    pub(crate) uploads: Mutex<BTreeMap<ObjectId, Upload>>,
    pub(crate) limits: crate::limits::Limits,
    /// Objects that scrub found damaged and could not repair.
    pub unrepaired: Mutex<Damages>,
    /// Ranges that are kept for what they tell of producers.
    pub(crate) last_told: Mutex<LastTold>,
    /// How fast readers that catch up may read.
    pub(crate) pace: Arc<Pace>,
    /// What upkeep may take of the bucket.
    pub(crate) budget: Arc<Budget>,
    /// Free bytes on the disk of the data folder, as last seen.
    pub(crate) disk_free: Mutex<Option<u64>>,
    /// Bytes of appends that may wait for their topic or lane.
    pub(crate) waiting_bytes: Semaphore,
    pub(crate) answers: AnswerRoom,
    /// Producer ids of this broker that are not given out yet.
    pub(crate) producer_ids: tokio::sync::Mutex<std::ops::Range<u64>>,
}

/// The lanes of this session.
pub struct Lanes {
    pub object: Arc<ObjectLane>,
    pub local: Arc<LocalLane>,
}

impl Lanes {
    pub fn all(&self) -> [Arc<dyn Lane>; 2] {
        [self.object.clone(), self.local.clone()]
    }

    pub fn get(&self, id: LaneId) -> Option<Arc<dyn Lane>> {
        self.all().into_iter().find(|lane| lane.id() == id)
    }

    pub fn name(kind: LaneKind) -> &'static str {
        match kind {
            LaneKind::Object => "object",
            LaneKind::Local => "local",
        }
    }

    /// Lanes that take nothing now, and why.
    pub fn stalled(&self) -> Vec<String> {
        let state = |lane: Arc<dyn Lane>| match &*lane.state().borrow() {
            LaneState::Stalled(why) => Some(format!("{}: {why}", Self::name(lane.kind()))),
            _ => None,
        };
        self.all().into_iter().filter_map(state).collect()
    }
}

impl Node {
    /// Ends the session: nothing more is acknowledged, and the process should exit.
    pub fn end(&self, why: &str) {
        let first = self.ended.send_if_modified(|ended| match ended {
            Some(_) => false,
            None => {
                *ended = Some(why.to_owned());
                true
            }
        });
        if !first {
            return;
        }
        tracing::error!(session = %self.session, why, "the session ended");
        let error = Error::session_ended(why).maybe_written();
        for partition in self.all_partitions() {
            partition.end(&error);
        }
    }

    /// Becomes `Some` with the reason when the session has ended.
    pub fn ended(&self) -> watch::Receiver<Option<String>> {
        self.ended.subscribe()
    }

    pub fn is_ended(&self) -> bool {
        self.ended.borrow().is_some()
    }

    /// From now on appends are refused; reads go on.
    pub fn drain(&self) {
        self.draining.send_replace(true);
    }

    pub fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }

    /// Becomes true when this broker begins to stop.
    pub fn draining(&self) -> watch::Receiver<bool> {
        self.draining.subscribe()
    }

    /// Who writes the objects of this session.
    pub fn writer(&self) -> Writer {
        Writer::session(self.session)
    }

    /// Asks the controller and waits until this broker's own state shows the answer.
    pub async fn commit(&self, request: Request) -> Result<Answer> {
        self.commit_within(request, COMMIT_LIMIT).await
    }

    pub async fn commit_within(&self, request: Request, limit: Duration) -> Result<Answer> {
        let (slot, answer) = self.controller.ask(request, limit).await?;
        match self.view.reached(slot, limit).await {
            true => Ok(answer),
            false => Err(Error::timed_out("following the metadata", limit.as_millis() as u64)),
        }
    }

    pub fn partition(&self, topic: &str, partition: u32) -> Result<Arc<Partition>> {
        let id = {
            let state = self.view.read();
            let known = state.topic_named(topic).ok_or_else(|| Error::unknown_topic(topic))?;
            if partition >= known.partitions {
                return Err(Error::unknown_partition(topic, partition, known.partitions));
            }
            PartitionId { topic: known.id, partition }
        };
        self.partition_by_id(id).ok_or_else(|| Error::not_leader(topic, partition))
    }

    pub fn partition_by_id(&self, id: PartitionId) -> Option<Arc<Partition>> {
        self.partitions.read().get(&id).cloned()
    }

    pub fn all_partitions(&self) -> Vec<Arc<Partition>> {
        self.partitions.read().values().cloned().collect()
    }

    pub fn partitions_of(&self, topic: TopicId) -> Vec<Arc<Partition>> {
        let all = self.partitions.read();
        all.values().filter(|p| p.id.topic == topic).cloned().collect()
    }

    /// The partition, made where it is not here yet.
    pub(crate) fn partition_or_new(&self, id: PartitionId, state: &MetaState) -> Arc<Partition> {
        if let Some(known) = self.partition_by_id(id) {
            return known;
        }
        let name = state.topics.get(&id.topic).map_or_else(String::new, |t| t.name.clone());
        let config = Arc::new(self.topic_config(state, id.topic));
        let hot = HotSegments::new(
            self.host.clone(),
            self.hot_dir().join(format!("{}-{:05}", id.topic, id.partition)),
            config.segment_bytes,
        );
        let host = self.host.clone();
        let new = Partition::new(id, name, host, config, hot, self.tails.clone());
        self.partitions.write().entry(id).or_insert(new).clone()
    }

    pub(crate) fn forget_partitions(&self, topic: TopicId) -> Vec<Arc<Partition>> {
        let mut all = self.partitions.write();
        let ids: Vec<_> = all.keys().filter(|id| id.topic == topic).copied().collect();
        ids.iter().filter_map(|id| all.remove(id)).collect()
    }

    /// Settings of a topic as this broker holds them.
    pub fn topic_config(&self, state: &MetaState, topic: TopicId) -> TopicConfig {
        let empty = BTreeMap::new();
        let set = state.topics.get(&topic).map_or(&empty, |t| &t.config);
        let (config, refused) = TopicConfig::resolve_stored(set, &self.config);
        for error in refused {
            tracing::warn!(%topic, %error, "stored topic setting does not hold here");
        }
        config
    }

    pub fn hot_dir(&self) -> PathBuf {
        self.config.data_dir.join(HOT_DIR)
    }

    pub fn wal_dir(&self) -> PathBuf {
        self.config.data_dir.join(WAL_DIR)
    }

    /// Lanes that wait, for people.
    pub fn waiting_lanes(&self) -> Vec<String> {
        let waiting = self.waiting.lock();
        waiting.iter().map(|(lane, why)| format!("lane {lane}: {why}")).collect()
    }
}
