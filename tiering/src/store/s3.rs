//! S3 from a bucket URL: the server, the credentials, encryption, signatures and checksums.

use levee_runtime::Host;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey as Key};
use url::Url;

use super::StoreError;
use super::aws_profile::{self, Profile};
use super::cloud::{client, no_retry, opened};
use super::open::{Opened, bucket, invalid};
use super::options::Options;
use super::server::Server;

/// Options that say whose credentials to use. One of them, and the environment's do not count.
const CREDENTIALS: [&str; 4] =
    ["access_key_id", "secret_access_key", "profile", "web_identity_token_file"];

pub(super) fn open(url: &Url, prefix: String, host: &Host) -> Result<Opened, StoreError> {
    let (options, server) = (Options::of(url)?, Server::default());
    let mut builder = environment(options.has_any(&CREDENTIALS))
        .with_bucket_name(bucket(url)?)
        .with_client_options(client(url, &options)?)
        .with_http_connector(server.clone())
        .with_retry(no_retry());
    for (option, key) in [
        ("region", Key::Region),
        ("endpoint", Key::Endpoint),
        // A variable for S3 alone goes before the other one; the URL goes before both.
        ("endpoint", Key::S3Endpoint),
        ("access_key_id", Key::AccessKeyId),
        ("secret_access_key", Key::SecretAccessKey),
        ("session_token", Key::Token),
        ("role_arn", Key::RoleArn),
        ("web_identity_token_file", Key::WebIdentityTokenFile),
        ("role_session_name", Key::RoleSessionName),
        ("sts_endpoint", Key::StsEndpoint),
    ] {
        if let Some(value) = options.text(option) {
            builder = builder.with_config(key, value);
        }
    }
    builder = addressed(builder, url, &options)?;
    builder = protected(builder, url, &options)?;
    builder = identified(builder, url, &options, host)?;
    if let Some(bulk) = options.flag("bulk_delete") {
        builder = builder.with_disable_bulk_delete(!bulk);
    }
    let store = builder.build().map_err(|error| invalid(url, error.to_string()))?;
    Ok(opened(store, prefix, &options, server))
}

/// What `AWS_*` variables say.
fn environment(without_credentials: bool) -> AmazonS3Builder {
    let is_credential = |key: &Key| {
        let keys = [Key::AccessKeyId, Key::SecretAccessKey, Key::Token];
        let identity = [Key::RoleArn, Key::WebIdentityTokenFile, Key::RoleSessionName];
        keys.contains(key) || identity.contains(key)
    };
    let mut builder = AmazonS3Builder::new();
    for (name, value) in std::env::vars_os() {
        let (Some(name), Some(value)) = (name.to_str(), value.to_str()) else { continue };
        let key = name.starts_with("AWS_").then(|| name.to_ascii_lowercase().parse::<Key>());
        match key {
            Some(Ok(key)) if !(without_credentials && is_credential(&key)) => {
                builder = builder.with_config(key, value);
            }
            _ => {}
        }
    }
    builder
}

/// Where the bucket stands in the address.
fn addressed(
    builder: AmazonS3Builder,
    url: &Url,
    options: &Options,
) -> Result<AmazonS3Builder, StoreError> {
    if options.flag("path_style") != Some(false) {
        return Ok(builder);
    }
    let builder = builder.with_virtual_hosted_style_request(true);
    // Of an endpoint, the library wants the form that it shall have.
    let Some(endpoint) = options.text("endpoint") else { return Ok(builder) };
    let mut endpoint = Url::parse(endpoint).map_err(|e| invalid(url, e.to_string()))?;
    let (bucket, host) = (bucket(url)?, endpoint.host_str().unwrap_or_default().to_owned());
    let own = format!("{bucket}.");
    if !host.starts_with(&own) {
        endpoint.set_host(Some(&format!("{own}{host}"))).map_err(|_| {
            let why = format!("path_style=false needs a name, and the endpoint's host is {host}");
            invalid(url, why)
        })?;
    }
    Ok(builder.with_endpoint(endpoint.as_str().trim_end_matches('/')))
}

/// Encryption at rest, and what guards bodies on their way.
fn protected(
    mut builder: AmazonS3Builder,
    url: &Url,
    options: &Options,
) -> Result<AmazonS3Builder, StoreError> {
    for (option, key) in [
        ("sse", "aws_server_side_encryption"),
        ("sse_kms_key_id", "aws_sse_kms_key_id"),
        ("sse_bucket_key", "aws_sse_bucket_key_enabled"),
    ] {
        let value = match options.text(option) {
            None => continue,
            Some("s3") if option == "sse" => "AES256",
            Some("kms") if option == "sse" => "aws:kms",
            Some(_) if options.text("sse") != Some("kms") => {
                return Err(invalid(
                    url,
                    format!("option {option:?} says nothing without sse=kms"),
                ));
            }
            Some(value) => value,
        };
        let key: Key = key.parse().map_err(|e: object_store::Error| invalid(url, e.to_string()))?;
        builder = builder.with_config(key, value);
    }
    let unsigned = options.flag("unsigned_payload").unwrap_or_default();
    let endpoint = builder.get_config_value(&Key::S3Endpoint);
    let endpoint = endpoint.or_else(|| builder.get_config_value(&Key::Endpoint));
    if unsigned && endpoint.is_some_and(|endpoint| endpoint.starts_with("http:")) {
        let why = "unsigned_payload=true needs a TLS endpoint: nothing else guards the bytes";
        return Err(invalid(url, why));
    }
    // A signed body is checked by its signature.
    let checksum = match options.text("checksum") {
        Some(chosen) => chosen,
        None if unsigned => "crc64nvme",
        None => "none",
    };
    if checksum != "none" {
        builder = builder.with_config(Key::Checksum, checksum);
    }
    Ok(builder.with_unsigned_payload(unsigned))
}

/// Credentials of the shared files, where they are asked for or nothing else is there.
fn identified(
    builder: AmazonS3Builder,
    url: &Url,
    options: &Options,
    host: &Host,
) -> Result<AmazonS3Builder, StoreError> {
    let has = |key: Key| builder.get_config_value(&key).is_some();
    let half =
        |one: &str, other: &str| options.text(one).is_some() && options.text(other).is_none();
    if half("access_key_id", "secret_access_key") || half("secret_access_key", "access_key_id") {
        let why = "access_key_id and secret_access_key go together: give both";
        return Err(invalid(url, why));
    }
    if options.text("web_identity_token_file").is_some() && !has(Key::RoleArn) {
        return Err(invalid(url, "web_identity_token_file needs a role_arn"));
    }
    if options.text("sts_endpoint").is_some_and(|endpoint| endpoint.starts_with("http:")) {
        return Err(invalid(url, "sts_endpoint must be https: a token is sent there"));
    }
    let asked = options.text("profile").map(str::to_owned);
    if asked.is_some() && options.has_any(&["access_key_id", "web_identity_token_file"]) {
        return Err(invalid(url, "profile and other credentials exclude each other: give one"));
    }
    let is_given = has(Key::AccessKeyId)
        || (has(Key::WebIdentityTokenFile) && has(Key::RoleArn))
        || has(Key::ContainerCredentialsRelativeUri)
        || has(Key::ContainerCredentialsFullUri);
    let from_environment = || match options.has_any(&CREDENTIALS) || has(Key::AccessKeyId) {
        true => None,
        false => std::env::var("AWS_PROFILE").ok().filter(|name| !name.is_empty()),
    };
    let found = match asked.or_else(from_environment) {
        Some(name) => Some(aws_profile::find(&name).map_err(|why| invalid(url, why))?),
        None if is_given => None,
        None => aws_profile::find_default().map_err(|why| invalid(url, why))?,
    };
    Ok(match found {
        None => builder,
        Some(profile) => of_profile(builder, profile, options, host),
    })
}

fn of_profile(
    mut builder: AmazonS3Builder,
    profile: Profile,
    options: &Options,
    host: &Host,
) -> AmazonS3Builder {
    if let (None, None, Some(region)) =
        (options.text("region"), builder.get_config_value(&Key::Region), &profile.region)
    {
        builder = builder.with_region(region);
    }
    match profile.identity {
        aws_profile::Identity::Keys(_) => {
            builder.with_credentials(profile.provider(host.clone(), aws_profile::FRESH))
        }
        aws_profile::Identity::Web { role_arn, token_file, session } => {
            builder = builder
                .with_config(Key::RoleArn, role_arn)
                .with_config(Key::WebIdentityTokenFile, token_file);
            match session {
                Some(session) => builder.with_config(Key::RoleSessionName, session),
                None => builder,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bucket_is_in_the_path_or_in_the_name_of_the_host() {
        for (query, endpoint) in [
            ("endpoint=https://h:9", Some("https://h:9")),
            ("path_style=false&endpoint=https://h:9", Some("https://logs.h:9")),
            ("path_style=false&endpoint=https://logs.h", Some("https://logs.h")),
            ("path_style=false", None),
        ] {
            let url = Url::parse(&format!("s3://logs/p?{query}")).unwrap();
            let options = Options::of(&url).unwrap();
            let builder = AmazonS3Builder::new();
            let builder = match options.text("endpoint") {
                Some(endpoint) => builder.with_endpoint(endpoint),
                None => builder,
            };
            let builder = addressed(builder, &url, &options).unwrap();
            let found = builder.get_config_value(&Key::Endpoint);
            assert_eq!(found.as_deref(), endpoint, "{query}");
            let hosted = builder.get_config_value(&Key::VirtualHostedStyleRequest);
            assert_eq!(hosted.as_deref(), Some(&query.contains("false").to_string()[..]));
        }
        let url = Url::parse("s3://logs?path_style=false&endpoint=https://10.0.0.1").unwrap();
        let error = addressed(AmazonS3Builder::new(), &url, &Options::of(&url).unwrap());
        assert!(error.unwrap_err().to_string().contains("10.0.0.1"));
    }
}
