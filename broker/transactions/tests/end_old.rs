//! Clients whose transactions all have one epoch (transaction.version below 2, librdkafka).

mod common;

use common::{Coordinator, Got, add, add_offsets, end, partitions, producer};
use levee_kafka::ErrorCode as E;
use levee_transactions::{Connection, Producer, Request};

const P: Producer = Producer { id: 1000, epoch: 0 };

fn begun() -> Coordinator {
    let mut c = Coordinator::new();
    assert_eq!(c.init("a"), Got::Producer(P));
    assert_eq!(c.add(3, "a", P, &[("t", &[0, 1])]), Got::Code(E::None));
    c
}

fn over(c: &mut Coordinator, connection: Connection, version: i16, request: Request) -> Got {
    let answer = c.ask_over(connection, version, request);
    c.got(answer)
}

#[test]
fn a_transaction_is_committed_on_all_its_partitions_under_its_own_epoch() {
    let mut c = begun();
    let answer = c.ask(3, add_offsets("a", P, 5));
    assert_eq!(c.got(answer), Got::Code(E::None));
    assert_eq!(c.add(3, "a", P, &[("u", &[9])]), Got::Code(E::None));
    assert_eq!(c.state_of("a"), "Ongoing");
    assert_eq!(c.end(4, "a", P, true), Got::Producer(P));
    assert_eq!(c.state_of("a"), "PrepareCommit");
    let markers = &c.markers[0];
    assert!(markers.commit);
    assert_eq!((markers.producer, markers.coordinator_epoch), (P, 7));
    assert_eq!(markers.transaction_version, 0);
    let all = partitions(&[("__consumer_offsets", &[5]), ("t", &[0, 1]), ("u", &[9])]);
    assert_eq!(markers.partitions, all);
    c.write_markers();
    assert_eq!(c.state_of("a"), "CompleteCommit");
    assert!(c.describe("a").topics.is_empty());
}

#[test]
fn what_was_added_before_is_not_written_again() {
    let mut c = begun();
    let records = c.log.len();
    assert_eq!(c.add(3, "a", P, &[("t", &[1])]), Got::Code(E::None));
    assert_eq!(c.log.len(), records);
    assert_eq!(c.add(3, "a", P, &[("t", &[1, 2])]), Got::Code(E::None));
    assert_eq!(c.log.len(), records + 1);
}

#[test]
fn a_repeated_end_is_answered_as_the_first_one() {
    for commit in [true, false] {
        let mut c = begun();
        assert_eq!(c.end(4, "a", P, commit), Got::Producer(P));
        for _ in 0..2 {
            assert_eq!(c.end(4, "a", P, commit), Got::Code(E::ConcurrentTransactions));
            assert_eq!(c.end(4, "a", P, !commit), Got::Code(E::InvalidTxnState));
            c.crash();
        }
        c.write_markers();
        for _ in 0..2 {
            assert_eq!(c.end(4, "a", P, commit), Got::Producer(P));
            assert_eq!(c.end(4, "a", P, !commit), Got::Code(E::InvalidTxnState));
            c.compact_and_crash();
        }
    }
}

#[test]
fn nothing_can_be_added_while_a_transaction_ends_and_the_next_one_begins_after_it() {
    let mut c = begun();
    c.end(4, "a", P, false);
    assert_eq!(c.add(3, "a", P, &[("t", &[0])]), Got::Code(E::ConcurrentTransactions));
    c.write_markers();
    c.now_ms += 10;
    assert_eq!(c.add(3, "a", P, &[("t", &[2])]), Got::Code(E::None));
    let described = c.describe("a");
    assert_eq!(described.transaction_start_time_ms, c.now_ms);
    assert_eq!(described.topics[0].partitions, [2]);
}

#[test]
fn errors_are_kafkas() {
    let mut c = Coordinator::new();
    assert_eq!(c.end(4, "", P, true), Got::Code(E::InvalidRequest));
    assert_eq!(c.end(4, "a", P, true), Got::Code(E::InvalidProducerIdMapping));
    assert_eq!(c.add(3, "a", P, &[("t", &[0])]), Got::Code(E::InvalidProducerIdMapping));
    c.init("a");
    c.init("a");
    let current = producer(1000, 1);
    assert_eq!(c.end(4, "a", current, true), Got::Code(E::InvalidTxnState));
    assert_eq!(c.end(4, "a", current, false), Got::Code(E::InvalidTxnState));
    assert_eq!(c.end(4, "a", producer(999, 1), true), Got::Code(E::InvalidProducerIdMapping));
    // From version 2 on there is a code for it.
    for (version, code) in [(1, E::InvalidProducerEpoch), (2, E::ProducerFenced)] {
        assert_eq!(c.end(version, "a", P, true), Got::Code(code));
        assert_eq!(c.add(version, "a", P, &[("t", &[0])]), Got::Code(code));
        let answer = c.ask(version, add_offsets("a", P, 5));
        assert_eq!(c.got(answer), Got::Code(code));
    }
}

#[test]
fn a_late_end_does_not_end_the_next_transaction() {
    let mut c = begun();
    // The first EndTxn hangs on connection 1; the client gives up and repeats it over another.
    assert_eq!(over(&mut c, 2, 4, end("a", P, true)), Got::Producer(P));
    c.write_markers();
    assert_eq!(over(&mut c, 2, 3, add("a", P, &[("t", &[7])])), Got::Code(E::None));
    let (markers, records) = (c.markers.len(), c.log.len());
    for version in [0, 4] {
        assert_eq!(over(&mut c, 1, version, end("a", P, true)), Got::Disconnect);
        assert_eq!(over(&mut c, 1, version, end("a", P, false)), Got::Disconnect);
    }
    assert_eq!((c.markers.len(), c.log.len()), (markers, records));
    assert_eq!(c.state_of("a"), "Ongoing");
    assert_eq!(over(&mut c, 2, 4, end("a", P, false)), Got::Producer(P));
}

#[test]
fn a_late_repetition_of_an_end_does_not_end_the_next_transaction() {
    let mut c = begun();
    assert_eq!(over(&mut c, 1, 4, end("a", P, true)), Got::Producer(P));
    c.write_markers();
    // The answer is lost; what is sent over connection 2 hangs, over 3 it is answered.
    assert_eq!(over(&mut c, 3, 4, end("a", P, true)), Got::Producer(P));
    assert_eq!(over(&mut c, 3, 3, add("a", P, &[("t", &[7])])), Got::Code(E::None));
    assert_eq!(over(&mut c, 2, 4, end("a", P, true)), Got::Disconnect);
    assert_eq!(c.state_of("a"), "Ongoing");
}

#[test]
fn late_partitions_do_not_begin_or_widen_a_transaction() {
    let mut c = begun();
    assert_eq!(over(&mut c, 2, 4, end("a", P, true)), Got::Producer(P));
    c.write_markers();
    let late = |c: &mut Coordinator| {
        assert_eq!(over(c, 1, 3, add("a", P, &[("late", &[0])])), Got::Disconnect);
        assert_eq!(over(c, 1, 3, add_offsets("a", P, 0)), Got::Disconnect);
    };
    late(&mut c);
    assert_eq!(c.state_of("a"), "CompleteCommit");
    assert_eq!(over(&mut c, 2, 3, add("a", P, &[("t", &[7])])), Got::Code(E::None));
    late(&mut c);
    assert_eq!(c.describe("a").topics.len(), 1);
}

#[test]
fn what_is_late_is_refused_after_a_crash_too() {
    let mut c = begun();
    c.connections = 2;
    assert_eq!(over(&mut c, 2, 4, end("a", P, true)), Got::Producer(P));
    c.write_markers();
    assert_eq!(over(&mut c, 2, 3, add("a", P, &[("t", &[7])])), Got::Code(E::None));
    c.crash();
    assert_eq!(over(&mut c, 1, 4, end("a", P, true)), Got::Disconnect);
    // The client that is there comes again over a new connection.
    assert_eq!(over(&mut c, 2, 4, end("a", P, true)), Got::Disconnect);
    assert_eq!(over(&mut c, 3, 4, end("a", P, true)), Got::Producer(P));
}

#[test]
fn a_transaction_that_takes_too_long_is_aborted_above_its_epoch() {
    let mut c = begun();
    let end_ms = c.now_ms + i64::from(common::TIMEOUT_MS);
    assert_eq!(c.state.deadline(), Some(end_ms + 1));
    c.now_ms = end_ms;
    c.tick();
    assert!(c.markers.is_empty());
    c.now_ms += 1;
    c.tick();
    assert_eq!((c.markers[0].producer, c.markers[0].commit), (producer(1000, 1), false));
    assert_eq!(c.state.deadline(), None);
    assert_eq!(c.end(4, "a", P, true), Got::Code(E::ProducerFenced));
    assert_eq!(c.end(1, "a", P, true), Got::Code(E::InvalidProducerEpoch));
    c.write_markers();
    assert_eq!(c.add(1, "a", P, &[("t", &[0])]), Got::Code(E::InvalidProducerEpoch));
    assert_eq!(c.init_as("a", 4, Some(P)), Got::Producer(producer(1000, 1)));
}

#[test]
fn the_time_of_a_transaction_runs_on_through_a_crash() {
    let mut c = begun();
    c.now_ms += i64::from(common::TIMEOUT_MS) - 5;
    c.crash();
    assert_eq!(c.state.deadline(), Some(c.now_ms + 6));
}
