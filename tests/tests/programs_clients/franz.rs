//! franz-go: its own tests that need a broker, one process each.
//!
//! `tests.txt` has their names; those marked `long` run with `./test --long` only. A test that does
//! not pass, or skips itself, stands in `allowed-failures.txt` with a reason; one that stands there
//! and passes is an error too, so that the list only shrinks.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command as Plain;
use std::time::Duration;

use levee_tests::programs::{Bucket, Ended, Levee, Program, named, needs, sources};
use levee_tests::tools::{self, installed};
use tokio::process::Command;

const PACKAGE: &str = "github.com/twmb/franz-go/pkg/kgo";
/// One test; the longest takes half a minute here.
const LIMIT: Duration = Duration::from_secs(300);
/// Records of a test of pipelines.
const RECORDS: &str = "20000";
const RECORDS_LONG: &str = "100000";

/// The client's tests as a program.
fn program() -> PathBuf {
    needs("go", "install Go 1.24 or newer, which fetches the toolchain that the client wants");
    let module = sources("franz");
    let files = ["go.mod", "go.sum"].map(|name| module.join(name));
    let install = |folder: &Path| {
        let mut go = Plain::new("go");
        go.args(["test", "-c", "-mod=readonly", "-o"]).arg(folder.join("kgo.test")).arg(PACKAGE);
        tools::run(go.env("CGO_ENABLED", "0").current_dir(&module)).map(drop)
    };
    let folder = installed(&named("franz", &files), install);
    folder.unwrap_or_else(|why| panic!("{why}")).join("kgo.test")
}

/// `NAME REST` by line; what begins with `#` says nothing.
fn list(name: &str) -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(sources("franz").join(name)).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    let words = lines.map(|line| line.split_once(' ').unwrap_or((line, "")));
    words.map(|(name, rest)| (name.to_owned(), rest.trim().to_owned())).collect()
}

/// Whether the one test that ran said that it passed.
fn passed(name: &str, ended: &Ended) -> bool {
    ended.code == Some(0)
        && ended.out.lines().any(|line| line.starts_with(&format!("--- PASS: {name} ")))
}

#[tokio::test(flavor = "multi_thread")]
async fn own_broker_tests() {
    let program = program();
    let (tests, allowed) = (list("tests.txt"), list("allowed-failures.txt"));
    for (name, reason) in &allowed {
        assert!(tests.contains_key(name), "{name} of allowed-failures.txt is not in tests.txt");
        assert!(!reason.is_empty(), "{name} of allowed-failures.txt needs a reason");
    }
    let there = tools::run(Plain::new(&program).args(["-test.list", "."])).unwrap();
    let there: BTreeSet<&str> = there.lines().collect();
    let levee = Levee::start(Bucket::Folder, &[]).await;
    let mut wrong = Vec::new();
    for (name, when) in &tests {
        assert!(there.contains(name.as_str()), "the client has no test {name}");
        assert!(["", "long"].contains(&when.as_str()), "{name} runs {when}?");
        if when == "long" && !tools::long() {
            continue;
        }
        let mut command = Command::new(&program);
        command.args(["-test.v", "-test.run", &format!("^{name}$")]);
        command.args(["-test.timeout", &format!("{}s", LIMIT.as_secs())]);
        command.env("KGO_SEEDS", levee.kafka()).env("KGO_TEST_RF", "1");
        command.env("KGO_TEST_RECORDS", if tools::long() { RECORDS_LONG } else { RECORDS });
        command.env("KGO_TEST_MAX_TOPIC_PARTS", "4").env("KGO_LOG_LEVEL", "none");
        let ended = Program::start(name, command).end(LIMIT * 2).await;
        match (passed(name, &ended), allowed.contains_key(name)) {
            (true, false) | (false, true) => {}
            (true, true) => wrong.push(format!("{name} passes: take it off allowed-failures.txt")),
            (false, false) => {
                wrong.push(format!("{name}: {:?}\n{}\n{}", ended.code, ended.out, ended.err))
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
