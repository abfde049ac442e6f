//! The MetaLog on a store: what a controller may delete, and what it may not.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use levee_proto::ids::Nonce;
use levee_proto::metalog::{Claim, Record};
use levee_runtime::real::RealWorld;
use levee_tiering::metalog::{Known, MetaLog, MetaState};
use levee_tiering::store::Store;

async fn new_log() -> (MetaLog, MetaState) {
    let host = RealWorld::host();
    let store = Store::open("memory://", host.clone()).unwrap();
    let cluster = MetaLog::identify(&store, &host).await.unwrap();
    (MetaLog::open(store, host, cluster.id), MetaState::new(cluster.id))
}

async fn write(log: &MetaLog, state: &mut MetaState, term: u64, records: Vec<Record>) {
    let slot = log.next_slot(state, term, 1, records);
    let crc = log.write(&slot, |_| ()).await.expect("nobody else writes");
    state.apply_slot(&slot, crc).unwrap();
}

async fn claim(log: &MetaLog, state: &mut MetaState) {
    let term = state.term + 1;
    let incarnation = Nonce(term.into());
    let claim = Claim { term, broker: 1, incarnation, address: String::new() };
    write(log, state, term, vec![claim.into()]).await;
}

async fn slots(log: &MetaLog, state: &mut MetaState, count: usize) {
    for _ in 0..count {
        let term = state.term;
        write(log, state, term, Vec::new()).await;
    }
}

#[tokio::test]
async fn what_snapshots_cover_goes_and_claims_stay() {
    let (log, mut state) = new_log().await;
    claim(&log, &mut state).await;
    slots(&log, &mut state, 20).await;
    claim(&log, &mut state).await;
    log.write_snapshot(&state, 1).await.unwrap();
    let first = state.head;
    slots(&log, &mut state, 20).await;
    log.write_snapshot(&state, 1).await.unwrap();
    slots(&log, &mut state, 5).await;
    let collected = log.collect(&Known::of(&state, 1), Duration::ZERO).await.unwrap();
    assert_eq!(collected as u64, first - 2, "all but the claims, up to the older snapshot");
    assert_eq!(log.boundary().await.unwrap(), first);
    assert_eq!(log.load().await.unwrap(), state);
}

/// F5, I21: one that slept while others ruled for a day must not delete the claim that deposed it,
/// or it could win that slot again.
#[tokio::test]
async fn a_deposed_controller_deletes_nothing_that_it_does_not_know() {
    let (log, mut state) = new_log().await;
    claim(&log, &mut state).await;
    slots(&log, &mut state, 3).await;
    let sleeper = state.clone();
    claim(&log, &mut state).await;
    for _ in 0..3 {
        slots(&log, &mut state, 10).await;
        log.write_snapshot(&state, 1).await.unwrap();
    }
    assert_eq!(log.collect(&Known::of(&sleeper, 1), Duration::ZERO).await.unwrap(), 0);
    let slot = log.next_slot(&sleeper, sleeper.term, 1, Vec::new());
    log.write(&slot, |_| ()).await.expect_err("that slot is taken for ever");
}
