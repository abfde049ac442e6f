//! Topics: create, alter, delete; checked here, committed by the controller.

use std::collections::BTreeMap;

use levee_proto::ids::TopicId;
use levee_proto::limits::{PARTITIONS_PER_TOPIC_MAX, TOPIC_NAME_CHARS_MAX};

use crate::cluster::message::{Answer, Request};
use crate::config::TopicConfig;
use crate::error::{Error, Result};
use crate::node::Node;

/// Stored with every topic, so that another default never changes what acks of old topics promise.
const CLASS: &str = "durability.class";

/// Topics in which Levee keeps what it must remember of groups and transactions.
pub const OFFSETS_TOPIC: &str = "__consumer_offsets";
pub const TRANSACTIONS_TOPIC: &str = "__transaction_state";

/// Kafka's clients leave these out when they subscribe by pattern.
pub fn is_internal(name: &str) -> bool {
    name == OFFSETS_TOPIC || name == TRANSACTIONS_TOPIC
}

type Settings = BTreeMap<String, String>;

impl Node {
    /// `partitions`: 0 for this broker's default.
    pub async fn create_topic(
        &self,
        name: &str,
        partitions: u32,
        set: Settings,
    ) -> Result<TopicId> {
        let (partitions, settings) = self.check_topic(name, partitions, &set)?;
        let mut config = settings.stored();
        config.insert(CLASS.to_owned(), settings.durability_class.name().to_owned());
        let name = name.to_owned();
        topic_of(self.commit(Request::CreateTopic { name, partitions, config }).await?)
    }

    /// What a topic would be, if it can be one.
    pub fn check_topic(
        &self,
        name: &str,
        partitions: u32,
        set: &Settings,
    ) -> Result<(u32, TopicConfig)> {
        check_name(name)?;
        let partitions = match partitions {
            0 => self.config.default_partitions,
            given => given,
        };
        check_partitions(partitions)?;
        Ok((partitions, TopicConfig::resolve(set, &self.config)?))
    }

    /// Whether a setting is stored with every topic and cannot be taken away.
    pub fn always_has(name: &str) -> bool {
        name == CLASS
    }

    /// What `alter_topic` would refuse of these settings.
    pub fn check_alter(&self, name: &str, set: Settings, remove: &[String]) -> Result<()> {
        self.altered(name, set, remove).map(drop)
    }

    /// Changes settings, and adds partitions (0: none).
    pub async fn alter_topic(
        &self,
        name: &str,
        set: Settings,
        remove: Vec<String>,
        partitions: u32,
    ) -> Result<()> {
        let (topic, known, set) = self.altered(name, set, &remove)?;
        if partitions != 0 {
            check_partitions(partitions)?;
            if partitions < known {
                let why =
                    format!("topic {name:?} has {known} partitions; they are only ever added");
                return Err(Error::invalid_argument(why));
            }
        }
        let request = Request::AlterTopic { topic, set, remove, partitions };
        self.commit(request).await.map(drop)
    }

    /// The topic, its partitions, and the new settings as they are stored: canonical texts.
    fn altered(
        &self,
        name: &str,
        set: Settings,
        remove: &[String],
    ) -> Result<(TopicId, u32, Settings)> {
        let (topic, known, mut whole) = {
            let state = self.view.read();
            let known = state.topic_named(name).ok_or_else(|| Error::unknown_topic(name))?;
            (known.id, known.partitions, known.config.clone())
        };
        if remove.iter().any(|key| key == CLASS) {
            let why = format!("{CLASS} always has a value: set it to object or local");
            return Err(Error::invalid_argument(why));
        }
        // A name that another release knew may be stored, and can go.
        for key in remove.iter().filter(|key| !whole.contains_key(*key)) {
            TopicConfig::check_name(key)?;
        }
        whole.extend(set.clone());
        remove.iter().for_each(|key| drop(whole.remove(key)));
        let settings = TopicConfig::resolve(&whole, &self.config)?.stored();
        let set =
            set.into_keys().filter_map(|key| Some((key.clone(), settings.get(&key)?.clone())));
        Ok((topic, known, set.collect()))
    }

    /// Returns the id and when its data may go, milliseconds since 1970.
    pub async fn delete_topic_named(&self, name: &str) -> Result<(TopicId, i64)> {
        let topic = {
            let state = self.view.read();
            state.topic_named(name).ok_or_else(|| Error::unknown_topic(name))?.id
        };
        self.commit(Request::DeleteTopic { topic }).await?;
        let state = self.view.read();
        let deleted = state.topics.get(&topic).and_then(|t| t.deleted_ms);
        let delay = self.config.delete_delay.as_millis() as i64;
        Ok((topic, deleted.unwrap_or_default().saturating_add(delay)))
    }
}

fn topic_of(answer: Answer) -> Result<TopicId> {
    match answer {
        Answer::Topic(topic) => Ok(topic),
        other => Err(Error::internal(format!("creating a topic gave {other:?}"))),
    }
}

pub(crate) fn check_name(name: &str) -> Result<()> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let fits = (1..=TOPIC_NAME_CHARS_MAX).contains(&name.len()) && name.chars().all(legal);
    if fits && name != "." && name != ".." {
        return Ok(());
    }
    Err(Error::invalid_argument(format!(
        "topic name {name:?}: use 1 to {TOPIC_NAME_CHARS_MAX} of a-z, A-Z, 0-9, '.', '_' and '-'"
    )))
}

fn check_partitions(partitions: u32) -> Result<()> {
    if (1..=PARTITIONS_PER_TOPIC_MAX).contains(&partitions) {
        return Ok(());
    }
    Err(Error::invalid_argument(format!(
        "{partitions} partitions: a topic has 1 to {PARTITIONS_PER_TOPIC_MAX}"
    )))
}
