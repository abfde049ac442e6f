//! Reading one partition of a group: from what was committed, on and on.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{AbortHandle, Abortable, Aborted, BoxFuture, Shared};
use levee_proto::grpc::ErrorCode;
use levee_proto::record::records::DecodedRecord;

use super::ConsumerConfig;
use crate::backoff::insist;
use crate::connection::Client;
use crate::error::{Error, Result};
use crate::offsets::{Offsets, TopicPartition};
use crate::reader::{Position, ReadConfig, Reader};

/// How long the coordinator may take to tell offsets.
const OFFSETS_LIMIT: Duration = Duration::from_secs(10);
/// Between two looks for a topic that is not there.
const PAUSE: Duration = Duration::from_secs(1);

/// What a group committed for partitions that come together; asked once.
#[derive(Clone)]
pub(super) struct Committed(Shared<BoxFuture<'static, Result<Arc<Offsets>>>>);

impl Committed {
    pub(super) fn of(
        client: &Client,
        config: &Arc<ConsumerConfig>,
        partitions: Vec<TopicPartition>,
    ) -> Self {
        let (admin, config) = (client.manage().with_limit(OFFSETS_LIMIT), config.clone());
        let asked = async move {
            let (admin, group, partitions) = (&admin, &*config.group, &*partitions);
            let asked = insist(config.retry_for, || admin.group_offsets(group, partitions));
            asked.await.map(Arc::new)
        };
        Self(asked.boxed().shared())
    }
}

/// A partition, and where its reading stands.
pub(super) struct Place {
    client: Client,
    config: Arc<ConsumerConfig>,
    at: TopicPartition,
    committed: Committed,
    /// Where to begin, where that is known.
    from: Option<Position>,
    reader: Option<Reader>,
    /// What the reader was opened with.
    window: u64,
    /// Wait a moment first.
    pauses: bool,
}

/// What a partition gave, or why it gave nothing.
pub(super) struct Went {
    pub(super) place: Place,
    pub(super) found: Result<Vec<DecodedRecord>>,
}

pub(super) type Going = Pin<Box<dyn Future<Output = Result<Went, Aborted>> + Send>>;

impl Place {
    pub(super) fn new(
        client: &Client,
        config: &Arc<ConsumerConfig>,
        at: TopicPartition,
        committed: Committed,
    ) -> Self {
        let (client, config) = (client.clone(), config.clone());
        Self { client, config, at, committed, from: None, reader: None, window: 0, pauses: false }
    }

    pub(super) fn at(&self) -> &TopicPartition {
        &self.at
    }

    /// After what was read.
    pub(super) fn next_offset(&self) -> Option<u64> {
        self.reader.as_ref().map(Reader::offset)
    }

    /// What was to be read is not there: begins as a partition without an offset does.
    pub(super) fn start_over(&mut self) {
        (self.reader, self.from) = (None, Some(self.config.start));
    }

    /// There is nothing to read now.
    pub(super) fn pause(&mut self) {
        self.pauses = true;
    }

    /// Reads the next records, with a window of so many bytes.
    pub(super) fn go(mut self, window: u64) -> (Going, AbortHandle) {
        let (stop, stopped) = AbortHandle::new_pair();
        // One that was opened when there were fewer partitions takes too much now.
        if self.window > window.saturating_mul(2)
            && let Some(offset) = self.next_offset()
        {
            (self.reader, self.from) = (None, Some(Position::Offset(offset)));
        }
        let going = async move {
            let found = self.read(window).await;
            Went { place: self, found }
        };
        (Box::pin(Abortable::new(going, stopped)), stop)
    }

    async fn read(&mut self, window: u64) -> Result<Vec<DecodedRecord>> {
        if std::mem::take(&mut self.pauses) {
            tokio::time::sleep(PAUSE).await;
        }
        if let Some(reader) = &mut self.reader {
            return reader.next_records().await;
        }
        let from = match self.from {
            Some(from) => from,
            None => {
                let committed = self.committed.0.clone().await;
                let committed = match committed {
                    Ok(committed) => committed,
                    Err(error) => {
                        // Who asks again asks for this one alone.
                        let alone = vec![self.at.clone()];
                        self.committed = Committed::of(&self.client, &self.config, alone);
                        return Err(error);
                    }
                };
                committed.get(&self.at).copied().map_or(self.config.start, Position::Offset)
            }
        };
        let config = ReadConfig {
            window_bytes: window,
            max_bytes: window.min(1 << 20) as u32,
            retry_for: self.config.retry_for,
            read_committed: self.config.read_committed,
            ..ReadConfig::default()
        };
        let (client, at) = (&self.client, &self.at);
        let open = || client.read(&at.topic, at.partition, from, config.clone());
        let opened = insist(self.config.retry_for, open);
        let reader = self.reader.insert(opened.await?);
        (self.from, self.window) = (Some(from), window);
        reader.next_records().await
    }
}

/// There is no such partition.
pub(super) fn is_gone(error: &Error) -> bool {
    [ErrorCode::UnknownTopic, ErrorCode::UnknownPartition].contains(&error.code)
}
