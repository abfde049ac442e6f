//! What the query of a bucket URL may say: names, forms, defaults, in one table.
//!
//! Owns: reading and checking options, and which of them are secrets. Does not own: what a store
//! makes of them.

use std::collections::BTreeMap;
use std::time::Duration;

use url::Url;

use super::StoreError;
use super::open::invalid;

/// What the value of an option looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Text,
    /// Never shown. The environment is the better place for it.
    Secret,
    /// `true` or `false`.
    Flag,
    /// `500ms`, `30s`, `2m`.
    Duration,
    /// `https://HOST:PORT`.
    Url,
    /// A file of this machine.
    File,
    OneOf(&'static [&'static str]),
}

/// One option of one kind of bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OptionInfo {
    pub name: &'static str,
    pub form: Form,
    /// In words where nothing is the default.
    pub default: &'static str,
    pub help: &'static str,
}

const fn option(
    name: &'static str,
    form: Form,
    default: &'static str,
    help: &'static str,
) -> OptionInfo {
    OptionInfo { name, form, default, help }
}

/// An option of one form.
macro_rules! forms {
    ($($name:ident $form:ident),*) => {
        $(const fn $name(
            name: &'static str,
            default: &'static str,
            help: &'static str,
        ) -> OptionInfo {
            option(name, Form::$form, default, help)
        })*
    };
}
forms!(text Text, secret Secret, flag Flag, url Url, file File);

/// Of every store that is reached by HTTP, opendal's aside.
const HTTP: &[OptionInfo] = &[
    flag("allow_http", "false", "connect without TLS, for trusted networks"),
    file("ca_file", "the system's", "certificates to trust besides, as PEM"),
    option("request_timeout", Form::Duration, "30s", "one request; large bodies get more"),
    option("connect_timeout", Form::Duration, "5s", "to connect, with TLS"),
];

const S3: &[OptionInfo] = &[
    text("region", "AWS_REGION, or us-east-1", "region of the bucket"),
    url("endpoint", "AWS", "a server that speaks S3"),
    flag("path_style", "true", "ENDPOINT/BUCKET/KEY; false: BUCKET.ENDPOINT/KEY"),
    secret("access_key_id", "AWS_ACCESS_KEY_ID", "a key"),
    secret("secret_access_key", "AWS_SECRET_ACCESS_KEY", "its secret"),
    secret("session_token", "AWS_SESSION_TOKEN", "its token, if it is temporary"),
    text("profile", "AWS_PROFILE", "keys of ~/.aws/credentials and ~/.aws/config"),
    text("role_arn", "AWS_ROLE_ARN", "role to take on with a web identity"),
    file(
        "web_identity_token_file",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "token of the web identity (IRSA)",
    ),
    text("role_session_name", "WebIdentitySession", "how AWS logs this broker"),
    url("sts_endpoint", "the region's", "where web identities get their keys"),
    option(
        "sse",
        Form::OneOf(&["s3", "kms"]),
        "the bucket's",
        "encryption at rest: SSE-S3 or SSE-KMS",
    ),
    text("sse_kms_key_id", "AWS's own", "key of sse=kms"),
    flag("sse_bucket_key", "the bucket's", "sse=kms: fewer requests to KMS"),
    flag(
        "unsigned_payload",
        "false",
        "leave the body out of the signature: less CPU; only with TLS",
    ),
    option(
        "checksum",
        Form::OneOf(&["none", "crc64nvme", "sha256"]),
        "crc64nvme with unsigned_payload, else none",
        "checksum header of uploads, for the server to check",
    ),
    flag("bulk_delete", "true", "false for servers without DeleteObjects"),
];

const GCS: &[OptionInfo] = &[
    url("endpoint", "Google", "another server that speaks the same"),
    file(
        "service_account",
        "GOOGLE_SERVICE_ACCOUNT, else the machine's",
        "key file of a service account",
    ),
    secret("service_account_key", "GOOGLE_SERVICE_ACCOUNT_KEY", "the same, as JSON"),
];

const AZURE: &[OptionInfo] = &[
    text("account_name", "AZURE_STORAGE_ACCOUNT_NAME", "storage account"),
    secret("access_key", "AZURE_STORAGE_ACCOUNT_KEY", "key of the account"),
    secret("sas_token", "AZURE_STORAGE_SAS_TOKEN", "a shared access signature"),
    text("tenant_id", "AZURE_TENANT_ID", "tenant of the client"),
    text("client_id", "AZURE_CLIENT_ID", "client, or managed identity"),
    secret("client_secret", "AZURE_CLIENT_SECRET", "secret of the client"),
    file("federated_token_file", "AZURE_FEDERATED_TOKEN_FILE", "token of a workload identity"),
    url("endpoint", "the account's", "another server that speaks the same"),
    flag("use_emulator", "false", "Azurite on this machine"),
];

/// Everything that the query of `SCHEME://` may say; nothing for schemes whose options are not
/// Levee's own.
pub fn known(scheme: &str) -> Vec<&'static OptionInfo> {
    let (own, http): (&[OptionInfo], _) = match scheme {
        "s3" => (S3, HTTP),
        "gs" => (GCS, HTTP),
        "az" => (AZURE, HTTP),
        _ => (&[], &[]),
    };
    own.iter().chain(http).collect()
}

/// Whether people may see the value of an option.
pub fn is_public(scheme: &str, name: &str) -> bool {
    match scheme.strip_prefix("opendal+") {
        Some(_) => ["endpoint", "region", "bucket", "container", "account_name"].contains(&name),
        None => known(scheme).iter().any(|o| o.name == name && o.form != Form::Secret),
    }
}

/// The options of one URL, each checked.
pub(super) struct Options {
    given: BTreeMap<String, String>,
}

impl Options {
    pub(super) fn of(url: &Url) -> Result<Self, StoreError> {
        let known = known(url.scheme());
        let names: Vec<&str> = known.iter().map(|option| option.name).collect();
        let given = pairs(url, &names)?;
        for option in known {
            if let Some(value) = given.get(option.name) {
                check(option, value).map_err(|why| invalid(url, why))?;
            }
        }
        Ok(Self { given })
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.given.get(name).map(String::as_str)
    }

    pub(super) fn flag(&self, name: &str) -> Option<bool> {
        self.text(name).map(|value| value == "true")
    }

    pub(super) fn duration(&self, name: &str) -> Option<Duration> {
        self.text(name).and_then(|value| humantime::parse_duration(value).ok())
    }

    pub(super) fn has_any(&self, names: &[&str]) -> bool {
        names.iter().any(|name| self.given.contains_key(*name))
    }
}

/// The query by name; refuses names that are not known, and what is said twice.
pub(super) fn pairs(url: &Url, known: &[&str]) -> Result<BTreeMap<String, String>, StoreError> {
    let mut given = BTreeMap::new();
    for (name, value) in url.query_pairs() {
        if !known.contains(&&*name) {
            return Err(invalid(url, unknown(&name, known)));
        }
        if given.insert(name.clone().into_owned(), value.into_owned()).is_some() {
            return Err(invalid(url, format!("option {name:?} is there twice: write it once")));
        }
    }
    Ok(given)
}

fn unknown(name: &str, known: &[&str]) -> String {
    match (nearest(name, known), known) {
        (Some(meant), _) => format!("option {name:?} is not known; did you mean {meant:?}?"),
        (None, []) => format!("option {name:?} is not known: this kind of bucket takes none"),
        (None, _) => format!("option {name:?} is not known; write one of {}", known.join(", ")),
    }
}

/// The known name that was meant, if one is near enough.
fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    // Longer names come from strangers.
    let allowed = if name.len() > 80 { 0 } else { (name.len() / 3).max(2) };
    let distances = known.iter().map(|known| (strsim::osa_distance(name, known), *known));
    distances.filter(|(distance, _)| *distance <= allowed).min().map(|(_, known)| known)
}

fn check(option: &OptionInfo, value: &str) -> Result<(), String> {
    let name = option.name;
    let is = |what: &str| Err(format!("option {name:?} is {value:?}: write {what}"));
    match option.form {
        // Said without the value.
        _ if value.is_empty() => Err(format!("option {name:?} is empty: give a value or leave it")),
        Form::Text | Form::Secret => Ok(()),
        Form::Flag if value == "true" || value == "false" => Ok(()),
        Form::Flag => is("true or false"),
        Form::Duration => match humantime::parse_duration(value) {
            Ok(time) if (MIN_TIMEOUT..=MAX_TIMEOUT).contains(&time) => Ok(()),
            Ok(_) => is("a time between 10ms and 1h"),
            Err(_) => is("a time with its unit, such as 500ms or 30s"),
        },
        Form::Url => match Url::parse(value) {
            Ok(url) if is_credential_free(&url) => Ok(()),
            // It may hold a password.
            Ok(_) => {
                Err(format!("option {name:?} must be https://HOST:PORT, without user or query"))
            }
            Err(_) => is("https://HOST:PORT"),
        },
        Form::File if std::path::Path::new(value).is_file() => Ok(()),
        Form::File => is("the path of a file that is there"),
        Form::OneOf(choices) if choices.contains(&value) => Ok(()),
        Form::OneOf(choices) => is(&choices.join(" or ")),
    }
}

const MIN_TIMEOUT: Duration = Duration::from_millis(10);
const MAX_TIMEOUT: Duration = Duration::from_secs(3600);

fn is_credential_free(url: &Url) -> bool {
    let has_scheme = matches!(url.scheme(), "http" | "https") && url.has_host();
    has_scheme && url.username().is_empty() && url.password().is_none() && url.query().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(query: &str) -> String {
        let url = Url::parse(&format!("s3://bucket/p?{query}")).unwrap();
        Options::of(&url).map(drop).unwrap_err().to_string()
    }

    #[test]
    fn each_wrong_option_is_named_with_its_remedy() {
        for (query, says) in [
            ("regoin=x", "option \"regoin\" is not known; did you mean \"region\"?"),
            ("zzzzzzzzzz=x", "write one of region, endpoint"),
            ("region=a&region=b", "option \"region\" is there twice"),
            ("region=", "option \"region\" is empty"),
            ("path_style=yes", "option \"path_style\" is \"yes\": write true or false"),
            (
                "request_timeout=30",
                "option \"request_timeout\" is \"30\": write a time with its unit",
            ),
            ("request_timeout=1ns", "between 10ms and 1h"),
            ("endpoint=minio:9000", "must be https://HOST:PORT"),
            ("endpoint=minio", "option \"endpoint\" is \"minio\": write https://HOST:PORT"),
            ("ca_file=/no/such", "option \"ca_file\" is \"/no/such\": write the path of a file"),
            ("sse=aes", "option \"sse\" is \"aes\": write s3 or kms"),
            ("checksum=md5", "write none or crc64nvme or sha256"),
        ] {
            let error = refused(query);
            assert!(error.contains(says), "{query}: {error}");
            assert!(error.contains("s3://bucket/p"), "{error}");
        }
    }

    #[test]
    fn passwords_are_not_repeated() {
        let error = refused("endpoint=http://me:hunter2@host");
        assert!(!error.contains("hunter2"), "{error}");
        let error = refused("secret_access_key=hunter2&x=hunter2");
        assert!(!error.contains("hunter2"), "{error}");
        for secret in ["access_key_id", "secret_access_key", "session_token", "nonsense"] {
            assert!(!is_public("s3", secret), "{secret}");
        }
        assert!(is_public("s3", "endpoint") && is_public("az", "account_name"));
        assert!(!is_public("opendal+webdav", "password") && !is_public("az", "sas_token"));
    }

    #[test]
    fn names_are_unique_and_defaults_said() {
        for scheme in ["s3", "gs", "az"] {
            let mut names: Vec<_> = known(scheme).iter().map(|option| option.name).collect();
            let count = names.len();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), count, "{scheme}");
            assert!(known(scheme).iter().all(|o| !o.default.is_empty() && !o.help.is_empty()));
        }
    }
}
