//! What one check found.

use std::fmt;

use serde_json::{Value, json};

use crate::codes::Code;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Ok,
    Warn,
    Fail,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) check: &'static str,
    pub(super) state: State,
    found: String,
    remedy: Option<String>,
    /// What a failure ends the command with.
    pub(super) code: Code,
}

impl Finding {
    pub(super) fn ok(check: &'static str, found: impl Into<String>) -> Self {
        let (state, code) = (State::Ok, Code::CheckFailed);
        Self { check, state, found: found.into(), remedy: None, code }
    }

    pub(super) fn warn(
        check: &'static str,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { state: State::Warn, remedy: Some(remedy.into()), ..Self::ok(check, found) }
    }

    pub(super) fn fail(
        check: &'static str,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { state: State::Fail, ..Self::warn(check, found, remedy) }
    }

    pub(super) fn because(self, code: Code) -> Self {
        Self { code, ..self }
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "check": self.check,
            "state": self.state.name(),
            "found": self.found,
            "remedy": self.remedy,
        })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<5} {:<11} {}", self.state.name(), self.check, self.found)?;
        match &self.remedy {
            Some(remedy) => write!(f, "\n{:18}-> {remedy}", ""),
            None => Ok(()),
        }
    }
}
