//! Nothing joins a transaction that its coordinator does not know of: its end would not come there
//! (KIP-890).
//!
//! Owns: that check for batches and for offsets, whatever protocol they came by. Does not own: what
//! a transaction is (`levee-transactions`), what it does in a partition (`partition/transactions`).

use std::sync::Arc;

use levee_groups::Request as GroupRequest;
use levee_kafka::ErrorCode;
use levee_kafka::messages::add_partitions_to_txn_request::{
    AddPartitionsToTxnRequest, AddPartitionsToTxnTopic, AddPartitionsToTxnTransaction,
};
use levee_kafka::messages::add_partitions_to_txn_response::{
    AddPartitionsToTxnResponse, AddPartitionsToTxnTopicResult,
};
use levee_kafka::messages::txn_offset_commit_request::TxnOffsetCommitRequest;
use levee_kafka::messages::txn_offset_commit_response::TxnOffsetCommitResponse;
use levee_transactions::{Answer, Request};

use super::transactions::Call;
use super::{Coordinators, Kind, groups};
use crate::kafka::code;
use crate::partition::Asked;
use crate::topics::OFFSETS_TOPIC;

/// The newest version of AddPartitionsToTxn, in which brokers ask for their clients.
const OF_BROKERS: i16 = 5;

/// One transaction, as a batch or an offset says it.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) transactional_id: String,
    pub(crate) producer_id: i64,
    pub(crate) producer_epoch: i16,
    /// With transaction version 2 what is written joins; before, it must have been added.
    pub(crate) joins: bool,
}

impl Coordinators {
    /// Makes sure that the coordinator knows that this partition is part of the transaction, before
    /// anything of it is written there. What that rests on, where the epoch does not say it.
    pub(crate) async fn join(
        self: &Arc<Self>,
        member: &Member,
        topic: &str,
        partition: u32,
    ) -> Result<Option<Asked>, ErrorCode> {
        if member.transactional_id.is_empty() {
            return Err(ErrorCode::InvalidTxnState);
        }
        let found = self.node.partition(topic, partition).map_err(|error| code(&error))?;
        let asked = (!member.joins).then(|| found.asked());
        if found.ongoing_transaction(member.producer_id, member.producer_epoch) {
            return Ok(asked);
        }
        let partitions = vec![partition as i32];
        let transaction = AddPartitionsToTxnTransaction {
            transactional_id: member.transactional_id.clone(),
            producer_id: member.producer_id,
            producer_epoch: member.producer_epoch,
            verify_only: !member.joins,
            topics: vec![AddPartitionsToTxnTopic { name: topic.to_owned(), partitions }],
        };
        let added = self.add_for_client(OF_BROKERS, transaction).await?;
        let first = added.first().and_then(|topic| topic.results_by_partition.first());
        match first.map_or(ErrorCode::UnknownServerError.into(), |r| r.partition_error_code) {
            0 => Ok(asked),
            code => Err(ErrorCode::from_number(code)),
        }
    }

    /// As brokers ask: the epoch alone says which transaction is meant. The partitions must exist.
    pub(crate) async fn add_for_client(
        self: &Arc<Self>,
        version: i16,
        transaction: AddPartitionsToTxnTransaction,
    ) -> Result<Vec<AddPartitionsToTxnTopicResult>, ErrorCode> {
        let id = transaction.transactional_id.clone();
        let transactions = vec![transaction];
        let request = AddPartitionsToTxnRequest { transactions, ..Default::default() };
        let request = Request::AddPartitionsToTxn(request);
        // Read only where the client asks itself.
        let connection = 0;
        match self.ask_transaction(&id, Call::Ask { version, connection, request }).await? {
            Answer::AddPartitionsToTxn(answer) => {
                let AddPartitionsToTxnResponse { error_code, results_by_transaction, .. } = answer;
                match results_by_transaction.into_iter().next() {
                    Some(found) => Ok(found.topic_results),
                    None => Err(ErrorCode::from_number(error_code)),
                }
            }
            _ => Err(ErrorCode::UnknownServerError),
        }
    }

    /// Offsets that count when the transaction is committed.
    pub(crate) async fn commit_in_transaction(
        self: &Arc<Self>,
        member: &Member,
        caller: levee_groups::Caller,
        request: TxnOffsetCommitRequest,
    ) -> Result<TxnOffsetCommitResponse, ErrorCode> {
        let group = request.group_id.clone();
        let id = self.partition_of(Kind::Groups, &group).await;
        let number = id.map_err(|_| ErrorCode::CoordinatorNotAvailable)?.partition;
        let asked = self.join(member, OFFSETS_TOPIC, number).await?;
        let request = GroupRequest::TxnOffsetCommit(request);
        match self.ask_group(&group, groups::Call { caller, request, asked }).await? {
            levee_groups::Answer::TxnOffsetCommit(answer) => Ok(answer),
            _ => Err(ErrorCode::UnknownServerError),
        }
    }
}
