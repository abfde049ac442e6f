//! What runs beside the requests of a node, for as long as its session lives.

use std::sync::Arc;

use levee_runtime::Task;

use crate::node::Node;
use crate::{collect, consolidate, keeper, offload, retention, sweep};

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
        host.spawn("consolidate", consolidate::run(node.clone())),
    ]
}
