//! Making a bucket on a real S3 server, and other small requests to one.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use object_store::aws::AmazonS3Builder;
use object_store::path::Path;
use object_store::signer::Signer;

/// Keys of every server that a test starts.
pub const USER: &str = "levee-test";
pub const PASSWORD: &str = "levee-test-secret";
pub const BUCKET: &str = "levee";

pub fn endpoint(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

const START_LIMIT: Duration = Duration::from_secs(60);

/// Below `prefix` of the bucket of a server on this machine.
pub fn url(port: u16, prefix: &str) -> String {
    format!(
        "s3://{BUCKET}/{prefix}?endpoint={}&allow_http=true&region=us-east-1\
         &access_key_id={USER}&secret_access_key={PASSWORD}",
        endpoint(port)
    )
}

/// Whether a server answers there, with any status.
pub fn answers(port: u16, path: &str) -> Option<String> {
    request(port, "GET", path).ok().filter(|answer| answer.starts_with("HTTP/1.1 "))
}

/// Makes [`BUCKET`].
pub fn create(port: u16) {
    let signer = AmazonS3Builder::new()
        .with_bucket_name(BUCKET)
        .with_region("us-east-1")
        .with_endpoint(endpoint(port))
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
    let started = Instant::now();
    // Some servers say that they are ready and mean soon.
    loop {
        let answer = request(port, "PUT", &path).expect("the server answers");
        if answer.starts_with("HTTP/1.1 200") {
            return;
        }
        let is_soon = answer.starts_with("HTTP/1.1 503") && started.elapsed() < START_LIMIT;
        assert!(is_soon, "the bucket is made: {answer}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn request(port: u16, method: &str, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let host = format!("127.0.0.1:{port}");
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").port()
}
