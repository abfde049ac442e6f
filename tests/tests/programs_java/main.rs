//! Kafka's own JVM programs on Levee, unmodified: tools, clients, Streams, Connect, MirrorMaker,
//! services with Spring. Each test starts its broker and asserts on what comes out.

#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

mod connect;
mod http;
mod jvm;
mod mirror;
mod spring;
mod streams;
mod tools;
mod verifiable;
