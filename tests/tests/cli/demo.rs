//! `levee demo`: it keeps to itself.

use std::collections::BTreeSet;
use std::path::Path;

use levee_tests::process::Broker;

use super::command::{NOBODY, ended, levee, run, run_with};

/// All files below a folder.
fn files(folder: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => drop(found.insert(path.display().to_string())),
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_lives_in_the_bucket_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mut broker = Broker::dev(&dir.path().join("data"), &[]).await;
    run(&broker.grpc, &["topic", "create", "demo", "-p", "1"]).await.ok();
    run_with(&broker.grpc, &["produce", "demo"], b"one\ntwo\n").await.ok();
    assert_eq!(broker.terminate().await, Some(0));
    let bucket = dir.path().join("data").join("bucket");
    let before = files(&bucket);
    assert!(!before.is_empty());
    let url = format!("file://{}", bucket.display());
    let source = dir.path().join("source");
    std::fs::write(&source, vec![7; 100_000]).unwrap();
    let source = source.display().to_string();
    let demo = ["demo", "--mb", "3", source.as_str()];

    let named = run(NOBODY, &[&demo[..], &["--bucket", &url]].concat()).await.ok();
    assert!(named.contains(&format!("bucket: {url}/levee-demo-")), "{named}");
    // The kill would prove nothing if nothing was acknowledged before it.
    assert!(named.contains("  killed after ") && !named.contains("after 0 acks"), "{named}");
    assert_eq!(files(&bucket), before);
    assert!(
        !std::fs::read_dir(&bucket).unwrap().any(|entry| {
            entry.unwrap().file_name().to_string_lossy().starts_with("levee-demo")
        })
    );

    // Settings of another broker that the environment holds are not the demo's.
    let mut inherits = levee(NOBODY, &demo);
    inherits.env("LEVEE_BUCKET_URL", &url).env("LEVEE_DATA_DIR", dir.path().join("data"));
    ended(inherits.spawn().unwrap(), vec![]).await.ok();
    assert_eq!(files(&bucket), before);

    let kept = dir.path().join("kept");
    let keep = ["--keep", kept.to_str().unwrap(), "--bucket", &url];
    let done = run(NOBODY, &[&demo[..], &keep].concat()).await;
    assert!(done.err.contains(&format!("is left below {url}/levee-demo-")), "{done:?}");
    assert_eq!(done.code, 0, "{done:?}");
    run(NOBODY, &[&demo[..], &keep].concat()).await.fails(2, "is not empty");

    broker.restart().await;
    let found = run(&broker.grpc, &["consume", "demo", "-e"]).await.ok();
    assert_eq!(found, "one\ntwo\n");
}
