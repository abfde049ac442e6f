//! The address of the bucket, which may carry credentials and therefore is never printed whole.

use std::fmt;
use std::path::Path;

use levee_tiering::store::options;

use super::problem::Problem;

/// `scheme://...`. Which schemes and query keys there are is the store's business
/// (`levee_tiering::store`).
#[derive(Clone, PartialEq, Eq)]
pub struct BucketUrl(String);

impl BucketUrl {
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let is_scheme = |s: &str| {
            s.starts_with(|c: char| c.is_ascii_lowercase())
                && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
        };
        match text.split_once("://") {
            // What follows would be neither path nor option, so another folder than the one that
            // was written would be taken.
            Some((scheme, rest)) if is_scheme(scheme) && rest.contains('#') => Err(Problem {
                problem: "has a # in it, and what follows that would not count".into(),
                remedy: "leave it out, or write %23 where it belongs to a name".into(),
            }),
            Some((scheme, _)) if is_scheme(scheme) => Ok(Self(text.to_owned())),
            _ => Err(Problem {
                problem: "is not a URL".into(),
                remedy: "write s3://BUCKET/PREFIX, gs://.., az://.., file:///DIR, memory:// or \
                         opendal+SERVICE://.."
                    .into(),
            }),
        }
    }

    /// What its path ends with, as the store reads it: a part of the bucket that was set aside by
    /// its name must really be one.
    pub fn last_segment(&self) -> Option<String> {
        let url = url::Url::parse(&self.0).ok()?;
        Some(url.path_segments()?.next_back()?.to_owned())
    }

    /// The URL of a folder.
    pub fn folder(dir: &Path) -> Self {
        let mut url = String::from("file://");
        for &byte in dir.as_os_str().as_encoded_bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'.' | b'_' | b'~' => {
                    url.push(char::from(byte));
                }
                other => url.push_str(&format!("%{other:02X}")),
            }
        }
        Self(url)
    }

    /// False for a bucket in the memory of this process.
    pub fn lasts(&self) -> bool {
        !self.expose().starts_with("memory:") && !self.expose().starts_with("opendal+memory:")
    }

    /// With secrets: only for opening the store.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The folder of this machine that it names.
    pub fn as_folder(&self) -> Option<std::path::PathBuf> {
        let url = self.0.strip_prefix("opendal+fs").map(|rest| format!("file{rest}"));
        let url = url::Url::parse(url.as_deref().unwrap_or(&self.0)).ok()?;
        (url.scheme() == "file").then(|| url.to_file_path().ok()).flatten()
    }

    /// A folder or memory: a round trip costs next to nothing.
    pub fn is_near(&self) -> bool {
        let scheme = self.0.split_once("://").map_or("", |(scheme, _)| scheme);
        matches!(scheme, "file" | "memory" | "opendal+memory" | "opendal+fs")
    }
}

impl fmt::Display for BucketUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, rest) = self.0.split_once("://").unwrap_or(("", &self.0));
        let (place, query) = match rest.split_once('?') {
            Some((place, query)) => (place, Some(query)),
            None => (rest, None),
        };
        let host = place.split('/').next().unwrap_or_default();
        let place = match host.rsplit_once('@') {
            Some((user, _)) => format!("***{}", &place[user.len()..]),
            None => place.to_owned(),
        };
        write!(f, "{scheme}://{place}")?;
        for (number, pair) in query.into_iter().flat_map(|query| query.split('&')).enumerate() {
            f.write_str(if number == 0 { "?" } else { "&" })?;
            match pair.split_once('=') {
                Some((key, value)) if options::is_public(scheme, key) && !hides_user(value) => {
                    write!(f, "{key}={value}")?;
                }
                Some((key, _)) => write!(f, "{key}=***")?,
                None => f.write_str("***")?,
            }
        }
        Ok(())
    }
}

/// An endpoint may be a URL with a user and password of its own.
fn hides_user(value: &str) -> bool {
    value.contains('@') || value.to_ascii_lowercase().contains("%40")
}

impl fmt::Debug for BucketUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
