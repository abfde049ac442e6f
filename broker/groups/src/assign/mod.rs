//! How the partitions of topics are spread over the members of a consumer group.
//!
//! Owns: the assignors of the coordinator. They are functions: the same question, the same answer.

mod range;
#[cfg(test)]
mod tests;
mod uniform;

use std::collections::{BTreeMap, BTreeSet};

use levee_kafka::Uuid;

use crate::consumer::Assignment;

/// Names of the assignors; the first one is taken where no member asks for one.
pub(crate) const ASSIGNORS: [&str; 2] = ["uniform", "range"];

/// What is to be assigned.
#[derive(Debug, Default)]
pub(crate) struct Spec {
    /// How many partitions each topic has.
    pub(crate) topics: BTreeMap<Uuid, i32>,
    pub(crate) members: BTreeMap<String, Asks>,
}

/// One member.
#[derive(Debug, Default)]
pub(crate) struct Asks {
    pub(crate) instance: Option<String>,
    /// It reads these; all are in [`Spec::topics`].
    pub(crate) topics: BTreeSet<Uuid>,
    /// The target before.
    pub(crate) has: Assignment,
}

impl Spec {
    fn partitions(&self, topic: Uuid) -> i32 {
        self.topics.get(&topic).copied().unwrap_or(0)
    }

    /// Who reads each topic, in the order of ids; topics that nobody reads are left out.
    fn readers(&self) -> BTreeMap<Uuid, Vec<&str>> {
        let mut readers: BTreeMap<Uuid, Vec<&str>> = BTreeMap::new();
        for (id, member) in &self.members {
            for topic in &member.topics {
                readers.entry(*topic).or_default().push(id);
            }
        }
        readers
    }
}

/// A target for every member.
pub(crate) fn assign(assignor: &str, spec: &Spec) -> BTreeMap<String, Assignment> {
    match assignor {
        "range" => range::assign(spec),
        _ => uniform::assign(spec),
    }
}
