//! Transactions by gRPC: exactly once over aborts and kills, and who fences whom.

#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use levee_client::grpc::{
    AppendRequest, ErrorCode, InitTransactionsRequest, MemberDescription, TicketRequest,
};
use levee_client::{
    Client, Compression, Consumer, ConsumerConfig, Error, Event, Membership, Offsets, Position,
    ProducerConfig, ReadConfig, RecordData, TopicPartition, TransactionConfig,
    TransactionalProducer,
};
use levee_kafka::messages::end_txn_request::EndTxnRequest;
use levee_kafka::messages::init_producer_id_request::InitProducerIdRequest;
use levee_kafka::messages::init_producer_id_response::InitProducerIdResponse;
use levee_proto::record::records::{BatchBuilder, ProducerStamp, decode_records};
use levee_proto::record::{BatchHeader, Marker};
use levee_tests::kafka::{Wire, fetch};
use levee_tests::load::create;
use levee_tests::process::Broker;

const LIMIT: Duration = Duration::from_secs(60);
const PARTITIONS: u32 = 2;

async fn start(more: &[&str]) -> (tempfile::TempDir, Broker, Client) {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::dev(dir.path(), more).await;
    let client = Client::connect(&broker.grpc).await.unwrap();
    for topic in ["in", "out"] {
        create(&client, topic, PARTITIONS, &[]).await;
    }
    (dir, broker, client)
}

fn record(value: impl Into<Bytes>) -> RecordData {
    RecordData { value: Some(value.into()), ..RecordData::default() }
}

async fn producer(client: &Client, id: &str) -> TransactionalProducer {
    client.transactional_producer(id, TransactionConfig::default()).await.unwrap()
}

/// What a reader of committed records gets by gRPC, of one partition.
async fn committed(client: &Client, topic: &str, partition: u32) -> Vec<Bytes> {
    // A sign of life follows soon where nothing but a marker is at the end.
    let silence = Duration::from_millis(300);
    let config = ReadConfig { read_committed: true, silence, ..ReadConfig::default() };
    let mut reader = client.read(topic, partition, Position::Start, config.clone()).await.unwrap();
    let end = client.read(topic, partition, Position::End, config).await.unwrap().offset();
    let mut values = Vec::new();
    while reader.offset() < end {
        let records = tokio::time::timeout(LIMIT, reader.next_records()).await.unwrap().unwrap();
        values.extend(records.into_iter().map(|record| record.data.value.unwrap()));
    }
    values
}

/// The same by a Kafka client.
async fn committed_for_kafka(wire: &mut Wire, topic: &str, partition: i32) -> Vec<Bytes> {
    let (mut offset, mut values) = (0, Vec::new());
    loop {
        let mut request = fetch(topic, partition, offset);
        request.isolation_level = 1;
        let answer = wire.ask(12, &request).await;
        let data = &answer.responses[0].partitions[0];
        assert_eq!(data.error_code, 0);
        let mut aborted: Vec<_> = data.aborted_transactions.clone().unwrap_or_default();
        aborted.sort_by_key(|txn| txn.first_offset);
        let bytes = data.records.clone().unwrap().into_bytes();
        let (mut open, mut at) = (BTreeMap::new(), 0);
        while at < bytes.len() {
            let header = BatchHeader::decode(&bytes[at..]).unwrap();
            let batch = bytes.slice(at..at + header.bytes as usize);
            at += header.bytes as usize;
            offset = header.end_offset() as i64;
            while aborted.first().is_some_and(|txn| txn.first_offset < offset) {
                open.insert(aborted.remove(0).producer_id, ());
            }
            if header.is_control() {
                if Marker::of(&batch).unwrap().is_some_and(|marker| !marker.commit) {
                    open.remove(&header.producer_id);
                }
            } else if !(header.is_transactional() && open.contains_key(&header.producer_id)) {
                let records = decode_records(&batch).unwrap().into_iter();
                values.extend(records.map(|record| record.data.value.unwrap()));
            }
        }
        if bytes.is_empty() {
            return values;
        }
    }
}

/// Markers are on their way when the end of a transaction is answered.
async fn until_committed(client: &Client, partition: u32, expected: &[&str]) {
    let began = Instant::now();
    loop {
        let found = committed(client, "out", partition).await;
        if found == expected {
            return;
        }
        assert!(began.elapsed() < LIMIT, "{found:?}, expected {expected:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_committed_is_seen_and_nothing_else() {
    let (_dir, broker, client) = start(&[]).await;
    let mut producer = producer(&client, "tx").await;
    let mut expected = Vec::new();
    for (value, commit) in [("one", true), ("two", false), ("three", true), ("four", true)] {
        let transaction = producer.begin().await.unwrap();
        let mut tickets = Vec::new();
        for partition in 0..PARTITIONS {
            let sent = transaction.send("out", Some(partition), record(value)).await;
            tickets.push(sent.unwrap());
        }
        for ticket in tickets {
            ticket.await.unwrap();
        }
        let seen = committed(&client, "out", 0).await;
        assert!(!seen.contains(&Bytes::from(value)), "it is open");
        match commit {
            true => {
                transaction.commit().await.unwrap();
                expected.push(value);
            }
            false => transaction.abort().await.unwrap(),
        }
    }
    // Nothing was sent: nothing to end. Dropped: aborted by the next one.
    producer.begin().await.unwrap().commit().await.unwrap();
    let dropped = producer.begin().await.unwrap();
    dropped.send("out", Some(0), record("dropped")).await.unwrap().await.unwrap();
    drop(dropped);
    let last = producer.begin().await.unwrap();
    last.send("out", Some(0), record("last")).await.unwrap();
    last.commit().await.unwrap();
    until_committed(&client, 1, &expected).await;
    expected.push("last");
    until_committed(&client, 0, &expected).await;
    let mut wire = Wire::connect(&broker.kafka).await;
    assert_eq!(committed_for_kafka(&mut wire, "out", 0).await, expected);
    let described = client.manage().describe_transaction("tx").await.unwrap();
    assert_eq!((&*described.state, described.started_ms.is_some()), ("CompleteCommit", true));
    let listed = client.manage().list_transactions().await.unwrap();
    assert_eq!(listed.iter().map(|one| &*one.transactional_id).collect::<Vec<_>>(), ["tx"]);
}

/// Records in each partition of "in".
const EACH: u64 = 400;

/// Fills "in"; what "out" is to have.
async fn fill(client: &Client) -> Vec<Vec<Bytes>> {
    let producer = client.producer(ProducerConfig::default()).await.unwrap();
    let mut expected = vec![Vec::new(); PARTITIONS as usize];
    for number in 0..EACH {
        for partition in 0..PARTITIONS {
            let value = format!("{partition}.{number}");
            expected[partition as usize].push(Bytes::from(value.clone()));
            producer.send("in", Some(partition), record(value)).await.unwrap();
        }
        if number % 10 == 0 {
            producer.flush().await;
        }
    }
    producer.close(LIMIT).await.unwrap();
    expected
}

/// Readers of both protocols see in "out" what was expected.
async fn expect_copied(client: &Client, broker: &Broker, expected: &[Vec<Bytes>]) {
    for (partition, expected) in expected.iter().enumerate() {
        let began = Instant::now();
        while committed(client, "out", partition as u32).await.len() < expected.len() {
            assert!(began.elapsed() < LIMIT);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(&committed(client, "out", partition as u32).await, expected);
        let mut wire = Wire::connect(&broker.kafka).await;
        let seen = committed_for_kafka(&mut wire, "out", partition as i32).await;
        assert_eq!(&seen, expected, "Kafka's readers see the same");
    }
}

/// Copies "in" to "out", and its own place with it: some transactions are aborted, some dropped.
struct Copier {
    id: String,
    client: Client,
    consumer: Consumer,
    producer: TransactionalProducer,
    round: usize,
    /// Stays away for so long in every eighth transaction, and does not notice.
    stall: Duration,
}

impl Copier {
    async fn new(client: &Client, id: &str, stall: Duration) -> Result<Self, Error> {
        let config = ConsumerConfig {
            auto_commit: None,
            poll_limit: if stall.is_zero() { LIMIT } else { stall / 3 },
            ..ConsumerConfig::new("copy", ["in"])
        };
        let consumer = client.consumer(config).await?;
        let producer = client.transactional_producer(id, TransactionConfig::default()).await?;
        Ok(Self { id: id.into(), client: client.clone(), consumer, producer, round: 0, stall })
    }

    async fn copy(&mut self) -> Result<(), Error> {
        let batch = self.consumer.records().await?;
        let mut transaction = self.producer.begin().await?;
        for record in &batch.records {
            transaction.send("out", Some(batch.at.partition), record.data.clone()).await?;
        }
        self.round += 1;
        if self.round % 8 == 7 {
            tokio::time::sleep(self.stall).await;
        }
        transaction.send_offsets(&self.consumer.membership(), &batch.next()).await?;
        match self.round % 4 {
            1 => transaction.abort().await?,
            2 => drop(transaction),
            _ => return transaction.commit().await,
        }
        self.consumer.rewind();
        Ok(())
    }

    /// Until all is copied, by whomever; gives how often it was out of the group.
    async fn work(mut self, rounds: &tokio::sync::watch::Sender<usize>) -> usize {
        let (began, mut outs) = (Instant::now(), 0);
        while !self.is_done().await {
            assert!(began.elapsed() < LIMIT * 2, "it hangs");
            match tokio::time::timeout(Duration::from_secs(3), self.copy()).await {
                Ok(Ok(())) => rounds.send_modify(|rounds| *rounds += 1),
                // Dropped wherever it stood.
                Err(_) => self.consumer.rewind(),
                // Whatever it was: begin anew, as a service does that is started again.
                Ok(Err(error)) => {
                    let out = [ErrorCode::UnknownMember, ErrorCode::MemberFenced];
                    let is_out = out.contains(&error.code);
                    assert!(error.retriable || error.may_be_written || is_out, "{error}");
                    outs += usize::from(is_out);
                    self = Self::new(&self.client, &self.id, self.stall).await.unwrap();
                }
            }
        }
        self.consumer.close().await.unwrap();
        outs
    }

    async fn is_done(&self) -> bool {
        let all: Vec<_> = (0..PARTITIONS).map(|p| TopicPartition::new("in", p)).collect();
        let Ok(found) = self.client.manage().group_offsets("copy", &all).await else {
            return false;
        };
        found.len() == all.len() && found.values().all(|found| *found == EACH)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_copied_exactly_once_over_aborts_and_kills() {
    const KILLS: [usize; 3] = [10, 30, 50];
    let (_dir, mut broker, client) = start(&[]).await;
    let expected = fill(&client).await;
    let (rounds, mut copied) = tokio::sync::watch::channel(0);
    let copier = Copier::new(&client, "copier", Duration::ZERO).await.unwrap();
    let killed = async {
        for after in KILLS {
            copied.wait_for(|rounds| *rounds >= after).await.unwrap();
            broker.kill9().await;
            broker.restart().await;
        }
    };
    tokio::join!(copier.work(&rounds), killed);
    expect_copied(&client, &broker, &expected).await;
}

/// One that stays away while others do its work commits nothing when it wakes up.
#[tokio::test(flavor = "multi_thread")]
async fn copiers_that_take_each_others_work_copy_exactly_once() {
    let quick = ["--set", "group.consumer.heartbeat.interval=100ms"];
    let (_dir, mut broker, client) = start(&quick).await;
    let expected = fill(&client).await;
    let (rounds, mut copied) = tokio::sync::watch::channel(0);
    let stall = Duration::from_millis(500);
    let one = Copier::new(&client, "one", stall).await.unwrap();
    let two = Copier::new(&client, "two", stall).await.unwrap();
    let killed = async {
        copied.wait_for(|rounds| *rounds >= 30).await.unwrap();
        broker.kill9().await;
        broker.restart().await;
    };
    let (one, two, ()) = tokio::join!(one.work(&rounds), two.work(&rounds), killed);
    assert!(one + two > 0, "nobody was ever out");
    expect_copied(&client, &broker, &expected).await;
}

/// One that was put out for not giving back in time, and is in again, does not commit what it read
/// before, though its session is that of a good member.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_in_a_lost_membership_is_not_committed_in_the_next() {
    let quick = ["--set", "group.consumer.heartbeat.interval=100ms"];
    let (_dir, _broker, client) = start(&quick).await;
    fill(&client).await;
    let rebalance_timeout = Duration::from_millis(300);
    let config = ConsumerConfig {
        auto_commit: None,
        rebalance_timeout,
        ..ConsumerConfig::new("copy", ["in"])
    };
    let mut slow = client.consumer(config.clone()).await.unwrap();
    let batch = slow.records().await.unwrap();
    let mut producer = producer(&client, "tx").await;
    let mut transaction = producer.begin().await.unwrap();
    let before = slow.membership();
    // Another one wants a part, and the slow one does not hear of it.
    let mut other = client.consumer(config).await.unwrap();
    let working = tokio::spawn(async move { while other.next().await.is_ok() {} });
    let began = Instant::now();
    loop {
        assert!(began.elapsed() < LIMIT);
        let group = client.manage().describe_group("copy").await.unwrap();
        let again = |m: &MemberDescription| {
            m.member_id == before.member_id && Some(m.member_epoch) > before.epoch.map(|e| e + 1)
        };
        let all_have = group.members.iter().all(|member| !member.assigned.is_empty());
        if group.members.len() == 2 && all_have && group.members.iter().any(again) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let error = transaction.send_offsets(&slow.membership(), &batch.next()).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::MemberFenced, "{error}");
    let error = slow.commit_offsets(&batch.next()).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::MemberFenced, "{error}");
    transaction.abort().await.unwrap();
    assert!(matches!(slow.next().await.unwrap(), Event::Lost(all) if all.len() == 2));
    working.abort();
}

async fn kafka_init(wire: &mut Wire, id: &str) -> InitProducerIdResponse {
    let request = InitProducerIdRequest {
        transactional_id: Some(id.into()),
        transaction_timeout_ms: 60_000,
        ..Default::default()
    };
    let began = Instant::now();
    loop {
        let answer = wire.insist(5, &request).await;
        if answer.error_code == 0 {
            return answer;
        }
        assert!(began.elapsed() < LIMIT, "{answer:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_producer_of_an_id_fences_the_others_whatever_they_speak() {
    let (_dir, broker, client) = start(&[]).await;
    let mut ours = producer(&client, "tx").await;
    let transaction = ours.begin().await.unwrap();
    transaction.send("out", Some(0), record("left open")).await.unwrap().await.unwrap();
    // A Kafka producer takes the id: what was open is aborted.
    let mut wire = Wire::connect(&broker.kafka).await;
    let theirs = kafka_init(&mut wire, "tx").await;
    let late = transaction.send("out", Some(0), record("late")).await.unwrap().await;
    let error = late.unwrap_err();
    assert_eq!((error.code, error.retriable), (ErrorCode::ProducerFenced, false), "{error}");
    let error = transaction.commit().await.unwrap_err();
    assert_eq!(error.code, ErrorCode::ProducerFenced, "{error}");
    let error = ours.begin().await.err().unwrap();
    assert_eq!(error.code, ErrorCode::ProducerFenced, "it stays out: {error}");
    assert!(committed(&client, "out", 0).await.is_empty());
    // And back.
    let mut ours = producer(&client, "tx").await;
    let end = EndTxnRequest {
        transactional_id: "tx".into(),
        producer_id: theirs.producer_id,
        producer_epoch: theirs.producer_epoch,
        committed: true,
    };
    assert_ne!(wire.ask(5, &end).await.error_code, 0, "a zombie commits nothing");
    let transaction = ours.begin().await.unwrap();
    transaction.send("out", Some(0), record("kept")).await.unwrap();
    transaction.commit().await.unwrap();
    until_committed(&client, 0, &["kept"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_takes_too_long_is_over_and_its_producer_goes_on() {
    let (_dir, _broker, client) = start(&[]).await;
    let config = TransactionConfig { timeout: Duration::from_secs(1), ..Default::default() };
    let mut producer = client.transactional_producer("tx", config).await.unwrap();
    let transaction = producer.begin().await.unwrap();
    transaction.send("out", Some(0), record("slow")).await.unwrap().await.unwrap();
    let began = Instant::now();
    while client.manage().describe_transaction("tx").await.unwrap().state != "CompleteAbort" {
        assert!(began.elapsed() < LIMIT);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let error = transaction.commit().await.unwrap_err();
    assert_eq!((error.code, error.may_be_written), (ErrorCode::InvalidTxnState, false), "{error}");
    let transaction = producer.begin().await.unwrap();
    transaction.send("out", Some(0), record("next")).await.unwrap();
    transaction.commit().await.unwrap();
    until_committed(&client, 0, &["next"]).await;
    let config = TransactionConfig { timeout: Duration::from_secs(86_400), ..Default::default() };
    let error = client.transactional_producer("tx", config).await.err().unwrap();
    assert_eq!(error.code, ErrorCode::InvalidArgument);
    assert!(error.remedy.contains("transaction.max.timeout"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_count_when_their_transaction_does() {
    let (_dir, _broker, client) = start(&[]).await;
    let mut producer = producer(&client, "tx").await;
    let at = TopicPartition::new("in", 0);
    let mut expected = None;
    for (offset, commit) in [(5, true), (9, false), (12, true)] {
        let offsets = Offsets::from([(at.clone(), offset)]);
        let mut transaction = producer.begin().await.unwrap();
        transaction.send_offsets(&Membership::alone("g"), &offsets).await.unwrap();
        let open = client.manage().group_offsets("g", std::slice::from_ref(&at)).await;
        let error = open.unwrap_err();
        assert_eq!((error.code, error.retriable), (ErrorCode::UnstableOffset, true), "{error}");
        match commit {
            true => {
                transaction.commit().await.unwrap();
                expected = Some(offset);
            }
            false => transaction.abort().await.unwrap(),
        }
        let began = Instant::now();
        loop {
            match client.manage().group_offsets("g", std::slice::from_ref(&at)).await {
                Ok(found) => break assert_eq!(found.get(&at).copied(), expected),
                Err(error) => assert!(error.retriable && began.elapsed() < LIMIT, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    // A member that the group does not know commits nothing.
    let stranger =
        Membership { member_id: "stranger".into(), epoch: Some(1), ..Membership::alone("g") };
    let mut transaction = producer.begin().await.unwrap();
    let offsets = Offsets::from([(at, 99)]);
    let error = transaction.send_offsets(&stranger, &offsets).await.unwrap_err();
    let codes = [ErrorCode::MemberFenced, ErrorCode::UnknownMember];
    assert!(codes.contains(&error.code), "{error}");
    transaction.abort().await.unwrap();
}

fn batch(producer_id: i64, producer_epoch: i16) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None).transactional();
    builder.push(&record("x"));
    builder.build(Some(ProducerStamp { producer_id, producer_epoch, base_sequence: 0 }))
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_joins_a_transaction_that_its_coordinator_does_not_know() {
    let (_dir, mut broker, client) = start(&[]).await;
    let _known = producer(&client, "tx").await;
    let known = client.manage().describe_transaction("tx").await.unwrap();
    let append = |id: &str, batch: Bytes| {
        let transactional_id = id.to_owned();
        let request =
            AppendRequest { topic: "out".into(), batch, transactional_id, ..Default::default() };
        let mut log = client.log();
        async move { log.append(request).await.map_err(Error::from).map(drop) }
    };
    let (id, epoch) = (known.producer_id, known.producer_epoch as i16);
    let error = append("", batch(id, epoch)).await.unwrap_err();
    assert!(error.message.contains("name its transactional_id"), "{error}");
    let mut plain = BatchBuilder::new(Compression::None);
    plain.push(&record("x"));
    let error = append("tx", plain.build(None)).await.unwrap_err();
    assert!(error.message.contains("not marked as transactional"), "{error}");
    let error = append("other", batch(id, epoch)).await.unwrap_err();
    assert_eq!((error.code, error.retriable), (ErrorCode::UnknownTransaction, false), "{error}");
    let error = append("tx", batch(id + 1, epoch)).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::UnknownTransaction, "{error}");
    let error = append("tx", batch(id, epoch + 1)).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::ProducerFenced, "{error}");
    append("tx", batch(id, epoch)).await.unwrap();
    assert!(committed(&client, "out", 0).await.is_empty());
    // A request that was under way for long must not end what a newer one began (F20).
    let ticket = |client: Client| async move {
        client.transactions().ticket(TicketRequest {}).await.unwrap().into_inner().ticket
    };
    let init = |ticket: String| {
        let client = client.clone();
        let transactional_id = "late".to_owned();
        async move {
            let request = InitTransactionsRequest { transactional_id, timeout_ms: 0, ticket };
            client.transactions().init_transactions(request).await.map_err(Error::from).map(drop)
        }
    };
    let (old, new) = (ticket(client.clone()).await, ticket(client.clone()).await);
    let began = Instant::now();
    while let Err(error) = init(new.clone()).await {
        assert!(error.retriable && began.elapsed() < LIMIT, "{error}");
    }
    let error = init(old.clone()).await.unwrap_err();
    assert_eq!((error.code, error.retriable), (ErrorCode::LateRequest, true), "{error}");
    // One that was never drawn would make all others late.
    let (life, _) = new.rsplit_once('/').unwrap();
    let error = init(format!("{life}/{}", u64::MAX)).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::LateRequest, "{error}");
    init(ticket(client.clone()).await).await.unwrap();
    broker.kill9().await;
    broker.restart().await;
    let began = Instant::now();
    let error = loop {
        match init(old.clone()).await {
            Err(error) if error.kind == levee_client::ErrorKind::Connection => {}
            other => break other.unwrap_err(),
        }
        assert!(began.elapsed() < LIMIT);
    };
    assert_eq!(error.code, ErrorCode::LateRequest, "of another life: {error}");
    let error = init(String::new()).await.unwrap_err();
    assert!(error.message.contains("ticket is empty"), "{error}");
}
