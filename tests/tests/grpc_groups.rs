//! Groups by gRPC: what members share, keep and commit, beside Kafka's members and over a kill.

#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bytes::Bytes;
use levee_client::grpc::session_request::What;
use levee_client::grpc::{
    Beat, Commit, CommitOffsetsRequest, ErrorCode, Join, Leave, MemberDescription, Owned,
    PartitionOffset, SessionRequest, SessionResponse, TopicOffsets, TopicPartitions,
};
use levee_client::{
    Client, Consumer, ConsumerConfig, Error, ErrorKind, Event, Offsets, ProducerConfig, RecordData,
    TopicPartition, TransactionConfig,
};
use levee_kafka::Uuid;
use levee_kafka::messages::consumer_group_heartbeat_request::{
    ConsumerGroupHeartbeatRequest, TopicPartitions as KafkaPartitions,
};
use levee_kafka::messages::consumer_group_heartbeat_response::ConsumerGroupHeartbeatResponse;
use levee_kafka::messages::join_group_request::{JoinGroupRequest, JoinGroupRequestProtocol};
use levee_kafka::messages::offset_commit_request::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use levee_kafka::messages::offset_fetch_request::{
    OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopics,
};
use levee_tests::kafka::Wire;
use levee_tests::load::create;
use levee_tests::process::Broker;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

const LIMIT: Duration = Duration::from_secs(40);
const SESSION: Duration = Duration::from_secs(3);
const QUICK: [&str; 4] = [
    "--set",
    "group.consumer.session.timeout=3s",
    "--set",
    "group.consumer.heartbeat.interval=200ms",
];

async fn start() -> (tempfile::TempDir, Broker, Client) {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::dev(dir.path(), &QUICK).await;
    let client = Client::connect(&broker.grpc).await.unwrap();
    create(&client, "t", 4, &[]).await;
    (dir, broker, client)
}

/// A member that says exactly what a test wants it to say.
struct Member {
    id: String,
    epoch: u32,
    owned: BTreeSet<u32>,
    requests: mpsc::Sender<SessionRequest>,
    answers: Streaming<SessionResponse>,
}

fn join(id: &str) -> Join {
    Join {
        group: "g".into(),
        member_id: id.into(),
        topics: vec!["t".into()],
        rebalance_timeout_ms: 10_000,
        ..Default::default()
    }
}

fn partitions(owned: &BTreeSet<u32>) -> Vec<TopicPartitions> {
    let partitions = owned.iter().copied().collect();
    vec![TopicPartitions { topic: "t".into(), partitions, ..Default::default() }]
}

impl Member {
    /// Asks until the coordinator serves.
    async fn join(client: &Client, join: Join) -> Self {
        let began = Instant::now();
        loop {
            match Self::try_join(client, join.clone()).await {
                Ok(member) => return member,
                Err(error) => {
                    assert!(error.retriable && began.elapsed() < LIMIT, "{error}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    async fn try_join(client: &Client, join: Join) -> Result<Self, Error> {
        let (requests, outgoing) = mpsc::channel(4);
        let stream = client.groups().session_stream(ReceiverStream::new(outgoing)).await?;
        let mut member = Self {
            id: join.member_id.clone(),
            epoch: join.member_epoch,
            owned: BTreeSet::new(),
            requests,
            answers: stream.into_inner(),
        };
        member.say(What::Join(join)).await?;
        Ok(member)
    }

    async fn say(&mut self, what: What) -> Result<SessionResponse, Error> {
        self.requests.send(SessionRequest { what: Some(what) }).await.unwrap();
        let answer = tokio::time::timeout(LIMIT, self.answers.message()).await.unwrap()?;
        let answer = answer.expect("an answer, or an error");
        if let Some(error) = answer.error {
            return Err(error.into());
        }
        self.epoch = answer.member_epoch;
        if let Some(assignment) = &answer.assignment {
            self.owned = assignment.partitions.iter().flat_map(|t| t.partitions.clone()).collect();
        }
        Ok(answer)
    }

    /// Beats, and says what it has where that changed.
    async fn beat(&mut self) {
        let answer = self.say(What::Beat(Beat {})).await.unwrap();
        if answer.assignment.is_some() {
            self.confirm().await;
        }
    }

    async fn confirm(&mut self) {
        let owned = partitions(&self.owned);
        self.say(What::Owned(Owned { owned })).await.unwrap();
    }

    async fn commit(&mut self, partition: u32, offset: u64) -> Result<SessionResponse, Error> {
        let metadata = format!("at {offset}");
        let one = PartitionOffset { partition, offset, leader_epoch: Some(1), metadata };
        let partitions = vec![one];
        let offsets = vec![TopicOffsets { topic: "t".into(), partitions, ..Default::default() }];
        self.say(What::Commit(Commit { offsets })).await
    }
}

/// Beats of all until they have these numbers of partitions, no two the same one.
async fn settle(members: &mut [&mut Member], counts: &[usize]) {
    let began = Instant::now();
    loop {
        for member in members.iter_mut() {
            member.beat().await;
        }
        let has: Vec<usize> = members.iter().map(|member| member.owned.len()).collect();
        let all: BTreeSet<u32> = members.iter().flat_map(|member| member.owned.clone()).collect();
        assert_eq!(all.len(), has.iter().sum::<usize>(), "two members have the same partition");
        if has == counts {
            return;
        }
        assert!(began.elapsed() < LIMIT, "{has:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn offset(client: &Client, partition: u32) -> Option<u64> {
    let at = TopicPartition::new("t", partition);
    let found = client.manage().group_offsets("g", std::slice::from_ref(&at)).await.unwrap();
    found.get(&at).copied()
}

fn code(error: Result<SessionResponse, Error>) -> ErrorCode {
    error.unwrap_err().code
}

#[tokio::test(flavor = "multi_thread")]
async fn members_share_and_the_partitions_of_a_silent_one_go_to_the_others() {
    let (_dir, _broker, client) = start().await;
    let mut first = Member::join(&client, join("first")).await;
    assert_eq!(first.owned.len(), 4, "alone it has all");
    let mut second = Member::join(&client, join("second")).await;
    assert!(second.owned.is_empty(), "nothing before it was given back");
    settle(&mut [&mut first, &mut second], &[2, 2]).await;
    // A stream that breaks is no leave.
    let (before, silent) = (second.owned.clone(), Instant::now());
    drop(second);
    settle(&mut [&mut first], &[2]).await;
    let back = Join { member_epoch: 2, owned: partitions(&before), ..join("second") };
    let epoch = first.epoch;
    let mut second = Member::join(&client, Join { member_epoch: epoch, ..back }).await;
    assert_eq!((&second.owned, second.epoch), (&before, epoch), "it goes on as it was");
    assert!(silent.elapsed() < SESSION, "the test is too slow to say anything");
    // Silence is.
    let silent = Instant::now();
    second.requests = mpsc::channel(1).0;
    drop(second);
    settle(&mut [&mut first], &[4]).await;
    assert!(silent.elapsed() > SESSION / 2, "after {:?} already", silent.elapsed());
    let late = Join { member_epoch: epoch, owned: partitions(&before), ..join("second") };
    let refused = Member::try_join(&client, late).await.err().unwrap();
    assert_eq!((refused.code, refused.retriable), (ErrorCode::UnknownMember, false));
    // And so is a leave, at once.
    let mut third = Member::join(&client, join("third")).await;
    settle(&mut [&mut first, &mut third], &[2, 2]).await;
    third.say(What::Leave(Leave { for_good: false })).await.unwrap();
    let left = Instant::now();
    settle(&mut [&mut first], &[4]).await;
    assert!(left.elapsed() < SESSION / 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_is_started_again_has_what_it_had() {
    let (_dir, _broker, client) = start().await;
    let instance = |id: &str| Join { instance_id: "one".into(), ..join(id) };
    let mut first = Member::join(&client, instance("first")).await;
    let mut other = Member::join(&client, join("other")).await;
    settle(&mut [&mut first, &mut other], &[2, 2]).await;
    let refused = Member::try_join(&client, instance("second")).await.err().unwrap();
    assert_eq!(refused.code, ErrorCode::InstanceInUse);
    let (had, group) = (first.owned.clone(), client.manage().describe_group("g").await.unwrap());
    first.say(What::Leave(Leave { for_good: false })).await.unwrap();
    let second = Member::join(&client, instance("second")).await;
    assert_eq!(second.owned, had);
    let again = client.manage().describe_group("g").await.unwrap();
    assert_eq!(again.group_epoch, group.group_epoch, "nobody else noticed");
    let mut second = second;
    second.say(What::Leave(Leave { for_good: true })).await.unwrap();
    settle(&mut [&mut other], &[4]).await;
}

/// A member of Kafka's protocol.
struct KafkaMember {
    epoch: i32,
    topic_id: Uuid,
    owned: Vec<i32>,
}

impl KafkaMember {
    async fn beat(&mut self, wire: &mut Wire) -> ConsumerGroupHeartbeatResponse {
        let (topic_id, partitions) = (self.topic_id, self.owned.clone());
        let owned = if partitions.is_empty() {
            Vec::new()
        } else {
            vec![KafkaPartitions { topic_id, partitions }]
        };
        let request = ConsumerGroupHeartbeatRequest {
            group_id: "g".into(),
            member_id: "AAAAAAAAAAAAAAAAAAAAAQ".into(),
            member_epoch: self.epoch,
            rebalance_timeout_ms: if self.epoch == 0 { 30_000 } else { -1 },
            subscribed_topic_names: (self.epoch == 0).then(|| vec!["t".into()]),
            topic_partitions: Some(owned),
            ..Default::default()
        };
        let answer = wire.ask(1, &request).await;
        if answer.error_code == 0 {
            self.epoch = answer.member_epoch;
        }
        if let Some(assignment) = &answer.assignment {
            self.owned =
                assignment.topic_partitions.iter().flat_map(|t| t.partitions.clone()).collect();
            self.topic_id =
                assignment.topic_partitions.first().map_or(self.topic_id, |t| t.topic_id);
        }
        answer
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn members_of_both_protocols_share_a_group_and_its_offsets() {
    let (_dir, broker, client) = start().await;
    let mut wire = Wire::connect(&broker.kafka).await;
    let mut ours = Member::join(&client, join("ours")).await;
    let mut theirs = KafkaMember { epoch: 0, topic_id: Uuid::ZERO, owned: Vec::new() };
    let began = Instant::now();
    while ours.owned.len() != 2 || theirs.owned.len() != 2 {
        ours.beat().await;
        assert_eq!(theirs.beat(&mut wire).await.error_code, 0);
        assert!(began.elapsed() < LIMIT, "{:?} {:?}", ours.owned, theirs.owned);
    }
    assert!(theirs.owned.iter().all(|partition| !ours.owned.contains(&(*partition as u32))));
    let described = client.manage().describe_group("g").await.unwrap();
    assert_eq!((&*described.r#type, described.members.len()), ("consumer", 2));
    assert!(described.members.iter().all(|m| m.assigned[0].partitions.len() == 2));
    let listed = client.manage().list_groups().await.unwrap();
    assert_eq!(listed.iter().map(|group| &*group.group).collect::<Vec<_>>(), ["g"]);
    // What one side commits the other reads.
    let our_partition = *ours.owned.first().unwrap();
    let answer = ours.commit(our_partition, 17).await.unwrap();
    assert!(answer.failed.is_empty(), "{answer:?}");
    let topics = vec![OffsetFetchRequestTopics {
        name: "t".into(),
        partition_indexes: vec![our_partition as i32],
        ..Default::default()
    }];
    let group = OffsetFetchRequestGroup {
        group_id: "g".into(),
        member_epoch: -1,
        topics: Some(topics),
        ..Default::default()
    };
    let fetch = OffsetFetchRequest { groups: vec![group], ..Default::default() };
    let found = wire.ask(9, &fetch).await.groups[0].topics[0].partitions[0].clone();
    let found = (found.committed_offset, found.committed_leader_epoch, found.metadata);
    assert_eq!(found, (17, 1, Some("at 17".to_owned())));
    let partition = OffsetCommitRequestPartition {
        partition_index: theirs.owned[0],
        committed_offset: 23,
        ..Default::default()
    };
    let commit = OffsetCommitRequest {
        group_id: "g".into(),
        generation_id_or_member_epoch: theirs.epoch,
        member_id: "AAAAAAAAAAAAAAAAAAAAAQ".into(),
        topics: vec![OffsetCommitRequestTopic {
            name: "t".into(),
            partitions: vec![partition],
            ..Default::default()
        }],
        ..Default::default()
    };
    let answer = wire.ask(9, &commit).await;
    assert_eq!(answer.topics[0].partitions[0].error_code, 0);
    assert_eq!(offset(&client, theirs.owned[0] as u32).await, Some(23));
    // Who is no member commits nothing, and the group cannot go.
    let stranger = Offsets::from([(TopicPartition::new("t", 0), 1)]);
    let refused = client.manage().commit_group_offsets("g", &stranger).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::UnknownMember);
    let refused = client.manage().delete_group("g").await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::GroupInUse);
}

/// A kill of the coordinator moves nothing and loses no commit.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_of_the_coordinator_is_no_rebalance() {
    let (_dir, mut broker, client) = start().await;
    let mut first = Member::join(&client, join("first")).await;
    let mut second = Member::join(&client, join("second")).await;
    settle(&mut [&mut first, &mut second], &[2, 2]).await;
    let mut acked = 0;
    for round in 1..=3u64 {
        let partition = *first.owned.first().unwrap();
        for step in 0..20 {
            assert!(first.commit(partition, round * 100 + step).await.unwrap().failed.is_empty());
            acked = round * 100 + step;
        }
        let group_epoch = client.manage().describe_group("g").await.unwrap().group_epoch;
        broker.kill9().await;
        broker.restart().await;
        for member in [&mut first, &mut second] {
            let (id, epoch, owned) = (member.id.clone(), member.epoch, member.owned.clone());
            let again = Join { member_epoch: epoch, owned: partitions(&owned), ..join(&id) };
            *member = Member::join(&client, again).await;
            assert_eq!((member.epoch, &member.owned), (epoch, &owned));
        }
        assert_eq!(client.manage().describe_group("g").await.unwrap().group_epoch, group_epoch);
        assert_eq!(offset(&client, partition).await, Some(acked));
    }
}

/// `total` records over the partitions of "t", each with its number.
async fn produce(client: &Client, total: u32) {
    let producer = client.producer(ProducerConfig::default()).await.unwrap();
    for number in 0..total {
        let value = Some(number.to_be_bytes().to_vec().into());
        let record = RecordData { value, ..RecordData::default() };
        producer.send("t", Some(number % 4), record).await.unwrap();
    }
    producer.close(LIMIT).await.unwrap();
}

fn numbers(records: &levee_client::Records) -> impl Iterator<Item = u32> {
    let value = |value: &[u8]| u32::from_be_bytes(value.try_into().unwrap());
    records.records.iter().map(move |record| value(record.data.value.as_ref().unwrap()))
}

fn partitions_of(member: &MemberDescription) -> usize {
    member.assigned.iter().map(|topic| topic.partitions.len()).sum()
}

fn config(group: &str) -> ConsumerConfig {
    ConsumerConfig { auto_commit: None, ..ConsumerConfig::new(group, ["t"]) }
}

/// Reads and commits, each batch and each revocation, until nothing came for a while.
async fn work(mut consumer: Consumer, limit: u32) -> (Vec<u32>, usize, Consumer) {
    let (mut seen, mut revoked) = (Vec::new(), 0);
    while let Ok(event) = tokio::time::timeout(Duration::from_secs(2), consumer.next()).await {
        match event.unwrap() {
            Event::Records(records) => {
                seen.extend(numbers(&records));
                consumer.commit_offsets(&records.next()).await.unwrap();
                if seen.len() as u32 >= limit {
                    break;
                }
            }
            Event::Revoked(partitions) => revoked += partitions.len(),
            Event::Lost(partitions) => panic!("lost {partitions:?}"),
            Event::Assigned(_) => {}
        }
    }
    (seen, revoked, consumer)
}

#[tokio::test(flavor = "multi_thread")]
async fn consumers_come_and_go_and_every_record_is_read_once() {
    let (_dir, _broker, client) = start().await;
    produce(&client, 400).await;
    let first = client.consumer(config("g")).await.unwrap();
    let (mut seen, _, first) = work(first, 100).await;
    // While it works another one comes; it gives back two partitions and has committed for them.
    let second = client.consumer(config("g")).await.unwrap();
    let more = tokio::spawn(work(second, u32::MAX));
    let still = tokio::spawn(work(first, u32::MAX));
    let (began, mut rounds) = (Instant::now(), 0);
    let members = || async { client.manage().describe_group("g").await.unwrap().members };
    // Both have theirs, and then some.
    while rounds < 10 || members().await.iter().any(|m| partitions_of(m) != 2) {
        assert!(began.elapsed() < LIMIT);
        produce(&client, 40).await;
        rounds += 1;
    }
    produce(&client, 40).await;
    let (mine, revoked, first) = still.await.unwrap();
    let (theirs, _, second) = more.await.unwrap();
    assert_eq!(revoked, 2);
    assert_eq!((first.assigned().count(), second.assigned().count()), (2, 2));
    assert!(!theirs.is_empty());
    seen.extend(mine);
    seen.extend(theirs);
    seen.sort_unstable();
    let mut expected: Vec<u32> = (0..400).collect();
    (0..=rounds).for_each(|_| expected.extend(0..40));
    expected.sort_unstable();
    assert_eq!(seen, expected);
    // Who leaves gives up its partitions at once; what it committed holds.
    second.close().await.unwrap();
    produce(&client, 40).await;
    let (mut seen, _, first) = work(first, 40).await;
    seen.sort_unstable();
    assert_eq!(seen, (0..40).collect::<Vec<_>>());
    assert_eq!(first.assigned().count(), 4);
    first.close().await.unwrap();
    let mut ends = 0;
    for partition in 0..4 {
        ends += offset(&client, partition).await.unwrap();
    }
    assert_eq!(ends, 400 + (rounds + 2) * 40);
    client.manage().delete_group("g").await.unwrap();
    assert_eq!(offset(&client, 0).await, None);
}

/// The consumer goes on over kills of the broker, without an event, and commits what it read.
#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_goes_on_over_kills() {
    let (_dir, mut broker, client) = start().await;
    let auto = Some(Duration::from_millis(200));
    let config = ConsumerConfig { auto_commit: auto, ..ConsumerConfig::new("g", ["t"]) };
    let mut consumer = client.consumer(config.clone()).await.unwrap();
    let assigned = tokio::time::timeout(LIMIT, consumer.next()).await.unwrap().unwrap();
    assert!(matches!(&assigned, Event::Assigned(all) if all.len() == 4), "{assigned:?}");
    let mut seen = Vec::new();
    for round in 1..=3usize {
        produce(&client, 200).await;
        let kill = async {
            broker.kill9().await;
            broker.restart().await;
        };
        let read = async {
            while seen.len() < round * 200 {
                let next = tokio::time::timeout(LIMIT, consumer.next()).await.unwrap();
                match next.unwrap() {
                    Event::Records(records) => seen.extend(numbers(&records)),
                    other => panic!("{other:?}"),
                }
            }
        };
        tokio::join!(kill, read);
    }
    seen.sort_unstable();
    let expected: Vec<u32> = (0..200).flat_map(|number| [number; 3]).collect();
    assert_eq!(seen, expected, "each once, as nothing was moved");
    consumer.close().await.unwrap();
    // All was committed, so the next one finds nothing old.
    produce(&client, 4).await;
    let mut next = client.consumer(config).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 4 {
        let records = tokio::time::timeout(LIMIT, next.records()).await.unwrap().unwrap();
        seen.extend(numbers(&records));
    }
    seen.sort_unstable();
    assert_eq!(seen, [0, 1, 2, 3]);
}

/// A caller that stays away gives others its work, and is told when it comes back.
#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_stays_away_is_out() {
    let (_dir, _broker, client) = start().await;
    let mut away = client
        .consumer(ConsumerConfig { poll_limit: Duration::from_millis(500), ..config("g") })
        .await
        .unwrap();
    assert!(matches!(away.next().await.unwrap(), Event::Assigned(all) if all.len() == 4));
    let mut other = client.consumer(config("g")).await.unwrap();
    let began = Instant::now();
    while other.assigned().count() < 4 {
        let event = tokio::time::timeout(LIMIT, other.next()).await.unwrap().unwrap();
        assert!(!matches!(event, Event::Revoked(_)), "{event:?}");
    }
    assert!(began.elapsed() < LIMIT);
    let late = Offsets::from([(TopicPartition::new("t", 0), 1)]);
    assert_eq!(away.commit_offsets(&late).await.unwrap_err().code, ErrorCode::MemberFenced);
    assert!(matches!(away.next().await.unwrap(), Event::Lost(all) if all.len() == 4));
}

/// F22: a coordinator that was paused while another took over does not tell what it remembers.
#[tokio::test(flavor = "multi_thread")]
async fn f22_a_coordinator_that_wakes_up_too_late_tells_nothing_old() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let bucket = tempfile::tempdir().unwrap();
    let url = format!("file://{}", bucket.path().display());
    let args = ["--bucket", &url, "--set", "topic.durability.class=object"];
    let old = Broker::dev(first.path(), &args).await;
    let asleep = Client::connect(&old.grpc).await.unwrap();
    create(&asleep, "t", 4, &[]).await;
    commit_alone(&asleep, 5).await;
    assert_eq!(offset(&asleep, 0).await, Some(5));
    old.pause();
    let new = Broker::dev(second.path(), &args).await;
    let client = Client::connect(&new.grpc).await.unwrap();
    commit_alone(&client, 9).await;
    // The question is there when it wakes up.
    let at = [TopicPartition::new("t", 0)];
    let (admin, group) = (asleep.manage(), "g");
    let mut asked = Box::pin(admin.group_offsets(group, &at));
    assert!(futures::poll!(&mut asked).is_pending());
    tokio::time::timeout(Duration::from_millis(200), &mut asked).await.unwrap_err();
    old.resume();
    let told = asked.await;
    assert!(told.is_err(), "an old coordinator: {told:?}");
    assert_eq!(offset(&client, 0).await, Some(9));
}

/// Commits for partition 0 without being a member, as soon as a coordinator serves.
async fn commit_alone(client: &Client, offset: u64) {
    let offsets = Offsets::from([(TopicPartition::new("t", 0), offset)]);
    let began = Instant::now();
    while let Err(error) = client.manage().commit_group_offsets("g", &offsets).await {
        assert!(began.elapsed() < LIMIT, "{error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_of_kafkas_older_protocol_is_shown_and_not_joined() {
    let (_dir, broker, client) = start().await;
    let mut wire = Wire::connect(&broker.kafka).await;
    let protocol = JoinGroupRequestProtocol {
        name: "range".into(),
        metadata: Bytes::from_static(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    };
    let mut request = JoinGroupRequest {
        group_id: "g".into(),
        session_timeout_ms: 30_000,
        rebalance_timeout_ms: 30_000,
        protocol_type: "consumer".into(),
        protocols: vec![protocol],
        ..Default::default()
    };
    let began = Instant::now();
    loop {
        let answer = wire.ask(9, &request).await;
        if answer.error_code == 0 {
            break;
        }
        assert!(began.elapsed() < LIMIT, "{answer:?}");
        request.member_id = answer.member_id;
    }
    let refused = Member::try_join(&client, join("m")).await.err().unwrap();
    assert_eq!((refused.code, refused.retriable), (ErrorCode::GroupInUse, false), "{refused}");
    let described = client.manage().describe_group("g").await.unwrap();
    assert_eq!((&*described.r#type, described.members.len()), ("classic", 1));
    assert_eq!(described.members[0].member_id, request.member_id);
    let mut consumer = client.consumer(config("g")).await.unwrap();
    let error = tokio::time::timeout(LIMIT, consumer.next()).await.unwrap().unwrap_err();
    assert!(error.message.contains("older protocol"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_gets_one_clear_sentence() {
    let (_dir, _broker, client) = start().await;
    let refused = |join| async { Member::try_join(&client, join).await.err().unwrap() };
    let error = refused(Join { topics: Vec::new(), ..join("m") }).await;
    assert_eq!(error.code, ErrorCode::InvalidArgument);
    assert!(error.message.contains("topics and topic_pattern are both empty"), "{error}");
    let error = refused(Join { group: String::new(), ..join("m") }).await;
    assert!(error.message.contains("group is empty"), "{error}");
    let error = refused(Join { group: "g".repeat(40_000), ..join("m") }).await;
    assert!(error.message.contains("name has 40000 bytes"), "{error}");
    let error = refused(Join { topic_pattern: "(".into(), ..join("m") }).await;
    assert_eq!(error.code, ErrorCode::InvalidArgument);
    assert!(error.message.contains("regular expression"), "{error}");
    let error = refused(Join { assignor: "best".into(), ..join("m") }).await;
    assert!(error.message.contains("uniform"), "{error}");
    let mut member = Member::join(&client, join("m")).await;
    let error = member.commit(0, u64::MAX).await.unwrap_err();
    assert!(error.message.contains("offset 18446744073709551615"), "{error}");
    let mut member = Member::join(&client, Join { member_epoch: 1, ..join("m") }).await;
    let answer = member.commit(9, 1).await.unwrap();
    assert!(answer.failed.is_empty(), "Kafka keeps offsets of partitions that are to come");
    assert_eq!(code(member.say(What::Join(join("m"))).await), ErrorCode::InvalidArgument);
    let (requests, outgoing) = mpsc::channel(1);
    let what = Some(What::Beat(Beat {}));
    requests.send(SessionRequest { what }).await.unwrap();
    let stream = client.groups().session_stream(ReceiverStream::new(outgoing)).await.unwrap();
    let answer = stream.into_inner().message().await.unwrap().unwrap();
    assert!(answer.error.unwrap().message.contains("first message must be join"));
    let error = client.manage().describe_group("nobody").await.unwrap_err();
    assert_eq!((error.kind, error.code), (ErrorKind::Refused, ErrorCode::UnknownGroup));
    let error = client.manage().commit_group_offsets("h", &Offsets::new()).await.unwrap_err();
    assert!(error.message.contains("offsets is empty"), "{error}");
    let wrong = Offsets::from([(TopicPartition::new("missing", 0), 1)]);
    let error = client.manage().commit_group_offsets("h", &wrong).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::UnknownTopic);
}

/// A consumer learns by its next beat that its topic is another one now; what it commits until then
/// is not for the new one.
#[tokio::test(flavor = "multi_thread")]
async fn a_position_is_not_for_the_next_topic_of_the_same_name() {
    let (_dir, _broker, client) = start().await;
    produce(&client, 40).await;
    let mut consumer = client.consumer(config("g")).await.unwrap();
    let read = tokio::time::timeout(LIMIT, consumer.records()).await.unwrap().unwrap();
    consumer.commit_offsets(&read.next()).await.unwrap();
    let mut producer =
        client.transactional_producer("tx", TransactionConfig::default()).await.unwrap();
    client.manage().delete_topic("t").await.unwrap();
    create(&client, "t", 4, &[]).await;
    let error = consumer.commit_offsets(&read.next()).await.unwrap_err();
    assert_eq!((error.code, error.retriable), (ErrorCode::UnknownTopic, false), "{error}");
    let mut transaction = producer.begin().await.unwrap();
    let sent = transaction.send_offsets(&consumer.membership(), &read.next()).await;
    assert_eq!(sent.unwrap_err().code, ErrorCode::UnknownTopic);
    transaction.abort().await.unwrap();
    assert!(client.manage().group_offsets("g", &[]).await.unwrap().is_empty());
    // It goes on with the new one, from its start.
    produce(&client, 4).await;
    let (mut seen, mut is_new) = (Vec::new(), false);
    while seen.len() < 4 {
        match tokio::time::timeout(LIMIT, consumer.next()).await.unwrap().unwrap() {
            Event::Assigned(_) => is_new = true,
            Event::Records(records) if is_new => seen.extend(numbers(&records)),
            _ => {}
        }
    }
    consumer.commit().await.unwrap();
    seen.sort();
    assert_eq!(seen, [0, 1, 2, 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_and_answers_have_a_bound() {
    let (_dir, _broker, client) = start().await;
    commit_alone(&client, 1).await;
    for from in (0..4_320).step_by(240) {
        let each = (from..from + 240).map(|partition| PartitionOffset {
            partition,
            offset: 1,
            metadata: "x".repeat(4_096),
            ..Default::default()
        });
        let partitions = each.collect();
        let offsets = vec![TopicOffsets { topic: "t".into(), partitions, ..Default::default() }];
        let request = CommitOffsetsRequest { group: "g".into(), offsets };
        assert!(client.groups().commit_offsets(request).await.unwrap().get_ref().failed.is_empty());
    }
    let error = client.manage().last_group_offsets("g").await.unwrap_err();
    assert_eq!(error.code, ErrorCode::InvalidArgument, "{error}");
    assert!(error.to_string().contains("name the partitions"), "{error}");
    let some: Vec<_> = (0..1_000).map(|at| TopicPartition::new("t", at)).collect();
    assert_eq!(client.manage().group_offsets("g", &some).await.unwrap().len(), 1_000);
    let many: Vec<_> = (0..20_001).map(|at| TopicPartition::new("t", at)).collect();
    let error = client.manage().group_offsets("g", &many).await.unwrap_err();
    assert!(error.message.contains("more than 20000 topics and partitions"), "{error}");
}
