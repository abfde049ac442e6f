//! What is asked.

use levee_kafka::messages::add_offsets_to_txn_request::AddOffsetsToTxnRequest;
use levee_kafka::messages::add_partitions_to_txn_request::AddPartitionsToTxnRequest;
use levee_kafka::messages::describe_transactions_request::DescribeTransactionsRequest;
use levee_kafka::messages::end_txn_request::EndTxnRequest;
use levee_kafka::messages::init_producer_id_request::InitProducerIdRequest;
use levee_kafka::messages::list_transactions_request::ListTransactionsRequest;

use crate::effects::Token;

/// Which connection of this broker, counted as they are accepted: a later one has a higher number.
pub type Connection = u64;

/// How a request came.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    /// Comes back with the answer.
    pub token: Token,
    /// Of the request's API.
    pub version: i16,
    pub connection: Connection,
}

/// A request whose transactional ids all belong to this partition.
#[derive(Debug, Clone)]
pub enum Request {
    InitProducerId(InitProducerIdRequest),
    /// All versions. From 4 on brokers ask for their clients: several transactions at once, to add
    /// partitions or only to see whether they were added (`verify_only`).
    AddPartitionsToTxn(AddPartitionsToTxnRequest),
    /// With the partition of `__consumer_offsets` that the group is in.
    AddOffsetsToTxn {
        request: AddOffsetsToTxnRequest,
        topic: String,
        partition: i32,
    },
    EndTxn(EndTxnRequest),
    DescribeTransactions(DescribeTransactionsRequest),
    ListTransactions(ListTransactionsRequest),
}
