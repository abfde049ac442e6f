//! From an HTTP request to an operation, and answers as S3 words them.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::{HeaderMap, Method, Request, Response};

pub(super) type Answer = Result<Response<Body>, std::io::Error>;

/// What a request wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    Put,
    Get,
    Head,
    List,
    Delete,
    /// Begins a multipart upload.
    Begin,
    Part,
    Complete,
    Abort,
}

impl Op {
    pub(super) fn writes(self) -> bool {
        !matches!(self, Self::Get | Self::Head | Self::List)
    }
}

pub(super) struct Operation {
    pub op: Op,
    /// With the bucket.
    pub path: String,
    /// Without the bucket.
    pub key: String,
    pub query: BTreeMap<String, String>,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Operation {
    pub(super) fn signed_by(&self, access_key: &str) -> bool {
        let wanted = format!("Credential={access_key}/");
        self.header("authorization").is_some_and(|given| given.contains(&wanted))
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub(super) fn asks(&self, name: &str) -> Option<&str> {
        self.query.get(name).map(String::as_str)
    }
}

/// Reads all of a request.
pub(super) async fn operation(request: Request<Incoming>) -> Result<Operation, std::io::Error> {
    let (head, body) = request.into_parts();
    let url = url::Url::parse(&format!("http://s3{}", head.uri)).map_err(std::io::Error::other)?;
    let query: BTreeMap<String, String> = url.query_pairs().into_owned().collect();
    let key = url.path_segments().into_iter().flatten().skip(1).collect::<Vec<_>>().join("/");
    let has = |name: &str| query.contains_key(name);
    let op = match head.method {
        Method::GET if has("list-type") => Op::List,
        Method::GET => Op::Get,
        Method::HEAD => Op::Head,
        Method::PUT if has("uploadId") => Op::Part,
        Method::PUT => Op::Put,
        Method::POST if has("uploads") => Op::Begin,
        Method::POST if has("uploadId") => Op::Complete,
        Method::DELETE if has("uploadId") => Op::Abort,
        _ => Op::Delete,
    };
    let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
    let path = url.path().to_owned();
    Ok(Operation { op, path, key, query, headers: head.headers, body })
}

pub(super) fn ok(body: impl Into<Bytes>) -> Response<Body> {
    answer(200, body.into())
}

pub(super) fn error(status: u16, code: &str, message: &str) -> Response<Body> {
    // Some servers repeat tokens in their answers.
    let said = format!("<Code>{code}</Code><Message>{message}</Message>");
    answer(status, format!("<Error>{said}<Token-0>hunter2</Token-0></Error>").into())
}

pub(super) fn answer(status: u16, body: Bytes) -> Response<Body> {
    Response::builder().status(status).body(Body::of(body)).expect("a valid answer")
}

/// A body that may break off.
pub(super) struct Body {
    data: Option<Bytes>,
    /// What is promised.
    length: u64,
    breaks: bool,
}

impl Body {
    fn of(data: Bytes) -> Self {
        Self { length: data.len() as u64, data: Some(data), breaks: false }
    }

    pub(super) fn whole(self) -> Bytes {
        self.data.unwrap_or_default()
    }

    pub(super) fn torn(data: Bytes) -> Self {
        Self { length: data.len() as u64, data: Some(data.slice(..data.len() / 2)), breaks: true }
    }

    pub(super) fn flipped(data: Bytes) -> Self {
        let mut data = data.to_vec();
        let at = data.len() / 2;
        if let Some(byte) = data.get_mut(at) {
            *byte ^= 0x10;
        }
        Self::of(data.into())
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        Poll::Ready(match self.data.take() {
            Some(data) if !data.is_empty() => Some(Ok(Frame::data(data))),
            _ if self.breaks => Some(Err(std::io::Error::other("torn"))),
            _ => None,
        })
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.length)
    }
}
