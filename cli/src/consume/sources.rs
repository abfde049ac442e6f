//! Readers of all partitions, and the order in which their records come.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;

use levee_client::{Admin, Client, DecodedRecord, Position, ReadConfig, Reader};
use tokio::sync::mpsc;

use super::growth::Growth;
use super::plan::{Plan, Span};
use crate::error::CliError;

/// Answers of readers that wait to be written.
const WAITING: usize = 64;
/// Records of the merge that are written together.
const MERGED: usize = 1024;

/// Records of one partition that came together.
pub(super) struct Found {
    pub(super) topic: Arc<str>,
    pub(super) partition: u32,
    pub(super) records: Vec<DecodedRecord>,
}

type Came = Result<Vec<DecodedRecord>, CliError>;

pub(super) enum Sources {
    AsTheyCome(mpsc::Receiver<Result<Found, CliError>>),
    ByTime(Merge),
}

impl Sources {
    pub(super) async fn open(
        client: &Client,
        admin: Admin,
        plan: Plan,
        growth: Option<Growth>,
        config: ReadConfig,
    ) -> Result<Self, CliError> {
        let by_time = plan.is_there();
        let mut readers = Vec::with_capacity(plan.spans.len());
        for span in plan.spans {
            let from = Position::Offset(span.begin);
            let reader = client.read(&span.topic, span.partition, from, config.clone()).await?;
            readers.push((span, reader));
        }
        if by_time {
            return Ok(Self::ByTime(Merge::start(readers)));
        }
        let (send, found) = mpsc::channel(readers.len().clamp(1, WAITING));
        for (span, reader) in readers {
            tokio::spawn(forward(span, reader, send.clone()));
        }
        if let Some(growth) = growth {
            tokio::spawn(growth.run(client.clone(), admin, config, send));
        }
        Ok(Self::AsTheyCome(found))
    }

    /// Nothing more at the end of all ranges.
    pub(super) async fn next(&mut self) -> Result<Option<Found>, CliError> {
        match self {
            Self::AsTheyCome(found) => found.recv().await.transpose(),
            Self::ByTime(merge) => merge.next().await,
        }
    }
}

/// The next records of a range; none at its end.
async fn next_of(span: &Span, reader: &mut Reader) -> Came {
    while span.until.is_none_or(|until| reader.offset() < until) {
        let mut records = reader.next_records().await?;
        records.retain(|record| {
            record.offset >= span.from && span.until.is_none_or(|until| record.offset < until)
        });
        if !records.is_empty() {
            return Ok(records);
        }
    }
    Ok(Vec::new())
}

/// Until its end, until it fails, or until nobody wants more.
pub(super) async fn forward(
    span: Span,
    mut reader: Reader,
    to: mpsc::Sender<Result<Found, CliError>>,
) {
    loop {
        let records = next_of(&span, &mut reader).await;
        let ends = records.as_ref().map_or(true, Vec::is_empty);
        let (topic, partition) = (span.topic.clone(), span.partition);
        let found = records.map(|records| Found { topic, partition, records });
        if to.send(found).await.is_err() || ends {
            return;
        }
    }
}

/// Ranges that end, merged by time: records of one partition keep their order.
pub(super) struct Merge {
    inputs: Vec<Input>,
    /// The first record of every input that has one: its time, and the input.
    heads: BinaryHeap<Reverse<(i64, usize)>>,
    started: bool,
}

struct Input {
    span: Arc<Span>,
    records: VecDeque<DecodedRecord>,
    came: mpsc::Receiver<Came>,
}

impl Merge {
    fn start(readers: Vec<(Span, Reader)>) -> Self {
        let input = |(span, mut reader): (Span, Reader)| {
            // One decoded batch waits; the next one is read meanwhile.
            let (send, came) = mpsc::channel(1);
            let span = Arc::new(span);
            let reads = span.clone();
            tokio::spawn(async move {
                loop {
                    let records = next_of(&reads, &mut reader).await;
                    let ends = records.as_ref().map_or(true, Vec::is_empty);
                    if send.send(records).await.is_err() || ends {
                        return;
                    }
                }
            });
            Input { span, records: VecDeque::new(), came }
        };
        let inputs = readers.into_iter().map(input).collect();
        Self { inputs, heads: BinaryHeap::new(), started: false }
    }

    /// A run of records of the partition whose turn it is. Not to be called again where it was
    /// cancelled.
    async fn next(&mut self) -> Result<Option<Found>, CliError> {
        if !self.started {
            for at in 0..self.inputs.len() {
                self.put_back(at).await?;
            }
            self.started = true;
        }
        let Some(Reverse((_, at))) = self.heads.pop() else { return Ok(None) };
        let bound = self.heads.peek().map(|Reverse(head)| *head);
        let input = &mut self.inputs[at];
        let mut records = Vec::new();
        while let Some(head) = input.records.front() {
            let turn = (head.data.timestamp_ms, at);
            if bound.is_some_and(|bound| bound < turn) || records.len() == MERGED {
                break;
            }
            records.extend(input.records.pop_front());
        }
        let (topic, partition) = (input.span.topic.clone(), input.span.partition);
        self.put_back(at).await?;
        Ok(Some(Found { topic, partition, records }))
    }

    /// Lets an input take part by its next record, if it has one.
    async fn put_back(&mut self, at: usize) -> Result<(), CliError> {
        let input = &mut self.inputs[at];
        if input.records.is_empty()
            && let Some(records) = input.came.recv().await
        {
            input.records = records?.into();
        }
        let head = input.records.front();
        self.heads.extend(head.map(|head| Reverse((head.data.timestamp_ms, at))));
        Ok(())
    }
}
