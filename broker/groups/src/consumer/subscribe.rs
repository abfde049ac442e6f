//! Who reads which topics, and when that makes a new epoch.

use std::collections::{BTreeMap, BTreeSet};

use levee_kafka::ErrorCode;
use levee_kafka::messages::consumer_group_heartbeat_request::ConsumerGroupHeartbeatRequest;
use levee_kafka::messages::consumer_group_metadata_value::ConsumerGroupMetadataValue;
use levee_kafka::messages::consumer_group_regular_expression_value::ConsumerGroupRegularExpressionValue;
use regex::{Regex, RegexBuilder};

use super::{ConsumerGroup, Member};
use crate::api::{Caller, Refusal};
use crate::groups::Step;
use crate::records::Record;
use crate::settings::{NAME_MAX, record_bytes};
use crate::topics::Digest;

/// Memory that one compiled pattern may take.
const PATTERN_BYTES: usize = 1 << 20;

/// What a pattern matched.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Resolved {
    pub(super) topics: BTreeSet<String>,
    pub(super) version: i64,
    pub(super) timestamp: i64,
}

/// Longest pattern, bytes: what it comes to before `PATTERN_BYTES` is looked at is some thousand
/// times of it (`\w` is 800 ranges).
const PATTERN_MAX: usize = 1 << 10;

/// Most that the record of a pattern takes beside the pattern and the names of topics (the group's
/// name is one of them), and a name beside its letters.
const PATTERN_RECORD_BYTES: usize = 128 + NAME_MAX;
const NAME_BYTES: usize = 3;
/// A topic of a target, and one of its partitions.
const TOPIC_BYTES: usize = 24;
const PARTITION_BYTES: usize = 4;

/// A pattern matches whole names.
pub(super) fn compile(pattern: &str) -> Result<Regex, Refusal> {
    if pattern.len() > PATTERN_MAX {
        let bytes = pattern.len();
        let message =
            format!("SubscribedTopicRegex has {bytes} bytes; write one of {PATTERN_MAX} at most.");
        return Err(Refusal::new(ErrorCode::InvalidRegularExpression, message));
    }
    let whole = format!("^(?:{pattern})$");
    // On its own first: it may hold parentheses that only fit those around it.
    let compile = |text: &str| RegexBuilder::new(text).size_limit(PATTERN_BYTES).build();
    compile(pattern).and_then(|_| compile(&whole)).map_err(|error| {
        let message =
            format!("SubscribedTopicRegex `{pattern}` is not a valid regular expression: {error}.");
        Refusal::new(ErrorCode::InvalidRegularExpression, message)
    })
}

/// What a heartbeat says of its member, and what follows for the group.
pub(super) struct Says {
    member: Member,
    /// The member is new, or reads something else.
    changed: bool,
    /// Topics of the cluster changed since the group looked at them.
    pub(super) moved: bool,
    seen: u64,
    /// Patterns that match something else than what is known.
    matched: BTreeMap<String, BTreeSet<String>>,
}

impl ConsumerGroup {
    /// What a heartbeat would change; refused where records have no room for it.
    pub(super) fn says(
        &self,
        step: &Step<'_>,
        caller: &Caller,
        request: &ConsumerGroupHeartbeatRequest,
        before: Option<&str>,
    ) -> Result<Says, Refusal> {
        let before_id = before.unwrap_or(&request.member_id);
        let before = self.members.get(before_id);
        let mut member = before.cloned().unwrap_or_default();
        update(&mut member, caller, request);
        let changed = before.is_none_or(|b| b.topics != member.topics || b.regex != member.regex);
        let seen = step.topics.version();
        let moved = self.seen_topics != Some(seen);
        let mut says = Says { member, changed, moved, seen, matched: BTreeMap::new() };
        if before != Some(&says.member) {
            let (key, value) = says.member.to_record(&self.id, &request.member_id).encode();
            let bytes = record_bytes(&key, value.as_deref());
            within(bytes, step.settings.member_room(), "what the member subscribes to")?;
        }
        if changed || moved {
            let others = self.members.iter().filter(|(id, _)| *id != before_id);
            let mut used: BTreeSet<&String> =
                others.filter_map(|(_, member)| member.regex.as_ref()).collect();
            used.extend(&says.member.regex);
            says.matched = match self.matched(step, &used, moved) {
                // Who brings nothing new is not refused: what is known stays.
                Err(_) if !changed => BTreeMap::new(),
                matched => matched?,
            };
            let regex = says.member.regex.as_ref();
            let known = |regex| self.regexes.get(regex).map(|known| &known.topics);
            let matched = regex.and_then(|regex| says.matched.get(regex).or(known(regex)));
            let topics = says.member.topics.iter().chain(matched.into_iter().flatten());
            let bytes = target_bytes(step, &topics.cloned().collect());
            within(
                bytes,
                step.settings.target_room(),
                "the partitions that the member would read",
            )?;
        }
        Ok(says)
    }

    /// What patterns match: those that are new, and all of them where topics changed.
    fn matched(
        &self,
        step: &Step<'_>,
        used: &BTreeSet<&String>,
        all: bool,
    ) -> Result<BTreeMap<String, BTreeSet<String>>, Refusal> {
        let room = step.settings.patterns_room();
        let (mut matched, mut total) = (BTreeMap::new(), 0);
        for regex in used {
            let known = self.regexes.get(*regex).map(|known| &known.topics);
            let mut topics = BTreeSet::new();
            // What another broker could read and this one cannot stays as it is.
            let pattern = (known.is_none() || all).then(|| compile(regex));
            let Some(Ok(pattern)) = pattern else {
                total += known.map_or(0, |known| names_bytes(regex, known));
                continue;
            };
            let mut bytes = names_bytes(regex, &topics);
            step.topics.each_name(&mut |name| {
                if total + bytes <= room && pattern.is_match(name) {
                    bytes += NAME_BYTES + name.len();
                    topics.insert(name.to_owned());
                }
            });
            total += bytes;
            within(total, room, "what all patterns of the group match")?;
            if known != Some(&topics) {
                matched.insert((*regex).clone(), topics);
            }
        }
        Ok(matched)
    }

    /// Takes over what a heartbeat says of its member, who may be new.
    pub(super) fn subscribe(&mut self, step: &mut Step<'_>, id: &str, says: Says) {
        let Says { mut member, mut changed, moved, seen, matched } = says;
        let before = self.members.get(id);
        if let Some(before) = before {
            // It may have come back just now.
            (member.epoch, member.previous_epoch) = (before.epoch, before.previous_epoch);
        }
        if before != Some(&member) {
            self.write(step, member.to_record(&self.id, id));
        }
        if changed || moved {
            self.drop_unused(step);
            changed |= !matched.is_empty();
            for (regex, topics) in matched {
                let value = Some(ConsumerGroupRegularExpressionValue {
                    topics: topics.into_iter().collect(),
                    version: seen as i64,
                    timestamp: step.now,
                });
                self.write(step, Record::Regex { group: self.id.clone(), regex, value });
            }
            self.seen_topics = Some(seen);
            if changed || self.hash(step) != self.metadata_hash {
                self.bump(step);
            }
        }
    }

    /// Patterns that nobody has any more end.
    fn drop_unused(&mut self, step: &mut Step<'_>) {
        let used: BTreeSet<&String> =
            self.members.values().filter_map(|member| member.regex.as_ref()).collect();
        let unused: Vec<String> =
            self.regexes.keys().filter(|regex| !used.contains(regex)).cloned().collect();
        for regex in unused {
            self.write(step, Record::Regex { group: self.id.clone(), regex, value: None });
        }
    }

    /// Of all topics that the group reads, as they are now.
    fn hash(&self, step: &Step<'_>) -> i64 {
        let mut names = BTreeSet::new();
        self.members.values().for_each(|member| names.extend(self.topics_of(member)));
        let mut digest = Digest::new();
        for name in names {
            if let Some(topic) = step.topics.by_name(&name) {
                digest.add(name.as_bytes());
                digest.add(&topic.id.0);
                digest.add(&topic.partitions.to_be_bytes());
            }
        }
        digest.0 as i64
    }

    pub(super) fn bump(&mut self, step: &mut Step<'_>) {
        let value =
            ConsumerGroupMetadataValue { epoch: self.epoch + 1, metadata_hash: self.hash(step) };
        self.write(step, Record::Epoch { group: self.id.clone(), value: Some(value) });
    }

    /// A member is gone, and with it perhaps the last that had a pattern.
    pub(super) fn bump_without(&mut self, step: &mut Step<'_>) {
        self.drop_unused(step);
        self.bump(step);
    }
}

fn within(bytes: usize, room: usize, what: &str) -> Result<(), Refusal> {
    if bytes <= room {
        return Ok(());
    }
    let message = format!(
        "{what} takes {bytes} bytes or more in the group's log, which has room for {room}: subscribe \
         to fewer topics, or raise max.message.bytes of its topic \
         (it counts when the coordinator reads the log again)."
    );
    Err(Refusal::new(ErrorCode::InvalidRequest, message))
}

/// What the record of a pattern takes.
fn names_bytes(regex: &str, topics: &BTreeSet<String>) -> usize {
    let names: usize = topics.iter().map(|name| NAME_BYTES + name.len()).sum();
    PATTERN_RECORD_BYTES + regex.len() + names
}

/// Most that a target takes which holds all partitions of these topics.
pub(super) fn target_bytes(step: &Step<'_>, topics: &BTreeSet<String>) -> usize {
    let found = topics.iter().filter_map(|name| step.topics.by_name(name));
    found.map(|topic| TOPIC_BYTES + PARTITION_BYTES * topic.partitions.max(0) as usize).sum()
}

fn update(member: &mut Member, caller: &Caller, request: &ConsumerGroupHeartbeatRequest) {
    if request.instance_id.is_some() {
        member.instance.clone_from(&request.instance_id);
    }
    if request.rack_id.is_some() {
        member.rack.clone_from(&request.rack_id);
    }
    if request.rebalance_timeout_ms != -1 {
        member.rebalance_ms = request.rebalance_timeout_ms;
    }
    if request.server_assignor.is_some() {
        member.assignor.clone_from(&request.server_assignor);
    }
    if let Some(topics) = &request.subscribed_topic_names {
        member.topics = topics.iter().cloned().collect();
    }
    if let Some(regex) = &request.subscribed_topic_regex {
        // Empty: no longer one.
        member.regex = Some(regex.clone()).filter(|regex| !regex.is_empty());
    }
    member.client_id.clone_from(&caller.client_id);
    member.client_host.clone_from(&caller.client_host);
}
