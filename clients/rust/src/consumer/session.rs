//! The session of a member with its coordinator: a task that joins, beats, commits and comes back
//! after broken streams, whatever the caller does in between.
//!
//! Owns: the member's id and epoch, the one stream, and when the member begins anew. Does not own:
//! what is read (`Consumer`). One message is under way at a time; its answer is waited for.

mod task;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use levee_proto::grpc::TopicOffsets;
use parking_lot::Mutex;
use rand::RngExt;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::Instant;

use super::ConsumerConfig;
use crate::connection::Client;
use crate::error::{Error, Result};
use crate::offsets::TopicPartition;
use task::Task;

/// Commits that may wait.
const COMMANDS: usize = 16;
/// How long the coordinator may take to hear that a member leaves.
const LEAVE_LIMIT: Duration = Duration::from_secs(5);

/// What the coordinator said last.
#[derive(Debug, Clone, Default)]
pub(super) struct Told {
    /// Counts how often the member began anew: what it had before is lost then.
    pub(super) membership: u64,
    pub(super) epoch: u32,
    /// Grows with each assignment.
    pub(super) version: u64,
    /// With the ids of the topics.
    pub(super) assignment: Option<Arc<BTreeMap<TopicPartition, String>>>,
    /// Why there will be no more.
    pub(super) failed: Option<Error>,
}

/// What the member reads.
#[derive(Debug, Clone, Default)]
pub(super) struct OwnedSet {
    pub(super) membership: u64,
    pub(super) partitions: BTreeSet<TopicPartition>,
}

enum Command {
    Commit {
        /// For what was read in it.
        membership: u64,
        offsets: Vec<TopicOffsets>,
        deadline: Instant,
        reply: oneshot::Sender<Result<()>>,
    },
    Leave {
        reply: oneshot::Sender<()>,
    },
}

/// Whether the caller is there: one that stays away makes room for others.
#[derive(Debug)]
struct Presence {
    /// `None`: it waits in `next`.
    away_since: Mutex<Option<Instant>>,
    back: Notify,
}

/// The caller's side.
pub(super) struct Session {
    config: Arc<ConsumerConfig>,
    member_id: String,
    told: watch::Receiver<Told>,
    owned: watch::Sender<OwnedSet>,
    commands: mpsc::Sender<Command>,
    presence: Arc<Presence>,
}

/// While it lives, the caller waits in `next`.
pub(super) struct Inside(Arc<Presence>);

impl Session {
    pub(super) fn start(client: Client, config: Arc<ConsumerConfig>) -> Self {
        let member_id = uuid();
        let (tell, told) = watch::channel(Told::default());
        let (owned, owns) = watch::channel(OwnedSet::default());
        let (commands, queue) = mpsc::channel(COMMANDS);
        let away_since = Mutex::new(Some(Instant::now()));
        let presence = Arc::new(Presence { away_since, back: Notify::new() });
        let trouble = client.trouble();
        let task = Task::new(client, config.clone(), member_id.clone(), trouble);
        tokio::spawn(task.run(tell, owns, queue, presence.clone()));
        Self { config, member_id, told, owned, commands, presence }
    }

    pub(super) fn member_id(&self) -> &str {
        &self.member_id
    }

    pub(super) fn inside(&self) -> Inside {
        *self.presence.away_since.lock() = None;
        self.presence.back.notify_one();
        Inside(self.presence.clone())
    }

    pub(super) fn told(&self) -> Told {
        self.told.borrow().clone()
    }

    /// Waits until something was told that `seen` does not know.
    pub(super) async fn changed(&mut self, seen: (u64, u64)) {
        let is_new = |told: &Told| told.failed.is_some() || (told.membership, told.version) != seen;
        // An error: the task has ended, which `has_ended` says.
        let _ = self.told.wait_for(is_new).await;
    }

    /// Nothing more will be told.
    pub(super) fn has_ended(&self) -> bool {
        self.told.has_changed().is_err()
    }

    pub(super) fn own(&self, owned: OwnedSet) {
        self.owned.send_replace(owned);
    }

    pub(super) async fn commit(
        &self,
        membership: u64,
        offsets: Vec<TopicOffsets>,
        limit: Duration,
    ) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        let deadline = Instant::now() + limit;
        let command = Command::Commit { membership, offsets, deadline, reply };
        let left = || {
            let failed = self.told.borrow().failed.clone();
            failed.unwrap_or_else(|| Error::left(&self.config.group))
        };
        let committed = async {
            self.commands.send(command).await.map_err(|_| left())?;
            answer.await.unwrap_or_else(|_| Err(left()))
        };
        let late = |_| Error::timed_out("committing offsets", limit).maybe_written(true);
        tokio::time::timeout_at(deadline, committed).await.map_err(late)?
    }

    /// Best effort: who is not heard leaves by silence.
    pub(super) async fn leave(&self) {
        let (reply, left) = oneshot::channel();
        let leave = async {
            if self.commands.send(Command::Leave { reply }).await.is_ok() {
                let _ = left.await;
            }
        };
        let _ = tokio::time::timeout(LEAVE_LIMIT, leave).await;
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        *self.0.away_since.lock() = Some(Instant::now());
    }
}

/// A random one (RFC 9562, version 4).
fn uuid() -> String {
    const VERSION: u128 = 0xf << 76;
    const VARIANT: u128 = 0x3 << 62;
    let bits: u128 = rand::rng().random();
    let bits = bits & !VERSION & !VARIANT | 0x4 << 76 | 0x2 << 62;
    let hex = format!("{bits:032x}");
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

#[cfg(test)]
mod tests {
    #[test]
    fn ids_of_members_are_uuids() {
        let id = super::uuid();
        let parts: Vec<usize> = id.split('-').map(str::len).collect();
        assert_eq!(parts, [8, 4, 4, 4, 12], "{id}");
        assert_eq!(&id[14..15], "4");
        assert!("89ab".contains(&id[19..20]), "{id}");
        assert_ne!(id, super::uuid());
    }
}
