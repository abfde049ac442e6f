//! Profiles of AWS's shared files, `~/.aws/credentials` and `~/.aws/config`.
//!
//! Owns: finding a profile, its keys or web identity, and reading the keys again now and then:
//! tools that hand out temporary keys write them there. Does not own: programs, browsers and
//! chains of roles that a profile may ask for; those are refused.

// Credentials lie in files of the machine, beside the seam.
#![allow(clippy::disallowed_methods)]

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use levee_runtime::{Host, Mono};
use object_store::CredentialProvider;
use object_store::aws::AwsCredential;
use parking_lot::Mutex;

/// How long keys are used before the files are read again.
pub(super) const FRESH: Duration = Duration::from_secs(60);
/// Such files are some kilobytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

type Properties = BTreeMap<String, String>;

/// What a profile says that Levee can use.
pub(super) struct Profile {
    name: String,
    files: Files,
    pub region: Option<String>,
    pub identity: Identity,
}

pub(super) enum Identity {
    Keys(AwsCredential),
    Web { role_arn: String, token_file: String, session: Option<String> },
}

#[derive(Debug, Clone)]
struct Files {
    credentials: Option<PathBuf>,
    config: Option<PathBuf>,
}

/// The profile of a name; says why it cannot be used.
pub(super) fn find(name: &str) -> Result<Profile, String> {
    Files::of_environment().profile(name)
}

/// The profile `default`, if one is there.
pub(super) fn find_default() -> Result<Option<Profile>, String> {
    let files = Files::of_environment();
    match files.properties("default")? {
        // A region alone is no identity: the machine may have one.
        found if found.keys().all(|key| !IDENTITIES.contains(&&key[..])) => Ok(None),
        _ => files.profile("default").map(Some),
    }
}

/// Properties by which a profile says who one is.
const IDENTITIES: [&str; 7] = [
    "aws_access_key_id",
    "web_identity_token_file",
    "role_arn",
    "credential_process",
    "sso_session",
    "sso_start_url",
    "credential_source",
];

impl Files {
    fn of_environment() -> Self {
        let variable = |name: &str| std::env::var_os(name).filter(|path| !path.is_empty());
        let home = || Some(std::env::home_dir()?.join(".aws"));
        let path = |name: &str, file: &str| {
            variable(name).map(PathBuf::from).or_else(|| Some(home()?.join(file)))
        };
        Self {
            credentials: path("AWS_SHARED_CREDENTIALS_FILE", "credentials"),
            config: path("AWS_CONFIG_FILE", "config"),
        }
    }

    fn profile(&self, name: &str) -> Result<Profile, String> {
        let found = self.properties(name)?;
        let get = |key: &str| found.get(key).cloned();
        if found.is_empty() {
            return Err(format!("profile {name:?} is not in {self}"));
        }
        let identity = if let Some(key_id) = get("aws_access_key_id") {
            let secret_key = get("aws_secret_access_key").ok_or_else(|| {
                format!("profile {name:?} has an aws_access_key_id and no aws_secret_access_key")
            })?;
            let token = get("aws_session_token");
            Identity::Keys(AwsCredential { key_id, secret_key, token })
        } else if let (Some(token_file), Some(role_arn)) =
            (get("web_identity_token_file"), get("role_arn"))
        {
            Identity::Web { role_arn, token_file, session: get("role_session_name") }
        } else {
            return Err(unusable(name, &found));
        };
        Ok(Profile { name: name.to_owned(), files: self.clone(), region: get("region"), identity })
    }

    /// What both files say of a profile; the credentials file wins.
    fn properties(&self, name: &str) -> Result<Properties, String> {
        let mut found = Properties::new();
        let of_config = match name {
            "default" => vec!["default".to_owned(), "profile default".to_owned()],
            name => vec![format!("profile {name}")],
        };
        for (file, sections) in
            [(&self.config, of_config), (&self.credentials, vec![name.to_owned()])]
        {
            let Some(file) = file else { continue };
            let text = match read(file) {
                Ok(text) => text,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(format!("{}: {error}", file.display())),
            };
            let of_file = section(&text, &sections);
            found.extend(of_file.map_err(|why| format!("{}: {why}", file.display()))?);
        }
        Ok(found)
    }
}

impl fmt::Display for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let files: Vec<String> = [&self.credentials, &self.config]
            .into_iter()
            .flatten()
            .map(|file| file.display().to_string())
            .collect();
        f.write_str(&files.join(" or "))
    }
}

fn read(file: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    let read = std::fs::File::open(file)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    match read as u64 > FILE_BYTES_MAX {
        true => Err(std::io::Error::other("is larger than 1MiB")),
        false => Ok(text),
    }
}

/// Why a profile without keys is of no use here. Its values are not repeated.
fn unusable(name: &str, found: &Properties) -> String {
    let has = |key: &str| found.contains_key(key);
    let wants = if has("credential_process") {
        "runs a program (credential_process)"
    } else if found.keys().any(|key| key.starts_with("sso_")) {
        "needs a login with a browser (sso)"
    } else if has("source_profile") || has("credential_source") {
        "takes on a role by way of another profile"
    } else {
        "has no keys"
    };
    format!(
        "profile {name:?} {wants}, which Levee does not do: give it keys (aws_access_key_id, \
         aws_secret_access_key) or a web identity, or export AWS_ACCESS_KEY_ID and \
         AWS_SECRET_ACCESS_KEY"
    )
}

/// The properties of some sections of a file. Nested properties, which are indented, are left out.
fn section(text: &str, names: &[String]) -> Result<Properties, String> {
    let mut found = Properties::new();
    let mut is_in = false;
    for (number, line) in text.lines().enumerate() {
        let bad = |what: &str| format!("line {} {what}", number + 1);
        if line.trim().is_empty() || line.starts_with(['#', ';']) || line.starts_with([' ', '\t']) {
            continue;
        }
        if let Some(rest) = line.strip_prefix('[') {
            let (name, _) =
                rest.split_once(']').ok_or_else(|| bad("opens a section with no end"))?;
            let name = name.split_whitespace().collect::<Vec<_>>().join(" ");
            is_in = names.contains(&name.replace(['"', '\''], ""));
            continue;
        }
        let (key, value) = line.split_once('=').ok_or_else(|| bad("is no KEY = VALUE"))?;
        if is_in {
            // A comment may follow, after white space.
            let end = value.find(" #").or_else(|| value.find(" ;")).unwrap_or(value.len());
            found.insert(key.trim().to_ascii_lowercase(), value[..end].trim().to_owned());
        }
    }
    Ok(found)
}

impl Profile {
    /// The profile's keys for as long as the store lives.
    pub(super) fn provider(self, host: Host, fresh: Duration) -> Arc<Keys> {
        let first = match self.identity {
            Identity::Keys(keys) => Some((host.now(), Arc::new(keys))),
            Identity::Web { .. } => None,
        };
        Arc::new(Keys { name: self.name, files: self.files, host, fresh, last: Mutex::new(first) })
    }
}

/// Keys of a profile, read again when they are not fresh.
pub(super) struct Keys {
    name: String,
    files: Files,
    host: Host,
    fresh: Duration,
    last: Mutex<Option<(Mono, Arc<AwsCredential>)>>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys(profile {:?} of {})", self.name, self.files)
    }
}

#[async_trait]
impl CredentialProvider for Keys {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let now = self.host.now();
        let mut last = self.last.lock();
        if let Some((read, keys)) = &*last
            && now.since(*read) < self.fresh
        {
            return Ok(keys.clone());
        }
        let keys = match (self.files.profile(&self.name).map(|found| found.identity), &*last) {
            (Ok(Identity::Keys(keys)), _) => Arc::new(keys),
            // Somebody is writing the file, perhaps: the keys may still be good.
            (_, Some((_, keys))) => keys.clone(),
            (Err(why), None) => return Err(failed(why)),
            (Ok(Identity::Web { .. }), None) => return Err(failed("has no keys any more".into())),
        };
        *last = Some((now, keys.clone()));
        Ok(keys)
    }
}

fn failed(why: String) -> object_store::Error {
    object_store::Error::Generic { store: "AWS profile", source: why.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use levee_runtime::real::RealWorld;

    const CONFIG: &str = "\
# a comment
[default]
region = eu-central-1 # ours
[profile work]
region=eu-west-1
s3 =
  max_concurrent_requests = 20
  aws_access_key_id = NESTED
[profile \"web identity\"]
role_arn = arn:aws:iam::1:role/r
web_identity_token_file = /token
[profile program]
credential_process = keys-of hunter2
[profile login]
sso_session = hunter2
[profile chain]
role_arn = arn
source_profile = work
";
    const CREDENTIALS: &str = "\
[work]
AWS_ACCESS_KEY_ID = AKIA
aws_secret_access_key = a=b#c/+
aws_session_token = t

[half]
aws_access_key_id = AKIA
";

    fn files(dir: &Path) -> Files {
        std::fs::write(dir.join("config"), CONFIG).unwrap();
        std::fs::write(dir.join("credentials"), CREDENTIALS).unwrap();
        Files { credentials: Some(dir.join("credentials")), config: Some(dir.join("config")) }
    }

    #[test]
    fn both_files_say_what_a_profile_is() {
        let dir = tempfile::tempdir().unwrap();
        let files = files(dir.path());
        let work = files.profile("work").unwrap();
        assert_eq!(work.region.as_deref(), Some("eu-west-1"));
        let Identity::Keys(keys) = work.identity else { panic!("keys") };
        assert_eq!((&keys.key_id[..], &keys.secret_key[..]), ("AKIA", "a=b#c/+"));
        assert_eq!(keys.token.as_deref(), Some("t"));
        let web = files.profile("web identity").unwrap().identity;
        assert!(matches!(web, Identity::Web { token_file, .. } if token_file == "/token"));
        assert_eq!(files.properties("default").unwrap()["region"], "eu-central-1");
    }

    #[test]
    fn what_cannot_be_used_is_refused_in_words() {
        let dir = tempfile::tempdir().unwrap();
        let files = files(dir.path());
        for (name, says) in [
            ("nobody", "is not in"),
            ("half", "no aws_secret_access_key"),
            ("program", "runs a program (credential_process)"),
            ("login", "needs a login with a browser"),
            ("chain", "by way of another profile"),
            ("default", "has no keys"),
        ] {
            let error = files.profile(name).map(drop).unwrap_err();
            assert!(error.contains(says) && !error.contains("hunter2"), "{name}: {error}");
        }
        for (text, says) in [("[work", "line 1 opens a section"), ("\nx", "line 2 is no KEY")] {
            std::fs::write(dir.path().join("config"), text).unwrap();
            let error = files.profile("work").map(drop).unwrap_err();
            assert!(error.contains(says) && error.contains("config: "), "{error}");
        }
    }

    #[tokio::test]
    async fn keys_that_were_replaced_are_found_and_a_bad_file_keeps_the_last() {
        let dir = tempfile::tempdir().unwrap();
        let files = files(dir.path());
        let write = |text: &str| std::fs::write(dir.path().join("credentials"), text).unwrap();
        let provider = |fresh| files.profile("work").unwrap().provider(RealWorld::host(), fresh);
        let (kept, stale) = (provider(FRESH), provider(Duration::ZERO));
        write(&CREDENTIALS.replace("AKIA", "NEW"));
        assert_eq!(kept.get_credential().await.unwrap().key_id, "AKIA", "read a moment ago");
        assert_eq!(stale.get_credential().await.unwrap().key_id, "NEW");
        write("[work");
        assert_eq!(stale.get_credential().await.unwrap().key_id, "NEW");
        assert!(!format!("{stale:?}").contains("NEW"), "{stale:?}");
    }
}
