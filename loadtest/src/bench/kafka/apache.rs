//! Apache Kafka as a peer: one node, roles broker and controller, default settings.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::error::{Error, Result};
use crate::target::free_port;

const START_LIMIT: Duration = Duration::from_secs(60);
const FORMAT_LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);
/// Those of Kafka's own start script.
const FLAGS: [&str; 6] = [
    "-Xmx1G",
    "-Xms1G",
    "-server",
    "-XX:+UseG1GC",
    "-XX:MaxGCPauseMillis=20",
    "-XX:InitiatingHeapOccupancyPercent=35",
];

/// A running node; ends when dropped.
pub struct Apache {
    child: Child,
    pub address: String,
    /// From the start of the process until it listens.
    pub start: Duration,
}

impl Apache {
    /// `more`: settings over the defaults. Data and settings go into `folder`.
    pub async fn start(jars: &Path, folder: PathBuf, more: &[(&str, &str)]) -> Result<Self> {
        let failed = |why: String| Error::failed(format!("Apache Kafka: {why}"));
        std::fs::create_dir_all(&folder).map_err(|error| failed(error.to_string()))?;
        let (port, control) = (free_port()?, free_port()?);
        let file = folder.join("server.properties");
        let text = settings(&folder, port, control, more);
        std::fs::write(&file, text).map_err(|error| failed(error.to_string()))?;
        format(jars, &file).await.map_err(failed)?;
        let log = std::fs::File::create(folder.join("node.log"));
        let log = log.map_err(|error| failed(error.to_string()))?;
        let mut command = java(jars);
        command.args(FLAGS).arg("kafka.Kafka").arg(&file);
        command.stdout(log).stderr(Stdio::null());
        let started = Instant::now();
        let child = command.spawn().map_err(|error| failed(error.to_string()))?;
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            if started.elapsed() > START_LIMIT {
                return Err(failed(format!("nothing listens after {START_LIMIT:?}")));
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(Self { child, address: format!("127.0.0.1:{port}"), start: started.elapsed() })
    }

    pub fn pid(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }

    pub async fn stop(mut self) -> Result<()> {
        let ended = self.child.kill().await;
        ended.map_err(|error| Error::failed(format!("stopping Apache Kafka: {error}")))
    }
}

/// `java` with the jars, which ends with this program.
pub fn java(jars: &Path) -> Command {
    let mut command = Command::new("java");
    command.arg("-cp").arg(jars.join("*"));
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

fn settings(folder: &Path, port: u16, control: u16, more: &[(&str, &str)]) -> String {
    let mut text = format!(
        "process.roles=broker,controller\n\
         node.id=1\n\
         controller.quorum.voters=1@127.0.0.1:{control}\n\
         listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{control}\n\
         advertised.listeners=PLAINTEXT://127.0.0.1:{port}\n\
         controller.listener.names=CONTROLLER\n\
         listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT\n\
         log.dirs={}\n",
        folder.join("data").display()
    );
    // One node cannot hold three copies.
    for name in [
        "offsets.topic.replication.factor",
        "transaction.state.log.replication.factor",
        "transaction.state.log.min.isr",
        "share.coordinator.state.topic.replication.factor",
        "share.coordinator.state.topic.min.isr",
    ] {
        text += &format!("{name}=1\n");
    }
    for (name, value) in more {
        text += &format!("{name}={value}\n");
    }
    text
}

/// Prepares the data folder, as Kafka wants it before the first start.
async fn format(jars: &Path, file: &Path) -> Result<(), String> {
    let mut command = java(jars);
    // Any id will do: 16 bytes in base64.
    command.args(["kafka.tools.StorageTool", "format", "-t", "bGV2ZWUtbG9hZHRlc3QtMQ", "-c"]);
    command.arg(file);
    let done = tokio::time::timeout(FORMAT_LIMIT, command.output()).await;
    let out = done.map_err(|_| format!("formatting took longer than {FORMAT_LIMIT:?}"))?;
    let out = out.map_err(|error| error.to_string())?;
    match out.status.success() {
        true => Ok(()),
        false => Err(format!("formatting: {}", String::from_utf8_lossy(&out.stderr).trim())),
    }
}
