//! What the broker tells its callers when it cannot do what they ask.
//!
//! Owns: one constructor per fact, whether a retry may help, whether it can duplicate, and the
//! mapping to gRPC. Does not own: why it happened (each module has its own error for that).

use std::fmt;

use levee_hot_log::lane::Refused;
use levee_proto::grpc::{ErrorCode, ErrorDetail};
use prost::Message;
use tonic::{Code, Status};

use crate::config::{ConfigError, show_bytes};

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    pub code: ErrorCode,
    /// For people; says what and where.
    pub message: String,
    /// The same request may succeed later, unchanged.
    pub retriable: bool,
    /// The record may have been written: without idempotence a retry can duplicate it.
    pub may_be_written: bool,
    /// What to do next, where that is more than to correct what the message names.
    pub remedy: String,
    /// Offsets that can be read, first and end (exclusive).
    pub valid: Option<(u64, u64)>,
    /// The records of a batch for which it was refused, by their place in it.
    pub records: Vec<u32>,
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// The same request will fail again.
    fn final_(code: ErrorCode, message: impl Into<String>, remedy: &str) -> Self {
        let (message, remedy) = (shorten(message.into()), remedy.to_owned());
        Self {
            code,
            message,
            retriable: false,
            may_be_written: false,
            remedy,
            valid: None,
            records: Vec::new(),
        }
    }

    /// The same request may succeed later.
    fn retriable(code: ErrorCode, message: impl Into<String>, remedy: &str) -> Self {
        Self { retriable: true, ..Self::final_(code, message, remedy) }
    }

    /// For appends whose record had its offset already when this happened.
    pub fn maybe_written(self) -> Self {
        Self { may_be_written: true, ..self }
    }

    /// What a coordinator refuses (`listener/refusals`).
    pub fn refused(code: ErrorCode, what: impl Into<String>, remedy: &str) -> Self {
        Self::final_(code, what, remedy)
    }

    /// A newer request of the same transactional id came first, or the ticket is of another life of
    /// this broker.
    pub fn late_request(transactional_id: &str) -> Self {
        let message = format!(
            "a newer request of transactional id {transactional_id:?} came before this one"
        );
        Self::retriable(ErrorCode::LateRequest, message, "ask again with a new ticket")
    }

    pub fn invalid_argument(what: impl Into<String>) -> Self {
        Self::final_(ErrorCode::InvalidArgument, what, "")
    }

    pub fn corrupt_batch(why: impl fmt::Display) -> Self {
        let remedy = "the client or the network changed the bytes: send the batch again from its \
                      records";
        Self::final_(ErrorCode::CorruptBatch, format!("record batch refused: {why}"), remedy)
    }

    pub fn batch_too_large(bytes: u64, max: u64) -> Self {
        let (bytes, max) = (show_bytes(bytes), show_bytes(max));
        let message = format!("record batch of {bytes} is above max.message.bytes, {max}");
        Self::final_(ErrorCode::BatchTooLarge, message, "send smaller batches or raise the setting")
    }

    /// Records without a key in a batch for a compacted topic, by their place.
    pub fn keyless(topic: &str, records: Vec<u32>) -> Self {
        let message = format!(
            "{topic} is compacted and keeps records by their key; {} of the batch have none, first \
             number {}",
            records.len(),
            records.first().copied().unwrap_or_default()
        );
        let error = Self::final_(ErrorCode::InvalidRecord, message, "give every record a key");
        Self { records, ..error }
    }

    pub fn unknown_topic(name: &str) -> Self {
        let message = format!("no topic {name:?}");
        Self::final_(ErrorCode::UnknownTopic, message, "create it: levee topic create NAME")
    }

    pub fn unknown_partition(topic: &str, partition: u32, count: u32) -> Self {
        let message = format!("topic {topic:?} has no partition {partition}, it has {count}");
        Self::final_(
            ErrorCode::UnknownPartition,
            message,
            "ask for partition 0 or above, below that count",
        )
    }

    pub fn topic_exists(name: &str) -> Self {
        let message = format!("topic {name:?} exists");
        Self::final_(ErrorCode::TopicExists, message, "alter it, or delete it first")
    }

    pub fn offset_out_of_range(asked: u64, start: u64, end: u64) -> Self {
        let message = format!("offset {asked} is outside of what is there, {start}..{end}");
        let remedy = "read from the start or the end of the valid range";
        let error = Self::final_(ErrorCode::OffsetOutOfRange, message, remedy);
        Self { valid: Some((start, end)), ..error }
    }

    pub fn not_leader(topic: &str, partition: u32) -> Self {
        let message = format!("this broker does not lead {topic:?} partition {partition} now");
        Self::retriable(ErrorCode::NotLeader, message, "look up the leader again")
    }

    /// `why` names what the partition waits for.
    pub fn partition_unavailable(topic: &str, partition: u32, why: &str) -> Self {
        let message = format!("{topic:?} partition {partition} is not serving: {why}");
        let remedy = "levee topic describe shows its state";
        Self::retriable(ErrorCode::PartitionUnavailable, message, remedy)
    }

    pub fn stalled(why: impl fmt::Display) -> Self {
        let message = format!("the write-ahead log takes nothing now: {why}");
        Self::retriable(ErrorCode::Stalled, message, "it goes on by itself when its medium is back")
    }

    /// An append that had its offset: the answer did not come in time.
    pub fn timed_out_append(after_ms: u64) -> Self {
        let message = format!("not durable after {after_ms} ms");
        let remedy = "send it again; an idempotent producer cannot duplicate it";
        Self::retriable(ErrorCode::TimedOut, message, remedy).maybe_written()
    }

    /// A request that is larger than any batch may be.
    pub fn message_too_large(bytes: usize, max_batch: usize) -> Self {
        let max = show_bytes(max_batch as u64);
        let message = format!("a request of {bytes} bytes is above max.batch.bytes, {max}");
        let remedy = "send smaller batches, or raise max.batch.bytes";
        Self::final_(ErrorCode::BatchTooLarge, message, remedy)
    }

    /// A request that was announced and did not come, or found no room (`no_room`).
    pub fn slow_message(no_room: bool) -> Self {
        let message = match no_room {
            true => "there was no room for the request (request.bytes)",
            false => "the request took too long to come",
        };
        Self::retriable(ErrorCode::TimedOut, message, "send it again; nothing of it was written")
    }

    /// Anything that changes nothing.
    pub fn timed_out(what: &str, after_ms: u64) -> Self {
        let message = format!("{what} took longer than {after_ms} ms");
        Self::retriable(ErrorCode::TimedOut, message, "ask again, with more time")
    }

    /// `what` names the bound that is reached.
    pub fn overloaded(what: impl Into<String>) -> Self {
        Self::retriable(ErrorCode::Overloaded, what, "send slower; levee tier status shows the lag")
    }

    pub fn out_of_order_sequence(producer: i64, expected: i32, got: i32) -> Self {
        let message = format!("producer {producer} sent sequence {got}, expected is {expected}");
        let remedy = "a batch before it was not written: start again with a new producer id";
        Self::final_(ErrorCode::OutOfOrderSequence, message, remedy)
    }

    pub fn duplicate_sequence(producer: i64, got: i32) -> Self {
        let message = format!(
            "producer {producer} sent sequence {got}, which was written too long ago to say where"
        );
        let error = Self::final_(ErrorCode::DuplicateSequence, message, "do not send it again");
        error.maybe_written()
    }

    pub fn producer_fenced(producer: i64, epoch: i16, got: i16) -> Self {
        let message = format!("producer {producer} has epoch {epoch} now, this batch has {got}");
        let remedy = "another instance took over: stop, or get a new producer id";
        Self::final_(ErrorCode::ProducerFenced, message, remedy)
    }

    /// A record that came behind the end of its transaction.
    pub fn transaction_ended(producer: i64) -> Self {
        let message = format!("the transaction of producer {producer} ended before this came");
        let remedy = "nothing of it was written; a producer waits for its sends before it ends one";
        Self::final_(ErrorCode::InvalidTxnState, message, remedy)
    }

    /// A record of a producer that has a transaction open and does not belong to it.
    pub fn outside_of_transaction(producer: i64, open: u64) -> Self {
        let message = format!(
            "producer {producer} has a transaction open, from offset {open} on, and sent a batch \
             outside of it"
        );
        let remedy = "mark the batch as transactional, or end the transaction first";
        Self::final_(ErrorCode::InvalidTxnState, message, remedy)
    }

    /// Another coordinator took over: whoever asks is not it any more.
    pub fn coordinator_fenced(producer: i64, epoch: i32, got: i32) -> Self {
        let message = format!(
            "the coordinator of producer {producer} has epoch {epoch} now, this marker has {got}"
        );
        let remedy = "only the newest coordinator ends a transaction: look it up again";
        Self::final_(ErrorCode::TransactionCoordinatorFenced, message, remedy)
    }

    /// It never wrote here, or so long ago that it was forgotten.
    pub fn unknown_producer(producer: i64, got: i32) -> Self {
        let message =
            format!("producer {producer} sent sequence {got}, and nothing before it is known");
        let remedy = "start at sequence 0 with a new producer id (InitProducer)";
        Self::final_(ErrorCode::UnknownProducer, message, remedy)
    }

    /// The records that wait for an answer may be written: see `maybe_written`.
    pub fn session_ended(why: impl fmt::Display) -> Self {
        let message = format!("the session of this broker has ended: {why}");
        Self::retriable(ErrorCode::SessionEnded, message, "connect again: a new session takes over")
    }

    pub fn store_unavailable(why: impl fmt::Display) -> Self {
        let message = format!("the bucket does not answer: {why}");
        Self::retriable(ErrorCode::StoreUnavailable, message, "check the bucket and try again")
    }

    pub fn disk_full(free: u64, reserve: u64) -> Self {
        let (free, reserve) = (show_bytes(free), show_bytes(reserve));
        let message = format!("{free} free on the disk, below disk.reserve.bytes, {reserve}");
        Self::retriable(ErrorCode::DiskFull, message, "free disk space, or wait for uploads")
    }

    /// Stored bytes fail their checksum and no good copy was found.
    pub fn corrupt_data(place: impl fmt::Display) -> Self {
        let remedy = "keep the data folder and the bucket as they are and report this";
        Self::final_(ErrorCode::CorruptData, format!("stored data is damaged: {place}"), remedy)
    }

    /// The bytes are as they came, and no records can be made of them here.
    pub fn batch_not_decoded((base, end): (u64, u64), why: impl fmt::Display) -> Self {
        let message = format!("the batch at {base}..{end} cannot be decoded: {why}");
        let remedy = format!("read it without decode, or go on at {end}");
        let error = Self::final_(ErrorCode::CorruptBatch, message, &remedy);
        Self { valid: Some((base, end)), ..error }
    }

    pub fn shutting_down() -> Self {
        let message = "this broker is stopping";
        Self::retriable(ErrorCode::ShuttingDown, message, "connect again or to another broker")
    }

    /// A fault of Levee itself.
    pub fn internal(what: impl Into<String>) -> Self {
        Self::final_(ErrorCode::Internal, what, "report this with the broker's log")
    }

    pub fn to_detail(&self) -> ErrorDetail {
        ErrorDetail {
            code: self.code.into(),
            message: self.message.clone(),
            retriable: self.retriable,
            may_be_written: self.may_be_written,
            remedy: self.remedy.clone(),
            valid_start: self.valid.map(|(start, _)| start),
            valid_end: self.valid.map(|(_, end)| end),
        }
    }

    /// With the encoded detail, so that unary calls lose nothing.
    pub fn to_status(&self) -> Status {
        let detail = self.to_detail().encode_to_vec();
        Status::with_details(status_code(self.code), self.message.clone(), detail.into())
    }
}

/// A message may quote what a client sent, and travels in an HTTP header.
fn shorten(mut message: String) -> String {
    const CHARS_MAX: usize = 500;
    if let Some((end, _)) = message.char_indices().nth(CHARS_MAX) {
        message.truncate(end);
        message.push_str("...");
    }
    message
}

/// For clients that know only gRPC. `Unavailable` is what their built-in retries act on, so it is
/// used only where nothing was written or the request is idempotent by its sequence.
fn status_code(code: ErrorCode) -> Code {
    match code {
        ErrorCode::InvalidArgument
        | ErrorCode::CorruptBatch
        | ErrorCode::BatchTooLarge
        | ErrorCode::InvalidRecord
        | ErrorCode::InvalidConfig => Code::InvalidArgument,
        ErrorCode::UnknownTopic
        | ErrorCode::UnknownPartition
        | ErrorCode::UnknownGroup
        | ErrorCode::UnknownTransaction => Code::NotFound,
        ErrorCode::TopicExists | ErrorCode::InstanceInUse => Code::AlreadyExists,
        ErrorCode::OffsetOutOfRange => Code::OutOfRange,
        ErrorCode::OutOfOrderSequence
        | ErrorCode::DuplicateSequence
        | ErrorCode::ProducerFenced
        | ErrorCode::UnknownProducer
        | ErrorCode::InvalidTxnState
        | ErrorCode::TransactionCoordinatorFenced
        | ErrorCode::UnknownMember
        | ErrorCode::MemberFenced
        | ErrorCode::GroupInUse => Code::FailedPrecondition,
        ErrorCode::NotLeader
        | ErrorCode::PartitionUnavailable
        | ErrorCode::Stalled
        | ErrorCode::StoreUnavailable
        | ErrorCode::ShuttingDown => Code::Unavailable,
        ErrorCode::SessionEnded
        | ErrorCode::UnstableOffset
        | ErrorCode::ConcurrentTransactions
        | ErrorCode::LateRequest => Code::Aborted,
        ErrorCode::TimedOut => Code::DeadlineExceeded,
        ErrorCode::Overloaded | ErrorCode::DiskFull | ErrorCode::GroupFull => {
            Code::ResourceExhausted
        }
        ErrorCode::CorruptData => Code::DataLoss,
        ErrorCode::Internal => Code::Internal,
        ErrorCode::ErrorUnspecified => Code::Unknown,
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match self.remedy.as_str() {
            "" => Ok(()),
            remedy => write!(f, " ({remedy})"),
        }
    }
}

impl std::error::Error for Error {}

impl From<ConfigError> for Error {
    fn from(error: ConfigError) -> Self {
        Self::final_(ErrorCode::InvalidConfig, error.what(), &error.remedy)
    }
}

/// Nothing was written: a reservation comes before the offset.
impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Stalled(why) => Self::stalled(why),
            Refused::Ended(end) => Self::session_ended(end),
        }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        error.to_status()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_carries_the_whole_detail() {
        let error = Error::offset_out_of_range(7, 10, 20);
        let status = error.to_status();
        assert_eq!(status.code(), Code::OutOfRange);
        let detail = ErrorDetail::decode(status.details()).unwrap();
        assert_eq!(detail, error.to_detail());
        assert_eq!((detail.valid_start, detail.valid_end), (Some(10), Some(20)));
        assert_eq!(detail.code(), ErrorCode::OffsetOutOfRange);
    }

    #[test]
    fn quotes_of_strangers_are_bounded() {
        let name = "é".repeat(1 << 20);
        assert!(Error::unknown_topic(&name).message.len() < 1100);
    }

    /// What a client may conclude: the two bits decide between retry, dedupe and giving up.
    #[test]
    fn bits_say_whether_a_retry_helps_and_whether_it_can_duplicate() {
        let bits = |error: Error| (error.retriable, error.may_be_written);
        assert_eq!(bits(Refused::Stalled("bucket away".into()).into()), (true, false));
        assert_eq!(bits(Error::timed_out_append(30_000)), (true, true));
        assert_eq!(bits(Error::session_ended("fenced").maybe_written()), (true, true));
        assert_eq!(bits(Error::duplicate_sequence(1, 0)), (false, true));
        assert_eq!(bits(Error::unknown_topic("t")), (false, false));
    }

    #[test]
    fn every_code_but_unspecified_has_a_status_of_its_own_kind() {
        for number in 1..=36 {
            let code = ErrorCode::try_from(number).unwrap();
            assert!(!matches!(status_code(code), Code::Ok | Code::Unknown), "{code:?}");
        }
        assert!(ErrorCode::try_from(37).is_err(), "a new code needs a status");
    }
}
