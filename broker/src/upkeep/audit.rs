//! The audit of the bucket, beside the broker: from the bucket alone, so that a mistake of this
//! process does not hide itself.

use std::sync::Arc;
use std::time::Duration;

use levee_tiering::audit::{Audit, audit};
use levee_tiering::metalog::MetaLog;

use super::Regularly;
use crate::node::Node;

/// The first audit of a session comes early: a restart is when things go wrong.
const FIRST: Duration = Duration::from_secs(600);
/// Garbage above this share of what is referenced is worth a look.
const ORPHANS_PER_CENT: u64 = 1;

/// Runs until the session ends.
pub(super) async fn run(node: Arc<Node>) {
    let Some(every) = node.config.audit_interval else { return };
    let mut times = Regularly::every(every, "the audit").soon(FIRST);
    while times.is_due(&node).await {
        let cluster = node.view.read().cluster;
        let log = MetaLog::open(node.store.clone(), node.host.clone(), cluster);
        let audit = audit(&log, &node.store, &node.budget).await;
        times.told(audit.map(|audit| tell(&audit)));
    }
}

fn tell(audit: &Audit) {
    for finding in &audit.findings {
        tracing::error!(slot = audit.slot, "audit: {finding}");
    }
    let referenced = audit.shared.bytes + audit.single.bytes + audit.slots.bytes;
    if audit.orphans.bytes > referenced / 100 * ORPHANS_PER_CENT {
        let orphans = audit.orphans;
        tracing::warn!(orphans.objects, orphans.bytes, "audit: much was left behind by writers");
    }
    metrics::gauge!("levee_audit_findings").set(audit.findings.len() as f64);
    metrics::gauge!("levee_audit_orphan_bytes").set(audit.orphans.bytes as f64);
    metrics::gauge!("levee_audit_dead_bytes").set(audit.dead_bytes as f64);
    metrics::gauge!("levee_audit_objects_per_gib").set(audit.objects_per_gib());
    metrics::counter!("levee_audits_total").increment(1);
}
