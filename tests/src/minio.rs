//! A real S3 server: MinIO, installed from its Go module where it is not there yet.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::bucket::{self, PASSWORD, USER, free_port};
use crate::tools::{installed, run};

const MODULE: &str = "github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c";

/// A server with one bucket; ends when dropped.
pub struct Minio {
    child: Child,
    port: u16,
    folder: tempfile::TempDir,
}

/// The server binary: `LEVEE_MINIO`, or built once into the target folder.
fn binary() -> PathBuf {
    if let Some(given) = std::env::var_os("LEVEE_MINIO") {
        return given.into();
    }
    let install = |folder: &Path| {
        let mut go = Command::new("go");
        run(go.args(["install", MODULE]).env("GOBIN", folder)).map(drop)
    };
    match installed("minio-20260212", install) {
        Ok(folder) => folder.join("minio"),
        Err(why) => panic!("{why}: install Go, or name a server with LEVEE_MINIO"),
    }
}

impl Minio {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let port = free_port();
        let mut minio = Self { child: spawn(port, &folder), port, folder };
        minio.wait();
        bucket::create(port);
        minio
    }

    pub fn endpoint(&self) -> String {
        bucket::endpoint(self.port)
    }

    /// Below `prefix` of the bucket.
    pub fn url(&self, prefix: &str) -> String {
        bucket::url(self.port, prefix)
    }

    /// Gone, until `back`.
    pub fn stop(&mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("waited for");
    }

    /// The same server with the same objects.
    pub fn back(&mut self) {
        self.child = spawn(self.port, &self.folder);
        self.wait();
    }

    fn wait(&mut self) {
        let started = Instant::now();
        let ready = || bucket::answers(self.port, "/minio/health/ready");
        while !ready().is_some_and(|answer| answer.starts_with("HTTP/1.1 200")) {
            assert!(started.elapsed() < Duration::from_secs(60), "MinIO is ready within 60 s");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Minio {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(port: u16, folder: &tempfile::TempDir) -> Child {
    Command::new(binary())
        .args(["server", "--quiet", "--address", &format!("127.0.0.1:{port}")])
        .args(["--console-address", &format!("127.0.0.1:{}", free_port())])
        .arg(folder.path())
        .env("MINIO_ROOT_USER", USER)
        .env("MINIO_ROOT_PASSWORD", PASSWORD)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("MinIO starts")
}
