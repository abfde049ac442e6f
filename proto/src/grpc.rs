//! Generated gRPC messages, clients and servers (`proto/levee/v1`).

#![allow(clippy::all, missing_docs, unreachable_pub, rust_2018_idioms)]

pub mod bounded;

tonic::include_proto!("levee.v1");

/// For server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/levee.bin"));
