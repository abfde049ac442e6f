//! The outcome of a batch, shared by the tickets of its records.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::FutureExt;
use futures::future::Shared;
use tokio::sync::oneshot;

use crate::error::{Error, Result};

/// Resolves to the offset of the batch's first record.
pub(super) type Outcome = Shared<oneshot::Receiver<Result<u64>>>;

pub(super) fn outcome() -> (oneshot::Sender<Result<u64>>, Outcome) {
    let (told, outcome) = oneshot::channel();
    (told, outcome.shared())
}

/// Resolves to the record's offset once it is acknowledged. Dropping it changes nothing.
#[derive(Clone)]
pub struct Ticket {
    outcome: Outcome,
    /// Of the record in its batch.
    index: u32,
}

impl Ticket {
    pub(super) fn new(outcome: Outcome, index: u32) -> Self {
        Self { outcome, index }
    }
}

impl Future for Ticket {
    type Output = Result<u64>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let told = ready!(self.outcome.poll_unpin(cx)).unwrap_or_else(|_| Err(Error::closed()));
        Poll::Ready(told.map(|first| first + u64::from(self.index)))
    }
}
