//! Coordinators: who keeps groups (and transactions), on the partitions of Levee's own topics.
//!
//! Owns: the topics, which partition a name belongs to, and the shards of the partitions that this
//! broker leads. Does not own: what a group is (`levee-groups`), the way of a record (`shard`).
//!
//! A coordinator is the leader of a partition: there is no second election. Where leadership goes,
//! the next leader reads the partition and goes on with the same members and generations.

mod batches;
pub(crate) mod groups;
pub(crate) mod join;
mod shard;
mod stock;
pub(crate) mod transactions;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use levee_kafka::ErrorCode;
use levee_proto::grpc::ErrorCode as Levee;
use levee_proto::ids::PartitionId;
use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::node::Node;
use crate::topics::{OFFSETS_TOPIC, TRANSACTIONS_TOPIC};
use groups::GroupsMachine;
use shard::{Machine, Shard};
use transactions::TransactionsMachine;

/// Longest name of a group, bytes. Kafka's records have room for 32 KiB, and each offset carries it.
const GROUP_NAME_MAX: usize = 1 << 10;
/// Between two looks at what this broker leads.
const LOOK_EVERY: Duration = Duration::from_millis(500);

type Shards<M> = Mutex<BTreeMap<PartitionId, Arc<Shard<M>>>>;

/// The coordinators of this broker.
pub struct Coordinators {
    pub(crate) node: Arc<Node>,
    groups: Shards<GroupsMachine>,
    transactions: Shards<TransactionsMachine>,
    /// One at a time makes the topics.
    making: tokio::sync::Mutex<()>,
    /// Connections that were accepted, by all listeners.
    connections: AtomicU64,
}

/// Which of Levee's own topics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Groups,
    Transactions,
}

impl Kind {
    fn topic(self) -> &'static str {
        match self {
            Self::Groups => OFFSETS_TOPIC,
            Self::Transactions => TRANSACTIONS_TOPIC,
        }
    }
}

impl Coordinators {
    pub fn new(node: Arc<Node>) -> Arc<Self> {
        Arc::new(Self {
            node,
            groups: Shards::default(),
            transactions: Shards::default(),
            making: tokio::sync::Mutex::new(()),
            connections: AtomicU64::new(0),
        })
    }

    /// The newest connection's number.
    pub(crate) fn newest_connection(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Counts a connection; a later one has a higher number.
    pub(crate) fn connected(&self) -> u64 {
        self.connections.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Serves the partitions that this broker leads, until its session ends: sessions of members and
    /// transactions must end in time though nobody asks.
    pub async fn keep(self: Arc<Self>) {
        while !self.node.is_ended() {
            for partition in self.led(Kind::Groups) {
                let _ = self.groups_shard(partition);
            }
            for partition in self.led(Kind::Transactions) {
                let _ = self.transactions_shard(partition);
            }
            self.groups.lock().retain(|_, shard| !shard.has_ended());
            self.transactions.lock().retain(|_, shard| !shard.has_ended());
            self.node.host.sleep(LOOK_EVERY).await;
        }
    }

    fn led(&self, kind: Kind) -> Vec<PartitionId> {
        let topic = self.node.view.read().topic_named(kind.topic()).map(|topic| topic.id);
        let Some(topic) = topic else { return Vec::new() };
        let led = self.node.partitions_of(topic);
        led.iter().filter(|partition| partition.is_serving()).map(|p| p.id).collect()
    }

    /// The partition that a group or a transactional id belongs to; makes the topic where it is
    /// missing.
    pub(crate) async fn partition_of(&self, kind: Kind, name: &str) -> Result<PartitionId> {
        let known = || {
            let state = self.node.view.read();
            state.topic_named(kind.topic()).map(|topic| (topic.id, topic.partitions))
        };
        let mut found = known();
        if found.is_none() {
            let _turn = self.making.lock().await;
            self.make(kind).await?;
            found = known();
        }
        let (topic, partitions) = found.ok_or_else(|| Error::unknown_topic(kind.topic()))?;
        Ok(PartitionId { topic, partition: partition_of(name, partitions) })
    }

    async fn make(&self, kind: Kind) -> Result<()> {
        let config = &self.node.config;
        let partitions = match kind {
            Kind::Groups => config.offsets_topic_partitions,
            Kind::Transactions => config.transactions_topic_partitions,
        };
        let max = config.max_batch_bytes.to_string();
        let settings = [("cleanup.policy", "compact".to_owned()), ("max.message.bytes", max)];
        let settings = settings.map(|(key, value)| (key.to_owned(), value)).into();
        match self.node.create_topic(kind.topic(), partitions, settings).await {
            Ok(_) => Ok(()),
            Err(error) if error.code == Levee::TopicExists => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The shard of a partition that this broker leads.
    pub(crate) fn groups_shard(
        &self,
        id: PartitionId,
    ) -> Result<Arc<Shard<GroupsMachine>>, ErrorCode> {
        let node = self.node.clone();
        self.shard(&self.groups, id, |_| move |max| GroupsMachine::new(node.clone(), max))
    }

    fn transactions_shard(
        self: &Arc<Self>,
        id: PartitionId,
    ) -> Result<Arc<Shard<TransactionsMachine>>, ErrorCode> {
        let all = Arc::downgrade(self);
        self.shard(&self.transactions, id, |epoch| {
            move |max| TransactionsMachine::new(all.clone(), epoch, max)
        })
    }

    fn shard<M: Machine, N: Fn(usize) -> Option<M> + Send + 'static>(
        &self,
        shards: &Shards<M>,
        id: PartitionId,
        new: impl FnOnce(u32) -> N,
    ) -> Result<Arc<Shard<M>>, ErrorCode> {
        let partition = self.node.partition_by_id(id).ok_or(ErrorCode::NotCoordinator)?;
        if !partition.is_serving() {
            return Err(ErrorCode::CoordinatorLoadInProgress);
        }
        let epoch = partition.leader_epoch();
        let mut shards = shards.lock();
        if let Some(shard) = shards.get(&id)
            && shard.epoch == epoch
            && !shard.has_ended()
        {
            return Ok(shard.clone());
        }
        let shard = Shard::start(self.node.clone(), partition, epoch, new(epoch));
        shards.insert(id, shard.clone());
        Ok(shard)
    }

    /// Asks the coordinator of a group.
    pub(crate) async fn ask_group(
        &self,
        group: &str,
        call: groups::Call,
    ) -> Result<levee_groups::Answer, ErrorCode> {
        if group.len() > GROUP_NAME_MAX {
            return Err(ErrorCode::InvalidGroupId);
        }
        let id = self.find(Kind::Groups, group).await?;
        self.groups_shard(id)?.call(&self.node, call).await
    }

    /// Asks every shard of groups that this broker has.
    pub(crate) async fn ask_all_groups(
        &self,
        call: groups::Call,
    ) -> Result<Vec<levee_groups::Answer>, ErrorCode> {
        let mut answers = Vec::new();
        for id in self.led(Kind::Groups) {
            answers.push(self.groups_shard(id)?.call(&self.node, call.clone()).await?);
        }
        Ok(answers)
    }

    /// Asks the coordinator of a transactional id.
    pub(crate) async fn ask_transaction(
        self: &Arc<Self>,
        id: &str,
        call: transactions::Call,
    ) -> Result<levee_transactions::Answer, ErrorCode> {
        let partition = self.find(Kind::Transactions, id).await?;
        self.transactions_shard(partition)?.call(&self.node, call).await
    }

    /// Asks every shard of transactions that this broker has.
    pub(crate) async fn ask_all_transactions(
        self: &Arc<Self>,
        call: transactions::Call,
    ) -> Result<Vec<levee_transactions::Answer>, ErrorCode> {
        let mut answers = Vec::new();
        for id in self.led(Kind::Transactions) {
            answers.push(self.transactions_shard(id)?.call(&self.node, call.clone()).await?);
        }
        Ok(answers)
    }

    async fn find(&self, kind: Kind, name: &str) -> Result<PartitionId, ErrorCode> {
        self.partition_of(kind, name).await.map_err(|error| {
            tracing::debug!(%error, topic = kind.topic(), "it cannot be made now");
            ErrorCode::CoordinatorNotAvailable
        })
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
