//! Numbers of this session's objects: each used once, and the floor below which all are settled.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;

/// See the module.
#[derive(Default, Clone)]
pub struct Numbers {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    next: u64,
    /// Taken, and neither referenced nor given up.
    open: BTreeSet<u64>,
}

/// A number in use; given up when dropped.
pub struct Number {
    seq: u64,
    inner: Arc<Mutex<Inner>>,
    held: bool,
}

impl Numbers {
    pub fn take(&self) -> Number {
        let mut inner = self.inner.lock();
        let seq = inner.next;
        inner.next += 1;
        inner.open.insert(seq);
        Number { seq, inner: self.inner.clone(), held: false }
    }

    /// The object is verified; its number stays open until its reference is committed or refused.
    pub fn hold(&self, mut number: Number) {
        number.held = true;
    }

    /// The reference of this object is committed, or never will be.
    pub fn settle(&self, seq: u64) {
        self.inner.lock().open.remove(&seq);
    }

    /// Objects of this session below it are referenced or garbage.
    pub fn floor(&self) -> u64 {
        let inner = self.inner.lock();
        inner.open.first().copied().unwrap_or(inner.next)
    }
}

impl Number {
    pub fn seq(&self) -> u64 {
        self.seq
    }
}

impl Drop for Number {
    fn drop(&mut self) {
        if !self.held {
            self.inner.lock().open.remove(&self.seq);
        }
    }
}
