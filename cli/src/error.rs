//! How a command fails: one sentence, the next step, an exit code.

use std::fmt;
use std::io;
use std::process::ExitCode;

use levee_broker::config::ConfigError;

/// See the module.
#[derive(Debug)]
pub enum CliError {
    /// Exit code 1.
    Failed { message: String, next_step: Option<String> },
    /// What was asked for makes no sense: exit code 2, as clap's own errors.
    Usage(String),
    /// A server does not answer or denies: exit code 3.
    Unreachable(String),
    /// Whoever read our output went away: not an error of ours.
    ClosedPipe,
}

impl CliError {
    pub fn new(message: impl Into<String>) -> Self {
        Self::Failed { message: message.into(), next_step: None }
    }

    /// What a person can do now.
    #[must_use]
    pub fn next_step(self, step: impl Into<String>) -> Self {
        match self {
            Self::Failed { message, .. } => Self::Failed { message, next_step: Some(step.into()) },
            other => other,
        }
    }

    /// Says it on standard error and gives the exit code.
    pub fn end(self) -> ExitCode {
        let code = match self {
            Self::ClosedPipe => return ExitCode::SUCCESS,
            Self::Failed { .. } => 1,
            Self::Usage(_) => 2,
            Self::Unreachable(_) => 3,
        };
        eprintln!("levee: {self}");
        ExitCode::from(code)
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed { message, next_step: None }
            | Self::Usage(message)
            | Self::Unreachable(message) => f.write_str(message),
            Self::Failed { message, next_step: Some(step) } => write!(f, "{message}\n  {step}"),
            Self::ClosedPipe => f.write_str("the reader of the output went away"),
        }
    }
}

impl std::error::Error for CliError {}

impl From<io::Error> for CliError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::ClosedPipe,
            _ => Self::new(error.to_string()),
        }
    }
}

impl From<ConfigError> for CliError {
    fn from(error: ConfigError) -> Self {
        Self::Usage(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_pipe_is_success_and_usage_is_not_failure() {
        let closed = CliError::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert!(matches!(closed, CliError::ClosedPipe));
        assert_eq!(format!("{:?}", closed.end()), format!("{:?}", ExitCode::SUCCESS));
        let usage = CliError::Usage("no".into()).next_step("ignored").end();
        assert_eq!(format!("{usage:?}"), format!("{:?}", ExitCode::from(2)));
    }
}
