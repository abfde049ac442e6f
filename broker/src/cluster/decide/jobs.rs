//! Jobs: work on objects that other objects take the place of, all at once or not at all.

use levee_proto::ids::{SessionId, Writer};
use levee_proto::metalog::image::Job;
use levee_proto::metalog::{JobEnd, JobStart, ObjectId, ObjectRef, Record, Unref};
use levee_tiering::metalog::MetaState;

use super::Decision;
use crate::cluster::message::Answer;
use crate::error::Error;

/// Jobs that one slot may begin: the low bits of their numbers.
const OF_ONE_SLOT: u32 = 16;

/// The fold refuses inputs that are gone or held by another job.
pub(super) fn start(
    state: &MetaState,
    session: SessionId,
    kind: u8,
    inputs: &[ObjectId],
) -> Decision {
    // By the slot that begins it: so no number is ever used twice (I12).
    let first = (state.head + 1) << OF_ONE_SLOT;
    let job = state.jobs.keys().next_back().map_or(first, |last| first.max(last + 1));
    let record = JobStart { job, kind, session, inputs: inputs.to_vec() };
    Ok((vec![record.into()], Answer::Job(job)))
}

/// Outputs first: there is no moment in which nothing holds an offset. The fold refuses it where
/// an input is no longer referenced (F24).
pub(super) fn finish(
    state: &MetaState,
    session: SessionId,
    job: u64,
    outputs: &[ObjectRef],
) -> Decision {
    let known = of(state, session, job);
    let known = known.ok_or_else(|| Error::internal(format!("{session} has no job {job}")))?;
    let writer = Writer::job(job);
    if let Some(other) = outputs.iter().find(|output| output.writer != writer) {
        return Err(Error::internal(format!("job {job} did not write {}", other.key())));
    }
    let mut records: Vec<Record> = outputs.iter().cloned().map(Record::from).collect();
    records.push(Unref { objects: known.inputs.clone() }.into());
    records.push(JobEnd { job }.into());
    Ok((records, Answer::Done))
}

/// Ended already: nothing to do.
pub(super) fn abandon(state: &MetaState, session: SessionId, job: u64) -> Decision {
    let record = of(state, session, job).map(|job| JobEnd { job: job.id }.into());
    Ok((record.into_iter().collect(), Answer::Done))
}

fn of(state: &MetaState, session: SessionId, job: u64) -> Option<&Job> {
    state.jobs.get(&job).filter(|job| job.session == session)
}
