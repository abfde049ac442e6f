//! What a store must do, one check each.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use levee_proto::head::{HEAD_BYTES, Head, Kind};
use levee_proto::ids::{Nonce, Writer};
use levee_proto::keys;
use levee_runtime::{Backoff, Host};

use super::{Check, Latency};
use crate::store::{self, Created, Op, Progress, Store, StoreError};

/// Requests of each kind that are timed, and how long at most.
const TIMED: usize = 50;
const TIMED_FOR: Duration = Duration::from_secs(5);
/// An upload of two parts, the first as large as parts are.
const LARGE: [usize; 2] = [8 << 20, 1 << 10];

/// A check that a store did not pass.
pub(super) enum Fault {
    Store(StoreError),
    /// "The store .."
    Broken(String),
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

fn broken<T>(why: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::Broken(why.into()))
}

pub(super) struct Probe<'a> {
    store: &'a Store,
    host: &'a Host,
    rounds: usize,
    racers: usize,
    /// Of this probe alone.
    pub folder: String,
    /// That somebody waits for a slow store was said.
    told: AtomicBool,
}

impl<'a> Probe<'a> {
    pub(super) fn new(store: &'a Store, host: &'a Host, rounds: usize, racers: usize) -> Self {
        let folder = format!("{}/{:032x}", keys::PROBE, host.random_u128());
        Self { store, host, rounds, racers, folder, told: AtomicBool::new(false) }
    }

    /// Runs a check; says what was seen.
    pub(super) async fn run(&self, check: Check) -> Result<String, Fault> {
        match check {
            Check::Create => self.create().await,
            Check::Race => self.race().await,
            Check::EqualBytes => self.equal_bytes().await,
            Check::Read => self.read().await,
            Check::List => self.list().await,
            Check::Delete => self.delete().await,
            Check::Multipart => self.multipart().await,
        }
    }

    fn key(&self, name: &str) -> String {
        format!("{}/{name}", self.folder)
    }

    async fn create(&self) -> Result<String, Fault> {
        let key = self.key("create");
        let (first, second) = (self.body(0), self.body(1));
        if !self.wins(&key, &first).await? {
            return broken("refused to create an object where none was");
        }
        if self.wins(&key, &second).await? {
            return broken("ignored If-None-Match on PUT: a second create replaced an object");
        }
        match self.store.get(&key).await? {
            Some(found) if found == first.1 => Ok("the second create was refused".into()),
            Some(_) => broken("refused a second create and replaced the object nevertheless"),
            None => broken("does not show an object that was just created"),
        }
    }

    async fn race(&self) -> Result<String, Fault> {
        for round in 0..self.rounds {
            let key = self.key(&format!("race/{round:04}"));
            let bodies: Vec<_> = (0..self.racers).map(|racer| self.body(racer as u64)).collect();
            let creates = bodies.iter().map(|body| self.wins(&key, body));
            let mut winners = Vec::new();
            for (won, (_, body)) in join_all(creates).await.into_iter().zip(&bodies) {
                if won? {
                    winners.push(body);
                }
            }
            let found = self.store.get(&key).await?;
            match (&winners[..], found) {
                ([winner], Some(found)) if **winner == found => {}
                ([_], Some(_)) => {
                    return broken("shows another object than the one whose create won a race");
                }
                ([], _) => return broken("let nobody win a race of creates"),
                (_, None) => return broken("does not show the object that won a race of creates"),
                (many, _) => return broken(self.won(many.len())),
            }
        }
        Ok(format!("{} of {} with exactly one winner of {}", self.rounds, self.rounds, self.racers))
    }

    fn won(&self, winners: usize) -> String {
        let of = self.racers;
        format!("ignored If-None-Match on PUT: {winners} of {of} racing writers won")
    }

    /// Writers of the same bytes: a store that compares contents takes them for one.
    async fn equal_bytes(&self) -> Result<String, Fault> {
        let rounds = self.rounds.div_ceil(4);
        for round in 0..rounds {
            let key = self.key(&format!("equal/{round:04}"));
            let (_, body) = self.body(0);
            // No writer's nonce is in it, so that only a clear yes counts as won.
            let racers = (0..self.racers).map(|_| (Nonce(self.host.random_u128()), body.clone()));
            let racers: Vec<_> = racers.collect();
            let creates = racers.iter().map(|racer| self.wins(&key, racer));
            let won: Result<Vec<bool>, _> = join_all(creates).await.into_iter().collect();
            let winners = won?.into_iter().filter(|won| *won).count();
            if winners > 1 {
                return broken(self.won(winners) + " with equal bytes");
            }
            if self.store.get(&key).await?.as_ref() != Some(&body) {
                return broken("does not show the object that won a race of equal bytes");
            }
        }
        Ok(format!("{rounds} of {rounds} with at most one winner of {}", self.racers))
    }

    async fn read(&self) -> Result<String, Fault> {
        let key = self.key("read");
        let body = self.body(0);
        self.wins(&key, &body).await?;
        let part = self.store.get_range(&key, 8..24).await?;
        if part.as_deref() != Some(&body.1[8..24]) {
            return broken("gave other bytes to a ranged read than were written");
        }
        let end = HEAD_BYTES as u64;
        match self.store.get_range(&key, end - 8..end + 8).await {
            Err(error) if error.kind == store::Kind::Short => {}
            Err(error) => return Err(error.into()),
            Ok(_) => return broken("gave bytes to a read beyond the end of an object"),
        }
        match self.store.get_range(&self.key("missing"), 0..8).await? {
            None => Ok("exact; short and missing objects are told".into()),
            Some(_) => broken("gave bytes of an object that is not there"),
        }
    }

    async fn list(&self) -> Result<String, Fault> {
        const ORDER: [&str; 4] = ["b", "a/2", "c", "a/1"];
        let folder = self.key("list");
        for (count, name) in ORDER.into_iter().enumerate() {
            let key = format!("{folder}/{name}");
            self.wins(&key, &self.body(0)).await?;
            let listed = self.store.list(&folder).await?;
            let shown = listed.iter().find(|listed| listed.key == key);
            match shown.map(|listed| listed.bytes) {
                Some(bytes) if bytes == HEAD_BYTES as u64 && listed.len() == count + 1 => {}
                Some(_) => return broken("lists wrong sizes, or objects that are not there"),
                None => return broken("does not list an object that was just created"),
            }
        }
        if !self.store.is_listed_in_order(&folder).await? {
            return broken("lists in another order than that of the keys");
        }
        let after = self.store.list_some(&folder, Some(&format!("{folder}/a/2")), 1).await?;
        match after.first().is_some_and(|listed| listed.key == format!("{folder}/b")) {
            true => Ok("each at once, in the order of keys".into()),
            false => broken("lists wrongly after a key"),
        }
    }

    async fn delete(&self) -> Result<String, Fault> {
        let key = self.key("delete/1");
        self.wins(&key, &self.body(0)).await?;
        self.store.delete(&key).await?;
        // Missing now, and fine.
        self.store.delete(&key).await?;
        if self.store.get(&key).await?.is_some() {
            return broken("shows an object that was deleted");
        }
        match self.store.list(&self.key("delete")).await?.is_empty() {
            true => Ok("gone at once".into()),
            false => broken("lists an object that was deleted"),
        }
    }

    async fn multipart(&self) -> Result<String, Fault> {
        let key = self.key("large");
        let part = |(number, size): (usize, usize)| Bytes::from(vec![number as u8 + 1; size]);
        let parts = LARGE.into_iter().enumerate().map(|each| Ok::<_, StoreError>(part(each)));
        self.store.put_large(&key, futures::stream::iter(parts), Progress::default()).await?;
        let seam = LARGE[0] as u64;
        let found = self.store.get_range(&key, seam - 1..seam + 1).await?;
        let len = self.store.len(&key).await?;
        match found.as_deref() == Some(&[1, 2]) && len == Some(LARGE.iter().sum::<usize>() as u64) {
            true => Ok("two parts, whole".into()),
            false => broken("does not give back what was uploaded in parts"),
        }
    }

    /// How long small requests take, one after the other.
    pub(super) async fn latencies(&self) -> Vec<Latency> {
        let key = |n: usize| self.key(&format!("timed/{n:04}"));
        let mut latencies = Vec::new();
        for op in [Op::Create, Op::GetRange, Op::List] {
            let begun = self.host.now();
            let mut took = Vec::new();
            while took.len() < TIMED && self.host.now().since(begun) < TIMED_FOR {
                let started = self.host.now();
                let key = key(took.len());
                let done = match op {
                    Op::Create => self.wins(&key, &self.body(0)).await.is_ok(),
                    Op::GetRange => self.store.get_range(&key, 0..8).await.is_ok(),
                    _ => self.store.list_some(&self.key("list"), None, 10).await.is_ok(),
                };
                if !done {
                    break;
                }
                took.push(self.host.now().since(started));
            }
            took.sort_unstable();
            let at = |percent: usize| took.get(took.len() * percent / 100).copied();
            if let (Some(p50), Some(p99)) = (at(50), at(99)) {
                latencies.push(Latency { op, count: took.len(), p50, p99 });
            }
        }
        latencies
    }

    /// Whether this create won; tried again while nobody can tell (a lost reply, a transient 409,
    /// which racing creates do cause), for as long as other operations are.
    async fn wins(&self, key: &str, (nonce, body): &(Nonce, Bytes)) -> Result<bool, StoreError> {
        const TRIES: usize = 10;
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
        let begun = self.host.now();
        let mut tries = 0;
        loop {
            tries += 1;
            match self.store.create(key, vec![body.clone()], *nonce).await {
                Created::Won => return Ok(true),
                Created::Lost(_) => return Ok(false),
                Created::Unknown(error) => {
                    let passes = error.is_retriable() || error.kind == store::Kind::Exists;
                    let is_over = self.host.now().since(begun) >= self.store.deadlines.operation;
                    if !passes || is_over || tries == TRIES {
                        return Err(error);
                    }
                    if error.kind != store::Kind::Exists && !self.told.swap(true, Relaxed) {
                        tracing::info!(%error, "the bucket gives no clear answers yet");
                    }
                }
            }
            backoff.wait(self.host).await;
        }
    }

    /// An object of Levee's, of a writer of its own.
    fn body(&self, writer: u64) -> (Nonce, Bytes) {
        let nonce = Nonce(self.host.random_u128());
        let head = Head {
            kind: Kind::Probe,
            nonce,
            writer: Writer(writer),
            term: 0,
            seq: 0,
            body_len: 0,
            extra: 0,
        };
        (nonce, Bytes::copy_from_slice(&head.encode()))
    }
}
