//! Partitions that transactions write to: what consumers would see of them.

use std::collections::BTreeMap;

use levee_transactions::Producer;

/// One transaction as its client means it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Work {
    pub(crate) client: usize,
    pub(crate) number: u32,
}

/// How a record was closed: by which decision (the offset of its Prepare record), and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Closed {
    pub(crate) prepare: i64,
    pub(crate) commit: bool,
}

#[derive(Debug, Default)]
struct Writer {
    epoch: i16,
    prepare: Option<i64>,
    coordinator_epoch: i32,
    open: Vec<Work>,
}

#[derive(Debug, Default)]
pub(crate) struct Partition {
    writers: BTreeMap<i64, Writer>,
    pub(crate) closed: Vec<(Work, Closed)>,
}

impl Partition {
    /// False: the producer is fenced.
    pub(crate) fn write(&mut self, producer: Producer, work: Work) -> bool {
        let writer = self.writers.entry(producer.id).or_default();
        if producer.epoch < writer.epoch {
            return false;
        }
        writer.epoch = producer.epoch;
        writer.open.push(work);
        true
    }

    pub(crate) fn mark(&mut self, producer: Producer, coordinator_epoch: i32, closed: Closed) {
        let writer = self.writers.entry(producer.id).or_default();
        let late = writer.prepare.is_some_and(|last| closed.prepare <= last);
        if late || coordinator_epoch < writer.coordinator_epoch {
            return;
        }
        assert!(
            producer.epoch >= writer.epoch,
            "a marker of {producer:?} is below what was written"
        );
        writer.epoch = producer.epoch;
        writer.prepare = Some(closed.prepare);
        writer.coordinator_epoch = coordinator_epoch;
        self.closed.extend(std::mem::take(&mut writer.open).into_iter().map(|work| (work, closed)));
    }

    pub(crate) fn open(&self) -> impl Iterator<Item = Work> {
        self.writers.values().flat_map(|writer| writer.open.iter().copied())
    }
}
