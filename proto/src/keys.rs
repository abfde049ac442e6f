//! Bucket keys, below the root. A data key holds its writer and belongs to one attempt to write
//! (I12); the keys of the MetaLog are numbers.

use crate::crc::crc32c;
use crate::ids::{LaneId, Nonce, PartitionId, SessionId, Writer};

pub const CLUSTER: &str = "CLUSTER";
/// Folder of all metadata.
pub const META: &str = "meta";
pub const META_LOG: &str = "meta/log";
pub const META_SNAPSHOT: &str = "meta/snap";
pub const META_BOUNDARY: &str = "meta/gc";
pub const DATA: &str = "d";
pub const PARTITIONS: &str = "p";
pub const PROBE: &str = "probe";

pub fn meta_slot(slot: u64) -> String {
    format!("{META_LOG}/{slot:020}")
}

pub fn meta_snapshot(slot: u64, term: u64, nonce: Nonce) -> String {
    format!("{META_SNAPSHOT}/{slot:020}-{term:08x}-{nonce}")
}

pub fn meta_boundary(slot: u64) -> String {
    format!("{META_BOUNDARY}/{slot:020}")
}

/// Slot number at the end of a `meta/log` or `meta/gc` key, or at the start of a snapshot's name.
pub fn meta_slot_of(key: &str) -> Option<u64> {
    let name = key.rsplit('/').next()?;
    name.get(..20)?.parse().ok()
}

fn writer_name(writer: Writer) -> String {
    match writer.as_job() {
        Some(job) => format!("j{job:015x}"),
        None => session_name(SessionId::from_u64(writer.0)),
    }
}

fn session_name(session: SessionId) -> String {
    format!("{:08x}-{:08x}", session.broker, session.epoch)
}

/// One of 256 prefixes, so that request rates spread.
fn spread(text: &str) -> String {
    format!("{:02x}", crc32c(text.as_bytes()) & 0xff)
}

/// Folder of an object lane; slots and fence of one lane stand together so that a LIST shows them.
pub fn lane_prefix(lane: LaneId) -> String {
    let name = format!("{}/{:04x}", session_name(lane.session), lane.lane);
    format!("{DATA}/{}/{name}", spread(&name))
}

/// L0 slot, or the FENCE in its place.
pub fn lane_slot(lane: LaneId, slot: u64) -> String {
    format!("{}/{slot:016x}", lane_prefix(lane))
}

pub fn lane_slot_of(key: &str) -> Option<u64> {
    let name = key.rsplit('/').next()?;
    if name.len() != 16 {
        return None;
    }
    u64::from_str_radix(name, 16).ok()
}

/// Lane and number of a slot or FENCE; nothing for objects and everything else.
pub fn slot_of(key: &str) -> Option<(LaneId, u64)> {
    let mut parts = key.strip_prefix(DATA)?.split('/').skip(2);
    let (writer, lane) = (parts.next()?, parts.next()?);
    let session = writer_of(writer)?.as_session()?;
    let lane = LaneId { session, lane: u16::from_str_radix(lane, 16).ok()? };
    let slot = lane_slot_of(key)?;
    (parts.count() == 1).then_some((lane, slot))
}

/// Folder of a writer's L1 objects: no lane number, so it never meets a lane's folder.
fn shared_prefix(writer: Writer) -> String {
    let name = writer_name(writer);
    format!("{DATA}/{}/{name}/shared", spread(&name))
}

pub fn shared(writer: Writer, seq: u64, nonce: Nonce) -> String {
    format!("{}/{seq:016x}-{nonce}", shared_prefix(writer))
}

/// Folder of a topic's L2 objects under one of its partitions.
fn partition_prefix(id: PartitionId) -> String {
    let name = format!("{}/{:08x}", id.topic, id.partition);
    format!("{PARTITIONS}/{:04x}/{name}", crc32c(name.as_bytes()) & 0xffff)
}

pub fn single(
    id: PartitionId,
    base: u64,
    epoch: u32,
    writer: Writer,
    seq: u64,
    nonce: Nonce,
) -> String {
    format!(
        "{}/{base:020}-{epoch:08x}-{}.{seq:016x}-{nonce}",
        partition_prefix(id),
        writer_name(writer)
    )
}

/// Writer and number of an L1 or L2 object; nothing for slots, fences and everything else.
pub fn object_of(key: &str) -> Option<(Writer, u64)> {
    let mut parts = key.split('/');
    match parts.next()? {
        DATA => {
            let (_, writer, shared, name) =
                (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
            let (seq, _nonce) = name.split_once('-')?;
            let seq = u64::from_str_radix(seq, 16).ok()?;
            (shared == "shared" && parts.next().is_none()).then_some((writer_of(writer)?, seq))
        }
        PARTITIONS => {
            // base-epoch-writer.seq-nonce, and the writer of a session has a dash of its own.
            let name = key.rsplit('/').next()?;
            let (front, back) = name.split_once('.')?;
            let writer = front.splitn(3, '-').nth(2)?;
            let (seq, _nonce) = back.split_once('-')?;
            Some((writer_of(writer)?, u64::from_str_radix(seq, 16).ok()?))
        }
        _ => None,
    }
}

fn writer_of(name: &str) -> Option<Writer> {
    if let Some(job) = name.strip_prefix('j') {
        return u64::from_str_radix(job, 16).ok().map(Writer::job);
    }
    let (broker, epoch) = name.split_once('-')?;
    let broker = u32::from_str_radix(broker, 16).ok()?;
    let epoch = u32::from_str_radix(epoch, 16).ok()?;
    Some(Writer::session(SessionId { broker, epoch }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::TopicId;

    #[test]
    fn objects_are_known_by_their_keys_and_slots_are_not() {
        let session = SessionId { broker: 3, epoch: 9 };
        let (id, nonce) = (PartitionId { topic: TopicId(7), partition: 2 }, Nonce(5));
        for writer in [Writer::session(session), Writer::job(77)] {
            assert_eq!(object_of(&shared(writer, 12, nonce)), Some((writer, 12)));
            assert_eq!(object_of(&single(id, 100, 4, writer, 13, nonce)), Some((writer, 13)));
        }
        let lane = LaneId { session, lane: 1 };
        assert_eq!(object_of(&lane_slot(lane, 5)), None);
        assert_eq!(slot_of(&lane_slot(lane, 5)), Some((lane, 5)));
        assert_eq!(slot_of(&shared(Writer::session(session), 12, nonce)), None);
        assert_eq!(object_of(CLUSTER), None);
        assert_eq!(object_of("d/00/zz/shared/1-2"), None);
    }
}
