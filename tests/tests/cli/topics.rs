//! `levee topic`.

use levee_tests::process::Broker;

use super::command::{run, run_with};

#[tokio::test(flavor = "multi_thread")]
async fn topics_from_making_to_deleting() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::dev(dir.path(), &[]).await;
    let levee = |args: &'static [&str]| run(&broker.grpc, args);
    let create = ["topic", "create", "a", "b", "-p", "2", "-c", "retention.ms=60000"];
    assert_eq!(run(&broker.grpc, &create).await.lines().len(), 2);
    levee(&["topic", "create", "b", "c"]).await.fails(5, "1 of 2 failed (PARTLY_DONE)");
    levee(&["topic", "create", "b"]).await.fails(1, "topic \"b\" exists (TOPIC_EXISTS)");
    levee(&["topic", "create", "a", "b", "--if-not-exists"]).await.ok();
    levee(&["topic", "create", "d", "-r", "3"]).await.fails(2, "durability.class");
    let names = async |args: &'static [&str]| {
        let json: serde_json::Value = serde_json::from_str(&levee(args).await.ok()).unwrap();
        let topics = json.as_array().unwrap().clone();
        topics.iter().map(|t| t["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&["topic", "list", "--output", "json"]).await, ["a", "b", "c"]);
    assert_eq!(names(&["topic", "list", "a|c", "--output", "json"]).await, ["a", "c"]);
    assert_eq!(names(&["topic", "list", "|a|", "--output", "json"]).await, ["a"]);
    assert_eq!(names(&["topic", "describe", "c", "a", "--output", "json"]).await, ["c", "a"]);
    assert!(levee(&["topic", "list"]).await.ok().contains("serving"));
    assert!(levee(&["topic", "describe", "a", "-c"]).await.ok().contains("retention.ms"));
    let altered = levee(&["topic", "alter", "a", "--set", "retention.ms=70000"]).await.ok();
    assert_eq!(altered, "altered a: retention.ms=70000, 2 partitions\n");
    levee(&["topic", "alter", "a", "--delete", "retention.ms", "-p", "3"]).await.ok();
    levee(&["topic", "alter", "a", "-p", "2"]).await.fails(2, "only ever added");
    let grown = levee(&["topic", "add-partitions", "a", "-n", "2"]).await.ok();
    assert_eq!(grown, "a has 5 partitions now, 3 before\n");
    run_with(&broker.grpc, &["produce", "a", "-p", "4"], b"1\n2\n3\n").await.ok();
    let delete = ["topic", "delete-records", "a", "-o", "-1", "-p", "4"];
    run(&broker.grpc, &delete)
        .await
        .fails(2, "this would delete 2 records of \"a\" in 1 partition");
    let done = run(&broker.grpc, &[&delete[..], &["-y"]].concat()).await.ok();
    assert_eq!(done, "a/4 begins at offset 2\n");
    let behind = ["topic", "trim-prefix", "a", "-o", "9", "-p", "4", "-y"];
    run(&broker.grpc, &behind).await.fails(4, "a partition 4 ends at 3");
    levee(&["topic", "delete", "a"]).await.fails(2, "give -y (--yes) to agree");
    levee(&["topic", "delete", "nothing", "c", "-y"]).await.fails(5, "no topic \"nothing\"");
    levee(&["topic", "delete", "nothing", "--if-exists", "-y"]).await.ok();
    levee(&["topic", "delete", "a", "-y"]).await.ok();
    assert_eq!(names(&["topic", "list", "--output", "json"]).await, ["b"]);
    assert_eq!(names(&["topic", "list", "--all", "--output", "json"]).await, ["a", "b", "c"]);
}
