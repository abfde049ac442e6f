//! The reader against a broker that makes trouble: every record once, in order.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests")]

mod scripted;

use std::sync::Arc;
use std::time::Duration;

use levee_client::{Client, Compression, ErrorKind, Position, ReadConfig, RecordData};
use levee_proto::record::records::BatchBuilder;
use scripted::{Model, Read, Server};

const RECORDS: u64 = 600;

/// Batches of six records each.
fn filled(reads: &[Read]) -> Arc<Model> {
    let model = Model::new(&[], reads);
    for first in (0..RECORDS).step_by(6) {
        let mut builder = BatchBuilder::new(Compression::None);
        (first..first + 6).for_each(|number| builder.push(&record(number)));
        model.append_now(0, &builder.build(None));
    }
    model
}

fn record(number: u64) -> RecordData {
    let value = Some(format!("{number}-{}", "y".repeat(100)).into());
    RecordData { timestamp_ms: 5, value, ..RecordData::default() }
}

fn quick() -> ReadConfig {
    ReadConfig {
        // Less than all of it: without new credits nothing more would come.
        window_bytes: 6000,
        silence: Duration::from_millis(200),
        retry_for: Duration::from_secs(20),
        ..ReadConfig::default()
    }
}

#[tokio::test]
async fn every_record_comes_once_and_in_order_over_broken_silent_and_corrupt_streams() {
    use Read::*;
    let kinds = [Good, Break, Good, End, Corrupt, Good, Silent, NotLeader, Good];
    for seed in 0..4usize {
        let script: Vec<_> = (0..16).map(|n| kinds[(n * 5 + seed * 2) % 9]).collect();
        let model = filled(&script);
        let server = Server::start(&model);
        let client = Client::connect(&server.address).await.unwrap();
        let mut reader = client.read("t", 0, Position::Offset(3), quick()).await.unwrap();
        for number in 3..RECORDS {
            let found = reader.next().await.unwrap();
            assert_eq!((found.offset, found.data), (number, record(number)), "seed {seed}");
        }
        assert_eq!(reader.offset(), RECORDS);
        assert_eq!(model.trouble_left(), 0, "seed {seed}: the script was not played");
    }
}

#[tokio::test]
async fn a_quiet_partition_is_not_a_silent_broker() {
    let model = filled(&[]);
    let server = Server::start(&model);
    let client = Client::connect(&server.address).await.unwrap();
    let mut reader = client.read("t", 0, Position::End, quick()).await.unwrap();
    for _ in 0..6 {
        let none = reader.next_batches().await.unwrap();
        assert_eq!((none.bytes.len(), none.next_offset), (0, RECORDS));
    }
    assert_eq!(model.streams(), 1, "signs of life keep the stream");
    let mut builder = BatchBuilder::new(Compression::None);
    builder.push(&record(RECORDS));
    model.append_now(0, &builder.build(None));
    assert_eq!(reader.next().await.unwrap().offset, RECORDS);
}

#[tokio::test]
async fn bytes_that_stay_corrupt_are_an_error_and_not_a_loop() {
    let model = filled(&[Read::Corrupt; 50]);
    let server = Server::start(&model);
    let client = Client::connect(&server.address).await.unwrap();
    let mut reader = client.read("t", 0, Position::Start, quick()).await.unwrap();
    let error = reader.next().await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Corrupt, "{error}");
    assert_eq!(reader.offset(), 0, "nothing is skipped");
}
