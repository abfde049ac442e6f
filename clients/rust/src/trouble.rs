//! Why something of a client is tried again: for those who wait and want to know.

use std::sync::Arc;

use tokio::sync::watch;

use crate::error::Error;

/// Told by the producers and readers of one client. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Trouble {
    address: Arc<str>,
    now: watch::Sender<Option<Error>>,
}

impl Trouble {
    pub(crate) fn new(address: &str) -> Self {
        Self { address: address.into(), now: watch::Sender::new(None) }
    }

    /// Of the broker.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn is(&self, error: &Error) {
        self.now.send_replace(Some(error.clone()));
    }

    /// Something was answered.
    pub(crate) fn is_over(&self) {
        if self.now.borrow().is_some() {
            self.now.send_replace(None);
        }
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Option<Error>> {
        self.now.subscribe()
    }

    /// Puts the present trouble behind an error of time that was over.
    pub(crate) fn explain(&self, error: Error) -> Error {
        match &*self.now.borrow() {
            None => error,
            Some(why) => {
                let message = format!("{}; {}: {}", error.message, self.address, why.message);
                Error { message, ..error }
            }
        }
    }
}
