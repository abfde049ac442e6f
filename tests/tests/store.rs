//! The conditional store against real and misbehaving stores.

#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

use std::time::{Duration, Instant};

use bytes::Bytes;
use levee_proto::head::{Head, Kind as ObjectKind};
use levee_proto::ids::{Nonce, Writer};
use levee_runtime::Host;
use levee_runtime::real::RealWorld;
use levee_tests::minio::Minio;
use levee_tests::process::{Broker, binary};
use levee_tests::radosgw::Radosgw;
use levee_tests::s3::{FakeS3, Fault, Op, Rule, WEB_TOKEN};
use levee_tests::tools::long;
use levee_tiering::store::hedge::Hedging;
use levee_tiering::store::probe::{Check, Outcome, ProbeError, Rounds, Verdict, examine, probe};
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
    // Ours is never another size, whatever its head says.
    let longer = [&first[..], &[Bytes::from_static(b"more")]].concat();
    assert!(matches!(store.create("a/1", longer, nonce).await, Created::Unknown(_)));
    // Somebody's empty object is not ours. (opendal's s3 cannot tell the size of one.)
    if !store.describe().starts_with("opendal+s3") {
        let nothing = Nonce(1);
        assert!(matches!(store.create("empty", vec![Bytes::new()], nothing).await, Created::Won));
        let empty = store.get_range("empty", 0..8).await.unwrap_err();
        assert_eq!(empty.kind, Kind::Short, "{empty}");
        assert!(matches!(create(store, "empty", "x").await, Created::Lost(_)));
    }
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
async fn services_of_opendal_conform() {
    let dir = tempfile::tempdir().unwrap();
    let fs = format!("opendal+fs://{}/b?unsynced=accepted", dir.path().display());
    conforms(&Store::open(&fs, host()).unwrap()).await;
    conforms(&Store::open("opendal+memory://x/some/prefix", host()).unwrap()).await;
    let s3 = FakeS3::start().await;
    conforms(&Store::open(&opendal_s3(&s3.endpoint(), "bucket"), host()).unwrap()).await;
    assert_eq!(s3.last(Op::Put).header("if-none-match"), Some("*"));
}

fn opendal_s3(endpoint: &str, bucket: &str) -> String {
    format!(
        "opendal+s3://{bucket}/other/prefix?endpoint={endpoint}&region=us-east-1\
         &access_key_id=levee-test&secret_access_key=levee-test-secret"
    )
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
    for checksum in ["crc64nvme", "sha256"] {
        let checked = minio.url(checksum) + "&checksum=" + checksum;
        conforms(&Store::open(&checked, host()).unwrap()).await;
    }
    conforms(&Store::open(&opendal_s3(&minio.endpoint(), "levee"), host()).unwrap()).await;
    let missing = minio.url("p").replacen("s3://levee/", "s3://nothing/", 1);
    let error = Store::open(&missing, host()).unwrap().get("k").await.unwrap_err();
    assert_eq!(error.kind, Kind::Invalid, "{error}");
    let wrong = minio.url("p").replacen("levee-test-secret", "guessed", 1);
    let error = Store::open(&wrong, host()).unwrap().get("k").await.unwrap_err();
    assert_eq!(error.kind, Kind::Denied, "{error}");
}

/// Downloads some 70 MB and starts three daemons.
#[tokio::test(flavor = "multi_thread")]
async fn ceph_conforms() {
    if !long() {
        return eprintln!("skipped: Ceph runs with ./test --long (LEVEE_LONG=1)");
    }
    let ceph = match Radosgw::start() {
        Ok(ceph) => ceph,
        Err(why) => return eprintln!("skipped: no Ceph on this machine: {why}"),
    };
    conforms(&Store::open(&ceph.url("some/prefix"), host()).unwrap()).await;
    conforms(&Store::open(&opendal_s3(&ceph.endpoint(), "levee"), host()).unwrap()).await;
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

/// Hedges whatever takes longer than most, and knows what that is.
async fn hedging(s3: &FakeS3) -> Store {
    let how = Hedging { creates: true, percent: 50, floor: Duration::ZERO, ..Hedging::default() };
    let store = open(&s3.url("p")).with_hedging(how);
    for n in 0..40 {
        let key = format!("usual/{n}");
        assert!(matches!(create(&store, &key, "x").await, Created::Won));
        store.get_range(&key, 0..8).await.unwrap().unwrap();
    }
    store
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_request_is_repeated_and_tells_the_truth() {
    let s3 = FakeS3::start().await;
    let store = hedging(&s3).await;
    // Above the deadline of a request: only a second one can answer.
    let slow = Fault::Slow(Duration::from_secs(10));
    s3.add(Rule::next(Op::Get, slow));
    assert!(store.get_range("usual/0", 0..8).await.unwrap().is_some());
    s3.add(Rule::next(Op::Put, slow));
    assert!(matches!(create(&store, "mine", "x").await, Created::Won));
    // The first was applied and its reply lost, late; the second meets an object that is ours.
    s3.add(Rule::next(Op::Put, Fault::HangAfter));
    assert!(matches!(create(&store, "ours", "x").await, Created::Won));
    // Somebody else's object, whichever of both is told so.
    s3.add(Rule::next(Op::Put, slow));
    match create(&store, "mine", "y").await {
        Created::Lost(lost) => assert_eq!(lost.key, "mine"),
        other => panic!("{other:?}"),
    }
    // Neither was applied: nobody knows, and the same again finds out.
    let (nonce, body) = object(&host(), "x");
    s3.add(Rule { times: 2, ..Rule::all(Op::Put, Fault::Hang) });
    let unknown = store.create("open", body.clone(), nonce).await;
    assert!(matches!(unknown, Created::Unknown(_)), "{unknown:?}");
    assert!(matches!(store.create("open", body, nonce).await, Created::Won));
}

#[tokio::test(flavor = "multi_thread")]
async fn races_have_one_winner_with_two_requests_each() {
    let s3 = FakeS3::start().await;
    let store = hedging(&s3).await;
    for (fault, every) in
        [(Fault::Slow(Duration::from_millis(30)), 3), (Fault::CutAfter, 5), (Fault::Status(409), 7)]
    {
        s3.add(Rule::all(Op::Put, fault).every(every));
    }
    probe(&store, &host(), Rounds::First).await.unwrap();
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
    assert!(error.to_string().contains("InvalidAccessKeyId"), "{error}");
    assert!(!error.to_string().contains("Token-0"), "only code and message are shown: {error}");
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
    // A part takes its time, whatever small requests may take.
    let store = store.with_deadlines(Deadlines {
        request: Duration::from_millis(200),
        operation: Duration::from_secs(5),
    });
    let patient = Progress { deadline: Duration::from_secs(20), ..Progress::default() };
    s3.add(Rule::next(Op::Part, Fault::Slow(Duration::from_millis(600))));
    store.put_large("slow", pieces(), patient).await.unwrap();
    s3.add(Rule::next(Op::Get, Fault::Slow(Duration::from_millis(600))));
    let before = s3.requests();
    assert!(store.get_range("slow", 0..1 << 20).await.unwrap().is_some());
    assert_eq!(s3.requests() - before, 1, "one request is enough");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_of_a_store_that_never_answers_ends() {
    let s3 = FakeS3::start().await;
    s3.add(Rule::all(Op::Put, Fault::Hang));
    let deadlines =
        Deadlines { request: Duration::from_millis(300), operation: Duration::from_millis(600) };
    let store = open(&s3.url("p")).with_deadlines(deadlines);
    let started = Instant::now();
    let error = probe(&store, &host(), Rounds::Restart).await.unwrap_err();
    assert!(matches!(error, ProbeError::Store { .. }), "{error}");
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_probe_refuses_a_store_that_ignores_conditions() {
    let s3 = FakeS3::start().await;
    s3.ignore_conditions();
    s3.call_it("Garage");
    let says = [
        format!("the store at {} (Server: Garage) is not safe for Levee", s3.endpoint()),
        "ignored If-None-Match on PUT".into(),
        "use AWS S3".into(),
    ];
    let error = probe(&open(&s3.url("p")), &host(), Rounds::Restart).await.unwrap_err();
    assert!(matches!(error, ProbeError::Unsafe { .. }), "{error}");
    assert!(says.iter().all(|part| error.to_string().contains(part)), "{error}");
    let report = examine(&open(&s3.url("p")), &host()).await;
    assert_eq!(report.verdict(), Verdict::Unsafe);
    let of = |check| &report.checks.iter().find(|(of, _)| *of == check).unwrap().1;
    for (check, why) in [
        (Check::Create, "a second create replaced an object"),
        (Check::Race, "16 of 16 racing writers won"),
        (Check::EqualBytes, "16 of 16 racing writers won with equal bytes"),
    ] {
        assert!(matches!(of(check), Outcome::Broken(seen) if seen.contains(why)), "{report:?}");
    }
    assert!(matches!(of(Check::Read), Outcome::Passed(_)), "{report:?}");
    assert!(s3.keys("").is_empty(), "the probe leaves nothing: {:?}", s3.keys(""));
    // A broker does not start on it, for the same reason.
    let data = tempfile::tempdir().unwrap();
    let failed = Broker::try_dev(data.path(), &["--bucket", &s3.url("p")]).await.err().unwrap();
    assert_eq!(failed.code, Some(1), "{}", failed.log);
    assert!(says.iter().all(|part| failed.log.contains(part)), "{}", failed.log);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_probe_tells_a_store_without_conditions_from_one_that_is_away() {
    let s3 = FakeS3::start().await;
    s3.add(Rule::all(Op::Put, Fault::Status(501)));
    let report = examine(&open(&s3.url("p")), &host()).await;
    assert_eq!(report.verdict(), Verdict::Unsafe, "{report:?}");
    s3.heal();
    let denied = examine(&open(&s3.url_with("p", "somebody")), &host()).await;
    assert_eq!(denied.verdict(), Verdict::Unreachable, "{denied:?}");
    assert_eq!(denied.checks[1].1, Outcome::Skipped);
}

/// `levee storage ..`: exit code, standard output, standard error.
async fn levee(args: &[&str]) -> (Option<i32>, String, String) {
    let mut command = tokio::process::Command::new(binary());
    let done = command.arg("storage").args(args).kill_on_drop(true).output().await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (done.status.code(), text(&done.stdout), text(&done.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn people_and_scripts_see_the_verdict() {
    let s3 = FakeS3::start().await;
    let (code, out, err) = levee(&["probe", &s3.url("p")]).await;
    assert_eq!(code, Some(0), "{out}{err}");
    for shown in ["FakeS3", "exactly one winner of 16", "P99", "Levee can use this store"] {
        assert!(out.contains(shown), "{shown}: {out}");
    }
    assert!(s3.keys("").is_empty(), "the probe leaves nothing: {:?}", s3.keys(""));
    s3.ignore_conditions();
    let (code, out, err) = levee(&["probe", &s3.url("p"), "--output", "json"]).await;
    assert_eq!(code, Some(1), "{out}{err}");
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json["verdict"], "unsafe");
    assert_eq!(json["checks"][1]["state"], "failed");
    assert!(err.contains("is not safe for Levee"), "{err}");
    s3.offline(true);
    let (code, out, err) = levee(&["probe", &s3.url("p")]).await;
    assert_eq!(code, Some(3), "{out}{err}");
    assert!(out.contains("verdict  unknown"), "{out}");
    s3.heal();
    for op in [Op::Put, Op::Get] {
        s3.add(Rule::all(op, Fault::Hang));
    }
    let (code, _, err) = levee(&["probe", &s3.url("p"), "--timeout", "1s"]).await;
    assert_eq!(code, Some(3), "{err}");
    assert!(err.contains("was not checked within 1s"), "{err}");
    let (code, _, err) = levee(&["probe", "opendal+webdav://host/dir"]).await;
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("opendal's webdav has no create-if-absent"), "{err}");
    let (code, _, err) = levee(&["probe", &s3.url("p").replace("region", "regoin")]).await;
    assert_eq!(code, Some(2), "{err}");
    assert!(err.contains("did you mean \"region\"?") && !err.contains("kept-secret"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_url_says_arrives_at_the_server() {
    let s3 = FakeS3::start().await;
    let large = || futures::stream::iter([Ok::<_, StoreError>(Bytes::from(vec![7; 9 << 20]))]);
    let put = async |query: &str| {
        let store = open(&format!("{}&{query}", s3.url("p")));
        let key = format!("{}", host().random_u64());
        assert!(matches!(create(&store, &key, "x").await, Created::Won), "{query}");
        store.put_large(&(key + "l"), large(), Progress::default()).await.unwrap();
        [Op::Put, Op::Begin, Op::Part].map(|op| s3.last(op))
    };
    let [plain, begin, part] = put("path_style=true").await;
    assert!(plain.path.starts_with("/bucket/p/"), "{plain:?}");
    // Signed with the hash of the body, which the server checks.
    assert_eq!(plain.header("x-amz-content-sha256").unwrap().len(), 64);
    for header in ["x-amz-server-side-encryption", "x-amz-checksum-crc64nvme"] {
        assert!([&plain, &begin, &part].iter().all(|s| s.header(header).is_none()), "{header}");
    }
    let [put_, begin, _] = put("sse=s3").await;
    for sent in [put_, begin] {
        assert_eq!(sent.header("x-amz-server-side-encryption"), Some("AES256"));
    }
    let [put_, begin, _] = put("sse=kms&sse_kms_key_id=arn:key&sse_bucket_key=true").await;
    for sent in [put_, begin] {
        assert_eq!(sent.header("x-amz-server-side-encryption"), Some("aws:kms"));
        assert_eq!(sent.header("x-amz-server-side-encryption-aws-kms-key-id"), Some("arn:key"));
        let bucket_key = "x-amz-server-side-encryption-bucket-key-enabled";
        assert_eq!(sent.header(bucket_key), Some("true"));
    }
    // Both are checked against the body by the server.
    for checksum in ["crc64nvme", "sha256"] {
        let [put, _, part] = put(&format!("checksum={checksum}")).await;
        let header = format!("x-amz-checksum-{checksum}");
        assert!(put.header(&header).is_some() && part.header(&header).is_some(), "{checksum}");
    }
    open(&(s3.url("p") + "&bulk_delete=false")).delete("k").await.unwrap();
    assert_eq!(s3.last(Op::Delete).path, "/bucket/p/k");
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_wants_a_certificate_that_is_trusted() {
    let s3 = FakeS3::start_tls().await;
    let url = s3.url("p");
    conforms(&Store::open(&url, host()).unwrap()).await;
    // The body is guarded by the line and by a checksum, not by the signature.
    let unsigned = open(&(url.clone() + "&unsigned_payload=true"));
    assert!(matches!(create(&unsigned, "u", "x").await, Created::Won));
    let sent = s3.last(Op::Put);
    assert_eq!(sent.header("x-amz-content-sha256"), Some("UNSIGNED-PAYLOAD"));
    assert!(sent.header("x-amz-checksum-crc64nvme").is_some());
    let (before, after) = url.split_once(&format!("&ca_file={}", s3.ca_file())).unwrap();
    let error = open(&format!("{before}{after}")).get("k").await.unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_identity_gets_its_keys_from_sts() {
    let s3 = FakeS3::start_tls().await;
    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(token.path(), WEB_TOKEN).unwrap();
    let identity = format!(
        "{}&role_arn=arn:aws:iam::1:role/r&sts_endpoint={}&web_identity_token_file={}",
        s3.bare_url("p"),
        s3.sts(),
        token.path().display()
    );
    conforms(&Store::open(&identity, host()).unwrap()).await;
    std::fs::write(token.path(), "another").unwrap();
    let error = open(&identity).get("k").await.unwrap_err();
    assert!(error.to_string().contains("InvalidIdentityToken"), "{error}");
    assert!(!error.to_string().contains("another"), "a token is a secret: {error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_of_the_shared_files_is_used() {
    let s3 = FakeS3::start().await;
    let dir = tempfile::tempdir().unwrap();
    let credentials = dir.path().join("credentials");
    let keys = "aws_access_key_id = levee-test\naws_secret_access_key = kept-secret\n";
    std::fs::write(&credentials, format!("[default]\n{keys}[work]\n{keys}")).unwrap();
    let probe = async |query: &str, profile: &str| {
        let mut command = tokio::process::Command::new(binary());
        command.env_clear().env("AWS_SHARED_CREDENTIALS_FILE", &credentials);
        command.env("AWS_PROFILE", profile).env("AWS_EC2_METADATA_DISABLED", "true");
        command.args(["storage", "probe", &format!("{}{query}", s3.bare_url("p"))]);
        let done = command.kill_on_drop(true).output().await.unwrap();
        let text = String::from_utf8_lossy(&done.stderr).into_owned();
        (done.status.code(), text)
    };
    for (query, profile) in [("&profile=work", ""), ("", "work"), ("", "")] {
        assert_eq!(probe(query, profile).await.0, Some(0), "{query:?} {profile:?}");
    }
    let (code, error) = probe("&profile=nobody", "").await;
    assert_eq!(code, Some(2), "{error}");
    assert!(error.contains("profile \"nobody\" is not in"), "{error}");
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
        "opendal+gcs://bucket/prefix?skip_signature=true",
        "opendal+azblob://container/p?endpoint=https://a.blob.core.windows.net&account_name=a",
        "opendal+oss://bucket/p?endpoint=https://oss-cn-hangzhou.aliyuncs.com",
        "opendal+cos://bucket/p?endpoint=https://cos.ap-singapore.myqcloud.com",
    ] {
        Store::open(good, host()).unwrap_or_else(|error| panic!("{good}: {error}"));
    }
    for (bad, says) in [
        ("no url", "is no URL"),
        ("ftp://x", "is none of s3://BUCKET/PREFIX"),
        ("s3://", "names no bucket"),
        ("s3://me:hunter2=y@b", "put credentials into the environment"),
        ("file:///x#1", "write %23"),
        ("s3://b/p?region=eu#x=y", "write %23"),
        ("s3://b?regoin=x", "option \"regoin\" is not known; did you mean \"region\""),
        ("gs://b?x=y", "option \"x\" is not known; write one of endpoint"),
        ("az://b?acount_name=y", "did you mean \"account_name\""),
        ("file:///tmp?sync=y", "this kind of bucket takes none"),
        ("s3://b?endpoint=http://h", "has no TLS: add allow_http=true"),
        ("s3://b?endpoint=http://h&allow_http=true&unsigned_payload=true", "needs a TLS endpoint"),
        ("s3://b?sse_kms_key_id=y", "says nothing without sse=kms"),
        ("s3://b?access_key_id=y", "go together"),
        ("s3://b?sts_endpoint=http://h", "must be https"),
        ("opendal+ftp://x", "service \"ftp\" is not built in; write one of azblob, cos, fs"),
        ("opendal+fs:///d", "add ?unsynced=accepted"),
        ("opendal+fs://?unsynced=accepted&x=y", "option \"x\" is not known"),
        (
            "opendal+fs:///d?unsynced=accepted&atomic_write_dir=y",
            "option \"atomic_write_dir\" is not known",
        ),
        ("opendal+s3://b?acess_key_id=y", "did you mean \"access_key_id\""),
        ("opendal+webdav://host/dir", "opendal's webdav has no create-if-absent"),
    ] {
        let error = Store::open(bad, host()).unwrap_err().to_string();
        assert!(error.contains(says), "{bad}: {error}");
        assert!(!error.contains("=y"), "a query may hold secrets: {error}");
    }
}
