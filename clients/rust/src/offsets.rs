//! Partitions and offsets, as the groups of consumers name them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use levee_proto::grpc::{OffsetError, PartitionOffset, TopicOffsets, TopicPartitions};

use crate::error::{Error, Result};

/// One partition of a topic.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    pub topic: Arc<str>,
    pub partition: u32,
}

impl TopicPartition {
    pub fn new(topic: impl Into<Arc<str>>, partition: u32) -> Self {
        Self { topic: topic.into(), partition }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

/// Of each partition the offset to go on from: that of the next record.
pub type Offsets = BTreeMap<TopicPartition, u64>;

/// By name the ids of topics, as an assignment told them. Another topic that gets the name later is
/// not meant.
pub type TopicIds = BTreeMap<Arc<str>, String>;

pub(crate) fn to_wire(offsets: &Offsets, ids: &TopicIds) -> Vec<TopicOffsets> {
    let mut topics: Vec<TopicOffsets> = Vec::new();
    for (at, offset) in offsets {
        let one = PartitionOffset {
            partition: at.partition,
            offset: *offset,
            ..PartitionOffset::default()
        };
        match topics.last_mut() {
            Some(last) if *last.topic == *at.topic => last.partitions.push(one),
            _ => topics.push(TopicOffsets {
                topic: at.topic.to_string(),
                topic_id: ids.get(&at.topic).cloned().unwrap_or_default(),
                partitions: vec![one],
            }),
        }
    }
    topics
}

pub(crate) fn from_wire(topics: Vec<TopicOffsets>) -> Offsets {
    let mut offsets = Offsets::new();
    for topic in topics {
        let name: Arc<str> = topic.topic.into();
        for found in topic.partitions {
            offsets.insert(TopicPartition::new(name.clone(), found.partition), found.offset);
        }
    }
    offsets
}

/// Partitions by topic.
pub(crate) fn by_topic<'a>(
    all: impl IntoIterator<Item = &'a TopicPartition>,
) -> Vec<TopicPartitions> {
    let mut topics: Vec<TopicPartitions> = Vec::new();
    for at in all {
        match topics.last_mut() {
            Some(last) if *last.topic == *at.topic => last.partitions.push(at.partition),
            _ => topics.push(TopicPartitions {
                topic: at.topic.to_string(),
                topic_id: String::new(),
                partitions: vec![at.partition],
            }),
        }
    }
    topics
}

/// The first failure names its partition.
pub(crate) fn all_done(failed: Vec<OffsetError>) -> Result<()> {
    let Some(first) = failed.into_iter().next() else { return Ok(()) };
    let place = format!("{} partition {}", first.topic, first.partition);
    match first.error {
        Some(detail) => Err(Error::from(detail).at(&place)),
        None => Err(Error::connection("the broker gave no reason").at(&place)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_come_back_as_they_went() {
        let offsets: Offsets = [("b", 1, 5), ("a", 3, 7), ("a", 0, 1)]
            .map(|(topic, partition, offset)| (TopicPartition::new(topic, partition), offset))
            .into();
        let wire = to_wire(&offsets, &TopicIds::from([("b".into(), "0b".into())]));
        assert_eq!(wire.iter().map(|topic| &*topic.topic_id).collect::<Vec<_>>(), ["", "0b"]);
        assert_eq!(wire.iter().map(|topic| topic.partitions.len()).collect::<Vec<_>>(), [2, 1]);
        assert_eq!(from_wire(wire), offsets);
        let parts = by_topic(offsets.keys());
        assert_eq!((&*parts[0].topic, &parts[0].partitions[..]), ("a", &[0, 3][..]));
    }
}
