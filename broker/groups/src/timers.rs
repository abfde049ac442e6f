//! What must happen by itself, and when.

use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Timer {
    pub group: String,
    pub what: What,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum What {
    /// The phase of a classic group in which members join ends.
    Join,
    /// So does that in which members ask for their assignment.
    Sync,
    /// A member was not heard of for too long.
    Session(String),
    /// A member did not give back partitions in time.
    Revocation(String),
}

/// At most one of each.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    due: BTreeMap<Timer, i64>,
    queue: BTreeSet<(i64, Timer)>,
}

impl Timers {
    /// Takes the place of the one that was set. Never at once: what fires may set itself again, and
    /// a client may ask for no time at all.
    pub(crate) fn set(&mut self, group: &str, what: What, now: i64, after_ms: i32) {
        let timer = Timer { group: group.to_owned(), what };
        let at = now.saturating_add(i64::from(after_ms.max(1)));
        if let Some(before) = self.due.insert(timer.clone(), at) {
            self.queue.remove(&(before, timer.clone()));
        }
        self.queue.insert((at, timer));
    }

    pub(crate) fn cancel(&mut self, group: &str, what: What) {
        let timer = Timer { group: group.to_owned(), what };
        if let Some(at) = self.due.remove(&timer) {
            self.queue.remove(&(at, timer));
        }
    }

    pub(crate) fn cancel_all(&mut self, group: &str) {
        let first = Timer { group: group.to_owned(), what: What::Join };
        let all: Vec<Timer> = self
            .due
            .range(first..)
            .map(|(t, _)| t.clone())
            .take_while(|t| t.group == group)
            .collect();
        for timer in all {
            self.cancel(group, timer.what);
        }
    }

    pub(crate) fn next(&self) -> Option<i64> {
        self.queue.first().map(|(at, _)| *at)
    }

    pub(crate) fn take_due(&mut self, now: i64) -> Option<Timer> {
        if self.next()? > now {
            return None;
        }
        let (_, timer) = self.queue.pop_first()?;
        self.due.remove(&timer);
        Some(timer)
    }
}
