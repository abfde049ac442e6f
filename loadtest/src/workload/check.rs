//! Bounds of the fields of a workload, and which of them go together.

use super::values::{Size, Span};
use super::{Verify, Workload};
use crate::error::{Error, Result};
use crate::stamp::STAMP_BYTES;

/// Partitions of all topics together: readers and chains are kept for each.
const PARTITIONS_MAX: u64 = 1_000_000;
/// One batch must fit the smallest `max.batch.bytes` that a broker may have by default.
const BATCH_BYTES_MAX: u64 = 16 << 20;

impl Workload {
    /// Names the first field that is out of bounds.
    pub fn check(&self) -> Result<()> {
        let partitions = u64::from(self.topics.count) * u64::from(self.topics.partitions);
        within("topics.count", self.topics.count.into(), 1, 10_000)?;
        within("topics.partitions", self.topics.partitions.into(), 1, 100_000)?;
        within("topics.count * topics.partitions", partitions, 1, PARTITIONS_MAX)?;
        self.check_record()?;
        self.check_produce()?;
        within("tail.subscriptions", self.tail.subscriptions.into(), 0, 64)?;
        within("tail.connections", self.tail.connections.into(), 1, 1_000)?;
        within("catch_up.connections", self.catch_up.connections.into(), 1, 1_000)?;
        check_limit("catch_up.limit", self.catch_up.limit)?;
        if self.verify == Verify::Tail && self.tail.subscriptions == 0 {
            return wrong("verify", "\"tail\" needs tail.subscriptions of at least 1");
        }
        self.check_times()
    }

    fn check_record(&self) -> Result<()> {
        let record = &self.record;
        let least = if self.is_stamped() { STAMP_BYTES as u64 } else { 1 };
        for share in self.sizes() {
            let field = if record.mix.is_empty() { "record.bytes" } else { "record.mix.bytes" };
            within(field, share.bytes.0, least, BATCH_BYTES_MAX)?;
            within("record.mix.weight", share.weight.into(), 1, 1_000)?;
            let batch = share.bytes.0 * u64::from(self.produce.batch_records);
            within("record.bytes * produce.batch_records", batch, 1, BATCH_BYTES_MAX)?;
        }
        within("record.mix", record.mix.len() as u64, 0, 64)?;
        within("record.key_count", record.key_count.into(), 1, 10_000_000)?;
        if !(0.0..=1.0).contains(&record.random) {
            return wrong("record.random", "is a share, from 0 to 1");
        }
        Ok(())
    }

    fn check_produce(&self) -> Result<()> {
        let produce = &self.produce;
        within("produce.producers", produce.producers.into(), 1, 100_000)?;
        within("produce.connections", produce.connections.into(), 1, 10_000)?;
        within("produce.batch_records", produce.batch_records.into(), 1, 1_000_000)?;
        within("produce.in_flight", produce.in_flight.0, 1 << 10, 16 << 30)?;
        within("produce.in_flight_sends", produce.in_flight_sends.into(), 1, 100_000)
    }

    fn check_times(&self) -> Result<()> {
        const YEAR: u64 = 365 * 24 * 3600 * 1000;
        let span = |field, span: Span, least| within(field, span.0.as_millis() as u64, least, YEAR);
        span("duration in ms", self.duration, 100)?;
        span("warm_up in ms", self.warm_up, 0)?;
        within("phases", self.phases.len() as u64, 0, 100)?;
        for phase in &self.phases {
            span("phases.duration in ms", phase.duration, 100)?;
            check_limit("phases.catch_up_limit", phase.catch_up_limit)?;
            if phase.catch_up && self.catch_up.bytes.0 == 0 {
                return wrong("phases.catch_up", "needs catch_up.bytes above 0");
            }
        }
        if !self.phases.is_empty() && self.phases.iter().all(|phase| phase.warm_up) {
            return wrong("phases", "are all warm-up: nothing would be measured");
        }
        let Some(search) = &self.search else { return Ok(()) };
        if !self.phases.is_empty() {
            return wrong("search", "makes its own phases: leave `phases` away");
        }
        span("search.step in ms", search.step, 100)?;
        within("search.from", search.from, 1, 1_000_000_000)?;
        within("search.to", search.to, search.from, 1_000_000_000)?;
        match (0.001..=0.5).contains(&search.precision) {
            true => Ok(()),
            false => wrong("search.precision", "is a share, from 0.001 to 0.5"),
        }
    }
}

fn check_limit(field: &str, limit: Option<Size>) -> Result<()> {
    limit.map_or(Ok(()), |limit| within(field, limit.0, 1 << 10, 1 << 40))
}

fn within(field: &str, value: u64, least: u64, most: u64) -> Result<()> {
    match (least..=most).contains(&value) {
        true => Ok(()),
        false => wrong(field, format!("is {value}; it must be {least} to {most}")),
    }
}

fn wrong<T>(field: &str, why: impl std::fmt::Display) -> Result<T> {
    Err(Error::usage(format!("workload field `{field}` {why}")))
}
