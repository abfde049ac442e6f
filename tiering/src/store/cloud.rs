//! Google Cloud Storage and Azure Blob Storage from a bucket URL, and what all of HTTP shares.

use std::ffi::OsString;
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

/// Without TLS.
pub(super) fn is_plain(endpoint: &str) -> bool {
    Url::parse(endpoint).is_ok_and(|endpoint| endpoint.scheme() == "http")
}

/// What variables of the environment say by the library's own names, `PREFIX_..`.
pub(super) fn environment<K: FromStr>(
    prefix: &str,
    variables: impl Iterator<Item = (OsString, OsString)>,
) -> Vec<(K, String)> {
    let known = variables.filter_map(|(name, value)| {
        let name = name.to_str().filter(|name| name.starts_with(prefix))?;
        let key = name.to_ascii_lowercase().parse().ok()?;
        Some((key, value.into_string().ok()?))
    });
    known.collect()
}

/// The HTTP side of a store. Its requests have no deadline of their own: the store gives each one.
#[allow(clippy::disallowed_methods)]
pub(super) fn client(
    url: &Url,
    options: &Options,
    endpoint: Option<&str>,
) -> Result<ClientOptions, StoreError> {
    let connect = options.duration("connect_timeout").unwrap_or(Duration::from_secs(5));
    let allow_http = options.flag("allow_http").unwrap_or_default();
    if let (false, Some(endpoint)) = (allow_http, endpoint)
        && is_plain(endpoint)
    {
        // One from the environment may hold a password.
        let shown = options.text("endpoint").unwrap_or("of the environment");
        let why = format!("endpoint {shown} has no TLS: add allow_http=true if that is meant");
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

/// The bucket, then the query: (option of Levee, key of the library).
macro_rules! builder {
    ($builder:expr, $key:ty, $bucket:ident, $url:ident, $options:ident, $server:ident, $keys:expr) => {{
        let mut builder = $builder
            .$bucket(bucket($url)?)
            .with_client_options(client($url, &$options, $options.text("endpoint"))?)
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

/// Options that say whose credentials to use: the environment's do not count beside them.
const GOOGLE_CREDENTIALS: [&str; 2] = ["service_account", "service_account_key"];

fn google(
    without_credentials: bool,
    variables: impl Iterator<Item = (OsString, OsString)>,
) -> GoogleCloudStorageBuilder {
    use GoogleConfigKey as Key;
    let credentials = [Key::ServiceAccount, Key::ServiceAccountKey, Key::ApplicationCredentials];
    let found = environment::<Key>("GOOGLE_", variables).into_iter();
    found
        .filter(|(key, _)| !(without_credentials && credentials.contains(key)))
        .fold(GoogleCloudStorageBuilder::new(), |all, (key, value)| all.with_config(key, value))
}

pub(super) fn gcs(url: &Url, prefix: String) -> Result<Opened, StoreError> {
    let (options, server) = (Options::of(url)?, Server::default());
    let keys = [
        ("endpoint", "base_url"),
        ("service_account", "service_account"),
        ("service_account_key", "service_account_key"),
    ];
    let builder = google(options.has_any(&GOOGLE_CREDENTIALS), std::env::vars_os());
    let store = builder!(builder, GoogleConfigKey, with_bucket_name, url, options, server, keys);
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
    if options.flag("use_emulator") == Some(true) && options.text("endpoint").is_some() {
        let why = "use_emulator=true has an address of its own: leave one of it and endpoint out";
        return Err(invalid(url, why));
    }
    let mut builder = MicrosoftAzureBuilder::from_env();
    if let Some(kind) = azure_identity(url, &options)? {
        builder = builder.with_config(AzureConfigKey::CredentialType, kind);
    }
    let store = builder!(builder, AzureConfigKey, with_container_name, url, options, server, keys);
    Ok(opened(store, prefix, &options, server))
}

/// How the library is to sign, where the URL says with what: else anything in the environment would
/// go before it.
fn azure_identity(url: &Url, options: &Options) -> Result<Option<&'static str>, StoreError> {
    let kinds = [
        ("access_key", "access_key"),
        ("sas_token", "sas_token"),
        ("client_secret", "client_secret"),
        ("federated_token_file", "workload_identity"),
    ];
    let given: Vec<_> = kinds.into_iter().filter(|(name, _)| options.has_any(&[name])).collect();
    match given[..] {
        [] => Ok(None),
        [(_, kind)] => Ok(Some(kind)),
        [(one, _), (other, _), ..] => {
            Err(invalid(url, format!("{one} and {other} exclude each other: give one")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(query: &str) -> (Url, Options) {
        let url = Url::parse(&format!("az://logs/p?{query}")).unwrap();
        let options = Options::of(&url).unwrap();
        (url, options)
    }

    #[test]
    fn what_the_url_says_goes_before_the_environment() {
        for (query, kind) in [
            ("sas_token=x", Some("sas_token")),
            ("access_key=x&account_name=a", Some("access_key")),
            ("client_secret=x&client_id=c", Some("client_secret")),
            ("account_name=a", None),
        ] {
            let (url, options) = of(query);
            assert_eq!(azure_identity(&url, &options).unwrap(), kind, "{query}");
        }
        let (url, options) = of("sas_token=hunter2&access_key=hunter2");
        let error = azure_identity(&url, &options).unwrap_err().to_string();
        assert!(error.contains("exclude each other") && !error.contains("hunter2"), "{error}");
        let variables = || {
            [("GOOGLE_SERVICE_ACCOUNT", "/f"), ("GOOGLE_BASE_URL", "http://h"), ("HOME", "/")]
                .into_iter()
                .map(|(name, value)| (name.into(), value.into()))
        };
        let account = |without| {
            let builder = google(without, variables());
            assert!(builder.get_config_value(&GoogleConfigKey::BaseUrl).is_some());
            builder.get_config_value(&GoogleConfigKey::ServiceAccount)
        };
        assert_eq!(account(false).as_deref(), Some("/f"));
        assert_eq!(account(true), None);
    }

    #[test]
    fn schemes_are_known_in_any_case() {
        assert!(is_plain("http://h") && is_plain("HTTP://h:1/x") && !is_plain("https://h"));
    }
}
