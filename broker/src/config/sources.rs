//! Where settings come from, in order: defaults, file, environment, `--set`, direct flags.
//!
//! Owns: the order, names that nobody knows, defaults that follow from other settings. Reads
//! nothing itself: files and environment are handed in as text.

use std::path::Path;

use super::bucket_url::BucketUrl;
use super::checks;
use super::error::ConfigError;
use super::setting::{Fallback, Setting, Value};
use super::suggest::nearest;
use super::table::{BROKER_SETTINGS, BrokerConfig, TOPIC_SETTINGS};
use super::values::{Origin, Values};

/// Which defaults hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    #[default]
    Broker,
    Dev,
}

/// Everything that may hold settings.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    pub mode: Mode,
    /// Its name for messages, and its text (TOML).
    pub file: Option<(String, String)>,
    /// All environment variables; those that begin with `LEVEE_` are looked at.
    pub env: Vec<(String, String)>,
    /// `KEY=VALUE`, in order.
    pub set: Vec<String>,
    pub flags: Vec<Flag>,
}

/// A setting that has a flag of its own.
#[derive(Debug, Clone)]
pub struct Flag {
    pub flag: &'static str,
    pub setting: &'static str,
    pub value: String,
}

/// The settings, and what a person should know about them.
#[derive(Debug, Clone)]
pub struct Loaded {
    pub config: BrokerConfig,
    pub warnings: Vec<String>,
}

/// Environment variables of ours that are not settings.
const OTHER_ENV: [&str; 8] = [
    "LEVEE_CONFIG",
    "LEVEE_LOG",
    "LEVEE_BROKER",
    "LEVEE_LONG",
    "LEVEE_BLESS",
    "LEVEE_SEED",
    "LEVEE_BIN",
    "LEVEE_MINIO",
];

impl Sources {
    pub fn load(&self) -> Result<Loaded, ConfigError> {
        let mut values = Values::default();
        let mut warnings = Vec::new();
        if let Some((name, text)) = &self.file {
            for (key, value) in super::file::flatten(name, text)? {
                apply(&mut values, &key, &value, Origin::File(name.as_str().into()))?;
            }
        }
        self.load_env(&mut values, &mut warnings)?;
        for pair in &self.set {
            let Some((key, value)) = pair.split_once('=') else {
                let remedy = "write --set KEY=VALUE, like --set tail.bytes=256MiB";
                return Err(ConfigError::new(pair, Origin::Set, "has no '='", remedy));
            };
            apply(&mut values, key.trim(), value, Origin::Set)?;
        }
        for Flag { flag, setting, value } in &self.flags {
            apply(&mut values, setting, value, Origin::Flag(flag))?;
        }
        fill_defaults(&mut values, self.mode)?;
        absolute_data_dir(&mut values)?;
        derive(&mut values, self.mode)?;
        checks::broker(&values)?;
        checks::topic(&values, &values)?;
        let config = BrokerConfig::typed(values);
        Ok(Loaded { config, warnings })
    }

    /// Unknown names are only warned of: container platforms add variables of their own that
    /// begin with a service's name (`LEVEE_PORT=tcp://..`). Empty means not set.
    fn load_env(&self, values: &mut Values, warnings: &mut Vec<String>) -> Result<(), ConfigError> {
        let mut ours: Vec<_> =
            self.env.iter().filter(|(name, _)| name.starts_with("LEVEE_")).collect();
        ours.sort();
        for (name, value) in ours {
            match every_setting().find(|setting| setting.env_name() == *name) {
                Some(_) if value.is_empty() => {}
                Some(setting) => {
                    put(values, setting, value, Origin::Env(name.as_str().into()))?;
                }
                None if OTHER_ENV.contains(&name.as_str()) => {}
                None => {
                    let names: Vec<_> = every_setting().map(Setting::env_name).collect();
                    let hint = nearest(name, names.iter().map(String::as_str))
                        .map(|near| format!("; did you mean {near}?"))
                        .unwrap_or_default();
                    warnings.push(format!(
                        "environment variable {name} is not a setting and is ignored{hint}"
                    ));
                }
            }
        }
        Ok(())
    }
}

impl BrokerConfig {
    /// Defaults of `levee dev` on a data folder, with more settings by name: for tests and tools.
    pub fn dev(data_dir: &Path, set: &[(&str, &str)]) -> Result<Self, ConfigError> {
        let sources = Sources {
            mode: Mode::Dev,
            set: set.iter().map(|(key, value)| format!("{key}={value}")).collect(),
            flags: vec![Flag {
                flag: "--data",
                setting: "data.dir",
                value: data_dir.to_string_lossy().into_owned(),
            }],
            ..Sources::default()
        };
        Ok(sources.load()?.config)
    }
}

pub(super) fn every_setting() -> impl Iterator<Item = &'static Setting> {
    BROKER_SETTINGS.iter().chain(TOPIC_SETTINGS)
}

/// By its name in a broker's settings.
pub(super) fn find(name: &str) -> Result<&'static Setting, Option<String>> {
    let found = every_setting().find(|setting| setting.broker_name() == name);
    found.ok_or_else(|| {
        let names: Vec<_> = every_setting().map(Setting::broker_name).collect();
        let of_topic = format!("topic.{name}");
        match names.contains(&of_topic) {
            true => Some(of_topic),
            false => nearest(name, names.iter().map(String::as_str)).map(str::to_owned),
        }
    })
}

fn apply(values: &mut Values, key: &str, text: &str, origin: Origin) -> Result<(), ConfigError> {
    match find(key) {
        Ok(setting) => put(values, setting, text, origin),
        Err(near) => Err(ConfigError::unknown(key, origin, near)),
    }
}

pub(super) fn put(
    values: &mut Values,
    setting: &'static Setting,
    text: &str,
    origin: Origin,
) -> Result<(), ConfigError> {
    match setting.parse(text) {
        Ok(value) => {
            values.put(setting, value, origin);
            Ok(())
        }
        Err(problem) => Err(ConfigError::bad_value(setting, text, origin, problem)),
    }
}

fn fill_defaults(values: &mut Values, mode: Mode) -> Result<(), ConfigError> {
    for setting in every_setting() {
        let text = match setting.default {
            _ if values.get(setting.name).is_some() => continue,
            Fallback::Fixed(text) => text,
            Fallback::ByMode { broker, .. } if mode == Mode::Broker => broker,
            Fallback::ByMode { dev, .. } => dev,
            Fallback::Derived(_) => continue,
        };
        put(values, setting, text, Origin::Default)?;
    }
    Ok(())
}

/// So that neither a URL made from it nor a later change of folder can mean another place.
fn absolute_data_dir(values: &mut Values) -> Result<(), ConfigError> {
    let held = values.held("data.dir").clone();
    let Value::Text(text) = &held.value else { return Ok(()) };
    let failed = |why: String| {
        let remedy = "name an absolute path";
        ConfigError::new("data.dir", held.origin.clone(), why, remedy)
    };
    let path = std::path::absolute(text).map_err(|error| failed(error.to_string()))?;
    let Ok(path) = path.into_os_string().into_string() else {
        return Err(failed("the current folder's name is not UTF-8".into()));
    };
    values.put(held.setting, Value::Text(path), held.origin.clone());
    Ok(())
}

/// Gives every `Fallback::Derived` that nobody set its value.
fn derive(values: &mut Values, mode: Mode) -> Result<(), ConfigError> {
    if values.get("bucket.url").is_none() {
        if mode == Mode::Broker {
            let remedy = "set it to s3://BUCKET/PREFIX, gs://.., az://.. or file:///DIR";
            return Err(ConfigError::new("bucket.url", Origin::Default, "is not set", remedy));
        }
        let Value::Text(dir) = &values.held("data.dir").value else { return Ok(()) };
        let url = BucketUrl::folder(&Path::new(dir).join("bucket"));
        default_to(values, "bucket.url", Value::Url(url));
    }
    let near = matches!(&values.held("bucket.url").value, Value::Url(url) if url.is_near());
    let linger = std::time::Duration::from_millis(if near { 5 } else { 100 });
    default_to(values, "object.lane.linger", Value::Duration(linger));
    for (name, from) in
        [("segment.bytes", "hot.segment.bytes"), ("max.message.bytes", "max.batch.bytes")]
    {
        let value = values.held(from).value.clone();
        default_to(values, name, value);
    }
    Ok(())
}

fn default_to(values: &mut Values, name: &str, value: Value) {
    if values.get(name).is_none() {
        let setting = every_setting().find(|setting| setting.name == name);
        values.put(setting.expect("a name of the table"), value, Origin::Default);
    }
}
