//! The start-up probe: a store that breaks the one rule is refused before anything relies on it.

use bytes::Bytes;
use futures::future::join_all;
use levee_proto::head::{HEAD_BYTES, Head, Kind};
use levee_proto::ids::{Nonce, Writer};
use levee_proto::keys;
use levee_runtime::{Backoff, Host};
use std::time::Duration;
use thiserror::Error;

use super::{Created, Store, StoreError};

/// How hard to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rounds {
    /// Once per cluster: 32 rounds of 16 racing creates.
    First,
    /// At other starts: 1 round of 4.
    Restart,
}

impl Rounds {
    fn size(self) -> (usize, usize) {
        match self {
            Self::First => (32, 16),
            Self::Restart => (1, 4),
        }
    }
}

#[derive(Debug, Error)]
pub enum ProbeError {
    #[error("the bucket {bucket} cannot be probed: {error}")]
    Store { bucket: String, error: StoreError },
    /// Acknowledged records would be lost on such a store.
    #[error(
        "the bucket {bucket} is not safe for Levee: {why}. Levee needs create-if-absent \
         (If-None-Match: *) with exactly one winner and reads that see it at once; use AWS S3, \
         Google Cloud Storage, Azure Blob Storage, MinIO or a local folder"
    )]
    Unsafe { bucket: String, why: String },
}

/// Races creates, reads and lists below `probe/`, and removes what it wrote.
pub async fn probe(store: &Store, host: &Host, rounds: Rounds) -> Result<(), ProbeError> {
    let folder = format!("{}/{:032x}", keys::PROBE, host.random_u128());
    let (count, racers) = rounds.size();
    let mut result = Ok(());
    for round in 0..count {
        result = one_round(store, host, &format!("{folder}/{round:04}"), racers).await;
        if result.is_err() {
            break;
        }
    }
    // What stays after a failure is below `probe/`, which nothing ever reads.
    if let Ok(listed) = store.list(&folder).await {
        join_all(listed.iter().map(|l| store.delete(&l.key))).await;
    }
    result
}

async fn one_round(store: &Store, host: &Host, key: &str, racers: usize) -> Result<(), ProbeError> {
    let failed = |error| ProbeError::Store { bucket: store.describe().into(), error };
    let bad = |why: String| ProbeError::Unsafe { bucket: store.describe().into(), why };
    let bodies: Vec<(Nonce, Bytes)> = (0..racers).map(|n| body(host, n as u64)).collect();
    let creates = bodies.iter().map(|(nonce, body)| settled(store, host, key, body, *nonce));
    let mut winners = Vec::new();
    for (won, (nonce, body)) in join_all(creates).await.into_iter().zip(&bodies) {
        if won.map_err(failed)? {
            winners.push((*nonce, body.clone()));
        }
    }
    let found = store.get(key).await.map_err(failed)?;
    let Some(found) = found else {
        return Err(bad(format!(
            "{} racing creates succeeded but nothing is there",
            winners.len()
        )));
    };
    match &winners[..] {
        [(_, body)] if *body == found => {}
        [_] => return Err(bad("the object is not the one whose create succeeded".into())),
        [] => return Err(bad("an object is there but no create succeeded".into())),
        _ => {
            return Err(bad(format!("{} of {racers} racing creates succeeded", winners.len())));
        }
    }
    // Equal bytes must not count as the same write.
    let (_, body) = &winners[0];
    let again = store.create(key, vec![body.clone()], Nonce(host.random_u128())).await;
    if matches!(again, Created::Won) {
        return Err(bad("a second create of the same bytes succeeded".into()));
    }
    let part = store.get_range(key, 8..24).await.map_err(failed)?;
    if part.as_deref() != Some(&found[8..24]) {
        return Err(bad("a ranged read gave other bytes".into()));
    }
    let folder = key.rsplit_once('/').map_or(key, |(folder, _)| folder);
    let listed = store.list(folder).await.map_err(failed)?;
    match listed.iter().any(|l| l.key == key && l.bytes == HEAD_BYTES as u64) {
        true => Ok(()),
        false => Err(bad("a listing does not show an object that was just created".into())),
    }
}

/// Whether this create won; tried again while nobody can tell (a lost reply, a transient 409, which
/// racing creates do cause).
async fn settled(
    store: &Store,
    host: &Host,
    key: &str,
    body: &Bytes,
    nonce: Nonce,
) -> Result<bool, StoreError> {
    const TRIES: usize = 10;
    let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
    let mut tries = 0;
    loop {
        tries += 1;
        match store.create(key, vec![body.clone()], nonce).await {
            Created::Won => return Ok(true),
            Created::Lost(_) => return Ok(false),
            Created::Unknown(error) => {
                let passes = error.is_retriable() || error.kind == super::Kind::Exists;
                if !passes || tries == TRIES {
                    return Err(error);
                }
                tracing::debug!(%error, "probe: one racer got no clear answer");
            }
        }
        backoff.wait(host).await;
    }
}

fn body(host: &Host, racer: u64) -> (Nonce, Bytes) {
    let nonce = Nonce(host.random_u128());
    let head = Head {
        kind: Kind::Probe,
        nonce,
        writer: Writer(racer),
        term: 0,
        seq: 0,
        body_len: 0,
        extra: 0,
    };
    (nonce, Bytes::copy_from_slice(&head.encode()))
}
