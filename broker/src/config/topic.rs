//! The settings of one topic: what it sets itself over what its broker says.

use std::collections::BTreeMap;

use super::checks;
use super::choices::LocalFlush;
use super::error::ConfigError;
use super::setting::{Kind, Scope, Setting, Value};
use super::sources::put;
use super::suggest::nearest;
use super::table::{BROKER_SETTINGS, BrokerConfig, TOPIC_SETTINGS, TopicConfig};
use super::values::{Origin, Values};

/// One line of a topic's settings, for `DescribeTopic`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicEntry {
    pub name: &'static str,
    pub value: String,
    /// Not set on the topic itself.
    pub is_default: bool,
    pub kind: Kind,
    pub doc: &'static str,
}

impl BrokerConfig {
    /// Every setting of the broker, its value as text, and whether nobody set it. Never shows
    /// secrets.
    pub fn entries(&self) -> Vec<(&'static Setting, String, bool)> {
        let entry = |held: &super::values::Held| {
            let is_default = held.origin == Origin::Default;
            (held.setting, shown(held.setting, &held.value), is_default)
        };
        self.values.iter().map(entry).collect()
    }
}

/// As a plain number where it is one: programs read it.
fn shown(setting: &Setting, value: &Value) -> String {
    match value.number() {
        Some(number) => number.to_string(),
        None => setting.show(value),
    }
}

impl TopicConfig {
    /// Whether acks may come before the sync of the local WAL.
    pub fn lazy_sync(&self) -> bool {
        self.local_flush == LocalFlush::Interval
    }

    /// Checks what somebody wants to set, whole: names, values, and what must hold between them.
    pub fn resolve(
        set: &BTreeMap<String, String>,
        broker: &BrokerConfig,
    ) -> Result<Self, ConfigError> {
        let mut values = defaults(broker);
        for (name, text) in set {
            put_topic(&mut values, name, text)?;
        }
        checks::topic(&values, &broker.values)?;
        Ok(Self::typed(values))
    }

    /// Whether there is such a setting.
    pub fn check_name(name: &str) -> Result<(), ConfigError> {
        find(name).map(drop)
    }

    /// For settings that are committed already: one that this broker cannot hold (another
    /// release, other bounds) falls back to its default and is reported, so that the topic
    /// still serves.
    pub fn resolve_stored(
        set: &BTreeMap<String, String>,
        broker: &BrokerConfig,
    ) -> (Self, Vec<ConfigError>) {
        let mut values = defaults(broker);
        let mut refused = Vec::new();
        for (name, text) in set {
            let mut with = values.clone();
            match put_topic(&mut with, name, text) {
                Ok(()) => values = with,
                Err(error) => refused.push(error),
            }
        }
        if let Err(error) = checks::topic(&values, &broker.values) {
            refused.push(error);
            values = without_conflicts(values, broker);
        }
        (Self::typed(values), refused)
    }

    /// What the topic sets itself, as it is stored: canonical texts.
    pub fn stored(&self) -> BTreeMap<String, String> {
        let own = self.entries().into_iter().filter(|entry| !entry.is_default);
        own.map(|entry| (entry.name.to_owned(), entry.value)).collect()
    }

    /// All settings in the order of the table.
    pub fn entries(&self) -> Vec<TopicEntry> {
        let entry = |setting: &'static Setting| {
            let held = self.values.held(setting.name);
            let value = setting.show(&held.value);
            let is_default = held.origin != Origin::Topic;
            let (name, kind, doc) = (setting.name, setting.kind, setting.doc);
            TopicEntry { name, value, is_default, kind, doc }
        };
        TOPIC_SETTINGS.iter().map(entry).collect()
    }
}

fn defaults(broker: &BrokerConfig) -> Values {
    let mut values = Values::default();
    for held in broker.values.iter().filter(|held| held.setting.scope == Scope::Topic) {
        values.put(held.setting, held.value.clone(), held.origin.clone());
    }
    values
}

fn put_topic(values: &mut Values, name: &str, text: &str) -> Result<(), ConfigError> {
    put(values, find(name)?, text, Origin::Topic)
}

fn find(name: &str) -> Result<&'static Setting, ConfigError> {
    if let Some(setting) = TOPIC_SETTINGS.iter().find(|setting| setting.name == name) {
        return Ok(setting);
    }
    if BROKER_SETTINGS.iter().any(|setting| setting.name == name) {
        let remedy = "set it on the broker (file, environment or --set)";
        let problem = "is a setting of the broker, not of a topic";
        return Err(ConfigError::new(name, Origin::Topic, problem, remedy));
    }
    let near = nearest(name, TOPIC_SETTINGS.iter().map(|setting| setting.name));
    Err(ConfigError::unknown(name, Origin::Topic, near.map(str::to_owned)))
}

/// Takes the topic's own settings in one by one and leaves out those that conflict.
fn without_conflicts(wanted: Values, broker: &BrokerConfig) -> Values {
    let mut values = defaults(broker);
    for held in wanted.iter().filter(|held| held.origin == Origin::Topic) {
        let mut with = values.clone();
        with.put(held.setting, held.value.clone(), Origin::Topic);
        if checks::topic(&with, &broker.values).is_ok() {
            values = with;
        }
    }
    values
}
