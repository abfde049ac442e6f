//! Producers come, are renewed, fenced, and run out of epochs.

mod common;

use common::{Coordinator, Got, end, init, producer};
use levee_kafka::ErrorCode as E;
use levee_transactions::{Request, Settings};

const LAST: i16 = i16::MAX - 1;

fn at_last_epoch(c: &mut Coordinator) {
    assert_eq!(c.init("a"), Got::Producer(producer(1000, 0)));
    for epoch in 1..=LAST {
        assert_eq!(c.init("a"), Got::Producer(producer(1000, epoch)));
    }
}

#[test]
fn each_transactional_id_has_a_producer_id_and_every_new_producer_an_epoch() {
    let mut c = Coordinator::new();
    assert_eq!(c.init("a"), Got::Producer(producer(1000, 0)));
    assert_eq!(c.init("b"), Got::Producer(producer(1001, 0)));
    assert_eq!(c.init("a"), Got::Producer(producer(1000, 1)));
    assert_eq!(c.state_of("a"), "Empty");
}

#[test]
fn bad_requests_get_kafkas_errors() {
    let mut c = Coordinator::new();
    assert_eq!(c.init(""), Got::Code(E::InvalidRequest));
    assert_eq!(c.init(&"x".repeat(32_768)), Got::Code(E::InvalidRequest));
    assert_eq!(c.init_as("a", 4, Some(producer(5, -1))), Got::Code(E::InvalidRequest));
    assert_eq!(c.init_as("a", 4, Some(producer(-1, 5))), Got::Code(E::InvalidRequest));
    for (timeout_ms, code) in [(0, false), (-1, false), (900_001, false), (900_000, true)] {
        let Request::InitProducerId(mut request) = init("t", None) else { unreachable!() };
        request.transaction_timeout_ms = timeout_ms;
        let answer = c.ask(4, Request::InitProducerId(request));
        let got = c.got(answer);
        let refused = got == Got::Code(E::InvalidTransactionTimeout);
        assert_eq!(refused, !code, "{timeout_ms}: {got:?}");
    }
    assert_eq!(c.log.len(), 1);
}

#[test]
fn without_a_producer_id_in_stock_the_request_is_to_be_repeated() {
    let mut c = Coordinator::new();
    c.init("a");
    assert_eq!(c.state.producer_ids_wanted(), 8);
    let answer = c.ask_without_ids(1, 4, init("b", None));
    assert_eq!(c.got(answer), Got::Code(E::CoordinatorLoadInProgress));
    assert_eq!(c.log.len(), 1);
    assert_eq!(c.init("b"), Got::Producer(producer(1001, 0)));
}

#[test]
fn a_producer_is_renewed_by_its_present_name_only() {
    let mut c = Coordinator::new();
    c.init("a");
    assert_eq!(c.init_as("a", 3, Some(producer(1000, 0))), Got::Producer(producer(1000, 1)));
    // The answer was lost.
    assert_eq!(c.init_as("a", 4, Some(producer(1000, 0))), Got::Producer(producer(1000, 1)));
    assert_eq!(c.init_as("a", 4, Some(producer(1000, 1))), Got::Producer(producer(1000, 2)));
    assert_eq!(c.init_as("a", 4, Some(producer(1000, 0))), Got::Code(E::ProducerFenced));
    assert_eq!(c.init_as("a", 3, Some(producer(1000, 0))), Got::Code(E::InvalidProducerEpoch));
    assert_eq!(c.init_as("a", 4, Some(producer(999, 2))), Got::Code(E::ProducerFenced));
    // Versions before 3 do not say who asks.
    assert_eq!(c.init_as("a", 2, Some(producer(999, 2))), Got::Producer(producer(1000, 3)));
}

#[test]
fn a_repeated_renewal_is_known_after_a_crash_and_a_taken_over_producer_stays_fenced() {
    let mut c = Coordinator::new();
    c.init("a");
    c.init_as("a", 4, Some(producer(1000, 0)));
    c.compact_and_crash();
    assert_eq!(c.init_as("a", 4, Some(producer(1000, 0))), Got::Producer(producer(1000, 1)));
    assert_eq!(c.init("a"), Got::Producer(producer(1000, 2)));
    c.compact_and_crash();
    assert_eq!(c.init_as("a", 4, Some(producer(1000, 1))), Got::Code(E::ProducerFenced));
}

#[test]
fn a_forgotten_id_begins_anew() {
    let mut c = Coordinator::new();
    assert_eq!(c.init_as("a", 4, Some(producer(5, 3))), Got::Producer(producer(1000, 0)));
}

#[test]
fn a_new_producer_aborts_the_transaction_of_the_one_before() {
    let mut c = Coordinator::new();
    c.init("a");
    c.add(3, "a", producer(1000, 0), &[("t", &[0, 1])]);
    assert_eq!(c.init("a"), Got::Code(E::ConcurrentTransactions));
    let markers = c.markers.clone();
    assert_eq!(markers.len(), 1);
    assert!(!markers[0].commit);
    // Above all that the old producer wrote.
    assert_eq!(markers[0].producer, producer(1000, 1));
    assert_eq!(c.init("a"), Got::Code(E::ConcurrentTransactions));
    // The old one has no say any more, in no version.
    for version in [4, 5] {
        assert_eq!(c.end(version, "a", producer(1000, 0), true), Got::Code(E::ProducerFenced));
        assert_eq!(c.end(version, "a", producer(1000, 0), false), Got::Code(E::ProducerFenced));
    }
    c.write_markers();
    assert_eq!(c.init_as("a", 4, Some(producer(1000, 0))), Got::Code(E::ProducerFenced));
    assert_eq!(c.init("a"), Got::Producer(producer(1000, 2)));
}

#[test]
fn a_producer_may_abort_its_own_transaction_by_a_renewal() {
    let mut c = Coordinator::new();
    c.init("a");
    c.add(5, "a", producer(1000, 0), &[("t", &[0])]);
    let renewal = |c: &mut Coordinator| c.init_as("a", 4, Some(producer(1000, 0)));
    assert_eq!(renewal(&mut c), Got::Code(E::ConcurrentTransactions));
    assert_eq!(renewal(&mut c), Got::Code(E::ConcurrentTransactions));
    c.crash();
    c.write_markers();
    assert_eq!(renewal(&mut c), Got::Producer(producer(1000, 1)));
    assert_eq!(renewal(&mut c), Got::Producer(producer(1000, 1)));
}

#[test]
fn a_late_renewal_does_not_abort_the_transaction_of_the_next_epoch() {
    let mut c = Coordinator::new();
    c.init("a");
    c.init_as("a", 4, Some(producer(1000, 0)));
    c.add(5, "a", producer(1000, 1), &[("t", &[0])]);
    assert_eq!(c.init_as("a", 4, Some(producer(1000, 0))), Got::Code(E::ProducerFenced));
    assert_eq!(c.state_of("a"), "Ongoing");
}

#[test]
fn a_late_first_request_of_a_producer_fences_nobody() {
    let mut c = Coordinator::new();
    let over = |c: &mut Coordinator, connection| {
        let answer = c.ask_over(connection, 4, init("a", None));
        c.got(answer)
    };
    assert_eq!(over(&mut c, 2), Got::Producer(producer(1000, 0)));
    assert_eq!(over(&mut c, 1), Got::Disconnect);
    // Whoever still wants it comes again.
    assert_eq!(over(&mut c, 3), Got::Producer(producer(1000, 1)));
    // Which connection is late is not known of those that were there before this life.
    c.connections = 4;
    c.crash();
    assert_eq!(over(&mut c, 4), Got::Disconnect);
    assert_eq!(over(&mut c, 5), Got::Producer(producer(1000, 2)));
}

#[test]
fn an_id_whose_epochs_are_used_up_is_followed_by_another() {
    let mut c = Coordinator::new();
    at_last_epoch(&mut c);
    assert_eq!(c.init_as("a", 4, Some(producer(1000, LAST))), Got::Producer(producer(1001, 0)));
    c.compact_and_crash();
    // The answer was lost.
    assert_eq!(c.init_as("a", 4, Some(producer(1000, LAST))), Got::Producer(producer(1001, 0)));
    assert_eq!(c.init_as("a", 4, Some(producer(1000, 7))), Got::Code(E::ProducerFenced));
    assert_eq!(c.init("a"), Got::Producer(producer(1001, 1)));
    assert_eq!(c.init_as("a", 4, Some(producer(1000, LAST))), Got::Code(E::ProducerFenced));
}

#[test]
fn a_transaction_under_the_last_epoch_ends_with_another_id() {
    for old_client in [true, false] {
        let mut c = Coordinator::new();
        at_last_epoch(&mut c);
        let last = producer(1000, LAST);
        c.add(if old_client { 3 } else { 5 }, "a", last, &[("t", &[0])]);
        assert_eq!(c.init("a"), Got::Code(E::ConcurrentTransactions));
        assert_eq!(c.markers[0].producer, producer(1000, i16::MAX));
        c.compact_and_crash();
        c.write_markers();
        assert_eq!(c.end(5, "a", last, false), Got::Code(E::InvalidProducerIdMapping));
        assert_eq!(c.init("a"), Got::Producer(producer(1001, 1)));
    }
}

#[test]
fn an_end_under_the_last_epoch_gives_the_next_id() {
    let mut c = Coordinator::new();
    at_last_epoch(&mut c);
    let (last, next) = (producer(1000, LAST), producer(1002, 0));
    c.add(5, "a", last, &[("t", &[0])]);
    // Ids in stock die with the process.
    c.crash();
    let answer = c.ask_without_ids(1, 5, end("a", last, true));
    assert_eq!(c.got(answer), Got::Code(E::CoordinatorLoadInProgress));
    assert_eq!(c.end(5, "a", last, true), Got::Producer(next));
    assert_eq!(c.markers[0].producer, producer(1000, i16::MAX));
    // It goes on under its new name before the markers are written: later, not never.
    assert_eq!(c.add(5, "a", next, &[("t", &[1])]), Got::Code(E::ConcurrentTransactions));
    assert_eq!(c.end(5, "a", last, true), Got::Code(E::ConcurrentTransactions));
    c.compact_and_crash();
    assert_eq!(c.add(5, "a", next, &[("t", &[1])]), Got::Code(E::ConcurrentTransactions));
    c.write_markers();
    c.compact_and_crash();
    assert_eq!(c.end(5, "a", last, true), Got::Producer(next));
    assert_eq!(c.end(5, "a", last, false), Got::Code(E::InvalidTxnState));
    assert_eq!(c.add(5, "a", next, &[("t", &[1])]), Got::Code(E::None));
    assert_eq!(c.end(5, "a", last, true), Got::Code(E::InvalidProducerIdMapping));
}

#[test]
fn the_largest_time_out_is_a_setting() {
    let settings = Settings { max_timeout_ms: 59_999, ..Settings::default() };
    let mut c = Coordinator::with(settings);
    assert_eq!(c.init("a"), Got::Code(E::InvalidTransactionTimeout));
}
