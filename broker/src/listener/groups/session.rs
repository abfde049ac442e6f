//! The session of one member: a stream whose messages are heartbeats of KIP-848, commits, a leave.
//!
//! Owns: the member's id and epoch while the stream lasts, and the end of streams that are silent or
//! take nothing. Does not own: who has what (`levee-groups`). One message is worked on at a time, so
//! a client that sends more than it reads is held up by its own window.

use std::time::Duration;

use levee_groups::{Answer, Request};
use levee_kafka::messages::consumer_group_heartbeat_request::{
    ConsumerGroupHeartbeatRequest, TopicPartitions as Owned,
};
use levee_kafka::messages::consumer_group_heartbeat_response::ConsumerGroupHeartbeatResponse;
use levee_kafka::{ErrorCode, Uuid};
use levee_proto::grpc::ErrorCode as Code;
use levee_proto::grpc::session_request::What;
use levee_proto::grpc::{
    Assignment, Join, SessionRequest, SessionResponse, TopicOffsets, TopicPartitions,
};
use levee_proto::ids::TopicId;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::super::coordinated::{Asker, Coordinated, failure, indexes, mixed_up, numbers};
use super::super::refusals::of_group;
use super::{Committer, commit};
use crate::error::{Error, Result};

/// The version of ConsumerGroupHeartbeat that this is.
const HEARTBEAT: i16 = 1;
/// Member epochs by which a member goes: for good, or for a while (static members).
const LEFT: i32 = -1;
const AWAY: i32 = -2;
const DEFAULT_REBALANCE_MS: u32 = 60_000;
/// Over an open stream a beat costs next to nothing, and what is new is told by its answer.
const BEAT_MAX: Duration = Duration::from_secs(1);
/// How long the first message may take, and the client to take an answer.
const JOIN_LIMIT: Duration = Duration::from_secs(10);
const SEND_LIMIT: Duration = Duration::from_secs(30);
/// Answers that are made before the client takes them.
const AHEAD: usize = 2;

type Outgoing = mpsc::Sender<std::result::Result<SessionResponse, Status>>;

/// Works on the messages of a stream until it ends.
pub(super) fn serve(
    coordinated: Coordinated,
    asker: Asker,
    requests: Streaming<SessionRequest>,
) -> mpsc::Receiver<std::result::Result<SessionResponse, Status>> {
    let (send, receive) = mpsc::channel(AHEAD);
    tokio::spawn(run(coordinated, asker, requests, send));
    receive
}

async fn run(
    coordinated: Coordinated,
    asker: Asker,
    mut requests: Streaming<SessionRequest>,
    answers: Outgoing,
) {
    let node = coordinated.node().clone();
    let mut draining = node.draining();
    let mut session = None;
    loop {
        let limit = match &session {
            None => JOIN_LIMIT,
            Some(_) => node.config.group_consumer_session_timeout,
        };
        let next = tokio::select! {
            biased;
            () = answers.closed() => return,
            _ = draining.wait_for(|draining| *draining) => Err(Error::shutting_down()),
            next = node.host.timeout(limit, requests.message()) => match next {
                // The client is gone, or takes no part any more: its session goes on without it.
                Ok(Ok(None) | Err(_)) => return,
                Ok(Ok(Some(request))) => Ok(request),
                Err(_) => Err(Error::timed_out("the next message", limit.as_millis() as u64)),
            },
        };
        let answer = match next {
            Ok(request) => answer(&coordinated, &asker, &mut session, request).await,
            Err(error) => Err(error),
        };
        let (response, ends) = match answer {
            Ok((response, ends)) => (response, ends),
            Err(error) => {
                let error = Some(error.to_detail());
                (SessionResponse { error, ..Default::default() }, true)
            }
        };
        let sent = node.host.timeout(SEND_LIMIT, answers.send(Ok(response))).await;
        if ends || !sent.is_ok_and(|sent| sent.is_ok()) {
            return;
        }
    }
}

/// The answer to a message, and whether it is the last one.
async fn answer(
    coordinated: &Coordinated,
    asker: &Asker,
    session: &mut Option<Session>,
    request: SessionRequest,
) -> Result<(SessionResponse, bool)> {
    let what = request.what.ok_or_else(|| Error::invalid_argument("the message is empty"))?;
    if let What::Join(join) = what {
        if session.is_some() {
            return Err(Error::invalid_argument("join comes once, as the first message"));
        }
        let joined = session.insert(Session::new(coordinated.clone(), asker.clone(), join)?);
        return Ok((joined.join().await?, false));
    }
    let Some(session) = session else {
        return Err(Error::invalid_argument("the first message must be join"));
    };
    match what {
        What::Join(_) | What::Beat(_) => Ok((session.beat(None).await?, false)),
        What::Owned(owned) => Ok((session.beat(Some(&owned.owned)).await?, false)),
        What::Commit(commit) => Ok((session.commit(&commit.offsets).await?, false)),
        What::Leave(leave) => Ok((session.leave(leave.for_good).await?, true)),
    }
}

/// A member, while its stream lasts.
struct Session {
    coordinated: Coordinated,
    asker: Asker,
    join: Join,
    epoch: i32,
}

impl Session {
    fn new(coordinated: Coordinated, asker: Asker, join: Join) -> Result<Self> {
        let missing = |what: &str| Err(Error::invalid_argument(format!("join: {what}")));
        if join.member_id.is_empty() {
            return missing("member_id is empty; send a new UUID");
        }
        if join.topics.is_empty() && join.topic_pattern.is_empty() {
            return missing("topics and topic_pattern are both empty; say what to read");
        }
        if join.member_epoch == 0 && !join.owned.is_empty() {
            return missing("owned is not empty; a new member (epoch 0) has nothing");
        }
        let epoch = i32::try_from(join.member_epoch);
        let epoch = epoch.map_err(|_| {
            let why = format!("join: member_epoch {} is none that was given", join.member_epoch);
            Error::invalid_argument(why)
        })?;
        let asker = Asker { client_id: join.client_id.clone(), ..asker };
        Ok(Self { coordinated, asker, join, epoch })
    }

    /// Says all of the member; so it is told all of its assignment.
    async fn join(&mut self) -> Result<SessionResponse> {
        let join = &self.join;
        let rebalance_ms = match join.rebalance_timeout_ms {
            0 => DEFAULT_REBALANCE_MS,
            ms => ms,
        };
        let request = ConsumerGroupHeartbeatRequest {
            rack_id: named(&join.rack),
            rebalance_timeout_ms: i32::try_from(rebalance_ms).unwrap_or(i32::MAX),
            subscribed_topic_names: Some(join.topics.clone()),
            subscribed_topic_regex: Some(join.topic_pattern.clone()),
            server_assignor: named(&join.assignor),
            topic_partitions: Some(self.ids_of(&join.owned)?),
            ..self.heartbeat()
        };
        let answer = self.ask(request).await?;
        Ok(self.told(answer))
    }

    async fn beat(&mut self, owned: Option<&[TopicPartitions]>) -> Result<SessionResponse> {
        let topic_partitions = owned.map(|owned| self.ids_of(owned)).transpose()?;
        let request = ConsumerGroupHeartbeatRequest { topic_partitions, ..self.heartbeat() };
        let answer = self.ask(request).await?;
        Ok(self.told(answer))
    }

    async fn commit(&mut self, offsets: &[TopicOffsets]) -> Result<SessionResponse> {
        let member = Committer {
            group: &self.join.group,
            member_id: &self.join.member_id,
            epoch: self.epoch,
            instance_id: Some(&*self.join.instance_id).filter(|id| !id.is_empty()),
        };
        let failed = commit(&self.coordinated, &self.asker, &member, offsets).await?;
        Ok(SessionResponse { failed, ..self.response() })
    }

    async fn leave(&mut self, for_good: bool) -> Result<SessionResponse> {
        let comes_back = !for_good && !self.join.instance_id.is_empty();
        let member_epoch = if comes_back { AWAY } else { LEFT };
        self.ask(ConsumerGroupHeartbeatRequest { member_epoch, ..self.heartbeat() }).await?;
        Ok(self.response())
    }

    fn heartbeat(&self) -> ConsumerGroupHeartbeatRequest {
        ConsumerGroupHeartbeatRequest {
            group_id: self.join.group.clone(),
            member_id: self.join.member_id.clone(),
            member_epoch: self.epoch,
            instance_id: named(&self.join.instance_id),
            ..Default::default()
        }
    }

    async fn ask(
        &self,
        request: ConsumerGroupHeartbeatRequest,
    ) -> Result<ConsumerGroupHeartbeatResponse> {
        let is_new = request.member_epoch == 0;
        let request = Request::ConsumerGroupHeartbeat(request);
        let group = &self.join.group;
        let answer = self.coordinated.group(&self.asker, group, HEARTBEAT, request).await?;
        let Answer::ConsumerGroupHeartbeat(answer) = answer else { return Err(mixed_up()) };
        match failure(answer.error_code) {
            // A new member makes the group, unless there is one of the other kind.
            Some(ErrorCode::GroupIdNotFound) if is_new => Err(used_otherwise(group)),
            Some(code) => Err(of_group(code, group, answer.error_message)),
            None => Ok(answer),
        }
    }

    fn told(&mut self, answer: ConsumerGroupHeartbeatResponse) -> SessionResponse {
        self.epoch = answer.member_epoch;
        let assignment = answer.assignment.map(|assignment| {
            let state = self.coordinated.node().view.read();
            let each = assignment.topic_partitions.into_iter().filter_map(|assigned| {
                // One that was deleted in between has nothing to read.
                let topic = state.topics.get(&TopicId(assigned.topic_id.into()))?;
                Some(TopicPartitions {
                    topic: topic.name.clone(),
                    topic_id: topic.id.to_string(),
                    partitions: numbers(&assigned.partitions),
                })
            });
            Assignment { partitions: each.collect() }
        });
        SessionResponse { assignment, ..self.response() }
    }

    fn response(&self) -> SessionResponse {
        let config = &self.coordinated.node().config;
        let beat = config.group_consumer_heartbeat_interval.min(BEAT_MAX);
        SessionResponse {
            member_epoch: u32::try_from(self.epoch).unwrap_or_default(),
            beat_ms: beat.as_millis() as u32,
            session_timeout_ms: config.group_consumer_session_timeout.as_millis() as u32,
            ..Default::default()
        }
    }

    /// What the member has of topics that there are.
    fn ids_of(&self, owned: &[TopicPartitions]) -> Result<Vec<Owned>> {
        let state = self.coordinated.node().view.read();
        let mut known = Vec::with_capacity(owned.len());
        for topic in owned {
            let partitions = indexes(&topic.partitions)?;
            if let Some(found) = state.topic_named(&topic.topic) {
                known.push(Owned { topic_id: Uuid::from(found.id.0), partitions });
            }
        }
        Ok(known)
    }
}

fn used_otherwise(group: &str) -> Error {
    let what = format!("group {group:?} has members of Kafka's older protocol");
    let remedy = "stop them first, or give this group another name";
    Error::refused(Code::GroupInUse, what, remedy)
}

/// Kafka's way to say nothing.
fn named(text: &str) -> Option<String> {
    Some(text.to_owned()).filter(|text| !text.is_empty())
}
