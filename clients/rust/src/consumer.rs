//! Reading topics together with others: the members of a group share the partitions.
//!
//! Owns: what is read now, where it stands, and the order of a rebalance: stop reading, tell the
//! caller, commit, give back. Does not own: the member's session (`session`), reading one partition
//! (`place`).
//!
//! ```text
//! session task: join, beat, commit <-> coordinator        Consumer::next: event | records
//!        told: assignment, epoch   -> ---------------------------^
//!        owned: what is read now   <- ---- set when the caller came back from a revocation
//! ```
//!
//! Nothing is read ahead but what `buffer_bytes` has place for, and only while the caller waits in
//! `next`.

mod config;
mod event;
mod place;
mod session;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::AbortHandle;
use futures::stream::{FuturesUnordered, StreamExt};
use levee_proto::grpc::ErrorCode;
use tokio::time::Instant;

use crate::connection::Client;
use crate::error::{Error, Result};
use crate::offsets::{Offsets, TopicIds, TopicPartition, to_wire};
use place::{Committed, Going, Place, Went};
use session::{OwnedSet, Session, Told};

pub use config::ConsumerConfig;
pub use event::{Event, Membership, Records};

/// How long a commit by the clock may take.
const AUTO_COMMIT_LIMIT: Duration = Duration::from_secs(5);

/// A member of a group.
///
/// ```no_run
/// # async fn example() -> Result<(), levee_client::Error> {
/// use levee_client::{Client, ConsumerConfig};
///
/// let client = Client::connect("localhost").await?;
/// let mut consumer = client.consumer(ConsumerConfig::new("billing", ["orders"])).await?;
/// loop {
///     let batch = consumer.records().await?;
///     for record in &batch.records {
///         println!("{} {}: {:?}", batch.at, record.offset, record.data.value);
///     }
///     // With `auto_commit: None`: consumer.commit().await?
/// }
/// # }
/// ```
pub struct Consumer {
    client: Client,
    config: Arc<ConsumerConfig>,
    session: Session,
    /// Which of the session's memberships `reading` is of, and the newest assignment that it
    /// follows.
    membership: u64,
    version: u64,
    reading: BTreeMap<TopicPartition, Reading>,
    going: FuturesUnordered<Going>,
    /// Revoked, and the caller knows; given back at the next call.
    releasing: Vec<TopicPartition>,
    committed_at: Instant,
}

/// A partition that is this member's.
struct Reading {
    topic_id: String,
    /// After the records that the caller got; nothing before the first.
    position: Option<u64>,
    /// The last one that was committed.
    committed: Option<u64>,
    stop: AbortHandle,
}

impl Client {
    /// Joins a group. The first partitions come with the first [`Event::Assigned`].
    pub async fn consumer(&self, config: ConsumerConfig) -> Result<Consumer> {
        config.check()?;
        let config = Arc::new(config);
        let session = Session::start(self.clone(), config.clone());
        Ok(Consumer {
            client: self.clone(),
            config,
            session,
            membership: 0,
            version: 0,
            reading: BTreeMap::new(),
            going: FuturesUnordered::new(),
            releasing: Vec::new(),
            committed_at: Instant::now(),
        })
    }
}

impl Consumer {
    /// The next records; revocations are followed without a word, with a commit before them where
    /// `auto_commit` is set. Whoever keeps state for its partitions calls [`Consumer::next`].
    pub async fn records(&mut self) -> Result<Records> {
        loop {
            if let Event::Records(records) = self.next().await? {
                return Ok(records);
            }
        }
    }

    /// What is next. Who calls it is done with all that it gave before: with `auto_commit`, that is
    /// what is committed. It may be dropped while it waits; nothing is lost.
    pub async fn next(&mut self) -> Result<Event> {
        let _inside = self.session.inside();
        self.release();
        loop {
            self.auto_commit(false).await;
            let told = self.session.told();
            if let Some(error) = told.failed.clone() {
                return Err(error);
            }
            if self.session.has_ended() {
                return Err(Error::left(&self.config.group));
            }
            if let Some(event) = self.follow(told).await {
                return Ok(event);
            }
            let commit_at = self.config.auto_commit.map(|every| self.committed_at + every);
            tokio::select! {
                biased;
                () = self.session.changed((self.membership, self.version)) => {}
                Some(went) = self.going.next() => {
                    // Stopped in between: it is not this member's any more.
                    let Ok(went) = went else { continue };
                    if let Some(records) = self.went(went)? {
                        return Ok(Event::Records(records));
                    }
                }
                () = sleep_until(commit_at) => {}
            }
        }
    }

    /// Where to go on after all that `next` gave, of the partitions that this member has.
    pub fn positions(&self) -> Offsets {
        let each = self.reading.iter();
        each.filter_map(|(at, reading)| Some((at.clone(), reading.position?))).collect()
    }

    /// Commits [`Consumer::positions`].
    pub async fn commit(&mut self) -> Result<()> {
        let positions = self.positions();
        self.commit_offsets(&positions).await
    }

    /// Commits these, of partitions that this member has.
    pub async fn commit_offsets(&mut self, offsets: &Offsets) -> Result<()> {
        self.commit_within(offsets, self.config.retry_for).await
    }

    async fn commit_within(&mut self, offsets: &Offsets, limit: Duration) -> Result<()> {
        if offsets.is_empty() {
            return Ok(());
        }
        let wire = to_wire(offsets, &self.topic_ids());
        self.session.commit(self.membership, wire, limit).await?;
        for (at, offset) in offsets {
            if let Some(reading) = self.reading.get_mut(at) {
                reading.committed = Some(*offset);
            }
        }
        Ok(())
    }

    /// Goes back to what was committed, in all partitions: after a transaction that was not.
    pub fn rewind(&mut self) {
        let goes = |at: &TopicPartition| self.releasing.contains(at);
        let (kept, again): (BTreeMap<_, _>, BTreeMap<_, _>) =
            std::mem::take(&mut self.reading).into_iter().partition(|(at, _)| goes(at));
        again.values().for_each(|reading| reading.stop.abort());
        self.reading = kept;
        self.reading.values_mut().for_each(|reading| reading.position = None);
        self.begin(again.into_iter().map(|(at, reading)| (at, reading.topic_id)).collect());
    }

    pub fn assigned(&self) -> impl Iterator<Item = &TopicPartition> {
        self.reading.keys()
    }

    /// As whom this consumer read what `next` gave. Where its partitions were lost since then,
    /// though it is a member again, nothing can be committed with it.
    pub fn membership(&self) -> Membership {
        let told = self.session.told();
        Membership {
            group: self.config.group.clone(),
            member_id: self.session.member_id().to_owned(),
            epoch: (told.membership == self.membership).then_some(told.epoch),
            instance_id: self.config.instance_id.clone(),
            topic_ids: self.topic_ids(),
        }
    }

    fn topic_ids(&self) -> TopicIds {
        let each = self.reading.iter();
        each.map(|(at, reading)| (at.topic.clone(), reading.topic_id.clone())).collect()
    }

    /// Commits, where `auto_commit` is set, and leaves the group: others take over at once. A
    /// consumer that is dropped leaves too, without the commit.
    pub async fn close(mut self) -> Result<()> {
        self.stop_all();
        let committed = match self.config.auto_commit {
            Some(_) => self.commit().await,
            None => Ok(()),
        };
        self.session.leave().await;
        committed
    }

    /// Follows what the session was told; an event where the caller has to know.
    async fn follow(&mut self, told: Told) -> Option<Event> {
        if told.membership != self.membership {
            self.stop_all();
            let lost: Vec<_> = std::mem::take(&mut self.reading).into_keys().collect();
            (self.membership, self.version) = (told.membership, 0);
            self.own();
            if !lost.is_empty() {
                return Some(Event::Lost(lost));
            }
        }
        let is_new = told.version != self.version;
        let Some(target) = told.assignment.filter(|_| is_new) else {
            self.version = told.version;
            return None;
        };
        let is_kept = |(at, reading): &(&TopicPartition, &Reading)| {
            target.get(*at).is_some_and(|id| *id == reading.topic_id)
        };
        let revoked: Vec<_> =
            self.reading.iter().filter(|one| !is_kept(one)).map(|(at, _)| at.clone()).collect();
        if !revoked.is_empty() {
            for at in &revoked {
                self.reading.get(at).inspect(|reading| reading.stop.abort());
            }
            self.auto_commit(true).await;
            self.releasing.clone_from(&revoked);
            return Some(Event::Revoked(revoked));
        }
        self.version = told.version;
        let added: Vec<_> =
            target.iter().filter(|(at, _)| !self.reading.contains_key(at)).collect();
        if added.is_empty() {
            return None;
        }
        let added: BTreeMap<_, _> =
            added.into_iter().map(|(a, b)| (a.clone(), b.clone())).collect();
        let list = added.keys().cloned().collect();
        self.begin(added);
        self.own();
        Some(Event::Assigned(list))
    }

    fn begin(&mut self, added: BTreeMap<TopicPartition, String>) {
        let all = self.reading.len() + added.len();
        let committed = Committed::of(&self.client, &self.config, added.keys().cloned().collect());
        for (at, topic_id) in added {
            let place = Place::new(&self.client, &self.config, at.clone(), committed.clone());
            let (going, stop) = place.go(self.config.window(all));
            self.going.push(going);
            let (position, committed) = (None, None);
            self.reading.insert(at, Reading { topic_id, position, committed, stop });
        }
    }

    /// Takes what a partition gave, and has it go on.
    fn went(&mut self, went: Went) -> Result<Option<Records>> {
        let Went { mut place, found } = went;
        let window = self.config.window(self.reading.len());
        let at = place.at().clone();
        let Some(reading) = self.reading.get_mut(&at) else { return Ok(None) };
        let mut go_on = |place: Place| {
            let (going, stop) = place.go(window);
            self.going.push(going);
            reading.stop = stop;
        };
        match found {
            Ok(records) => {
                let next = place.next_offset();
                go_on(place);
                if records.is_empty() && reading.position.is_none() {
                    return Ok(None);
                }
                reading.position = next.or(reading.position);
                let next = reading.position.unwrap_or_default();
                Ok((!records.is_empty()).then_some(Records::new(at, records, next)))
            }
            // The topic is gone, which the group will say soon, or not there yet.
            Err(error) if place::is_gone(&error) => {
                place.pause();
                go_on(place);
                Ok(None)
            }
            Err(error) if error.code == ErrorCode::OffsetOutOfRange => {
                tracing::warn!(%error, "what was to be read is gone, going on from elsewhere");
                place.start_over();
                go_on(place);
                Ok(None)
            }
            Err(error) => {
                go_on(place);
                Err(error)
            }
        }
    }

    /// Gives back what was revoked before this call.
    fn release(&mut self) {
        if self.releasing.is_empty() {
            return;
        }
        for at in std::mem::take(&mut self.releasing) {
            self.reading.remove(&at);
        }
        self.own();
    }

    /// Tells the session what is read now.
    fn own(&self) {
        let partitions = self.reading.keys().cloned().collect();
        self.session.own(OwnedSet { membership: self.membership, partitions });
    }

    /// Commits what moved, if it is time or `now`. What fails is tried again at the next time: at
    /// worst records are read twice.
    async fn auto_commit(&mut self, now: bool) {
        let Some(every) = self.config.auto_commit else { return };
        if !now && self.committed_at.elapsed() < every {
            return;
        }
        let moved = self.reading.iter().filter(|(_, reading)| reading.position > reading.committed);
        let moved: Offsets =
            moved.filter_map(|(at, reading)| Some((at.clone(), reading.position?))).collect();
        // Records that are there must not wait for a coordinator that is not.
        let limit = if now { self.config.rebalance_timeout / 2 } else { AUTO_COMMIT_LIMIT };
        if let Err(error) = self.commit_within(&moved, limit).await {
            tracing::warn!(%error, group = %self.config.group, "offsets are not committed");
        }
        self.committed_at = Instant::now();
    }

    fn stop_all(&mut self) {
        self.reading.values().for_each(|reading| reading.stop.abort());
        self.going = FuturesUnordered::new();
        self.releasing.clear();
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

impl Error {
    /// For calls of a consumer whose session has ended.
    pub(crate) fn left(group: &str) -> Self {
        Self::invalid(format!("the consumer has left group {group:?}"))
    }
}
