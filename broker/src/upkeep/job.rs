//! A job: objects are written again and take the place of others, all at once (F24).
//!
//! ```text
//! JobStart -> footers -> tile -> place -> plan -> upload, verify -> prove -> outputs in, inputs out, JobEnd
//! ```
//! Owns: that order. Does not own: which objects (`merge`, `scrub`), what goes where
//! (`levee_tiering::merge`).

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use levee_proto::ids::{PartitionId, Writer};
use levee_proto::metalog::{JOB_MERGE, ObjectId, ObjectRef};
use levee_proto::object::{Footer, Range};
use levee_tiering::merge::{
    Copies, Input, Output, Run, RunBatches, Shape, Windows, plan, prove, tile,
};
use levee_tiering::remote::{FootersError, Source};
use levee_tiering::scrub::scrub;
use levee_tiering::store::Progress;
use levee_tiering::upload::{Part, Planned, SourceError, UploadError};

use super::needed::Needed;
use crate::cluster::message::{Answer, Request};
use crate::error::{Error, Result};
use crate::node::reference::Upload;
use crate::node::{FOR_EVER, Node};
use crate::tiers::READ_BYTES;

/// What came of a job.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Done {
    pub inputs: usize,
    pub outputs: usize,
    pub bytes: u64,
}

/// Why a job came to nothing. The inputs are as they were.
pub(super) enum Failed {
    /// The bucket or the metadata did not answer, or the inputs changed: try again.
    Later(Error),
    /// These inputs cannot be read, and no other copy has what is missing.
    Damaged { error: Error, inputs: Vec<ObjectId> },
    /// As many objects would come out of it.
    Needless,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Later(error)
    }
}

/// Writes what is needed of `inputs` again.
pub(super) async fn run(
    node: &Arc<Node>,
    kind: u8,
    inputs: Vec<ObjectId>,
) -> std::result::Result<Done, Failed> {
    let job = begin(node, kind, &inputs).await?;
    let written = write(node, job, kind, &inputs).await;
    end(node, job, inputs.len(), written).await
}

/// The number of a job that holds its inputs until it ends.
pub(super) async fn begin(node: &Node, kind: u8, inputs: &[ObjectId]) -> Result<u64> {
    let request = Request::StartJob { session: node.session, kind, inputs: inputs.to_vec() };
    // A job that began without our knowledge would hold its inputs for as long as we live.
    match node.commit_within(request, FOR_EVER).await? {
        Answer::Job(job) => Ok(job),
        _ => Err(Error::internal("a job that began has no number")),
    }
}

/// Exchanges inputs and outputs, or lets the inputs go.
pub(super) async fn end<F: From<Error>>(
    node: &Arc<Node>,
    job: u64,
    inputs: usize,
    written: std::result::Result<Written, F>,
) -> std::result::Result<Done, F> {
    let done = match written {
        Ok(written) => finish(node, job, inputs, written).await.map_err(F::from),
        Err(failed) => Err(failed),
    };
    if done.is_err() {
        let request = Request::AbandonJob { session: node.session, job };
        node.commit_within(request, FOR_EVER).await?;
    }
    done
}

pub(super) type Written = Vec<(ObjectRef, Footer)>;

async fn write(
    node: &Arc<Node>,
    job: u64,
    kind: u8,
    ids: &[ObjectId],
) -> std::result::Result<Written, Failed> {
    let inputs = inputs(node, ids).await?;
    let needed = Needed::now(node).await.in_inputs(node, &inputs);
    let is_needed = |range: &Range| needed.contains(&(range.partition, range.end));
    let mut tiles = tile(&inputs, is_needed);
    let blame = |error: Error, inputs| Failed::Damaged { error, inputs };
    let windows = Arc::new(Windows::new(node.store.clone(), node.budget.clone(), &inputs));
    windows.place(&inputs, &mut tiles).await.map_err(|(input, error)| match error {
        SourceError::Store(error) => Failed::Later(Error::store_unavailable(error)),
        damaged => blame(Error::corrupt_data(damaged), vec![ids[input]]),
    })?;
    let config = &node.config;
    let shape = Shape { object_bytes: config.tier_object_bytes, l2_bytes: config.tier_l2_bytes };
    let copies: Arc<dyn Copies> =
        Arc::new(OtherCopies { node: node.clone(), not_from: ids.iter().copied().collect() });
    let outputs = plan(tiles, shape);
    if kind == JOB_MERGE && outputs.len() >= inputs.len() {
        return Err(Failed::Needless);
    }
    let mut written = Vec::new();
    for (seq, output) in outputs.iter().enumerate() {
        let parts = parts(&windows, &copies, output);
        let (writer, level) = (Writer::job(job), output.level);
        let planned = Planned { level, writer, seq: seq as u64, parts };
        match node.tiers.put(planned, patience(node, output)).await {
            Ok((object, footer)) => {
                ensure_whole(node, &object, &footer).await?;
                written.push((object, footer));
            }
            Err(error) => {
                let inputs = blamed(&error, &outputs, &inputs);
                return Err(match inputs.is_empty() {
                    true => Failed::Later(error.into()),
                    false => Failed::Damaged { error: error.into(), inputs },
                });
            }
        }
    }
    let footers: Vec<Footer> = written.iter().map(|(_, footer)| footer.clone()).collect();
    prove(&inputs, is_needed, &outputs, &footers)
        .map_err(|unproven| blame(Error::internal(unproven.to_string()), ids.to_vec()))?;
    Ok(written)
}

/// The inputs are deleted soon, and there may be no other copy: all of it is read back.
pub(super) async fn ensure_whole(
    node: &Node,
    object: &ObjectRef,
    footer: &Footer,
) -> std::result::Result<(), Failed> {
    let damages = scrub(&node.store, &[&node.budget], &object.key(), footer).await;
    match damages.map_err(Error::store_unavailable)?.first() {
        None => Ok(()),
        Some(damage) => {
            let why = format!("the bucket does not hold what was written: {damage}");
            Err(Failed::Later(Error::corrupt_data(why)))
        }
    }
}

/// An upload that its own budget holds back is not one that hangs.
fn patience(node: &Node, output: &Output) -> Progress {
    let bytes = output.runs.iter().map(Run::bytes).sum();
    let more = node.budget.patience(bytes, 1 << 20);
    Progress { deadline: node.tiers.progress.deadline + more, ..node.tiers.progress }
}

pub(super) async fn inputs(
    node: &Node,
    ids: &[ObjectId],
) -> std::result::Result<Vec<Input>, Failed> {
    let objects: Vec<ObjectRef> = {
        let state = node.view.read();
        ids.iter().filter_map(|id| state.objects.get(id).cloned()).collect()
    };
    if objects.len() != ids.len() {
        return Err(Error::internal("an input is no longer referenced").into());
    }
    let (mut inputs, mut damaged, mut why) = (Vec::new(), Vec::new(), None);
    let footers = node.tiers.footers_of(&objects).await;
    for (object, footer) in objects.into_iter().zip(footers) {
        match footer {
            Ok(footer) => inputs.push(Input { object, footer }),
            Err(FootersError::Store(error)) => return Err(Error::store_unavailable(error).into()),
            Err(error) => {
                damaged.push(object.id());
                why = Some(Error::corrupt_data(error));
            }
        }
    }
    match why {
        None => Ok(inputs),
        Some(error) => Err(Failed::Damaged { error, inputs: damaged }),
    }
}

fn parts(windows: &Arc<Windows>, copies: &Arc<dyn Copies>, output: &Output) -> Vec<Part> {
    let part = |run: &Run| Part {
        partition: run.partition,
        leader_epoch: run.leader_epoch(),
        base: run.base(),
        end: run.end(),
        bytes: run.bytes(),
        producers: run.producers().cloned(),
        aborted: run.aborted(),
        compacted: run.compacted(),
        source: Box::new(RunBatches::new(windows.clone(), copies.clone(), run)),
    };
    output.runs.iter().map(part).collect()
}

/// The inputs that hold the offset at which the bytes were wrong.
fn blamed(error: &UploadError, outputs: &[Output], inputs: &[Input]) -> Vec<ObjectId> {
    let UploadError::Source { partition, offset, .. } = error else { return Vec::new() };
    let runs = outputs.iter().flat_map(|output| &output.runs);
    let tiles = runs.filter(|run| run.partition == *partition).flat_map(|run| &run.tiles);
    let holding = tiles.filter(|tile| tile.base <= *offset && *offset < tile.end);
    holding.map(|tile| inputs[tile.input].object.id()).collect()
}

/// Asks for the exchange and waits until this broker has acted on it, whether anybody still waits
/// or not.
async fn finish(node: &Arc<Node>, job: u64, inputs: usize, written: Written) -> Result<Done> {
    let bytes = written.iter().map(|(object, _)| object.bytes).sum();
    let done = Done { inputs, outputs: written.len(), bytes };
    let mut outputs = Vec::new();
    {
        let mut uploads = node.uploads.lock();
        for (object, footer) in written {
            uploads.insert(object.id(), Upload { footer, ends: Vec::new() });
            outputs.push(object);
        }
    }
    let asking = node.clone();
    let committing = node.host.spawn("finish-job", async move {
        let ids: Vec<ObjectId> = outputs.iter().map(ObjectRef::id).collect();
        let request = Request::FinishJob { session: asking.session, job, outputs };
        let committed = asking.commit_within(request, FOR_EVER).await;
        let mut uploads = asking.uploads.lock();
        ids.iter().for_each(|id| drop(uploads.remove(id)));
        committed
    });
    match committing.await {
        Some(committed) => committed.map(|_| done),
        None => Err(Error::session_ended("the end of a job was stopped")),
    }
}

/// Copies of the same batches that are not in the inputs of this job.
pub(super) struct OtherCopies {
    pub(super) node: Arc<Node>,
    pub(super) not_from: BTreeSet<ObjectId>,
}

#[async_trait]
impl Copies for OtherCopies {
    async fn other(&self, id: PartitionId, offset: u64) -> Option<Bytes> {
        if let Some(partition) = self.node.partition_by_id(id)
            && let Ok(Some(batches)) = partition.read_local(offset, READ_BYTES).await
        {
            return Some(batches);
        }
        let is_other =
            |source: Source| !matches!(source, Source::Object(id) if self.not_from.contains(&id));
        let place = self.node.tiers.index.locate_in(id, offset, is_other)?;
        // What compaction left is a copy of nothing.
        let place = Some(place).filter(|place| !place.compacted)?;
        let footer = self.node.tiers.footer(&place).await.ok()?;
        let range = footer.ranges.get(place.number as usize)?;
        let windows = Windows::over(
            self.node.store.clone(),
            self.node.budget.clone(),
            [(place.key, place.object_bytes)],
        );
        windows.read_from(range, offset).await
    }
}
