//! DescribeClientQuotas and AlterClientQuotas (KIP-546).
//!
//! Quotas are kept and shown; nothing is held to them yet.

use std::collections::{BTreeMap, BTreeSet};

use futures::StreamExt;
use levee_kafka::ErrorCode;
use levee_kafka::messages::alter_client_quotas_request as alter_request;
use levee_kafka::messages::alter_client_quotas_request::AlterClientQuotasRequest;
use levee_kafka::messages::alter_client_quotas_response as alter_response;
use levee_kafka::messages::alter_client_quotas_response::AlterClientQuotasResponse;
use levee_kafka::messages::describe_client_quotas_request::{
    ComponentData, DescribeClientQuotasRequest,
};
use levee_kafka::messages::describe_client_quotas_response::{
    DescribeClientQuotasResponse, EntityData, EntryData, ValueData,
};

use super::{Ask, code};
use crate::cluster::message::Request;
use crate::cluster::quotas::{self, Entity, Kind, QuotaChange};

/// Changes of one request that go to the controller together: they share its slots.
const AT_ONCE: usize = 64;

/// A refusal: Kafka's code, and a text for people.
type Refused = (ErrorCode, String);

fn invalid(why: impl Into<String>) -> Refused {
    (ErrorCode::InvalidRequest, why.into())
}

/// What a filter wants of one kind of name.
enum Wanted {
    Name(String),
    Default,
    Any,
}

impl Wanted {
    fn is(&self, name: Option<&str>) -> bool {
        match self {
            Self::Name(wanted) => name == Some(wanted),
            Self::Default => name.is_none(),
            Self::Any => true,
        }
    }
}

pub(super) async fn describe(
    ask: &Ask,
    request: DescribeClientQuotasRequest,
) -> DescribeClientQuotasResponse {
    let filter = match filter(request.components) {
        Ok(filter) => filter,
        Err((code, message)) => {
            return DescribeClientQuotasResponse {
                error_code: code.into(),
                error_message: Some(message),
                entries: None,
                ..Default::default()
            };
        }
    };
    // Strict: an entity has the kinds of names that the filter speaks of, and no other.
    let is_wanted = |entity: &Entity| {
        (!request.strict || entity.len() == filter.len())
            && filter.iter().all(|(kind, wanted)| {
                entity.get(kind).is_some_and(|name| wanted.is(name.as_deref()))
            })
    };
    let state = ask.node().view.read();
    let entries = quotas::all(&state).filter(|(entity, _)| is_wanted(entity));
    let entries = entries.map(|(entity, limits)| EntryData {
        entity: entity
            .into_iter()
            .map(|(kind, entity_name)| EntityData {
                entity_type: kind.name().to_owned(),
                entity_name,
            })
            .collect(),
        values: limits.into_iter().map(|(key, value)| ValueData { key, value }).collect(),
    });
    DescribeClientQuotasResponse { entries: Some(entries.collect()), ..Default::default() }
}

fn filter(components: Vec<ComponentData>) -> Result<BTreeMap<Kind, Wanted>, Refused> {
    const EXACT: i8 = 0;
    const DEFAULT: i8 = 1;
    const ANY: i8 = 2;
    let mut filter = BTreeMap::new();
    for ComponentData { entity_type, match_type, matches } in components {
        let Some(kind) = Kind::from_name(&entity_type) else {
            let why =
                format!("Unsupported entity type {entity_type:?}: user, client-id and ip are");
            return Err((ErrorCode::UnsupportedVersion, why));
        };
        let wanted = match (match_type, matches) {
            (EXACT, Some(name)) => Wanted::Name(name),
            (EXACT, None) => return Err(invalid(format!("{entity_type}: which name exactly?"))),
            (DEFAULT, None) => Wanted::Default,
            (ANY, None) => Wanted::Any,
            (DEFAULT | ANY, Some(_)) => {
                return Err(invalid(format!(
                    "{entity_type}: a name is for exact matches (0) only"
                )));
            }
            (other, _) => return Err(invalid(format!("{entity_type}: no match type {other}"))),
        };
        if filter.insert(kind, wanted).is_some() {
            return Err(invalid(format!("{entity_type} is in the filter more than once")));
        }
    }
    if filter.len() > 1 && filter.contains_key(&Kind::Ip) {
        return Err(invalid("an ip has quotas of its own, without a user or a client-id"));
    }
    Ok(filter)
}

pub(super) async fn alter(
    ask: &Ask,
    request: AlterClientQuotasRequest,
) -> AlterClientQuotasResponse {
    let validate_only = request.validate_only;
    let one = async |entry: alter_request::EntryData| {
        let entity = entry.entity.iter().map(|named| alter_response::EntityData {
            entity_type: named.entity_type.clone(),
            entity_name: named.entity_name.clone(),
        });
        let entity = entity.collect();
        let (error_code, error_message) = match alter_one(ask, entry, validate_only).await {
            Ok(()) => (0, None),
            Err((code, message)) => (code.into(), Some(message)),
        };
        alter_response::EntryData { error_code, error_message, entity }
    };
    let entries = futures::stream::iter(request.entries).map(one).buffered(AT_ONCE);
    AlterClientQuotasResponse { entries: entries.collect().await, ..Default::default() }
}

async fn alter_one(
    ask: &Ask,
    entry: alter_request::EntryData,
    validate_only: bool,
) -> Result<(), Refused> {
    let change = change_of(entry)?;
    let done = match validate_only {
        true => quotas::decide(&ask.node().view.read(), &change).map(drop),
        false => ask.node().commit(Request::AlterQuotas(change)).await.map(drop),
    };
    done.map_err(|error| (code(&error), error.to_string()))
}

fn change_of(entry: alter_request::EntryData) -> Result<QuotaChange, Refused> {
    let mut entity = Entity::new();
    for named in entry.entity {
        let kind = Kind::from_name(&named.entity_type).ok_or_else(|| {
            invalid(format!("no entity type {:?}: user, client-id and ip are", named.entity_type))
        })?;
        if entity.insert(kind, named.entity_name).is_some() {
            return Err(invalid(format!("{} is named more than once", kind.name())));
        }
    }
    let (mut set, mut remove) = (BTreeMap::new(), BTreeSet::new());
    for op in entry.ops {
        if set.contains_key(&op.key) || remove.contains(&op.key) {
            return Err(invalid(format!("{} is changed more than once", op.key)));
        }
        match op.remove {
            true => drop(remove.insert(op.key)),
            false => drop(set.insert(op.key, op.value)),
        }
    }
    Ok(QuotaChange { entity, set, remove })
}
