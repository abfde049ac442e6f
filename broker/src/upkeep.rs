//! What runs beside the requests of a node, for as long as its session lives.
//!
//! ```text
//! consolidate  slots that older sessions left become objects
//! merge        small objects become large ones
//! compact      of each key the newest record stays
//! scrub        reads everything again, slowly; repairs what is damaged
//! retention    moves the start of each log
//! collect      what nothing needs leaves the bucket
//! sweep        what nothing ever named leaves the bucket
//! audit        proves all of it from the metadata and a listing
//! ```
//! The keepers of memory and disk (`keeper`) and `offload` stand elsewhere, and start here.

mod consolidate;
mod merge;
mod compact;
pub mod scrub;
mod job;
pub(crate) mod needed;
pub mod retention;
mod collect;
mod sweep;
mod audit;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use levee_runtime::Task;

use crate::node::Node;
use crate::{keeper, offload};

/// What cannot be read in the bucket is tried again this often at least.
const LONGEST_ASIDE: Duration = Duration::from_secs(3600);

/// Starts all of it.
pub fn beside(node: &Arc<Node>) -> Vec<Task<()>> {
    let host = &node.host;
    vec![
        host.spawn("measure", keeper::measure(node.clone())),
        host.spawn("tidy", keeper::tidy(node.clone())),
        host.spawn("offload", offload::run(node.clone())),
        host.spawn("retention", retention::run(node.clone())),
        host.spawn("collect", collect::run(node.clone())),
        host.spawn("sweep", sweep::run(node.clone())),
        host.spawn("audit", audit::run(node.clone())),
        host.spawn("consolidate", consolidate::run(node.clone())),
        host.spawn("merge", merge::run(node.clone())),
        host.spawn("compact", compact::run(node.clone())),
        host.spawn("scrub", scrub::run(node.clone())),
    ]
}

/// Has a duty done again and again until the session ends; a round that fails stops nothing.
struct Regularly {
    what: &'static str,
    /// How long before the first round, and after one that failed.
    first: Duration,
    every: Duration,
    next: Duration,
}

impl Regularly {
    fn every(every: Duration, what: &'static str) -> Self {
        Self { what, first: every, every, next: every }
    }

    /// The first round comes early: a restart is when there is most to do.
    fn soon(self, first: Duration) -> Self {
        let first = first.min(self.every);
        Self { first, next: first, ..self }
    }

    /// Waits for the next round; false when there is none any more.
    async fn is_due(&mut self, node: &Node) -> bool {
        if !node.is_ended() {
            node.host.sleep(std::mem::replace(&mut self.next, self.every)).await;
        }
        !node.is_ended()
    }

    fn told(&mut self, done: Result<(), impl fmt::Display>) {
        if let Err(error) = done {
            tracing::warn!(%error, "{} is tried again later", self.what);
            self.next = self.first;
        }
    }
}
