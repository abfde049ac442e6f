//! What a broker asks of the controller. Everything here could cross a network.

use std::collections::BTreeMap;

use levee_proto::ids::{LaneId, Nonce, PartitionId, SessionId, TopicId};
use levee_proto::metalog::{LaneSynced, ObjectId, ObjectRef, Record};
use levee_runtime::{Elapsed, Host};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

use super::quotas::QuotaChange;
use super::scram::ScramChange;
use crate::error::Error;

/// See each variant. A request is committed whole or not at all.
#[derive(Debug, Clone)]
pub enum Request {
    /// Begins a session; older ones of the same broker are fenced first.
    OpenSession {
        broker: u32,
        incarnation: Nonce,
        store_id: Nonce,
        zone: String,
        address: String,
    },
    /// Liveness, and what to note in the next slot; answered at once.
    Beat(Beat),
    /// The hand-off entry of this epoch is durable: grant the next one.
    HandOffDone {
        session: SessionId,
        partition: PartitionId,
        leader_epoch: u32,
        end: u64,
    },
    /// Uploaded and verified objects become part of the log.
    Commit {
        session: SessionId,
        objects: Vec<ObjectRef>,
    },
    /// A session leaves: nothing was ever written to this lane of its own from `end` on, nothing
    /// will be, and references cover what is below `trim`.
    LeaveLane {
        lane: LaneId,
        trim: u64,
        end: u64,
    },
    /// Takes over partitions whose leader left; `ends` is where they end.
    Adopt {
        session: SessionId,
        ends: BTreeMap<PartitionId, u64>,
    },
    /// Recovery of one lane is done.
    CloseLane(CloseLane),
    CreateTopic {
        name: String,
        partitions: u32,
        config: BTreeMap<String, String>,
    },
    AlterTopic {
        topic: TopicId,
        set: BTreeMap<String, String>,
        remove: Vec<String>,
        /// 0: unchanged.
        partitions: u32,
    },
    DeleteTopic {
        topic: TopicId,
    },
    /// Records below these offsets are deleted.
    SetLogStarts {
        session: SessionId,
        starts: Vec<(PartitionId, u64)>,
    },
    /// A block of producer ids.
    ProducerIds {
        count: u64,
    },
    /// Changes the quotas of one entity.
    AlterQuotas(QuotaChange),
    /// Changes the credentials of one user.
    AlterScram(ScramChange),
    /// An operator gives up what a lost disk held of a partition.
    AcceptLoss {
        partition: PartitionId,
        known_end: u64,
    },
    /// Garbage collection, decided beside the controller.
    Collect(Vec<Record>),
    /// Begins work on referenced objects that no other job holds.
    StartJob {
        session: SessionId,
        kind: u8,
        inputs: Vec<ObjectId>,
    },
    /// Replaces the inputs of a job by what it made of them, in one slot.
    FinishJob {
        session: SessionId,
        job: u64,
        outputs: Vec<ObjectRef>,
    },
    /// Nothing comes of a job.
    AbandonJob {
        session: SessionId,
        job: u64,
    },
}

/// What a session says about itself twice a second.
#[derive(Debug, Clone)]
pub struct Beat {
    pub session: SessionId,
    pub synced: Vec<LaneSynced>,
    pub upload_floor: u64,
    /// First position of each lane that is not covered.
    pub covered: Vec<(LaneId, u64)>,
}

/// What recovery found in a lane.
#[derive(Debug, Clone)]
pub struct CloseLane {
    /// The recoverer.
    pub session: SessionId,
    pub lane: LaneId,
    pub rid: u64,
    pub trim: u64,
    pub end: u64,
    /// What was copied to the bucket, by the recoverer.
    pub objects: Vec<ObjectRef>,
    /// Ends of the partitions that were led on this lane.
    pub ends: BTreeMap<PartitionId, u64>,
}

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Done,
    Session(SessionId),
    Topic(TopicId),
    /// The block starts here.
    ProducerIds(u64),
    /// Where the next epoch starts.
    NextOffset(u64),
    /// The job that began.
    Job(u64),
    /// What was to be removed does not exist; nothing was done.
    NotThere,
}

/// A committed request: its slot, and the answer.
pub type Committed = Result<(u64, Answer), Error>;

/// A request on its way.
pub struct Envelope {
    pub request: Request,
    pub reply: oneshot::Sender<Committed>,
}

/// Requests that may wait for the controller.
const INBOX: usize = 1024;

/// A way to the controller.
#[derive(Clone)]
pub struct ControllerClient {
    host: Host,
    inbox: mpsc::Sender<Envelope>,
}

impl ControllerClient {
    pub fn new(host: Host) -> (Self, mpsc::Receiver<Envelope>) {
        let (inbox, receiver) = mpsc::channel(INBOX);
        (Self { host, inbox }, receiver)
    }

    /// Asks, and waits up to `limit` for the commit. After a timeout it may be committed or not.
    pub async fn ask(&self, request: Request, limit: Duration) -> Committed {
        let asked = async {
            let (reply, answer) = oneshot::channel();
            let sent = self.inbox.send(Envelope { request, reply }).await;
            sent.map_err(|_| Error::session_ended("the controller of this process stopped"))?;
            answer.await.unwrap_or_else(|_| {
                Err(Error::session_ended("the controller of this process stopped"))
            })
        };
        match self.host.timeout(limit, asked).await {
            Ok(committed) => committed,
            Err(Elapsed) => Err(Error::timed_out("the metadata commit", limit.as_millis() as u64)),
        }
    }
}
