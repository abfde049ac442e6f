//! The settings that are one of some words, as types.

/// `local.flush`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LocalFlush {
    Always,
    Interval,
}

/// `message.timestamp.type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimestampType {
    CreateTime,
    LogAppendTime,
}

/// `upload.lag.policy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LagPolicy {
    Block,
    Shed,
}

/// `cleanup.policy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CleanupPolicy {
    Delete,
    Compact,
    /// Both.
    CompactDelete,
}

impl CleanupPolicy {
    /// Whether retention takes old records away.
    pub fn deletes(self) -> bool {
        self != Self::Compact
    }

    /// Whether the newest record of each key is kept and older ones go.
    pub fn compacts(self) -> bool {
        self != Self::Delete
    }
}
