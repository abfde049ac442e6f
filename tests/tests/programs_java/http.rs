//! Requests to a program's own HTTP port.

use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longer than a JVM needs until it serves, on a busy machine.
const READY: Duration = Duration::from_secs(120);

/// Status and body; nothing where nobody answers. HTTP 1.0: the body ends with the connection.
pub(crate) async fn ask(port: u16, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
    let request = format!(
        "{method} {path} HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    let status = answer.split(' ').nth(1)?.parse().ok()?;
    let body = answer.split_once("\r\n\r\n")?.1;
    Some((status, body.to_owned()))
}

pub(crate) async fn get(port: u16, path: &str) -> Value {
    let (status, body) = ask(port, "GET", path, "").await.expect("it answers");
    assert_eq!(status, 200, "GET {path}: {body}");
    serde_json::from_str(&body).unwrap_or_else(|error| panic!("GET {path}: {error}: {body}"))
}

pub(crate) async fn post(port: u16, path: &str, body: &Value) -> Value {
    let (status, answer) = ask(port, "POST", path, &body.to_string()).await.expect("it answers");
    assert!((200..300).contains(&status), "POST {path}: {status}: {answer}");
    serde_json::from_str(&answer).unwrap_or(Value::Null)
}

/// Waits until the path is there.
pub(crate) async fn ready(port: u16, path: &str) {
    let started = Instant::now();
    while !matches!(ask(port, "GET", path, "").await, Some((200, _))) {
        assert!(started.elapsed() < READY, "GET {path} is answered within {READY:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
