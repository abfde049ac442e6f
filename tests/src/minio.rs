//! A real S3 server: MinIO, installed from its Go module where it is not there yet.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use object_store::aws::AmazonS3Builder;
use object_store::path::Path;
use object_store::signer::Signer;

const MODULE: &str = "github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c";
const USER: &str = "levee-test";
const PASSWORD: &str = "levee-test-secret";
pub const BUCKET: &str = "levee";

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
    let test = std::env::current_exe().expect("a test has a path");
    let target = test.ancestors().nth(3).expect("target/PROFILE/deps/TEST");
    let tools = target.join("tools");
    std::fs::create_dir_all(&tools).expect("the target folder is writable");
    let wanted = tools.join("minio");
    // One installation at a time, whoever asks.
    let lock = std::fs::File::create(tools.join("minio.lock")).expect("lock file");
    lock.lock().expect("locked");
    if !wanted.exists() {
        let mut install = Command::new("go");
        install.args(["install", MODULE]).env("GOBIN", &tools);
        let done = install.status();
        assert!(
            done.as_ref().is_ok_and(std::process::ExitStatus::success),
            "`go install {MODULE}` failed ({done:?}): install Go, or name a server with LEVEE_MINIO"
        );
    }
    wanted
}

impl Minio {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let port = free_port();
        let mut minio = Self { child: spawn(port, &folder), port, folder };
        minio.wait();
        minio.create_bucket();
        minio
    }

    /// Below `prefix` of the bucket.
    pub fn url(&self, prefix: &str) -> String {
        format!(
            "s3://{BUCKET}/{prefix}?endpoint=http://127.0.0.1:{}&allow_http=true&region=us-east-1\
             &access_key_id={USER}&secret_access_key={PASSWORD}",
            self.port
        )
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
        while !self.answers("/minio/health/ready") {
            assert!(started.elapsed() < Duration::from_secs(60), "MinIO is ready within 60 s");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn answers(&self, path: &str) -> bool {
        self.request("GET", path).is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
    }

    fn request(&self, method: &str, path: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let host = format!("127.0.0.1:{}", self.port);
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    fn create_bucket(&self) {
        let signer = AmazonS3Builder::new()
            .with_bucket_name(BUCKET)
            .with_region("us-east-1")
            .with_endpoint(format!("http://127.0.0.1:{}", self.port))
            .with_allow_http(true)
            .with_access_key_id(USER)
            .with_secret_access_key(PASSWORD)
            .build()
            .expect("a signer");
        let put = "PUT".parse().expect("a method");
        let root = Path::default();
        let signed = signer.signed_url(put, &root, Duration::from_secs(60));
        let signed = futures::executor::block_on(signed).expect("signed");
        let path = format!("{}?{}", signed.path(), signed.query().unwrap_or_default());
        let answer = self.request("PUT", &path).expect("MinIO answers");
        assert!(answer.starts_with("HTTP/1.1 200"), "the bucket is made: {answer}");
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

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").port()
}
