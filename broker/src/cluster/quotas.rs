//! Quotas: how much of this cluster a user, a client or an address may use.
//!
//! Owns: names, values and bounds, their place among the settings of the cluster, what a change
//! commits. Does not own: Kafka's way to ask (`kafka::quotas`). Nothing is held to them yet.
//!
//! One entity is one setting: `quota/client-id=a&user=` = `producer_byte_rate=1048576`. An empty
//! name stands for every name that has no quota of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use levee_proto::metalog::{ClusterConfig, Record};
use levee_tiering::metalog::MetaState;
use url::form_urlencoded::{Serializer, parse};

use super::message::Answer;
use crate::error::Error;

/// What these settings begin with.
const PREFIX: &str = "quota/";
/// Entities with quotas; each takes memory in every broker, and bytes in every snapshot.
const ENTITIES_MAX: usize = 10_000;
/// Length of a name: distinguished names of certificates are long.
const NAME_BYTES_MAX: usize = 1024;

/// Whose quota. The order is that in which they are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    ClientId,
    Ip,
    User,
}

impl Kind {
    const ALL: [Self; 3] = [Self::ClientId, Self::Ip, Self::User];

    pub fn name(self) -> &'static str {
        match self {
            Self::ClientId => "client-id",
            Self::Ip => "ip",
            Self::User => "user",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// Names of one entity; none: everybody who has no quota of their own.
pub type Entity = BTreeMap<Kind, Option<String>>;

/// Limits of one entity, by name.
pub type Limits = BTreeMap<String, f64>;

/// A change of one entity.
#[derive(Debug, Clone)]
pub struct QuotaChange {
    pub entity: Entity,
    pub set: Limits,
    /// What is not there may be removed, too.
    pub remove: BTreeSet<String>,
}

/// Names of limits, and whether they are whole numbers.
const OF_CLIENTS: [(&str, bool); 4] = [
    ("consumer_byte_rate", true),
    ("controller_mutation_rate", false),
    ("producer_byte_rate", true),
    ("request_percentage", false),
];
const OF_ADDRESSES: [(&str, bool); 1] = [("connection_creation_rate", true)];

/// All entities that have limits.
pub fn all(state: &MetaState) -> impl Iterator<Item = (Entity, Limits)> {
    stored(state).filter_map(|(key, value)| Some((entity_of(key)?, limits_of(value))))
}

fn stored(state: &MetaState) -> impl Iterator<Item = (&str, &str)> {
    let from = state.config.range(PREFIX.to_owned()..);
    from.map_while(|(key, value)| Some((key.strip_prefix(PREFIX)?, value.as_str())))
}

/// The records that make a change, or why it cannot be.
pub fn decide(state: &MetaState, change: &QuotaChange) -> Result<(Vec<Record>, Answer), Error> {
    check(change).map_err(Error::invalid_argument)?;
    let key = format!("{PREFIX}{}", text_of_entity(&change.entity));
    let old = state.config.get(&key);
    if old.is_none() && !change.set.is_empty() && stored(state).count() >= ENTITIES_MAX {
        let why = format!("{ENTITIES_MAX} entities have quotas, which is the most: remove some");
        return Err(Error::invalid_argument(why));
    }
    let mut limits = old.map_or_else(Limits::new, |old| limits_of(old));
    limits.retain(|name, _| !change.remove.contains(name));
    limits.extend(change.set.clone());
    let new = text_of_limits(&limits);
    let (mut set, mut remove) = (BTreeMap::new(), Vec::new());
    match (old, limits.is_empty()) {
        (None, true) => return Ok((Vec::new(), Answer::Done)),
        (Some(old), false) if *old == new => return Ok((Vec::new(), Answer::Done)),
        (_, false) => drop(set.insert(key, new)),
        (Some(_), true) => remove.push(key),
    }
    Ok((vec![ClusterConfig { set, remove }.into()], Answer::Done))
}

fn check(change: &QuotaChange) -> Result<(), String> {
    let QuotaChange { entity, set, remove } = change;
    if entity.is_empty() {
        return Err("whose quota? Name a user, a client-id or an ip".into());
    }
    if entity.len() > 1 && entity.contains_key(&Kind::Ip) {
        return Err("an ip has quotas of its own, without a user or a client-id".into());
    }
    for (kind, name) in entity {
        check_name(*kind, name.as_deref())?;
    }
    let known: &[_] = if entity.contains_key(&Kind::Ip) { &OF_ADDRESSES } else { &OF_CLIENTS };
    for name in set.keys().chain(remove) {
        if !known.iter().any(|(known, _)| known == name) {
            let names: Vec<_> = known.iter().map(|(name, _)| *name).collect();
            return Err(format!("no limit is named {name:?} here: {}", names.join(", ")));
        }
    }
    for (name, value) in set {
        check_value(name, *value, known.contains(&(name, true)))?;
    }
    Ok(())
}

fn check_name(kind: Kind, name: Option<&str>) -> Result<(), String> {
    let Some(name) = name else { return Ok(()) };
    let what = kind.name();
    if !(1..=NAME_BYTES_MAX).contains(&name.len()) {
        return Err(format!("{what}: a name has 1 to {NAME_BYTES_MAX} bytes, not {}", name.len()));
    }
    if kind == Kind::Ip && name.parse::<IpAddr>().is_err() {
        return Err(format!("ip {name:?} is no address, as 192.0.2.1 or 2001:db8::1 are"));
    }
    Ok(())
}

fn check_value(name: &str, value: f64, whole: bool) -> Result<(), String> {
    if !value.is_finite() || value <= 0.0 {
        return Err(format!("{name}={value}: it must be above 0, and finite"));
    }
    if whole && (value.fract() != 0.0 || value > i64::MAX as f64) {
        return Err(format!("{name}={value}: it must be a whole number"));
    }
    Ok(())
}

fn text_of_entity(entity: &Entity) -> String {
    let pairs = entity.iter().map(|(kind, name)| (kind.name(), name.as_deref().unwrap_or("")));
    Serializer::new(String::new()).extend_pairs(pairs).finish()
}

/// Nothing for what another release wrote.
fn entity_of(text: &str) -> Option<Entity> {
    let mut entity = Entity::new();
    for (kind, name) in parse(text.as_bytes()) {
        let name = Some(name.into_owned()).filter(|name| !name.is_empty());
        entity.insert(Kind::from_name(&kind)?, name);
    }
    Some(entity)
}

fn text_of_limits(limits: &Limits) -> String {
    let pairs = limits.iter().map(|(name, value)| (name, value.to_string()));
    Serializer::new(String::new()).extend_pairs(pairs).finish()
}

fn limits_of(text: &str) -> Limits {
    let pairs = parse(text.as_bytes());
    pairs.filter_map(|(name, value)| Some((name.into_owned(), value.parse().ok()?))).collect()
}

#[cfg(test)]
mod tests {
    use levee_proto::ids::Nonce;

    use super::*;

    fn entity(names: &[(Kind, Option<&str>)]) -> Entity {
        names.iter().map(|(kind, name)| (*kind, name.map(str::to_owned))).collect()
    }

    fn change(names: &[(Kind, Option<&str>)], set: &[(&str, f64)], remove: &[&str]) -> QuotaChange {
        QuotaChange {
            entity: entity(names),
            set: set.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect(),
            remove: remove.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    fn commit(state: &mut MetaState, change: &QuotaChange) -> usize {
        let (records, _) = decide(state, change).unwrap();
        records.iter().for_each(|record| state.apply(state.head + 1, record).unwrap());
        records.len()
    }

    #[test]
    fn limits_come_and_go_and_every_name_comes_back_as_it_was() {
        let mut state = MetaState::new(Nonce(1));
        let strange = [(Kind::User, Some("a&b=c/ü %")), (Kind::ClientId, None)];
        let rates = [("producer_byte_rate", 1e15), ("request_percentage", 0.1)];
        assert_eq!(commit(&mut state, &change(&strange, &rates, &[])), 1);
        assert_eq!(commit(&mut state, &change(&strange, &rates, &[])), 0, "nothing new");
        let only = all(&state).next().unwrap();
        assert_eq!(only.0, entity(&strange));
        assert_eq!(only.1, change(&strange, &rates, &[]).set);
        commit(&mut state, &change(&strange, &[], &["producer_byte_rate"]));
        assert_eq!(all(&state).next().unwrap().1.len(), 1);
        commit(&mut state, &change(&strange, &[], &["request_percentage"]));
        assert_eq!((all(&state).count(), state.config.len()), (0, 0));
        assert_eq!(commit(&mut state, &change(&strange, &[], &["request_percentage"])), 0);
    }

    #[test]
    fn what_is_no_quota_is_refused() {
        let user: &[(Kind, Option<&str>)] = &[(Kind::User, Some("a"))];
        let ip = |name| [(Kind::Ip, Some(name))];
        let long = "x".repeat(NAME_BYTES_MAX + 1);
        let state = MetaState::new(Nonce(1));
        for (bad, why) in [
            (change(&[], &[], &[]), "whose"),
            (change(&[(Kind::User, Some(""))], &[], &[]), "1 to 1024"),
            (change(&[(Kind::User, Some(&long))], &[], &[]), "1 to 1024"),
            (change(&ip("host"), &[], &[]), "no address"),
            (change(&[(Kind::User, None), (Kind::Ip, None)], &[], &[]), "of its own"),
            (change(user, &[("connection_creation_rate", 1.0)], &[]), "no limit"),
            (change(user, &[], &["other"]), "no limit"),
            (change(&ip("::1"), &[("producer_byte_rate", 1.0)], &[]), "no limit"),
            (change(user, &[("producer_byte_rate", 0.0)], &[]), "above 0"),
            (change(user, &[("producer_byte_rate", f64::NAN)], &[]), "above 0"),
            (change(user, &[("request_percentage", f64::INFINITY)], &[]), "above 0"),
            (change(user, &[("producer_byte_rate", 1.5)], &[]), "whole"),
            (change(user, &[("producer_byte_rate", 1e300)], &[]), "whole"),
        ] {
            let error = decide(&state, &bad).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn there_is_a_most_of_entities() {
        let mut state = MetaState::new(Nonce(1));
        let of =
            |name: &str| change(&[(Kind::User, Some(name))], &[("request_percentage", 1.0)], &[]);
        for n in 0..ENTITIES_MAX {
            commit(&mut state, &of(&n.to_string()));
        }
        assert!(decide(&state, &of("one more")).is_err());
        let other = change(&[(Kind::User, Some("7"))], &[("request_percentage", 2.0)], &[]);
        assert_eq!(commit(&mut state, &other), 1, "those that are there can be changed");
    }
}
