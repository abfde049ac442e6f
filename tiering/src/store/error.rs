//! What a store answered instead of doing it.

use std::sync::Arc;

use thiserror::Error;

/// The operations of a store, as metrics name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Reading the URL: no request yet.
    Open,
    Create,
    Upload,
    Get,
    GetRange,
    Head,
    List,
    Delete,
}

impl Op {
    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Create => "create",
            Self::Upload => "upload",
            Self::Get => "get",
            Self::GetRange => "get_range",
            Self::Head => "head",
            Self::List => "list",
            Self::Delete => "delete",
        }
    }
}

impl Op {
    /// For people: "cannot read ..".
    fn verb(self) -> &'static str {
        match self {
            Self::Get | Self::GetRange => "read",
            Self::Head => "look up",
            other => other.name(),
        }
    }
}

/// What the caller can do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It may work later: connection, 5xx, a short body.
    Unavailable,
    /// 429, 503: it works later, slower.
    Throttled,
    Timeout,
    /// Nothing there. Not an error for reads.
    NotFound,
    /// The object ends before what was asked for.
    Short,
    /// Something is there already.
    Exists,
    /// Credentials or permissions.
    Denied,
    /// The disk under a folder failed a sync.
    Disk,
    /// The request can never work: a wrong URL, no such bucket.
    Invalid,
    /// The store does not have this operation.
    Unsupported,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Unavailable => "unavailable",
            Self::Throttled => "throttled",
            Self::Timeout => "timeout",
            Self::NotFound => "not_found",
            Self::Short => "short",
            Self::Exists => "exists",
            Self::Denied => "denied",
            Self::Disk => "disk",
            Self::Invalid => "invalid",
            Self::Unsupported => "unsupported",
        }
    }
}

/// One failed operation.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("cannot {} {key:?}{}: {message}{}", op.verb(), of(bucket), remedy(*op, *kind))]
pub struct StoreError {
    pub op: Op,
    /// The URL where the bucket could not be opened.
    pub key: String,
    /// As people write it, without secrets; empty where the key says it.
    pub bucket: Arc<str>,
    pub kind: Kind,
    pub message: String,
}

fn of(bucket: &str) -> String {
    if bucket.is_empty() { String::new() } else { format!(" in {bucket}") }
}

fn remedy(op: Op, kind: Kind) -> &'static str {
    match kind {
        Kind::Invalid | Kind::Unsupported if op == Op::Open => "",
        Kind::Denied => "; check the credentials and that they may read, write, list and delete",
        Kind::Throttled => "; the store limits the request rate",
        Kind::Invalid => "; check the bucket URL, and that the bucket is there",
        Kind::Unsupported => "; the store lacks what Levee needs",
        Kind::Disk => "; check the disk",
        Kind::Unavailable | Kind::Timeout | Kind::NotFound | Kind::Short | Kind::Exists => "",
    }
}

impl StoreError {
    pub fn new(op: Op, key: &str, kind: Kind, message: impl Into<String>) -> Self {
        let (key, bucket) = (key.into(), Arc::default());
        Self { op, key, bucket, kind, message: message.into() }
    }

    pub(super) fn in_bucket(self, bucket: &Arc<str>) -> Self {
        Self { bucket: bucket.clone(), ..self }
    }

    /// A disk that failed a sync may have lost anything: nobody may go on from what is there.
    pub(super) fn ensure_disk(&self) {
        assert!(self.kind != Kind::Disk, "nothing on this disk can be trusted: {self}");
    }

    /// The same operation may work later, unchanged.
    pub fn is_retriable(&self) -> bool {
        matches!(self.kind, Kind::Unavailable | Kind::Throttled | Kind::Timeout)
    }

    pub(super) fn of(op: Op, key: &str, error: &object_store::Error) -> Self {
        use object_store::Error as E;
        let text = without_queries(&chain(error));
        let no_bucket = ["NoSuchBucket", "ContainerNotFound", "bucket does not exist"];
        let kind = match error {
            // Says nothing about the object.
            _ if no_bucket.iter().any(|code| text.contains(code)) => Kind::Invalid,
            E::NotFound { .. } => Kind::NotFound,
            E::AlreadyExists { .. } | E::Precondition { .. } | E::NotModified { .. } => {
                Kind::Exists
            }
            E::PermissionDenied { .. } | E::Unauthenticated { .. } => Kind::Denied,
            E::NotSupported { .. } | E::NotImplemented { .. } => Kind::Unsupported,
            E::InvalidPath { .. } | E::UnknownConfigurationKey { .. } => Kind::Invalid,
            // What S3 servers say of a header that they do not know.
            _ if text.contains("NotImplemented") => Kind::Unsupported,
            _ if text.contains("Unable to sync data to disk") => Kind::Disk,
            // The crate gives no status: only its text tells throttling from other trouble.
            _ if text.contains("SlowDown") || text.contains("429") || text.contains("503") => {
                Kind::Throttled
            }
            _ if text.contains("Permission denied") || text.contains("Read-only file system") => {
                Kind::Denied
            }
            _ => Kind::Unavailable,
        };
        Self::new(op, key, kind, text)
    }
}

/// An error with its causes, each said once.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

/// On one line (servers answer with many), and without queries of URLs, which may hold signatures
/// and tokens.
fn without_queries(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut parts = text.split("://");
    let mut shown = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let is_end = |c: char| c.is_whitespace() || "\"'<>(){},".contains(c);
        let (url, rest) = part.split_at(part.find(is_end).unwrap_or(part.len()));
        let url =
            url.split_once('?').map_or_else(|| url.to_owned(), |(url, _)| format!("{url}?***"));
        shown.push_str(&format!("://{url}{rest}"));
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_not_shown() {
        for (text, shown) in [
            ("none", "none"),
            ("<Code>No</Code>\n  <Message>", "<Code>No</Code> <Message>"),
            ("(http://h/k?sig=x&y) and https://h/k, x?", "(http://h/k?***) and https://h/k, x?"),
            ("at http://h?a=b: http://h?c", "at http://h?*** http://h?***"),
        ] {
            assert_eq!(without_queries(text), shown);
        }
    }

    #[test]
    fn an_error_says_what_where_why_and_what_to_do() {
        let error =
            StoreError::new(Op::GetRange, "a/1", Kind::Denied, "no").in_bucket(&"s3://b".into());
        let says = "cannot read \"a/1\" in s3://b: no; check the credentials";
        assert!(error.to_string().starts_with(says), "{error}");
    }
}
