//! From a verified object to a part of the log: the commit of its reference.

use std::sync::Arc;

use levee_proto::metalog::ObjectRef;
use levee_proto::object::Footer;

use super::{FOR_EVER, Node};
use crate::cluster::message::Request;
use crate::error::{Error, Result};
use crate::partition::Partition;

/// Partitions whose log an object covers, and up to where.
pub(crate) type Ends = Vec<(Arc<Partition>, u64)>;

/// An object on its way into the log.
pub(crate) struct Upload {
    pub(crate) footer: Footer,
    pub(crate) ends: Ends,
}

/// Asks for the reference. It counts from its slot on (`referenced`), whether anybody still waits
/// for it or not.
pub(crate) async fn commit(
    node: &Arc<Node>,
    object: ObjectRef,
    footer: Footer,
    ends: Ends,
) -> Result<u64> {
    let bytes = object.bytes;
    node.uploads.lock().insert(object.id(), Upload { footer, ends });
    let asking = node.clone();
    let committing = node.host.spawn("commit-object", async move {
        let id = object.id();
        let request = Request::Commit { session: asking.session, objects: vec![object] };
        let committed = asking.commit_within(request, FOR_EVER).await;
        if committed.is_err() && asking.uploads.lock().remove(&id).is_some() {
            asking.tiers.numbers.settle(id.seq);
        }
        committed
    });
    match committing.await {
        Some(committed) => committed.map(|_| bytes),
        None => Err(Error::session_ended("the commit of an object was stopped")),
    }
}

impl Node {
    /// The object is part of the log; from here the local copy is a cache (I10, I11).
    pub(crate) fn referenced(&self, object: &ObjectRef) {
        let Some(Upload { footer, ends }) = self.uploads.lock().remove(&object.id()) else {
            return;
        };
        self.tiers.index.add_object(object, &footer);
        if object.writer == self.writer() {
            self.tiers.numbers.settle(object.seq);
        }
        for (partition, end) in ends {
            partition.tiered(end);
        }
    }
}
