//! KafkaJS and @platformatic/kafka.

use std::path::{Path, PathBuf};
use std::process::Command as Plain;

use levee_tests::programs::{self, Bucket, Levee, named, needs, sources};
use levee_tests::tools::{self, installed};
use tokio::process::Command;

const REMEDY: &str = "install Node.js 20.19 or newer with npm";

/// A folder with `node_modules`.
fn modules() -> PathBuf {
    needs("node", REMEDY);
    needs("npm", REMEDY);
    let version = tools::run(Plain::new("node").arg("--version")).expect("node runs");
    let major = version.trim_start_matches('v').split('.').next().and_then(|n| n.parse().ok());
    assert!(major.is_some_and(|major: u32| major >= 20), "this is {version}: {REMEDY}");
    let files = ["package.json", "package-lock.json"].map(|name| sources("node").join(name));
    let install = |folder: &Path| {
        for file in &files {
            let name = file.file_name().expect("a file");
            std::fs::copy(file, folder.join(name)).map_err(|error| error.to_string())?;
        }
        let mut npm = Plain::new("npm");
        npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"]);
        tools::run(npm.current_dir(folder)).map(drop)
    };
    installed(&named("node", &files), install).unwrap_or_else(|why| panic!("{why}"))
}

/// Runs a file of `tests/programs/node`, in which there are so many tests.
async fn suite(bucket: Bucket, more: &[&str], file: &str, tests: usize) {
    let modules = modules().join("node_modules");
    let levee = Levee::start(bucket, more).await;
    // Modules are looked for beside the file, and the sources stay as they are.
    let folder = levee.folder("node");
    for name in [file, "common.js"] {
        std::fs::copy(sources("node").join(name), folder.join(name)).unwrap();
    }
    std::os::unix::fs::symlink(modules, folder.join("node_modules")).unwrap();
    let mut command = Command::new("node");
    command.args(["--test", "--test-force-exit", "--test-reporter=tap", file]);
    command.current_dir(folder).env("LEVEE_KAFKA", levee.kafka());
    let said = programs::run(file, command).await.ok();
    for line in [format!("# pass {tests}"), "# fail 0".into(), "# skipped 0".into()] {
        assert!(said.lines().any(|said| said == line), "{line} in:\n{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kafkajs() {
    suite(Bucket::Folder, &[], "kafkajs.test.js", 5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn platformatic_kafka() {
    suite(Bucket::Folder, &[], "platformatic.test.mjs", 5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_on_objects() {
    if tools::long() {
        let object = ["--set", "topic.durability.class=object"];
        suite(Bucket::Minio, &object, "kafkajs.test.js", 5).await;
        suite(Bucket::Minio, &object, "platformatic.test.mjs", 5).await;
    }
}
