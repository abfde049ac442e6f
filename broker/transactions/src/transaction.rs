//! One transactional id: the part of it that is in the log.

use std::collections::{BTreeMap, BTreeSet};

use crate::producer::Producer;

/// Partitions by topic.
pub type Partitions = BTreeMap<String, BTreeSet<i32>>;

/// Kafka's states, with the numbers that stand in the log.
///
/// `Dead` and `PrepareEpochFence` are states of Kafka's memory while a record is on its way to the
/// log. Here memory changes at once, so they are only names that clients may filter by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(i8)]
pub enum State {
    Empty = 0,
    Ongoing = 1,
    PrepareCommit = 2,
    PrepareAbort = 3,
    CompleteCommit = 4,
    CompleteAbort = 5,
    Dead = 6,
    PrepareEpochFence = 7,
}

impl State {
    const ALL: [Self; 8] = [
        Self::Empty,
        Self::Ongoing,
        Self::PrepareCommit,
        Self::PrepareAbort,
        Self::CompleteCommit,
        Self::CompleteAbort,
        Self::Dead,
        Self::PrepareEpochFence,
    ];

    /// As Kafka's tools show it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::Ongoing => "Ongoing",
            Self::PrepareCommit => "PrepareCommit",
            Self::PrepareAbort => "PrepareAbort",
            Self::CompleteCommit => "CompleteCommit",
            Self::CompleteAbort => "CompleteAbort",
            Self::Dead => "Dead",
            Self::PrepareEpochFence => "PrepareEpochFence",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }

    /// Of a record: only states that are written there.
    pub(crate) fn from_log(number: i8) -> Option<Self> {
        let written = |state: &Self| !matches!(state, Self::Dead | Self::PrepareEpochFence);
        Self::ALL.into_iter().filter(written).find(|state| *state as i8 == number)
    }

    pub(crate) fn is_prepared(self) -> bool {
        matches!(self, Self::PrepareCommit | Self::PrepareAbort)
    }
}

/// How a transaction ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Commit,
    Abort,
}

impl Outcome {
    pub(crate) fn is_commit(self) -> bool {
        self == Self::Commit
    }

    pub(crate) fn prepared(self) -> State {
        match self {
            Self::Commit => State::PrepareCommit,
            Self::Abort => State::PrepareAbort,
        }
    }

    pub(crate) fn completed(self) -> State {
        match self {
            Self::Commit => State::CompleteCommit,
            Self::Abort => State::CompleteAbort,
        }
    }
}

/// What the log says of one transactional id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Transaction {
    pub(crate) producer: Producer,
    /// What the same producer was called until its last epoch came: it may not know the new one
    /// yet, as the answer may have been lost. None where another took over, which fences the one
    /// before for good, and from the first partition on, which proves that the new epoch is known.
    pub(crate) before: Option<Producer>,
    /// The id that follows when the markers are written, where the epochs of this one are used up.
    pub(crate) next_id: Option<i64>,
    pub(crate) timeout_ms: i32,
    pub(crate) state: State,
    pub(crate) partitions: Partitions,
    /// -1 before the first transaction.
    pub(crate) started_ms: i64,
    pub(crate) updated_ms: i64,
    /// The protocol that the client spoke last: 2 has an epoch for each transaction (KIP-890).
    pub(crate) client_version: i16,
}

/// Who a request says it comes from, as this transactional id sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    Current,
    /// The same producer, by the name that it had until its last epoch.
    Before,
    /// The same producer, by the name that it gets when the markers are written.
    Next,
    Fenced,
    Stranger,
}

impl Transaction {
    pub(crate) fn standing(&self, asks: Producer) -> Standing {
        let next = self.next_id.map(Producer::first);
        match Some(asks) {
            asks if asks == Some(self.producer) => Standing::Current,
            asks if asks == self.before => Standing::Before,
            asks if asks == next => Standing::Next,
            _ if asks.id == self.producer.id => Standing::Fenced,
            _ if self.before.is_some_and(|before| before.id == asks.id) => Standing::Fenced,
            _ => Standing::Stranger,
        }
    }

    pub(crate) fn outcome(&self) -> Option<Outcome> {
        match self.state {
            State::PrepareCommit | State::CompleteCommit => Some(Outcome::Commit),
            State::PrepareAbort | State::CompleteAbort => Some(Outcome::Abort),
            _ => None,
        }
    }

    /// When it has to be looked at: a transaction that takes too long, an id that nobody uses.
    pub(crate) fn due_ms(&self, expiration_ms: i64) -> Option<i64> {
        match self.state {
            State::Ongoing => {
                let end = self.started_ms.saturating_add(i64::from(self.timeout_ms));
                Some(end.saturating_add(1))
            }
            State::PrepareCommit | State::PrepareAbort => None,
            _ => Some(self.updated_ms.saturating_add(expiration_ms)),
        }
    }
}
