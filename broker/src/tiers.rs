//! What is in the bucket, as this broker knows it: index, footers, reads, uploads.
//!
//! Owns: the numbers of this session's objects, and producer state as objects tell it. Does not
//! own: when something is uploaded (`offload`), what is referenced (the MetaLog).

mod numbers;

use std::collections::BTreeMap;
use std::sync::Arc;

use levee_proto::ids::{LaneId, PartitionId, SessionId, Writer};
use levee_proto::keys;
use levee_proto::metalog::{LaneKind, ObjectRef};
use levee_proto::object::{Footer, Index, Level};
use levee_runtime::Host;
use levee_tiering::metalog::MetaState;
use levee_tiering::remote::{Footers, FootersError, ReadConfig, RemoteIndex, RemoteReader};
use levee_tiering::store::Store;
use levee_tiering::store::transfer::Progress;
use levee_tiering::upload::{Part, Planned, UploadError};
use parking_lot::Mutex;

use crate::config::BrokerConfig;
use crate::error::Error;
use crate::partition::producers::Producers;
pub use numbers::Numbers;

/// Memory for decoded footers.
const FOOTER_MEMORY: u64 = 32 << 20;

/// See the module.
pub struct Tiers {
    host: Host,
    store: Store,
    writer: Writer,
    progress: Progress,
    verify_data: bool,
    pub index: Arc<RemoteIndex>,
    pub reader: RemoteReader,
    footers: Arc<Footers>,
    pub numbers: Numbers,
    /// Ends and producer state as slots of closed lanes tell it.
    slots: Mutex<BTreeMap<PartitionId, (u64, Producers)>>,
}

impl From<FootersError> for Error {
    fn from(error: FootersError) -> Self {
        match error {
            FootersError::Store(error) => Self::store_unavailable(error),
            FootersError::Format { .. } | FootersError::Missing(_) => Self::corrupt_data(error),
        }
    }
}

impl Tiers {
    pub fn open(host: &Host, store: &Store, config: &BrokerConfig, session: SessionId) -> Self {
        let index = Arc::new(RemoteIndex::default());
        let footers = Arc::new(Footers::new(store.clone(), FOOTER_MEMORY));
        let read = ReadConfig {
            cache_bytes: config.cache_bytes,
            chunk_bytes: config.cache_chunk_bytes,
            readahead_bytes: config.readahead_bytes,
        };
        let (at, kept) = (index.clone(), footers.clone());
        Self {
            host: host.clone(),
            store: store.clone(),
            writer: Writer::session(session),
            progress: Progress {
                deadline: config.upload_deadline,
                stalled_after: config.upload_progress_timeout,
            },
            verify_data: config.upload_verify_data,
            reader: RemoteReader::new(host.clone(), store.clone(), read, at, kept),
            index,
            footers,
            numbers: Numbers::default(),
            slots: Mutex::default(),
        }
    }

    /// Fills the index with all that the MetaLog says is part of the log.
    pub async fn load(&self, state: &MetaState) -> Result<(), Error> {
        let objects: Vec<&ObjectRef> = state.objects.values().collect();
        let asked = objects.iter().map(|o| (o.key().into(), o.bytes)).collect();
        let footers = self.footers.get_all(asked).await?;
        for (object, footer) in objects.into_iter().zip(footers) {
            self.index.add_object(object, &footer);
        }
        for lane in state.lanes.values() {
            let Some(end) = lane.end else { continue };
            if lane.kind != LaneKind::Object || lane.trim >= end {
                continue;
            }
            let listed = self.store.list(&keys::lane_prefix(lane.id), None).await;
            let listed = listed.map_err(Error::store_unavailable)?;
            let slots: Vec<(u64, u64)> = listed
                .iter()
                .filter_map(|found| Some((keys::lane_slot_of(&found.key)?, found.bytes)))
                .filter(|(slot, _)| (lane.trim..end).contains(slot))
                .collect();
            for (slot, bytes, footer) in self.slot_footers(lane.id, &slots).await? {
                self.add_slot(lane.id, slot, bytes, &footer);
            }
        }
        Ok(())
    }

    /// Footers of slots, in slot order; `slots` are numbers and sizes.
    pub async fn slot_footers(
        &self,
        lane: LaneId,
        slots: &[(u64, u64)],
    ) -> Result<Vec<(u64, u64, Footer)>, FootersError> {
        let asked = slots.iter().map(|(slot, bytes)| (keys::lane_slot(lane, *slot).into(), *bytes));
        let footers = self.footers.get_all(asked.collect()).await?;
        let with = |((slot, bytes), footer): (&(u64, u64), Arc<Footer>)| {
            (*slot, *bytes, footer.as_ref().clone())
        };
        Ok(slots.iter().zip(footers).map(with).collect())
    }

    pub fn add_object(&self, object: &ObjectRef, footer: &Footer) {
        self.index.add_object(object, footer);
    }

    /// A slot of a closed lane, in slot order.
    pub fn add_slot(&self, lane: LaneId, slot: u64, bytes: u64, footer: &Footer) {
        self.index.add_slot(lane, slot, bytes, footer);
        let mut slots = self.slots.lock();
        for range in &footer.ranges {
            let Index::Full(batches) = &range.index else { continue };
            let known = slots.entry(range.partition);
            let (end, producers) = known.or_insert_with(|| self.state_in_objects(range.partition));
            for batch in batches.iter().filter(|b| b.base_offset >= *end) {
                producers.appended(&batch.header());
            }
            *end = (*end).max(range.end);
        }
    }

    fn state_in_objects(&self, id: PartitionId) -> (u64, Producers) {
        let known = self.index.producers(id);
        known.map_or_else(Default::default, |(end, all)| (end, Producers::from_snapshot(all)))
    }

    /// Whether slots of closed lanes told anything of a partition.
    pub fn has_slots(&self, id: PartitionId) -> bool {
        self.slots.lock().contains_key(&id)
    }

    /// Where the slots of closed lanes end, and producer state there.
    pub fn state_in_slots(&self, id: PartitionId) -> Option<(u64, Producers)> {
        self.slots.lock().get(&id).cloned()
    }

    /// Where the referenced part of a partition ends, and producer state there.
    pub fn state(&self, id: PartitionId) -> (u64, Producers) {
        let objects = self.state_in_objects(id);
        let slots = self.slots.lock().get(&id).cloned();
        match slots {
            Some(slots) if slots.0 > objects.0 => slots,
            _ => objects,
        }
    }

    /// Offset of the first block in the bucket that may hold a record at or after `timestamp`.
    pub async fn find_time(
        &self,
        id: PartitionId,
        from: u64,
        timestamp: i64,
    ) -> Result<Option<u64>, Error> {
        let Some(place) = self.index.find_time(id, from, timestamp) else { return Ok(None) };
        let footer = self.footers.get(&place.key, place.object_bytes).await?;
        let range = footer.ranges.get(place.number as usize);
        Ok(range.and_then(|range| range.seek_time(timestamp)))
    }

    /// One attempt: a failed one leaves garbage behind that is swept by its writer.
    pub async fn upload(
        &self,
        level: Level,
        parts: Vec<Part>,
    ) -> Result<(ObjectRef, Footer), UploadError> {
        let started = self.host.now();
        let bytes: u64 = parts.iter().map(|part| part.bytes).sum();
        let number = self.numbers.take();
        let planned = Planned { level, writer: self.writer, seq: number.seq(), parts };
        let name = match level {
            Level::L2 => "2",
            _ => "1",
        };
        let done = async {
            let uploaded = planned.upload(&self.store, &self.host, self.progress).await?;
            uploaded.verify(&self.store, self.verify_data).await
        };
        let done = done.await;
        let outcome = if done.is_ok() { "ok" } else { "failed" };
        metrics::counter!("levee_upload_objects_total", "level" => name, "outcome" => outcome)
            .increment(1);
        let verified = done?;
        let took = self.host.now().since(started).as_secs_f64();
        metrics::histogram!("levee_upload_seconds").record(took);
        metrics::counter!("levee_upload_bytes_total", "level" => name).increment(bytes);
        self.numbers.hold(number);
        Ok((verified.object, verified.footer))
    }
}
