//! What the bucket does not have yet, batch by batch: sizes for a cut, age for the lag, and
//! producer state at any border.

use std::collections::VecDeque;
use std::time::Duration;

use levee_proto::limits::RANGE_ABORTED_MAX;
use levee_proto::object::{AbortedTxn, ProducerSnapshot};
use levee_proto::record::{BatchHeader, Marker};
use levee_runtime::Mono;

use super::producers::{Ended, Producers};
use super::tail::give_back;

/// What producer state is folded from: the marker is in no header.
type Batch = (BatchHeader, Option<Marker>);

/// Batches from `tiered_end` on, oldest first.
pub struct Untiered {
    batches: VecDeque<(Batch, Mono)>,
    bytes: u64,
    /// Producer state at `tiered_end`.
    producers: Producers,
}

/// A part of a partition that goes into one object.
#[derive(Debug, Clone, PartialEq)]
pub struct Cut {
    pub base: u64,
    pub end: u64,
    pub bytes: u64,
    /// State at `end`.
    pub producers: ProducerSnapshot,
    /// Transactions whose abort marker stands in it.
    pub aborted: Vec<AbortedTxn>,
}

impl Untiered {
    pub fn new(producers: Producers) -> Self {
        Self { batches: VecDeque::new(), bytes: 0, producers }
    }

    pub fn push(&mut self, header: BatchHeader, marker: Option<Marker>, now: Mono) {
        self.bytes += u64::from(header.bytes);
        self.batches.push_back(((header, marker), now));
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn max_timestamp(&self) -> Option<i64> {
        self.batches.iter().map(|((header, _), _)| header.max_timestamp).max()
    }

    /// Memory of what is kept of the batches, bytes.
    pub fn memory(&self) -> usize {
        self.batches.capacity() * size_of::<(Batch, Mono)>()
    }

    /// How long the oldest batch has been waiting.
    pub fn age(&self, now: Mono) -> Duration {
        self.batches.front().map_or(Duration::ZERO, |(_, since)| now.since(*since))
    }

    /// The oldest batches of one leader epoch below `durable_end`, up to `max_bytes` (at least one).
    pub fn cut(&self, max_bytes: u64, durable_end: u64) -> Option<(u32, Cut)> {
        let ((first, _), _) = self.batches.front()?;
        let epoch = first.leader_epoch;
        let mut producers = self.producers.clone();
        let (mut end, mut bytes, mut aborted) = (first.base_offset, 0, Vec::new());
        for ((header, marker), _) in &self.batches {
            let len = u64::from(header.bytes);
            let full = bytes > 0 && bytes + len > max_bytes;
            let other = header.leader_epoch != epoch;
            let told = aborted.len() == RANGE_ABORTED_MAX;
            if full || other || told || header.end_offset() > durable_end {
                break;
            }
            bytes += len;
            end = header.end_offset();
            let ended = producers.appended(header, *marker);
            aborted.extend(ended.and_then(Ended::aborted));
        }
        let (base, producers) = (first.base_offset, producers.snapshot());
        (bytes > 0).then_some((epoch, Cut { base, end, bytes, producers, aborted }))
    }

    /// Everything below `tiered_end` is covered. Gives the time of the newest batch released.
    pub fn release(&mut self, tiered_end: u64) -> Option<i64> {
        let mut newest = None;
        while let Some(((header, marker), _)) = self.batches.front() {
            if header.end_offset() > tiered_end {
                break;
            }
            self.producers.appended(header, *marker);
            self.bytes -= u64::from(header.bytes);
            // A marker carries the broker's time, not that of the log.
            if !header.is_control() {
                newest = Some(header.max_timestamp);
            }
            self.batches.pop_front();
        }
        give_back(&mut self.batches);
        newest
    }

    /// Forgets producers whose newest record is older, as the partition itself did.
    pub fn expire(&mut self, before_ms: i64) {
        self.producers.expire(before_ms);
    }
}
