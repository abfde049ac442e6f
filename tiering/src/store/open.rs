//! From a bucket URL to a store.
//!
//! `s3://bucket/prefix?region=..`, `gs://bucket/prefix`, `az://container/prefix`,
//! `file:///folder`, `memory://`, `opendal+SERVICE://..`. Options are in the query
//! ([`super::options`]); what it does not say comes from the usual environment variables.

use std::path::PathBuf;
use std::sync::Arc;

use levee_runtime::Host;
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use url::Url;

use super::options::Options;
use super::server::Server;
use super::{Kind, Op, Store, StoreError, cloud, s3, service};

/// Forms of a URL, for people who wrote another one.
const FORMS: &str = "s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX, \
                     file:///FOLDER, memory:// or opendal+SERVICE://";

/// Written as users write it; the query may hold secrets, so it is never shown.
pub(super) fn shown(url: &Url) -> String {
    let mut shown = url.clone();
    shown.set_query(None);
    shown.set_fragment(None);
    let _ = shown.set_password(None);
    let _ = shown.set_username("");
    shown.to_string()
}

/// This URL can never be opened.
pub(super) fn invalid(url: &Url, why: impl Into<String>) -> StoreError {
    StoreError::new(Op::Open, &shown(url), Kind::Invalid, why)
}

/// A bucket that was opened and not used yet.
pub(super) struct Opened {
    pub inner: Arc<dyn ObjectStore>,
    /// Below which everything is.
    pub prefix: String,
    pub lists_in_order: bool,
    pub deadlines: super::Deadlines,
    pub server: Option<Server>,
    pub caveat: Option<&'static str>,
}

impl Opened {
    pub(super) fn new(inner: impl ObjectStore, prefix: impl Into<String>) -> Self {
        Self {
            inner: Arc::new(inner),
            prefix: prefix.into(),
            lists_in_order: true,
            deadlines: super::Deadlines::default(),
            server: None,
            caveat: None,
        }
    }
}

impl Store {
    /// Opens a bucket by URL; makes the folder of a `file://` one. Sends no request.
    pub fn open(url: &str, host: Host) -> Result<Self, StoreError> {
        let parsed = Url::parse(url).map_err(|error| {
            let why = format!("is no URL ({error}); write {FORMS}");
            // What cannot be parsed cannot be stripped of secrets by its parts either.
            let scheme = url.split("://").next().filter(|scheme| *scheme != url);
            let shown = scheme.map_or_else(|| "it".to_owned(), |scheme| format!("{scheme}://.."));
            StoreError::new(Op::Open, &shown, Kind::Invalid, why)
        })?;
        if !parsed.username().is_empty() || parsed.password().is_some() {
            let why = "names a user or password: put credentials into the environment";
            return Err(invalid(&parsed, why));
        }
        if parsed.fragment().is_some() {
            let why = "has a # in it, and what follows would not count: write %23";
            return Err(invalid(&parsed, why));
        }
        let prefix = parsed.path().trim_matches('/').to_owned();
        let opened = match parsed.scheme() {
            "s3" => s3::open(&parsed, prefix, &host)?,
            "gs" => cloud::gcs(&parsed, prefix)?,
            "az" => cloud::azure(&parsed, prefix)?,
            "file" => folder(&parsed)?,
            "memory" => {
                Options::of(&parsed)?;
                Opened::new(InMemory::new(), prefix)
            }
            scheme => match scheme.strip_prefix("opendal+") {
                Some(name) => service::open(&parsed, name, prefix)?,
                None => return Err(invalid(&parsed, format!("is none of {FORMS}"))),
            },
        };
        let mut store = Self::over(opened.inner, &opened.prefix, host, &shown(&parsed))
            .with_deadlines(opened.deadlines);
        store.lists_in_order = opened.lists_in_order;
        (store.server, store.caveat) = (opened.server, opened.caveat);
        if let Some(caveat) = store.caveat {
            tracing::warn!(bucket = store.describe(), "{caveat}");
        }
        if parsed.scheme() == "file" {
            store.folder = parsed.to_file_path().ok().map(Into::into);
        }
        Ok(store)
    }
}

/// The bucket of a URL whose host it is.
pub(super) fn bucket(url: &Url) -> Result<&str, StoreError> {
    let named = url.host_str().filter(|name| !name.is_empty());
    named.ok_or_else(|| invalid(url, format!("names no bucket: write {}://BUCKET", url.scheme())))
}

/// Synced to disk before it answers; the folder is made.
#[allow(clippy::disallowed_methods)]
fn folder(url: &Url) -> Result<Opened, StoreError> {
    Options::of(url)?;
    let path: PathBuf =
        url.to_file_path().map_err(|()| invalid(url, "names no folder: write file:///FOLDER"))?;
    std::fs::create_dir_all(&path)
        .map_err(|error| invalid(url, format!("folder cannot be made: {error}")))?;
    let store = LocalFileSystem::new_with_prefix(&path)
        .map_err(|error| invalid(url, error.to_string()))?
        .with_fsync(true);
    // Its files are read in no order.
    Ok(Opened { lists_in_order: false, ..Opened::new(store, "") })
}
