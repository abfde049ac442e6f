//! What Kafka clients may make a broker hold in memory.

#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

use std::time::Instant;

use levee_kafka::messages::fetch_request::FetchRequest;
use levee_tests::kafka::{Wire, batch_of, fetch};
use levee_tests::process::Broker;

const MIB: i32 = 1 << 20;

/// Asks for all of it in one answer.
fn fetch_all(offset: i64) -> FetchRequest {
    let mut all = fetch("a", 0, offset);
    all.max_bytes = 64 * MIB;
    all.topics[0].partitions[0].partition_max_bytes = 64 * MIB;
    all
}

/// A fetch finds its room before it reads, not when it has read: else each that waits would cost
/// memory and requests to the bucket.
#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_without_room_reads_next_to_nothing() {
    const GET: &str = "levee_store_bytes_total{op=\"get_range\"}";
    let dir = tempfile::tempdir().unwrap();
    let settings = [
        "answer.bytes=32MiB",
        "cache.bytes=1MiB",
        "cache.disk.bytes=0",
        "cache.chunk.bytes=64KiB",
        "readahead.bytes=64KiB",
        "scrub.bytes.per.second=off",
    ];
    let settings: Vec<&str> = settings.iter().flat_map(|set| ["--set", set]).collect();
    let mut broker = Broker::dev(dir.path(), &settings).await;
    let mut wire = Wire::connect(&broker.kafka).await;
    wire.create("a", 1, &[]).await;
    let value = "7".repeat(MIB as usize - 1000);
    for _ in 0..40 {
        wire.produce("a", 0, batch_of([(None, Some(value.as_str()))].into_iter(), None)).await;
    }
    // Behind a start everything is in the bucket only.
    assert_eq!(broker.terminate().await, Some(0));
    broker.restart().await;
    // Eight MiB each.
    let mut idle = Vec::new();
    for _ in 0..4 {
        let mut wire = Wire::connect(&broker.kafka).await;
        wire.send(12, &fetch_all(0)).await;
        idle.push(wire);
    }
    // Counted when the answer is made; it stays where it is, as nobody takes it.
    broker.until_metric("levee_read_bytes_total", |bytes| bytes > 31e6).await;
    broker.until_metric("levee_answer_bytes", |bytes| bytes > 31e6).await;

    let before = broker.metric(GET).await;
    let mut other = Wire::connect(&broker.kafka).await;
    let began = Instant::now();
    let answer = other.ask(12, &fetch_all(20)).await;
    let records = answer.responses[0].partitions[0].records.as_ref().unwrap().len();
    assert!((1..=2 * MIB as usize).contains(&records), "{records} bytes without room");
    assert!(began.elapsed().as_secs() < 10, "{:?}", began.elapsed());
    let read = broker.metric(GET).await - before;
    assert!(read < 4e6, "{read} bytes were read for an answer of {records}");

    // Who held the room goes, and there is place for everything.
    drop(idle);
    broker.until_metric("levee_answer_bytes", |bytes| bytes == 0.0).await;
    let answer = other.ask(12, &fetch_all(20)).await;
    let records = answer.responses[0].partitions[0].records.as_ref().unwrap().len();
    assert!(records > 7 * MIB as usize, "{records} bytes");
    assert!(broker.metric("levee_read_bytes_total").await > 39e6, "reads are counted");
}
