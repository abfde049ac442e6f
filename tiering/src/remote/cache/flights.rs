//! One fetch for all who want the same thing at the same time.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use levee_runtime::Host;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// The outcome of a fetch, for as many as ask; `None` where its task was stopped.
pub(crate) type Flight<V> = Shared<BoxFuture<'static, Option<V>>>;

/// Told once somebody waits for a fetch that began for nobody in particular.
pub(crate) type Hurry = Arc<Notify>;

/// What is being fetched. A fetch runs on a task of its own: who gives up does not stop it for the
/// others. It is forgotten as it ends, so a failure is for those who waited and nobody else.
pub(crate) struct Flights<K, V> {
    running: Arc<Mutex<Running<K, V>>>,
}

struct Running<K, V> {
    flights: BTreeMap<K, Entry<V>>,
    next: u64,
}

struct Entry<V> {
    /// One that was given up must not end its successor.
    number: u64,
    flight: Flight<V>,
    hurry: Hurry,
}

impl<K, V> Flights<K, V>
where
    K: Ord + Clone + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    pub(crate) fn new() -> Self {
        Self { running: Arc::new(Mutex::new(Running { flights: BTreeMap::new(), next: 0 })) }
    }

    /// The fetch of `key` that is under way, or a new one; and whether it was under way.
    pub(crate) fn join<F>(
        &self,
        host: &Host,
        name: &'static str,
        key: K,
        fetch: impl FnOnce(Hurry) -> F,
    ) -> (Flight<V>, bool)
    where
        F: Future<Output = V> + Send + 'static,
    {
        let mut running = self.running.lock();
        if let Some(entry) = running.flights.get(&key) {
            return (entry.flight.clone(), true);
        }
        let number = running.next;
        running.next += 1;
        let landed = Landed { running: self.running.clone(), key: key.clone(), number };
        let hurry = Hurry::default();
        let fetch = fetch(hurry.clone());
        let task = host.spawn(name, async move {
            let out = fetch.await;
            drop(landed);
            out
        });
        let flight = task.boxed().shared();
        running.flights.insert(key, Entry { number, flight: flight.clone(), hurry });
        (flight, false)
    }

    /// Somebody waits for this fetch.
    pub(crate) fn hurry(&self, key: &K) {
        if let Some(entry) = self.running.lock().flights.get(key) {
            entry.hurry.notify_one();
        }
    }

    /// Ends the fetch of `key` before it has begun, if nobody waits for it any more.
    pub(crate) fn unwanted(&self, key: &K) -> bool {
        let mut running = self.running.lock();
        let entry = running.flights.get(key);
        let alone = entry.is_some_and(|entry| entry.flight.strong_count() == Some(1));
        if alone {
            running.flights.remove(key);
        }
        alone
    }
}

/// Forgets a fetch, however it ends.
struct Landed<K: Ord, V> {
    running: Arc<Mutex<Running<K, V>>>,
    key: K,
    number: u64,
}

impl<K: Ord, V> Drop for Landed<K, V> {
    fn drop(&mut self) {
        let mut running = self.running.lock();
        if running.flights.get(&self.key).is_some_and(|entry| entry.number == self.number) {
            running.flights.remove(&self.key);
        }
    }
}
