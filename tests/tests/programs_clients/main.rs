//! Kafka clients of other languages on Levee, unmodified: librdkafka (Python and kcat), pure Python,
//! Node and Go. Each test starts its broker; what must come out is said beside each client's calls
//! in `tests/programs`, or here.

#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

mod franz;
mod kcat;
mod node;
mod python;
