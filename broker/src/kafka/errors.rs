//! Levee's errors as Kafka's codes: chosen by what clients do with them.

use levee_kafka::ErrorCode as Kafka;
use levee_proto::grpc::ErrorCode as Levee;

use crate::error::Error;

/// The code for anything but an append.
pub(crate) fn code(error: &Error) -> Kafka {
    match error.code {
        Levee::InvalidArgument => Kafka::InvalidRequest,
        Levee::CorruptBatch | Levee::CorruptData => Kafka::CorruptMessage,
        Levee::BatchTooLarge => Kafka::MessageTooLarge,
        Levee::UnknownTopic | Levee::UnknownPartition => Kafka::UnknownTopicOrPartition,
        Levee::TopicExists => Kafka::TopicAlreadyExists,
        Levee::OffsetOutOfRange => Kafka::OffsetOutOfRange,
        // Clients look the leader up and come again.
        Levee::NotLeader
        | Levee::PartitionUnavailable
        | Levee::SessionEnded
        | Levee::ShuttingDown => Kafka::NotLeaderOrFollower,
        Levee::TimedOut | Levee::Overloaded => Kafka::RequestTimedOut,
        Levee::OutOfOrderSequence => Kafka::OutOfOrderSequenceNumber,
        Levee::DuplicateSequence => Kafka::DuplicateSequenceNumber,
        Levee::ProducerFenced => Kafka::InvalidProducerEpoch,
        Levee::UnknownProducer => Kafka::UnknownProducerId,
        Levee::InvalidTxnState => Kafka::InvalidTxnState,
        Levee::TransactionCoordinatorFenced => Kafka::TransactionCoordinatorFenced,
        Levee::Stalled | Levee::StoreUnavailable | Levee::DiskFull => Kafka::KafkaStorageError,
        Levee::InvalidConfig => Kafka::InvalidConfig,
        Levee::UnknownGroup => Kafka::GroupIdNotFound,
        Levee::UnknownMember => Kafka::UnknownMemberId,
        Levee::MemberFenced => Kafka::FencedMemberEpoch,
        Levee::InstanceInUse => Kafka::UnreleasedInstanceId,
        Levee::GroupInUse => Kafka::NonEmptyGroup,
        Levee::GroupFull => Kafka::GroupMaxSizeReached,
        Levee::UnstableOffset => Kafka::UnstableOffsetCommit,
        Levee::ConcurrentTransactions | Levee::LateRequest => Kafka::ConcurrentTransactions,
        Levee::UnknownTransaction => Kafka::TransactionalIdNotFound,
        Levee::InvalidRecord => Kafka::InvalidRecord,
        Levee::Internal | Levee::ErrorUnspecified => Kafka::UnknownServerError,
    }
}

/// The code for an append. What was refused before it had an offset is "not enough replicas": the
/// one retriable code that says that nothing was written.
pub(super) fn append_code(error: &Error) -> Kafka {
    match error.code {
        Levee::InvalidArgument => Kafka::InvalidRecord,
        Levee::Stalled | Levee::StoreUnavailable | Levee::DiskFull | Levee::Overloaded
            if !error.may_be_written =>
        {
            Kafka::NotEnoughReplicas
        }
        _ => code(error),
    }
}
