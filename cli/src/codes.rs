//! Every way in which a command can fail: name, exit code, what it means, what to do.
//!
//! Owns: the one table. What ends a command, what `levee explain` says and what `--help` says of
//! exit codes are read from it.

use levee_client::grpc::ErrorCode;
use levee_client::{Error, ErrorKind};

/// What a process ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Ok = 0,
    Failed = 1,
    Usage = 2,
    Unreachable = 3,
    NotFound = 4,
    Partly = 5,
    Interrupted = 130,
}

impl Exit {
    pub const ALL: [Self; 7] = [
        Self::Ok,
        Self::Failed,
        Self::Usage,
        Self::Unreachable,
        Self::NotFound,
        Self::Partly,
        Self::Interrupted,
    ];

    pub fn meaning(self) -> &'static str {
        match self {
            Self::Ok => "all done (also when the reader of the output went away)",
            Self::Failed => "failed",
            Self::Usage => "wrong usage, a wrong setting, or a confirmation that was not given",
            Self::Unreachable => "the broker or the bucket cannot be reached or does not answer",
            Self::NotFound => "a topic, partition, offset or group is not there",
            Self::Partly => "partly done (the messages say what was not); doctor: warnings",
            Self::Interrupted => "interrupted by Ctrl-C or SIGTERM",
        }
    }
}

/// What `--help` says below every command.
pub fn exit_help() -> String {
    let lines = Exit::ALL.map(|exit| format!("  {:>3}  {}\n", exit as u8, exit.meaning()));
    format!("Exit codes:\n{}", lines.concat())
}

/// What a code means.
#[derive(Debug, PartialEq, Eq)]
pub struct Explanation {
    pub name: &'static str,
    pub exit: Exit,
    pub meaning: &'static str,
    pub remedy: &'static str,
}

macro_rules! codes {
    ($($code:ident $name:literal $exit:ident $meaning:literal $remedy:literal;)*) => {
        /// See the module.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Code { $($code),* }

        impl Code {
            pub const ALL: &[Self] = &[$(Self::$code),*];

            pub fn explanation(self) -> &'static Explanation {
                match self {
                    $(Self::$code => &Explanation {
                        name: $name, exit: Exit::$exit, meaning: $meaning, remedy: $remedy,
                    },)*
                }
            }
        }
    };
}

codes! {
    // This program's own.
    Failed "FAILED" Failed
        "The command did not succeed, for the reason that its message gives."
        "Read the message; a next step stands below it where there is one.";
    Usage "USAGE" Usage
        "The command line makes no sense as it is."
        "Look at the command's --help.";
    NotConfirmed "NOT_CONFIRMED" Usage
        "The command deletes something, and nobody agreed to it."
        "Answer y on a terminal, or give -y (--yes) in scripts.";
    BadInput "BAD_INPUT" Failed
        "A line of the input is no record. Everything in front of it was sent."
        "Correct the line that the message names; go on from there, or records come twice.";
    LocalFile "LOCAL_FILE" Failed
        "A file, standard input or standard output cannot be read or written."
        "Check the path, its permissions, and whether the disk is full.";
    NotStarted "NOT_STARTED" Failed
        "The broker process did not start, or ended by itself. Nothing acknowledged is lost."
        "Its message and its log name the reason; `levee doctor` checks the surroundings.";
    CheckFailed "CHECK_FAILED" Failed
        "A check of `levee doctor` failed."
        "Each failed line names its remedy.";
    NoCluster "NO_CLUSTER" NotFound
        "Nothing of a Levee cluster is below that URL."
        "Name the bucket with its prefix, as bucket.url of the broker does.";
    AuditFailed "AUDIT_FAILED" Failed
        "Metadata, listing and footers of the bucket contradict each other: records may not be \
         readable. Each line that begins with FOUND names the place."
        "Change nothing in the bucket by hand; look at `levee tier status`, and at what deletes or \
         restores objects beside Levee.";
    Warnings "WARNINGS" Partly
        "Nothing failed in `levee doctor`, but something should be looked at."
        "Each line with `warn` names its remedy.";
    PartlyDone "PARTLY_DONE" Partly
        "The command was for several things, and worked for some of them."
        "The messages name those that failed; give the command again for these.";
    Interrupted "INTERRUPTED" Interrupted
        "Ctrl-C or SIGTERM ended the command. What had been asked of the broker may still be done."
        "Look before you ask again: levee topic describe, levee topic offsets.";
    NoBroker "NO_BROKER" Unreachable
        "No Levee broker answers at the address: it is not running, not reachable from here, or \
         the address is not that of its gRPC listener (its HTTP listener is another one)."
        "Start one with `levee dev`, or name the address: --broker HOST:PORT or LEVEE_BROKER.";
    NoAnswer "NO_ANSWER" Unreachable
        "The broker was asked and did not answer within --timeout. It may still do it."
        "Give it more time with --timeout; `levee doctor` says whether something is stalled.";

    // What brokers answer.
    Unspecified "ERROR_UNSPECIFIED" Failed
        "The broker gave no reason: it is of another release, or something in between answered."
        "Compare the releases of both sides (levee --version, levee doctor).";
    InvalidArgument "INVALID_ARGUMENT" Usage
        "The broker refuses the request as it stands: a name, number or statement is not allowed."
        "Correct what the message names.";
    CorruptBatch "CORRUPT_BATCH" Failed
        "Bytes of records were changed on their way, or cannot be decoded. They were not written."
        "Send them again; if it stays, look for a proxy or for damaged memory.";
    BatchTooLarge "BATCH_TOO_LARGE" Failed
        "A record, or the batch it is in, is above max.message.bytes of the topic."
        "Raise it: levee topic alter NAME --set max.message.bytes=..., or send smaller records. \
         A producer that runs keeps to the limit it began with: start it anew.";
    UnknownTopic "UNKNOWN_TOPIC" NotFound
        "There is no topic of that name. Topics are not made by writing to them."
        "levee topic list shows all; levee topic create NAME makes one.";
    UnknownPartition "UNKNOWN_PARTITION" NotFound
        "The topic has fewer partitions than that. The first one is 0."
        "levee topic describe NAME shows them; levee topic alter NAME -p COUNT adds some.";
    TopicExists "TOPIC_EXISTS" Failed
        "There is a topic of that name already."
        "Use it, give --if-not-exists, or delete it first.";
    OffsetOutOfRange "OFFSET_OUT_OF_RANGE" NotFound
        "The offset is below the start of the partition (deleted by retention or by a person), or \
         above its end."
        "levee topic offsets NAME shows what is there.";
    NotLeader "NOT_LEADER" Unreachable
        "This broker does not lead the partition now; another one took over."
        "Connect to the broker that leads it; clients do so by themselves.";
    PartitionUnavailable "PARTITION_UNAVAILABLE" Unreachable
        "The partition waits for something that the message names: mostly for the disk of a broker \
         that went away, which holds records that are nowhere else."
        "levee topic describe NAME shows the reason. Bring that disk back; only if it is gone for \
         good: levee topic accept-loss.";
    Stalled "STALLED" Unreachable
        "The write-ahead log takes nothing now, mostly because the bucket does not answer. Nothing \
         was written."
        "It goes on by itself when its medium is back; levee tier status names what is stalled.";
    TimedOut "TIMED_OUT" Unreachable
        "The time of the request was over before it was done. An append may have been written."
        "Try again; producers of this program never duplicate by that. levee tier status shows \
         what holds it up.";
    Overloaded "OVERLOADED" Failed
        "A bound is reached: upload lag, memory, or requests that wait."
        "Send slower, or wait: levee tier status shows how much waits for the bucket.";
    OutOfOrderSequence "OUT_OF_ORDER_SEQUENCE" Failed
        "An idempotent producer left a batch out: one in front of this one was not written."
        "Start again with a new producer; nothing of this batch was written.";
    DuplicateSequence "DUPLICATE_SEQUENCE" Failed
        "The batch was written before, too long ago to say where."
        "Do not send it again.";
    ProducerFenced "PRODUCER_FENCED" Failed
        "Another instance took over the producer's id."
        "Stop this one, or start again with a new producer.";
    InvalidConfig "INVALID_CONFIG" Usage
        "A setting of a broker or topic has a name or value that is not allowed."
        "levee config explain NAME says what may be written.";
    SessionEnded "SESSION_ENDED" Unreachable
        "The broker's session ended (another process took over, or its disk failed). A record \
         that waited for its ack may have been written."
        "Connect again: a new session takes over. The broker's log names the reason.";
    StoreUnavailable "STORE_UNAVAILABLE" Unreachable
        "The bucket does not answer, or refuses."
        "levee doctor checks URL, credentials and network; the broker goes on by itself.";
    DiskFull "DISK_FULL" Failed
        "The broker's disk has less than disk.reserve.bytes free, so it takes no appends."
        "Free disk space, or wait for uploads: what is in the bucket needs no disk.";
    CorruptData "CORRUPT_DATA" Failed
        "Bytes fail their checksum and no good copy was found."
        "Keep the data folder and the bucket as they are, and report it.";
    ShuttingDown "SHUTTING_DOWN" Unreachable
        "The broker is stopping."
        "Try again when it is back, or connect to another one.";
    Internal "INTERNAL" Failed
        "A fault of Levee itself."
        "Report it with the broker's log.";
    UnknownProducer "UNKNOWN_PRODUCER" Failed
        "The broker knows nothing of this producer: it never wrote here, or long ago."
        "Start again with a new producer; nothing of this batch was written.";
    InvalidTxnState "INVALID_TXN_STATE" Failed
        "The producer has a transaction open, and this is not part of it; or the transaction has \
         ended, by itself when its timeout was over."
        "Mark the batch as transactional, or end the transaction first; abort one that has ended.";
    TransactionCoordinatorFenced "TRANSACTION_COORDINATOR_FENCED" Failed
        "A newer coordinator took over the transactions of this producer."
        "Look the coordinator up again.";
    UnknownGroup "UNKNOWN_GROUP" NotFound
        "No group of consumers has this name, or it is one of Kafka's older protocol."
        "A group begins when its first member joins or its first offset is committed.";
    UnknownMember "UNKNOWN_MEMBER" Failed
        "The group does not know the member: it was silent for longer than its session."
        "Drop what was read as this member and join again; offsets that were committed hold.";
    MemberFenced "MEMBER_FENCED" Failed
        "Others may have the member's partitions by now, so that it may not commit for them."
        "Drop what was read as this member and join again; offsets that were committed hold.";
    InstanceInUse "INSTANCE_IN_USE" Failed
        "Another member of the group has this instance id."
        "Give each instance its own id, or wait until the other one's session ends.";
    GroupInUse "GROUP_IN_USE" Failed
        "The group has members, or members that read this topic."
        "Stop them first.";
    GroupFull "GROUP_FULL" Failed
        "The group has as many members as it may have."
        "Stop one of them first.";
    UnstableOffset "UNSTABLE_OFFSET" Failed
        "An open transaction may still change the offset."
        "Ask again when it has ended.";
    ConcurrentTransactions "CONCURRENT_TRANSACTIONS" Failed
        "The transaction before this one is still being ended."
        "Ask again in a moment.";
    UnknownTransaction "UNKNOWN_TRANSACTION" NotFound
        "No transactional id has this name, or another producer has it."
        "A transactional id begins when a producer with it does.";
    LateRequest "LATE_REQUEST" Failed
        "A newer request of the same transactional id came first."
        "Ask again with a new ticket; clients do that by themselves.";
    InvalidRecord "INVALID_RECORD" Failed
        "The topic is compacted (cleanup.policy), and a record has no key."
        "Give every record a key; nothing of this batch was written.";
}

/// A new code of the protocol needs a row.
impl From<ErrorCode> for Code {
    fn from(code: ErrorCode) -> Self {
        match code {
            ErrorCode::ErrorUnspecified => Self::Unspecified,
            ErrorCode::InvalidArgument => Self::InvalidArgument,
            ErrorCode::CorruptBatch => Self::CorruptBatch,
            ErrorCode::BatchTooLarge => Self::BatchTooLarge,
            ErrorCode::UnknownTopic => Self::UnknownTopic,
            ErrorCode::UnknownPartition => Self::UnknownPartition,
            ErrorCode::TopicExists => Self::TopicExists,
            ErrorCode::OffsetOutOfRange => Self::OffsetOutOfRange,
            ErrorCode::NotLeader => Self::NotLeader,
            ErrorCode::PartitionUnavailable => Self::PartitionUnavailable,
            ErrorCode::Stalled => Self::Stalled,
            ErrorCode::TimedOut => Self::TimedOut,
            ErrorCode::Overloaded => Self::Overloaded,
            ErrorCode::OutOfOrderSequence => Self::OutOfOrderSequence,
            ErrorCode::DuplicateSequence => Self::DuplicateSequence,
            ErrorCode::ProducerFenced => Self::ProducerFenced,
            ErrorCode::InvalidConfig => Self::InvalidConfig,
            ErrorCode::SessionEnded => Self::SessionEnded,
            ErrorCode::StoreUnavailable => Self::StoreUnavailable,
            ErrorCode::DiskFull => Self::DiskFull,
            ErrorCode::CorruptData => Self::CorruptData,
            ErrorCode::ShuttingDown => Self::ShuttingDown,
            ErrorCode::Internal => Self::Internal,
            ErrorCode::UnknownProducer => Self::UnknownProducer,
            ErrorCode::InvalidTxnState => Self::InvalidTxnState,
            ErrorCode::TransactionCoordinatorFenced => Self::TransactionCoordinatorFenced,
            ErrorCode::UnknownGroup => Self::UnknownGroup,
            ErrorCode::UnknownMember => Self::UnknownMember,
            ErrorCode::MemberFenced => Self::MemberFenced,
            ErrorCode::InstanceInUse => Self::InstanceInUse,
            ErrorCode::GroupInUse => Self::GroupInUse,
            ErrorCode::GroupFull => Self::GroupFull,
            ErrorCode::UnstableOffset => Self::UnstableOffset,
            ErrorCode::ConcurrentTransactions => Self::ConcurrentTransactions,
            ErrorCode::UnknownTransaction => Self::UnknownTransaction,
            ErrorCode::LateRequest => Self::LateRequest,
            ErrorCode::InvalidRecord => Self::InvalidRecord,
        }
    }
}

impl From<&Error> for Code {
    fn from(error: &Error) -> Self {
        match error.kind {
            // Something that a broker would refuse, too.
            ErrorKind::Invalid if error.code != ErrorCode::InvalidArgument => error.code.into(),
            ErrorKind::Refused => error.code.into(),
            ErrorKind::Connection => Self::NoBroker,
            ErrorKind::TimedOut => Self::NoAnswer,
            ErrorKind::Closed => Self::Failed,
            ErrorKind::Invalid => Self::Usage,
            ErrorKind::Corrupt => Self::CorruptData,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_of_the_protocol_has_the_row_of_its_name() {
        let mut count = 0;
        while let Ok(code) = ErrorCode::try_from(count) {
            assert_eq!(Code::from(code).explanation().name, code.as_str_name());
            count += 1;
        }
        assert!(count >= 24);
        let mut names: Vec<_> = Code::ALL.iter().map(|code| code.explanation().name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Code::ALL.len(), "names are unique");
    }

    #[test]
    fn every_exit_code_but_success_is_used() {
        for exit in &Exit::ALL[1..] {
            assert!(Code::ALL.iter().any(|code| code.explanation().exit == *exit), "{exit:?}");
        }
        assert!(exit_help().contains("  130  interrupted"));
    }
}
