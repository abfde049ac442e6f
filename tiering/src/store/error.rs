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
        Kind::Denied => {
            "; check the credentials (+ is %2B in a URL) and that they may read, write, list and \
             delete"
        }
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
        let text = chain(error);
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
            _ if THROTTLED.iter().any(|sign| text.contains(sign)) => Kind::Throttled,
            _ if TOO_SHORT.iter().any(|sign| text.contains(sign)) => Kind::Short,
            _ if text.contains("Permission denied") || text.contains("Read-only file system") => {
                Kind::Denied
            }
            _ => Kind::Unavailable,
        };
        Self::new(op, key, kind, shown(&text))
    }
}

/// Keys hold numbers, so a number alone says nothing.
const THROTTLED: [&str; 5] =
    ["SlowDown", "TooManyRequests", "RateLimited", "status code: 429", "status code: 503"];
/// What a read from the end of an object on is answered with: by servers, opendal and folders.
const TOO_SHORT: [&str; 4] =
    ["status code: 416", "InvalidRange", "RangeNotSatisfied", "Wanted range starting at "];

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

/// Longest message; more of it came from a stranger.
const SHOWN_MAX: usize = 400;

/// As people may see it: on one line, without queries and users of URLs, and of what a server
/// answered only its code and message. The rest repeats tokens and signatures at times.
fn shown(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (said, body) = text.split_at(body_at(&text).unwrap_or(text.len()));
    let mut shown = without_credentials(said);
    if !body.is_empty() {
        shown.push_str(&without_credentials(&answered(body)));
    }
    match shown.char_indices().nth(SHOWN_MAX) {
        Some((at, _)) => format!("{}..", &shown[..at]),
        None => shown,
    }
}

/// Where markup or JSON begins.
fn body_at(text: &str) -> Option<usize> {
    let begins = |at: usize| {
        let rest = text[at + 1..].trim_start();
        match text.as_bytes()[at] {
            b'<' => rest.starts_with(|c: char| c.is_ascii_alphabetic() || "?!".contains(c)),
            _ => rest.starts_with('"'),
        }
    };
    text.match_indices(['<', '{']).map(|(at, _)| at).find(|at| begins(*at))
}

/// Code and message of an answer in XML or JSON.
fn answered(body: &str) -> String {
    let json = body.rfind('}').and_then(|end| serde_json::from_str(&body[..=end]).ok());
    let field = |name: &str| match &json {
        Some(json) => of_json(json, name),
        None => of_xml(body, name),
    };
    let said: Vec<String> = ["code", "message"].into_iter().filter_map(field).collect();
    if said.is_empty() { "an answer without code and message".into() } else { said.join(": ") }
}

fn of_xml(body: &str, name: &str) -> Option<String> {
    // The same in upper and lower case has the same length.
    let lower = body.to_ascii_lowercase();
    let start = lower.find(&format!("<{name}>"))? + name.len() + 2;
    let end = start + lower[start..].find("</")?;
    Some(body[start..end].to_owned())
}

fn of_json(json: &serde_json::Value, name: &str) -> Option<String> {
    let found = json.get("error").and_then(|error| error.get(name)).or_else(|| json.get(name))?;
    Some(found.as_str().map_or_else(|| found.to_string(), str::to_owned))
}

/// Without queries of URLs, which may hold signatures and tokens, and without users.
fn without_credentials(text: &str) -> String {
    let mut parts = text.split("://");
    let mut shown = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let is_end = |c: char| c.is_whitespace() || "\"'<>(){},".contains(c);
        let (url, rest) = part.split_at(part.find(is_end).unwrap_or(part.len()));
        let (place, query) = match url.split_once('?') {
            Some((place, _)) => (place, "?***"),
            None => (url, ""),
        };
        let (host, path) = place.split_at(place.find('/').unwrap_or(place.len()));
        let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
        shown.push_str(&format!("://{host}{path}{query}{rest}"));
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_and_users_are_not_shown() {
        for (text, says) in [
            ("none", "none"),
            ("many\n  lines", "many lines"),
            ("(http://h/k?sig=x&y) and https://h/k, x?", "(http://h/k?***) and https://h/k, x?"),
            ("at http://h?a=b: http://h?c", "at http://h?*** http://h?***"),
            ("at http://me:hunter2@h:9/k@1?x", "at http://h:9/k@1?***"),
        ] {
            assert_eq!(shown(text), says);
        }
    }

    #[test]
    fn of_an_answer_only_code_and_message_are_shown() {
        let secret = "<Token-0>hunter2</Token-0><CanonicalRequest>x-amz-security-token:hunter2";
        for (body, says) in [
            (
                format!("<?xml?>\n<Error><Code>No</Code><Message>not \n you</Message>{secret}"),
                "No: not you",
            ),
            (format!("<Error>{secret}</CanonicalRequest><Code>No</Code></Error>"), "No"),
            (format!("<html>{secret}"), "an answer without code and message"),
            (
                r#"{"error": {"code": 403, "message": "not you", "token": "hunter2"}}"#.into(),
                "403: not you",
            ),
            (r#"{ "message": "no", "token": "hunter2" }"#.into(), "no"),
            (r#"{"token": "hunter2""#.into(), "an answer without code and message"),
        ] {
            assert_eq!(
                shown(&format!("status code: 403: {body}")),
                format!("status code: 403: {says}")
            );
        }
        let long = shown(&"ä".repeat(10_000));
        assert_eq!(long.chars().count(), SHOWN_MAX + 2);
    }

    fn kind_of(text: &str) -> Kind {
        let error = object_store::Error::Generic { store: "x", source: text.to_owned().into() };
        StoreError::of(Op::GetRange, "d/1429", &error).kind
    }

    #[test]
    fn numbers_in_keys_and_ids_say_nothing() {
        assert_eq!(kind_of("GET /d/429/503: connection reset"), Kind::Unavailable);
        assert_eq!(kind_of("non-2xx status code: 503 Slow"), Kind::Throttled);
        assert_eq!(kind_of("non-2xx status code: 416 Range Not Satisfiable"), Kind::Short);
    }

    #[test]
    fn an_error_says_what_where_why_and_what_to_do() {
        let error =
            StoreError::new(Op::GetRange, "a/1", Kind::Denied, "no").in_bucket(&"s3://b".into());
        let says = "cannot read \"a/1\" in s3://b: no; check the credentials";
        assert!(error.to_string().starts_with(says), "{error}");
    }
}
