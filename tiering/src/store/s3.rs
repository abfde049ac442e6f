//! S3 from a bucket URL: the server, the credentials, encryption, signatures and checksums.

use std::ffi::OsString;

use levee_runtime::Host;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey as Key};
use url::Url;

use super::StoreError;
use super::aws_profile::{self, Profile};
use super::cloud::{self, client, is_plain, no_retry, opened};
use super::open::{Opened, bucket, invalid};
use super::options::Options;
use super::server::Server;

/// Options that say whose credentials to use. One of them, and the environment's do not count.
const CREDENTIALS: [&str; 4] =
    ["access_key_id", "secret_access_key", "profile", "web_identity_token_file"];

pub(super) fn open(url: &Url, prefix: String, host: &Host) -> Result<Opened, StoreError> {
    let (options, server) = (Options::of(url)?, Server::default());
    let builder = environment(&options, std::env::vars_os());
    let endpoint = options.text("endpoint").map(str::to_owned).or_else(|| endpoint_of(&builder));
    let mut builder = builder
        .with_bucket_name(bucket(url)?)
        .with_client_options(client(url, &options, endpoint.as_deref())?)
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

/// What `AWS_*` variables say, as far as the URL does not say it.
fn environment(
    options: &Options,
    variables: impl Iterator<Item = (OsString, OsString)>,
) -> AmazonS3Builder {
    let is_credential = |key: &Key| {
        let keys = [Key::AccessKeyId, Key::SecretAccessKey, Key::Token];
        let identity = [Key::RoleArn, Key::WebIdentityTokenFile, Key::RoleSessionName];
        keys.contains(key) || identity.contains(key)
    };
    let has_credentials = options.has_any(&CREDENTIALS);
    let is_said = |key: &Key| match key {
        Key::Checksum => options.has_any(&["checksum"]),
        key => has_credentials && is_credential(key),
    };
    let found = cloud::environment::<Key>("AWS_", variables).into_iter();
    found
        .filter(|(key, _)| !is_said(key))
        .fold(AmazonS3Builder::new(), |all, (key, value)| all.with_config(key, value))
}

/// The endpoint that the library would use.
fn endpoint_of(builder: &AmazonS3Builder) -> Option<String> {
    let own = builder.get_config_value(&Key::S3Endpoint);
    own.or_else(|| builder.get_config_value(&Key::Endpoint))
}

/// Where the bucket stands in the address.
fn addressed(
    builder: AmazonS3Builder,
    url: &Url,
    options: &Options,
) -> Result<AmazonS3Builder, StoreError> {
    let Some(path_style) = options.flag("path_style") else { return Ok(builder) };
    let builder = builder.with_virtual_hosted_style_request(!path_style);
    // Of an endpoint, the library wants the form that it shall have.
    let Some(endpoint) = endpoint_of(&builder).filter(|_| !path_style) else { return Ok(builder) };
    let mut endpoint = Url::parse(&endpoint).map_err(|e| invalid(url, e.to_string()))?;
    let (bucket, host) = (bucket(url)?, endpoint.host_str().unwrap_or_default().to_owned());
    let own = format!("{bucket}.");
    if !host.starts_with(&own) {
        endpoint.set_host(Some(&format!("{own}{host}"))).map_err(|_| {
            let why = format!("path_style=false needs a name, and the endpoint's host is {host}");
            invalid(url, why)
        })?;
    }
    let endpoint = endpoint.as_str().trim_end_matches('/');
    Ok(builder.with_endpoint(endpoint).with_config(Key::S3Endpoint, endpoint))
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
    if unsigned && endpoint_of(&builder).is_some_and(|endpoint| is_plain(&endpoint)) {
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
    if options.text("sts_endpoint").is_some_and(is_plain) {
        return Err(invalid(url, "sts_endpoint must be https: a token is sent there"));
    }
    // What would be taken and not used is refused: somebody relies on it.
    let of_role = ["role_arn", "role_session_name", "sts_endpoint"];
    let needs = [
        ("session_token", Key::AccessKeyId, "access_key_id"),
        ("web_identity_token_file", Key::RoleArn, "role_arn"),
    ];
    let needs = needs.into_iter().chain(
        of_role.map(|option| (option, Key::WebIdentityTokenFile, "web_identity_token_file")),
    );
    for (option, key, needed) in needs {
        if options.text(option).is_some() && !has(key) {
            return Err(invalid(url, format!("{option} says nothing without {needed}")));
        }
    }
    let identities = ["access_key_id", "web_identity_token_file", "profile"];
    let given: Vec<_> = identities.into_iter().filter(|name| options.has_any(&[name])).collect();
    if let [one, other, ..] = given[..] {
        return Err(invalid(url, format!("{one} and {other} exclude each other: give one")));
    }
    let asked = options.text("profile").map(str::to_owned);
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
        // Nobody asked for it: the machine's own role may do.
        None => aws_profile::find_default().unwrap_or_else(|why| {
            tracing::warn!(why, "the default profile is not used");
            None
        }),
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
    fn what_the_url_says_goes_before_the_environment() {
        let built = |query: &str, variables: &[(&str, &str)]| {
            let url = Url::parse(&format!("s3://logs/p?{query}")).unwrap();
            let options = Options::of(&url).unwrap();
            let variables = variables.iter().map(|(name, value)| (name.into(), value.into()));
            addressed(environment(&options, variables), &url, &options).unwrap()
        };
        let hosted = ("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "true");
        for (query, variables, key, found) in [
            ("checksum=none", ("AWS_CHECKSUM_ALGORITHM", "sha256"), Key::Checksum, None),
            ("path_style=true", hosted, Key::VirtualHostedStyleRequest, Some("false")),
            ("region=a", hosted, Key::VirtualHostedStyleRequest, Some("true")),
            ("profile=p", ("AWS_ACCESS_KEY_ID", "k"), Key::AccessKeyId, None),
            (
                "path_style=false",
                ("AWS_ENDPOINT_URL_S3", "https://h:9"),
                Key::S3Endpoint,
                Some("https://logs.h:9"),
            ),
        ] {
            let value = built(query, &[variables]).get_config_value(&key);
            assert_eq!(value.as_deref(), found, "{query}");
        }
    }

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
        let builder = AmazonS3Builder::new().with_endpoint("https://10.0.0.1");
        let error = addressed(builder, &url, &Options::of(&url).unwrap());
        assert!(error.unwrap_err().to_string().contains("10.0.0.1"));
    }
}
