//! What follows from a request, a report or from time that passed.

use bytes::Bytes;
use levee_kafka::ErrorCode;
use levee_kafka::messages::add_offsets_to_txn_response::AddOffsetsToTxnResponse;
use levee_kafka::messages::add_partitions_to_txn_response::AddPartitionsToTxnResponse;
use levee_kafka::messages::describe_transactions_response::DescribeTransactionsResponse;
use levee_kafka::messages::end_txn_response::EndTxnResponse;
use levee_kafka::messages::init_producer_id_response::InitProducerIdResponse;
use levee_kafka::messages::list_transactions_response::ListTransactionsResponse;

use crate::producer::Producer;
use crate::transaction::Partitions;

/// The caller's name for who waits for an answer.
pub type Token = u64;

/// What the caller does: append `records` to the partition, in this order and in as many batches as
/// it likes (each id has one record, and memory follows from wherever the log ends); when they and
/// all before them are durable, give the answers and write the markers.
#[derive(Debug, Default)]
pub struct Effects {
    /// Key and value; no value is a tombstone.
    pub records: Vec<(Bytes, Option<Bytes>)>,
    pub answers: Vec<(Token, Answer)>,
    pub markers: Vec<Markers>,
}

impl Effects {
    pub(crate) fn bytes(&self) -> usize {
        /// Beside key and value.
        const OF_RECORD: usize = 32;
        let of = |(key, value): &(Bytes, Option<Bytes>)| {
            OF_RECORD + key.len() + value.as_ref().map_or(0, Bytes::len)
        };
        self.records.iter().map(of).sum()
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    InitProducerId(InitProducerIdResponse),
    AddPartitionsToTxn(AddPartitionsToTxnResponse),
    AddOffsetsToTxn(AddOffsetsToTxnResponse),
    EndTxn(EndTxnResponse),
    DescribeTransactions(DescribeTransactionsResponse),
    ListTransactions(ListTransactionsResponse),
    /// Close the connection without a word: the request is older than the transaction that it would
    /// touch. Whoever still waits for it connects again and repeats it.
    Disconnect,
}

/// A decision, to be written to every partition of the transaction, for as long as it takes. What
/// was written (or has gone with its topic) is reported to [`crate::Transactions::written`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Markers {
    /// Names the decision in this life of the coordinator.
    pub decision: u64,
    pub transactional_id: String,
    pub producer: Producer,
    pub commit: bool,
    pub coordinator_epoch: i32,
    /// Of the client: with 2 the epoch is higher than that of all records of the transaction.
    pub transaction_version: i16,
    pub prepare: Prepare,
    pub partitions: Partitions,
}

/// Where the Prepare record of a decision is. Its offset grows from decision to decision, across
/// all lives of the coordinator, so a partition that keeps the last one knows a marker that comes late,
/// even where an old client's transactions all have the same producer and epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prepare {
    /// In the records of these effects, at this index.
    Record(usize),
    /// At this offset.
    Offset(i64),
}

/// Why a request got nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    Error(ErrorCode),
    /// It came over a connection that its client has given up.
    Late,
}

impl From<ErrorCode> for Refusal {
    fn from(code: ErrorCode) -> Self {
        Self::Error(code)
    }
}
