//! Partitions and topics that are made while records are followed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use levee_client::grpc::TopicDescription;
use levee_client::{Admin, Client, Position, ReadConfig};
use tokio::sync::mpsc;

use super::plan::{Plan, Span, Wanted, window_bytes};
use super::sources::{Found, forward};
use crate::error::CliError;
use crate::partitions::Partitions;
use crate::range::{Range, There};

/// How often the broker is asked what there is.
const EVERY: Duration = Duration::from_secs(10);

/// Looks for what is new, and has it read as if it had been there from the beginning, empty.
pub(super) struct Growth {
    wanted: Wanted,
    partitions: Partitions,
    range: Range,
    known: BTreeSet<(Arc<str>, u32)>,
}

impl Growth {
    pub(super) fn new(wanted: Wanted, partitions: Partitions, range: Range, plan: &Plan) -> Self {
        let known = plan.spans.iter().map(|span| (span.topic.clone(), span.partition)).collect();
        Self { wanted, partitions, range, known }
    }

    /// Until nobody wants more records.
    pub(super) async fn run(
        mut self,
        client: Client,
        admin: Admin,
        config: ReadConfig,
        to: mpsc::Sender<Result<Found, CliError>>,
    ) {
        loop {
            tokio::select! {
                biased;
                () = to.closed() => return,
                () = tokio::time::sleep(EVERY) => {}
            }
            // What keeps the broker from answering, readers say.
            let topics = self.wanted.topics(&admin).await.unwrap_or_default();
            let added = self.added(&topics);
            let window_bytes = window_bytes(self.known.len() + added.len());
            let config = ReadConfig { window_bytes, ..config.clone() };
            for span in added {
                let from = Position::Start;
                let reader = client.read(&span.topic, span.partition, from, config.clone()).await;
                // Else again the next time.
                if let Ok(reader) = reader {
                    self.known.insert((span.topic.clone(), span.partition));
                    tokio::spawn(forward(span, reader, to.clone()));
                }
            }
        }
    }

    fn added(&self, topics: &[TopicDescription]) -> Vec<Span> {
        let (from, until) = self.range.resolve(There { start: 0, end: 0 }, None, None);
        let all = topics.iter().flat_map(|topic| {
            let name: Arc<str> = topic.name.as_str().into();
            let wanted = self.partitions.of(topic.partitions.len() as u32).unwrap_or_default();
            wanted.into_iter().map(move |partition| (name.clone(), partition))
        });
        all.filter(|place| !self.known.contains(place))
            .map(|(topic, partition)| Span { topic, partition, begin: from, from, until })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use levee_client::grpc::PartitionDescription;

    use super::*;
    use crate::partitions::partitions;
    use crate::range::range;

    #[test]
    fn only_what_is_new_and_wanted_is_added() {
        let topic = |name: &str, count: u32| {
            let partition = |partition| PartitionDescription { partition, ..Default::default() };
            let partitions = (0..count).map(partition).collect();
            TopicDescription { name: name.into(), partitions, ..Default::default() }
        };
        let growth = |offset, list| Growth {
            wanted: Wanted::Names(vec!["a".into()]),
            partitions: partitions(list).unwrap(),
            range: range(offset).unwrap(),
            known: [("a".into(), 0)].into(),
        };
        let added = |offset, list| {
            let spans = growth(offset, list).added(&[topic("a", 2), topic("b", 1)]);
            spans.iter().map(|s| (s.topic.to_string(), s.partition, s.from)).collect::<Vec<_>>()
        };
        let both = [("a".to_owned(), 1, 0), ("b".to_owned(), 0, 0)];
        for offset in ["start", "end", "-5", "@-1h"] {
            assert_eq!(added(offset, "all"), both, "{offset}");
        }
        assert_eq!(added("7", "0"), [("b".to_owned(), 0, 7)]);
    }
}
