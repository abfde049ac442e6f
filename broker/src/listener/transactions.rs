//! The `Transactions` service: transactions by gRPC, with version 2 of Kafka's protocol (KIP-890).
//!
//! Owns: requests to the coordinators, and tickets. Does not own: what a transaction is
//! (`levee-transactions`), how batches and offsets join one (`coordinator/join`).
//!
//! A ticket takes the place of Kafka's connection: an InitTransactions that was under way for long
//! must not end what a newer one began (F20), and over HTTP/2, with proxies in between, connections
//! say nothing. Tickets are counted with the connections of Kafka clients, in one life of a broker.

use std::sync::Arc;

use levee_groups::Caller;
use levee_kafka::ErrorCode;
use levee_kafka::messages::describe_transactions_request::DescribeTransactionsRequest;
use levee_kafka::messages::end_txn_request::EndTxnRequest;
use levee_kafka::messages::init_producer_id_request::InitProducerIdRequest;
use levee_kafka::messages::list_transactions_request as kafka_list;
use levee_kafka::messages::txn_offset_commit_request::{
    TxnOffsetCommitRequest, TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use levee_proto::grpc::transactions_server::Transactions;
use levee_proto::grpc::{
    CommitTransactionOffsetsRequest, CommitTransactionOffsetsResponse, DescribeTransactionRequest,
    EndTransactionRequest, EndTransactionResponse, InitTransactionsRequest,
    InitTransactionsResponse, ListTransactionsRequest, ListTransactionsResponse, TicketRequest,
    TicketResponse, TopicOffsets, TopicPartitions, TransactionDescription, TransactionListing,
};
use levee_transactions::{Answer, Request as Ask};
use tonic::{Request, Response, Status};

use super::coordinated::{
    Asker, Coordinated, bounded, check_offsets, failure, mixed_up, numbers, to_commit,
};
use super::groups::failed_offset;
use super::refusals::{of_group, of_transaction};
use crate::coordinator::Coordinators;
use crate::coordinator::join::Member;
use crate::coordinator::transactions::Call;
use crate::error::{Error, Result};

/// Versions of Kafka's requests that these calls stand for.
const INIT: i16 = 5;
const END: i16 = 5;
const COMMIT: i16 = 5;
const DESCRIBE: i16 = 0;
const LIST: i16 = 2;
/// Of requests whose epoch says which transaction they mean.
const ANY_CONNECTION: u64 = 0;
const DEFAULT_TIMEOUT_MS: u32 = 60_000;

/// See the module.
pub struct TransactionsService {
    coordinated: Coordinated,
}

impl TransactionsService {
    pub fn new(all: Arc<Coordinators>) -> Self {
        Self { coordinated: Coordinated { all } }
    }

    /// The number of a ticket of this life of the broker.
    fn numbered(&self, ticket: &str, id: &str) -> Result<u64> {
        if ticket.is_empty() {
            return Err(Error::invalid_argument("ticket is empty; get one by Ticket"));
        }
        let of_life = ticket.strip_prefix(&self.life());
        let newest = self.coordinated.all.newest_connection();
        let number = of_life.and_then(|number| number.parse().ok());
        // One that was never drawn would make every later one late.
        let number = number.filter(|number| *number <= newest);
        number.ok_or_else(|| Error::late_request(id))
    }

    fn life(&self) -> String {
        format!("{}/", self.coordinated.node().session)
    }
}

#[tonic::async_trait]
impl Transactions for TransactionsService {
    async fn ticket(
        &self,
        _request: Request<TicketRequest>,
    ) -> Result<Response<TicketResponse>, Status> {
        let ticket = format!("{}{}", self.life(), self.coordinated.all.connected());
        Ok(Response::new(TicketResponse { ticket }))
    }

    async fn init_transactions(
        &self,
        request: Request<InitTransactionsRequest>,
    ) -> Result<Response<InitTransactionsResponse>, Status> {
        let InitTransactionsRequest { transactional_id: id, timeout_ms, ticket } =
            request.into_inner();
        named(&id)?;
        let timeout_ms = if timeout_ms == 0 { DEFAULT_TIMEOUT_MS } else { timeout_ms };
        let connection = self.numbered(&ticket, &id)?;
        let ask = Ask::InitProducerId(InitProducerIdRequest {
            transactional_id: Some(id.clone()),
            transaction_timeout_ms: i32::try_from(timeout_ms).unwrap_or(i32::MAX),
            ..Default::default()
        });
        match self.coordinated.transaction(&id, INIT, connection, ask).await? {
            Answer::InitProducerId(answer) => {
                refuse(answer.error_code, &id)?;
                let (producer_id, producer_epoch) =
                    (answer.producer_id, epoch(answer.producer_epoch)?);
                Ok(Response::new(InitTransactionsResponse { producer_id, producer_epoch }))
            }
            Answer::Disconnect => Err(Error::late_request(&id).into()),
            _ => Err(mixed_up().into()),
        }
    }

    async fn commit_transaction_offsets(
        &self,
        request: Request<CommitTransactionOffsetsRequest>,
    ) -> Result<Response<CommitTransactionOffsetsResponse>, Status> {
        let asker = Asker::of(&request);
        let request = request.into_inner();
        named(&request.transactional_id)?;
        if request.group.is_empty() {
            return Err(Error::invalid_argument("group is empty; name the group").into());
        }
        let asker = asker.commits(&request.offsets)?;
        let failed = self.commit(&asker.caller(self.coordinated.node(), COMMIT), request).await?;
        Ok(Response::new(CommitTransactionOffsetsResponse { failed }))
    }

    async fn end_transaction(
        &self,
        request: Request<EndTransactionRequest>,
    ) -> Result<Response<EndTransactionResponse>, Status> {
        let request = request.into_inner();
        let id = request.transactional_id;
        named(&id)?;
        let ask = Ask::EndTxn(EndTxnRequest {
            transactional_id: id.clone(),
            producer_id: request.producer_id,
            producer_epoch: kafka_epoch(request.producer_epoch)?,
            committed: request.commit,
        });
        match self.coordinated.transaction(&id, END, ANY_CONNECTION, ask).await? {
            Answer::EndTxn(answer) => {
                refuse(answer.error_code, &id)?;
                let (producer_id, producer_epoch) =
                    (answer.producer_id, epoch(answer.producer_epoch)?);
                Ok(Response::new(EndTransactionResponse { producer_id, producer_epoch }))
            }
            _ => Err(mixed_up().into()),
        }
    }

    async fn list_transactions(
        &self,
        _request: Request<ListTransactionsRequest>,
    ) -> Result<Response<ListTransactionsResponse>, Status> {
        let request = Ask::ListTransactions(kafka_list::ListTransactionsRequest {
            duration_filter: -1,
            ..Default::default()
        });
        let call = Call::Ask { version: LIST, connection: ANY_CONNECTION, request };
        let asked = self.coordinated.all.ask_all_transactions(call);
        let answers = self.coordinated.in_time("listing transactions", asked).await?;
        let mut transactions = Vec::new();
        for answer in answers.map_err(|code| of_transaction(code, ""))? {
            let Answer::ListTransactions(answer) = answer else { return Err(mixed_up().into()) };
            transactions.extend(answer.transaction_states.into_iter().map(|listed| {
                TransactionListing {
                    transactional_id: listed.transactional_id,
                    producer_id: listed.producer_id,
                    state: listed.transaction_state,
                }
            }));
        }
        transactions.sort_by(|a, b| a.transactional_id.cmp(&b.transactional_id));
        let what = "the transactional ids of this broker";
        let remedy = "describe those that you look for by name";
        Ok(bounded(ListTransactionsResponse { transactions }, what, remedy)?)
    }

    async fn describe_transaction(
        &self,
        request: Request<DescribeTransactionRequest>,
    ) -> Result<Response<TransactionDescription>, Status> {
        let id = request.into_inner().transactional_id;
        named(&id)?;
        let ids = DescribeTransactionsRequest { transactional_ids: vec![id.clone()] };
        let ask = Ask::DescribeTransactions(ids);
        let answer = self.coordinated.transaction(&id, DESCRIBE, ANY_CONNECTION, ask).await?;
        let Answer::DescribeTransactions(answer) = answer else { return Err(mixed_up().into()) };
        let found = answer.transaction_states.into_iter().next().ok_or_else(mixed_up)?;
        refuse(found.error_code, &id)?;
        let partitions = found.topics.into_iter().map(|topic| TopicPartitions {
            partitions: numbers(&topic.partitions),
            topic: topic.topic,
            topic_id: String::new(),
        });
        Ok(Response::new(TransactionDescription {
            transactional_id: id,
            state: found.transaction_state,
            producer_id: found.producer_id,
            producer_epoch: epoch(found.producer_epoch)?,
            timeout_ms: u32::try_from(found.transaction_timeout_ms).unwrap_or_default(),
            started_ms: Some(found.transaction_start_time_ms).filter(|started| *started >= 0),
            partitions: partitions.collect(),
        }))
    }
}

impl TransactionsService {
    /// The offsets that do not count with the transaction.
    async fn commit(
        &self,
        caller: &Caller,
        request: CommitTransactionOffsetsRequest,
    ) -> Result<Vec<levee_proto::grpc::OffsetError>> {
        check_offsets(&request.offsets)?;
        let group = request.group;
        let member = Member {
            transactional_id: request.transactional_id,
            producer_id: request.producer_id,
            producer_epoch: kafka_epoch(request.producer_epoch)?,
            joins: true,
        };
        let generation_id = match request.member_epoch {
            None => -1,
            Some(epoch) => i32::try_from(epoch).map_err(|_| {
                Error::invalid_argument(format!("member_epoch {epoch} is none that was given"))
            })?,
        };
        let commit = TxnOffsetCommitRequest {
            transactional_id: member.transactional_id.clone(),
            group_id: group.clone(),
            producer_id: member.producer_id,
            producer_epoch: member.producer_epoch,
            generation_id,
            member_id: request.member_id,
            group_instance_id: Some(request.instance_id).filter(|id| !id.is_empty()),
            topics: topics(&request.offsets)?,
        };
        let committed = self.coordinated.all.commit_in_transaction(&member, caller.clone(), commit);
        let committed = self.coordinated.in_time("the group's coordinator", committed).await?;
        let answer = committed.map_err(|code| match code {
            ErrorCode::NotCoordinator | ErrorCode::NotLeaderOrFollower => {
                of_group(code, &group, None)
            }
            code => of_transaction(code, &member.transactional_id),
        })?;
        let each = answer.topics.iter().flat_map(|topic| {
            topic.partitions.iter().map(|p| (&*topic.name, p.partition_index, p.error_code))
        });
        Ok(each.filter_map(|(topic, p, code)| failed_offset(&group, topic, p, code)).collect())
    }
}

fn topics(offsets: &[TopicOffsets]) -> Result<Vec<TxnOffsetCommitRequestTopic>> {
    let mut topics = Vec::with_capacity(offsets.len());
    for topic in offsets {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for asked in &topic.partitions {
            let (partition_index, committed_offset, committed_leader_epoch, committed_metadata) =
                to_commit(asked)?;
            partitions.push(TxnOffsetCommitRequestPartition {
                partition_index,
                committed_offset,
                committed_leader_epoch,
                committed_metadata,
            });
        }
        topics.push(TxnOffsetCommitRequestTopic { name: topic.topic.clone(), partitions });
    }
    Ok(topics)
}

fn named(id: &str) -> Result<()> {
    match id {
        "" => Err(Error::invalid_argument("transactional_id is empty; name the producer")),
        _ => Ok(()),
    }
}

fn refuse(code: i16, id: &str) -> Result<()> {
    failure(code).map_or(Ok(()), |code| Err(of_transaction(code, id)))
}

/// Epochs of answers without an error are never negative.
fn epoch(epoch: i16) -> Result<u32> {
    u32::try_from(epoch).map_err(|_| mixed_up())
}

fn kafka_epoch(epoch: u32) -> Result<i16> {
    let wrong = |_| {
        Error::invalid_argument(format!("producer_epoch {epoch} is above 32767, what there are"))
    };
    i16::try_from(epoch).map_err(wrong)
}
