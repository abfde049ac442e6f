//! What this session tells the controller twice a second.

use std::sync::Arc;
use std::time::Duration;

use levee_hot_log::lane::Lane;
use levee_proto::metalog::LaneSynced;
use levee_runtime::Mono;

use super::Node;
use crate::cluster::message::{Beat, Request};
use crate::error::{Error, Result};
use levee_proto::grpc::ErrorCode;

const EVERY: Duration = Duration::from_millis(500);
/// The controller answers a beat at once; this bounds one that hangs in the bucket.
const LIMIT: Duration = Duration::from_secs(2);

/// Runs until the session ends.
pub async fn run(node: Arc<Node>) {
    while !node.is_ended() {
        let sent = node.host.now();
        let answer = node.controller.ask(Request::Beat(beat(&node)), LIMIT).await;
        match answer {
            // It closed its own lanes.
            Err(error) if error.code == ErrorCode::SessionEnded && node.is_draining() => return,
            Err(error) if error.code == ErrorCode::SessionEnded => node.end(&error.message),
            Err(error) => tracing::debug!(%error, "no answer to a beat"),
            Ok(_) => node.renew_lease(sent),
        }
        node.host.sleep(EVERY).await;
    }
}

/// How long an answered beat says that this session was not fenced (I20).
const LEASE: Duration = Duration::from_secs(2);

impl Node {
    fn renew_lease(&self, sent: Mono) {
        *self.lease.lock() = Some(sent);
    }

    /// Waits a moment for a lease: a beat may be on its way.
    pub async fn lease(&self) -> Result<()> {
        let started = self.host.now();
        loop {
            let held = self.ensure_lease();
            if held.is_ok() || self.host.now().since(started) >= LEASE {
                return held;
            }
            self.host.sleep(EVERY / 10).await;
        }
    }

    /// An error where another process may have taken over: what this one knows of the end of a log
    /// may be old. Acks need no lease, they are given by the lane.
    pub fn ensure_lease(&self) -> Result<()> {
        let sent = *self.lease.lock();
        match sent {
            Some(sent) if self.host.now().since(sent) < LEASE => Ok(()),
            _ => Err(Error::store_unavailable("nobody knows whether this broker still leads")),
        }
    }

    /// One beat at once, so that the newest trims are in the last slot of this session.
    pub async fn tell_trims(&self) {
        if let Err(error) = self.controller.ask(Request::Beat(beat(self)), LIMIT).await {
            tracing::debug!(%error, "no answer to the last beat");
        }
    }
}

fn beat(node: &Node) -> Beat {
    let local = &node.lanes.local;
    Beat {
        session: node.session,
        synced: vec![LaneSynced { lane: local.id().lane, group_seq: local.synced() }],
        upload_floor: node.tiers.numbers.floor(),
        covered: node.lanes.all().iter().map(|lane| (lane.id(), lane.covered())).collect(),
    }
}
