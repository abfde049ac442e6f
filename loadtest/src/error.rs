//! What ends a command early, and the exit code it ends with.

use std::fmt;

use levee_client::grpc::ErrorCode;

/// How the process ends; documented in `levee-loadtest --help`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Done = 0,
    /// The target failed, or a report could not be written.
    Failed = 1,
    /// The command, the workload or the target is named wrongly.
    Usage = 2,
    /// Records were lost, duplicated, reordered or changed, or cannot be read for damage.
    Wrong = 3,
    /// A comparison found a regression.
    Regression = 4,
    /// As shells count an interrupted process.
    Interrupted = 130,
}

/// One sentence for people, with what to do next where that is known.
#[derive(Debug, Clone)]
pub struct Error {
    pub exit: Exit,
    message: String,
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub fn usage(message: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, message: message.into() }
    }

    pub fn failed(message: impl Into<String>) -> Self {
        Self { exit: Exit::Failed, message: message.into() }
    }

    pub fn wrong(message: impl Into<String>) -> Self {
        Self { exit: Exit::Wrong, message: message.into() }
    }

    /// Puts the place in front of the message.
    pub fn at(self, place: impl fmt::Display) -> Self {
        Self { message: format!("{place}: {}", self.message), ..self }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl From<levee_client::Error> for Error {
    fn from(error: levee_client::Error) -> Self {
        match error.code {
            ErrorCode::CorruptData => Self::wrong(error.to_string()),
            _ => Self::failed(error.to_string()),
        }
    }
}
