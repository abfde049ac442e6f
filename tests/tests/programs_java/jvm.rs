//! A JVM with Apache Kafka's programs and with ours of `tests/programs/java`.

use std::path::{Path, PathBuf};
use std::process::Command as Plain;
use std::sync::OnceLock;

use levee_tests::programs::{Ended, Program, files, named, needs, sources};
use levee_tests::tools::{installed, run};
use serde_json::{Value, json};
use tokio::process::Command;

/// Cheap to start, and small.
pub(crate) const FLAGS: [&str; 5] = [
    "-Xmx256m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:-UsePerfData",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
];

/// Kafka's command line tools, by package.
pub(crate) const TOOLS: &str = "org.apache.kafka.tools";

/// Runs `main` of a class; arguments are added to the command.
pub(crate) fn java(class: &str) -> Command {
    let mut command = Command::new("java");
    command.args(FLAGS).args(["-cp", class_path(), class]);
    command
}

fn class_path() -> &'static str {
    static PATH: OnceLock<String> = OnceLock::new();
    PATH.get_or_init(|| {
        let jars = jars();
        format!("{}/*:{}", jars.display(), classes(&jars).display())
    })
}

pub(crate) fn needs_java() {
    needs("javac", "install a JDK 17 or newer (Debian: openjdk-17-jdk-headless)");
    needs("mvn", "install Maven (Debian: maven)");
}

fn jars() -> PathBuf {
    needs_java();
    let pom = sources("java").join("pom.xml");
    let install = |folder: &Path| {
        let mut mvn = Plain::new("mvn");
        mvn.args(["-B", "-q", "dependency:copy-dependencies", "-DincludeScope=runtime", "-f"]);
        mvn.arg(&pom).arg(format!("-DoutputDirectory={}", folder.display()));
        run(&mut mvn).map(drop)
    };
    installed(&named("kafka-jars", std::slice::from_ref(&pom)), install)
        .unwrap_or_else(|why| panic!("{why}"))
}

/// Our own programs, compiled.
fn classes(jars: &Path) -> PathBuf {
    let mut files = files(&sources("java"));
    files.retain(|file| file.extension() == Some("java".as_ref()));
    let install = |folder: &Path| {
        let mut javac = Plain::new("javac");
        javac.args(["-cp", &format!("{}/*", jars.display()), "-d"]).arg(folder).args(&files);
        run(&mut javac).map(drop)
    };
    installed(&named("kafka-classes", &files), install).unwrap_or_else(|why| panic!("{why}"))
}

/// Command line tools, one after the other in one JVM.
pub(crate) struct Tools {
    program: Program,
    server: String,
}

impl Tools {
    /// Every tool is told this server.
    pub(crate) fn start(server: &str) -> Self {
        let program = Program::start("the tools' JVM", java("Tools"));
        Self { program, server: server.to_owned() }
    }

    /// `args` are split at spaces.
    pub(crate) async fn run(&mut self, tool: &str, args: &str) -> Ended {
        self.feed(tool, args, "").await
    }

    /// With something to read.
    pub(crate) async fn feed(&mut self, tool: &str, args: &str, input: &str) -> Ended {
        let class = match tool.starts_with("kafka.") {
            true => tool.to_owned(),
            false => format!("{TOOLS}.{tool}"),
        };
        let mut all = vec!["--bootstrap-server", &self.server];
        all.extend(args.split_whitespace());
        let command = json!({ "tool": class, "args": all, "in": input });
        self.program.feed(&command.to_string()).await;
        let answer = self.program.says("\"code\":").await;
        let answer: Value = serde_json::from_str(&answer).expect("an answer is JSON");
        let text = |name: &str| answer[name].as_str().expect("text").to_owned();
        Ended {
            name: format!("{class} {args}"),
            code: answer["code"].as_i64().map(|code| code as i32),
            out: text("out"),
            err: text("err"),
        }
    }
}
