//! From a bucket URL to a store.
//!
//! `s3://bucket/prefix?region=..&endpoint=..&allow_http=true`, `gs://bucket/prefix`,
//! `az://container/prefix`, `file:///folder`, `memory://`, `opendal+memory://`. What the query
//! does not say comes from the usual environment variables.

use std::borrow::Cow;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use levee_runtime::Host;
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzure, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorage, GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::{ClientOptions, ObjectStore, RetryConfig};
use url::Url;

use super::{Kind, Op, Store, StoreError};

/// Written as users write it; the query may hold secrets, so it is never shown.
fn shown(url: &Url) -> String {
    let mut shown = url.clone();
    shown.set_query(None);
    let _ = shown.set_password(None);
    let _ = shown.set_username("");
    shown.to_string()
}

fn invalid(url: &str, why: impl Into<String>) -> StoreError {
    let public = url.split('?').next().unwrap_or_default();
    StoreError::new(Op::Get, public, Kind::Invalid, why)
}

impl Store {
    /// Opens a bucket by URL; makes the folder of a `file://` one. Sends no request.
    pub fn open(url: &str, host: Host) -> Result<Self, StoreError> {
        let parsed = Url::parse(url).map_err(|error| {
            let forms = "s3://BUCKET/PREFIX, gs://, az://, file:///FOLDER or memory://";
            invalid(url, format!("is no URL ({error}); write {forms}"))
        })?;
        let prefix = parsed.path().trim_matches('/').to_owned();
        let (inner, prefix): (Arc<dyn ObjectStore>, String) = match parsed.scheme() {
            "s3" => (Arc::new(s3(&parsed)?), prefix),
            "gs" => (Arc::new(gcs(&parsed)?), prefix),
            "az" => (Arc::new(azure(&parsed)?), prefix),
            "file" => (Arc::new(folder(&parsed)?), String::new()),
            "memory" => (Arc::new(InMemory::new()), prefix),
            "opendal+memory" => (Arc::new(opendal_memory(url)?), prefix),
            other => {
                let known = "s3, gs, az, file, memory, opendal+memory";
                return Err(invalid(url, format!("scheme {other:?} is not one of {known}")));
            }
        };
        let mut store = Self::over(inner, &prefix, host, &shown(&parsed));
        if parsed.scheme() == "file" {
            store.folder = parsed.to_file_path().ok().map(Into::into);
        }
        Ok(store)
    }
}

/// The transport retries nothing: a retried conditional request would lie about who won.
fn no_retry() -> RetryConfig {
    RetryConfig { max_retries: 0, retry_timeout: Duration::ZERO, ..RetryConfig::default() }
}

fn client() -> ClientOptions {
    ClientOptions::new()
        .with_connect_timeout(Duration::from_secs(5))
        .with_timeout(Duration::from_secs(30))
        .with_pool_max_idle_per_host(64)
}

/// The query's pairs; refuses names that the store does not know.
fn options<K: FromStr>(url: &Url) -> Result<Vec<(K, String)>, StoreError> {
    let pair = |(name, value): (Cow<'_, str>, Cow<'_, str>)| match K::from_str(&name) {
        Ok(key) => Ok((key, value.into_owned())),
        Err(_) => {
            let example = "region, endpoint, access_key_id, secret_access_key, allow_http";
            let why = format!("option {name:?} is not known; known ones are e.g. {example}");
            Err(invalid(url.as_str(), why))
        }
    };
    url.query_pairs().map(pair).collect()
}

fn bucket(url: &Url) -> Result<&str, StoreError> {
    url.host_str().ok_or_else(|| invalid(url.as_str(), "names no bucket: write SCHEME://BUCKET"))
}

/// One of the cloud builders of `object_store`: environment first, then the bucket, then the query.
macro_rules! cloud {
    ($name:ident, $builder:ty, $key:ty, $bucket:ident, $store:ty) => {
        fn $name(url: &Url) -> Result<$store, StoreError> {
            let mut builder = <$builder>::from_env()
                .$bucket(bucket(url)?)
                .with_client_options(client())
                .with_retry(no_retry());
            for (key, value) in options::<$key>(url)? {
                builder = builder.with_config(key, value);
            }
            builder.build().map_err(|error| invalid(url.as_str(), error.to_string()))
        }
    };
}

cloud!(s3, AmazonS3Builder, AmazonS3ConfigKey, with_bucket_name, AmazonS3);
cloud!(gcs, GoogleCloudStorageBuilder, GoogleConfigKey, with_bucket_name, GoogleCloudStorage);
cloud!(azure, MicrosoftAzureBuilder, AzureConfigKey, with_container_name, MicrosoftAzure);

/// Synced to disk before it answers; the folder is made.
#[allow(clippy::disallowed_methods)]
fn folder(url: &Url) -> Result<LocalFileSystem, StoreError> {
    let path: PathBuf = url
        .to_file_path()
        .map_err(|()| invalid(url.as_str(), "names no folder: write file:///FOLDER"))?;
    std::fs::create_dir_all(&path)
        .map_err(|error| invalid(url.as_str(), format!("folder cannot be made: {error}")))?;
    LocalFileSystem::new_with_prefix(&path)
        .map(|store| store.with_fsync(true))
        .map_err(|error| invalid(url.as_str(), error.to_string()))
}

fn opendal_memory(url: &str) -> Result<object_store_opendal::OpendalStore, StoreError> {
    let operator = opendal::Operator::new(opendal::services::Memory::default())
        .map_err(|error| invalid(url, error.to_string()))?;
    Ok(object_store_opendal::OpendalStore::new(operator))
}
