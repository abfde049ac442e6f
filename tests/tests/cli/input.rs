//! What nobody can work with: one sentence, and an exit code.

use levee_tests::process::Broker;

use super::command::{NOBODY, run, run_with};

/// Every command with what it cannot work with: exit code, and what it says.
#[tokio::test(flavor = "multi_thread")]
async fn bad_input_gets_one_sentence_and_its_exit_code() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::dev(&dir.path().join("data"), &[]).await;
    let (b, path) = (&broker.grpc, |name: &str| dir.path().join(name).display().to_string());
    run(b, &["topic", "create", "events", "-p", "2"]).await.ok();
    let half = path("half.toml");
    std::fs::write(&half, "grpc.listen = '127.0.0.1:0'\n[tail]\nbytes = ").unwrap();
    let wrong = path("wrong.toml");
    std::fs::write(&wrong, "tail.bites = 1\n").unwrap();
    let (missing, folder) = (path("missing"), dir.path().display().to_string());
    let http = broker.http.clone();
    let topic_is_missing: [&[&str]; 12] = [
        &["consume", "evnts"],
        &["produce", "evnts"],
        &["topic", "describe", "evnts"],
        &["topic", "alter", "evnts", "-p", "9"],
        &["topic", "add-partitions", "evnts", "-n", "1"],
        &["topic", "delete", "evnts", "-y"],
        &["topic", "offsets", "evnts"],
        &["topic", "delete-records", "evnts", "-o", "end", "-y"],
        &[
            "topic",
            "accept-loss",
            "evnts",
            "-p",
            "0",
            "--statement",
            "the old broker is stopped for good",
        ],
        &["tier", "status", "evnts"],
        &["tier", "flush", "evnts"],
        &["consume", "events", "evnts"],
    ];
    for args in topic_is_missing {
        run(b, args).await.fails(4, "did you mean \"events\"?");
    }
    let needs_a_broker: [&[&str]; 11] = [
        &["consume", "t"],
        &["produce", "t"],
        &["topic", "create", "t"],
        &["topic", "list"],
        &["topic", "describe", "t"],
        &["topic", "alter", "t", "-p", "2"],
        &["topic", "delete", "t", "-y"],
        &["topic", "offsets", "t"],
        &["tier", "status"],
        &["tier", "flush"],
        &["doctor"],
    ];
    for args in needs_a_broker {
        run(NOBODY, args).await.fails(3, "(NO_BROKER)");
        run(&http, args).await.fails(3, "(NO_BROKER)");
    }
    for command in [&["dev"][..], &["broker"], &["doctor"], &["config", "explain"]] {
        let with =
            |args: &[&str]| [command, args].concat().iter().map(|a| (*a).to_owned()).collect();
        for (args, says) in [
            (with(&["--config", &half]), "line 3"),
            (with(&["--config", &wrong]), "did you mean tail.bytes?"),
            (with(&["--set", "tail.bytes"]), "has no '='"),
            (with(&["--set", "tail.bytes=many"]), "is not a number of bytes"),
            (with(&["--grpc", "nowhere"]), "grpc.listen"),
        ] {
            let args: Vec<String> = args;
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            let done = run(b, &args).await;
            let said = format!("{}{}", done.out, done.err);
            assert!(said.contains(says), "{args:?}: {done:?}");
            assert!([1, 2].contains(&done.code), "{args:?}: {done:?}");
            assert!(!said.contains("panicked"), "{args:?}: {done:?}");
        }
        let done = run(b, &[command, &["--config", &missing]].concat()).await;
        assert!(
            done.code == 1 && format!("{done:?}").contains("missing cannot be read"),
            "{done:?}"
        );
    }
    for command in ["dev", "doctor"] {
        let done = run(b, &[command, "--kafka", "none", "--bucket", "what://x"]).await;
        assert!(done.code == 1 && format!("{done:?}").contains("is none of s3"), "{done:?}");
    }
    let cases: &[(&[&str], i32, &str)] = &[
        (&["consum"], 2, "consume"),
        (&["consume"], 2, "<TOPIC>"),
        (&["consume", "events", "-o", "yesterday"], 2, "no position"),
        (&["consume", "events", "-o", "@10m"], 2, "@-10m"),
        (&["consume", "events", "-o", "9:3"], 2, "ends before it begins"),
        (&["consume", "events", "-p", "2"], 4, "write -p 0 to 1"),
        (&["consume", "events", "-p", "x"], 2, "0,2,5-7"),
        (&["consume", "events", "--output", "json", "-K", ":"], 2, "are for text"),
        (&["consume", "events", "-f", "%q"], 2, "%q is unknown"),
        (&["consume", "events", "-n", "-1"], 2, "-1"),
        (&["consume", "events", "--offest", "1"], 2, "--offset"),
        (&["consume", "events", "--grep", "(", "-e"], 2, "unclosed group"),
        (&["consume", "-r", "(", "-e"], 2, "not a regular expression"),
        (&["consume", "-r", "z.*"], 4, "no topic has such a name"),
        (&["consume", "events", "--timeout", "5"], 2, "with its unit"),
        (&["consume", "events", "-H", "=x"], 2, "NAME=VALUE"),
        (&["consume", "events", "--broker", "http://"], 2, "no address"),
        (&["consume", "events", "--broker", "h o s t"], 2, "no address"),
        (&["produce", "events", "-p", "7"], 4, "write -p 0 to 1"),
        (&["produce", "events", "-p", "-2"], 2, "any"),
        (&["produce", "events", "-z", "rar"], 2, "zstd"),
        (&["produce", "events", "--file", &missing], 1, "No such file"),
        (&["produce", "events", "--file", &folder], 1, "folder"),
        (&["produce", "events", "-K", ""], 2, "at least one"),
        (&["produce", "events", "-J", "-K", ":"], 2, "a line of JSON has its key"),
        (&["produce", "events", "--binary", "-K", ":"], 2, "cannot be used with"),
        (&["topic", "create", "a/b"], 2, "topic name"),
        (&["topic", "create", "x", "-p", "0"], 2, "0"),
        (&["topic", "create", "x", "-p", "99999"], 2, "99999 partitions"),
        (&["topic", "create", "x", "-c", "retention.mss=1"], 2, "did you mean retention.ms?"),
        (&["topic", "create", "x", "-c", "retention.ms"], 2, "KEY=VALUE"),
        (&["topic", "alter", "events"], 2, "no change is named"),
        (&["topic", "offsets", "events", "-o", "1:2"], 2, "not a range"),
        (&["topic", "offsets", "events", "-p", "5"], 4, "it has 2"),
        (&["topic", "list", "("], 2, "unclosed group"),
        (&["consume", "events", "-o", "@1795176000000000000"], 2, "no time"),
        (&["topic", "accept-loss", "events", "-p", "0", "--statement", "ok"], 2, "statement"),
        (&["config", "explain", "nothing like it"], 2, "lists all of them"),
        (&["config", "explain", "tail.bites"], 2, "did you mean tail.bytes?"),
        (&["explain", "UNKNOWN_TOPICS"], 2, "did you mean UNKNOWN_TOPIC?"),
        (&["completions", "tcsh"], 2, "possible values"),
        (&["man", "topic", "nothing"], 2, "no command"),
        (&["man", "--dir", "/dev/null/x"], 1, "cannot be written"),
        (&["demo", &missing], 2, "is not there"),
        (&["dev", "--kafka", "none", "--data", "/dev/null/x"], 1, "cannot be made"),
        (&["broker"], 2, "bucket.url is not set"),
    ];
    let mut complaints = Vec::new();
    for (args, code, says) in cases {
        complaints.extend(run(b, args).await.complaint(*code, says));
    }
    let lines: &[(&[&str], &str, i32, &str)] = &[
        (&["-J"], "{\"value\":\"x\"}\nnot json\n", 1, "line 2 is no record"),
        (&["-J"], "{\"partition\":9}\n", 4, "has no partition 9"),
        (&["-J"], "{\"value\":7}\n", 1, "expected text"),
    ];
    for (args, input, code, says) in lines {
        let args = [&["produce", "events"], *args].concat();
        let done = run_with(b, &args, input.as_bytes()).await;
        complaints.extend(done.complaint(*code, says));
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    // What came in front of the bad line is there, and that was said.
    assert_eq!(run(b, &["consume", "events", "-e"]).await.ok(), "x\n");
}
