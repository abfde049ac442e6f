//! Kafka record batch v2: the one form of data on every wire, disk and object.

pub mod batch;
pub mod seek;
pub mod codecs;
pub mod records;
pub mod rewrite;
pub mod marker;

pub use batch::{BatchHeader, HEADER_BYTES, PREFIX_BYTES, StoredBatch};
pub use marker::Marker;
