//! Transactions as the state machine of a shard, and the way of their markers.
//!
//! Markers are written by futures that the shard itself drives: when it ends, or reads its partition
//! again, none of them can still write (F20, F21).

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use levee_proto::grpc::ErrorCode as Levee;
use levee_proto::record::BatchHeader;
use levee_proto::record::records::DecodedRecord;
use levee_runtime::backoff::Backoff;
use levee_transactions::{Answer, Asked, Connection, Markers, Request, Settings, Transactions};

use super::Coordinators;
use super::shard::{Effects, Machine, Token};
use crate::error::Error;
use crate::partition::EndTxn;
use crate::topics::OFFSETS_TOPIC;

/// Between two tries to write a marker.
const RETRY_FIRST: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_secs(1);
/// How long one try may take.
const MARKER_LIMIT: Duration = Duration::from_secs(30);

#[derive(Debug, Clone)]
pub(crate) enum Call {
    Ask {
        version: i16,
        connection: Connection,
        request: Request,
    },
    /// A marker of a decision is durable in this partition, or the partition is gone.
    Written {
        decision: u64,
        topic: String,
        partition: i32,
    },
}

pub(crate) struct TransactionsMachine {
    transactions: Transactions,
    coordinators: Weak<Coordinators>,
}

impl TransactionsMachine {
    /// Nothing where the broker is going.
    pub(super) fn new(
        coordinators: Weak<Coordinators>,
        epoch: u32,
        max_batch_bytes: usize,
    ) -> Option<Self> {
        let all = coordinators.upgrade()?;
        let defaults = Settings::default();
        // Half: what stands around a record in its batch is much less.
        let max_record_bytes = defaults.max_record_bytes.min(max_batch_bytes / 2);
        let settings = Settings {
            max_timeout_ms: all.node.config.transaction_max_timeout.as_millis() as i32,
            max_record_bytes,
            ..defaults
        };
        let connections = all.connections.load(Ordering::Relaxed);
        let transactions = Transactions::new(settings, epoch as i32, connections);
        Some(Self { transactions, coordinators })
    }
}

impl Machine for TransactionsMachine {
    type Call = Call;
    type Answer = Answer;
    type Deed = Markers;

    fn replay(&mut self, _header: &BatchHeader, record: DecodedRecord) -> Result<(), String> {
        let key = record.data.key.unwrap_or_default();
        let replayed = self.transactions.replay(record.offset as i64, key, record.data.value);
        replayed.map_err(|error| error.to_string())
    }

    fn loaded(&mut self, now: i64) -> Effects<Self> {
        self.transactions.resume(now).into()
    }

    fn call(&mut self, now: i64, token: Token, call: Call) -> Effects<Self> {
        match call {
            Call::Ask { version, connection, request } => {
                let asked = Asked { token, version, connection };
                self.transactions.request(now, asked, request).into()
            }
            Call::Written { decision, topic, partition } => {
                self.transactions.written(now, decision, &topic, &[partition]).into()
            }
        }
    }

    fn deadline(&self) -> Option<i64> {
        self.transactions.deadline()
    }

    fn tick(&mut self, now: i64) -> Effects<Self> {
        self.transactions.tick(now).into()
    }

    fn transaction_ended(&mut self, _producer_id: i64, _commit: bool) {
        // Nothing transactional is written to this topic.
    }

    fn producer_ids_wanted(&self) -> usize {
        self.transactions.producer_ids_wanted()
    }

    fn give_producer_id(&mut self, id: i64) {
        self.transactions.give_producer_id(id);
    }

    fn perform(&self, markers: Markers) -> Vec<BoxFuture<'static, Call>> {
        let end = EndTxn {
            producer_id: markers.producer.id,
            producer_epoch: markers.producer.epoch,
            coordinator_epoch: markers.coordinator_epoch,
            commit: markers.commit,
            transaction_version: markers.transaction_version,
        };
        let decision = markers.decision;
        let all = markers.partitions.into_iter();
        all.flat_map(|(topic, partitions)| partitions.into_iter().map(move |p| (topic.clone(), p)))
            .map(|(topic, partition)| {
                let coordinators = self.coordinators.clone();
                async move {
                    write(&coordinators, &topic, partition, &end).await;
                    Call::Written { decision, topic, partition }
                }
                .boxed()
            })
            .collect()
    }
}

impl From<levee_transactions::Effects> for Effects<TransactionsMachine> {
    fn from(effects: levee_transactions::Effects) -> Self {
        let levee_transactions::Effects { records, answers, markers } = effects;
        let cuts = (1..records.len()).collect();
        Self { records, cuts, producer: None, answers, deeds: markers }
    }
}

/// Writes a marker, for as long as it takes; ends too where its partition is gone for good, or knows
/// better already.
async fn write(coordinators: &Weak<Coordinators>, topic: &str, partition: i32, end: &EndTxn) {
    let mut again = Backoff::new(RETRY_FIRST, RETRY_MAX);
    while let Some(coordinators) = coordinators.upgrade() {
        let host = coordinators.node.host.clone();
        match write_once(&coordinators, topic, partition, end).await {
            Ok(()) => return,
            Err(error) => match error.code {
                Levee::UnknownTopic | Levee::UnknownPartition => return,
                // A later epoch of the producer, or a later life of the coordinator, was here.
                Levee::ProducerFenced | Levee::TransactionCoordinatorFenced => {
                    tracing::warn!(topic, partition, %error, "a marker came too late");
                    return;
                }
                _ => tracing::debug!(topic, partition, %error, "a marker is written again"),
            },
        }
        drop(coordinators);
        again.wait(&host).await;
    }
    // The broker is going: nobody waits for this any more.
    futures::future::pending::<()>().await;
}

async fn write_once(
    coordinators: &Arc<Coordinators>,
    topic: &str,
    partition: i32,
    end: &EndTxn,
) -> Result<(), Error> {
    let node = &coordinators.node;
    let number =
        u32::try_from(partition).map_err(|_| Error::unknown_partition(topic, u32::MAX, 0))?;
    if topic == OFFSETS_TOPIC {
        let id = node.partition(topic, number)?.id;
        let moved = |_| Error::not_leader(topic, number);
        return coordinators.groups_shard(id).map_err(moved)?.end_transaction(*end).await;
    }
    let pending = node.end_transaction(topic, number, end, MARKER_LIMIT).await?;
    pending.done(node).await.map(drop)
}
