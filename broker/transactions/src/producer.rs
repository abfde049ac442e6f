//! Producer ids and epochs.

/// Who produces: an id, and how often it was taken over or renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Producer {
    pub id: i64,
    pub epoch: i16,
}

/// The last epoch that a producer is given. The one above it is only for the markers that end its
/// last transaction.
pub(crate) const LAST_EPOCH: i16 = i16::MAX - 1;

impl Producer {
    pub(crate) fn first(id: i64) -> Self {
        Self { id, epoch: 0 }
    }

    /// The id has no epoch left: what comes next needs another id.
    pub(crate) fn is_exhausted(self) -> bool {
        self.epoch >= LAST_EPOCH
    }

    pub(crate) fn bumped(self) -> Self {
        Self { id: self.id, epoch: self.epoch.saturating_add(1) }
    }
}
