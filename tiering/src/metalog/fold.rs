//! The fold: one record at a time, checked against the state before it changes anything.
//!
//! Both the controller (before it writes) and every reader (after) run it, so a record that breaks
//! an invariant is refused by its author and never believed by anybody else.

mod objects;
mod partitions;

use levee_proto::ids::{LaneId, SessionId};
use levee_proto::metalog::image::{Controller, Lane, Session, SessionState};
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
        self.end_jobs_of(r.session);
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
            self.end_jobs_of(id);
        }
        self.forget_finished(id);
    }

    /// A closed session with no lanes left says nothing any more; the newest one of each broker
    /// stays, so that epochs never repeat.
    fn forget_finished(&mut self, id: SessionId) {
        let spent = |lane: &Lane| lane.end == Some(lane.trim) && is_swept(lane);
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
}

/// Whether nothing of a lane's data is left to delete.
fn is_swept(lane: &Lane) -> bool {
    match lane.kind {
        LaneKind::Object => lane.end.is_some_and(|end| lane.deleted_below >= end),
        LaneKind::Local => lane.end.is_some(),
    }
}
