//! Why something of a client is tried again: for those who wait and want to know.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::error::Error;

/// What the producers and readers of one client suffer from. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Troubles {
    shared: Arc<Shared>,
}

struct Shared {
    /// Of the broker.
    address: Box<str>,
    present: Mutex<Present>,
    /// One of the present ones.
    shown: watch::Sender<Option<Error>>,
}

#[derive(Default)]
struct Present {
    next_number: u64,
    of: BTreeMap<u64, Error>,
}

/// What one of them, a partition's worker or a reader, suffers from: that another one is answered
/// says nothing of it. Over when it is dropped.
pub(crate) struct Trouble {
    number: u64,
    is_told: bool,
    shared: Arc<Shared>,
}

impl Troubles {
    pub(crate) fn new(address: &str) -> Self {
        let (present, shown) = (Mutex::default(), watch::Sender::new(None));
        Self { shared: Arc::new(Shared { address: address.into(), present, shown }) }
    }

    /// For another one that may have trouble.
    pub(crate) fn of_one(&self) -> Trouble {
        let mut present = self.shared.present.lock();
        let number = present.next_number;
        present.next_number += 1;
        Trouble { number, is_told: false, shared: self.shared.clone() }
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Option<Error>> {
        self.shared.shown.subscribe()
    }
}

impl Trouble {
    /// Of the broker.
    pub(crate) fn address(&self) -> &str {
        &self.shared.address
    }

    pub(crate) fn is(&mut self, error: &Error) {
        self.is_told = true;
        let mut present = self.shared.present.lock();
        present.of.insert(self.number, error.clone());
        // Under the lock, so that the last word is that of the last change.
        self.shared.shown.send_replace(Some(error.clone()));
    }

    /// Something was answered, or nothing is tried any more.
    pub(crate) fn is_over(&mut self) {
        // Asked at every answer.
        if std::mem::take(&mut self.is_told) {
            let mut present = self.shared.present.lock();
            present.of.remove(&self.number);
            self.shared.shown.send_replace(present.of.values().next().cloned());
        }
    }

    /// Puts the present trouble behind an error of time that was over.
    pub(crate) fn explain(&self, error: Error) -> Error {
        match self.shared.present.lock().of.get(&self.number) {
            None => error,
            Some(why) => {
                let message = format!("{}; {}: {}", error.message, self.address(), why.message);
                Error { message, ..error }
            }
        }
    }
}

impl Drop for Trouble {
    fn drop(&mut self) {
        self.is_over();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_lasts_until_all_that_have_it_are_answered_or_gone() {
        let all = Troubles::new("b:1");
        let shown = all.watch();
        let what = |shown: &watch::Receiver<Option<Error>>| {
            shown.borrow().as_ref().map(|error| error.message.clone())
        };
        let (mut one, mut other) = (all.of_one(), all.of_one());
        one.is(&Error::connection("one"));
        other.is(&Error::connection("other"));
        other.is_over();
        assert_eq!(what(&shown).as_deref(), Some("one"));
        let over = Error::connection("over");
        assert_eq!(one.explain(over.clone()).message, "over; b:1: one");
        assert_eq!(other.explain(over).message, "over", "that of another one explains nothing");
        drop(one);
        assert_eq!(what(&shown), None);
    }
}
