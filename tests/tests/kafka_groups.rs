//! Groups over the Kafka protocol, and what a kill of their coordinator may not change (F22).

#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

use std::time::{Duration, Instant};

use bytes::Bytes;
use levee_kafka::messages::consumer_group_heartbeat_request::ConsumerGroupHeartbeatRequest;
use levee_kafka::messages::find_coordinator_request::FindCoordinatorRequest;
use levee_kafka::messages::heartbeat_request::HeartbeatRequest;
use levee_kafka::messages::join_group_request::{JoinGroupRequest, JoinGroupRequestProtocol};
use levee_kafka::messages::join_group_response::JoinGroupResponse;
use levee_kafka::messages::metadata_request::MetadataRequest;
use levee_kafka::messages::offset_commit_request::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use levee_kafka::messages::offset_fetch_request::{
    OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopics,
};
use levee_kafka::messages::offset_fetch_response::OffsetFetchResponse;
use levee_kafka::messages::sync_group_request::{SyncGroupRequest, SyncGroupRequestAssignment};
use levee_kafka::{ErrorCode, Message, Reader};
use levee_tests::kafka::{Wire, batch};
use levee_tests::process::Broker;

async fn start(more: &[&str]) -> (tempfile::TempDir, Broker, Wire) {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::dev(dir.path(), more).await;
    let mut wire = Wire::connect(&broker.kafka).await;
    wire.create("t", 4, &[]).await;
    (dir, broker, wire)
}

fn code(code: ErrorCode) -> i16 {
    code.into()
}

fn join(member_id: &str) -> JoinGroupRequest {
    JoinGroupRequest {
        group_id: "g".into(),
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 10_000,
        member_id: member_id.into(),
        protocol_type: "consumer".into(),
        protocols: vec![JoinGroupRequestProtocol {
            name: "range".into(),
            metadata: Bytes::from_static(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        }],
        ..Default::default()
    }
}

/// Asks again for as long as the coordinator reads its partition.
async fn ask_join(wire: &mut Wire, request: &JoinGroupRequest) -> JoinGroupResponse {
    loop {
        let answer = wire.ask(9, request).await;
        if answer.error_code != code(ErrorCode::CoordinatorLoadInProgress) {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A group of one member; its id and generation.
async fn group_of_one(wire: &mut Wire) -> (String, i32) {
    let first = ask_join(wire, &join("")).await;
    assert_eq!(first.error_code, code(ErrorCode::MemberIdRequired));
    let joined = ask_join(wire, &join(&first.member_id)).await;
    assert_eq!((joined.error_code, &joined.leader), (0, &joined.member_id));
    let sync = SyncGroupRequest {
        group_id: "g".into(),
        generation_id: joined.generation_id,
        member_id: joined.member_id.clone(),
        assignments: vec![SyncGroupRequestAssignment {
            member_id: joined.member_id.clone(),
            assignment: Bytes::from_static(b"mine"),
        }],
        ..Default::default()
    };
    let synced = wire.ask(5, &sync).await;
    assert_eq!((synced.error_code, &synced.assignment[..]), (0, &b"mine"[..]));
    (joined.member_id, joined.generation_id)
}

fn heartbeat(member: &str, generation_id: i32) -> HeartbeatRequest {
    HeartbeatRequest {
        group_id: "g".into(),
        generation_id,
        member_id: member.into(),
        ..Default::default()
    }
}

fn commit(member: &str, generation: i32, partition_index: i32, offset: i64) -> OffsetCommitRequest {
    let partition = OffsetCommitRequestPartition {
        partition_index,
        committed_offset: offset,
        committed_metadata: Some(format!("at {offset}")),
        ..Default::default()
    };
    OffsetCommitRequest {
        group_id: "g".into(),
        generation_id_or_member_epoch: generation,
        member_id: member.into(),
        topics: vec![OffsetCommitRequestTopic {
            name: "t".into(),
            partitions: vec![partition],
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn offset_of(partition: i32) -> OffsetFetchRequest {
    let topics = vec![OffsetFetchRequestTopics {
        name: "t".into(),
        partition_indexes: vec![partition],
        ..Default::default()
    }];
    let group = OffsetFetchRequestGroup {
        group_id: "g".into(),
        topics: Some(topics),
        ..Default::default()
    };
    OffsetFetchRequest { groups: vec![group], ..Default::default() }
}

/// Committed offset and metadata, once the coordinator has read its partition.
async fn committed(wire: &mut Wire, partition: i32) -> (i64, String) {
    let request = offset_of(partition);
    loop {
        let answer = wire.ask(8, &request).await;
        let group = &answer.groups[0];
        if group.error_code == code(ErrorCode::CoordinatorLoadInProgress) {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        }
        assert_eq!(group.error_code, 0);
        let found = &group.topics[0].partitions[0];
        return (found.committed_offset, found.metadata.clone().unwrap_or_default());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_coordinator_is_a_broker_and_its_topic_is_internal() {
    let (_dir, broker, mut wire) = start(&[]).await;
    let port: i32 = broker.kafka.rsplit_once(':').unwrap().1.parse().unwrap();
    for version in 0..=6 {
        let request = FindCoordinatorRequest {
            key: "g".into(),
            coordinator_keys: vec!["g".into(), "h".into()],
            ..Default::default()
        };
        let answer = wire.ask(version, &request).await;
        match version {
            0..4 => assert_eq!((answer.error_code, answer.port), (0, port)),
            _ => assert!(answer.coordinators.iter().all(|c| (c.error_code, c.port) == (0, port))),
        }
    }
    let all = MetadataRequest { topics: None, ..Default::default() };
    let topics = wire.ask(12, &all).await.topics;
    let internal = topics.iter().find(|t| t.name.as_deref() == Some("__consumer_offsets")).unwrap();
    assert!(internal.is_internal);
    // Only coordinators write to it.
    let refused = wire.produce("__consumer_offsets", 0, batch(1)).await;
    assert_ne!(refused.error_code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_coordinator_is_no_rebalance() {
    let (_dir, mut broker, mut wire) = start(&[]).await;
    let (member, generation) = group_of_one(&mut wire).await;
    let answer = wire.ask(9, &commit(&member, generation, 0, 17)).await;
    assert_eq!(answer.topics[0].partitions[0].error_code, 0);
    broker.kill9().await;
    broker.restart().await;
    let mut wire = Wire::connect(&broker.kafka).await;
    let began = Instant::now();
    loop {
        let answer = wire.ask(4, &heartbeat(&member, generation)).await;
        if answer.error_code == 0 {
            break;
        }
        // Half of what was there must never be mistaken for all of it.
        assert_eq!(answer.error_code, code(ErrorCode::CoordinatorLoadInProgress));
        assert!(began.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(committed(&mut wire, 0).await, (17, "at 17".into()));
    assert_eq!(committed(&mut wire, 1).await.0, -1, "nothing was committed there");
    let wrong = wire.ask(4, &heartbeat(&member, generation + 1)).await;
    assert_eq!(wrong.error_code, code(ErrorCode::IllegalGeneration));
    let stranger = wire.ask(4, &heartbeat("nobody", generation)).await;
    assert_eq!(stranger.error_code, code(ErrorCode::UnknownMemberId));
}

#[tokio::test(flavor = "multi_thread")]
async fn f22_commits_that_were_acked_never_go_back() {
    let (_dir, mut broker, mut wire) = start(&["--set", "group.initial.rebalance.delay=0s"]).await;
    let (member, generation) = group_of_one(&mut wire).await;
    let mut acked = [0i64; 4];
    for _ in 0..5 {
        // A burst, some of it without an answer when the process dies.
        let mut sent = Vec::new();
        for number in 0..200 {
            let partition = number % 4;
            let offset = acked[partition as usize] + i64::from(number) + 1;
            wire.send(9, &commit(&member, generation, partition, offset)).await;
            sent.push((partition as usize, offset));
        }
        for (partition, offset) in &sent[..120] {
            let (_, answer) = wire.receive::<OffsetCommitRequest>(9).await;
            assert_eq!(answer.topics[0].partitions[0].error_code, 0);
            acked[*partition] = *offset;
        }
        broker.kill9().await;
        broker.restart().await;
        wire = Wire::connect(&broker.kafka).await;
        for (partition, acked) in acked.iter_mut().enumerate() {
            let (found, metadata) = committed(&mut wire, partition as i32).await;
            assert!(found >= *acked, "partition {partition}: {found} after {acked} was acked");
            assert_eq!(metadata, format!("at {found}"), "the metadata of another commit");
            *acked = found;
        }
    }
}

/// Thousands of commits become a few records, under the eyes of who commits; what is read back from
/// them after a kill is what was there.
#[tokio::test(flavor = "multi_thread")]
async fn offsets_are_compacted_and_a_killed_coordinator_knows_them() {
    let settings =
        ["compaction.interval=200ms", "tier.interval=200ms", "offsets.topic.partitions=1"];
    let args: Vec<&str> = settings.iter().flat_map(|setting| ["--set", setting]).collect();
    let (_dir, mut broker, mut wire) = start(&args).await;
    let (member, generation) = group_of_one(&mut wire).await;
    let mut last = 0;
    for round in 0..3 {
        for _ in 0..10 {
            for _ in 0..100 {
                last += 1;
                wire.send(9, &commit(&member, generation, (last % 4) as i32, last)).await;
            }
            for _ in 0..100 {
                let (_, answer) = wire.receive::<OffsetCommitRequest>(9).await;
                assert_eq!(answer.topics[0].partitions[0].error_code, 0);
            }
        }
        let began = Instant::now();
        loop {
            let (batches, end) = wire.read_from("__consumer_offsets", 0, 0).await;
            let records: u32 = batches.iter().map(|header| header.record_count).sum();
            assert!(records >= 5, "four offsets and a group");
            assert!(end >= last, "{end} after {last} commits");
            if records < 30 {
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
        for offset in last - 3..=last {
            let found = committed(&mut wire, (offset % 4) as i32).await;
            assert_eq!(found, (offset, format!("at {offset}")), "round {round}");
        }
        // Its member and generation as well.
        assert_eq!(wire.ask(4, &heartbeat(&member, generation)).await.error_code, 0);
        let wrong = wire.ask(4, &heartbeat(&member, generation + 1)).await;
        assert_eq!(wrong.error_code, code(ErrorCode::IllegalGeneration));
    }
}

/// What one client asks for and the log has no room for costs nobody else the coordinator.
#[tokio::test(flavor = "multi_thread")]
async fn what_fits_no_batch_is_refused_and_the_coordinator_goes_on() {
    let settings = ["max.batch.bytes=64KiB", "offsets.topic.partitions=1"];
    let args: Vec<&str> = settings.iter().flat_map(|setting| ["--set", setting]).collect();
    let (_dir, broker, mut wire) = start(&args).await;
    let (member, generation) = group_of_one(&mut wire).await;
    let mut large = commit(&member, generation, 0, 1);
    let mut each = vec![large.topics[0].partitions[0].clone(); 40];
    for (partition, number) in each.iter_mut().zip(0..) {
        partition.partition_index = number;
        partition.committed_metadata = Some("x".repeat(4_096));
    }
    large.topics[0].partitions = each;
    let mut other = join("");
    other.group_id = "other".into();
    other.protocols[0].metadata = vec![0; 100_000].into();
    for _ in 0..3 {
        let answer = wire.ask(9, &large).await;
        let refused = |code_of: i16| code_of == code(ErrorCode::InvalidCommitOffsetSize);
        assert!(answer.topics[0].partitions.iter().all(|p| refused(p.error_code)), "{answer:?}");
        let answer = ask_join(&mut wire, &other).await;
        assert_eq!(answer.error_code, code(ErrorCode::GroupMaxSizeReached));
        // At once: the state is still there.
        assert_eq!(wire.ask(4, &heartbeat(&member, generation)).await.error_code, 0);
    }
    let small = commit(&member, generation, 0, 7);
    assert_eq!(wire.ask(9, &small).await.topics[0].partitions[0].error_code, 0);
    assert_eq!(committed(&mut wire, 0).await, (7, "at 7".into()));
    assert!(!broker.log().contains("reads its partition again"), "{}", broker.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_group_of_the_new_protocol_outlives_its_coordinator() {
    let (_dir, mut broker, mut wire) = start(&[]).await;
    let beat = |member_epoch, topics: Option<Vec<String>>| ConsumerGroupHeartbeatRequest {
        group_id: "g".into(),
        member_id: "AAAAAAAAAAAAAAAAAAAAAQ".into(),
        member_epoch,
        rebalance_timeout_ms: 30_000,
        subscribed_topic_names: topics,
        topic_partitions: (member_epoch == 0).then(Vec::new),
        ..Default::default()
    };
    let mut joined;
    loop {
        joined = wire.ask(1, &beat(0, Some(vec!["t".into()]))).await;
        if joined.error_code != code(ErrorCode::CoordinatorLoadInProgress) {
            break;
        }
    }
    assert_eq!(joined.error_code, 0, "{joined:?}");
    let assigned = joined.assignment.unwrap().topic_partitions;
    assert_eq!(assigned[0].partitions, [0, 1, 2, 3]);
    broker.kill9().await;
    broker.restart().await;
    let mut wire = Wire::connect(&broker.kafka).await;
    let began = Instant::now();
    loop {
        let answer = wire.ask(1, &beat(joined.member_epoch, None)).await;
        if answer.error_code == 0 {
            assert_eq!(answer.member_epoch, joined.member_epoch, "no rebalance");
            break;
        }
        assert_eq!(answer.error_code, code(ErrorCode::CoordinatorLoadInProgress), "{answer:?}");
        assert!(began.elapsed() < Duration::from_secs(20));
    }
    let stale = wire.ask(1, &beat(joined.member_epoch + 1, None)).await;
    assert_eq!(stale.error_code, code(ErrorCode::FencedMemberEpoch));
}

/// F22: a coordinator that was paused while another took over does not tell what it remembers.
#[tokio::test(flavor = "multi_thread")]
async fn f22_a_coordinator_that_wakes_up_too_late_tells_nothing_old() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let bucket = tempfile::tempdir().unwrap();
    let url = format!("file://{}", bucket.path().display());
    let args = ["--bucket", &url, "--set", "topic.durability.class=object"];
    let old = Broker::dev(first.path(), &args).await;
    let mut asleep = Wire::connect(&old.kafka).await;
    asleep.create("t", 4, &[]).await;
    commit_alone(&mut asleep, 5).await;
    assert_eq!(committed(&mut asleep, 0).await.0, 5);
    old.pause();
    let new = Broker::dev(second.path(), &args).await;
    let mut wire = Wire::connect(&new.kafka).await;
    commit_alone(&mut wire, 9).await;
    // The question is there when it wakes up.
    asleep.send(8, &offset_of(0)).await;
    old.resume();
    if let Some(answer) = asleep.receive_raw().await {
        let mut r = Reader::new(answer);
        r.i32().unwrap();
        r.tags(|_, _| Ok(false)).unwrap();
        let answer = OffsetFetchResponse::decode(&mut r, 8).unwrap();
        assert_ne!(answer.groups[0].error_code, 0, "an old coordinator: {answer:?}");
    }
    assert_eq!(committed(&mut wire, 0).await.0, 9);
}

/// Commits for partition 0 without being a member, as soon as a coordinator serves.
async fn commit_alone(wire: &mut Wire, offset: i64) {
    let began = Instant::now();
    loop {
        let answer = wire.ask(8, &commit("", -1, 0, offset)).await;
        if answer.topics[0].partitions[0].error_code == 0 {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{answer:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
