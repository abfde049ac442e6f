//! Listeners: how requests come in. gRPC over HTTP/2, and the Kafka protocol.
//!
//! Owns: sockets, messages, streams. Does not own: what a request does.

// Sockets are not part of the simulation: tokio is used directly.
#![allow(clippy::disallowed_methods)]

pub mod admin;
pub(crate) mod answers;
pub mod append;
pub(crate) mod connections;
mod coordinated;
pub mod groups;
pub mod grpc;
pub mod kafka;
mod intake;
pub mod log;
pub mod read;
mod refusals;
pub mod transactions;
