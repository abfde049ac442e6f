//! DescribeLogDirs and AlterReplicaLogDirs (KIP-113): where partitions are.
//!
//! The data folder is the one directory. What is said of a partition is the size of its whole log,
//! in the bucket and not there yet: local copies of what the bucket has come and go.

use std::collections::BTreeMap;
use std::io;
use std::path::{self, Path, PathBuf};

use levee_kafka::ErrorCode;
use levee_kafka::messages::alter_replica_log_dirs_request::AlterReplicaLogDirsRequest;
use levee_kafka::messages::alter_replica_log_dirs_response::{
    AlterReplicaLogDirPartitionResult, AlterReplicaLogDirTopicResult, AlterReplicaLogDirsResponse,
};
use levee_kafka::messages::describe_log_dirs_request::DescribeLogDirsRequest;
use levee_kafka::messages::describe_log_dirs_response::{
    DescribeLogDirsPartition, DescribeLogDirsResponse, DescribeLogDirsResult, DescribeLogDirsTopic,
};

use super::Ask;
use crate::partition::Partition;

pub(super) async fn describe(
    ask: &Ask,
    request: DescribeLogDirsRequest,
) -> DescribeLogDirsResponse {
    let node = ask.node();
    let wanted: Option<BTreeMap<String, Vec<i32>>> = request
        .topics
        .map(|topics| topics.into_iter().map(|topic| (topic.topic, topic.partitions)).collect());
    let is_wanted = |partition: &Partition| match &wanted {
        None => true,
        Some(topics) => topics
            .get(&partition.topic)
            .is_some_and(|numbers| numbers.contains(&(partition.id.partition as i32))),
    };
    let mut topics = BTreeMap::<String, Vec<DescribeLogDirsPartition>>::new();
    for partition in node.all_partitions().iter().filter(|partition| is_wanted(partition)) {
        let tiered = node.tiers.index.bytes(partition.id);
        let size = tiered.saturating_add(partition.lag().0);
        topics.entry(partition.topic.clone()).or_default().push(DescribeLogDirsPartition {
            partition_index: partition.id.partition as i32,
            partition_size: i64::try_from(size).unwrap_or(i64::MAX),
            ..Default::default()
        });
    }
    let topic = |(name, partitions)| DescribeLogDirsTopic { name, partitions };
    let mut folder = DescribeLogDirsResult {
        log_dir: folder(ask).display().to_string(),
        topics: topics.into_iter().map(topic).collect(),
        ..Default::default()
    };
    match space(ask).await {
        Ok((total, usable)) => {
            folder.total_bytes = i64::try_from(total).unwrap_or(i64::MAX);
            folder.usable_bytes = i64::try_from(usable).unwrap_or(i64::MAX);
        }
        Err(error) => {
            tracing::warn!(%error, "the disk of the data folder does not say its size");
            folder.error_code = ErrorCode::KafkaStorageError.into();
            folder.topics.clear();
        }
    }
    DescribeLogDirsResponse { results: vec![folder], ..Default::default() }
}

/// Bytes of the disk, and those of them that are free.
async fn space(ask: &Ask) -> io::Result<(u64, u64)> {
    let (disk, path) = (ask.node().host.disk(), &ask.node().config.data_dir);
    Ok((disk.total_bytes(path).await?, disk.free_bytes(path).await?))
}

/// The data folder as an absolute path, without looking at the disk.
fn folder(ask: &Ask) -> PathBuf {
    let given = &ask.node().config.data_dir;
    path::absolute(given).unwrap_or_else(|_| given.clone())
}

pub(super) async fn alter(
    ask: &Ask,
    request: AlterReplicaLogDirsRequest,
) -> AlterReplicaLogDirsResponse {
    let own = folder(ask);
    let mut topics = BTreeMap::<String, Vec<AlterReplicaLogDirPartitionResult>>::new();
    for dir in request.dirs {
        let is_ours = Path::new(&dir.path) == own;
        for topic in dir.topics {
            for partition_index in topic.partitions {
                let error_code = match ask.partition(&topic.name, partition_index) {
                    _ if !is_ours => ErrorCode::LogDirNotFound.into(),
                    Ok(_) => 0,
                    Err(code) => code.into(),
                };
                let result = AlterReplicaLogDirPartitionResult { partition_index, error_code };
                topics.entry(topic.name.clone()).or_default().push(result);
            }
        }
    }
    let result =
        |(topic_name, partitions)| AlterReplicaLogDirTopicResult { topic_name, partitions };
    AlterReplicaLogDirsResponse {
        results: topics.into_iter().map(result).collect(),
        ..Default::default()
    }
}
