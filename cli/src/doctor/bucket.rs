//! The bucket: whether it can be reached, keeps the one rule that Levee needs, and what its clock
//! says.

use std::time::{Duration, Instant};

use bytes::Bytes;
use levee_broker::config::BrokerConfig;
use levee_proto::head::{Head, Kind};
use levee_proto::ids::{Nonce, Writer};
use levee_proto::keys;
use levee_runtime::Host;
use levee_runtime::real::RealWorld;
use levee_tiering::store::probe::{ProbeError, Rounds, probe};
use levee_tiering::store::{Created, Deadlines, Kind as StoreKind, Store, StoreError};

use super::finding::Finding;
use crate::codes::Code;

const CHECK: &str = "bucket";
/// S3 tells whole seconds; at 15 minutes it refuses signatures.
const CLOCK_WARN_MS: u64 = 5_000;
/// How long a bucket that refuses the first question is asked again.
const FIRST_ANSWER: Duration = Duration::from_secs(2);
const REMEDY: &str =
    "check bucket.url, credentials, network and permissions (get, put, delete, list)";

pub(super) async fn check(config: &BrokerConfig, writes: bool, limit: Duration) -> Vec<Finding> {
    let url = config.bucket_url.to_string();
    if config.bucket_url.as_folder().is_some_and(|folder| !folder.exists()) {
        // Opening it would make it.
        let found = format!("{url} is not there");
        return vec![Finding::warn(CHECK, found, "it is made at the first start")];
    }
    let host = RealWorld::host();
    let store = match Store::open(config.bucket_url.expose(), host.clone()) {
        Ok(store) => store,
        Err(error) => return vec![failed(&error)],
    };
    // The probe tries again for as long as it may, and cut off it gives no reason.
    let (request, operation) = (limit / 2, FIRST_ANSWER.min(limit / 2));
    let first = store.clone().with_deadlines(Deadlines { request, operation });
    let looked = async {
        match first.list(keys::PROBE).await {
            Ok(_) => look(&store, &host, writes).await,
            Err(error) => vec![failed(&error)],
        }
    };
    let looked = tokio::time::timeout(limit, looked).await;
    looked.unwrap_or_else(|_| {
        let found = format!("{url} does not answer within {limit:?}");
        vec![Finding::fail(CHECK, found, REMEDY).because(Code::StoreUnavailable)]
    })
}

/// The error names the bucket's URL, or the object.
fn failed(error: &StoreError) -> Finding {
    let code = match error.kind {
        StoreKind::Invalid => Code::CheckFailed,
        _ => Code::StoreUnavailable,
    };
    Finding::fail(CHECK, error.to_string(), REMEDY).because(code)
}

async fn look(store: &Store, host: &Host, writes: bool) -> Vec<Finding> {
    let url = store.describe();
    let started = Instant::now();
    if !writes {
        return vec![match store.list(keys::PROBE).await {
            Ok(_) => Finding::ok(CHECK, format!("{url} lists in {}", ms(started))),
            Err(error) => failed(&error),
        }];
    }
    let probed = match probe(store, host, Rounds::Restart).await {
        Ok(()) => {
            let found = format!("{url} creates once, reads and lists (probe: {})", ms(started));
            Finding::ok(CHECK, found)
        }
        Err(ProbeError::Store { error, .. }) => return vec![failed(&error)],
        Err(error @ ProbeError::Unsafe { .. }) => {
            let remedy = "do not use it for Levee: acknowledged records would be lost";
            return vec![Finding::fail(CHECK, error.to_string(), remedy)];
        }
    };
    vec![probed, clock(store, host).await]
}

fn ms(started: Instant) -> String {
    format!("{} ms", started.elapsed().as_millis())
}

async fn clock(store: &Store, host: &Host) -> Finding {
    const CHECK: &str = "clock";
    match clock_ahead_ms(store, host).await {
        Ok(Some(ahead)) => {
            let found = format!("the bucket's clock is {}", difference(ahead));
            match ahead.unsigned_abs() > CLOCK_WARN_MS {
                false => Finding::ok(CHECK, found),
                true => Finding::warn(CHECK, found, "set this machine's clock (NTP)"),
            }
        }
        Ok(None) => Finding::ok(CHECK, "the bucket tells no time"),
        Err(error) => failed(&error),
    }
}

/// By the time that the bucket gives to an object that is made and removed here.
async fn clock_ahead_ms(store: &Store, host: &Host) -> Result<Option<i64>, StoreError> {
    let folder = format!("{}/{:032x}", keys::PROBE, host.random_u128());
    let (key, nonce) = (format!("{folder}/clock"), Nonce(host.random_u128()));
    let head = Head {
        kind: Kind::Probe,
        nonce,
        writer: Writer(0),
        term: 0,
        seq: 0,
        body_len: 0,
        extra: 0,
    };
    let before = host.wall_ms();
    let created = store.create(&key, vec![Bytes::copy_from_slice(&head.encode())], nonce).await;
    let middle = before + (host.wall_ms() - before) / 2;
    let listed = store.list(&folder).await;
    // Whatever came of it: nothing stays.
    let deleted = store.delete(&key).await;
    if let Created::Unknown(error) = created {
        return Err(error);
    }
    let listed = listed?;
    deleted?;
    let ours = listed.iter().find(|listed| listed.key == key && listed.modified_ms > 0);
    Ok(ours.map(|listed| listed.modified_ms - middle))
}

/// Of another clock, for people.
pub(super) fn difference(ahead_ms: i64) -> String {
    let by = crate::output::millis(ahead_ms.unsigned_abs());
    match ahead_ms {
        ..-999 => format!("{by} behind this one"),
        1000.. => format!("{by} ahead of this one"),
        _ => "within a second of this one".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::State;
    use super::*;

    #[tokio::test]
    async fn a_folder_is_probed_and_left_empty_and_a_missing_one_is_not_made() {
        let dir = tempfile::tempdir().unwrap();
        let bucket = dir.path().join("bucket");
        let url = format!("file://{}", bucket.display());
        let config = BrokerConfig::dev(dir.path(), &[("bucket.url", &url)]).unwrap();
        let limit = Duration::from_secs(30);
        let found = check(&config, true, limit).await;
        assert!(found[0].state == State::Warn && !bucket.exists(), "{found:?}");
        std::fs::create_dir(&bucket).unwrap();
        let found = check(&config, true, limit).await;
        assert!(found.len() == 2 && found.iter().all(|f| f.state == State::Ok), "{found:?}");
        let store = Store::open(&url, RealWorld::host()).unwrap();
        assert_eq!(store.list("").await.unwrap(), []);
        let found = check(&config, false, limit).await;
        assert!(found.len() == 1 && found[0].state == State::Ok, "{found:?}");
    }

    #[test]
    fn a_difference_has_a_direction() {
        assert_eq!(difference(-61_000), "1m 1s behind this one");
        assert_eq!(difference(1500), "1.5 s ahead of this one");
        assert_eq!(difference(-999), "within a second of this one");
    }
}
