//! What went wrong, and what a caller may conclude from it.

use std::fmt;
use std::time::Duration;

use levee_proto::FormatError;
use levee_proto::grpc::{ErrorCode, ErrorDetail};
use prost::Message;
use tonic::{Code, Status};

use crate::connection::cause;

/// Who says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The broker answered that it cannot; `code` says why.
    Refused,
    /// The way to the broker failed, or something that is no Levee broker answered.
    Connection,
    /// The client's own limit of time was over.
    TimedOut,
    /// The producer was closed or dropped.
    Closed,
    /// The client was asked for something that makes no sense.
    Invalid,
    /// What the broker sent is damaged.
    Corrupt,
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    pub kind: ErrorKind,
    pub code: ErrorCode,
    pub message: String,
    /// The same request may succeed later, unchanged.
    pub retriable: bool,
    /// The record may have been written: without idempotence a retry can duplicate it.
    pub may_be_written: bool,
    /// What to do next; may be empty.
    pub remedy: String,
    /// For offsets out of range: the first one, and the one after the last.
    pub valid: Option<(u64, u64)>,
}

/// Signs in tonic's messages that a web server or a proxy answered.
const FOREIGN: [&str; 2] = ["grpc-status header missing", "invalid compression flag"];

pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    fn new(kind: ErrorKind, code: ErrorCode, message: impl Into<String>) -> Self {
        let (message, remedy) = (message.into(), String::new());
        let (retriable, may_be_written) = (false, false);
        Self { kind, code, message, retriable, may_be_written, remedy, valid: None }
    }

    /// The way to the broker failed; nothing is known of what was under way.
    pub(crate) fn connection(message: impl Into<String>) -> Self {
        let error = Self::new(ErrorKind::Connection, ErrorCode::ErrorUnspecified, message);
        let remedy = "check that the broker runs and that the address is its gRPC listener";
        Self { retriable: true, may_be_written: true, remedy: remedy.into(), ..error }
    }

    pub(crate) fn timed_out(what: &str, after: Duration) -> Self {
        let message = format!("{what} took longer than {after:?}");
        let error = Self::new(ErrorKind::TimedOut, ErrorCode::TimedOut, message);
        Self { retriable: true, ..error }
    }

    pub(crate) fn closed() -> Self {
        Self::new(ErrorKind::Closed, ErrorCode::ErrorUnspecified, "the producer is closed")
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, ErrorCode::InvalidArgument, message)
    }

    /// Another connection may bring the bytes undamaged.
    pub(crate) fn corrupt(error: &FormatError) -> Self {
        let message = format!("the broker sent {error}");
        let error = Self::new(ErrorKind::Corrupt, ErrorCode::CorruptData, message);
        Self { retriable: true, ..error }
    }

    pub(crate) fn maybe_written(self, may_be_written: bool) -> Self {
        Self { may_be_written: self.may_be_written || may_be_written, ..self }
    }

    /// A record of the transaction was not delivered, and so no later one of its partition is.
    pub(crate) fn transaction_failed() -> Self {
        let message = "a record of this transaction in front of this one was not delivered";
        let error = Self::new(ErrorKind::Refused, ErrorCode::InvalidTxnState, message);
        Self { remedy: "abort the transaction".into(), ..error }
    }

    /// Of a transaction that was aborted.
    pub(crate) fn aborted() -> Self {
        Self::new(ErrorKind::Closed, ErrorCode::InvalidTxnState, "the transaction was aborted")
    }

    /// The member begins anew, and what was read before is somebody else's now.
    pub(crate) fn membership_lost(group: &str) -> Self {
        let message = format!("the partitions that this was for were lost by group {group:?}");
        let error = Self::new(ErrorKind::Refused, ErrorCode::MemberFenced, message);
        Self { remedy: "go on with what is assigned next".into(), ..error }
    }

    /// For a record that was not sent.
    pub(crate) fn of_unsent(&self) -> Self {
        Self { may_be_written: false, ..self.clone() }
    }

    /// `max`: of the producer's settings.
    pub(crate) fn batch_too_large(bytes: usize, max: usize) -> Self {
        let message = format!("a batch of {bytes} bytes is above the limit of {max}");
        let error = Self::new(ErrorKind::Invalid, ErrorCode::BatchTooLarge, message);
        let remedy = "send smaller records, or raise max.message.bytes of the topic and start the \
                      producer anew";
        Self { remedy: remedy.into(), ..error }
    }

    /// Puts the place in front of the message.
    pub(crate) fn at(self, place: &str) -> Self {
        Self { message: format!("{place}: {}", self.message), ..self }
    }
}

impl From<ErrorDetail> for Error {
    fn from(detail: ErrorDetail) -> Self {
        Self {
            kind: ErrorKind::Refused,
            code: detail.code(),
            valid: detail.valid_start.zip(detail.valid_end),
            message: detail.message,
            retriable: detail.retriable,
            may_be_written: detail.may_be_written,
            remedy: detail.remedy,
        }
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        if !status.details().is_empty()
            && let Ok(detail) = ErrorDetail::decode(status.details())
        {
            return detail.into();
        }
        let said = match status.message() {
            "" => format!("{:?}", status.code()),
            message if FOREIGN.iter().any(|sign| message.contains(sign)) => {
                "what answers there does not speak gRPC".to_owned()
            }
            message => match std::error::Error::source(&status).map(cause) {
                Some(cause) if !message.contains(&cause) => format!("{message}: {cause}"),
                _ => message.to_owned(),
            },
        };
        match status.code() {
            // Another service, or a page of a web server.
            Code::Unimplemented
            | Code::Unavailable
            | Code::Unknown
            | Code::Cancelled
            | Code::Internal
            | Code::Aborted
            | Code::ResourceExhausted
            | Code::DeadlineExceeded => {
                Self::connection(format!("connection to the broker: {said}"))
            }
            code => {
                let message = format!("the broker refused with {code:?}: {said}");
                Self::new(ErrorKind::Refused, ErrorCode::Internal, message).maybe_written(true)
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_detail_of_a_status_wins_over_its_code() {
        let detail = ErrorDetail {
            code: ErrorCode::OffsetOutOfRange.into(),
            message: "offset 7".into(),
            valid_start: Some(10),
            valid_end: Some(20),
            ..ErrorDetail::default()
        };
        let bytes = detail.encode_to_vec();
        let error = Error::from(Status::with_details(Code::Unavailable, "x", bytes.into()));
        assert_eq!((error.kind, error.code), (ErrorKind::Refused, ErrorCode::OffsetOutOfRange));
        assert_eq!((error.valid, error.retriable), (Some((10, 20)), false));
        // A proxy in between knows nothing of details: a retry must be possible, and careful.
        let bare = Error::from(Status::unavailable("gone"));
        assert_eq!((bare.kind, bare.retriable), (ErrorKind::Connection, true));
        assert!(bare.may_be_written);
        let page =
            Error::from(Status::unimplemented("grpc-status header missing, mapped from 404"));
        assert_eq!(page.kind, ErrorKind::Connection);
        assert!(page.message.ends_with("does not speak gRPC"), "{page}");
    }
}
