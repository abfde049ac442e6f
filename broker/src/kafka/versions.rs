//! What is served: the answer to `ApiVersions`, and the door for every request.
//!
//! Kafka 4.x's table, without what is not built. Produce says that it starts at 0, as Kafka does:
//! old librdkafka looks for that and sends uncompressed otherwise (KAFKA-18659); what it sends is 3
//! or above.

use levee_kafka::messages::ApiKey;

/// Key, first and last version that is announced.
pub(super) const SERVED: &[(ApiKey, i16, i16)] = &[
    (ApiKey::Produce, 0, 13),
    (ApiKey::Fetch, 4, 18),
    (ApiKey::ListOffsets, 1, 11),
    (ApiKey::Metadata, 0, 13),
    (ApiKey::OffsetCommit, 2, 10),
    (ApiKey::OffsetFetch, 1, 10),
    (ApiKey::FindCoordinator, 0, 6),
    // Old librdkafka looks for JoinGroup 0, too, before it offers some ways to authenticate.
    (ApiKey::JoinGroup, 0, 9),
    (ApiKey::Heartbeat, 0, 4),
    (ApiKey::LeaveGroup, 0, 5),
    (ApiKey::SyncGroup, 0, 5),
    (ApiKey::DescribeGroups, 0, 6),
    (ApiKey::ListGroups, 0, 5),
    (ApiKey::ApiVersions, 0, 4),
    (ApiKey::CreateTopics, 2, 7),
    (ApiKey::DeleteTopics, 1, 6),
    (ApiKey::DeleteRecords, 0, 2),
    (ApiKey::InitProducerId, 0, 5),
    (ApiKey::OffsetForLeaderEpoch, 2, 4),
    (ApiKey::AddPartitionsToTxn, 0, 5),
    (ApiKey::AddOffsetsToTxn, 0, 4),
    (ApiKey::EndTxn, 0, 5),
    (ApiKey::WriteTxnMarkers, 1, 2),
    (ApiKey::TxnOffsetCommit, 0, 5),
    (ApiKey::DescribeAcls, 1, 3),
    (ApiKey::CreateAcls, 1, 3),
    (ApiKey::DeleteAcls, 1, 3),
    (ApiKey::DescribeConfigs, 1, 4),
    (ApiKey::AlterConfigs, 0, 2),
    (ApiKey::AlterReplicaLogDirs, 1, 2),
    (ApiKey::DescribeLogDirs, 1, 5),
    (ApiKey::CreatePartitions, 0, 3),
    (ApiKey::DeleteGroups, 0, 2),
    (ApiKey::ElectLeaders, 0, 2),
    (ApiKey::IncrementalAlterConfigs, 0, 1),
    (ApiKey::AlterPartitionReassignments, 0, 1),
    (ApiKey::ListPartitionReassignments, 0, 0),
    (ApiKey::OffsetDelete, 0, 0),
    (ApiKey::DescribeClientQuotas, 0, 1),
    (ApiKey::AlterClientQuotas, 0, 1),
    (ApiKey::DescribeUserScramCredentials, 0, 0),
    (ApiKey::AlterUserScramCredentials, 0, 0),
    (ApiKey::DescribeQuorum, 0, 2),
    (ApiKey::UpdateFeatures, 0, 2),
    (ApiKey::DescribeCluster, 0, 2),
    (ApiKey::DescribeProducers, 0, 0),
    (ApiKey::DescribeTransactions, 0, 0),
    (ApiKey::ListTransactions, 0, 2),
    (ApiKey::ConsumerGroupHeartbeat, 0, 1),
    (ApiKey::ConsumerGroupDescribe, 0, 1),
    (ApiKey::ListConfigResources, 0, 1),
    (ApiKey::DescribeTopicPartitions, 0, 0),
];

/// First version of Produce that exists (record batch v2).
const PRODUCE_FROM: i16 = 3;

/// The API of a request, where this broker serves that version of it.
pub(super) fn served(key: i16, version: i16) -> Option<ApiKey> {
    let (api, from, to) = SERVED.iter().find(|(api, ..)| *api as i16 == key)?;
    let from = if *api == ApiKey::Produce { PRODUCE_FROM } else { *from };
    (from..=*to).contains(&version).then_some(*api)
}

#[cfg(test)]
mod tests {
    use levee_kafka::Api;

    use super::*;

    #[test]
    fn every_version_that_is_served_has_a_schema() {
        for (api, from, to) in SERVED {
            let schema = Api::of(*api as i16).expect("an API with a schema").versions;
            let from = if *api == ApiKey::Produce { PRODUCE_FROM } else { *from };
            assert!(schema.0 <= from && from <= *to && *to <= schema.1, "{api:?}");
        }
        assert!(SERVED.windows(2).all(|two| two[0].0 < two[1].0), "ascending, each once");
    }

    #[test]
    fn what_is_not_served_has_no_api() {
        assert_eq!(served(0, 2), None);
        assert_eq!(served(0, 3), Some(ApiKey::Produce));
        assert_eq!(served(18, 5), None);
        assert_eq!(served(4, 0), None);
    }
}
