//! `AddPartitionsToTxn` and `AddOffsetsToTxn`: where a transaction writes, which begins it.

use std::collections::BTreeSet;

use levee_kafka::ErrorCode;
use levee_kafka::messages::add_offsets_to_txn_request::AddOffsetsToTxnRequest;
use levee_kafka::messages::add_offsets_to_txn_response::AddOffsetsToTxnResponse;
use levee_kafka::messages::add_partitions_to_txn_request::{
    AddPartitionsToTxnRequest, AddPartitionsToTxnTopic, AddPartitionsToTxnTransaction,
};
use levee_kafka::messages::add_partitions_to_txn_response::{
    AddPartitionsToTxnPartitionResult, AddPartitionsToTxnResponse, AddPartitionsToTxnResult,
    AddPartitionsToTxnTopicResult,
};

use crate::coordinator::Transactions;
use crate::effects::{Answer, Effects, Refusal};
use crate::log;
use crate::producer::Producer;
use crate::request::Asked;
use crate::transaction::{Partitions, Standing, State, Transaction};

/// The first version in which brokers ask, for several transactions at once (KIP-890).
const BATCHED_FROM: i16 = 4;

/// The first version that knows TRANSACTION_ABORTABLE.
const ABORTABLE_FROM: i16 = 5;

/// The first version of both requests that knows PRODUCER_FENCED.
const FENCED_FROM: i16 = 2;

/// What the records of its end may take beside that of its last partition: ids and epochs.
const END_BYTES: usize = 64;

impl Transactions {
    pub(crate) fn add_partitions(
        &mut self,
        now_ms: i64,
        asked: Asked,
        request: AddPartitionsToTxnRequest,
        effects: &mut Effects,
    ) -> Option<Answer> {
        let mut answer = AddPartitionsToTxnResponse::default();
        if asked.version < BATCHED_FROM {
            let producer = Producer {
                id: request.v3_and_below_producer_id,
                epoch: request.v3_and_below_producer_epoch,
            };
            let topics = request.v3_and_below_topics;
            let id = &*request.v3_and_below_transactional_id;
            let code = match self.add(now_ms, Some(asked), id, producer, by_topic(&topics), effects)
            {
                Err(Refusal::Late) => return None,
                added => code_of(added, asked.version),
            };
            answer.results_by_topic_v3_and_below = results(&topics, |_, _| code);
            return Some(Answer::AddPartitionsToTxn(answer));
        }
        for transaction in &request.transactions {
            answer.results_by_transaction.push(AddPartitionsToTxnResult {
                transactional_id: transaction.transactional_id.clone(),
                topic_results: match transaction.verify_only {
                    true => self.verify(transaction, asked.version),
                    false => self.add_for_broker(now_ms, asked.version, transaction, effects),
                },
            });
        }
        Some(Answer::AddPartitionsToTxn(answer))
    }

    pub(crate) fn add_offsets(
        &mut self,
        now_ms: i64,
        asked: Asked,
        request: AddOffsetsToTxnRequest,
        (topic, partition): (String, i32),
        effects: &mut Effects,
    ) -> Option<Answer> {
        let producer = Producer { id: request.producer_id, epoch: request.producer_epoch };
        let offsets = Partitions::from([(topic, BTreeSet::from([partition]))]);
        let id = &*request.transactional_id;
        let code = match self.add(now_ms, Some(asked), id, producer, offsets, effects) {
            Err(Refusal::Late) => return None,
            added => code_of(added, asked.version),
        };
        let answer = AddOffsetsToTxnResponse { error_code: code.into(), ..Default::default() };
        Some(Answer::AddOffsetsToTxn(answer))
    }

    fn add_for_broker(
        &mut self,
        now_ms: i64,
        version: i16,
        request: &AddPartitionsToTxnTransaction,
        effects: &mut Effects,
    ) -> Vec<AddPartitionsToTxnTopicResult> {
        let producer = Producer { id: request.producer_id, epoch: request.producer_epoch };
        let id = &*request.transactional_id;
        let added = self.add(now_ms, None, id, producer, by_topic(&request.topics), effects);
        let code = code_of(added, version);
        results(&request.topics, |_, _| code)
    }

    /// A client that asks itself (`asked`) has one epoch for all its transactions; the ones whose
    /// brokers ask have one for each, which alone says whether they are late.
    fn add(
        &mut self,
        now_ms: i64,
        asked: Option<Asked>,
        id: &str,
        asks: Producer,
        added: Partitions,
        effects: &mut Effects,
    ) -> Result<(), Refusal> {
        let transaction = self.going_on(id, asks)?;
        if let Some(asked) = asked {
            self.in_time(id, asked)?;
        }
        let ongoing = transaction.state == State::Ongoing;
        let has = |topic, partitions| {
            transaction.partitions.get(topic).is_some_and(|has| has.is_superset(partitions))
        };
        if ongoing && added.iter().all(|(topic, partitions)| has(topic, partitions)) {
            return Ok(());
        }
        let mut begun = Transaction {
            before: None,
            state: State::Ongoing,
            started_ms: if ongoing { transaction.started_ms } else { now_ms },
            updated_ms: now_ms,
            client_version: if asked.is_some() { 0 } else { 2 },
            ..transaction.clone()
        };
        for (topic, partitions) in added {
            begun.partitions.entry(topic).or_default().extend(partitions);
        }
        if log::value(&begun).len() + id.len() + END_BYTES > self.settings.max_record_bytes {
            // Kafka's answer to a record that is too large. The producer aborts.
            return Err(ErrorCode::UnknownServerError.into());
        }
        self.save(id, begun, effects);
        if let Some(asked) = asked.filter(|_| !ongoing) {
            self.came(id, asked);
        }
        Ok(())
    }

    /// Whether each partition is in the transaction that is open under this very epoch.
    fn verify(
        &self,
        request: &AddPartitionsToTxnTransaction,
        version: i16,
    ) -> Vec<AddPartitionsToTxnTopicResult> {
        let producer = Producer { id: request.producer_id, epoch: request.producer_epoch };
        let missing = match version {
            version if version < ABORTABLE_FROM => ErrorCode::InvalidTxnState,
            _ => ErrorCode::TransactionAbortable,
        };
        match self.going_on(&request.transactional_id, producer) {
            Err(code) => results(&request.topics, |_, _| code),
            Ok(transaction) => results(&request.topics, |topic, partition| {
                let partitions = transaction.partitions.get(topic);
                match partitions.is_some_and(|partitions| partitions.contains(&partition)) {
                    true => ErrorCode::None,
                    false => missing,
                }
            }),
        }
    }

    /// The transactional id, if this producer may add to it now.
    fn going_on(&self, id: &str, asks: Producer) -> Result<&Transaction, ErrorCode> {
        let (transaction, standing) = self.standing_of(id, asks)?;
        match standing {
            Standing::Before => Err(ErrorCode::ProducerFenced),
            _ if transaction.state.is_prepared() => Err(ErrorCode::ConcurrentTransactions),
            _ => Ok(transaction),
        }
    }
}

fn by_topic(topics: &[AddPartitionsToTxnTopic]) -> Partitions {
    let mut partitions = Partitions::new();
    for topic in topics {
        partitions.entry(topic.name.clone()).or_default().extend(&topic.partitions);
    }
    partitions
}

fn code_of(added: Result<(), Refusal>, version: i16) -> ErrorCode {
    match added {
        Ok(()) => ErrorCode::None,
        Err(Refusal::Error(ErrorCode::ProducerFenced)) if version < FENCED_FROM => {
            ErrorCode::InvalidProducerEpoch
        }
        Err(Refusal::Error(code)) => code,
        Err(Refusal::Late) => ErrorCode::ConcurrentTransactions,
    }
}

fn results(
    topics: &[AddPartitionsToTxnTopic],
    code: impl Fn(&str, i32) -> ErrorCode,
) -> Vec<AddPartitionsToTxnTopicResult> {
    let of = |topic: &AddPartitionsToTxnTopic, partition| AddPartitionsToTxnPartitionResult {
        partition_index: partition,
        partition_error_code: code(&topic.name, partition).into(),
    };
    let of_topic = |topic: &AddPartitionsToTxnTopic| AddPartitionsToTxnTopicResult {
        name: topic.name.clone(),
        results_by_partition: topic.partitions.iter().map(|at| of(topic, *at)).collect(),
    };
    topics.iter().map(of_topic).collect()
}
