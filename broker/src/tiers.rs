//! What is in the bucket, as this broker knows it: index, footers, reads, uploads.
//!
//! Owns: the numbers of this session's objects, and producer state as objects tell it. Does not
//! own: when something is uploaded (`offload`), what is referenced (the MetaLog).

mod caches;
mod numbers;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use levee_proto::ids::{LaneId, Nonce, PartitionId, Writer};
use levee_proto::keys;
use levee_proto::metalog::{LaneKind, ObjectRef};
use levee_proto::object::{AbortedTxn, Footer, Index, Level};
use levee_runtime::Host;
use levee_tiering::metalog::MetaState;
use levee_tiering::remote::{
    Footers, FootersError, RangeRef, ReadConfig, RemoteError, RemoteIndex, RemoteReader, Source,
    Wanted, read_footer,
};
use levee_tiering::store::Progress;
use levee_tiering::store::Store;
use levee_tiering::upload::{Part, Planned, SourceError, UploadError};
use parking_lot::Mutex;

use crate::config::BrokerConfig;
use crate::error::Error;
use crate::partition::producers::Producers;
use caches::Caches;
pub use numbers::Numbers;

/// Memory for decoded footers.
const FOOTER_MEMORY: u64 = 32 << 20;

/// Bytes that an upload reads at once.
pub(crate) const READ_BYTES: usize = 1 << 20;
/// Footers read before they go into the index.
const LOAD_AT_ONCE: usize = 256;

/// A slot of a closed object lane.
pub struct Slot {
    pub lane: LaneId,
    pub slot: u64,
    pub bytes: u64,
    pub footer: Arc<Footer>,
}

/// See the module.
pub struct Tiers {
    host: Host,
    store: Store,
    pub(crate) progress: Progress,
    verify_data: bool,
    pub index: Arc<RemoteIndex>,
    pub reader: RemoteReader,
    footers: Arc<Footers>,
    caches: Option<Caches>,
    pub numbers: Numbers,
    /// Ends and producer state as slots of closed lanes tell it.
    slots: Mutex<BTreeMap<PartitionId, (u64, Producers)>>,
}

impl From<FootersError> for Error {
    fn from(error: FootersError) -> Self {
        match error {
            FootersError::Store(error) => Self::store_unavailable(error),
            FootersError::Format { .. } | FootersError::Missing(_) => Self::corrupt_data(error),
            FootersError::Stopped(_) => Self::session_ended(error),
        }
    }
}

impl From<UploadError> for Error {
    fn from(error: UploadError) -> Self {
        match error {
            UploadError::Store(error) => Self::store_unavailable(error),
            error => Self::corrupt_data(error),
        }
    }
}

impl From<RemoteError> for Error {
    fn from(error: RemoteError) -> Self {
        match error {
            RemoteError::Store(error) => Self::store_unavailable(error),
            RemoteError::Footer(error) => error.into(),
            error @ (RemoteError::Missing(_) | RemoteError::Corrupt { .. }) => {
                Self::corrupt_data(error)
            }
            RemoteError::Busy(_) => Self::store_unavailable(error),
            RemoteError::Stopped(_) => Self::session_ended(error),
        }
    }
}

impl Tiers {
    pub async fn open(host: &Host, store: &Store, config: &BrokerConfig, cluster: Nonce) -> Self {
        let index = Arc::new(RemoteIndex::default());
        let caches = Caches::open(host, config, cluster).await;
        let on_disk = caches.as_ref();
        let footers = on_disk.map(|caches| caches.footers.clone());
        let footers = Footers::new(host.clone(), store.clone(), FOOTER_MEMORY, footers);
        let footers = Arc::new(footers);
        let read = ReadConfig {
            cache_bytes: config.cache_bytes,
            chunk_bytes: config.cache_chunk_bytes,
            readahead_bytes: config.readahead_bytes,
            readahead_total_bytes: config.readahead_total_bytes,
        };
        let (at, kept) = (index.clone(), footers.clone());
        let chunks = on_disk.map(|caches| caches.chunks.clone());
        Self {
            host: host.clone(),
            store: store.clone(),
            progress: Progress {
                deadline: config.upload_deadline,
                stalled_after: config.upload_progress_timeout,
            },
            verify_data: config.upload_verify_data,
            reader: RemoteReader::new(host.clone(), store.clone(), read, at, kept, chunks),
            index,
            footers,
            caches,
            numbers: Numbers::default(),
            slots: Mutex::default(),
        }
    }

    /// Footers of referenced objects, in the order given.
    pub async fn footers_of(
        &self,
        objects: &[ObjectRef],
    ) -> Vec<Result<Arc<Footer>, FootersError>> {
        self.footers.read_all(objects.iter().map(Wanted::object).collect()).await
    }

    /// The footer of the object that a range is in.
    pub async fn footer(&self, place: &RangeRef) -> Result<Arc<Footer>, Error> {
        Ok(self.footers.get(&place.wanted()).await?)
    }

    /// The footer of an object as the bucket has it now.
    pub async fn fresh_footer(&self, object: &ObjectRef) -> Result<Arc<Footer>, FootersError> {
        read_footer(&self.store, &Wanted::object(object)).await
    }

    /// Gives the disk caches the room that `free` bytes on their disk leave them.
    pub async fn fit_caches(&self, config: &BrokerConfig, free: u64) {
        if let Some(caches) = &self.caches {
            caches.fit(config, free).await;
        }
    }

    /// Fills the index with all that the MetaLog says is part of the log and that is not in it yet.
    pub async fn load(&self, state: &MetaState) -> Result<(), Error> {
        let is_new = |o: &&ObjectRef| !self.index.knows(Source::Object(o.id()));
        let objects: Vec<&ObjectRef> = state.objects.values().filter(is_new).collect();
        for objects in objects.chunks(LOAD_AT_ONCE) {
            let asked = objects.iter().map(|object| Wanted::object(object)).collect();
            for (object, footer) in objects.iter().zip(self.footers.get_all(asked).await?) {
                self.index.add_object(object, &footer);
            }
        }
        let mut slots = Vec::new();
        for lane in state.lanes.values() {
            let Some(end) = lane.end else { continue };
            let is_known = |slot| self.index.knows(Source::Slot(lane.id, slot));
            if lane.kind == LaneKind::Object && !(lane.trim..end).all(is_known) {
                slots.extend(self.closed_slots(lane.id, lane.trim..end).await?);
            }
        }
        self.add_slots(slots);
        Ok(())
    }

    /// All slots of a closed lane; an error where one is missing, because nothing would be known
    /// of what it holds.
    async fn closed_slots(&self, lane: LaneId, slots: Range<u64>) -> Result<Vec<Slot>, Error> {
        let before = slots.start.checked_sub(1).map(|slot| keys::lane_slot(lane, slot));
        let (folder, count) = (keys::lane_prefix(lane), (slots.end - slots.start) as usize);
        let listed = self.store.list_some(&folder, before.as_deref(), count).await;
        let sizes: BTreeMap<u64, u64> = listed
            .map_err(Error::store_unavailable)?
            .iter()
            .filter_map(|found| Some((keys::lane_slot_of(&found.key)?, found.bytes)))
            .collect();
        let missing = |slot| Error::corrupt_data(format!("slot {slot} of lane {lane} is missing"));
        let sized = |slot| Ok((slot, *sizes.get(&slot).ok_or_else(|| missing(slot))?));
        let sized: Vec<(u64, u64)> = slots.map(sized).collect::<Result<_, Error>>()?;
        Ok(self.slot_footers(lane, &sized).await?)
    }

    /// Footers of slots; `slots` are numbers and sizes.
    pub async fn slot_footers(
        &self,
        lane: LaneId,
        slots: &[(u64, u64)],
    ) -> Result<Vec<Slot>, FootersError> {
        let asked = slots.iter().map(|(slot, bytes)| Wanted::slot(lane, *slot, *bytes));
        let footers = self.footers.get_all(asked.collect()).await?;
        let with = |((slot, bytes), footer): (&(u64, u64), Arc<Footer>)| Slot {
            lane,
            slot: *slot,
            bytes: *bytes,
            footer,
        };
        Ok(slots.iter().zip(footers).map(with).collect())
    }

    /// Slots of closed lanes. Together they hold all that follows on what is known of each
    /// partition, in whatever order they come.
    pub fn add_slots(&self, added: Vec<Slot>) {
        for Slot { lane, slot, bytes, footer } in &added {
            self.index.add_slot(*lane, *slot, *bytes, footer);
        }
        let mut ranges: Vec<_> = added.iter().flat_map(|slot| &slot.footer.ranges).collect();
        ranges.sort_by_key(|range| (range.partition, range.base));
        let mut slots = self.slots.lock();
        for range in ranges {
            let Index::Full(batches) = &range.index else { continue };
            let known = slots.entry(range.partition);
            let (end, producers) = known.or_insert_with(|| self.state_in_objects(range.partition));
            for batch in batches.iter().filter(|b| b.base_offset >= *end) {
                producers.appended(&batch.header(), batch.marker());
            }
            *end = (*end).max(range.end);
        }
    }

    fn state_in_objects(&self, id: PartitionId) -> (u64, Producers) {
        let (end, all) = self.index.producers(id).unwrap_or_default();
        (end, Producers::from_snapshot(all, self.index.newest_ms(id)))
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

    /// Aborted transactions that overlap some offsets of a partition, as objects and slots tell of
    /// them, by last offset.
    pub async fn aborted(
        &self,
        id: PartitionId,
        offsets: Range<u64>,
    ) -> Result<Vec<AbortedTxn>, FootersError> {
        let ranges = self.index.aborts(id, offsets.clone());
        let asked = ranges.iter().map(RangeRef::wanted).collect();
        let mut found = BTreeMap::new();
        for (range, footer) in ranges.iter().zip(self.footers.get_all(asked).await?) {
            let told = footer.ranges.get(range.number as usize).map(|range| &range.aborted);
            let overlapping = told.into_iter().flatten().filter(|txn| txn.overlaps(&offsets));
            found.extend(overlapping.map(|txn| (txn.last_offset, *txn)));
        }
        Ok(found.into_values().collect())
    }

    /// Offset of the first block in the bucket that may hold a record at or after `timestamp`.
    pub async fn find_time(
        &self,
        id: PartitionId,
        from: u64,
        timestamp: i64,
    ) -> Result<Option<u64>, Error> {
        let Some(place) = self.index.find_time(id, from, timestamp) else { return Ok(None) };
        let footer = self.footers.get(&place.wanted()).await?;
        let range = footer.ranges.get(place.number as usize);
        Ok(range.and_then(|range| range.seek_time(timestamp)))
    }

    /// One attempt under the next number of this session: a failed one leaves garbage behind that
    /// is swept by its writer.
    pub async fn upload(
        &self,
        writer: Writer,
        level: Level,
        parts: Vec<Part>,
    ) -> Result<(ObjectRef, Footer), UploadError> {
        let number = self.numbers.take();
        let planned = Planned { level, writer, seq: number.seq(), parts };
        let done = self.put(planned, self.progress).await?;
        self.numbers.hold(number);
        Ok(done)
    }

    /// One attempt to write what is planned.
    pub async fn put(
        &self,
        planned: Planned,
        progress: Progress,
    ) -> Result<(ObjectRef, Footer), UploadError> {
        let started = self.host.now();
        let bytes: u64 = planned.parts.iter().map(|part| part.bytes).sum();
        let name = match planned.level {
            Level::L2 => "2",
            _ => "1",
        };
        let done = async {
            let uploaded = planned.upload(&self.store, &self.host, progress).await?;
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
        let (object, footer) = (verified.object, verified.footer);
        self.footers.written(&object.key(), object.bytes, &footer);
        Ok((object, footer))
    }
}

/// The next batches of an upload, as the bucket has them.
pub(crate) async fn read_remote(
    tiers: &Tiers,
    partition: PartitionId,
    offset: u64,
) -> Result<Option<Bytes>, SourceError> {
    match tiers.reader.read(partition, offset, READ_BYTES, None).await {
        Ok(read) => Ok(read.map(|read| read.batches)),
        Err(RemoteError::Store(error) | RemoteError::Footer(FootersError::Store(error))) => {
            Err(error.into())
        }
        Err(error) => Err(SourceError::Damaged(error.to_string())),
    }
}
