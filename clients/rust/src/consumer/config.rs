//! How a member of a group reads.

use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::reader::Position;

/// See the module.
#[derive(Debug, Clone)]
pub struct ConsumerConfig {
    pub group: Arc<str>,
    /// What to read: names, or `topic_pattern`, or both.
    pub topics: Vec<String>,
    /// A pattern of whole names of topics, those included that will be created; empty: none.
    pub topic_pattern: String,
    /// Keeps its partitions over a restart: the same id comes back before the session ends. Each
    /// member has its own; empty: none.
    pub instance_id: String,
    pub rack: String,
    /// uniform or range; empty: what the group has.
    pub assignor: String,
    /// Where to begin in a partition without an offset, or where that is gone. Default: the start.
    pub start: Position,
    /// How often to commit what `next` gave before, at the latest when partitions are revoked.
    /// `None`: the caller commits. Default 5 s.
    pub auto_commit: Option<Duration>,
    /// How long the caller may take with revoked partitions before it is out. Default 60 s.
    pub rebalance_timeout: Duration,
    /// After so long without a call of `next` the member leaves, so that others do its work.
    /// Default 5 min.
    pub poll_limit: Duration,
    /// Leave out records of aborted transactions, and wait for those that are open. Default true.
    pub read_committed: bool,
    /// Bytes that are read ahead, of all partitions together; at least 64 KiB for each. Default
    /// 32 MiB.
    pub buffer_bytes: u64,
    /// How long joining, a commit, and reading may be tried again. Default 120 s.
    pub retry_for: Duration,
    /// For people, in descriptions of the group.
    pub client_id: String,
}

/// What the broker may send ahead of one partition.
const WINDOW_MIN: u64 = 64 << 10;
const WINDOW_MAX: u64 = 8 << 20;

impl ConsumerConfig {
    pub fn new<T: Into<String>>(
        group: impl Into<Arc<str>>,
        topics: impl IntoIterator<Item = T>,
    ) -> Self {
        Self {
            group: group.into(),
            topics: topics.into_iter().map(Into::into).collect(),
            topic_pattern: String::new(),
            instance_id: String::new(),
            rack: String::new(),
            assignor: String::new(),
            start: Position::Start,
            auto_commit: Some(Duration::from_secs(5)),
            rebalance_timeout: Duration::from_secs(60),
            poll_limit: Duration::from_secs(300),
            read_committed: true,
            buffer_bytes: 32 << 20,
            retry_for: Duration::from_secs(120),
            client_id: "levee-client".to_owned(),
        }
    }

    pub(super) fn check(&self) -> Result<()> {
        let wrong = |what: &str| Err(Error::invalid(format!("consumer setting {what}")));
        if self.group.is_empty() {
            return wrong("group is empty; name the group");
        }
        if self.topics.is_empty() && self.topic_pattern.is_empty() {
            return wrong("topics and topic_pattern are both empty; say what to read");
        }
        if self.rebalance_timeout < Duration::from_millis(1) || self.poll_limit.is_zero() {
            return wrong("rebalance_timeout and poll_limit must not be zero");
        }
        if self.auto_commit.is_some_and(|every| every.is_zero()) {
            return wrong("auto_commit must not be zero; None is for callers that commit");
        }
        Ok(())
    }

    /// Of one of so many partitions.
    pub(super) fn window(&self, partitions: usize) -> u64 {
        (self.buffer_bytes / partitions.max(1) as u64).clamp(WINDOW_MIN, WINDOW_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_share_the_buffer_down_to_a_least_part() {
        let config = ConsumerConfig::new("g", ["t"]);
        assert_eq!(config.window(1), WINDOW_MAX);
        assert_eq!(config.window(32), 1 << 20);
        assert_eq!(config.window(100_000), WINDOW_MIN);
    }

    #[test]
    fn settings_that_make_no_sense_are_named() {
        let refused = |config: ConsumerConfig| config.check().unwrap_err().message;
        let none: [&str; 0] = [];
        assert!(refused(ConsumerConfig::new("", ["t"])).contains("group"));
        assert!(refused(ConsumerConfig::new("g", none)).contains("topics"));
        let zero =
            ConsumerConfig { auto_commit: Some(Duration::ZERO), ..ConsumerConfig::new("g", ["t"]) };
        assert!(refused(zero).contains("auto_commit"));
    }
}
