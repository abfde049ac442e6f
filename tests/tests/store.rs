//! The conditional store against real and misbehaving stores.

#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

use std::time::{Duration, Instant};

use bytes::Bytes;
use levee_proto::head::{Head, Kind as ObjectKind};
use levee_proto::ids::{Nonce, Writer};
use levee_runtime::Host;
use levee_runtime::real::RealWorld;
use levee_tests::minio::Minio;
use levee_tests::s3::{FakeS3, Fault, Op, Rule};
use levee_tiering::store::probe::{ProbeError, Rounds, probe};
use levee_tiering::store::{Created, Deadlines, Kind, Progress, Store, StoreError};

fn host() -> Host {
    RealWorld::host()
}

/// With deadlines that a test can wait for.
fn open(url: &str) -> Store {
    let deadlines =
        Deadlines { request: Duration::from_millis(500), operation: Duration::from_secs(5) };
    Store::open(url, host()).unwrap().with_deadlines(deadlines)
}

/// An object of its own.
fn object(host: &Host, body: &str) -> (Nonce, Vec<Bytes>) {
    let nonce = Nonce(host.random_u128());
    let head = Head {
        kind: ObjectKind::Probe,
        nonce,
        writer: Writer(1),
        term: 1,
        seq: 1,
        body_len: body.len() as u64,
        extra: 0,
    };
    (nonce, vec![Bytes::copy_from_slice(&head.encode()), Bytes::copy_from_slice(body.as_bytes())])
}

async fn create(store: &Store, key: &str, body: &str) -> Created {
    let (nonce, object) = object(&host(), body);
    store.create(key, object, nonce).await
}

/// What every store does.
async fn conforms(store: &Store) {
    probe(store, &host(), Rounds::First).await.unwrap();
    let (nonce, first) = object(&host(), "first");
    assert!(matches!(store.create("a/1", first.clone(), nonce).await, Created::Won));
    // The same bytes again are the same write, and another write is another.
    assert!(matches!(store.create("a/1", first.clone(), nonce).await, Created::Won));
    match create(store, "a/1", "second").await {
        Created::Lost(lost) => assert_eq!(lost.found.unwrap().nonce, nonce),
        other => panic!("{other:?}"),
    }
    let whole = first.concat();
    assert_eq!(store.get("a/1").await.unwrap().unwrap(), whole);
    assert_eq!(store.get_range("a/1", 3..9).await.unwrap().unwrap(), whole[3..9]);
    let beyond = whole.len() as u64;
    let short = store.get_range("a/1", beyond - 1..beyond + 1).await.unwrap_err();
    assert_eq!(short.kind, Kind::Short, "{short}");
    assert_eq!(store.len("a/1").await.unwrap(), Some(beyond));
    for missing in ["a/2", "b"] {
        assert_eq!(store.get(missing).await.unwrap(), None);
        assert_eq!(store.get_range(missing, 0..1).await.unwrap(), None);
        assert_eq!(store.len(missing).await.unwrap(), None);
        store.delete(missing).await.unwrap();
    }
    // More than one page of a listing.
    let names: Vec<String> = (0..1005).map(|n| format!("many/{n:04}")).collect();
    for chunk in names.chunks(100) {
        let creates = chunk.iter().map(|key| create(store, key, "x"));
        assert!(futures::future::join_all(creates).await.iter().all(|c| matches!(c, Created::Won)));
    }
    let listed = store.list("many").await.unwrap();
    assert_eq!(listed.iter().map(|l| l.key.clone()).collect::<Vec<_>>(), names);
    let after = store.list_some("many", Some("many/1001"), 2).await.unwrap();
    assert_eq!(after.iter().map(|l| &l.key[..]).collect::<Vec<_>>(), &names[1002..1004]);
    assert!(store.list("man").await.unwrap().is_empty(), "a folder is not a prefix");
    // In parts.
    let piece = |n: u8| Ok::<_, StoreError>(Bytes::from(vec![n; 5 << 20]));
    let large = futures::stream::iter((0..5).map(piece));
    store.put_large("large", large, Progress::default()).await.unwrap();
    assert_eq!(store.len("large").await.unwrap(), Some(25 << 20));
    let seam = store.get_range("large", (10 << 20) - 1..(10 << 20) + 1).await.unwrap().unwrap();
    assert_eq!(&seam[..], [1, 2]);
    store.delete("large").await.unwrap();
    assert_eq!(store.get("large").await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_conforms() {
    let dir = tempfile::tempdir().unwrap();
    conforms(&Store::open(&format!("file://{}/b", dir.path().display()), host()).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_conforms() {
    conforms(&Store::open("memory://", host()).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fake_conforms() {
    let s3 = FakeS3::start().await;
    conforms(&open(&s3.url("some/prefix"))).await;
    conforms(&open(&s3.url(""))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn minio_conforms() {
    let minio = Minio::start();
    conforms(&Store::open(&minio.url("some/prefix"), host()).unwrap()).await;
    let missing = minio.url("p").replacen("s3://levee/", "s3://nothing/", 1);
    let error = Store::open(&missing, host()).unwrap().get("k").await.unwrap_err();
    assert_eq!(error.kind, Kind::Invalid, "{error}");
    let wrong = minio.url("p").replacen("levee-test-secret", "guessed", 1);
    let error = Store::open(&wrong, host()).unwrap().get("k").await.unwrap_err();
    assert_eq!(error.kind, Kind::Denied, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_create_is_resolved_by_what_is_there() {
    let s3 = FakeS3::start().await;
    let store = open(&s3.url("p"));
    // It happened, whatever was answered.
    for (n, fault) in
        [Fault::StatusAfter(500), Fault::CutAfter, Fault::StatusAfter(412), Fault::StatusAfter(503)]
            .into_iter()
            .enumerate()
    {
        s3.add(Rule::next(Op::Put, fault));
        let created = create(&store, &format!("after/{n}"), "x").await;
        assert!(matches!(created, Created::Won), "{fault:?}: {created:?}");
    }
    // It did not happen, or nobody knows: never a yes and never a no.
    for (n, fault) in [409, 412, 429, 500, 503]
        .map(Fault::Status)
        .into_iter()
        .chain([Fault::Cut, Fault::Hang])
        .enumerate()
    {
        s3.add(Rule::next(Op::Put, fault));
        let created = create(&store, &format!("before/{n}"), "x").await;
        assert!(matches!(created, Created::Unknown(_)), "{fault:?}: {created:?}");
        let again = create(&store, &format!("before/{n}"), "y").await;
        assert!(matches!(again, Created::Won), "{fault:?}: {again:?}");
    }
    // Late but done within the deadline, and the first reading back fails.
    s3.add(Rule::next(Op::Put, Fault::CutAfter));
    s3.add(Rule::next(Op::Get, Fault::Status(503)));
    let created = create(&store, "unread", "x").await;
    assert!(matches!(created, Created::Unknown(_)), "{created:?}");
    // What is read back was damaged on its way: that is not somebody else's object.
    s3.add(Rule::next(Op::Put, Fault::CutAfter));
    s3.add(Rule::next(Op::Get, Fault::Flipped));
    let created = create(&store, "damaged", "x").await;
    assert!(matches!(created, Created::Unknown(_)), "{created:?}");
    assert!(matches!(create(&store, "damaged", "y").await, Created::Lost(_)), "it is there");
    // A ghost takes a place that was given up.
    s3.add(Rule::next(Op::Put, Fault::Ghost(Duration::from_millis(100))));
    assert!(matches!(create(&store, "ghost", "x").await, Created::Unknown(_)));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(matches!(create(&store, "ghost", "y").await, Created::Lost(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_create_goes_on_until_it_is_known() {
    let s3 = FakeS3::start().await;
    let store = open(&s3.url("p"));
    for fault in [Fault::Status(503), Fault::Cut, Fault::Hang, Fault::Ghost(Duration::ZERO)] {
        s3.add(Rule::next(Op::Put, fault));
    }
    let (nonce, body) = object(&host(), "x");
    let mut unknown = 0;
    store.create_known("k", body, nonce, |_| unknown += 1).await.unwrap();
    assert!(unknown >= 3, "{unknown}");
    let (nonce, body) = object(&host(), "y");
    store.create_known("k", body, nonce, |_| {}).await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_are_retried_and_never_come_short() {
    let s3 = FakeS3::start().await;
    let store = open(&s3.url("p"));
    let (nonce, body) = object(&host(), "what is to be read");
    let whole = body.concat();
    store.create_known("k", body, nonce, |_| {}).await.unwrap();
    for fault in [Fault::Status(500), Fault::Status(503), Fault::Torn, Fault::Cut, Fault::Hang] {
        s3.add(Rule::next(Op::Get, fault));
        assert_eq!(store.get("k").await.unwrap().unwrap(), whole, "{fault:?}");
        s3.add(Rule::next(Op::Get, fault));
        assert_eq!(store.get_range("k", 2..30).await.unwrap().unwrap(), whole[2..30], "{fault:?}");
        s3.add(Rule::next(Op::List, fault));
        assert_eq!(store.list("").await.unwrap().len(), 1, "{fault:?}");
        s3.add(Rule::next(Op::Head, fault));
        assert_eq!(store.len("k").await.unwrap(), Some(whole.len() as u64), "{fault:?}");
        s3.add(Rule::next(Op::Delete, fault));
        store.delete("other").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_work_fails_at_once_and_the_rest_at_its_deadline() {
    let s3 = FakeS3::start().await;
    let wrong = open(&s3.url_with("p", "somebody"));
    let started = Instant::now();
    let error = wrong.get("k").await.unwrap_err();
    assert_eq!(error.kind, Kind::Denied, "{error}");
    assert!(error.to_string().contains("check the credentials"), "{error}");
    assert!(!error.to_string().contains("kept-secret"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(1), "a denial is not retried");

    let store = open(&s3.url("p"));
    s3.add(Rule::next(Op::Get, Fault::Status(404)));
    let error = store.get("k").await.unwrap_err();
    assert_eq!(error.kind, Kind::Invalid, "no bucket is not no object: {error}");
    s3.read_only(true);
    match create(&store, "k", "x").await {
        Created::Unknown(error) => assert_eq!(error.kind, Kind::Denied, "{error}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(store.delete("k").await.unwrap_err().kind, Kind::Denied);
    s3.heal();

    s3.add(Rule::all(Op::Get, Fault::Status(503)));
    let started = Instant::now();
    assert_eq!(store.get("k").await.unwrap_err().kind, Kind::Throttled);
    let took = started.elapsed();
    assert!(took > Duration::from_secs(2) && took < Duration::from_secs(8), "{took:?}");
    s3.heal();

    s3.offline(true);
    let error = store.list("").await.unwrap_err();
    assert!(error.is_retriable(), "{error}");
    s3.heal();
    assert!(store.list("").await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_end_by_themselves() {
    let s3 = FakeS3::start().await;
    let store = open(&s3.url("p"));
    let progress =
        Progress { deadline: Duration::from_secs(3), stalled_after: Duration::from_millis(300) };
    let pieces = || {
        let piece = |n: u8| Ok::<_, StoreError>(Bytes::from(vec![n; 8 << 20]));
        futures::stream::iter((0..3).map(piece))
    };
    for (op, fault) in [
        (Op::Begin, Fault::Hang),
        (Op::Part, Fault::Hang),
        (Op::Part, Fault::Status(500)),
        (Op::Complete, Fault::Cut),
    ] {
        s3.add(Rule::next(op, fault));
        let error = store.put_large("k", pieces(), progress).await.unwrap_err();
        assert!(error.is_retriable(), "{op:?} {fault:?}: {error}");
        assert_eq!(store.get("k").await.unwrap(), None, "{op:?} {fault:?}");
    }
    store.put_large("k", pieces(), progress).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_probe_refuses_a_store_that_ignores_conditions() {
    let s3 = FakeS3::start().await;
    s3.ignore_conditions();
    let error = probe(&open(&s3.url("p")), &host(), Rounds::Restart).await.unwrap_err();
    assert!(matches!(error, ProbeError::Unsafe { .. }), "{error}");
    assert!(error.to_string().contains("If-None-Match"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_probe_passes_a_safe_store_that_has_a_bad_day() {
    let s3 = FakeS3::start().await;
    for (op, fault) in [
        (Op::Put, Fault::Status(409)),
        (Op::Put, Fault::CutAfter),
        (Op::Put, Fault::Status(503)),
        (Op::Get, Fault::Torn),
        (Op::List, Fault::Status(500)),
    ] {
        s3.add(Rule::all(op, fault).every(5));
    }
    probe(&open(&s3.url("p")), &host(), Rounds::First).await.unwrap();
    s3.heal();
    assert!(s3.keys("").is_empty(), "the probe leaves nothing: {:?}", s3.keys(""));
}

#[test]
fn urls_open_or_say_what_is_wrong() {
    for good in [
        "s3://bucket",
        "s3://bucket/a/b?region=eu-west-1",
        "gs://bucket/prefix",
        "az://container/prefix?account_name=someone&access_key=c2VjcmV0",
        "opendal+memory://x",
    ] {
        Store::open(good, host()).unwrap_or_else(|error| panic!("{good}: {error}"));
    }
    for (bad, says) in [
        ("no url", "is no URL"),
        ("ftp://x", "scheme \"ftp\""),
        ("s3://", "names no bucket"),
        ("s3://b?regoin=x", "option \"regoin\" is not known"),
        ("gs://b?x=y", "option \"x\" is not known"),
        ("az://b?x=y", "option \"x\" is not known"),
    ] {
        let error = Store::open(bad, host()).unwrap_err().to_string();
        assert!(error.contains(says), "{bad}: {error}");
        assert!(!error.contains("=y"), "a query may hold secrets: {error}");
    }
}
