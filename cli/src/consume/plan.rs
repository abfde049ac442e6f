//! What is to be read: offsets of partitions, from what people wrote and what the broker knows.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use levee_client::Admin;
use levee_client::grpc::TopicDescription;
use levee_client::grpc::list_offsets_request::At;
use regex::Regex;

use super::Args;
use crate::codes::Code;
use crate::error::CliError;
use crate::output::note;
use crate::range::{Range, There};
use crate::remote::{SIDE_BY_SIDE, describe, no_partition, whole_name};

/// Bytes that the broker may send ahead: of all partitions together, and bounds of one.
const WINDOWS: u64 = 128 << 20;
const WINDOW_MIN: u64 = 64 << 10;
const WINDOW_MAX: u64 = 8 << 20;

/// See the module.
pub(super) struct Plan {
    pub(super) spans: Vec<Span>,
    is_there: bool,
}

/// Offsets of one partition, `from..until`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) topic: Arc<str>,
    pub(super) partition: u32,
    /// Where reading begins: `from`, moved to what is there.
    pub(super) begin: u64,
    pub(super) from: u64,
    /// `None`: for ever.
    pub(super) until: Option<u64>,
}

impl Plan {
    pub(super) async fn make(
        args: &Args,
        wanted: &Wanted,
        admin: &Admin,
    ) -> Result<Self, CliError> {
        let mut asked = Vec::new();
        for topic in wanted.topics(admin).await? {
            let count = topic.partitions.len() as u32;
            let name: Arc<str> = topic.name.as_str().into();
            let partitions = args
                .partitions
                .of(count)
                .map_err(|missing| no_partition(&topic.name, missing, count))?;
            asked.extend(partitions.into_iter().map(|partition| {
                let start = topic.partitions[partition as usize].log_start;
                (name.clone(), partition, start)
            }));
        }
        let (range, exit) = (args.offset, args.exit);
        let found: Vec<(Span, There)> = stream::iter(asked)
            .map(|(topic, partition, start)| span(admin, range, exit, topic, partition, start))
            .buffered(SIDE_BY_SIDE)
            .try_collect()
            .await?;
        let is_there = |(span, there): &(Span, There)| {
            span.until.is_some_and(|until| until <= there.end.max(span.from))
        };
        let is_there = found.iter().all(is_there);
        let spans = found.into_iter().map(|(span, _)| span);
        let has_some =
            |span: &Span| span.until.is_none_or(|until| until > span.begin.max(span.from));
        Ok(Self { spans: spans.filter(has_some).collect(), is_there })
    }

    /// Whether all of it can be read without waiting for new records.
    pub(super) fn is_there(&self) -> bool {
        self.is_there
    }

    /// How many offsets it holds; nothing where it never ends.
    pub(super) fn total(&self) -> Option<u64> {
        self.spans.iter().map(|span| Some(span.until? - span.begin)).sum()
    }

    pub(super) fn window_bytes(&self) -> u64 {
        window_bytes(self.spans.len())
    }
}

/// Of one of so many partitions.
pub(super) fn window_bytes(partitions: usize) -> u64 {
    (WINDOWS / partitions.max(1) as u64).clamp(WINDOW_MIN, WINDOW_MAX)
}

/// Which topics are read.
pub(super) enum Wanted {
    Names(Vec<String>),
    Patterns(Vec<Regex>),
}

impl Wanted {
    pub(super) fn of(args: &Args) -> Result<Self, CliError> {
        if args.regex {
            let patterns = args.topics.iter().map(|text| whole_name(text));
            return Ok(Self::Patterns(
                patterns.collect::<Result<_, _>>().map_err(CliError::usage)?,
            ));
        }
        // Each once, in the order in which they were named.
        let mut names = args.topics.clone();
        let mut seen = BTreeSet::new();
        names.retain(|name| seen.insert(name.clone()));
        Ok(Self::Names(names))
    }

    pub(super) async fn topics(&self, admin: &Admin) -> Result<Vec<TopicDescription>, CliError> {
        let patterns = match self {
            Self::Patterns(patterns) => patterns,
            Self::Names(names) => {
                let mut found = Vec::new();
                for name in names {
                    found.push(describe(admin, name).await?);
                }
                return Ok(found);
            }
        };
        let mut topics = admin.list_topics().await?;
        topics.retain(|topic| {
            let is_live = topic.deleted_ms.is_none();
            is_live && patterns.iter().any(|pattern| pattern.is_match(&topic.name))
        });
        match topics.is_empty() {
            true => Err(CliError::of(Code::UnknownTopic, "no topic has such a name")
                .next_step("`levee topic list` shows those there are")),
            false => Ok(topics),
        }
    }
}

async fn span(
    admin: &Admin,
    range: Range,
    exit: bool,
    topic: Arc<str>,
    partition: u32,
    start: u64,
) -> Result<(Span, There), CliError> {
    let at = async |at: At| {
        let found = admin.list_offsets(&topic, partition, at).await;
        found.map(|found| found.offset).map_err(|error| {
            CliError::from(error).at(format_args!("{topic} partition {partition}"))
        })
    };
    let end = at(At::End(true)).await?.unwrap_or(start).max(start);
    let there = There { start, end };
    let mut times = [None, None];
    for (found, time) in times.iter_mut().zip([range.from.time(), range.until_time()]) {
        if let Some(ms) = time {
            *found = at(At::TimestampMs(ms)).await?;
        }
    }
    let (from, mut until) = range.resolve(there, times[0], times[1]);
    let begin = from.clamp(start, end);
    if from < start {
        note(format_args!(
            "{topic} partition {partition} begins at offset {start}: older records are deleted"
        ));
    }
    if exit {
        until = Some(until.map_or(end, |until| until.min(end)));
    }
    Ok((Span { topic, partition, begin, from, until }, there))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(begin: u64, until: Option<u64>) -> Span {
        Span { topic: "t".into(), partition: 0, begin, from: begin, until }
    }

    #[test]
    fn a_plan_knows_its_size_where_it_has_one() {
        let plan = |spans: Vec<Span>| Plan { spans, is_there: true };
        assert_eq!(plan(vec![span(5, Some(9)), span(0, Some(1))]).total(), Some(5));
        assert_eq!(plan(vec![span(5, Some(9)), span(0, None)]).total(), None);
        assert_eq!(plan(vec![]).window_bytes(), WINDOW_MAX);
        assert_eq!(plan(vec![span(0, None); 10_000]).window_bytes(), WINDOW_MIN);
    }
}
