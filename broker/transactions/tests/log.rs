//! What is in the log, what comes back from it, what time and queries make of it.
#![allow(clippy::unwrap_used)]

mod common;

use bytes::Bytes;
use common::{Coordinator, Got, partitions, producer};
use levee_kafka::messages::list_transactions_request::ListTransactionsRequest;
use levee_kafka::messages::transaction_log_key::TransactionLogKey;
use levee_kafka::messages::transaction_log_value::TransactionLogValue;
use levee_kafka::{ErrorCode as E, Message, Reader, Writer};
use levee_transactions::{
    Answer, Prepare, Producer, ReplayError, Request, Settings, State, Transactions,
};

const P: Producer = Producer { id: 1000, epoch: 0 };

fn begun() -> Coordinator {
    let mut c = Coordinator::new();
    c.init("a");
    c.add(3, "a", P, &[("t", &[0, 1]), ("u", &[2])]);
    c
}

fn value(c: &Coordinator, at: usize) -> TransactionLogValue {
    let mut r = Reader::new(c.log[at].1.clone().unwrap());
    assert_eq!(r.i16().unwrap(), 1);
    let value = TransactionLogValue::decode(&mut r, 1).unwrap();
    r.end().unwrap();
    value
}

#[test]
fn records_are_kafkas() {
    let mut c = begun();
    let mut r = Reader::new(c.log[0].0.clone());
    assert_eq!(r.i16().unwrap(), 0);
    assert_eq!(TransactionLogKey::decode(&mut r, 0).unwrap().transactional_id, "a");
    let empty = value(&c, 0);
    assert_eq!((empty.transaction_status, empty.transaction_partitions), (0, None));
    assert_eq!(empty.transaction_start_timestamp_ms, -1);
    let ongoing = value(&c, 1);
    assert_eq!((ongoing.producer_id, ongoing.producer_epoch), (1000, 0));
    assert_eq!((ongoing.transaction_status, ongoing.transaction_timeout_ms), (1, 60_000));
    assert_eq!(ongoing.transaction_start_timestamp_ms, 1_000_000);
    let topics = ongoing.transaction_partitions.unwrap();
    let topics: Vec<_> = topics.iter().map(|of| (&*of.topic, &*of.partition_ids)).collect();
    assert_eq!(topics, [("t", &[0, 1][..]), ("u", &[2][..])]);
    c.now_ms += 5;
    c.end(5, "a", P, true);
    let prepared = value(&c, 2);
    assert_eq!((prepared.transaction_status, prepared.client_transaction_version), (2, 2));
    assert_eq!((prepared.previous_producer_id, prepared.next_producer_id), (1000, -1));
    assert_eq!(prepared.producer_epoch, 1);
    assert_eq!(prepared.transaction_last_update_timestamp_ms, 1_000_005);
    c.write_markers();
    let complete = value(&c, 3);
    assert_eq!((complete.transaction_status, complete.producer_epoch), (4, 1));
    assert_eq!(complete.transaction_partitions.unwrap(), []);
    assert_eq!(complete.transaction_start_timestamp_ms, 1_000_000);
}

#[test]
fn a_decision_names_its_record_and_asks_for_its_markers_again_after_a_crash() {
    let mut c = begun();
    c.end(4, "a", P, true);
    let first = c.markers[0].clone();
    assert_eq!(first.prepare, Prepare::Offset(2));
    let written = c.state.written(c.now_ms, first.decision, "t", &[0]);
    assert!(written.records.is_empty());
    c.crash();
    // Which were written is not known: the partitions leave out what they have.
    let again = c.markers[0].clone();
    assert_eq!((again.prepare, again.coordinator_epoch), (Prepare::Offset(2), 8));
    assert_eq!((again.partitions, again.commit, again.producer), (first.partitions, true, P));
    c.write_markers();
    assert_eq!(c.state_of("a"), "CompleteCommit");
    let records = c.log.len();
    c.crash();
    assert!(c.markers.is_empty());
    assert_eq!(c.log.len(), records);
}

#[test]
fn a_decision_is_complete_when_every_partition_has_its_marker() {
    let mut c = begun();
    c.end(4, "a", P, false);
    let decision = c.markers[0].decision;
    let now_ms = c.now_ms;
    for (topic, ids) in [("t", &[1][..]), ("t", &[1]), ("x", &[0]), ("t", &[7]), ("u", &[2])] {
        assert!(c.state.written(now_ms, decision, topic, ids).records.is_empty());
    }
    assert_eq!(c.state.unwritten(decision), Some(&partitions(&[("t", &[0])])));
    assert!(c.state.written(now_ms, decision + 1, "t", &[0]).records.is_empty());
    let effects = c.state.written(now_ms, decision, "t", &[0]);
    assert_eq!(effects.records.len(), 1);
    c.follow(effects);
    assert_eq!(c.state.unwritten(decision), None);
    assert_eq!(c.state_of("a"), "CompleteAbort");
    // A late report of this decision says nothing of the next one of the same producer.
    c.add(3, "a", P, &[("t", &[0])]);
    c.end(4, "a", P, true);
    assert!(c.state.written(now_ms, decision, "t", &[0]).records.is_empty());
    assert_eq!(c.state_of("a"), "PrepareCommit");
}

#[test]
fn ids_that_nobody_uses_are_forgotten_but_not_open_transactions() {
    let settings = Settings { expiration_ms: 1_000, ..Settings::default() };
    let mut c = Coordinator::with(settings);
    c.init("a");
    c.init("b");
    c.add(3, "b", producer(1001, 0), &[("t", &[0])]);
    c.now_ms += 999;
    c.tick();
    assert_eq!(c.state_of("a"), "Empty");
    c.now_ms += 1;
    assert_eq!(c.state.deadline(), Some(c.now_ms));
    c.tick();
    assert_eq!(c.log.last().unwrap().1, None);
    assert_eq!(c.describe("a").error_code, E::TransactionalIdNotFound as i16);
    assert_eq!(c.state_of("b"), "Ongoing");
    c.crash();
    assert_eq!(c.describe("a").error_code, E::TransactionalIdNotFound as i16);
    assert_eq!(c.end(4, "a", P, true), Got::Code(E::InvalidProducerIdMapping));
}

#[test]
fn a_time_out_without_a_producer_id_in_stock_is_tried_again() {
    let mut c = Coordinator::new();
    for epoch in 0..i16::MAX {
        assert_eq!(c.init("a"), Got::Producer(producer(1000, epoch)));
    }
    c.add(3, "a", producer(1000, i16::MAX - 1), &[("t", &[0])]);
    c.crash();
    c.now_ms = c.state.deadline().unwrap();
    c.tick();
    assert_eq!(c.state_of("a"), "Ongoing");
    assert_eq!(c.state.deadline(), Some(c.now_ms + 1_000));
    c.now_ms += 1_000;
    // A request has put one in stock.
    c.tick();
    assert_eq!(c.state_of("a"), "PrepareAbort");
}

#[test]
fn unknown_keys_are_left_out_and_bad_records_are_named() {
    let fresh = || Transactions::new(Settings::default(), 1, 0);
    let c = begun();
    let (key, value) = (c.log[1].0.clone(), c.log[1].1.clone().unwrap());
    let mut state = fresh();
    state.replay(0, Bytes::from_static(&[0, 9, 1, 2, 3]), None).unwrap();
    state.replay(1, Bytes::from_static(&[0, 1]), Some(value.clone())).unwrap();
    assert_eq!(state.records().count(), 0);
    let error =
        |key: &Bytes, value: Bytes| fresh().replay(5, key.clone(), Some(value)).unwrap_err();
    for cut in 0..value.len() {
        let damaged = error(&key, value.slice(..cut));
        assert!(matches!(damaged, ReplayError::Damaged { offset: 5, .. }), "{cut}: {damaged}");
    }
    let mut w = Writer::new();
    w.i16(2);
    let newer = error(&key, w.into_bytes());
    assert_eq!(newer, ReplayError::NewerValue { offset: 5, version: 2 });
    for status in [6, 7, 8, -1] {
        let mut w = Writer::new();
        w.i16(1);
        TransactionLogValue { transaction_status: status, ..Default::default() }.encode(&mut w, 1);
        let text = error(&key, w.into_bytes()).to_string();
        assert!(
            text.ends_with(&format!(
                "offset 5 of the transaction log says transaction_status = {status}"
            )),
            "{text}"
        );
    }
    assert!(fresh().replay(5, Bytes::new(), None).is_err());
}

#[test]
fn old_values_are_read() {
    let mut w = Writer::new();
    w.i16(0);
    let old = TransactionLogValue {
        producer_id: 7,
        producer_epoch: 3,
        transaction_status: 4,
        transaction_timeout_ms: 9,
        transaction_partitions: Some(Vec::new()),
        ..Default::default()
    };
    old.encode(&mut w, 0);
    let mut c = begun();
    c.log.push((c.log[0].0.clone(), Some(w.into_bytes())));
    c.crash();
    assert_eq!(c.init_as("a", 4, Some(producer(7, 2))), Got::Code(E::ProducerFenced));
    assert_eq!(c.init_as("a", 4, Some(producer(7, 3))), Got::Producer(producer(7, 4)));
}

#[test]
fn a_transaction_grows_no_larger_than_a_record() {
    let settings = Settings { max_record_bytes: 1_000, ..Settings::default() };
    let mut c = Coordinator::with(settings);
    c.init("a");
    let many: Vec<i32> = (0..200).collect();
    assert_eq!(c.add(3, "a", P, &[("t", &many)]), Got::Code(E::None));
    assert_eq!(c.add(3, "a", P, &[("u", &many)]), Got::Code(E::UnknownServerError));
    assert_eq!(c.end(4, "a", P, false), Got::Producer(P));
    assert_eq!(c.markers[0].partitions.len(), 1);
}

#[test]
fn an_id_that_fits_no_record_is_refused() {
    let settings = Settings { max_record_bytes: 1_000, ..Settings::default() };
    let mut c = Coordinator::with(settings);
    assert_eq!(c.init(&"x".repeat(900)), Got::Code(E::InvalidRequest));
    assert_eq!(c.init(&"x".repeat(800)), Got::Producer(P));
    assert_eq!(c.log.len(), 1);
}

#[test]
fn many_ids_that_nobody_uses_go_in_several_ticks() {
    let settings = Settings { max_record_bytes: 1_000, ..Settings::default() };
    let mut c = Coordinator::with(settings);
    for id in 0..100 {
        c.init(&id.to_string());
    }
    c.now_ms += 8 * 24 * 3_600_000;
    let (mut ticks, mut logged) = (0, c.log.len());
    while c.state.deadline().is_some_and(|due_ms| due_ms <= c.now_ms) {
        c.tick();
        assert!(c.log.len() - logged <= 30);
        (ticks, logged) = (ticks + 1, c.log.len());
    }
    assert!(ticks > 3 && c.state.records().count() == 0);
}

fn list(c: &mut Coordinator, version: i16, request: ListTransactionsRequest) -> Vec<String> {
    let answer = c.ask(version, Request::ListTransactions(request));
    let Answer::ListTransactions(answer) = answer else { panic!("{answer:?}") };
    assert_eq!(answer.error_code, 0);
    answer.transaction_states.into_iter().map(|of| of.transactional_id).collect()
}

#[test]
fn transactions_are_listed_by_state_producer_duration_and_pattern() {
    let mut c = begun();
    c.init("b");
    c.now_ms += 500;
    c.init("bb");
    c.add(3, "bb", producer(1002, 0), &[("t", &[0])]);
    let all = ListTransactionsRequest { duration_filter: -1, ..Default::default() };
    assert_eq!(list(&mut c, 2, all.clone()), ["a", "b", "bb"]);
    let states = |of: &[&str]| ListTransactionsRequest {
        state_filters: of.iter().map(|name| name.to_string()).collect(),
        ..all.clone()
    };
    assert_eq!(list(&mut c, 0, states(&["Empty", "Strange"])), ["b"]);
    assert!(list(&mut c, 0, states(&["Dead", "PrepareEpochFence"])).is_empty());
    let answer = c.ask(0, Request::ListTransactions(states(&["Strange"])));
    let Answer::ListTransactions(answer) = answer else { panic!("{answer:?}") };
    assert_eq!(answer.unknown_state_filters, ["Strange"]);
    let ids = ListTransactionsRequest { producer_id_filters: vec![1002, 5], ..all.clone() };
    assert_eq!(list(&mut c, 0, ids), ["bb"]);
    let long =
        |duration_filter| ListTransactionsRequest { duration_filter, ..states(&["Ongoing"]) };
    assert_eq!(list(&mut c, 1, long(499)), ["a"]);
    assert!(list(&mut c, 1, long(500)).is_empty());
    assert_eq!(list(&mut c, 0, long(500)), ["a", "bb"]);
    let pattern = |pattern: &str| ListTransactionsRequest {
        transactional_id_pattern: Some(pattern.into()),
        ..all.clone()
    };
    // Of the whole id.
    assert_eq!(list(&mut c, 2, pattern("b")), ["b"]);
    assert_eq!(list(&mut c, 2, pattern("a|b+")), ["a", "b", "bb"]);
    assert_eq!(list(&mut c, 2, pattern("")), ["a", "b", "bb"]);
    assert_eq!(list(&mut c, 1, pattern("b")), ["a", "b", "bb"]);
    for bad in ["(", "a)(b", "(a{1000}){1000}"] {
        let answer = c.ask(2, Request::ListTransactions(pattern(bad)));
        let Answer::ListTransactions(answer) = answer else { panic!("{answer:?}") };
        assert_eq!(answer.error_code, E::InvalidRegularExpression as i16, "{bad}");
    }
}

#[test]
fn a_transaction_is_described_with_its_partitions() {
    let mut c = begun();
    let described = c.describe("a");
    assert_eq!((described.error_code, &*described.transaction_state), (0, "Ongoing"));
    assert_eq!((described.producer_id, described.producer_epoch), (1000, 0));
    assert_eq!(
        (described.transaction_timeout_ms, described.transaction_start_time_ms),
        (60_000, 1_000_000)
    );
    let topics: Vec<_> = described.topics.iter().map(|of| (&*of.topic, &*of.partitions)).collect();
    assert_eq!(topics, [("t", &[0, 1][..]), ("u", &[2][..])]);
    assert_eq!(c.describe("nobody").error_code, E::TransactionalIdNotFound as i16);
    assert_eq!(c.describe("").error_code, E::InvalidRequest as i16);
    assert_eq!(State::from_name("CompleteAbort").map(State::name), Some("CompleteAbort"));
}
