//! From a request to the records that grant it: pure, so that every decision can be tested and
//! replayed. The fold has the last word on each record.

mod jobs;

use std::collections::BTreeMap;

use levee_proto::ids::{LaneId, PartitionId, SessionId, TopicId};
use levee_proto::metalog::image::{Lane, Partition, SessionState};
use levee_proto::metalog::*;
use levee_tiering::metalog::MetaState;

use super::message::{Answer, CloseLane, Request};
use super::{quotas, scram};
use crate::error::Error;

/// Lane numbers of every session.
pub const OBJECT_LANE: u16 = 0;
pub const LOCAL_LANE: u16 = 1;
/// Offsets left unused where an operator gave up a lost tail: no reader can meet one twice.
pub const LOSS_GAP: u64 = 1 << 32;

/// What the world gives to a decision.
pub struct Given {
    pub wall_ms: i64,
    /// For ids of new things.
    pub random: u128,
}

type Decision = Result<(Vec<Record>, Answer), Error>;

/// See the module. `Beat` is not decided here: the controller keeps it for its next slot.
pub fn decide(state: &MetaState, request: &Request, given: &Given) -> Decision {
    match request {
        Request::OpenSession { broker, incarnation, store_id, zone, address } => {
            let session = SessionOpen {
                session: next_session(state, *broker),
                incarnation: *incarnation,
                store_id: *store_id,
                zone: zone.clone(),
                address: address.clone(),
                lanes: vec![
                    LaneOpen { lane: OBJECT_LANE, kind: LaneKind::Object },
                    LaneOpen { lane: LOCAL_LANE, kind: LaneKind::Local },
                ],
            };
            open_session(state, session)
        }
        Request::Beat(_) => Ok((Vec::new(), Answer::Done)),
        Request::HandOffDone { session, partition, leader_epoch, end } => {
            hand_off_done(state, *session, *partition, *leader_epoch, *end)
        }
        Request::Commit { session, objects } => {
            ensure_open(state, *session)?;
            Ok((objects.iter().cloned().map(Record::from).collect(), Answer::Done))
        }
        Request::LeaveLane { lane, trim, end } => {
            ensure_open(state, lane.session)?;
            ensure_first_open(state, *lane)?;
            let record = LaneClosed { lane: *lane, rid: 0, trim: *trim, end: *end };
            Ok((vec![record.into()], Answer::Done))
        }
        Request::Adopt { session, ends } => {
            ensure_open(state, *session)?;
            let orphans = state.orphans().filter(|partition| ends.contains_key(&partition.id));
            let grant = |partition| next_grant(state, *session, partition, ends);
            Ok((orphans.filter_map(grant).collect(), Answer::Done))
        }
        Request::CloseLane(closing) => close_lane(state, closing),
        Request::CreateTopic { name, partitions, config } => {
            create_topic(state, name, *partitions, config, given)
        }
        Request::AlterTopic { topic, set, remove, partitions } => {
            alter_topic(state, *topic, set, remove, *partitions)
        }
        Request::DeleteTopic { topic } => {
            let record = TopicDelete { topic: *topic, deleted_ms: given.wall_ms };
            Ok((vec![record.into()], Answer::Topic(*topic)))
        }
        Request::SetLogStarts { session, starts } => {
            ensure_open(state, *session)?;
            let current = |id: &PartitionId| state.partitions.get(id).map(|p| p.log_start);
            // A topic may be purged, or its records deleted, since the request was made.
            let moves = starts.iter().filter(|(id, start)| current(id).is_some_and(|s| s < *start));
            let record = |(partition, log_start): &(PartitionId, u64)| {
                LogStart { partition: *partition, log_start: *log_start }.into()
            };
            Ok((moves.map(record).collect(), Answer::Done))
        }
        Request::ProducerIds { count } => {
            let first = state.next_producer_id;
            let record = ProducerIds { next: first + count };
            Ok((vec![record.into()], Answer::ProducerIds(first)))
        }
        Request::AlterQuotas(change) => quotas::decide(state, change),
        Request::AlterScram(change) => scram::decide(state, change),
        Request::AcceptLoss { partition, known_end } => accept_loss(state, *partition, *known_end),
        Request::Collect(records) => Ok((collected(state, records), Answer::Done)),
        Request::StartJob { session, kind, inputs } => {
            ensure_open(state, *session)?;
            jobs::start(state, *session, *kind, inputs)
        }
        Request::FinishJob { session, job, outputs } => {
            ensure_open(state, *session)?;
            jobs::finish(state, *session, *job, outputs)
        }
        Request::AbandonJob { session, job } => jobs::abandon(state, *session, *job),
    }
}

/// What a job took in the meantime is no longer ours to unreference.
fn collected(state: &MetaState, records: &[Record]) -> Vec<Record> {
    let free = |id: &ObjectId| state.objects.contains_key(id) && !state.is_held(id);
    let record = |record: &Record| match record {
        Record::Unref(r) => {
            Unref { objects: r.objects.iter().copied().filter(free).collect() }.into()
        }
        other => other.clone(),
    };
    records.iter().map(record).collect()
}

fn next_session(state: &MetaState, broker: u32) -> SessionId {
    let newest = state.newest_session(broker).map_or(0, |s| s.id.epoch);
    SessionId { broker, epoch: newest + 1 }
}

fn ensure_open(state: &MetaState, session: SessionId) -> Result<(), Error> {
    match state.is_open(session) {
        true => Ok(()),
        false => Err(Error::session_ended(format!("session {session} is not open"))),
    }
}

/// Every older session that is not closed gets a new recovery attempt, so that a recoverer of
/// before can close nothing any more (F17).
fn open_session(state: &MetaState, open: SessionOpen) -> Decision {
    let id = open.session;
    let mut records: Vec<Record> = state
        .live_sessions(id.broker)
        .map(|old| {
            let reason = format!("replaced by {id}");
            SessionFencing { session: old.id, rid: old.rid + 1, reason }.into()
        })
        .collect();
    records.push(open.into());
    Ok((records, Answer::Session(id)))
}

/// The class that a topic's settings ask for.
pub fn class_of(state: &MetaState, topic: TopicId) -> DurabilityClass {
    let config = state.topics.get(&topic).map(|t| &t.config);
    let named = config.and_then(|c| c.get("durability.class"));
    named.and_then(|name| DurabilityClass::from_name(name)).unwrap_or(DurabilityClass::Object)
}

/// The lane of `session` that serves `class`. Too few brokers for peers: `replicated` is refused
/// where topics are made, so it never gets here.
pub fn lane_for(session: SessionId, class: DurabilityClass) -> LaneId {
    let lane = match class {
        DurabilityClass::Local => LOCAL_LANE,
        DurabilityClass::Object | DurabilityClass::Replicated => OBJECT_LANE,
    };
    LaneId { session, lane }
}

fn grant(state: &MetaState, to: SessionId, partition: &Partition, start: u64) -> Record {
    let lane = lane_for(to, class_of(state, partition.id.topic));
    let leader_epoch = partition.leader.as_ref().map_or(0, |l| l.epoch) + 1;
    Grant { partition: partition.id, leader_epoch, lane, start }.into()
}

fn hand_off_done(
    state: &MetaState,
    session: SessionId,
    id: PartitionId,
    leader_epoch: u32,
    end: u64,
) -> Decision {
    ensure_open(state, session)?;
    let unknown = || Error::internal(format!("hand-off of unknown partition {id}"));
    let partition = state.partitions.get(&id).ok_or_else(unknown)?;
    let leader = partition.leader.as_ref().ok_or_else(unknown)?;
    // Repeated until the leader sees a higher epoch: later ones change nothing.
    if leader.epoch != leader_epoch {
        return Ok((Vec::new(), Answer::Done));
    }
    let mut records = Vec::new();
    if leader.handed_off.is_none() {
        records.push(HandOffDone { partition: id, leader_epoch, end }.into());
    }
    records.push(grant(state, session, partition, end));
    Ok((records, Answer::Done))
}

/// What a local lane holds follows on what the object lane of its session holds.
fn ensure_first_open(state: &MetaState, lane: LaneId) -> Result<(), Error> {
    let earlier = |l: &&Lane| l.id.lane < lane.lane && l.end.is_none();
    match state.lanes_of(lane.session).find(earlier) {
        Some(open) => Err(Error::internal(format!("{lane} cannot be closed before {}", open.id))),
        None => Ok(()),
    }
}

/// The grant that follows on a closed lane.
fn next_grant(
    state: &MetaState,
    to: SessionId,
    partition: &Partition,
    ends: &BTreeMap<PartitionId, u64>,
) -> Option<Record> {
    let leader = partition.leader.as_ref()?;
    let found = ends.get(&partition.id).copied().unwrap_or(leader.start);
    // Where everything was deleted, nothing but the log start tells where it ended (I4).
    let found = found.max(leader.start).max(partition.log_start);
    Some(grant(state, to, partition, leader.handed_off.unwrap_or(found)))
}

/// LaneClosed, what was copied, and the next grants, in one slot.
fn close_lane(state: &MetaState, closing: &CloseLane) -> Decision {
    ensure_open(state, closing.session)?;
    ensure_first_open(state, closing.lane)?;
    let mut records: Vec<Record> = vec![
        LaneClosed { lane: closing.lane, rid: closing.rid, trim: closing.trim, end: closing.end }
            .into(),
    ];
    records.extend(closing.objects.iter().cloned().map(Record::from));
    let led = state.partitions_on(closing.lane);
    records.extend(led.filter_map(|p| next_grant(state, closing.session, p, &closing.ends)));
    Ok((records, Answer::Done))
}

fn open_sessions(state: &MetaState) -> Vec<SessionId> {
    let open = state.sessions.values().filter(|s| s.state == SessionState::Open);
    open.map(|s| s.id).collect()
}

fn create_topic(
    state: &MetaState,
    name: &str,
    partitions: u32,
    config: &BTreeMap<String, String>,
    given: &Given,
) -> Decision {
    if state.names.contains_key(name) {
        return Err(Error::topic_exists(name));
    }
    let topic = TopicId(given.random);
    let create = TopicCreate {
        topic,
        name: name.to_owned(),
        partitions,
        config: config.clone(),
        created_ms: given.wall_ms,
    };
    let class = config.get("durability.class").and_then(|c| DurabilityClass::from_name(c));
    let class = class.unwrap_or(DurabilityClass::Object);
    let mut records = vec![create.into()];
    records.extend(first_grants(state, topic, class, 0..partitions)?);
    Ok((records, Answer::Topic(topic)))
}

fn first_grants(
    state: &MetaState,
    topic: TopicId,
    class: DurabilityClass,
    numbers: std::ops::Range<u32>,
) -> Result<Vec<Record>, Error> {
    let sessions = open_sessions(state);
    if sessions.is_empty() {
        return Err(Error::internal("no broker session is open"));
    }
    let grants = numbers.map(|partition| {
        let to = sessions[partition as usize % sessions.len()];
        let partition = PartitionId { topic, partition };
        Grant { partition, leader_epoch: 1, lane: lane_for(to, class), start: 0 }.into()
    });
    Ok(grants.collect())
}

fn alter_topic(
    state: &MetaState,
    topic: TopicId,
    set: &BTreeMap<String, String>,
    remove: &[String],
    partitions: u32,
) -> Decision {
    let known = state.topics.get(&topic).filter(|t| t.deleted_ms.is_none());
    let known = known.ok_or_else(|| Error::unknown_topic(&topic.to_string()))?;
    let mut records = Vec::new();
    if !set.is_empty() || !remove.is_empty() {
        let (set, remove) = (set.clone(), remove.to_vec());
        records.push(TopicConfig { topic, set, remove }.into());
    }
    if partitions > known.partitions {
        records.push(TopicGrow { topic, partitions }.into());
        let class = class_of(state, topic);
        records.extend(first_grants(state, topic, class, known.partitions..partitions)?);
    }
    Ok((records, Answer::Topic(topic)))
}

/// The new epoch starts far above everything that the lost disk may hold.
fn accept_loss(state: &MetaState, id: PartitionId, known_end: u64) -> Decision {
    let partition = state.partitions.get(&id);
    let leader = partition.and_then(|p| p.leader.as_ref());
    let (Some(partition), Some(leader)) = (partition, leader) else {
        return Err(Error::internal(format!("partition {id} was never led")));
    };
    let waits = state.sessions.get(&leader.lane.session);
    if waits.is_none_or(|s| s.state != SessionState::Fencing) {
        return Err(Error::invalid_argument(format!(
            "partition {id} waits for no disk: nothing to give up"
        )));
    }
    if state.lanes.get(&leader.lane).is_none_or(|lane| lane.kind != LaneKind::Local) {
        return Err(Error::invalid_argument(format!(
            "partition {id} waits for the bucket, not for a disk: nothing of it is lost"
        )));
    }
    ensure_first_open(state, leader.lane)?;
    let to = open_sessions(state).first().copied();
    let to = to.ok_or_else(|| Error::internal("no broker session is open"))?;
    let from = known_end.max(leader.start).max(partition.log_start);
    let next = from + LOSS_GAP;
    let records = vec![
        LossAccepted { partition: id, from, to: next }.into(),
        grant(state, to, partition, next),
    ];
    Ok((records, Answer::NextOffset(next)))
}
