//! What the records of a producer have in common that sends them in one transaction.

use std::sync::{Arc, OnceLock};

use tokio::sync::oneshot;

use crate::error::{Error, Result};

/// One transaction: all of its records, or none.
#[derive(Debug)]
pub(crate) struct Together {
    pub(crate) transactional_id: Arc<str>,
    /// Why it cannot be committed: the first record that was not delivered.
    failed: OnceLock<Error>,
}

impl Together {
    pub(crate) fn new(transactional_id: Arc<str>) -> Arc<Self> {
        Arc::new(Self { transactional_id, failed: OnceLock::new() })
    }

    pub(crate) fn failed(&self) -> Option<&Error> {
        self.failed.get()
    }
}

/// Tells the tickets of a batch what became of it, once.
pub(super) struct Told {
    tickets: oneshot::Sender<Result<u64>>,
    together: Option<Arc<Together>>,
}

impl Told {
    pub(super) fn new(
        tickets: oneshot::Sender<Result<u64>>,
        together: Option<Arc<Together>>,
    ) -> Self {
        Self { tickets, together }
    }

    pub(super) fn tell(self, outcome: Result<u64>) {
        if let (Err(error), Some(together)) = (&outcome, &self.together) {
            let _ = together.failed.set(error.clone());
        }
        let _ = self.tickets.send(outcome);
    }
}
