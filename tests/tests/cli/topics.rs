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

#[tokio::test(flavor = "multi_thread")]
async fn slips_of_the_finger_are_told_apart_from_what_was_meant() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::dev(dir.path(), &[]).await;
    let levee = |args: &'static [&str]| run(&broker.grpc, args);
    levee(&["topic", "create", "b", "events", "-p", "1"]).await.ok();
    for (args, code, says) in [
        (&["topic", "alter", "b", "--delete", "retension.ms"][..], 2, "did you mean retention.ms?"),
        (&["topic", "alter", "b", "--delete", "tail.bytes"], 2, "setting of the broker"),
        (&["topic", "alter", "b", "-s", "a=1", "-d", "a"], 2, "named by --set and by --delete"),
        (&["topic", "list", "a)|(b"], 2, "not a regular expression: "),
        (&["topic", "delete", "nope", "b"], 2, "no topic \"nope\""),
    ] {
        levee(args).await.fails(code, says);
    }
    // Of a name of one letter every other one is as near.
    for name in ["a", "", "xx"] {
        let gone = run(&broker.grpc, &["topic", "delete", name, "-y"]).await;
        assert!(gone.code == 4 && !gone.err.contains("did you mean"), "{gone:?}");
    }
    let described = levee(&["topic", "describe", "nope", "b"]).await;
    assert!(described.code == 5 && described.out.starts_with("b  "), "{described:?}");
    // A remedy is said once, and only where it is one.
    let unknown = levee(&["topic", "create", "x", "-c", "foo=bar"]).await;
    assert_eq!(unknown.err.matches("lists all of them").count(), 1, "{unknown:?}");
    let statement = "the old broker is stopped for good";
    let accept = ["topic", "accept-loss", "b", "-p", "0", "--statement", statement];
    let refused = run(&broker.grpc, &accept).await;
    assert!(!refused.err.contains("correct the request"), "{refused:?}");
    refused.fails(2, "partition b/0 waits for no disk");
    // What is deleted waits for nothing.
    levee(&["topic", "delete", "events", "-y"]).await.ok();
    let status = levee(&["tier", "status"]).await.ok();
    let deleted = status.lines().find(|line| line.contains("events/0")).unwrap();
    assert!(deleted.contains("deleted") && !deleted.contains("waiting"), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_of_many_partitions_are_all_asked_for_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::dev(dir.path(), &[]).await;
    run(&broker.grpc, &["topic", "create", "t", "-p", "100"]).await.ok();
    let line = |partition| format!("{{\"partition\":{partition},\"value\":\"v\"}}\n");
    let lines: String = (0..100).map(|n| line(n).repeat(n % 3)).collect();
    run_with(&broker.grpc, &["produce", "t", "-J"], lines.as_bytes()).await.ok();
    let ends = async |key: &str| {
        let offsets = ["topic", "offsets", "t", "--output", "json"];
        let found: serde_json::Value =
            serde_json::from_str(&run(&broker.grpc, &offsets).await.ok()).unwrap();
        let of = |row: &serde_json::Value| row[key].as_u64().unwrap();
        found.as_array().unwrap().iter().map(of).collect::<Vec<_>>()
    };
    assert_eq!(ends("partition").await, (0..100).collect::<Vec<_>>());
    let thirds: Vec<_> = (0..100).map(|n| n % 3).collect();
    assert_eq!(ends("end").await, thirds);
    run(&broker.grpc, &["topic", "delete-records", "t", "-o", "end", "-y"]).await.ok();
    assert_eq!(ends("start").await, thirds);
}
