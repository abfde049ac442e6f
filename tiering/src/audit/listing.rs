//! The listing against the metadata: what must be there is, and what else is there is known.

use levee_proto::ids::LaneId;
use levee_proto::keys;
use levee_proto::metalog::image::Lane;
use levee_proto::metalog::{LaneKind, ObjectId, ObjectRef};

use super::{Audit, Finding, Seen};
use crate::metalog::MetaState;
use crate::store::Listed;

pub(super) fn judge(seen: &Seen, audit: &mut Audit) {
    let both = |id: &ObjectId| seen.before.objects.contains_key(id);
    for object in seen.after.objects.values().filter(|object| both(&object.id())) {
        match_object(object, seen, audit);
    }
    for lane in seen.after.lanes.values().filter(|lane| lane.kind == LaneKind::Object) {
        if let (Some(end), Some(before)) = (lane.end, seen.before.lanes.get(&lane.id))
            && before.end.is_some()
        {
            match_lane(lane, end, seen, audit);
        }
    }
    for found in seen.listed.values() {
        classify(found, seen, audit);
    }
}

fn match_object(object: &ObjectRef, seen: &Seen, audit: &mut Audit) {
    let key = object.key();
    let finding = match seen.listed.get(&key) {
        None => Finding::Missing { key },
        Some(found) if found.bytes != object.bytes => {
            Finding::Size { key, wanted: object.bytes, found: found.bytes }
        }
        Some(_) => return,
    };
    audit.findings.push(finding);
}

/// Slots in `trim..end` count, and a FENCE stands where the lane ends (I6, I21).
fn match_lane(lane: &Lane, end: u64, seen: &Seen, audit: &mut Audit) {
    for slot in lane.trim..end {
        let key = keys::lane_slot(lane.id, slot);
        if !seen.listed.contains_key(&key) {
            audit.findings.push(Finding::Missing { key });
        }
    }
    if !seen.listed.contains_key(&keys::lane_slot(lane.id, end)) {
        audit.findings.push(Finding::Unfenced { lane: lane.id });
    }
}

fn classify(found: &Listed, seen: &Seen, audit: &mut Audit) {
    let (before, after) = (&seen.before, &seen.after);
    let count = if let Some((lane, slot)) = keys::slot_of(&found.key) {
        match slot_counts(after, lane, slot) {
            Slot::Counts => &mut audit.slots,
            Slot::Waits => &mut audit.unreferenced,
            Slot::Left => &mut audit.orphans,
        }
    } else if let Some((writer, seq)) = keys::object_of(&found.key) {
        let id = ObjectId { writer, seq };
        // It may have ended between the two looks.
        let has_ended = before.writer_ended(writer) && after.writer_ended(writer);
        match after.objects.get(&id) {
            Some(object) if object.single.is_some() => &mut audit.single,
            Some(_) => &mut audit.shared,
            None if is_known(before, &id) || is_known(after, &id) => &mut audit.unreferenced,
            None if !has_ended => &mut audit.in_flight,
            None => &mut audit.orphans,
        }
    } else if found.key.starts_with(keys::META) {
        &mut audit.metadata
    } else {
        audit.findings.push(Finding::Foreign { key: found.key.clone() });
        return;
    };
    count.add(found.bytes);
}

fn is_known(state: &MetaState, id: &ObjectId) -> bool {
    state.objects.contains_key(id) || state.unreferenced.contains_key(id)
}

enum Slot {
    /// Part of the log, or of what keeps it (a FENCE).
    Counts,
    /// Covered by objects.
    Waits,
    /// Above a FENCE, or of a lane that nobody knows any more.
    Left,
}

fn slot_counts(state: &MetaState, id: LaneId, slot: u64) -> Slot {
    match state.lanes.get(&id) {
        Some(lane) if slot < lane.trim => Slot::Waits,
        Some(lane) => match lane.end {
            Some(end) if slot > end => Slot::Left,
            _ => Slot::Counts,
        },
        // Of a lane that is spent only the FENCE stays.
        None => Slot::Counts,
    }
}
