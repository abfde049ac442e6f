//! What is wrong with a value.

/// Why a text is not a value, and what to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub problem: String,
    pub remedy: String,
}
