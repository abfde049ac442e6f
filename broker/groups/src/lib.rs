//! Groups of consumers and their offsets: the state machine of one partition of
//! `__consumer_offsets`.
//!
//! Owns: classic groups, consumer groups (KIP-848), committed offsets, and the records that all of
//! them are kept in, which are Kafka's. Does not own: the partition's log, clocks, sockets,
//! permissions, quotas, which topics there are ([`Topics`] is passed in).
//!
//! [`Groups::request`], [`Groups::tick`] and the others change memory at once and return
//! [`Effects`]: records to append, in order, and answers to give when everything that was appended
//! so far is durable. Where an append fails the caller drops the whole value and reads the partition
//! again ([`Groups::replay`], then [`Groups::loaded`]): all that outlives it is a fold of records.
//! Sessions start again then, joins under way are lost and repeated by their clients.

mod api;
mod settings;
mod topics;
mod groups;
mod timers;
mod classic;
mod consumer;
mod assign;
mod offsets;
mod describe;
mod records;

#[cfg(test)]
mod tests;

pub use api::{Answer, Caller, Effects, Producer, Request, Token};
pub use groups::Groups;
pub use records::ReplayError;
pub use settings::Settings;
pub use topics::{Topic, Topics};
