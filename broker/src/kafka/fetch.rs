//! Fetch: batches of many partitions in one answer, waiting for some where there are none.
//!
//! The limits are Kafka's: of the answer and of each partition, by whole batches, and the first
//! batch goes out even where it is larger (KIP-74).

use std::sync::Arc;
use std::time::Duration;

use futures::future::select_all;
use levee_kafka::messages::fetch_request::FetchRequest;
use levee_kafka::messages::fetch_response::{
    AbortedTransaction, FetchResponse, FetchableTopicResponse, PartitionData,
};
use levee_kafka::{ErrorCode, Reader, Records};
use levee_proto::object::AbortedTxn;

use super::fetch_session::{Key, Opened, Session, Wanted};
use super::list_offsets::check_epoch;
use super::{Answered, Ask, Broken, code};
use crate::error::Error;
use crate::fetch::{Fetch, Fetched, From, Isolation, count_read};
use crate::listener::answers::{AnswerRoom, Taken};
use crate::partition::Partition;

/// Most bytes of one answer, and how long a client may wait for it.
const BYTES_MAX: usize = 64 << 20;
/// Most of one partition: room for it is taken before it is known how much there is.
const PART_BYTES_MAX: usize = 8 << 20;
const WAIT_MAX: Duration = Duration::from_secs(300);
/// How long an answer waits for room. Then a small one is made without.
const ROOM_LIMIT: Duration = Duration::from_secs(3);
const SMALL_BYTES: usize = 64 << 10;

/// What one pass over the partitions found.
struct Found {
    partitions: Vec<(Key, PartitionData)>,
    bytes: usize,
    /// Something that the client should know at once.
    is_urgent: bool,
    reads: Vec<Read>,
}

/// Where records came from, how many bytes, and how long it took.
type Read = (From, usize, Duration);

pub(super) async fn answer(ask: Ask, body: Reader) -> Result<Answered, Broken> {
    let request: FetchRequest = ask.read(body)?;
    let opened = match ask.kafka.sessions.open(&ask.node().host, &request).await {
        Ok(opened) => opened,
        Err(code) => {
            let response = FetchResponse { error_code: code.into(), ..Default::default() };
            return Ok(ask.answered::<FetchRequest>(&response));
        }
    };
    let mut session = opened.session.lock().await;
    let (found, room) = fetch(&ask, &request, &mut session).await;
    let response = response(&opened, &mut session, found);
    drop(session);
    Ok(Answered { room, ..ask.answered::<FetchRequest>(&response) })
}

/// Reads until there is enough, something to tell, or no time left.
async fn fetch(ask: &Ask, request: &FetchRequest, session: &mut Session) -> (Found, Option<Taken>) {
    let node = ask.node();
    let began = node.host.now();
    let wait = Duration::from_millis(request.max_wait_ms.max(0) as u64).min(WAIT_MAX);
    let min_bytes = request.min_bytes.max(0) as usize;
    let isolation = isolation(request.isolation_level);
    let max_bytes = (request.max_bytes.max(0) as usize).min(BYTES_MAX);
    let mut waits_since = None;
    let mut room = Room::new(&node.answers, max_bytes);
    loop {
        let partitions = partitions(ask, session);
        // Before anything is looked at, so that no change is missed.
        let mut ends: Vec<_> = partitions.iter().flatten().map(|p| p.ends()).collect();
        let found = read_all(ask, session, &partitions, &mut room, isolation).await;
        let left = wait.saturating_sub(node.host.now().since(began));
        let lacks = room.lacks.take();
        let enough = found.bytes >= min_bytes || found.is_urgent || lacks.is_some();
        if !enough && !left.is_zero() && !node.is_draining() && !ends.is_empty() {
            drop(found);
            room.held = None;
            let mut draining = node.draining();
            let changed = select_all(ends.iter_mut().map(|end| Box::pin(end.changed())));
            let stop = Box::pin(draining.wait_for(|draining| *draining));
            let _ = node.host.timeout(left, futures::future::select(changed, stop)).await;
            continue;
        }
        if !enough && ends.is_empty() {
            node.host.sleep(left).await;
        }
        match lacks {
            // Who waits holds no memory.
            Some(bytes) if found.bytes == 0 && !found.is_urgent => {
                room.held = None;
                let since = *waits_since.get_or_insert(node.host.now());
                let left = ROOM_LIMIT.saturating_sub(node.host.now().since(since));
                room.held = node.host.timeout(left, room.all.wait(bytes)).await.ok().flatten();
                if room.held.is_none() {
                    (room.max_bytes, room.goes_without) = (max_bytes.min(SMALL_BYTES), true);
                }
            }
            _ => {
                found.reads.iter().for_each(|(from, bytes, took)| count_read(*from, *bytes, *took));
                return (found, room.held);
            }
        }
    }
}

/// Memory of one answer: there is room for what is read before it is read.
struct Room<'a> {
    all: &'a AnswerRoom,
    max_bytes: usize,
    /// It waited long enough: it is small now, and made without.
    goes_without: bool,
    held: Option<Taken>,
    /// So many bytes found no room.
    lacks: Option<usize>,
}

impl<'a> Room<'a> {
    fn new(all: &'a AnswerRoom, max_bytes: usize) -> Self {
        Self { all, max_bytes, goes_without: false, held: None, lacks: None }
    }

    /// Makes it room for at least so many bytes in all: what was waited for is kept, as the first
    /// batch may be larger than what was asked for.
    fn reserve(&mut self, bytes: usize) -> bool {
        self.hold(bytes.max(self.held.as_ref().map_or(0, Taken::num_permits)))
    }

    /// Makes it room for so many bytes in all; notes where there is not enough.
    fn hold(&mut self, bytes: usize) -> bool {
        let has = self.goes_without || self.all.hold(bytes, &mut self.held);
        if !has {
            self.lacks = Some(bytes);
        }
        has
    }
}

type Places = Vec<Result<Arc<Partition>, ErrorCode>>;

/// The partitions of a session in the order in which they are read now.
fn partitions(ask: &Ask, session: &Session) -> Places {
    let by_id = ask.version() >= 13;
    let find = |key: &Key| {
        let name = ask.topic_name(key.topic.clone(), key.id, by_id)?;
        ask.partition(&name, key.partition)
    };
    session.order().iter().map(find).collect()
}

async fn read_all(
    ask: &Ask,
    session: &mut Session,
    places: &Places,
    room: &mut Room<'_>,
    isolation: Isolation,
) -> Found {
    let keys = session.order();
    let mut found = Found { partitions: Vec::new(), bytes: 0, is_urgent: false, reads: Vec::new() };
    for (key, place) in keys.into_iter().zip(places) {
        let Some(wanted) = session.wanted.get_mut(&key) else { continue };
        let data = match place {
            Ok(partition) => {
                let part = Part { isolation, so_far: found.bytes };
                let (data, read) = read_one(ask, partition, wanted, part, room).await;
                found.reads.extend(read);
                data
            }
            Err(code) => failed(key.partition, *code),
        };
        found.is_urgent |= data.error_code != 0;
        let bytes = data.records.as_ref().map_or(0, Records::len);
        if found.bytes == 0 && bytes > 0 {
            session.next = Some(key.clone());
        }
        found.bytes += bytes;
        found.partitions.push((key, data));
    }
    // The one that was read first is read last next time.
    if let Some(first) = session.next.take() {
        let after =
            session.wanted.range((std::ops::Bound::Excluded(&first), std::ops::Bound::Unbounded));
        session.next = after.map(|(key, _)| key.clone()).next();
    }
    found
}

/// How one partition is read.
struct Part {
    isolation: Isolation,
    /// Bytes that are in the answer. Where there are none one batch goes in, however large.
    so_far: usize,
}

/// What there is of one partition now.
async fn read_one(
    ask: &Ask,
    partition: &Arc<Partition>,
    wanted: &mut Wanted,
    Part { isolation, so_far }: Part,
    room: &mut Room<'_>,
) -> (PartitionData, Option<Read>) {
    let asked = &wanted.asked;
    let number = asked.partition;
    let status = partition.leader_epoch();
    if let Err(code) = check_epoch(asked.current_leader_epoch, status) {
        return (failed(number, code), None);
    }
    let Ok(offset) = u64::try_from(asked.fetch_offset) else {
        return (out_of_range(partition, number), None);
    };
    let max = (asked.partition_max_bytes.max(0) as usize).min(PART_BYTES_MAX);
    let max = max.min(room.max_bytes.saturating_sub(so_far));
    let ladder = match partition.readable() {
        Ok(ladder) => ladder,
        Err(error) => return (failed(number, code(&error)), None),
    };
    let mut data = PartitionData {
        partition_index: number,
        high_watermark: ladder.high_watermark() as i64,
        last_stable_offset: ladder.last_stable() as i64,
        log_start_offset: ladder.log_start() as i64,
        aborted_transactions: (isolation == Isolation::ReadCommitted).then(Vec::new),
        records: Some(Records::default()),
        ..Default::default()
    };
    // Nothing fits any more, or nothing is there: no need to look.
    if (max == 0 && so_far > 0) || offset == isolation.end(&ladder) {
        return (data, None);
    }
    let (began, wait) = (ask.node().host.now(), Duration::ZERO);
    let fetch = Fetch { offset, max_bytes: max.max(1), min_bytes: 0, wait, isolation };
    match read_in(room, so_far, ask, partition, wanted, &fetch).await {
        Ok(None) => (data, None),
        Ok(Some(found)) => {
            data.high_watermark = found.high_watermark as i64;
            data.last_stable_offset = found.last_stable_offset as i64;
            data.log_start_offset = found.log_start as i64;
            let aborted = found.aborted.iter().map(aborted);
            data.aborted_transactions.iter_mut().for_each(|all| all.extend(aborted.clone()));
            let took = ask.node().host.now().since(began);
            let read = (found.from, found.batches.len(), took);
            data.records = Some(Records(found.batches.into_pieces()));
            (data, Some(read))
        }
        Err(error) => match code(&error) {
            ErrorCode::OffsetOutOfRange => (out_of_range(partition, number), None),
            code => {
                tell(ask, partition, &error);
                (failed(number, code), None)
            }
        },
    }
}

/// Reads where there is room for it, behind what was read for this answer. A batch that is larger
/// than what is left waits for an answer of its own.
async fn read_in(
    room: &mut Room<'_>,
    so_far: usize,
    ask: &Ask,
    partition: &Partition,
    wanted: &mut Wanted,
    fetch: &Fetch,
) -> Result<Option<Fetched>, Error> {
    if !room.reserve(so_far + fetch.max_bytes) {
        return Ok(None);
    }
    let node = ask.node();
    let ahead = wanted.ahead.get_or_insert_with(|| node.tiers.reader.read_ahead());
    let fetched = node.fetch_now(partition, fetch, Some(ahead)).await;
    let bytes = fetched.as_ref().map_or(0, |(found, _)| found.batches.len());
    let fits = (so_far == 0 || bytes <= fetch.max_bytes) && room.hold(so_far + bytes);
    if !fits {
        room.hold(so_far);
    }
    Ok(fits.then_some(fetched?.0))
}

fn aborted(txn: &AbortedTxn) -> AbortedTransaction {
    let (producer_id, first_offset) = (txn.producer_id, txn.first_offset as i64);
    AbortedTransaction { producer_id, first_offset }
}

/// As requests say it: 1 for committed records only.
pub(super) fn isolation(level: i8) -> Isolation {
    match level {
        1 => Isolation::ReadCommitted,
        _ => Isolation::ReadUncommitted,
    }
}

/// Kafka's answers to a fetch have no place for a text.
fn tell(ask: &Ask, partition: &Partition, error: &Error) {
    let (topic, number) = (&partition.topic, partition.id.partition);
    tracing::debug!(peer = %ask.client.peer, %topic, number, %error, "a fetch failed");
}

fn failed(partition_index: i32, code: ErrorCode) -> PartitionData {
    PartitionData {
        partition_index,
        error_code: code.into(),
        high_watermark: -1,
        records: Some(Records::default()),
        ..Default::default()
    }
}

fn out_of_range(partition: &Partition, number: i32) -> PartitionData {
    let ladder = partition.ladder();
    PartitionData {
        high_watermark: ladder.high_watermark() as i64,
        last_stable_offset: ladder.last_stable() as i64,
        log_start_offset: ladder.log_start() as i64,
        ..failed(number, ErrorCode::OffsetOutOfRange)
    }
}

/// Partitions in one answer, by topic; of a session only those with something new.
fn response(opened: &Opened, session: &mut Session, found: Found) -> FetchResponse {
    let mut responses: Vec<FetchableTopicResponse> = Vec::new();
    for (key, data) in found.partitions {
        let ends = (data.high_watermark, data.last_stable_offset, data.log_start_offset);
        let has_records = data.records.as_ref().is_some_and(|records| !records.is_empty());
        let wanted = session.wanted.get_mut(&key);
        let is_old = wanted.as_ref().is_some_and(|wanted| wanted.told == Some(ends));
        if let Some(wanted) = wanted {
            // An error is told each time, until the client does something about it.
            wanted.told = (data.error_code == 0).then_some(ends);
        }
        if opened.incremental && !has_records && data.error_code == 0 && is_old {
            continue;
        }
        match responses.last_mut() {
            Some(last) if last.topic == key.topic && last.topic_id == key.id => {
                last.partitions.push(data);
            }
            _ => responses.push(FetchableTopicResponse {
                topic: key.topic,
                topic_id: key.id,
                partitions: vec![data],
            }),
        }
    }
    FetchResponse { session_id: opened.id, responses, ..Default::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two readers whose next batches are larger than what they ask for, and room for one of them:
    /// who got it by waiting keeps it over the read, and does not pass it on.
    #[test]
    fn what_was_waited_for_is_kept_until_it_is_read() {
        let all = AnswerRoom::new(100);
        let mut first = Room::new(&all, 1000);
        first.held = all.take(80, None);
        assert!(first.reserve(20) && all.used() == 80);
        let mut second = Room::new(&all, 1000);
        assert!(!second.hold(80) && second.lacks == Some(80) && second.held.is_none());
        // It turned out to be as large as that; then it is written.
        assert!(first.hold(80) && first.lacks.is_none());
        drop(first);
        assert!(second.hold(80) && all.used() == 80);
        // A smaller one gives the rest back.
        assert!(second.hold(30) && all.used() == 30);
    }
}
