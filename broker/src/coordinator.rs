//! Coordinators: who keeps groups (and transactions), on the partitions of Levee's own topics.
//!
//! Owns: the topics, which partition a name belongs to, and the shards of the partitions that this
//! broker leads. Does not own: what a group is (`levee-groups`), the way of a record (`shard`).
//!
//! A coordinator is the leader of a partition: there is no second election. Where leadership goes,
//! the next leader reads the partition and goes on with the same members and generations.

pub(crate) mod groups;
mod shard;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use levee_kafka::ErrorCode;
use levee_proto::grpc::ErrorCode as Levee;
use levee_proto::ids::PartitionId;
use parking_lot::Mutex;

use crate::error::Result;
use crate::node::Node;
use crate::topics::OFFSETS_TOPIC;
use groups::GroupsMachine;
use shard::Shard;

/// Between two looks at what this broker leads.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The coordinators of this broker.
pub struct Coordinators {
    node: Arc<Node>,
    groups: Mutex<BTreeMap<PartitionId, Arc<Shard<GroupsMachine>>>>,
    /// One at a time makes the topics.
    making: tokio::sync::Mutex<()>,
}

impl Coordinators {
    pub fn new(node: Arc<Node>) -> Arc<Self> {
        Arc::new(Self { node, groups: Mutex::default(), making: tokio::sync::Mutex::new(()) })
    }

    /// Serves the partitions that this broker leads, until its session ends: sessions of members
    /// must end in time though nobody asks.
    pub async fn keep(self: Arc<Self>) {
        while !self.node.is_ended() {
            for partition in self.partitions_led() {
                let _ = self.groups_shard(partition);
            }
            self.groups.lock().retain(|_, shard| !shard.has_ended());
            self.node.host.sleep(LOOK_EVERY).await;
        }
    }

    fn partitions_led(&self) -> Vec<PartitionId> {
        let topic = self.node.view.read().topic_named(OFFSETS_TOPIC).map(|topic| topic.id);
        let Some(topic) = topic else { return Vec::new() };
        let led = self.node.partitions_of(topic);
        led.iter().filter(|partition| partition.is_serving()).map(|p| p.id).collect()
    }

    /// The partition that a group belongs to; makes the topic where it is missing.
    pub(crate) async fn group_partition(&self, group: &str) -> Result<PartitionId> {
        let known = |node: &Node| {
            let state = node.view.read();
            state.topic_named(OFFSETS_TOPIC).map(|topic| (topic.id, topic.partitions))
        };
        let found = match known(&self.node) {
            Some(found) => Some(found),
            None => {
                let _turn = self.making.lock().await;
                self.make(OFFSETS_TOPIC).await?;
                known(&self.node)
            }
        };
        let (topic, partitions) =
            found.ok_or_else(|| crate::error::Error::unknown_topic(OFFSETS_TOPIC))?;
        Ok(PartitionId { topic, partition: partition_of(group, partitions) })
    }

    async fn make(&self, name: &str) -> Result<()> {
        let partitions = self.node.config.offsets_topic_partitions;
        let max = self.node.config.max_batch_bytes.to_string();
        let settings = [
            ("cleanup.policy", "compact".to_owned()),
            ("retention.ms", "-1".to_owned()),
            ("max.message.bytes", max),
        ];
        let settings = settings.map(|(key, value)| (key.to_owned(), value)).into();
        match self.node.create_topic(name, partitions, settings).await {
            Ok(_) => Ok(()),
            Err(error) if error.code == Levee::TopicExists => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The shard of a partition that this broker leads.
    pub(crate) fn groups_shard(
        &self,
        id: PartitionId,
    ) -> std::result::Result<Arc<Shard<GroupsMachine>>, ErrorCode> {
        let partition = self.node.partition_by_id(id).ok_or(ErrorCode::NotCoordinator)?;
        if !partition.is_serving() {
            return Err(ErrorCode::CoordinatorLoadInProgress);
        }
        let epoch = partition.leader_epoch();
        let mut shards = self.groups.lock();
        if let Some(shard) = shards.get(&id)
            && shard.epoch == epoch
            && !shard.has_ended()
        {
            return Ok(shard.clone());
        }
        let node = self.node.clone();
        let new = move || GroupsMachine::new(node.clone());
        let shard = Shard::start(self.node.clone(), partition, epoch, new);
        shards.insert(id, shard.clone());
        Ok(shard)
    }

    /// Asks the coordinator of a group.
    pub(crate) async fn ask_group(
        &self,
        group: &str,
        call: groups::Call,
    ) -> std::result::Result<levee_groups::Answer, ErrorCode> {
        let partition = match self.group_partition(group).await {
            Ok(partition) => partition,
            Err(error) => {
                tracing::debug!(%error, "the topic of groups cannot be made");
                return Err(ErrorCode::CoordinatorNotAvailable);
            }
        };
        let shard = self.groups_shard(partition)?;
        shard.call(&self.node, call).await
    }

    /// Asks every shard of groups that this broker has.
    pub(crate) async fn ask_all_groups(
        &self,
        call: groups::Call,
    ) -> std::result::Result<Vec<levee_groups::Answer>, ErrorCode> {
        let mut answers = Vec::new();
        for id in self.partitions_led() {
            answers.push(self.groups_shard(id)?.call(&self.node, call.clone()).await?);
        }
        Ok(answers)
    }
}

/// As Kafka maps names to partitions, so that its tools look in the right place: Java's hash of the
/// text, without the sign.
fn partition_of(name: &str, partitions: u32) -> u32 {
    let hash = name
        .encode_utf16()
        .fold(0i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)));
    (hash & i32::MAX) as u32 % partitions.max(1)
}

#[cfg(test)]
mod tests {
    use super::partition_of;

    #[test]
    fn names_belong_where_kafka_puts_them() {
        // java: ("console-consumer-1".hashCode() & 0x7fffffff) % 50
        assert_eq!(partition_of("", 50), 0);
        assert_eq!(partition_of("a", 50), 97 % 50);
        assert_eq!(partition_of("group", 50), 98_629_247 % 50);
        // "polygenelubricants".hashCode() is the smallest number there is.
        assert_eq!(partition_of("polygenelubricants", 50), 0);
    }
}
