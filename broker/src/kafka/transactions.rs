//! Everything that asks the coordinator of a transaction (KIP-98, 447, 664, 890).
//!
//! Owns: finding the coordinator, checking that partitions exist, and making sure that no batch joins
//! a transaction that its coordinator does not know of. Does not own: what a transaction is
//! (`levee-transactions`), what it does in a partition (`partition/transactions.rs`).

use futures::future::join_all;
use levee_groups::Request as GroupRequest;
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
use levee_kafka::messages::describe_transactions_request::DescribeTransactionsRequest;
use levee_kafka::messages::describe_transactions_response::{
    DescribeTransactionsResponse, TransactionState,
};
use levee_kafka::messages::end_txn_request::EndTxnRequest;
use levee_kafka::messages::end_txn_response::EndTxnResponse;
use levee_kafka::messages::init_producer_id_request::InitProducerIdRequest;
use levee_kafka::messages::init_producer_id_response::InitProducerIdResponse;
use levee_kafka::messages::list_transactions_request::ListTransactionsRequest;
use levee_kafka::messages::list_transactions_response::ListTransactionsResponse;
use levee_kafka::messages::txn_offset_commit_request::TxnOffsetCommitRequest;
use levee_kafka::messages::txn_offset_commit_response::{
    TxnOffsetCommitResponse, TxnOffsetCommitResponsePartition, TxnOffsetCommitResponseTopic,
};
use levee_transactions::{Answer, Request};

use super::{Ask, Broken, groups};
use crate::coordinator::Kind;
use crate::coordinator::transactions::Call;
use crate::topics::OFFSETS_TOPIC;

/// First version of AddPartitionsToTxn in which brokers ask for their clients.
const OF_BROKERS: i16 = 4;

type Answered = Result<Answer, ErrorCode>;

async fn of_transaction(ask: &Ask, id: &str, version: i16, request: Request) -> Answered {
    let call = Call::Ask { version, connection: ask.client.connection, request };
    ask.kafka.coordinators.ask_transaction(id, call).await
}

/// Of an answer that is none.
fn failed(answer: Answered) -> Result<i16, Broken> {
    match answer {
        Ok(Answer::Disconnect) => Err(Broken::Late),
        Ok(_) => Ok(ErrorCode::UnknownServerError.into()),
        Err(code) => Ok(code.into()),
    }
}

pub(super) async fn init_producer_id(
    ask: &Ask,
    request: InitProducerIdRequest,
) -> Result<InitProducerIdResponse, Broken> {
    let id = request.transactional_id.clone().unwrap_or_default();
    match of_transaction(ask, &id, ask.version(), Request::InitProducerId(request)).await {
        Ok(Answer::InitProducerId(answer)) => Ok(answer),
        other => Ok(InitProducerIdResponse {
            error_code: failed(other)?,
            producer_epoch: -1,
            ..Default::default()
        }),
    }
}

pub(super) async fn end(ask: &Ask, request: EndTxnRequest) -> Result<EndTxnResponse, Broken> {
    let id = request.transactional_id.clone();
    match of_transaction(ask, &id, ask.version(), Request::EndTxn(request)).await {
        Ok(Answer::EndTxn(answer)) => Ok(answer),
        other => Ok(EndTxnResponse {
            error_code: failed(other)?,
            producer_epoch: -1,
            ..Default::default()
        }),
    }
}

pub(super) async fn add_partitions(
    ask: &Ask,
    request: AddPartitionsToTxnRequest,
) -> Result<AddPartitionsToTxnResponse, Broken> {
    if ask.version() < OF_BROKERS {
        let results = add_of_client(ask, request).await?;
        return Ok(AddPartitionsToTxnResponse {
            results_by_topic_v3_and_below: results,
            ..Default::default()
        });
    }
    let mut results_by_transaction = Vec::new();
    for transaction in request.transactions {
        let transactional_id = transaction.transactional_id.clone();
        let topic_results = match missing(ask, &transaction.topics) {
            Some(refused) => refused,
            None => add_of_broker(ask, ask.version(), transaction).await?,
        };
        let result = AddPartitionsToTxnResult { transactional_id, topic_results };
        results_by_transaction.push(result);
    }
    Ok(AddPartitionsToTxnResponse { results_by_transaction, ..Default::default() })
}

async fn add_of_client(
    ask: &Ask,
    request: AddPartitionsToTxnRequest,
) -> Result<Vec<AddPartitionsToTxnTopicResult>, Broken> {
    let topics = request.v3_and_below_topics.clone();
    if let Some(refused) = missing(ask, &topics) {
        return Ok(refused);
    }
    let id = request.v3_and_below_transactional_id.clone();
    match of_transaction(ask, &id, ask.version(), Request::AddPartitionsToTxn(request)).await {
        Ok(Answer::AddPartitionsToTxn(answer)) => Ok(answer.results_by_topic_v3_and_below),
        other => Ok(results(&topics, failed(other)?)),
    }
}

async fn add_of_broker(
    ask: &Ask,
    version: i16,
    transaction: AddPartitionsToTxnTransaction,
) -> Result<Vec<AddPartitionsToTxnTopicResult>, Broken> {
    let (id, topics) = (transaction.transactional_id.clone(), transaction.topics.clone());
    let request =
        AddPartitionsToTxnRequest { transactions: vec![transaction], ..Default::default() };
    match of_transaction(ask, &id, version, Request::AddPartitionsToTxn(request)).await {
        Ok(Answer::AddPartitionsToTxn(answer)) => {
            match answer.results_by_transaction.into_iter().next() {
                Some(found) => Ok(found.topic_results),
                None => Ok(results(&topics, answer.error_code)),
            }
        }
        other => Ok(results(&topics, failed(other)?)),
    }
}

fn results(topics: &[AddPartitionsToTxnTopic], code: i16) -> Vec<AddPartitionsToTxnTopicResult> {
    each(topics, |_, _| code)
}

fn each(
    topics: &[AddPartitionsToTxnTopic],
    code: impl Fn(&str, i32) -> i16,
) -> Vec<AddPartitionsToTxnTopicResult> {
    let topic = |topic: &AddPartitionsToTxnTopic| AddPartitionsToTxnTopicResult {
        name: topic.name.clone(),
        results_by_partition: topic
            .partitions
            .iter()
            .map(|partition| AddPartitionsToTxnPartitionResult {
                partition_index: *partition,
                partition_error_code: code(&topic.name, *partition),
            })
            .collect(),
    };
    topics.iter().map(topic).collect()
}

/// Where a partition is not there, none is added: the others were not attempted.
fn missing(
    ask: &Ask,
    topics: &[AddPartitionsToTxnTopic],
) -> Option<Vec<AddPartitionsToTxnTopicResult>> {
    let is_there = |topic: &str, partition: i32| ask.partition(topic, partition).is_ok();
    let all = topics.iter().all(|t| t.partitions.iter().all(|p| is_there(&t.name, *p)));
    let code = |topic: &str, partition: i32| match is_there(topic, partition) {
        true => ErrorCode::OperationNotAttempted.into(),
        false => ErrorCode::UnknownTopicOrPartition.into(),
    };
    (!all).then(|| each(topics, code))
}

pub(super) async fn add_offsets(
    ask: &Ask,
    request: AddOffsetsToTxnRequest,
) -> Result<AddOffsetsToTxnResponse, Broken> {
    let id = request.transactional_id.clone();
    let group = &request.group_id;
    let partition = match ask.kafka.coordinators.partition_of(Kind::Groups, group).await {
        Ok(found) => found.partition as i32,
        Err(_) => {
            let error_code = ErrorCode::CoordinatorNotAvailable.into();
            return Ok(AddOffsetsToTxnResponse { error_code, ..Default::default() });
        }
    };
    let topic = OFFSETS_TOPIC.to_owned();
    let request = Request::AddOffsetsToTxn { request, topic, partition };
    match of_transaction(ask, &id, ask.version(), request).await {
        Ok(Answer::AddOffsetsToTxn(answer)) => Ok(answer),
        other => Ok(AddOffsetsToTxnResponse { error_code: failed(other)?, ..Default::default() }),
    }
}

/// One transaction, as a batch or an offset says it.
#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) transactional_id: String,
    pub(super) producer_id: i64,
    pub(super) producer_epoch: i16,
    /// With transaction version 2 what is written joins; before, it must have been added.
    pub(super) joins: bool,
}

/// Makes sure that the coordinator knows that this partition is part of the transaction, before
/// anything of it is written there (KIP-890).
pub(super) async fn join(
    ask: &Ask,
    member: &Member,
    topic: &str,
    partition: i32,
) -> Result<(), ErrorCode> {
    if member.transactional_id.is_empty() {
        return Err(ErrorCode::InvalidTxnState);
    }
    let found = ask.partition(topic, partition)?;
    if found.ongoing_transaction(member.producer_id, member.producer_epoch) {
        return Ok(());
    }
    let transaction = AddPartitionsToTxnTransaction {
        transactional_id: member.transactional_id.clone(),
        producer_id: member.producer_id,
        producer_epoch: member.producer_epoch,
        verify_only: !member.joins,
        topics: vec![AddPartitionsToTxnTopic {
            name: topic.to_owned(),
            partitions: vec![partition],
        }],
    };
    let results = add_of_broker(ask, OF_BROKERS + 1, transaction).await;
    let results = results.map_err(|_| ErrorCode::CoordinatorNotAvailable)?;
    let first = results.first().and_then(|topic| topic.results_by_partition.first());
    match first.map_or(ErrorCode::UnknownServerError.into(), |r| r.partition_error_code) {
        0 => Ok(()),
        code => Err(ErrorCode::from_number(code)),
    }
}

pub(super) async fn commit_offsets(
    ask: &Ask,
    request: TxnOffsetCommitRequest,
) -> TxnOffsetCommitResponse {
    /// From here on the group's partition joins by itself (KIP-890).
    const JOINS_FROM: i16 = 5;
    let asked = request.topics.clone();
    let group = request.group_id.clone();
    let member = Member {
        transactional_id: request.transactional_id.clone(),
        producer_id: request.producer_id,
        producer_epoch: request.producer_epoch,
        joins: ask.version() >= JOINS_FROM,
    };
    let committed = async {
        let coordinators = &ask.kafka.coordinators;
        let id = coordinators.partition_of(Kind::Groups, &group).await;
        let number = id.map_err(|_| ErrorCode::CoordinatorNotAvailable)?.partition as i32;
        join(ask, &member, OFFSETS_TOPIC, number).await?;
        let partition = ask.partition(OFFSETS_TOPIC, number)?;
        let next = partition.next_sequence(member.producer_id, member.producer_epoch);
        next.map_err(|error| super::code(&error))?;
        groups::of_group(ask, &group, GroupRequest::TxnOffsetCommit(request)).await
    };
    let error_code = match committed.await {
        Ok(levee_groups::Answer::TxnOffsetCommit(answer)) => return answer,
        Ok(_) => ErrorCode::UnknownServerError,
        // Clients know what to do with these two.
        Err(ErrorCode::ConcurrentTransactions) => ErrorCode::CoordinatorLoadInProgress,
        Err(ErrorCode::NotLeaderOrFollower) => ErrorCode::NotCoordinator,
        Err(code) => code,
    };
    let topics = asked.into_iter().map(|topic| TxnOffsetCommitResponseTopic {
        name: topic.name,
        partitions: topic
            .partitions
            .iter()
            .map(|partition| TxnOffsetCommitResponsePartition {
                partition_index: partition.partition_index,
                error_code: error_code.into(),
            })
            .collect(),
    });
    TxnOffsetCommitResponse { topics: topics.collect(), ..Default::default() }
}

pub(super) async fn describe(
    ask: &Ask,
    request: DescribeTransactionsRequest,
) -> DescribeTransactionsResponse {
    let of_one = |transactional_id: String| async move {
        let transactional_ids = vec![transactional_id.clone()];
        let request =
            Request::DescribeTransactions(DescribeTransactionsRequest { transactional_ids });
        match of_transaction(ask, &transactional_id, ask.version(), request).await {
            Ok(Answer::DescribeTransactions(answer)) => answer.transaction_states,
            other => {
                let error_code = failed(other).unwrap_or(ErrorCode::UnknownServerError.into());
                vec![TransactionState { transactional_id, error_code, ..Default::default() }]
            }
        }
    };
    let states = join_all(request.transactional_ids.into_iter().map(of_one)).await;
    DescribeTransactionsResponse { transaction_states: states.concat(), ..Default::default() }
}

/// Of this broker: tools ask all brokers and add up.
pub(super) async fn list(ask: &Ask, request: ListTransactionsRequest) -> ListTransactionsResponse {
    let call = Call::Ask {
        version: ask.version(),
        connection: ask.client.connection,
        request: Request::ListTransactions(request),
    };
    let mut all = ListTransactionsResponse::default();
    match ask.kafka.coordinators.ask_all_transactions(call).await {
        Ok(answers) => {
            for answer in answers {
                let Answer::ListTransactions(answer) = answer else { continue };
                if answer.error_code != 0 {
                    return answer;
                }
                all.unknown_state_filters = answer.unknown_state_filters;
                all.transaction_states.extend(answer.transaction_states);
            }
        }
        Err(code) => all.error_code = code.into(),
    }
    all
}
