//! The offset ladder of one partition: the only place that moves its offsets, and asserts them.

/// All `_end` are exclusive. Asserted after every change, in release too:
/// `log_start <= tiered_end <= durable_end <= log_end`, `local_start <= tiered_end`,
/// `log_start <= last_stable <= high_watermark <= durable_end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ladder {
    log_start: u64,
    last_stable: u64,
    local_start: u64,
    tiered_end: u64,
    durable_end: u64,
    log_end: u64,
}

impl Ladder {
    /// A new leader: everything below `start` is durable and readable from the bucket; `unstable`
    /// is where the oldest open transaction begins.
    pub fn new(log_start: u64, start: u64, unstable: Option<u64>) -> Self {
        let ladder = Self {
            log_start,
            last_stable: unstable.map_or(start, |first| first.min(start)).max(log_start),
            local_start: start,
            tiered_end: start,
            durable_end: start,
            log_end: start,
        };
        ladder.assert();
        ladder
    }

    pub fn log_start(&self) -> u64 {
        self.log_start
    }
    /// First offset in memory or on this disk.
    pub fn local_start(&self) -> u64 {
        self.local_start
    }
    /// Below: covered by committed references, or deleted.
    pub fn tiered_end(&self) -> u64 {
        self.tiered_end
    }
    pub fn durable_end(&self) -> u64 {
        self.durable_end
    }
    pub fn log_end(&self) -> u64 {
        self.log_end
    }
    /// First offset that readers of committed records do not see.
    pub fn last_stable(&self) -> u64 {
        self.last_stable
    }
    /// First offset that readers do not see. One leader, no followers: all that is durable.
    pub fn high_watermark(&self) -> u64 {
        self.durable_end
    }

    /// Offsets up to `end` were given to records.
    pub fn assign(&mut self, end: u64) {
        assert!(end >= self.log_end, "log_end {} would go back to {end}", self.log_end);
        self.log_end = end;
        self.assert();
    }

    /// Everything below `end` is durable (I9: never goes back); `unstable` is where the oldest
    /// transaction begins whose end is not.
    pub fn durable(&mut self, end: u64, unstable: Option<u64>) {
        assert!(end >= self.durable_end, "durable_end {} back to {end}", self.durable_end);
        self.durable_end = end;
        // The log may start inside of a transaction.
        let stable = unstable.map_or(end, |first| first.min(end)).max(self.log_start);
        assert!(stable >= self.last_stable, "last_stable {} back to {stable}", self.last_stable);
        self.last_stable = stable;
        self.assert();
    }

    /// Everything below `end` is covered by committed references (I10).
    pub fn tiered(&mut self, end: u64) {
        self.tiered_end = self.tiered_end.max(end);
        self.assert();
    }

    /// Local copies below `start` are gone.
    pub fn dropped_local(&mut self, start: u64) {
        self.local_start = self.local_start.max(start);
        self.assert();
    }

    /// Offsets below `start` are deleted, and the deletion is committed (I19).
    pub fn delete_below(&mut self, start: u64) {
        self.log_start = self.log_start.max(start);
        self.tiered_end = self.tiered_end.max(self.log_start);
        self.last_stable = self.last_stable.max(self.log_start);
        self.assert();
    }

    fn assert(&self) {
        assert!(
            self.log_start <= self.tiered_end
                && self.tiered_end <= self.durable_end
                && self.durable_end <= self.log_end
                && self.local_start <= self.tiered_end
                && self.log_start <= self.last_stable
                && self.last_stable <= self.durable_end,
            "offset ladder broken: {self:?}"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::Ladder;

    #[test]
    fn deleted_counts_as_tiered() {
        let mut ladder = Ladder::new(0, 10, None);
        ladder.assign(30);
        ladder.durable(30, None);
        ladder.delete_below(20);
        assert_eq!((ladder.log_start(), ladder.tiered_end()), (20, 20));
    }

    #[test]
    fn an_open_transaction_holds_committed_readers_until_its_end_or_deletion() {
        let mut ladder = Ladder::new(0, 10, Some(4));
        assert_eq!(ladder.last_stable(), 4);
        ladder.assign(30);
        ladder.durable(20, Some(4));
        assert_eq!((ladder.last_stable(), ladder.high_watermark()), (4, 20));
        ladder.delete_below(12);
        assert_eq!(ladder.last_stable(), 12, "the log starts inside of it");
        ladder.durable(25, Some(4));
        assert_eq!(ladder.last_stable(), 12);
        ladder.durable(26, Some(28));
        assert_eq!(ladder.last_stable(), 26, "the next one is not durable yet");
        ladder.durable(30, Some(28));
        assert_eq!(ladder.last_stable(), 28);
        assert_eq!(Ladder::new(7, 10, Some(4)).last_stable(), 7);
    }

    #[test]
    #[should_panic(expected = "offset ladder broken")]
    fn nothing_is_tiered_before_it_is_durable() {
        let mut ladder = Ladder::new(0, 0, None);
        ladder.assign(5);
        ladder.tiered(5);
    }

    #[test]
    #[should_panic(expected = "back to 3")]
    fn durable_end_never_goes_back() {
        let mut ladder = Ladder::new(0, 0, None);
        ladder.assign(5);
        ladder.durable(4, None);
        ladder.durable(3, None);
    }
}
