//! What could not be read is left out for a while, so that it does not hold the others back.

use std::collections::BTreeMap;
use std::time::Duration;

use levee_runtime::Mono;

/// The first pause; each further one is twice as long.
const FIRST: Duration = Duration::from_secs(30);
const LONGEST: Duration = Duration::from_secs(3600);

/// See the module.
pub(super) struct Aside<K>(BTreeMap<K, (Mono, Duration)>);

impl<K: Ord> Default for Aside<K> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord> Aside<K> {
    pub(super) fn holds(&self, key: &K, now: Mono) -> bool {
        self.0.get(key).is_some_and(|(since, pause)| now.since(*since) < *pause)
    }

    pub(super) fn put(&mut self, key: K, now: Mono) {
        let pause = self.0.get(&key).map_or(FIRST, |(_, pause)| (*pause * 2).min(LONGEST));
        self.0.insert(key, (now, pause));
    }

    /// They were read, or are gone.
    pub(super) fn forget(&mut self, is_fine: impl Fn(&K) -> bool) {
        self.0.retain(|key, _| !is_fine(key));
    }
}
