//! Following the MetaLog: what a slot means for this broker.

use std::sync::Arc;
use std::time::Duration;

use levee_proto::ids::{PartitionId, TopicId};
use levee_proto::metalog::image::Leader;
use levee_proto::metalog::{DurabilityClass, LaneKind, Record};
use levee_runtime::Backoff;
use tokio::sync::mpsc;

use super::Node;
use crate::cluster::controller::Push;
use crate::cluster::decide::class_of;
use crate::cluster::message::Request;
use crate::error::Error;
use crate::offload;
use crate::partition::{Partition, Serving};

/// How long a change of class waits before it looks at the bucket again.
const CLASS_AGAIN: Duration = Duration::from_secs(5);

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
                // Objects hold all of it: the slots stay a while for reads under way only.
                self.tiers.index.remove_slots(r.lane, r.trim);
            }
            Record::ObjectRef(r) => self.referenced(r),
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
            let deleted = state.topics.get(&id.topic).is_none_or(|t| t.deleted_ms.is_some());
            let Some(found) = state.partitions.get(&id).filter(|_| !deleted) else { return };
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
        let producers = (!partition.is_handing_off()).then(|| self.producers_at(id, start));
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
        if self.class_to_move_to(&partition).is_some() {
            let node = self.clone();
            drop(
                self.host.spawn("change-class", async move { node.change_class(partition).await }),
            );
        }
    }

    /// The class that is wanted, where it is another than the one in use.
    fn class_to_move_to(&self, partition: &Partition) -> Option<DurabilityClass> {
        let wanted = match class_of(&self.view.read(), partition.id.topic) {
            DurabilityClass::Local => DurabilityClass::Local,
            DurabilityClass::Object | DurabilityClass::Replicated => DurabilityClass::Object,
        };
        (partition.is_serving() && partition.class() != Some(wanted)).then_some(wanted)
    }

    /// Hands the partition off to itself. To the stronger class only once everything older is in
    /// the bucket: so every record of the partition is as durable as the class says, and what a
    /// local lane holds alone is always the newest part of a partition.
    async fn change_class(self: Arc<Self>, partition: Arc<Partition>) {
        let Some(wanted) = self.class_to_move_to(&partition) else { return };
        let stronger = wanted == DurabilityClass::Object;
        let alone = [partition.clone()];
        if stronger && let Err(error) = offload::flush(&self, &alone).await {
            // Appends would wait for the bucket all the while: not before it answers.
            tracing::warn!(partition = %partition.id, %error, "change of class waits for the bucket");
            self.host.sleep(CLASS_AGAIN).await;
            return self.move_if_class_changed(partition.id);
        }
        // Another change may have come while that was uploaded.
        let still = self.class_to_move_to(&partition) == Some(wanted);
        if still && partition.hand_off() {
            self.finish_hand_off(&partition, stronger).await;
        }
    }

    /// Tells the controller until it granted the next epoch.
    async fn finish_hand_off(self: &Arc<Self>, leaving: &Arc<Partition>, upload: bool) {
        let (session, partition) = (self.session, leaving.id);
        let mut ends = leaving.ends();
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(2));
        while !self.is_ended() && leaving.is_handing_off() {
            let Some((leader_epoch, end)) = leaving.handed_off() else {
                if ends.changed().await.is_err() {
                    return;
                }
                continue;
            };
            let done = Request::HandOffDone { session, partition, leader_epoch, end };
            let committed = async {
                if upload {
                    offload::flush(self, std::slice::from_ref(leaving)).await?;
                }
                self.commit(done).await
            };
            if let Err(error) = committed.await {
                tracing::warn!(%partition, %error, "hand-off not committed, trying again");
                backoff.wait(&self.host).await;
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
