//! The broker under test: a process of its own, and what the kernel says of it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::Error;

/// USER_HZ: 100 on every Linux that Levee runs on.
const TICKS_PER_SECOND: f64 = 100.0;

pub struct Broker {
    child: Child,
    pub grpc: String,
}

impl Broker {
    pub async fn start(
        binary: Option<&Path>,
        data: &Path,
        bucket: Option<&str>,
        grpc: Option<&str>,
    ) -> Result<Self, Error> {
        let binary = match binary {
            Some(given) => given.to_owned(),
            None => beside()?,
        };
        let mut command = Command::new(&binary);
        command.arg("dev").arg("--data").arg(data);
        command.args(["--grpc", grpc.unwrap_or("127.0.0.1:0"), "--http", "127.0.0.1:0"]);
        if let Some(bucket) = bucket {
            command.args(["--bucket", bucket]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.kill_on_drop(true).spawn()?;
        let out = child.stdout.take().ok_or("no output")?;
        let mut lines = BufReader::new(out).lines();
        let ready = tokio::time::timeout(Duration::from_secs(60), lines.next_line()).await??;
        let line = ready.ok_or("the broker ended before it served")?;
        let grpc = line.split_whitespace().find_map(|word| word.strip_prefix("grpc="));
        let grpc = grpc.ok_or("not a ready line")?.to_owned();
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(Self { child, grpc })
    }

    /// Processor time used so far, in seconds.
    pub fn cpu(&self) -> f64 {
        let stat = self.proc("stat");
        let Some((_, after_name)) = stat.rsplit_once(')') else { return 0.0 };
        let fields = after_name.split_whitespace().skip(11).take(2);
        fields.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / TICKS_PER_SECOND
    }

    pub fn resident_mib(&self) -> u64 {
        let status = self.proc("status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
        kib.unwrap_or_default() / 1024
    }

    fn proc(&self, file: &str) -> String {
        let pid = self.child.id().unwrap_or_default();
        std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default()
    }

    /// SIGKILL, and waits until it is gone.
    pub async fn kill(&mut self) -> Result<(), Error> {
        Ok(self.child.kill().await?)
    }

    pub async fn terminate(mut self) -> Result<(), Error> {
        let pid = self.child.id().unwrap_or_default().to_string();
        std::process::Command::new("kill").args(["-TERM", &pid]).status()?;
        tokio::time::timeout(Duration::from_secs(60), self.child.wait()).await??;
        Ok(())
    }
}

fn beside() -> Result<PathBuf, Error> {
    let here = std::env::current_exe()?;
    let binary = here.with_file_name("levee");
    match binary.exists() {
        true => Ok(binary),
        false => {
            Err(format!("{} is not there: build it with `cargo build --release`", binary.display())
                .into())
        }
    }
}
