//! What could not be read is left out for a while, so that it does not hold the others back.

use std::collections::BTreeMap;
use std::time::Duration;

use levee_runtime::Mono;

/// The first pause; each further one is twice as long.
const FIRST: Duration = Duration::from_secs(30);

/// See the module.
pub(crate) struct Aside<K> {
    longest: Duration,
    left_out: BTreeMap<K, (Mono, Duration)>,
}

impl<K: Ord> Aside<K> {
    pub(crate) fn new(longest: Duration) -> Self {
        Self { longest, left_out: BTreeMap::new() }
    }

    pub(crate) fn holds(&self, key: &K, now: Mono) -> bool {
        self.left_out.get(key).is_some_and(|(since, pause)| now.since(*since) < *pause)
    }

    pub(crate) fn put(&mut self, key: K, now: Mono) {
        let pause = self.left_out.get(&key).map_or(FIRST, |(_, pause)| *pause * 2);
        self.left_out.insert(key, (now, pause.min(self.longest)));
    }

    /// How many were put aside and not forgotten since.
    pub(crate) fn len(&self) -> usize {
        self.left_out.len()
    }

    /// Forgets what was read since, or is gone.
    pub(crate) fn retain(&mut self, still_matters: impl Fn(&K) -> bool) {
        self.left_out.retain(|key, _| still_matters(key));
    }
}
