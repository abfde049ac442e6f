//! The topics of the cluster, as the caller knows them.

use std::collections::BTreeMap;

use levee_kafka::Uuid;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Topic {
    pub id: Uuid,
    /// How many; they are numbered from 0.
    pub partitions: i32,
}

pub trait Topics {
    /// Another number whenever a topic was made, deleted or given partitions.
    fn version(&self) -> u64;
    fn by_name(&self, name: &str) -> Option<Topic>;
    fn name_of(&self, id: Uuid) -> Option<String>;
    /// Calls `each` with every name that a pattern may match (no internal topics, nothing that the
    /// members may not see).
    fn each_name(&self, each: &mut dyn FnMut(&str));
}

/// Topics in a map: for tests, and for callers with few of them. The version is a digest of all.
impl Topics for BTreeMap<String, Topic> {
    fn version(&self) -> u64 {
        let mut digest = Digest::new();
        for (name, topic) in self {
            digest.add(name.as_bytes());
            digest.add(&topic.id.0);
            digest.add(&topic.partitions.to_be_bytes());
        }
        digest.0
    }

    fn by_name(&self, name: &str) -> Option<Topic> {
        self.get(name).copied()
    }

    fn name_of(&self, id: Uuid) -> Option<String> {
        self.iter().find(|(_, topic)| topic.id == id).map(|(name, _)| name.clone())
    }

    fn each_name(&self, each: &mut dyn FnMut(&str)) {
        self.keys().for_each(|name| each(name));
    }
}

/// FNV-1a over 64 bits: the same on every broker, which the hasher of the standard library need
/// not be.
pub(crate) struct Digest(pub(crate) u64);

impl Digest {
    pub(crate) fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    /// Parts are told apart by their lengths.
    pub(crate) fn add(&mut self, part: &[u8]) {
        for byte in (part.len() as u64).to_be_bytes().iter().chain(part) {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}
