//! `levee doctor`, manuals and explanations.

use levee_tests::process::Broker;

use super::command::{NOBODY, ended, levee, run};

#[tokio::test(flavor = "multi_thread")]
async fn doctor_says_what_it_finds_and_leaves_no_trace() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::dev(dir.path(), &[]).await;
    let (data, http) = (dir.path().display().to_string(), broker.http.clone());
    let doctor =
        ["doctor", "--dev", "--data", &data, "--http", &http, "--set", "connections.max=8"];
    let names = || {
        let entry = |e: std::io::Result<std::fs::DirEntry>| e.unwrap().file_name();
        let mut names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(entry).collect();
        names.sort();
        names
    };
    let before = names();
    let done = run(&broker.grpc, &[&doctor[..], &["--output", "json"]].concat()).await;
    // A busy disk may be worth a warning.
    assert!([0, 5].contains(&done.code), "{done:?}");
    let findings: serde_json::Value = serde_json::from_str(&done.out).unwrap();
    let checks: Vec<_> = findings.as_array().unwrap().iter().map(|f| f["check"].as_str()).collect();
    for check in [
        "config",
        "data",
        "disk",
        "limits",
        "bucket",
        "clock",
        "ready",
        "broker",
        "partitions",
        "upload",
    ] {
        assert!(checks.contains(&Some(check)), "{check} in {done:?}");
    }
    assert!(!done.out.contains("\"fail\""), "{done:?}");
    assert_eq!(names(), before);
    let probes = dir.path().join("bucket").join("probe");
    assert_eq!(files_below(&probes), 0, "the probe removes what it writes");
    let reserve = [&doctor[..], &["--set", "disk.reserve.bytes=1TiB"]].concat();
    run(&broker.grpc, &reserve).await.fails(1, "1 check failed (CHECK_FAILED)");
    let elsewhere = tempfile::tempdir().unwrap();
    let url = format!("file://{}", elsewhere.path().display());
    let other = [&doctor[..], &["--no-probe", "--bucket", &url]].concat();
    let other = run(&broker.grpc, &other).await;
    assert!(other.out.contains("not that of these settings: file://"), "{other:?}");
    other.fails(1, "1 check failed (CHECK_FAILED)");
    let alone = run(&broker.grpc, &["doctor"]).await;
    assert!(alone.out.contains("only the broker is looked at") && alone.code == 0, "{alone:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_cannot_be_reached_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().display().to_string();
    let url = format!("s3://b/p?endpoint=http://{NOBODY}&allow_http=true&region=r");
    let doctor = ["doctor", "--dev", "--data", &data, "--bucket", &url, "--timeout", "20s"];
    let mut doctor = levee(NOBODY, &doctor);
    doctor.env("AWS_ACCESS_KEY_ID", "k").env("AWS_SECRET_ACCESS_KEY", "s");
    let done = ended(doctor.spawn().unwrap(), vec![]).await;
    let bucket = done.out.lines().find(|line| line.starts_with("fail  bucket")).unwrap();
    assert!(bucket.contains("Connection refused"), "{done:?}");
    let typo = dir.path().join("typo");
    let url = format!("file://{}", typo.display());
    run(NOBODY, &["tier", "audit", "--bucket", &url]).await.fails(4, "as bucket.url of the broker");
    assert!(!typo.exists(), "audit only reads");
}

#[tokio::test(flavor = "multi_thread")]
async fn manuals_and_completions_are_made_from_the_commands() {
    for (shell, word) in
        [("bash", "complete"), ("zsh", "#compdef levee"), ("fish", "complete -c levee")]
    {
        assert!(run(NOBODY, &["completions", shell]).await.ok().contains(word), "{shell}");
    }
    let dir = tempfile::tempdir().unwrap();
    let pages = dir.path().join("man");
    run(NOBODY, &["man", "--dir", &pages.display().to_string()]).await.ok();
    for page in ["levee", "levee-topic-create", "levee-consume", "levee-doctor"] {
        let text = std::fs::read_to_string(pages.join(format!("{page}.1"))).unwrap();
        assert!(text.contains("interrupted by Ctrl") && text.starts_with(".ie"), "{page}: {text}");
    }
    assert!(run(NOBODY, &["man", "topic", "create"]).await.ok().contains("if\\-not\\-exists"));
    let help = run(NOBODY, &["consume", "--help"]).await.ok();
    assert!(help.contains("@T1:T2") && help.contains("130  interrupted"), "{help}");
    let explained = run(NOBODY, &["explain", "unknown-topic"]).await.ok();
    assert!(explained.contains("Exit code 4"), "{explained}");
    let settings = run(NOBODY, &["config", "explain", "upload", "lag", "--dev"]).await.ok();
    assert!(settings.contains("topic.upload.lag.policy = block  (default)"), "{settings}");
}

/// Files, not folders: a folder bucket keeps empty ones.
fn files_below(folder: &std::path::Path) -> usize {
    let Ok(found) = std::fs::read_dir(folder) else { return 0 };
    let paths = found.map(|entry| entry.unwrap().path());
    paths.map(|path| if path.is_dir() { files_below(&path) } else { 1 }).sum()
}
