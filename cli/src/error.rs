//! How a command fails: one sentence, the next step, an exit code.

use std::fmt;
use std::io;
use std::process::ExitCode;

use levee_broker::config::ConfigError;
use levee_client::Error;
use levee_tiering::store::StoreError;

use crate::codes::{Code, Exit};
use crate::output::note;

/// See the module.
#[derive(Debug, PartialEq, Eq)]
pub enum CliError {
    Failed {
        code: Code,
        message: String,
        next_step: Option<String>,
    },
    /// Everybody knows already: the reader of our output went away, or a person ended a command
    /// that never ends by itself.
    Silent(Exit),
}

impl CliError {
    /// The reader of the output went away: not an error of ours.
    pub const CLOSED_PIPE: Self = Self::Silent(Exit::Ok);

    pub fn of(code: Code, message: impl Into<String>) -> Self {
        Self::Failed { code, message: message.into(), next_step: None }
    }

    pub fn new(message: impl Into<String>) -> Self {
        Self::of(Code::Failed, message)
    }

    /// What was asked for makes no sense.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::of(Code::Usage, message)
    }

    /// What a person can do now.
    #[must_use]
    pub fn next_step(self, step: impl Into<String>) -> Self {
        match self {
            Self::Failed { code, message, .. } => {
                Self::Failed { code, message, next_step: Some(step.into()) }
            }
            other => other,
        }
    }

    /// Puts the place in front of the message.
    #[must_use]
    pub fn at(self, place: impl fmt::Display) -> Self {
        match self {
            Self::Failed { code, message, next_step } => {
                Self::Failed { code, message: format!("{place}: {message}"), next_step }
            }
            other => other,
        }
    }

    pub fn message(&self) -> &str {
        match self {
            Self::Failed { message, .. } => message,
            Self::Silent(_) => "",
        }
    }

    pub fn exit(&self) -> Exit {
        match self {
            Self::Silent(exit) => *exit,
            Self::Failed { code, .. } => code.explanation().exit,
        }
    }

    /// Says it on standard error.
    pub fn say(&self) {
        if let Self::Failed { .. } = self {
            note(self);
        }
    }
}

impl From<CliError> for ExitCode {
    fn from(error: CliError) -> Self {
        Self::from(error.exit() as u8)
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Failed { code, message, next_step } = self else { return Ok(()) };
        f.write_str(message)?;
        // These two say nothing that the message does not.
        if !matches!(code, Code::Failed | Code::Usage) {
            write!(f, " ({})", code.explanation().name)?;
        }
        match next_step {
            Some(step) => write!(f, "\n  {step}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for CliError {}

impl From<io::Error> for CliError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::CLOSED_PIPE,
            _ => Self::of(Code::LocalFile, error.to_string()),
        }
    }
}

impl From<ConfigError> for CliError {
    fn from(error: ConfigError) -> Self {
        Self::of(Code::InvalidConfig, error.to_string())
    }
}

impl From<StoreError> for CliError {
    fn from(error: StoreError) -> Self {
        Self::of(Code::StoreUnavailable, error.to_string())
    }
}

impl From<Error> for CliError {
    fn from(error: Error) -> Self {
        let code = Code::from(&error);
        let failed = Self::of(code, error.message);
        match (error.remedy.as_str(), code) {
            // What is wrong with an argument says what to write.
            ("", Code::InvalidArgument | Code::Usage) => failed,
            ("", code) => failed.next_step(code.explanation().remedy),
            (remedy, _) => failed.next_step(remedy),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_pipe_is_success_and_a_name_stands_where_it_helps() {
        let closed = CliError::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!((closed.exit(), closed.to_string().as_str()), (Exit::Ok, ""));
        let failed = CliError::of(Code::NoBroker, "nobody").at("there").next_step("look");
        assert_eq!(failed.to_string(), "there: nobody (NO_BROKER)\n  look");
        assert_eq!(failed.exit() as u8, 3);
        assert_eq!(CliError::usage("no").to_string(), "no");
        assert_eq!(CliError::usage("no").exit() as u8, 2);
    }
}
