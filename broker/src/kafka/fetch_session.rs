//! Fetch sessions (KIP-227): a client names its partitions once, and then only what changed.
//!
//! Owns: what each session asks for, their number and age. A session is a convenience: one that is
//! gone is answered with an error that makes the client name everything again.

use std::collections::BTreeMap;
use std::sync::Arc;

use levee_kafka::messages::fetch_request::{FetchPartition, FetchRequest};
use levee_kafka::{ErrorCode, Uuid};
use levee_runtime::{Host, Mono};
use levee_tiering::remote::ReadAhead;
use parking_lot::Mutex;

/// Sessions of one broker, and partitions of all of them together: what they take is bounded.
const SESSIONS_MAX: usize = 1000;
const PARTITIONS_MAX: usize = 1_000_000;

/// In a request: no session is wanted, or a new one.
const NO_SESSION: i32 = 0;
const NEW_EPOCH: i32 = 0;
const LAST_EPOCH: i32 = -1;

/// A partition as its reader names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    /// Empty from version 13 on.
    pub(super) topic: String,
    /// Zero below version 13.
    pub(super) id: Uuid,
    pub(super) partition: i32,
}

/// What is wanted of a partition, and what was told of it last.
pub(super) struct Wanted {
    pub(super) asked: FetchPartition,
    pub(super) ahead: Option<ReadAhead>,
    /// High watermark, last stable offset and log start that the client knows.
    pub(super) told: Option<(i64, i64, i64)>,
}

/// What one session, or one request without a session, reads.
#[derive(Default)]
pub(super) struct Session {
    epoch: i32,
    pub(super) wanted: BTreeMap<Key, Wanted>,
    /// Where the next read begins, so that no partition is read first for ever.
    pub(super) next: Option<Key>,
}

/// All sessions of this broker.
#[derive(Default)]
pub(super) struct Sessions(Mutex<BTreeMap<i32, Held>>);

struct Held {
    session: Arc<tokio::sync::Mutex<Session>>,
    used: Mono,
    partitions: usize,
}

/// How a request is read.
pub(super) struct Opened {
    /// 0: the answer names all partitions and no session.
    pub(super) id: i32,
    pub(super) session: Arc<tokio::sync::Mutex<Session>>,
    /// The answer may leave out what did not change.
    pub(super) incremental: bool,
}

impl Sessions {
    /// Finds or makes the session of a request and folds in what it says.
    pub(super) async fn open(
        &self,
        host: &Host,
        request: &FetchRequest,
    ) -> Result<Opened, ErrorCode> {
        let (id, epoch) = (request.session_id, request.session_epoch);
        if epoch == LAST_EPOCH || epoch == NEW_EPOCH {
            // A full request ends the session that it names.
            if id != NO_SESSION {
                self.0.lock().remove(&id);
            }
            let mut session = Session { epoch: 1, ..Session::default() };
            session.fold(request);
            let partitions = session.wanted.len();
            let session = Arc::new(tokio::sync::Mutex::new(session));
            let id = match epoch {
                NEW_EPOCH => self.keep(host, &session, partitions).unwrap_or(NO_SESSION),
                _ => NO_SESSION,
            };
            return Ok(Opened { id, session, incremental: false });
        }
        let session = {
            let mut held = self.0.lock();
            let found = held.get_mut(&id).ok_or(ErrorCode::FetchSessionIdNotFound)?;
            found.used = host.now();
            found.session.clone()
        };
        let partitions = {
            let mut session = session.lock().await;
            if session.epoch != epoch {
                return Err(ErrorCode::InvalidFetchSessionEpoch);
            }
            session.epoch = epoch.checked_add(1).unwrap_or(1);
            session.fold(request);
            session.wanted.len()
        };
        if let Some(held) = self.0.lock().get_mut(&id) {
            held.partitions = partitions;
        }
        Ok(Opened { id, session, incremental: true })
    }

    /// A new id, in place of the session that was used longest ago where there is no room; none
    /// where this one alone is too large.
    fn keep(
        &self,
        host: &Host,
        session: &Arc<tokio::sync::Mutex<Session>>,
        partitions: usize,
    ) -> Option<i32> {
        if partitions == 0 || partitions > PARTITIONS_MAX / 10 {
            return None;
        }
        let mut held = self.0.lock();
        let sum = |held: &BTreeMap<i32, Held>| held.values().map(|h| h.partitions).sum::<usize>();
        while held.len() >= SESSIONS_MAX || sum(&held) + partitions > PARTITIONS_MAX {
            let oldest = held.iter().min_by_key(|(_, held)| held.used).map(|(id, _)| *id)?;
            held.remove(&oldest);
        }
        loop {
            let id = (host.random_u64() >> 33) as i32;
            if id != NO_SESSION && !held.contains_key(&id) {
                let (session, used) = (session.clone(), host.now());
                held.insert(id, Held { session, used, partitions });
                return Some(id);
            }
        }
    }
}

impl Session {
    fn fold(&mut self, request: &FetchRequest) {
        for topic in &request.topics {
            for asked in &topic.partitions {
                let key = Key {
                    topic: topic.topic.clone(),
                    id: topic.topic_id,
                    partition: asked.partition,
                };
                match self.wanted.get_mut(&key) {
                    Some(wanted) => wanted.asked = asked.clone(),
                    None => {
                        let wanted = Wanted { asked: asked.clone(), ahead: None, told: None };
                        self.wanted.insert(key, wanted);
                    }
                }
            }
        }
        for topic in &request.forgotten_topics_data {
            for partition in &topic.partitions {
                let (topic, id) = (topic.topic.clone(), topic.topic_id);
                self.wanted.remove(&Key { topic, id, partition: *partition });
            }
        }
    }

    /// The partitions in the order in which they are read now.
    pub(super) fn order(&self) -> Vec<Key> {
        let Some(next) = &self.next else { return self.wanted.keys().cloned().collect() };
        let (first, then) = (self.wanted.range(next..), self.wanted.range(..next));
        first.chain(then).map(|(key, _)| key.clone()).collect()
    }
}
