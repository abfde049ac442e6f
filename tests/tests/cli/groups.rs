//! `levee group`.

use std::time::{Duration, Instant};

use levee_client::{Client, ConsumerConfig};
use levee_tests::process::Broker;

use super::command::{LIMIT, NOBODY, run, run_with};

#[tokio::test(flavor = "multi_thread")]
async fn groups_are_shown_with_how_far_they_are_behind_and_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::dev(dir.path(), &[]).await;
    let levee = |args: &'static [&str]| run(&broker.grpc, args);
    let listed = levee(&["group", "list"]).await;
    assert!(listed.err.contains("no groups"), "{listed:?}");
    levee(&["topic", "create", "orders", "-p", "1"]).await.ok();
    run_with(&broker.grpc, &["produce", "orders"], b"1\n2\n3\n").await.ok();
    let client = Client::connect(&broker.grpc).await.unwrap();
    let config = ConsumerConfig { auto_commit: None, ..ConsumerConfig::new("billing", ["orders"]) };
    let mut consumer = client.consumer(config).await.unwrap();
    let mut read = 0;
    while read < 3 {
        read += consumer.records().await.unwrap().records.len();
    }
    consumer.commit().await.unwrap();
    run_with(&broker.grpc, &["produce", "orders"], b"4\n5\n").await.ok();
    let shown = levee(&["group", "describe", "billing", "--output", "json"]).await.ok();
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let (group, offsets) = (&shown[0], &shown[0]["offsets"][0]);
    assert_eq!((&group["state"], &group["type"]), (&"Stable".into(), &"consumer".into()));
    assert_eq!((&offsets["offset"], &offsets["lag"]), (&3.into(), &2.into()));
    assert_eq!(offsets["member"], group["members"][0]["member"]);
    let text = levee(&["group", "describe", "billing"]).await.ok();
    assert!(text.contains("orders/0") && text.contains("LAG"), "{text}");
    let names = levee(&["group", "list", "--output", "json"]).await.ok();
    let names: serde_json::Value = serde_json::from_str(&names).unwrap();
    assert_eq!(names[0]["group"], "billing");
    levee(&["group", "delete", "billing", "-y"]).await.fails(1, "(GROUP_IN_USE)");
    consumer.close().await.unwrap();
    levee(&["group", "delete", "billing"]).await.fails(2, "give -y (--yes) to agree");
    levee(&["group", "delete", "billing", "-y"]).await.ok();
    levee(&["group", "describe", "billing"]).await.fails(4, "(UNKNOWN_GROUP)");
    let began = Instant::now();
    run(NOBODY, &["group", "list", "--connect-timeout", "2s"]).await.fails(3, "no broker at");
    assert!(began.elapsed() < LIMIT / 2 + Duration::from_secs(1));
}
