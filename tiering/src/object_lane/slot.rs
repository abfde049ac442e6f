//! The bytes of one slot: an L0 object.

use bytes::Bytes;
use levee_hot_log::lane::{Entry, Payload};
use levee_proto::ids::{LaneId, Nonce, PartitionId, Writer};
use levee_proto::keys;
use levee_proto::object::writer::{Finished, ObjectPlan};
use levee_proto::object::{Level, ObjectWriter, RangeKind};

pub(super) struct SlotPlan {
    pub(super) lane: LaneId,
    pub(super) slot: u64,
    pub(super) trim: u64,
    pub(super) prev_crc: u32,
    pub(super) nonce: Nonce,
}

/// Key, body in pieces (batches are shared, not copied), and what is in it.
///
/// Entries of one partition and epoch stand together in their order; order between partitions
/// carries no meaning.
pub(super) fn build(plan: &SlotPlan, entries: &[Entry]) -> (String, Vec<Bytes>, Finished) {
    let mut order: Vec<&Entry> = entries.iter().collect();
    order.sort_by_key(|e| (e.partition, e.leader_epoch, is_hand_off(e)));
    let data_len = entries.iter().map(|e| e.payload.len() as u64).sum();
    let (mut writer, head) = ObjectWriter::new(ObjectPlan {
        level: Level::L0,
        nonce: plan.nonce,
        writer: Writer::session(plan.lane.session),
        seq: plan.slot,
        lane: plan.lane.lane,
        data_len,
        lane_trim: plan.trim,
        prev_slot_crc: plan.prev_crc,
    });
    let mut body = vec![head];
    let mut open: Option<(PartitionId, u32, u64)> = None;
    for entry in order {
        let same = open.is_some_and(|(p, epoch, end)| {
            (p, epoch, end) == (entry.partition, entry.leader_epoch, entry.base)
        });
        if (!same || is_hand_off(entry))
            && let Some((_, _, end)) = open.take()
        {
            writer.end(end, None);
        }
        match &entry.payload {
            Payload::Batch(batch) => {
                if open.is_none() {
                    let kind = RangeKind::Data;
                    writer.begin(entry.partition, entry.leader_epoch, kind, entry.base);
                }
                writer.batch(&batch.header, &batch.parts());
                entry.aborted.into_iter().for_each(|txn| writer.aborted(txn));
                body.extend(batch.shared_parts());
                open = Some((entry.partition, entry.leader_epoch, entry.end));
            }
            Payload::HandOff(bytes) => {
                let kind = RangeKind::HandOff;
                writer.begin(entry.partition, entry.leader_epoch, kind, entry.base);
                writer.opaque(bytes);
                body.push(bytes.clone());
                writer.end(entry.end, None);
            }
        }
    }
    if let Some((_, _, end)) = open {
        writer.end(end, None);
    }
    let finished = writer.finish().expect("a slot has few entries, so its footer is small");
    body.push(finished.tail.clone());
    (keys::lane_slot(plan.lane, plan.slot), body, finished)
}

fn is_hand_off(entry: &Entry) -> bool {
    matches!(entry.payload, Payload::HandOff(_))
}
