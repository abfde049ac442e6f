//! The producer against a broker that makes trouble: nothing lost, doubled or out of order.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests")]

mod scripted;

use std::time::Duration;

use bytes::Bytes;
use levee_client::grpc::ErrorCode;
use levee_client::{Client, Compression, ErrorKind, Producer, ProducerConfig, RecordData, Ticket};
use levee_proto::record::records::BatchBuilder;
use scripted::{Append, Model, Server};

/// Small batches, so that many are in flight.
fn small() -> ProducerConfig {
    ProducerConfig {
        linger: Duration::from_millis(1),
        batch_bytes: 300,
        compression: Compression::Lz4,
        delivery_timeout: Duration::from_secs(20),
        ..ProducerConfig::default()
    }
}

fn record(partition: u32, number: usize) -> RecordData {
    let value = Some(format!("{partition}-{number}-{}", "x".repeat(60)).into());
    RecordData { timestamp_ms: 1, value, ..RecordData::default() }
}

async fn send(producer: &Producer, partition: u32, numbers: std::ops::Range<usize>) -> Vec<Ticket> {
    let mut tickets = Vec::new();
    for number in numbers {
        let sent = producer.send("t", Some(partition), record(partition, number)).await;
        tickets.push(sent.unwrap());
    }
    tickets
}

/// Every ticket says where its record is, and nothing else is in the log.
async fn all_there(model: &Model, partition: u32, tickets: Vec<Ticket>) {
    let mut told = Vec::new();
    for ticket in tickets {
        told.push(ticket.await.unwrap());
    }
    let found = model.records(partition);
    assert_eq!(told, (0..found.len() as u64).collect::<Vec<_>>(), "partition {partition}");
    for (number, found) in found.iter().enumerate() {
        assert_eq!(found.data, record(partition, number));
    }
}

#[tokio::test]
async fn nothing_is_lost_doubled_or_reordered_whatever_happens_to_appends() {
    use Append::*;
    let kinds =
        [Good, Stalled, WrittenTimedOut, BreakBefore, BreakAfter, EndBefore, Slow, Good, Good];
    for seed in 0..6usize {
        let script: Vec<_> = (0..60).map(|n| kinds[(n * n * 7 + n * 3 + seed * 5) % 9]).collect();
        let model = Model::new(&script, &[]);
        let server = Server::start(&model);
        let client = Client::connect(&server.address).await.unwrap();
        let producer = client.producer(small()).await.unwrap();
        let (first, second) = tokio::join!(send(&producer, 0, 0..200), send(&producer, 1, 0..200));
        all_there(&model, 0, first).await;
        all_there(&model, 1, second).await;
        assert_eq!(model.trouble_left(), 0, "seed {seed}: the script was not played");
        assert_eq!(model.producers_given(), 1, "retries keep the producer id");
    }
}

/// An unknown producer may begin at any sequence, so what is behind a refused first batch must not
/// be on its way already.
#[tokio::test]
async fn the_first_batch_of_a_producer_id_travels_alone() {
    let model = Model::new(&[Append::Stalled], &[]);
    let server = Server::start(&model);
    let client = Client::connect(&server.address).await.unwrap();
    let producer = client.producer(small()).await.unwrap();
    let tickets = send(&producer, 0, 0..100).await;
    all_there(&model, 0, tickets).await;
}

/// A broker may forget a producer that was silent for a day: what it then refuses was surely not
/// written, and goes under a new id. What may have been written fails.
#[tokio::test]
async fn a_producer_that_was_forgotten_goes_on_under_a_new_id() {
    let mut script = vec![Append::Good; 6];
    script.push(Append::Forget);
    let model = Model::new(&script, &[]);
    let server = Server::start(&model);
    let client = Client::connect(&server.address).await.unwrap();
    let producer = client.producer(small()).await.unwrap();
    let tickets = send(&producer, 0, 0..200).await;
    all_there(&model, 0, tickets).await;
    assert_eq!(model.producers_given(), 2, "one new id");
    let model = Model::new(&[Append::Good, Append::WrittenTimedOut, Append::Forget], &[]);
    let server = Server::start(&model);
    let client = Client::connect(&server.address).await.unwrap();
    let producer = client.producer(ProducerConfig { max_in_flight: 1, ..small() }).await.unwrap();
    let mut outcomes = Vec::new();
    for number in 0..3 {
        let tickets = send(&producer, 0, number..number + 1).await;
        for ticket in tickets {
            outcomes.push(ticket.await);
        }
    }
    let unsure = outcomes[1].as_ref().unwrap_err();
    assert_eq!((unsure.code, unsure.may_be_written), (ErrorCode::UnknownProducer, true));
    assert!(outcomes[0].is_ok() && outcomes[2].is_ok(), "{outcomes:?}");
}

#[tokio::test]
async fn a_broker_that_dies_and_comes_back_gets_everything_once() {
    let model = Model::new(&[Append::Slow; 40], &[]);
    let server = Server::start(&model);
    let client = Client::connect(&server.address).await.unwrap();
    let producer = client.producer(small()).await.unwrap();
    let mut tickets = send(&producer, 0, 0..150).await;
    tickets[5].clone().await.unwrap();
    let address = server.kill();
    tickets.extend(send(&producer, 0, 150..200).await);
    let server = restart(&model, &address).await;
    tickets.extend(send(&producer, 0, 200..300).await);
    producer.close(Duration::from_secs(20)).await.unwrap();
    all_there(&model, 0, tickets).await;
    let late = producer.send("t", Some(0), record(0, 0)).await;
    assert_eq!(late.err().map(|error| error.kind), Some(ErrorKind::Closed));
    drop(server);
}

/// The port is free once the old sockets are gone.
async fn restart(model: &std::sync::Arc<Model>, address: &str) -> Server {
    for _ in 0..100 {
        if std::net::TcpListener::bind(address).is_ok() {
            return Server::start_at(model, address);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{address} stays in use");
}

#[tokio::test]
async fn a_batch_that_fails_takes_what_was_sent_behind_it_and_nothing_more() {
    let mut script = vec![Append::Good; 4];
    script.push(Append::TooLarge);
    let model = Model::new(&script, &[]);
    let server = Server::start(&model);
    let client = Client::connect(&server.address).await.unwrap();
    let producer = client.producer(small()).await.unwrap();
    let tickets = send(&producer, 0, 0..300).await;
    let mut written = Vec::new();
    let mut failed = 0;
    for (number, ticket) in tickets.into_iter().enumerate() {
        match ticket.await {
            Ok(offset) => written.push((offset, number)),
            Err(error) => {
                assert_eq!(error.code, ErrorCode::BatchTooLarge, "{error}");
                assert!(!error.may_be_written, "{error}");
                failed += 1;
            }
        }
    }
    assert!(failed > 0 && failed < 100, "{failed} failed");
    // What was acknowledged is there, in order, and nothing else is.
    let found = model.records(0);
    assert_eq!(found.len(), written.len());
    for (at, (offset, number)) in written.into_iter().enumerate() {
        assert_eq!((offset, &found[at].data), (at as u64, &record(0, number)));
    }
    assert_eq!(model.producers_given(), 2, "a gap needs a new producer id");
}

#[tokio::test]
async fn a_stream_that_is_refused_leaves_nothing_in_doubt() {
    let model = Model::new(&[Append::Good, Append::Good, Append::RefuseStream], &[]);
    let server = Server::start(&model);
    let client = Client::connect(&server.address).await.unwrap();
    let producer = client.producer(small()).await.unwrap();
    let (mut acked, mut failed) = (0, 0);
    for ticket in send(&producer, 0, 0..30).await {
        match ticket.await {
            Ok(_) => acked += 1,
            Err(error) => {
                assert_eq!(error.code, ErrorCode::BatchTooLarge, "{error}");
                assert!(!error.may_be_written, "{error}");
                failed += 1;
            }
        }
    }
    assert!(acked > 0 && failed > 0, "{acked} acked, {failed} failed");
    assert_eq!(model.records(0).len(), acked, "and nothing else is there");
    let after = send(&producer, 0, 0..1).await.remove(0);
    assert_eq!(after.await.unwrap(), acked as u64, "the producer goes on");
}

#[tokio::test]
async fn a_record_that_no_batch_can_hold_is_refused_alone() {
    let model = Model::new(&[], &[]);
    let server = Server::start(&model);
    let client = Client::connect(&server.address).await.unwrap();
    for (compression, is_known_at_once) in [(Compression::None, true), (Compression::Lz4, false)] {
        // No batch of several records may be too large either.
        let config = ProducerConfig { compression, batch_bytes: 4000, ..small() };
        let config = ProducerConfig { max_batch_bytes: 400, ..config };
        let producer = client.producer(config).await.unwrap();
        let mut tickets = send(&producer, 0, 0..10).await;
        // Nothing that could be compressed.
        let bytes = (0..1000u64).map(|n| ((n * n).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 37) as u8);
        let large = RecordData { value: Some(bytes.collect()), ..record(0, 0) };
        let error = match producer.send("t", Some(0), large).await {
            Err(error) if is_known_at_once => error,
            Ok(ticket) if !is_known_at_once => ticket.await.unwrap_err(),
            other => panic!("{compression:?}: {:?}", other.err()),
        };
        assert_eq!((error.code, error.may_be_written), (ErrorCode::BatchTooLarge, false));
        tickets.extend(send(&producer, 0, 10..20).await);
        for ticket in tickets {
            ticket.await.unwrap();
        }
    }
    assert_eq!(model.records(0).len(), 40);
    assert_eq!(model.producers_given(), 2, "no sequence was left out");
}

#[tokio::test]
async fn who_waits_can_know_why() {
    let model = Model::new(&[], &[]);
    let server = Server::start(&model);
    let client = Client::connect(&server.address).await.unwrap();
    let mut trouble = client.watch_trouble();
    let producer = client.producer(small()).await.unwrap();
    let config = ProducerConfig { delivery_timeout: Duration::from_millis(500), ..small() };
    let hurried = client.producer(config).await.unwrap();
    let address = server.kill();
    let tickets = send(&producer, 0, 0..10).await;
    let seen = trouble.wait_for(Option::is_some);
    drop(tokio::time::timeout(Duration::from_secs(20), seen).await.unwrap().unwrap());
    let error = send(&hurried, 1, 0..1).await.remove(0).await.unwrap_err();
    assert!(error.message.contains(&address) && error.message.contains("refused"), "{error}");
    let server = restart(&model, &address).await;
    for ticket in tickets {
        ticket.await.unwrap();
    }
    let over = trouble.wait_for(Option::is_none);
    drop(tokio::time::timeout(Duration::from_secs(20), over).await.unwrap().unwrap());
    drop(server);
}

#[tokio::test]
async fn without_sequences_what_may_be_written_is_not_sent_again() {
    let model = Model::new(&[Append::BreakAfter, Append::Stalled], &[]);
    let server = Server::start(&model);
    let client = Client::connect(&server.address).await.unwrap();
    let config = ProducerConfig { idempotent: false, max_in_flight: 1, ..small() };
    let producer = client.producer(config).await.unwrap();
    let unsure = send(&producer, 0, 0..1).await.remove(0).await.unwrap_err();
    assert!(unsure.may_be_written && unsure.retriable, "{unsure}");
    // A stall wrote nothing, so this one is sent again.
    send(&producer, 0, 1..2).await.remove(0).await.unwrap();
    let found: Vec<_> = model.records(0).into_iter().map(|found| found.data).collect();
    assert_eq!(found, [record(0, 0), record(0, 1)]);
    assert_eq!(model.producers_given(), 0);
}

/// One record, one batch.
fn alone() -> ProducerConfig {
    ProducerConfig { batch_bytes: 1, delivery_timeout: Duration::from_secs(1), ..small() }
}

/// Who was told what of each: whether it may be written.
async fn in_doubt(tickets: Vec<Ticket>) -> Vec<bool> {
    let mut told = Vec::new();
    for ticket in tickets {
        told.push(ticket.await.unwrap_err().may_be_written);
    }
    told
}

#[tokio::test]
async fn what_was_sent_and_not_answered_is_in_doubt_also_behind_one_that_was_given_up() {
    let model = Model::new(&[Append::Unanswered; 2], &[]);
    let server = Server::start(&model);
    let client = Client::connect(&server.address).await.unwrap();
    let producer = client.producer(alone()).await.unwrap();
    let tickets = send(&producer, 0, 0..2).await;
    assert_eq!(in_doubt(tickets).await, [true, true]);
    assert_eq!(model.records(0).len(), 2, "both are there");
}

#[tokio::test]
async fn what_the_broker_did_not_write_is_not_in_doubt_when_its_time_is_over() {
    // The first one waits for the answer to the second one before it may be sent again.
    let model = Model::new(&[Append::Stalled, Append::Unanswered], &[]);
    let server = Server::start(&model);
    let client = Client::connect(&server.address).await.unwrap();
    let producer = client.producer(alone()).await.unwrap();
    let tickets = send(&producer, 0, 0..2).await;
    assert_eq!(in_doubt(tickets).await, [false, true]);
    assert_eq!(model.trouble_left(), 0);
}

#[tokio::test]
async fn what_was_never_sent_is_not_in_doubt_when_a_producer_is_closed() {
    let model = Model::new(&[Append::Unanswered], &[]);
    let server = Server::start(&model);
    let client = Client::connect(&server.address).await.unwrap();
    let config = ProducerConfig { max_in_flight: 1, ..small() };
    let producer = client.producer(ProducerConfig { batch_bytes: 1, ..config }).await.unwrap();
    let tickets = send(&producer, 0, 0..3).await;
    while model.batches(0) == 0 {
        tokio::task::yield_now().await;
    }
    let error = producer.close(Duration::from_millis(1)).await.unwrap_err();
    assert!(error.may_be_written, "{error}");
    assert_eq!(in_doubt(tickets).await, [true, false, false]);
}

#[tokio::test]
async fn bytes_that_compression_makes_more_of_still_fit() {
    let model = Model::new(&[], &[]);
    let server = Server::start(&model);
    let client = Client::connect(&server.address).await.unwrap();
    let codecs = [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];
    for compression in codecs {
        let max_batch_bytes = 256 << 10;
        let linger = Duration::from_secs(1);
        let config = ProducerConfig { compression, max_batch_bytes, linger, ..Default::default() };
        let producer = client.producer(config).await.unwrap();
        // One that nearly fills a batch, of bytes that cannot be compressed, and what fills it.
        let mut seed = 1u64;
        let random = || {
            seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            (seed >> 56) as u8
        };
        let value = std::iter::repeat_with(random).take(max_batch_bytes - 200).collect();
        let large = RecordData { value: Some(value), ..RecordData::default() };
        let mut tickets = vec![producer.send("t", Some(0), large).await.unwrap()];
        for _ in 0..40 {
            let small = RecordData { value: Some("x".into()), ..RecordData::default() };
            tickets.push(producer.send("t", Some(0), small).await.unwrap());
        }
        for ticket in tickets {
            let told = ticket.await;
            assert!(told.is_ok(), "{compression:?}: {told:?}");
        }
    }
}

#[tokio::test]
async fn room_is_bounded_and_given_up_records_give_it_back() {
    let model = Model::new(&[Append::Stalled; 10_000], &[]);
    let server = Server::start(&model);
    let client = Client::connect(&server.address).await.unwrap();
    let delivery_timeout = Duration::from_millis(300);
    let config = ProducerConfig { max_unacked_bytes: 1000, delivery_timeout, ..small() };
    let producer = client.producer(config).await.unwrap();
    // Each record takes about 100 bytes: the last ones wait until the first ones are given up.
    for ticket in send(&producer, 0, 0..15).await {
        let error = ticket.await.unwrap_err();
        assert_eq!((error.kind, error.code), (ErrorKind::TimedOut, ErrorCode::TimedOut), "{error}");
    }
    assert_eq!(model.batches(0), 0);
}

#[tokio::test]
async fn encoded_batches_keep_their_place_among_records() {
    let model = Model::new(&[Append::Good, Append::BreakAfter], &[]);
    let server = Server::start(&model);
    let client = Client::connect(&server.address).await.unwrap();
    let producer = client.producer(small()).await.unwrap();
    let mut builder = BatchBuilder::new(Compression::Zstd);
    (1..4).for_each(|number| builder.push(&record(0, number)));
    let batch = builder.build(None);
    let before = producer.send("t", Some(0), record(0, 0)).await.unwrap();
    let encoded = producer.send_batch("t", 0, batch.clone()).await.unwrap();
    let after = producer.send("t", Some(0), record(0, 4)).await.unwrap();
    producer.flush().await;
    let told = (before.await.unwrap(), encoded.await.unwrap(), after.await.unwrap());
    assert_eq!(told, (0, 1, 4));
    let found: Vec<_> = model.records(0).into_iter().map(|found| found.data).collect();
    assert_eq!(found, (0..5).map(|number| record(0, number)).collect::<Vec<_>>());
    let damaged = Bytes::from([&batch[..batch.len() - 1], &[0x55]].concat());
    let refused = producer.send_batch("t", 0, damaged).await.err();
    assert_eq!(refused.map(|error| error.kind), Some(ErrorKind::Invalid));
}
