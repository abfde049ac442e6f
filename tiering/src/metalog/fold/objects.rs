//! Objects: referenced, unreferenced, deleted; slots of closed lanes; jobs.

use levee_proto::ids::SessionId;
use levee_proto::metalog::image::{self, Unreferenced};
use levee_proto::metalog::*;

use super::super::state::MetaState;
use super::{Checked, ensure};

impl MetaState {
    /// I10, I12: only from a live writer, never a number twice.
    pub(super) fn object_ref(&mut self, r: &ObjectRef) -> Checked {
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

    pub(super) fn unref(&mut self, slot: u64, r: &Unref) -> Checked {
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

    pub(super) fn deleted(&mut self, r: &Deleted) -> Checked {
        for id in &r.objects {
            let known = self.unreferenced.contains_key(id);
            ensure(known, || format!("{}.{} is not unreferenced", id.writer, id.seq))?;
        }
        for id in &r.objects {
            self.unreferenced.remove(id);
        }
        Ok(())
    }

    pub(super) fn slots_deleted(&mut self, r: &SlotsDeleted) -> Checked {
        let lane = self.lanes.get_mut(&r.lane).ok_or_else(|| format!("no lane {}", r.lane))?;
        ensure(r.below <= lane.trim && r.below >= lane.deleted_below, || {
            format!("{} of {}..{}", r.below, lane.deleted_below, lane.trim)
        })?;
        lane.deleted_below = r.below;
        self.forget_finished(r.lane.session);
        Ok(())
    }

    pub(super) fn job_start(&mut self, r: &JobStart) -> Checked {
        ensure(!self.jobs.contains_key(&r.job), || format!("job {} runs", r.job))?;
        let missing = r.inputs.iter().find(|id| !self.objects.contains_key(id));
        ensure(missing.is_none(), || format!("input {missing:?} is not referenced"))?;
        let held = r.inputs.iter().find(|id| self.is_held(id));
        ensure(held.is_none(), || format!("input {held:?} is held by another job"))?;
        self.open_session(r.session)?;
        let job =
            image::Job { id: r.job, kind: r.kind, session: r.session, inputs: r.inputs.clone() };
        self.jobs.insert(r.job, job);
        Ok(())
    }

    /// A session that ends finishes nothing.
    pub(super) fn end_jobs_of(&mut self, session: SessionId) {
        self.jobs.retain(|_, job| job.session != session);
    }

    pub(super) fn job_end(&mut self, r: &JobEnd) -> Checked {
        let ended = self.jobs.remove(&r.job);
        ensure(ended.is_some(), || format!("no job {}", r.job))
    }
}
