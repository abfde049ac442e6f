//! What went wrong, and what a caller may conclude from it.

use std::fmt;

use levee_proto::grpc::{ErrorCode, ErrorDetail};
use prost::Message;
use tonic::{Code, Status};

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
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

pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>, retriable: bool) -> Self {
        Self {
            code,
            message: message.into(),
            retriable,
            may_be_written: false,
            remedy: String::new(),
            valid: None,
        }
    }

    /// The way to the broker failed; nothing is known of what was under way.
    pub(crate) fn connection(message: impl Into<String>) -> Self {
        let error = Self::new(ErrorCode::ErrorUnspecified, message, true);
        Self { may_be_written: true, remedy: "check that the broker runs".into(), ..error }
    }

    pub(crate) fn closed() -> Self {
        Self::new(ErrorCode::InvalidArgument, "the producer is closed", false)
    }
}

impl From<ErrorDetail> for Error {
    fn from(detail: ErrorDetail) -> Self {
        Self {
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
        if let Ok(detail) = ErrorDetail::decode(status.details())
            && !status.details().is_empty()
        {
            return detail.into();
        }
        match status.code() {
            Code::Unavailable
            | Code::Unknown
            | Code::Cancelled
            | Code::Internal
            | Code::Aborted => {
                Self::connection(format!("connection to the broker: {}", status.message()))
            }
            Code::DeadlineExceeded => Self::new(ErrorCode::TimedOut, status.message(), true),
            code => {
                Self::new(ErrorCode::Internal, format!("{code:?}: {}", status.message()), false)
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
