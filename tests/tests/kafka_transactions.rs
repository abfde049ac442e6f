//! Transactions over the Kafka protocol: what readers of committed records see, whoever dies.

#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use levee_kafka::ErrorCode;
use levee_kafka::messages::add_partitions_to_txn_request::{
    AddPartitionsToTxnRequest, AddPartitionsToTxnTopic,
};
use levee_kafka::messages::end_txn_request::EndTxnRequest;
use levee_kafka::messages::init_producer_id_request::InitProducerIdRequest;
use levee_kafka::messages::init_producer_id_response::InitProducerIdResponse;
use levee_kafka::messages::produce_request::ProduceRequest;
use levee_kafka::messages::txn_offset_commit_request::{
    TxnOffsetCommitRequest, TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use levee_proto::record::codecs::Compression;
use levee_proto::record::records::{BatchBuilder, ProducerStamp, RecordData, decode_records};
use levee_proto::record::{BatchHeader, Marker};
use levee_tests::kafka::{Wire, fetch, produce};
use levee_tests::process::Broker;

const PARTITIONS: i32 = 3;

async fn start() -> (tempfile::TempDir, Broker, Wire) {
    start_with(&[]).await
}

async fn start_with(args: &[&str]) -> (tempfile::TempDir, Broker, Wire) {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::dev(dir.path(), args).await;
    let mut wire = Wire::connect(&broker.kafka).await;
    wire.create("t", PARTITIONS, &[]).await;
    (dir, broker, wire)
}

fn code(code: ErrorCode) -> i16 {
    code.into()
}

/// Codes after which the same request is sent again.
fn is_later(error: i16) -> bool {
    let codes = [
        ErrorCode::CoordinatorLoadInProgress,
        ErrorCode::CoordinatorNotAvailable,
        ErrorCode::ConcurrentTransactions,
        ErrorCode::NotCoordinator,
        ErrorCode::NotEnoughReplicas,
    ];
    codes.iter().any(|later| code(*later) == error)
}

/// A producer with a transactional id, as a client of some age writes it.
struct Producer {
    id: i64,
    epoch: i16,
    /// New clients: an epoch for each transaction, partitions join by themselves (KIP-890).
    is_new: bool,
    sequences: BTreeMap<i32, i32>,
}

async fn init(wire: &mut Wire, timeout_ms: i32) -> InitProducerIdResponse {
    let request = InitProducerIdRequest {
        transactional_id: Some("tx".into()),
        transaction_timeout_ms: timeout_ms,
        ..Default::default()
    };
    loop {
        // After a restart the coordinator does not know which connections are older than what it
        // read, and closes them once (F20).
        let answer = wire.insist(5, &request).await;
        if !is_later(answer.error_code) {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

impl Producer {
    async fn new(wire: &mut Wire, is_new: bool) -> Self {
        let answer = init(wire, 60_000).await;
        assert_eq!(answer.error_code, 0);
        let (id, epoch) = (answer.producer_id, answer.producer_epoch);
        Self { id, epoch, is_new, sequences: BTreeMap::new() }
    }

    fn batch(&self, values: &[String], base_sequence: i32) -> Bytes {
        let mut builder = BatchBuilder::new(Compression::None).transactional();
        for value in values {
            let value = Some(Bytes::copy_from_slice(value.as_bytes()));
            builder.push(&RecordData { timestamp_ms: 7, value, ..RecordData::default() });
        }
        let (producer_id, producer_epoch) = (self.id, self.epoch);
        builder.build(Some(ProducerStamp { producer_id, producer_epoch, base_sequence }))
    }

    /// Error code of the append.
    async fn write(&mut self, wire: &mut Wire, partition: i32, values: &[String]) -> i16 {
        if !self.is_new {
            let request = AddPartitionsToTxnRequest {
                v3_and_below_transactional_id: "tx".into(),
                v3_and_below_producer_id: self.id,
                v3_and_below_producer_epoch: self.epoch,
                v3_and_below_topics: vec![AddPartitionsToTxnTopic {
                    name: "t".into(),
                    partitions: vec![partition],
                }],
                ..Default::default()
            };
            loop {
                let answer = wire.ask(3, &request).await;
                let result = &answer.results_by_topic_v3_and_below[0].results_by_partition[0];
                match result.partition_error_code {
                    0 => break,
                    later if is_later(later) => tokio::time::sleep(Duration::from_millis(20)).await,
                    other => return other,
                }
            }
        }
        let sequence = *self.sequences.entry(partition).or_default();
        let mut request = produce("t", partition, self.batch(values, sequence), -1);
        request.transactional_id = Some("tx".into());
        loop {
            let answer = wire.ask(if self.is_new { 12 } else { 11 }, &request).await;
            let error = answer.responses[0].partition_responses[0].error_code;
            if is_later(error) {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
            if error == 0 {
                *self.sequences.entry(partition).or_default() += values.len() as i32;
            }
            return error;
        }
    }

    async fn end(&mut self, wire: &mut Wire, committed: bool) -> i16 {
        let request = EndTxnRequest {
            transactional_id: "tx".into(),
            producer_id: self.id,
            producer_epoch: self.epoch,
            committed,
        };
        loop {
            let answer = wire.ask(if self.is_new { 5 } else { 4 }, &request).await;
            if is_later(answer.error_code) {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
            if self.is_new && answer.error_code == 0 {
                assert!(answer.producer_epoch > self.epoch || answer.producer_id != self.id);
                (self.id, self.epoch) = (answer.producer_id, answer.producer_epoch);
                self.sequences.clear();
            }
            return answer.error_code;
        }
    }
}

/// Values that a reader of committed records gets, and where it stands then.
async fn committed(wire: &mut Wire, partition: i32) -> (Vec<String>, i64) {
    let (mut offset, mut values) = (0, Vec::new());
    loop {
        let mut request = fetch("t", partition, offset);
        request.isolation_level = 1;
        let answer = wire.ask(12, &request).await;
        let data = &answer.responses[0].partitions[0];
        assert_eq!(data.error_code, 0);
        assert!(data.last_stable_offset <= data.high_watermark);
        let mut aborted: Vec<_> = data.aborted_transactions.clone().unwrap();
        aborted.sort_by_key(|txn| txn.first_offset);
        let bytes = data.records.clone().unwrap().into_bytes();
        let mut open = BTreeMap::new();
        let mut at = 0;
        while at < bytes.len() {
            let header = BatchHeader::decode(&bytes[at..]).unwrap();
            let batch = bytes.slice(at..at + header.bytes as usize);
            at += header.bytes as usize;
            offset = header.end_offset() as i64;
            assert!(offset <= data.last_stable_offset, "nothing above the last stable offset");
            while aborted.first().is_some_and(|txn| txn.first_offset < offset) {
                open.insert(aborted.remove(0).producer_id, ());
            }
            if header.is_control() {
                if Marker::of(&batch).unwrap().is_some_and(|marker| !marker.commit) {
                    open.remove(&header.producer_id);
                }
            } else if !(header.is_transactional() && open.contains_key(&header.producer_id)) {
                let records = decode_records(&batch).unwrap().into_iter();
                let value = |value: Option<Bytes>| String::from_utf8(value.unwrap().to_vec());
                values.extend(records.map(|record| value(record.data.value).unwrap()));
            }
        }
        if bytes.is_empty() {
            return (values, data.last_stable_offset);
        }
    }
}

fn named(transaction: usize, records: usize) -> Vec<String> {
    (0..records).map(|record| format!("{transaction}.{record}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_see_whole_transactions_that_were_committed() {
    let (_dir, _broker, mut wire) = start().await;
    for is_new in [false, true] {
        let mut producer = Producer::new(&mut wire, is_new).await;
        let before = committed(&mut wire, 0).await;
        let base = if is_new { 10 } else { 0 };
        let mut expected = before.0.clone();
        for (number, commit) in [(base, true), (base + 1, false), (base + 2, true)] {
            for partition in 0..PARTITIONS {
                assert_eq!(producer.write(&mut wire, partition, &named(number, 3)).await, 0);
            }
            let (seen, _) = committed(&mut wire, 0).await;
            assert_eq!(seen, expected, "nothing of what is open");
            assert_eq!(producer.end(&mut wire, commit).await, 0);
            if commit {
                expected.extend(named(number, 3));
            }
            let began = Instant::now();
            // Markers are on their way when EndTxn is answered.
            while committed(&mut wire, 0).await.0 != expected {
                assert!(began.elapsed() < Duration::from_secs(20));
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        for partition in 1..PARTITIONS {
            assert_eq!(committed(&mut wire, partition).await.0, expected);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_instance_fences_the_first_and_aborts_what_it_left() {
    let (_dir, broker, mut wire) = start().await;
    for is_new in [false, true] {
        let mut first = Producer::new(&mut wire, is_new).await;
        assert_eq!(first.write(&mut wire, 0, &named(1, 2)).await, 0);
        let mut other = Wire::connect(&broker.kafka).await;
        let mut second = Producer::new(&mut other, is_new).await;
        let fenced = first.write(&mut wire, 0, &named(2, 2)).await;
        assert_ne!(fenced, 0, "a zombie writes nothing");
        let mut zombie = Wire::connect(&broker.kafka).await;
        assert_ne!(first.end(&mut zombie, true).await, 0, "and commits nothing");
        assert_eq!(second.write(&mut other, 1, &named(3, 2)).await, 0);
        assert_eq!(second.end(&mut other, true).await, 0);
        let began = Instant::now();
        while committed(&mut other, 1).await.0.is_empty() {
            assert!(began.elapsed() < Duration::from_secs(20));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(committed(&mut other, 0).await.0.is_empty(), "what the first one left is aborted");
        wire = Wire::connect(&broker.kafka).await;
    }
}

/// F21: the process dies when a decision was answered, or was not; nothing is torn, nothing hangs.
#[tokio::test(flavor = "multi_thread")]
async fn f21_a_kill_tears_no_transaction() {
    let (_dir, mut broker, mut wire) = start().await;
    let mut promised = Vec::new();
    for round in 0..6usize {
        let mut producer = Producer::new(&mut wire, round % 2 == 0).await;
        for partition in 0..PARTITIONS {
            assert_eq!(producer.write(&mut wire, partition, &named(round, 2)).await, 0);
        }
        match round % 3 {
            // Answered: it holds. Not answered: all or nothing. Not asked: nothing.
            0 => {
                assert_eq!(producer.end(&mut wire, true).await, 0);
                promised.extend(named(round, 2));
            }
            1 => {
                let request = EndTxnRequest {
                    transactional_id: "tx".into(),
                    producer_id: producer.id,
                    producer_epoch: producer.epoch,
                    committed: true,
                };
                wire.send(if producer.is_new { 5 } else { 4 }, &request).await;
            }
            _ => {}
        }
        broker.kill9().await;
        broker.restart().await;
        wire = Wire::connect(&broker.kafka).await;
        // The next instance ends what is open.
        let mut next = Producer::new(&mut wire, true).await;
        assert_eq!(next.write(&mut wire, 0, &["mark".to_owned()]).await, 0);
        assert_eq!(next.end(&mut wire, true).await, 0);
        let began = Instant::now();
        loop {
            let mut all = Vec::new();
            for partition in 0..PARTITIONS {
                let (mut values, _) = committed(&mut wire, partition).await;
                values.retain(|value| value != "mark");
                all.push(values);
            }
            let is_whole = all.iter().all(|values| *values == all[0]);
            if is_whole && promised.iter().all(|value| all[0].contains(value)) {
                let two = all[0].iter().filter(|value| value.starts_with("2.")).count();
                assert_eq!(two, 0, "nobody committed it");
                break;
            }
            assert!(began.elapsed() < Duration::from_secs(30), "torn or lost: {all:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// What the coordinator knows of a producer is one record in the end, and enough after a kill.
#[tokio::test(flavor = "multi_thread")]
async fn transaction_states_are_compacted_and_a_killed_coordinator_knows_them() {
    let settings =
        ["compaction.interval=200ms", "tier.interval=200ms", "transactions.topic.partitions=1"];
    let args: Vec<&str> = settings.iter().flat_map(|setting| ["--set", setting]).collect();
    let (_dir, mut broker, mut wire) = start_with(&args).await;
    for round in 0..3 {
        let mut producer = Producer::new(&mut wire, true).await;
        for number in 0..50 {
            let code = producer.write(&mut wire, 0, &named(number, 2)).await;
            assert_eq!(code, 0, "transaction {number} of round {round}");
            assert_eq!(producer.end(&mut wire, number % 3 > 0).await, 0);
        }
        let began = Instant::now();
        loop {
            let (batches, _) = wire.read_from("__transaction_state", 0, 0).await;
            let records: u32 = batches.iter().map(|header| header.record_count).sum();
            assert!(records >= 1, "it must be known");
            if records < 10 {
                break;
            }
            assert!(
                began.elapsed() < Duration::from_secs(60),
                "{records} records: {}",
                broker.log()
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        broker.kill9().await;
        broker.restart().await;
        wire = Wire::connect(&broker.kafka).await;
        let next = init(&mut wire, 60_000).await;
        assert_eq!((next.error_code, next.producer_id), (0, producer.id), "the same producer");
        assert!(next.producer_epoch > producer.epoch, "{next:?} after {}", producer.epoch);
        let old = producer.write(&mut wire, 0, &named(0, 1)).await;
        assert!(old != 0, "an epoch that is over writes");
        let (values, _) = committed(&mut wire, 0).await;
        let whole = (0..50).filter(|number| number % 3 > 0).count() * 2 * (round + 1);
        assert_eq!(values.len(), whole, "of the topic, which is not compacted");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_takes_too_long_is_aborted_and_readers_go_on() {
    let (_dir, _broker, mut wire) = start().await;
    let refused = init(&mut wire, 1_000_000_000).await;
    assert_eq!(refused.error_code, code(ErrorCode::InvalidTransactionTimeout));
    let answer = init(&mut wire, 1_000).await;
    let mut producer = Producer {
        id: answer.producer_id,
        epoch: answer.producer_epoch,
        is_new: true,
        sequences: BTreeMap::new(),
    };
    assert_eq!(producer.write(&mut wire, 0, &named(1, 2)).await, 0);
    assert_eq!(committed(&mut wire, 0).await.1, 0);
    let began = Instant::now();
    while committed(&mut wire, 0).await.1 < 3 {
        assert!(began.elapsed() < Duration::from_secs(30), "the transaction hangs");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(committed(&mut wire, 0).await.0.is_empty());
    assert_ne!(producer.end(&mut wire, true).await, 0, "it is over");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_a_transaction_that_nobody_knows_is_refused() {
    let (_dir, _broker, mut wire) = start().await;
    let producer = Producer::new(&mut wire, false).await;
    // Never added: an old client that is late.
    let mut request: ProduceRequest = produce("t", 0, producer.batch(&named(1, 1), 0), -1);
    request.transactional_id = Some("tx".into());
    let answer = wire.ask(11, &request).await;
    assert_ne!(answer.responses[0].partition_responses[0].error_code, 0);
    request.transactional_id = None;
    let answer = wire.ask(12, &request).await;
    let refused = answer.responses[0].partition_responses[0].error_code;
    assert_eq!(refused, code(ErrorCode::InvalidTxnState));
    assert_eq!(committed(&mut wire, 0).await, (Vec::new(), 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_count_when_their_transaction_does() {
    let (_dir, _broker, mut wire) = start().await;
    let mut producer = Producer::new(&mut wire, true).await;
    let offsets = |producer: &Producer, committed_offset| TxnOffsetCommitRequest {
        transactional_id: "tx".into(),
        group_id: "g".into(),
        producer_id: producer.id,
        producer_epoch: producer.epoch,
        topics: vec![TxnOffsetCommitRequestTopic {
            name: "t".into(),
            partitions: vec![TxnOffsetCommitRequestPartition {
                committed_offset,
                ..Default::default()
            }],
        }],
        ..Default::default()
    };
    for (offset, commit) in [(5, true), (9, false), (12, true)] {
        loop {
            let answer = wire.ask(5, &offsets(&producer, offset)).await;
            match answer.topics[0].partitions[0].error_code {
                0 => break,
                later if is_later(later) => tokio::time::sleep(Duration::from_millis(20)).await,
                other => panic!("{other}"),
            }
        }
        assert_eq!(producer.end(&mut wire, commit).await, 0);
        let expected = if offset == 9 { 5 } else { offset };
        let began = Instant::now();
        while group_offset(&mut wire).await != expected {
            assert!(began.elapsed() < Duration::from_secs(20));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// What group "g" committed for partition 0; waits while a transaction holds it back.
async fn group_offset(wire: &mut Wire) -> i64 {
    use levee_kafka::messages::offset_fetch_request::{
        OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopics,
    };
    let topics = vec![OffsetFetchRequestTopics {
        name: "t".into(),
        partition_indexes: vec![0],
        ..Default::default()
    }];
    let group = OffsetFetchRequestGroup {
        group_id: "g".into(),
        topics: Some(topics),
        ..Default::default()
    };
    let request =
        OffsetFetchRequest { groups: vec![group], require_stable: true, ..Default::default() };
    loop {
        let answer = wire.ask(8, &request).await;
        let found = &answer.groups[0].topics[0].partitions[0];
        if found.error_code == 0 {
            return found.committed_offset;
        }
        assert_eq!(found.error_code, code(ErrorCode::UnstableOffsetCommit));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
