//! The one start path: data folder, bucket, metadata, session, lanes, recovery, service.
//!
//! There is no short cut because the disk is there: a restart is a take-over from oneself.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use levee_hot_log::{LocalConfig, LocalLane};
use levee_proto::ids::LaneId;
use levee_runtime::Host;
use levee_tiering::metalog::{LoadError, MetaLog, MetaState};
use levee_tiering::object_lane::{ObjectLane, ObjectLaneConfig};
use levee_tiering::store::probe::{ProbeError, Rounds, probe};
use levee_tiering::store::{Store, StoreError};
use parking_lot::Mutex;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};

use super::identity::{Identity, IdentityError};
use super::{HOT_DIR, Lanes, Node, WAL_DIR, beat, follow, recover};
use crate::aside::Aside;
use crate::cluster::claim::{Claimant, become_controller};
use crate::cluster::controller::{Controller, ControllerConfig, Deposed, Push};
use crate::cluster::decide::{LOCAL_LANE, OBJECT_LANE};
use crate::cluster::message::{Answer, ControllerClient, Request};
use crate::cluster::view::View;
use crate::config::BrokerConfig;
use crate::error::Error;
use crate::limits::Limits;
use crate::listener::answers::AnswerRoom;
use crate::offload;
use crate::pace::Pace;
use crate::partition::TailBytes;
use crate::tiers::Tiers;
use levee_tiering::budget::Budget;

/// Slots on their way from the controller to this broker.
const PUSHES: usize = 64;
const OPEN_LIMIT: Duration = Duration::from_secs(60);

#[derive(Debug, Error)]
pub enum StartError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Probe(#[from] ProbeError),
    #[error("the metadata in the bucket cannot be read: {0}")]
    Metadata(#[from] LoadError),
    #[error("{0}")]
    Broker(#[from] Error),
    #[error("{what}: {error}")]
    Disk { what: String, error: io::Error },
}

/// A node that serves, and what its stop needs.
pub struct Started {
    pub node: Arc<Node>,
    /// Told once, at the very end: the controller resigns.
    pub resign: oneshot::Sender<()>,
    /// Answers when the controller has stopped.
    pub controller: levee_runtime::Task<Deposed>,
    /// The data folder is ours until this goes.
    pub identity: Identity,
}

/// Takes the data folder, becomes the controller, opens a session, recovers older ones.
pub async fn start(
    host: &Host,
    config: BrokerConfig,
    store: Store,
    address: String,
) -> Result<Started, StartError> {
    let config = Arc::new(config);
    let mut identity = Identity::take(host, &config.data_dir).await?;
    let log = open_log(host, &store).await?;
    identity.bind(host, log.cluster(), config.bucket_url.lasts()).await?;
    clear_hot(host, &config).await?;
    if !config.bucket_url.lasts() {
        clear_wal(host, &config).await?;
    }
    let claimant = Claimant {
        broker: config.broker_id,
        incarnation: identity.incarnation,
        before: identity.before.clone(),
        address: address.clone(),
    };
    let mut told = false;
    let state = become_controller(&log, host, &claimant, |state| {
        if !std::mem::replace(&mut told, true) {
            let who =
                state.controller.as_ref().map(|c| format!("broker {} at {}", c.broker, c.address));
            tracing::info!(
                controller = who,
                "another process leads this cluster; waiting for its silence"
            );
        }
    })
    .await?;
    let term = state.term;
    let (controller, control) = run_controller(host, &config, log, state.clone());
    let view = View::new(host.clone(), state);
    let Control { pushes, resign, task } = control;
    let first = Opening { host, config: &config, view: &view, controller: &controller };
    let (tiers, pushes) = first.load(&store, pushes).await?;
    let (node, pushes) = first.open(&store, &identity, address, tiers, pushes).await?;
    tracing::info!(session = %node.session, term, bucket = store.describe(), "session opened");
    drop(host.spawn("follow", follow::run(node.clone(), pushes)));
    drop(host.spawn("lane-watch", watch_lanes(node.clone())));
    drop(host.spawn("beat", beat::run(node.clone())));
    recover::start(&node, identity.store_id).await;
    let controller = watch_controller(&node, task);
    Ok(Started { node, resign, controller, identity })
}

/// Hot segments of older sessions are copies of nobody knows what: away with them, beside the start.
async fn clear_hot(host: &Host, config: &BrokerConfig) -> Result<(), StartError> {
    let disk = host.disk();
    let hot = config.data_dir.join(HOT_DIR);
    let old = config.data_dir.join(format!("{HOT_DIR}.old-{:016x}", host.random_u64()));
    let fail =
        |error| StartError::Disk { what: format!("hot segments in {}", hot.display()), error };
    match disk.rename(&hot, &old).await {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fail(error)),
        _ => {}
    }
    disk.create_dir_all(&hot).await.map_err(fail)?;
    disk.create_dir_all(&config.data_dir.join(WAL_DIR)).await.map_err(fail)?;
    let dir = config.data_dir.clone();
    drop(host.spawn("clear-hot", async move {
        let Ok(entries) = disk.list(&dir).await else { return };
        let prefix = format!("{HOT_DIR}.old-");
        for entry in entries.iter().filter(|e| e.is_dir && e.name.starts_with(&prefix)) {
            if let Err(error) = disk.remove_dir_all(&dir.join(&entry.name)).await {
                tracing::warn!(name = entry.name, %error, "old hot segments stay");
            }
        }
    }));
    Ok(())
}

/// What a cluster in memory left behind went with it; the folder belongs to no other one.
async fn clear_wal(host: &Host, config: &BrokerConfig) -> Result<(), StartError> {
    let wal = config.data_dir.join(WAL_DIR);
    let disk = host.disk();
    let cleared = async {
        disk.remove_dir_all(&wal).await?;
        disk.create_dir_all(&wal).await
    };
    let what = format!("the local WAL in {}", wal.display());
    cleared.await.map_err(|error| StartError::Disk { what, error })
}

/// A store that fails the probe is refused before anything relies on it.
async fn open_log(host: &Host, store: &Store) -> Result<MetaLog, StartError> {
    let rounds = match MetaLog::exists(store).await? {
        true => Rounds::Restart,
        false => Rounds::First,
    };
    probe(store, host, rounds).await?;
    let cluster = MetaLog::identify(store, host).await?;
    if cluster.is_new {
        tracing::info!(cluster = %cluster.id, "new cluster");
    }
    Ok(MetaLog::open(store.clone(), host.clone(), cluster.id))
}

struct Control {
    pushes: Pushes,
    resign: oneshot::Sender<()>,
    task: levee_runtime::Task<Deposed>,
}

fn run_controller(
    host: &Host,
    config: &BrokerConfig,
    log: MetaLog,
    state: MetaState,
) -> (ControllerClient, Control) {
    let (client, inbox) = ControllerClient::new(host.clone());
    let (send, pushes) = mpsc::channel(PUSHES);
    let (resign, resigned) = oneshot::channel();
    let settings = ControllerConfig {
        broker: config.broker_id,
        snapshot_interval: config.meta_snapshot_interval,
        snapshot_bytes: config.meta_snapshot_bytes,
        retain: config.meta_retain,
    };
    let controller = Controller::new(host.clone(), log, state, settings, inbox, send);
    let task = host.spawn("controller", controller.run(resigned));
    (client, Control { pushes, resign, task })
}

/// A controller that is deposed means that another process owns the cluster.
fn watch_controller(
    node: &Arc<Node>,
    task: levee_runtime::Task<Deposed>,
) -> levee_runtime::Task<Deposed> {
    let watched = node.clone();
    node.host.spawn("controller-watch", async move {
        let deposed = task.await.unwrap_or(Deposed::Unwatched);
        match &deposed {
            Deposed::Lost(to) => watched.end(&format!("another process took over: {to}")),
            Deposed::Unwatched => watched.end("the controller stopped"),
            Deposed::Resigned => {}
        }
        deposed
    })
}

/// What opening a session needs.
struct Opening<'a> {
    host: &'a Host,
    config: &'a Arc<BrokerConfig>,
    view: &'a Arc<View>,
    controller: &'a ControllerClient,
}

type Pushes = mpsc::Receiver<Push>;

impl Opening<'_> {
    /// Reads what the bucket holds, however long that takes: before the session, which must not
    /// fall silent, and while the controller goes on.
    async fn load(&self, store: &Store, mut pushes: Pushes) -> Result<(Tiers, Pushes), StartError> {
        let state = self.view.read().clone();
        let tiers = Tiers::open(self.host, store, self.config, state.cluster).await;
        {
            let mut loaded = std::pin::pin!(tiers.load(&state));
            loop {
                tokio::select! {
                    biased;
                    done = &mut loaded => break done?,
                    push = pushes.recv() => self.follow(push)?,
                }
            }
        }
        Ok((tiers, pushes))
    }

    /// Nobody follows yet: the slots are folded in here.
    fn follow(&self, push: Option<Push>) -> Result<(), StartError> {
        let push = push.ok_or_else(|| Error::session_ended("the controller stopped"))?;
        self.view.apply(&push).map_err(|error| Error::internal(error.to_string()))?;
        self.view.settled(push.0.slot);
        Ok(())
    }

    /// Opens the session, then its lanes: `LaneOpen` is committed before their first byte.
    async fn open(
        &self,
        store: &Store,
        identity: &Identity,
        address: String,
        tiers: Tiers,
        mut pushes: Pushes,
    ) -> Result<(Arc<Node>, Pushes), StartError> {
        let request = Request::OpenSession {
            broker: self.config.broker_id,
            incarnation: identity.incarnation,
            store_id: identity.store_id,
            zone: self.config.zone.clone(),
            address,
        };
        let (slot, answer) = self.controller.ask(request, OPEN_LIMIT).await?;
        let Answer::Session(session) = answer else {
            return Err(Error::internal(format!("opening a session gave {answer:?}")).into());
        };
        while self.view.read().head < slot {
            self.follow(pushes.recv().await)?;
        }
        let config = self.config;
        // What came in the meantime.
        let state = self.view.read().clone();
        tiers.load(&state).await?;
        let lanes = self.open_lanes(store, session, &tiers).await?;
        let node = Arc::new(Node {
            host: self.host.clone(),
            config: config.clone(),
            store: store.clone(),
            view: self.view.clone(),
            controller: self.controller.clone(),
            session,
            lanes,
            tiers,
            tails: Arc::new(TailBytes::default()),
            lease: Default::default(),
            uploads: Default::default(),
            partitions: Default::default(),
            waiting: Default::default(),
            recovered: Default::default(),
            known: Default::default(),
            ended: watch::Sender::new(None),
            draining: watch::Sender::new(false),
            offload_aside: Mutex::new(Aside::new(offload::LEFT_OUT)),
            offloading: Default::default(),
            rewriting: Default::default(),
            limits: Limits::default(),
            unrepaired: Default::default(),
            last_told: Default::default(),
            pace: Pace::new(self.host.clone(), config.catch_up_bytes_per_second),
            budget: Arc::new(Budget::new(
                self.host.clone(),
                self.config.upkeep_bytes_per_second,
                self.config.upkeep_requests_per_second.into(),
            )),
            disk_free: Default::default(),
            waiting_bytes: tokio::sync::Semaphore::new(config.waiting_bytes()),
            answers: AnswerRoom::new(config.answer_bytes),
            producer_ids: Default::default(),
        });
        Ok((node, pushes))
    }

    async fn open_lanes(
        &self,
        store: &Store,
        session: levee_proto::ids::SessionId,
        tiers: &Tiers,
    ) -> Result<Lanes, StartError> {
        let config = self.config;
        let object = ObjectLaneConfig {
            linger: config.object_lane_linger,
            slot_bytes: config.object_lane_slot_bytes as usize,
            in_flight: config.object_lane_inflight as usize,
            queue_bytes: config.object_lane_queue_bytes as usize,
            ..ObjectLaneConfig::default()
        };
        let local = LocalConfig {
            file_bytes: config.wal_file_bytes,
            queue_bytes: config.wal_queue_bytes as usize,
            flush_interval: config.wal_flush_interval,
            ..LocalConfig::default()
        };
        let object_id = LaneId { session, lane: OBJECT_LANE };
        let local_id = LaneId { session, lane: LOCAL_LANE };
        let wal_dir = config.data_dir.join(WAL_DIR);
        let opened = LocalLane::open(self.host.clone(), &wal_dir, local_id, local).await;
        let local = opened.map_err(|error| StartError::Disk {
            what: format!("the local WAL in {}", wal_dir.display()),
            error,
        })?;
        let index = tiers.index.clone();
        let object = ObjectLane::open(self.host.clone(), store.clone(), object_id, object, index);
        Ok(Lanes { object, local })
    }
}

/// A lane that ends, ends the session (I18): the process must not go on beside it.
async fn watch_lanes(node: Arc<Node>) {
    use levee_hot_log::lane::LaneState;
    let watch = |lane: Arc<dyn levee_hot_log::lane::Lane>| async move {
        let mut state = lane.state();
        let ended = state.wait_for(|state| matches!(state, LaneState::Ended(_))).await;
        match ended.map(|state| state.clone()) {
            Ok(LaneState::Ended(why)) => format!("lane {}: {why}", lane.id()),
            _ => format!("lane {} is gone", lane.id()),
        }
    };
    let [object, local] = node.lanes.all();
    let why = tokio::select! {
        biased;
        why = watch(object) => why,
        why = watch(local) => why,
    };
    if !node.is_draining() {
        node.end(&why);
    }
}
