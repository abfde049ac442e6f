//! Clients that get another epoch with each transaction (transaction.version 2, KIP-890).

mod common;

use common::{Coordinator, Got, add_for, producer};
use levee_kafka::ErrorCode as E;
use levee_kafka::messages::add_partitions_to_txn_request::AddPartitionsToTxnRequest;
use levee_transactions::{Answer, Producer, Request};

const P: Producer = Producer { id: 1000, epoch: 0 };
const Q: Producer = Producer { id: 1000, epoch: 1 };

fn begun() -> Coordinator {
    let mut c = Coordinator::new();
    assert_eq!(c.init("a"), Got::Producer(P));
    assert_eq!(c.add(5, "a", P, &[("t", &[0, 1])]), Got::Code(E::None));
    c
}

#[test]
fn every_end_gives_the_next_epoch_and_marks_above_the_old_one() {
    let mut c = begun();
    assert_eq!(c.end(5, "a", P, true), Got::Producer(Q));
    assert_eq!(c.markers[0].producer, Q);
    assert_eq!(c.markers[0].transaction_version, 2);
    c.write_markers();
    assert_eq!(c.state_of("a"), "CompleteCommit");
    assert_eq!(c.add(5, "a", Q, &[("t", &[0])]), Got::Code(E::None));
    assert_eq!(c.end(5, "a", Q, false), Got::Producer(producer(1000, 2)));
    assert!(!c.markers[0].commit);
}

#[test]
fn a_repeated_end_gets_the_same_epoch_whatever_happened_between() {
    for commit in [true, false] {
        let mut c = begun();
        assert_eq!(c.end(5, "a", P, commit), Got::Producer(Q));
        for _ in 0..2 {
            assert_eq!(c.end(5, "a", P, commit), Got::Code(E::ConcurrentTransactions));
            assert_eq!(c.end(5, "a", P, !commit), Got::Code(E::InvalidTxnState));
            c.compact_and_crash();
        }
        c.write_markers();
        for _ in 0..2 {
            assert_eq!(c.end(5, "a", P, commit), Got::Producer(Q));
            assert_eq!(c.end(5, "a", P, !commit), Got::Code(E::InvalidTxnState));
            c.compact_and_crash();
        }
    }
}

#[test]
fn what_is_late_is_of_an_epoch_that_is_over() {
    let mut c = begun();
    c.end(5, "a", P, true);
    assert_eq!(c.add(5, "a", P, &[("late", &[0])]), Got::Code(E::ProducerFenced));
    c.write_markers();
    assert_eq!(c.add(5, "a", P, &[("late", &[0])]), Got::Code(E::ProducerFenced));
    c.add(5, "a", Q, &[("t", &[0])]);
    for commit in [true, false] {
        assert_eq!(c.end(5, "a", P, commit), Got::Code(E::ProducerFenced));
    }
    assert_eq!(c.add(5, "a", P, &[("late", &[0])]), Got::Code(E::ProducerFenced));
    assert_eq!(c.verify(5, "a", P, &[("t", &[0])]), Got::Code(E::ProducerFenced));
    assert_eq!(c.state_of("a"), "Ongoing");
    assert_eq!(c.describe("a").topics.len(), 1);
}

#[test]
fn a_renewed_producer_ends_nothing_by_its_old_name() {
    let mut c = Coordinator::new();
    c.init("a");
    assert_eq!(c.init_as("a", 5, Some(P)), Got::Producer(Q));
    for commit in [true, false] {
        assert_eq!(c.end(5, "a", P, commit), Got::Code(E::ProducerFenced));
    }
    assert_eq!(c.add(5, "a", P, &[("t", &[0])]), Got::Code(E::ProducerFenced));
}

#[test]
fn who_goes_on_before_the_markers_are_written_waits_and_is_not_fenced() {
    let mut c = begun();
    assert_eq!(c.end(5, "a", P, true), Got::Producer(Q));
    assert_eq!(c.add(5, "a", Q, &[("t", &[0])]), Got::Code(E::ConcurrentTransactions));
    assert_eq!(c.verify(5, "a", Q, &[("t", &[0])]), Got::Code(E::ConcurrentTransactions));
    assert_eq!(c.end(5, "a", Q, false), Got::Code(E::ConcurrentTransactions));
    assert_eq!(c.init_as("a", 5, Some(Q)), Got::Code(E::ConcurrentTransactions));
    c.write_markers();
    assert_eq!(c.add(5, "a", Q, &[("t", &[0])]), Got::Code(E::None));
}

#[test]
fn an_abort_of_nothing_ends_the_epoch_without_markers() {
    let mut c = Coordinator::new();
    c.init("a");
    assert_eq!(c.end(5, "a", P, true), Got::Code(E::InvalidTxnState));
    let records = c.log.len();
    assert_eq!(c.end(5, "a", P, false), Got::Producer(Q));
    // Decided and complete.
    assert_eq!(c.log.len(), records + 2);
    assert!(c.markers.is_empty());
    assert_eq!(c.state_of("a"), "CompleteAbort");
    assert_eq!(c.end(5, "a", P, false), Got::Producer(Q));
    assert_eq!(c.add(5, "a", P, &[("late", &[0])]), Got::Code(E::ProducerFenced));
    assert_eq!(c.end(5, "a", Q, true), Got::Code(E::InvalidTxnState));
    assert_eq!(c.end(5, "a", Q, false), Got::Producer(producer(1000, 2)));
}

#[test]
fn a_crash_between_a_decision_of_nothing_and_its_completion_completes_it() {
    let mut c = Coordinator::new();
    c.init("a");
    c.end(5, "a", P, false);
    c.log.pop();
    c.crash();
    assert_eq!(c.state_of("a"), "CompleteAbort");
    assert_eq!(c.end(5, "a", P, false), Got::Producer(Q));
}

#[test]
fn a_producer_goes_on_after_its_transaction_took_too_long() {
    let mut c = begun();
    c.now_ms = c.state.deadline().unwrap();
    c.tick();
    assert_eq!((c.markers[0].producer, c.markers[0].commit), (Q, false));
    assert_eq!(c.end(5, "a", P, true), Got::Code(E::InvalidTxnState));
    assert_eq!(c.end(5, "a", P, false), Got::Code(E::ConcurrentTransactions));
    assert_eq!(c.add(5, "a", P, &[("t", &[0])]), Got::Code(E::ProducerFenced));
    c.write_markers();
    assert_eq!(c.end(5, "a", P, true), Got::Code(E::InvalidTxnState));
    assert_eq!(c.end(5, "a", P, false), Got::Producer(Q));
}

#[test]
fn brokers_see_whether_a_partition_is_in_the_open_transaction() {
    let mut c = begun();
    assert_eq!(c.verify(5, "a", P, &[("t", &[0, 1])]), Got::Code(E::None));
    assert_eq!(c.verify(5, "a", P, &[("t", &[0, 2])]), Got::Code(E::TransactionAbortable));
    // Version 4 does not know that code.
    assert_eq!(c.verify(4, "a", P, &[("u", &[0])]), Got::Code(E::InvalidTxnState));
    assert_eq!(c.verify(5, "a", Q, &[("t", &[0])]), Got::Code(E::ProducerFenced));
    let stranger = producer(999, 0);
    assert_eq!(c.verify(5, "a", stranger, &[("t", &[0])]), Got::Code(E::InvalidProducerIdMapping));
    assert_eq!(c.verify(5, "b", P, &[("t", &[0])]), Got::Code(E::InvalidProducerIdMapping));
    c.end(4, "a", P, true);
    assert_eq!(c.verify(5, "a", P, &[("t", &[0])]), Got::Code(E::ConcurrentTransactions));
    c.write_markers();
    assert_eq!(c.verify(5, "a", P, &[("t", &[0])]), Got::Code(E::TransactionAbortable));
}

#[test]
fn one_request_of_a_broker_is_about_several_transactions() {
    let mut c = begun();
    c.init("b");
    let of = |request: Request| match request {
        Request::AddPartitionsToTxn(mut request) => request.transactions.remove(0),
        _ => unreachable!(),
    };
    let transactions = vec![
        of(add_for("a", P, &[("t", &[0])], true)),
        of(add_for("b", producer(1001, 0), &[("t", &[3]), ("u", &[4])], false)),
        of(add_for("c", producer(1002, 0), &[("t", &[3])], false)),
    ];
    let request = AddPartitionsToTxnRequest { transactions, ..Default::default() };
    let answer = c.ask(5, Request::AddPartitionsToTxn(request));
    let Answer::AddPartitionsToTxn(answer) = answer else { panic!("{answer:?}") };
    assert!(answer.results_by_topic_v3_and_below.is_empty());
    let results: Vec<_> = answer
        .results_by_transaction
        .iter()
        .map(|of| {
            let topics = of.topic_results.iter().flat_map(|topic| {
                let codes = topic.results_by_partition.iter();
                codes.map(|of| (&*topic.name, of.partition_index, of.partition_error_code))
            });
            (&*of.transactional_id, topics.collect::<Vec<_>>())
        })
        .collect();
    let unknown = E::InvalidProducerIdMapping as i16;
    let expected = [
        ("a", vec![("t", 0, 0)]),
        ("b", vec![("t", 3, 0), ("u", 4, 0)]),
        ("c", vec![("t", 3, unknown)]),
    ];
    assert_eq!(results, expected);
    assert_eq!(c.state_of("b"), "Ongoing");
}
