//! The probe: a store that breaks the one rule is refused before anything relies on it.
//!
//! Owns: what is checked when, the verdict, and removing what was written. Does not own: the
//! checks themselves (`checks`). A broker probes at every start and stops at the first failure;
//! `levee storage probe` checks everything and reports.

mod checks;

use std::time::Duration;

use futures::future::join_all;
use levee_runtime::Host;
use thiserror::Error;

use super::{Kind, Op, Store, StoreError};
use checks::{Fault, Probe};

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

/// Why a store is not used.
#[derive(Debug, Error)]
pub enum ProbeError {
    #[error("the bucket {bucket} cannot be probed: {error}")]
    Store { bucket: String, error: StoreError },
    /// Acknowledged records would be lost on such a store.
    #[error(
        "the store at {server} is not safe for Levee: it {why}. Levee needs create-if-absent \
         (If-None-Match: * on PUT) with exactly one winner, and reads and listings that see it at \
         once: use AWS S3, Google Cloud Storage, Azure Blob Storage, MinIO, Ceph or a folder; \
         `levee storage probe URL` shows every check"
    )]
    Unsafe { server: String, why: String },
}

/// What is checked, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    Create,
    Race,
    EqualBytes,
    Read,
    List,
    Delete,
    Multipart,
}

impl Check {
    pub const ALL: [Self; 7] = [
        Self::Create,
        Self::Race,
        Self::EqualBytes,
        Self::Read,
        Self::List,
        Self::Delete,
        Self::Multipart,
    ];
    /// What a broker's start looks at.
    const AT_START: [Self; 5] =
        [Self::Create, Self::Race, Self::EqualBytes, Self::Read, Self::List];

    pub fn name(self) -> &'static str {
        match self {
            Self::Create => "create-if-absent",
            Self::Race => "racing creates",
            Self::EqualBytes => "racing creates of equal bytes",
            Self::Read => "whole and ranged reads",
            Self::List => "listing after a create",
            Self::Delete => "delete",
            Self::Multipart => "upload in parts",
        }
    }
}

/// What came of one check.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// With what was seen.
    Passed(String),
    /// It breaks a rule.
    Broken(String),
    /// It did not do what was asked.
    Failed(StoreError),
    /// An earlier failure makes it pointless.
    Skipped,
}

/// Whether Levee can use a store. The worst that any check says counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    Safe,
    /// Nothing answered, or nothing was allowed: the store may be fine.
    Unreachable,
    Unsafe,
}

/// How long small requests took.
#[derive(Debug, Clone, PartialEq)]
pub struct Latency {
    pub op: Op,
    pub count: usize,
    pub p50: Duration,
    pub p99: Duration,
}

/// Everything that the probe saw.
#[derive(Debug, Clone)]
pub struct Report {
    pub bucket: String,
    pub server: Option<String>,
    pub caveat: Option<&'static str>,
    pub checks: Vec<(Check, Outcome)>,
    /// Empty unless the store is safe.
    pub latencies: Vec<Latency>,
    /// What could not be removed lies below this key.
    pub left_behind: Option<String>,
}

impl Report {
    pub fn verdict(&self) -> Verdict {
        let verdicts = self.checks.iter().map(|(_, outcome)| match outcome {
            Outcome::Passed(_) => Verdict::Safe,
            Outcome::Broken(_) => Verdict::Unsafe,
            Outcome::Failed(error) => match error.kind {
                Kind::Exists | Kind::Unsupported | Kind::Short | Kind::NotFound => Verdict::Unsafe,
                _ => Verdict::Unreachable,
            },
            Outcome::Skipped => Verdict::Unreachable,
        });
        verdicts.max().unwrap_or(Verdict::Unreachable)
    }
}

/// Races creates, reads and lists below `probe/`, and removes what it wrote.
pub async fn probe(store: &Store, host: &Host, rounds: Rounds) -> Result<(), ProbeError> {
    let (rounds, racers) = rounds.size();
    let probe = Probe::new(store, host, rounds, racers);
    let mut result = Ok(());
    for check in Check::AT_START {
        result = probe.run(check).await.map(drop).map_err(|fault| match fault {
            Fault::Broken(why) => ProbeError::Unsafe { server: server_of(store), why },
            Fault::Store(error) => ProbeError::Store { bucket: store.describe().to_owned(), error },
        });
        if result.is_err() {
            break;
        }
    }
    if let Err(error) = remove(store, &probe.folder).await {
        tracing::warn!(folder = probe.folder, %error, "what the probe wrote stays until the sweep");
    }
    result
}

/// Every check, whatever came of the one before, and how long requests take.
pub async fn examine(store: &Store, host: &Host) -> Report {
    let (rounds, racers) = Rounds::First.size();
    let probe = Probe::new(store, host, rounds, racers);
    let mut checks = Vec::new();
    for check in Check::ALL {
        let is_pointless = matches!(checks.first(), Some((_, Outcome::Failed(_))));
        let outcome = match is_pointless {
            true => Outcome::Skipped,
            false => match probe.run(check).await {
                Ok(seen) => Outcome::Passed(seen),
                Err(Fault::Broken(why)) => Outcome::Broken(why),
                Err(Fault::Store(error)) => Outcome::Failed(error),
            },
        };
        checks.push((check, outcome));
    }
    let is_safe = checks.iter().all(|(_, outcome)| matches!(outcome, Outcome::Passed(_)));
    let latencies = if is_safe { probe.latencies().await } else { Vec::new() };
    let wrote = !matches!(checks.first(), Some((_, Outcome::Failed(_))));
    let left_behind = match wrote && remove(store, &probe.folder).await.is_err() {
        true => Some(probe.folder.clone()),
        false => None,
    };
    let (bucket, server) = (store.describe().to_owned(), store.server());
    let caveat = store.caveat();
    Report { bucket, server, caveat, checks, latencies, left_behind }
}

fn server_of(store: &Store) -> String {
    store.server().unwrap_or_else(|| store.describe().to_owned())
}

async fn remove(store: &Store, folder: &str) -> Result<(), StoreError> {
    let listed = store.list(folder).await?;
    // As many at once as a store bears without slowing down.
    for some in listed.chunks(64) {
        let deletes = some.iter().map(|listed| store.delete(&listed.key));
        join_all(deletes).await.into_iter().collect::<Result<(), _>>()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_check_gives_the_verdict() {
        let failed = |kind| Outcome::Failed(StoreError::new(Op::Create, "k", kind, "no"));
        let (passed, broken) = (Outcome::Passed("x".into()), Outcome::Broken("x".into()));
        for (outcomes, verdict) in [
            (vec![passed.clone()], Verdict::Safe),
            (vec![passed.clone(), failed(Kind::Timeout)], Verdict::Unreachable),
            (vec![failed(Kind::Unavailable), passed.clone(), broken], Verdict::Unsafe),
            (vec![failed(Kind::Denied), failed(Kind::Unsupported)], Verdict::Unsafe),
            (vec![failed(Kind::Denied), Outcome::Skipped], Verdict::Unreachable),
        ] {
            let checks = outcomes.into_iter().map(|outcome| (Check::Race, outcome)).collect();
            let (bucket, server) = ("b".into(), None);
            let (caveat, latencies, left_behind) = (None, Vec::new(), None);
            let report = Report { bucket, server, caveat, checks, latencies, left_behind };
            assert_eq!(report.verdict(), verdict, "{report:?}");
        }
    }
}
