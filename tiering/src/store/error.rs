//! What a store answered instead of doing it.

use thiserror::Error;

/// The operations of a store, as metrics name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
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
    /// The request can never work: a wrong URL, an operation the store does not have.
    Invalid,
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
        }
    }
}

/// One failed operation.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("bucket {}: {key:?}: {message}{}", op.name(), remedy(*kind))]
pub struct StoreError {
    pub op: Op,
    pub key: String,
    pub kind: Kind,
    pub message: String,
}

fn remedy(kind: Kind) -> &'static str {
    match kind {
        Kind::Denied => "; check the credentials and that they may read, write, list and delete",
        Kind::Throttled => "; the store limits the request rate",
        Kind::Invalid => "; check the bucket URL, and that the bucket is there",
        Kind::Disk => "; check the disk",
        Kind::Unavailable | Kind::Timeout | Kind::NotFound | Kind::Short | Kind::Exists => "",
    }
}

impl StoreError {
    pub fn new(op: Op, key: &str, kind: Kind, message: impl Into<String>) -> Self {
        Self { op, key: key.into(), kind, message: message.into() }
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
            E::NotSupported { .. }
            | E::NotImplemented { .. }
            | E::InvalidPath { .. }
            | E::UnknownConfigurationKey { .. } => Kind::Invalid,
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
