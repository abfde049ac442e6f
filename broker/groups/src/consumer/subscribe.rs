//! Who reads which topics, and when that makes a new epoch.

use std::collections::BTreeSet;

use levee_kafka::ErrorCode;
use levee_kafka::messages::consumer_group_heartbeat_request::ConsumerGroupHeartbeatRequest;
use levee_kafka::messages::consumer_group_metadata_value::ConsumerGroupMetadataValue;
use levee_kafka::messages::consumer_group_regular_expression_value::ConsumerGroupRegularExpressionValue;
use regex::{Regex, RegexBuilder};

use super::{ConsumerGroup, Member};
use crate::api::{Caller, Refusal};
use crate::groups::Step;
use crate::records::Record;
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

impl ConsumerGroup {
    /// Takes over what a heartbeat says of its member, who may be new.
    pub(super) fn subscribe(
        &mut self,
        step: &mut Step<'_>,
        caller: &Caller,
        request: &ConsumerGroupHeartbeatRequest,
    ) {
        let id = &request.member_id;
        let before = self.members.get(id).cloned();
        let mut member = before.clone().unwrap_or_default();
        update(&mut member, caller, request);
        let mut changed =
            before.as_ref().is_none_or(|b| b.topics != member.topics || b.regex != member.regex);
        if before.as_ref() != Some(&member) {
            self.write(step, member.to_record(&self.id, id));
        }
        let seen = step.topics.version();
        let moved = self.seen_topics != Some(seen);
        if changed || moved {
            changed |= self.resolve(step, moved);
            self.seen_topics = Some(seen);
            if changed || self.hash(step) != self.metadata_hash {
                self.bump(step);
            }
        }
    }

    /// Patterns that are new are matched, and all of them where topics changed; those that nobody
    /// has any more end. Did it change what somebody reads?
    fn resolve(&mut self, step: &mut Step<'_>, all: bool) -> bool {
        let used: BTreeSet<String> =
            self.members.values().filter_map(|member| member.regex.clone()).collect();
        let unused: Vec<String> =
            self.regexes.keys().filter(|regex| !used.contains(*regex)).cloned().collect();
        for regex in unused {
            self.write(step, Record::Regex { group: self.id.clone(), regex, value: None });
        }
        let mut changed = false;
        for regex in used {
            let known = self.regexes.get(&regex);
            if known.is_some() && !all {
                continue;
            }
            // What another broker could read and this one cannot stays as it is.
            let Ok(pattern) = compile(&regex) else { continue };
            let mut topics = BTreeSet::new();
            step.topics.each_name(&mut |name| {
                if pattern.is_match(name) {
                    topics.insert(name.to_owned());
                }
            });
            if known.is_some_and(|known| known.topics == topics) {
                continue;
            }
            changed = true;
            let value = Some(ConsumerGroupRegularExpressionValue {
                topics: topics.into_iter().collect(),
                version: step.topics.version() as i64,
                timestamp: step.now,
            });
            self.write(step, Record::Regex { group: self.id.clone(), regex, value });
        }
        changed
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
        self.resolve(step, false);
        self.bump(step);
    }
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
