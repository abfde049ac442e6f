//! What is wrong with a setting: its name, the value, where it came from, and what to do.

use std::fmt;

use super::problem::Problem;
use super::setting::{Kind, Setting};
use super::values::Origin;

/// See the module. One sentence for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// Empty where a file cannot be read at all.
    pub setting: String,
    /// As written, shortened, without secrets.
    pub value: Option<String>,
    pub origin: Origin,
    pub problem: String,
    pub remedy: String,
}

impl ConfigError {
    pub(super) fn new(
        setting: &str,
        origin: Origin,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let (problem, remedy) = (problem.into(), remedy.into());
        Self { setting: shorten(setting), value: None, origin, problem, remedy }
    }

    pub(super) fn unknown(name: &str, origin: Origin, near: Option<String>) -> Self {
        let remedy = match near {
            Some(near) => format!("did you mean {near}?"),
            None => "`levee config explain` lists all of them".into(),
        };
        Self::new(name, origin, "is not a setting", remedy)
    }

    pub(super) fn bad_value(
        setting: &Setting,
        text: &str,
        origin: Origin,
        problem: Problem,
    ) -> Self {
        let name = match origin {
            Origin::Topic => setting.name.to_owned(),
            _ => setting.broker_name(),
        };
        // What is not even a URL may still hold a secret.
        let value = (setting.kind != Kind::Url).then(|| shorten(text));
        let remedy = format!("{} (default: {})", problem.remedy, setting.default_text());
        Self { value, ..Self::new(&name, origin, problem.problem, remedy) }
    }
}

/// Names and values may come from strangers and end in logs.
fn shorten(text: &str) -> String {
    const CHARS_MAX: usize = 80;
    match text.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

impl ConfigError {
    /// What is wrong, without what to do.
    pub fn what(&self) -> String {
        let value = self.value.as_ref().map_or_else(String::new, |value| format!("={value:?}"));
        let origin = match (&self.origin, self.setting.is_empty()) {
            (Origin::Default, _) => String::new(),
            (origin, true) => format!("{origin}:"),
            (origin, false) => format!(" ({origin})"),
        };
        format!("{}{value}{origin} {}", self.setting, self.problem)
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what(), self.remedy)
    }
}

impl std::error::Error for ConfigError {}
