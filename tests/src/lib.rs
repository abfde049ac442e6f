//! Parts for tests: real processes, a real S3 server, loads with a memory of their acks.
//!
//! Never linked into the product.

// Tests run in the real world.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

pub mod bucket;
pub mod kafka;
pub mod load;
pub mod minio;
pub mod process;
pub mod programs;
pub mod radosgw;
pub mod s3;
pub mod sim;
pub mod tools;
