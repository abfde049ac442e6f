//! Google Cloud Storage and Azure Blob Storage from a bucket URL, and what all of HTTP shares.

use std::str::FromStr;

use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::{Certificate, ClientOptions, RetryConfig};
use std::time::Duration;
use url::Url;

use super::open::{Opened, bucket, invalid};
use super::options::Options;
use super::server::Server;
use super::{Deadlines, StoreError};

/// Idle connections that are kept: more than the requests that a broker has under way.
const IDLE_CONNECTIONS: usize = 64;

/// The transport retries nothing: a retried conditional request would lie about who won.
pub(super) fn no_retry() -> RetryConfig {
    RetryConfig { max_retries: 0, retry_timeout: Duration::ZERO, ..RetryConfig::default() }
}

/// The HTTP side of a store. Its requests have no deadline of their own: the store gives each one.
#[allow(clippy::disallowed_methods)]
pub(super) fn client(url: &Url, options: &Options) -> Result<ClientOptions, StoreError> {
    let connect = options.duration("connect_timeout").unwrap_or(Duration::from_secs(5));
    let allow_http = options.flag("allow_http").unwrap_or_default();
    if let (false, Some(endpoint)) = (allow_http, options.text("endpoint"))
        && endpoint.starts_with("http:")
    {
        let why = format!("endpoint {endpoint} has no TLS: add allow_http=true if that is meant");
        return Err(invalid(url, why));
    }
    let mut client = ClientOptions::new()
        .with_connect_timeout(connect)
        .with_timeout_disabled()
        .with_pool_max_idle_per_host(IDLE_CONNECTIONS)
        .with_allow_http(allow_http);
    if let Some(file) = options.text("ca_file") {
        let bad = |why: String| invalid(url, format!("ca_file {file}: {why}"));
        let pem = std::fs::read(file).map_err(|error| bad(error.to_string()))?;
        let found = Certificate::from_pem_bundle(&pem).map_err(|error| bad(error.to_string()))?;
        if found.is_empty() {
            return Err(bad("holds no certificate in PEM".into()));
        }
        client = found.into_iter().fold(client, ClientOptions::with_root_certificate);
    }
    Ok(client)
}

/// A store behind HTTP with the options that all of them have.
pub(super) fn opened(
    inner: impl object_store::ObjectStore,
    prefix: String,
    options: &Options,
    server: Server,
) -> Opened {
    let request = options.duration("request_timeout");
    let deadlines = request
        .map_or_else(Deadlines::default, |request| Deadlines { request, ..Deadlines::default() });
    Opened { deadlines, server: Some(server), ..Opened::new(inner, prefix) }
}

/// The environment first, then the bucket, then the query: (option of Levee, key of the library).
macro_rules! builder {
    ($builder:ty, $key:ty, $bucket:ident, $url:ident, $options:ident, $server:ident, $keys:expr) => {{
        let mut builder = <$builder>::from_env()
            .$bucket(bucket($url)?)
            .with_client_options(client($url, &$options)?)
            .with_http_connector($server.clone())
            .with_retry(no_retry());
        for (option, key) in $keys {
            if let Some(value) = $options.text(option) {
                let key = <$key>::from_str(key).map_err(|e| invalid($url, e.to_string()))?;
                builder = builder.with_config(key, value);
            }
        }
        builder.build().map_err(|error| invalid($url, error.to_string()))?
    }};
}

pub(super) fn gcs(url: &Url, prefix: String) -> Result<Opened, StoreError> {
    let (options, server) = (Options::of(url)?, Server::default());
    let keys = [
        ("endpoint", "base_url"),
        ("service_account", "service_account"),
        ("service_account_key", "service_account_key"),
    ];
    type Builder = GoogleCloudStorageBuilder;
    let store = builder!(Builder, GoogleConfigKey, with_bucket_name, url, options, server, keys);
    Ok(opened(store, prefix, &options, server))
}

pub(super) fn azure(url: &Url, prefix: String) -> Result<Opened, StoreError> {
    let (options, server) = (Options::of(url)?, Server::default());
    let keys = [
        "account_name",
        "access_key",
        "sas_token",
        "tenant_id",
        "client_id",
        "client_secret",
        "federated_token_file",
        "endpoint",
        "use_emulator",
    ]
    .map(|name| (name, name));
    type Builder = MicrosoftAzureBuilder;
    let store = builder!(Builder, AzureConfigKey, with_container_name, url, options, server, keys);
    Ok(opened(store, prefix, &options, server))
}
