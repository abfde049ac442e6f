//! What coordinators refuse, as errors of gRPC: their codes are Kafka's.
//!
//! Owns: one sentence for each code, with what to do next. Does not own: why it was refused.

use levee_kafka::ErrorCode as Kafka;
use levee_proto::grpc::ErrorCode;

use crate::error::Error;

/// Of a group; `said`: the coordinator's own sentence, where it has one.
pub(super) fn of_group(code: Kafka, group: &str, said: Option<String>) -> Error {
    if let Some(error) = of_coordinator(code, &format!("group {group:?}")) {
        return error;
    }
    let join_again = "stop what was read as this member, and join again with epoch 0";
    let (to, what, remedy) = match code {
        Kafka::GroupIdNotFound => {
            let remedy = "look at the name: levee group list; a group begins when a member joins";
            (ErrorCode::UnknownGroup, format!("there is no such group {group:?}"), remedy)
        }
        Kafka::UnknownMemberId => {
            let what = format!("group {group:?} does not know this member: its session ended");
            (ErrorCode::UnknownMember, what, join_again)
        }
        Kafka::FencedMemberEpoch | Kafka::StaleMemberEpoch | Kafka::IllegalGeneration => {
            let what = format!("the member's epoch in group {group:?} is over");
            (ErrorCode::MemberFenced, what, join_again)
        }
        Kafka::FencedInstanceId => {
            let what = format!("another member of group {group:?} has this instance id now");
            (ErrorCode::MemberFenced, what, "stop: the other one took over")
        }
        Kafka::UnreleasedInstanceId => {
            let what = format!("a member of group {group:?} has this instance id");
            let remedy = "choose another one, or wait until that member leaves or its session ends";
            (ErrorCode::InstanceInUse, what, remedy)
        }
        Kafka::NonEmptyGroup => {
            let what = format!("group {group:?} has members");
            (ErrorCode::GroupInUse, what, "stop its members first")
        }
        Kafka::GroupSubscribedToTopic => {
            let what = format!("members of group {group:?} read this topic");
            (ErrorCode::GroupInUse, what, "stop them first")
        }
        Kafka::GroupMaxSizeReached => {
            let what = format!("group {group:?} has as many members as it may have");
            (ErrorCode::GroupFull, what, "stop one of them first")
        }
        Kafka::UnstableOffsetCommit => {
            let what = format!("an open transaction may still change this offset of {group:?}");
            (ErrorCode::UnstableOffset, what, "ask again when the transaction has ended")
        }
        Kafka::InvalidGroupId => {
            let what = format!("the group's name has {} bytes", group.len());
            (ErrorCode::InvalidArgument, what, "choose one of 1 to 1024 bytes")
        }
        Kafka::InvalidRequest | Kafka::InvalidRegularExpression | Kafka::UnsupportedAssignor => {
            let what = format!("what is asked of group {group:?} makes no sense");
            (ErrorCode::InvalidArgument, what, "")
        }
        Kafka::OffsetMetadataTooLarge => {
            let what = format!("metadata of an offset of group {group:?} is above 4 KiB");
            (ErrorCode::InvalidArgument, what, "send less of it")
        }
        Kafka::InvalidCommitOffsetSize => {
            let what = format!("the log of group {group:?} has no room for so much in one commit");
            (ErrorCode::InvalidArgument, what, "commit fewer offsets at once, or less metadata")
        }
        code => return of_producer(code, &format!("group {group:?}")),
    };
    let retriable = to == ErrorCode::UnstableOffset;
    Error { retriable, ..Error::refused(to, said.unwrap_or(what), remedy) }
}

/// Of a transactional id.
pub(super) fn of_transaction(code: Kafka, id: &str) -> Error {
    let place = format!("transactional id {id:?}");
    match of_coordinator(code, &place) {
        Some(error) => error,
        None => of_producer(code, &place),
    }
}

fn of_producer(code: Kafka, place: &str) -> Error {
    let (to, what, remedy) = match code {
        Kafka::ProducerFenced | Kafka::InvalidProducerEpoch => (
            ErrorCode::ProducerFenced,
            format!("the producer's epoch for {place} is over"),
            "abort: it went well where only the transaction's timeout was over; otherwise another \
             instance took over, and this one should stop",
        ),
        Kafka::InvalidTxnState | Kafka::TransactionAbortable => (
            ErrorCode::InvalidTxnState,
            format!("{place} has no transaction open that this could be part of"),
            "it has ended, by itself if its timeout was over: abort, and begin again",
        ),
        Kafka::ConcurrentTransactions => (
            ErrorCode::ConcurrentTransactions,
            format!("the transaction of {place} before this one is still being ended"),
            "ask again in a moment",
        ),
        Kafka::InvalidProducerIdMapping | Kafka::TransactionalIdNotFound => (
            ErrorCode::UnknownTransaction,
            format!("{place} is not known, or is another producer's"),
            "begin with InitTransactions",
        ),
        Kafka::InvalidTransactionTimeout => (
            ErrorCode::InvalidArgument,
            format!("the timeout asked for {place} is not above 0 and up to the broker's bound"),
            "ask for less, or raise transaction.max.timeout",
        ),
        Kafka::InvalidRequest => {
            (ErrorCode::InvalidArgument, format!("{place} is empty or too long"), "")
        }
        Kafka::UnknownTopicOrPartition | Kafka::UnknownTopicId => (
            ErrorCode::UnknownPartition,
            format!("{place}: there is no such topic or partition"),
            "create it: levee topic create NAME",
        ),
        Kafka::RequestTimedOut => {
            (ErrorCode::TimedOut, format!("{place}: the coordinator took too long"), "ask again")
        }
        Kafka::KafkaStorageError => (
            ErrorCode::Stalled,
            format!("{place}: the coordinator can write nothing now"),
            "it goes on by itself when its medium is back",
        ),
        other => {
            let what = format!("{place}: the coordinator answered {other:?}");
            (ErrorCode::Internal, what, "report this with the broker's log")
        }
    };
    let later = [ErrorCode::ConcurrentTransactions, ErrorCode::TimedOut, ErrorCode::Stalled];
    Error { retriable: later.contains(&to), ..Error::refused(to, what, remedy) }
}

/// Where the coordinator is elsewhere, or not ready.
fn of_coordinator(code: Kafka, place: &str) -> Option<Error> {
    let (to, what, remedy) = match code {
        Kafka::NotCoordinator | Kafka::NotLeaderOrFollower => (
            ErrorCode::NotLeader,
            format!("this broker does not coordinate {place} now"),
            "look up the leader again",
        ),
        Kafka::CoordinatorLoadInProgress => (
            ErrorCode::PartitionUnavailable,
            format!("the coordinator of {place} is reading its log"),
            "ask again in a moment",
        ),
        Kafka::CoordinatorNotAvailable => (
            ErrorCode::PartitionUnavailable,
            format!("{place} has no coordinator that can answer now"),
            "ask again in a moment",
        ),
        _ => return None,
    };
    Some(Error { retriable: true, ..Error::refused(to, what, remedy) })
}
