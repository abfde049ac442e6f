//! Following the MetaLog: what a slot means for this broker.

use std::sync::Arc;

use levee_proto::ids::{PartitionId, TopicId};
use levee_proto::metalog::image::Leader;
use levee_proto::metalog::{DurabilityClass, LaneKind, Record};
use tokio::sync::mpsc;

use super::Node;
use crate::cluster::controller::Push;
use crate::cluster::decide::class_of;
use crate::error::Error;
use crate::partition::Serving;

/// Folds each slot in and acts on it. Ends with the controller.
pub async fn run(node: Arc<Node>, mut pushes: mpsc::Receiver<Push>) {
    while let Some(push) = pushes.recv().await {
        if let Err(error) = node.view.apply(&push) {
            node.end(&format!("the metadata log does not fit this broker's state: {error}"));
            return;
        }
        for record in &push.0.records {
            node.react(record);
        }
        node.view.settled(push.0.slot);
        metrics::gauge!("levee_metalog_slot").set(push.0.slot as f64);
    }
}

impl Node {
    fn react(self: &Arc<Self>, record: &Record) {
        match record {
            Record::LaneClosed(r) => self.lane_closed(r),
            Record::Grant(r) if r.lane.session == self.session => self.granted(r.partition),
            Record::SessionFencing(r) if r.session == self.session => {
                self.end(&format!("fenced: {}", r.reason));
            }
            Record::LaneTrim(r) => {
                if let Some(lane) = self.lanes.get(r.lane) {
                    lane.trimmed(r.trim);
                }
            }
            Record::SlotsDeleted(r) => self.tiers.index.remove_slots(r.lane, r.below),
            Record::Unref(r) => {
                r.objects.iter().for_each(|object| self.tiers.index.remove_object(*object));
            }
            Record::LogStart(r) => {
                if let Some(partition) = self.partition_by_id(r.partition) {
                    partition.delete_below(r.log_start);
                }
            }
            Record::TopicConfig(r) => self.reconfigure(r.topic),
            Record::TopicDelete(r) => self.delete_topic(r.topic),
            Record::TopicPurge(r) => self.tiers.index.drop_topic(r.topic),
            _ => {}
        }
    }

    /// The newest grant of a partition is ours.
    fn granted(self: &Arc<Self>, id: PartitionId) {
        let (leader, log_start, partition) = {
            let state = self.view.read();
            let Some(found) = state.partitions.get(&id) else { return };
            let Some(leader) = found.leader.clone() else { return };
            (leader, found.log_start, self.partition_or_new(id, &state))
        };
        let Some(lane) = self.lanes.get(leader.lane) else { return };
        let class = match lane.kind() {
            LaneKind::Object => DurabilityClass::Object,
            LaneKind::Local => DurabilityClass::Local,
        };
        let Leader { epoch, start, .. } = leader;
        let serving = Serving { leader_epoch: epoch, start, lane, class };
        // Handed off to ourselves: all that it knows is here.
        let moves = partition.status().state == "handing_off";
        let producers = (!moves).then(|| self.producers_at(id, start));
        partition.serve(serving, log_start, producers);
        self.move_if_class_changed(id);
    }

    fn reconfigure(self: &Arc<Self>, topic: TopicId) {
        let config = Arc::new(self.topic_config(&self.view.read(), topic));
        for partition in self.partitions_of(topic) {
            partition.set_config(config.clone());
            self.move_if_class_changed(partition.id);
        }
    }

    /// A change of class is a hand-off to this same session, on the other lane.
    fn move_if_class_changed(self: &Arc<Self>, id: PartitionId) {
        let Some(partition) = self.partition_by_id(id) else { return };
        let wanted = class_of(&self.view.read(), id.topic);
        let lane = match wanted {
            DurabilityClass::Local => self.lanes.local.clone() as Arc<dyn levee_hot_log::lane::Wal>,
            _ => self.lanes.object.clone(),
        };
        let status = partition.status();
        if status.state == "serving" && status.lane != Some(lane.id()) && partition.hand_off() {
            let node = self.clone();
            let name = "hand-off";
            drop(self.host.spawn(name, async move { node.finish_hand_off(id).await }));
        }
    }

    /// Tells the controller until it granted the next epoch.
    async fn finish_hand_off(self: Arc<Self>, partition: PartitionId) {
        use crate::cluster::message::Request;
        let Some(leaving) = self.partition_by_id(partition) else { return };
        let session = self.session;
        let mut ends = leaving.ends();
        let mut backoff = levee_runtime::Backoff::new(
            std::time::Duration::from_millis(20),
            std::time::Duration::from_secs(2),
        );
        while !self.is_ended() {
            if leaving.status().state != "handing_off" {
                return;
            }
            match leaving.handed_off() {
                None => {
                    if ends.changed().await.is_err() {
                        return;
                    }
                }
                Some((leader_epoch, end)) => {
                    let done = Request::HandOffDone { session, partition, leader_epoch, end };
                    if let Err(error) = self.commit(done).await {
                        tracing::warn!(%partition, %error, "hand-off not committed, trying again");
                        backoff.wait(&self.host).await;
                    }
                }
            }
        }
    }

    fn delete_topic(&self, topic: TopicId) {
        for partition in self.forget_partitions(topic) {
            partition.end(&Error::unknown_topic(&partition.topic));
            let gone = partition.clone();
            drop(self.host.spawn("drop-topic", async move { gone.drop_all().await }));
        }
    }
}
