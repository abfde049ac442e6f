//! The task behind a session.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use levee_proto::grpc::session_request::What;
use levee_proto::grpc::{
    Assignment, Beat, Commit, ErrorCode, Join, Leave, Owned, SessionRequest, SessionResponse,
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::{Command, ConsumerConfig, LEAVE_LIMIT, OwnedSet, Presence, Told};
use crate::backoff::Backoff;
use crate::connection::Client;
use crate::error::{Error, ErrorKind, Result};
use crate::offsets::{TopicPartition, all_done, by_topic};
use crate::trouble::Trouble;

/// How long the broker may take to begin, and to answer a message: longer than it gives itself.
const OPEN_LIMIT: Duration = Duration::from_secs(10);
const ANSWER_LIMIT: Duration = Duration::from_secs(35);
/// Messages that a stream holds: one is under way at a time.
const UNDER_WAY: usize = 1;

/// See the module.
pub(super) struct Task {
    client: Client,
    config: Arc<ConsumerConfig>,
    member_id: String,
    trouble: Trouble,
    epoch: u32,
    has_joined: bool,
    began: Instant,
    /// A commit whose answer is not there.
    unanswered: Option<Command>,
}

/// The caller's sides of the channels.
struct Caller {
    tell: watch::Sender<Told>,
    owned: watch::Receiver<OwnedSet>,
    commands: mpsc::Receiver<Command>,
    presence: Arc<Presence>,
}

struct Stream {
    requests: mpsc::Sender<SessionRequest>,
    answers: Streaming<SessionResponse>,
    /// When to be heard from again, and how often.
    beat_at: Instant,
    beat: Duration,
}

/// Why a stream is not used any more, other than by an error.
enum Pause {
    /// The caller stays away: the member is out until it is back.
    Away,
    Left,
}

/// What to do next on a stream.
enum Next {
    Say(What),
    Commit(Command),
    Leave(Option<oneshot::Sender<()>>),
    Away,
}

impl Task {
    pub(super) fn new(
        client: Client,
        config: Arc<ConsumerConfig>,
        member_id: String,
        trouble: Trouble,
    ) -> Self {
        let (epoch, has_joined, began) = (0, false, Instant::now());
        Self { client, config, member_id, trouble, epoch, has_joined, began, unanswered: None }
    }

    /// Until the caller leaves or is gone, or the group can never be joined.
    pub(super) async fn run(
        mut self,
        tell: watch::Sender<Told>,
        owned: watch::Receiver<OwnedSet>,
        commands: mpsc::Receiver<Command>,
        presence: Arc<Presence>,
    ) {
        let mut caller = Caller { tell, owned, commands, presence };
        let mut backoff = Backoff::new();
        loop {
            let error = match self.stream(&mut caller, &mut backoff).await {
                Ok(Pause::Left) => return,
                Ok(Pause::Away) => {
                    self.begin_anew(&caller);
                    match self.until_back(&mut caller).await {
                        true => continue,
                        false => return,
                    }
                }
                Err(error) => error,
            };
            tracing::debug!(group = %self.config.group, %error, "the session of a member broke");
            if self.is_out(&error) {
                self.begin_anew(&caller);
            } else if self.is_final(&error) {
                caller.tell.send_modify(|told| told.failed = Some(error));
                return;
            }
            self.trouble.is(&error);
            if caller.commands.is_closed() && caller.commands.is_empty() {
                // Nobody is there to leave for: silence ends the session.
                return;
            }
            backoff.wait().await;
        }
    }

    /// Waits for the caller; false where it leaves.
    async fn until_back(&self, caller: &mut Caller) -> bool {
        let presence = caller.presence.clone();
        while presence.away_since.lock().is_some() {
            tokio::select! {
                biased;
                () = presence.back.notified() => {}
                command = caller.commands.recv() => match command {
                    Some(Command::Commit { reply, .. }) => {
                        let _ = reply.send(Err(Error::membership_lost(&self.config.group)));
                    }
                    Some(Command::Leave { .. }) | None => return false,
                },
            }
        }
        true
    }

    /// The member's epoch is over, and what it had is lost.
    fn is_out(&self, error: &Error) -> bool {
        let out = [ErrorCode::UnknownMember, ErrorCode::MemberFenced, ErrorCode::UnknownGroup];
        self.epoch > 0 && error.kind == ErrorKind::Refused && out.contains(&error.code)
    }

    /// Who was a member comes back, however long that takes.
    fn is_final(&self, error: &Error) -> bool {
        // Its session ends some time.
        let may_pass = error.retriable || error.code == ErrorCode::InstanceInUse;
        !may_pass || (!self.has_joined && self.began.elapsed() >= self.config.retry_for)
    }

    fn begin_anew(&mut self, caller: &Caller) {
        self.epoch = 0;
        caller.tell.send_modify(|told| {
            told.membership += 1;
            told.version += 1;
            told.assignment = None;
        });
        if let Some(Command::Commit { reply, .. }) = self.unanswered.take() {
            let _ = reply.send(Err(Error::membership_lost(&self.config.group)));
        }
    }

    /// Opens a stream, joins, and serves the caller over it.
    async fn stream(&mut self, caller: &mut Caller, backoff: &mut Backoff) -> Result<Pause> {
        let (requests, outgoing) = mpsc::channel(UNDER_WAY);
        let mut groups = self.client.groups();
        let opening = groups.session_stream(ReceiverStream::new(outgoing));
        let opened = tokio::time::timeout(OPEN_LIMIT, opening).await;
        let opened = opened.map_err(|_| Error::timed_out("opening a group session", OPEN_LIMIT))?;
        let (beat_at, beat) = (Instant::now(), Duration::from_secs(1));
        let mut stream = Stream { requests, answers: opened?.into_inner(), beat_at, beat };
        let owned = self.owned_now(caller);
        let join = What::Join(self.join(&owned));
        let answer = stream.exchange(join).await?;
        self.has_joined = true;
        self.trouble.is_over();
        backoff.reset();
        self.told(caller, answer);
        loop {
            let next = match self.unanswered.take() {
                Some(command) => Next::Commit(command),
                None => self.next(caller, stream.beat_at).await,
            };
            match next {
                Next::Say(what) => {
                    let answer = stream.exchange(what).await?;
                    self.told(caller, answer);
                }
                Next::Commit(command) => self.commit(caller, &mut stream, command).await?,
                Next::Away => {
                    tracing::warn!(group = %self.config.group, limit = ?self.config.poll_limit,
                        "next was not called for so long that the member leaves");
                    self.leave(&mut stream).await;
                    return Ok(Pause::Away);
                }
                Next::Leave(reply) => {
                    self.leave(&mut stream).await;
                    reply.map(|reply| reply.send(()));
                    return Ok(Pause::Left);
                }
            }
        }
    }

    async fn next(&self, caller: &mut Caller, beat_at: Instant) -> Next {
        tokio::select! {
            biased;
            changed = caller.owned.changed() => match changed {
                Ok(()) => {
                    let owned = by_topic(&self.owned_now(caller).partitions);
                    Next::Say(What::Owned(Owned { owned }))
                }
                Err(_) => Next::Leave(None),
            },
            command = caller.commands.recv() => match command {
                Some(Command::Leave { reply }) => Next::Leave(Some(reply)),
                Some(command) => Next::Commit(command),
                None => Next::Leave(None),
            },
            () = tokio::time::sleep_until(beat_at) => {
                let away = *caller.presence.away_since.lock();
                match away.is_some_and(|since| since.elapsed() >= self.config.poll_limit) {
                    true => Next::Away,
                    false => Next::Say(What::Beat(Beat {})),
                }
            }
        }
    }

    fn join(&self, owned: &OwnedSet) -> Join {
        let config = &self.config;
        let rebalance = u32::try_from(config.rebalance_timeout.as_millis());
        Join {
            group: config.group.to_string(),
            member_id: self.member_id.clone(),
            member_epoch: self.epoch,
            topics: config.topics.clone(),
            topic_pattern: config.topic_pattern.clone(),
            instance_id: config.instance_id.clone(),
            rack: config.rack.clone(),
            assignor: config.assignor.clone(),
            rebalance_timeout_ms: rebalance.unwrap_or(u32::MAX),
            owned: match self.epoch {
                0 => Vec::new(),
                _ => by_topic(&owned.partitions),
            },
            client_id: config.client_id.clone(),
        }
    }

    /// What the caller reads in this membership: what it read in one before is lost.
    fn owned_now(&self, caller: &mut Caller) -> OwnedSet {
        let membership = caller.tell.borrow().membership;
        let owned = caller.owned.borrow_and_update().clone();
        match owned.membership == membership {
            true => owned,
            false => OwnedSet { membership, ..OwnedSet::default() },
        }
    }

    fn told(&mut self, caller: &Caller, answer: SessionResponse) {
        let epoch = answer.member_epoch;
        let is_same = std::mem::replace(&mut self.epoch, epoch) == epoch;
        if is_same && answer.assignment.is_none() {
            return;
        }
        caller.tell.send_modify(|told| {
            told.epoch = epoch;
            if let Some(assignment) = answer.assignment {
                told.assignment = Some(Arc::new(by_partition(assignment)));
                told.version += 1;
            }
        });
    }

    async fn commit(
        &mut self,
        caller: &Caller,
        stream: &mut Stream,
        command: Command,
    ) -> Result<()> {
        let Command::Commit { membership, offsets, deadline, reply } = command else {
            return Ok(());
        };
        if reply.is_closed() || deadline <= Instant::now() {
            return Ok(());
        }
        if membership != caller.tell.borrow().membership {
            let _ = reply.send(Err(Error::membership_lost(&self.config.group)));
            return Ok(());
        }
        let what = What::Commit(Commit { offsets: offsets.clone() });
        match stream.exchange(what).await {
            Ok(answer) => {
                let _ = reply.send(all_done(answer.failed));
                Ok(())
            }
            // The same again would get the same answer.
            Err(error) if !error.retriable && !self.is_out(&error) => {
                let _ = reply.send(Err(error));
                Err(Error::connection("the broker ended the session after a commit"))
            }
            Err(error) => {
                self.unanswered = Some(Command::Commit { membership, offsets, deadline, reply });
                Err(error)
            }
        }
    }

    async fn leave(&self, stream: &mut Stream) {
        let leave = What::Leave(Leave { for_good: false });
        let _ = tokio::time::timeout(LEAVE_LIMIT, stream.exchange(leave)).await;
    }
}

impl Stream {
    /// Says something and waits for its answer.
    async fn exchange(&mut self, what: What) -> Result<SessionResponse> {
        let is_beat = !matches!(what, What::Commit(_));
        let request = SessionRequest { what: Some(what) };
        let gone = |_| Error::connection("the group session takes nothing more");
        self.requests.try_send(request).map_err(gone)?;
        let answer = tokio::time::timeout(ANSWER_LIMIT, self.answers.message()).await;
        let late = |_| Error::timed_out("an answer of the group's coordinator", ANSWER_LIMIT);
        let ended = || Error::connection("the broker ended the group session");
        let answer = answer.map_err(late)??.ok_or_else(ended)?;
        if let Some(detail) = answer.error {
            return Err(detail.into());
        }
        if is_beat {
            self.beat = Duration::from_millis(answer.beat_ms.clamp(10, 60_000).into());
            self.beat_at = Instant::now() + self.beat;
        }
        Ok(answer)
    }
}

fn by_partition(assignment: Assignment) -> BTreeMap<TopicPartition, String> {
    let mut all = BTreeMap::new();
    for assigned in assignment.partitions {
        let name: Arc<str> = assigned.topic.into();
        for partition in assigned.partitions {
            let at = TopicPartition::new(name.clone(), partition);
            all.insert(at, assigned.topic_id.clone());
        }
    }
    all
}
