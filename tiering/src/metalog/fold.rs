//! The fold: one record at a time, checked against the state before it changes anything.
//!
//! Both the controller (before it writes) and every reader (after) run it, so a record that breaks
//! an invariant is refused by its author and never believed by anybody else.

use levee_proto::ids::{LaneId, PartitionId, SessionId};
use levee_proto::metalog::image::{
    Controller, EpochStart, Lane, Leader, LostRange, Partition, Session, SessionState, Topic,
    Unreferenced,
};
use levee_proto::metalog::*;
use thiserror::Error;

use super::state::MetaState;

/// A record or slot that does not fit the state.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("metalog slot {slot}: {record}: {why}")]
pub struct FoldError {
    pub slot: u64,
    pub record: &'static str,
    pub why: String,
}

type Checked = Result<(), String>;

fn ensure(holds: bool, why: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(why()) }
}

impl MetaState {
    /// Folds a whole slot in (I1: contiguous, chained, one term).
    pub fn apply_slot(&mut self, slot: &Slot, crc: u32) -> Result<(), FoldError> {
        let fail = |why: String| FoldError { slot: slot.slot, record: "slot", why };
        ensure(slot.slot == self.head + 1, || format!("follows slot {}", self.head))
            .and_then(|()| ensure(slot.cluster == self.cluster, || "other cluster".into()))
            .and_then(|()| {
                ensure(slot.prev_crc == self.chain_crc, || {
                    format!("chains to {:08x}, not {:08x}", slot.prev_crc, self.chain_crc)
                })
            })
            .and_then(|()| {
                let claims = matches!(slot.records.first(), Some(Record::Claim(_)));
                let expected = if claims { self.term + 1 } else { self.term };
                ensure(slot.term == expected, || format!("term {} at {expected}", slot.term))
            })
            .map_err(fail)?;
        for record in &slot.records {
            self.apply(slot.slot, record)?;
        }
        self.head = slot.slot;
        self.chain_crc = crc;
        Ok(())
    }

    /// Folds one record in as part of slot `slot`; changes nothing where it does not fit.
    pub fn apply(&mut self, slot: u64, record: &Record) -> Result<(), FoldError> {
        match record {
            Record::Claim(r) => self.claim(slot, r),
            Record::Resign(r) => self.resign(r),
            Record::SessionOpen(r) => self.session_open(r),
            Record::SessionFencing(r) => self.session_fencing(r),
            Record::SessionBeat(r) => self.session_beat(r),
            Record::LaneClosed(r) => self.lane_closed(slot, r),
            Record::LaneTrim(r) => self.lane_trim(r),
            Record::LossAccepted(r) => self.loss_accepted(r),
            Record::Grant(r) => self.grant(r),
            Record::HandOffDone(r) => self.hand_off_done(r),
            Record::ObjectRef(r) => self.object_ref(r),
            Record::Unref(r) => self.unref(slot, r),
            Record::Deleted(r) => self.deleted(r),
            Record::SlotsDeleted(r) => self.slots_deleted(r),
            Record::JobStart(r) => self.job_start(r),
            Record::JobEnd(r) => self.job_end(r),
            Record::TopicCreate(r) => self.topic_create(r),
            Record::TopicGrow(r) => self.topic_grow(r),
            Record::TopicConfig(r) => self.topic_config(r),
            Record::TopicDelete(r) => self.topic_delete(r),
            Record::TopicPurge(r) => self.topic_purge(r),
            Record::LogStart(r) => self.log_start(r),
            Record::ClusterConfig(r) => {
                self.config.extend(r.set.clone());
                r.remove.iter().for_each(|key| drop(self.config.remove(key)));
                Ok(())
            }
            Record::Feature(r) => {
                self.features.insert(r.name.clone(), r.level);
                Ok(())
            }
            Record::ProducerIds(r) => {
                ensure(r.next >= self.next_producer_id, || "producer ids go back".into())
                    .map(|()| self.next_producer_id = r.next)
            }
            Record::Skipped { .. } => Ok(()),
        }
        .map_err(|why| FoldError { slot, record: record.name(), why })
    }

    fn claim(&mut self, slot: u64, r: &Claim) -> Checked {
        ensure(r.term == self.term + 1, || format!("term {} after {}", r.term, self.term))?;
        self.term = r.term;
        self.claims.push(slot);
        self.controller = Some(Controller {
            broker: r.broker,
            incarnation: r.incarnation,
            address: r.address.clone(),
        });
        Ok(())
    }

    fn resign(&mut self, r: &Resign) -> Checked {
        ensure(r.term == self.term, || format!("term {} in {}", r.term, self.term))?;
        self.controller = None;
        Ok(())
    }

    /// I3: at most one OPEN session per broker.
    fn session_open(&mut self, r: &SessionOpen) -> Checked {
        let id = r.session;
        let live = self.live_sessions(id.broker).find(|s| s.state == SessionState::Open);
        ensure(live.is_none(), || format!("{} is open", live.map_or(id, |s| s.id)))?;
        let newest = self.newest_session(id.broker).map_or(0, |s| s.id.epoch);
        ensure(id.epoch > newest, || format!("{id} after epoch {newest}"))?;
        self.sessions.insert(
            id,
            Session {
                id,
                state: SessionState::Open,
                incarnation: r.incarnation,
                store_id: r.store_id,
                zone: r.zone.clone(),
                address: r.address.clone(),
                rid: 0,
                upload_floor: 0,
                closed_at: 0,
            },
        );
        for lane in &r.lanes {
            let id = LaneId { session: id, lane: lane.lane };
            let kind = lane.kind;
            let lane = Lane { id, kind, trim: 0, end: None, synced: 0, deleted_below: 0 };
            self.lanes.insert(id, lane);
        }
        Ok(())
    }

    fn session(&mut self, id: SessionId) -> Result<&mut Session, String> {
        self.sessions.get_mut(&id).ok_or_else(|| format!("no session {id}"))
    }

    fn open_session(&mut self, id: SessionId) -> Result<&mut Session, String> {
        let session = self.session(id)?;
        match session.state {
            SessionState::Open => Ok(session),
            state => Err(format!("session {id} is {state:?}")),
        }
    }

    fn session_fencing(&mut self, r: &SessionFencing) -> Checked {
        let session = self.session(r.session)?;
        ensure(session.state != SessionState::Closed, || format!("{} is closed", r.session))?;
        ensure(r.rid > session.rid, || format!("rid {} after {}", r.rid, session.rid))?;
        session.state = SessionState::Fencing;
        session.rid = r.rid;
        Ok(())
    }

    fn session_beat(&mut self, r: &SessionBeat) -> Checked {
        let session = self.open_session(r.session)?;
        session.upload_floor = session.upload_floor.max(r.upload_floor);
        for synced in &r.synced {
            let id = LaneId { session: r.session, lane: synced.lane };
            if let Some(lane) = self.lanes.get_mut(&id) {
                lane.synced = lane.synced.max(synced.group_seq);
            }
        }
        Ok(())
    }

    /// I7, I8: once, and only for the newest recovery attempt. The session itself closes its lanes
    /// with rid 0 when it leaves on purpose, having fenced them.
    fn lane_closed(&mut self, slot: u64, r: &LaneClosed) -> Checked {
        let session = self.session(r.lane.session)?;
        let may = match session.state {
            SessionState::Open => r.rid == 0,
            SessionState::Fencing => r.rid == session.rid,
            SessionState::Closed => false,
        };
        ensure(may, || format!("rid {} in {:?} {}", r.rid, session.state, session.rid))?;
        let lane = self.lanes.get_mut(&r.lane).ok_or_else(|| format!("no lane {}", r.lane))?;
        ensure(lane.end.is_none(), || format!("{} is closed", r.lane))?;
        ensure(lane.trim <= r.trim && r.trim <= r.end, || {
            format!("trim {} of {}..{}", r.trim, lane.trim, r.end)
        })?;
        lane.trim = r.trim;
        lane.end = Some(r.end);
        self.close_session_without_open_lanes(slot, r.lane.session);
        Ok(())
    }

    fn close_session_without_open_lanes(&mut self, slot: u64, id: SessionId) {
        if self.lanes_of(id).all(|lane| lane.end.is_some())
            && let Some(session) = self.sessions.get_mut(&id)
        {
            session.state = SessionState::Closed;
            session.closed_at = slot;
        }
        self.forget_finished(id);
    }

    /// A closed session with no lanes left says nothing any more; the newest one of each broker
    /// stays, so that epochs never repeat.
    fn forget_finished(&mut self, id: SessionId) {
        let spent = |lane: &Lane| lane.end == Some(lane.trim) && lane.is_swept();
        self.lanes.retain(|lane_id, lane| lane_id.session != id || !spent(lane));
        let newest = self.newest_session(id.broker).map(|s| s.id);
        let closed = self.sessions.get(&id).is_some_and(|s| s.state == SessionState::Closed);
        if closed && newest != Some(id) && self.lanes_of(id).next().is_none() {
            self.sessions.remove(&id);
        }
    }

    fn lane_trim(&mut self, r: &LaneTrim) -> Checked {
        let open = self.is_open(r.lane.session);
        let lane = self.lanes.get_mut(&r.lane).ok_or_else(|| format!("no lane {}", r.lane))?;
        let fits = lane.end.map_or(open, |end| r.trim <= end);
        ensure(fits && r.trim >= lane.trim, || {
            format!("{} of {} {}..{:?}", r.trim, r.lane, lane.trim, lane.end)
        })?;
        lane.trim = r.trim;
        Ok(())
    }

    fn partition(&mut self, id: PartitionId) -> Result<&mut Partition, String> {
        self.partitions.get_mut(&id).ok_or_else(|| format!("no partition {id}"))
    }

    fn loss_accepted(&mut self, r: &LossAccepted) -> Checked {
        let partition = self.partition(r.partition)?;
        let leader = partition.leader.as_mut().ok_or("was never led")?;
        ensure(r.from <= r.to && r.to >= leader.start, || format!("{}..{}", r.from, r.to))?;
        leader.loss_accepted = Some(r.to);
        partition.losses.push(LostRange { from: r.from, to: r.to });
        Ok(())
    }

    /// I3, I4: the lane is live, epochs increase, offsets tile.
    fn grant(&mut self, r: &Grant) -> Checked {
        self.open_session(r.lane.session)?;
        let lane = self.lanes.get(&r.lane).ok_or_else(|| format!("no lane {}", r.lane))?;
        ensure(lane.end.is_none(), || format!("lane {} is closed", r.lane))?;
        if let Some(old) = self.partitions.get(&r.partition).and_then(|p| p.leader.as_ref()) {
            ensure(r.leader_epoch > old.epoch, || {
                format!("epoch {} after {}", r.leader_epoch, old.epoch)
            })?;
            let closed = self.lanes.get(&old.lane).is_none_or(|lane| lane.end.is_some());
            match (old.handed_off, old.loss_accepted) {
                (Some(end), _) => ensure(r.start == end, || format!("{} at {end}", r.start))?,
                (None, Some(to)) => ensure(r.start == to, || format!("{} at {to}", r.start))?,
                (None, None) => ensure(closed && r.start >= old.start, || {
                    format!("{} after {} on {}", r.start, old.start, old.lane)
                })?,
            }
        }
        let partition = self.partition(r.partition)?;
        ensure(r.start >= partition.log_start, || {
            format!("{} below the log start {}", r.start, partition.log_start)
        })?;
        partition.leader = Some(Leader {
            epoch: r.leader_epoch,
            lane: r.lane,
            start: r.start,
            handed_off: None,
            loss_accepted: None,
        });
        // An epoch that wrote nothing leaves no trace in the history.
        partition.epochs.retain(|e| e.start < r.start);
        partition.epochs.push(EpochStart { epoch: r.leader_epoch, start: r.start });
        Ok(())
    }

    fn hand_off_done(&mut self, r: &HandOffDone) -> Checked {
        let leader = self.partition(r.partition)?.leader.as_mut().ok_or("was never led")?;
        ensure(leader.epoch == r.leader_epoch && leader.handed_off.is_none(), || {
            format!("epoch {} at {} {:?}", r.leader_epoch, leader.epoch, leader.handed_off)
        })?;
        ensure(r.end >= leader.start, || format!("end {} below {}", r.end, leader.start))?;
        leader.handed_off = Some(r.end);
        Ok(())
    }

    /// I10, I12: only from a live writer, never a number twice.
    fn object_ref(&mut self, r: &ObjectRef) -> Checked {
        let id = r.id();
        match (r.writer.as_session(), r.writer.as_job()) {
            (Some(session), _) => {
                let floor = self.open_session(session)?.upload_floor;
                ensure(r.seq >= floor, || format!("number {} below {floor}", r.seq))?;
            }
            (None, Some(job)) => {
                let known = self.jobs.contains_key(&job);
                ensure(known, || format!("no job {job}"))?;
            }
            (None, None) => return Err("no writer".into()),
        }
        let fresh = !self.objects.contains_key(&id) && !self.unreferenced.contains_key(&id);
        ensure(fresh, || format!("{}.{} is known", r.writer, r.seq))?;
        ensure((r.level == 2) == r.single.is_some(), || format!("level {}", r.level))?;
        if let Some(one) = &r.single
            && let Some(partition) = self.partitions.get_mut(&one.partition)
            && one.base <= partition.l2_end
        {
            partition.l2_end = partition.l2_end.max(one.end);
        }
        self.objects.insert(id, r.clone());
        Ok(())
    }

    fn unref(&mut self, slot: u64, r: &Unref) -> Checked {
        for id in &r.objects {
            ensure(self.objects.contains_key(id), || format!("{}.{}", id.writer, id.seq))?;
        }
        for id in &r.objects {
            if let Some(object) = self.objects.remove(id) {
                self.unreferenced.insert(*id, Unreferenced { object, at_slot: slot });
            }
        }
        Ok(())
    }

    fn deleted(&mut self, r: &Deleted) -> Checked {
        for id in &r.objects {
            let known = self.unreferenced.contains_key(id);
            ensure(known, || format!("{}.{} is not unreferenced", id.writer, id.seq))?;
        }
        for id in &r.objects {
            self.unreferenced.remove(id);
        }
        Ok(())
    }

    fn slots_deleted(&mut self, r: &SlotsDeleted) -> Checked {
        let lane = self.lanes.get_mut(&r.lane).ok_or_else(|| format!("no lane {}", r.lane))?;
        ensure(r.below <= lane.trim && r.below >= lane.deleted_below, || {
            format!("{} of {}..{}", r.below, lane.deleted_below, lane.trim)
        })?;
        lane.deleted_below = r.below;
        self.forget_finished(r.lane.session);
        Ok(())
    }

    fn job_start(&mut self, r: &JobStart) -> Checked {
        ensure(!self.jobs.contains_key(&r.job), || format!("job {} runs", r.job))?;
        let inputs = r.inputs.iter().find(|id| !self.objects.contains_key(id));
        ensure(inputs.is_none(), || format!("input {inputs:?} is not referenced"))?;
        let job =
            image::Job { id: r.job, kind: r.kind, session: r.session, inputs: r.inputs.clone() };
        self.jobs.insert(r.job, job);
        Ok(())
    }

    fn job_end(&mut self, r: &JobEnd) -> Checked {
        let ended = self.jobs.remove(&r.job);
        ensure(ended.is_some(), || format!("no job {}", r.job))
    }

    fn topic_create(&mut self, r: &TopicCreate) -> Checked {
        ensure(!self.names.contains_key(&r.name), || format!("{:?} exists", r.name))?;
        ensure(!self.topics.contains_key(&r.topic), || format!("id {} exists", r.topic))?;
        ensure(r.partitions > 0, || "no partitions".into())?;
        self.names.insert(r.name.clone(), r.topic);
        self.topics.insert(
            r.topic,
            Topic {
                id: r.topic,
                name: r.name.clone(),
                partitions: r.partitions,
                config: r.config.clone(),
                created_ms: r.created_ms,
                deleted_ms: None,
                purged: false,
            },
        );
        self.add_partitions(r.topic, 0..r.partitions);
        Ok(())
    }

    fn add_partitions(&mut self, topic: levee_proto::ids::TopicId, numbers: std::ops::Range<u32>) {
        for partition in numbers {
            let id = PartitionId { topic, partition };
            let new = Partition {
                id,
                log_start: 0,
                l2_end: 0,
                leader: None,
                epochs: Vec::new(),
                losses: Vec::new(),
            };
            self.partitions.insert(id, new);
        }
    }

    fn live_topic(&mut self, id: levee_proto::ids::TopicId) -> Result<&mut Topic, String> {
        let topic = self.topics.get_mut(&id).filter(|t| t.deleted_ms.is_none());
        topic.ok_or_else(|| format!("no topic {id}"))
    }

    fn topic_grow(&mut self, r: &TopicGrow) -> Checked {
        let topic = self.live_topic(r.topic)?;
        let old = topic.partitions;
        ensure(r.partitions > old, || format!("{} after {old} partitions", r.partitions))?;
        topic.partitions = r.partitions;
        self.add_partitions(r.topic, old..r.partitions);
        Ok(())
    }

    fn topic_config(&mut self, r: &TopicConfig) -> Checked {
        let topic = self.live_topic(r.topic)?;
        topic.config.extend(r.set.clone());
        r.remove.iter().for_each(|key| drop(topic.config.remove(key)));
        Ok(())
    }

    fn topic_delete(&mut self, r: &TopicDelete) -> Checked {
        let topic = self.live_topic(r.topic)?;
        topic.deleted_ms = Some(r.deleted_ms);
        let name = topic.name.clone();
        self.names.remove(&name);
        Ok(())
    }

    fn topic_purge(&mut self, r: &TopicPurge) -> Checked {
        let topic = self.topics.get(&r.topic).ok_or_else(|| format!("no topic {}", r.topic))?;
        ensure(topic.deleted_ms.is_some(), || format!("{:?} is not deleted", topic.name))?;
        self.topics.remove(&r.topic);
        self.partitions.retain(|id, _| id.topic != r.topic);
        Ok(())
    }

    fn log_start(&mut self, r: &LogStart) -> Checked {
        let partition = self.partition(r.partition)?;
        ensure(r.log_start >= partition.log_start, || {
            format!("{} after {}", r.log_start, partition.log_start)
        })?;
        partition.log_start = r.log_start;
        partition.l2_end = partition.l2_end.max(r.log_start);
        let keep_from = partition.epochs.partition_point(|e| e.start <= r.log_start);
        partition.epochs.drain(..keep_from.saturating_sub(1));
        partition.losses.retain(|lost| lost.to > r.log_start);
        Ok(())
    }
}

/// Whether nothing of a lane's data is left to delete.
trait Swept {
    fn is_swept(&self) -> bool;
}

impl Swept for Lane {
    fn is_swept(&self) -> bool {
        match self.kind {
            LaneKind::Object => self.end.is_some_and(|end| self.deleted_below >= end),
            LaneKind::Local => self.end.is_some(),
        }
    }
}
