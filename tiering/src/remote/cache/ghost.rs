//! What was fetched from the bucket a while ago, by fingerprint alone: who comes back in time has
//! shown that it is used again.

use std::collections::{BTreeSet, VecDeque};

/// Bounded by entries, each about 40 bytes; the oldest goes first.
#[derive(Default)]
pub(super) struct Ghost {
    order: VecDeque<u64>,
    known: BTreeSet<u64>,
}

impl Ghost {
    /// Whether it is remembered; remembers it, and no more than `room` in all.
    pub(super) fn seen(&mut self, fingerprint: u64, room: usize) -> bool {
        let seen = !self.known.insert(fingerprint);
        if !seen {
            self.order.push_back(fingerprint);
        }
        while self.order.len() > room {
            if let Some(oldest) = self.order.pop_front() {
                self.known.remove(&oldest);
            }
        }
        seen
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_holds_as_many_as_it_has_room_for() {
        let mut ghost = Ghost::default();
        assert!((0..10).all(|n| !ghost.seen(n, 4)));
        assert!((6..10).all(|n| ghost.seen(n, 4)));
        assert!(!ghost.seen(0, 4), "too long ago");
        assert!(ghost.known.len() <= 4 && ghost.order.len() <= 4);
    }
}
