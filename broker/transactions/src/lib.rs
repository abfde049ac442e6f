//! Transactions: what one partition of `__transaction_state` knows, as a state machine.
//!
//! Owns: transactional ids, their producer ids and epochs, which partitions a transaction writes
//! to, how it ends, its records. Does not own: the log that the records are appended to, the markers'
//! way to the partitions, clocks, producer ids (the caller gives all of them).
//!
//! What a request changes is in memory at once, and memory is the fold of the records: an append
//! that fails ends the [`Transactions`], a new one replays the partition. Answers and markers rest
//! on all records so far, so that a decision is durable before any marker (I16).
//!
//! Where it is stricter than Kafka, so that no request of one transaction touches the next (F20):
//! - An old client's `EndTxn`, `AddPartitionsToTxn` and `AddOffsetsToTxn` do not say which
//!   transaction they mean, a first `InitProducerId` not even which producer. A client that gave up
//!   on a connection opens another, so what comes over one that is older than the transaction's is
//!   late: the connection is closed ([`Answer::Disconnect`]). Who is still there connects again and
//!   repeats, which is never wrong.
//! - `InitProducerId` with an epoch that is not the transaction's does not abort it. Without one it
//!   does, and the producer of that transaction is fenced at once.
//! - The epoch that a producer had before its last one is in the log, so that a repeated request is
//!   known after a crash too, and is not taken for one of a fenced producer.
//! - A producer that goes on before its last markers are written is told to wait, not that it is
//!   fenced.

mod producer;
mod transaction;
mod log;
mod request;
mod effects;
mod coordinator;
mod init;
mod add;
mod end;
mod query;

pub use coordinator::{Settings, Transactions};
pub use effects::{Answer, Effects, Markers, Prepare, Token};
pub use log::ReplayError;
pub use producer::Producer;
pub use request::{Asked, Connection, Request};
pub use transaction::{Partitions, State};
