//! Every byte that leaves a Levee process: ids, record batches, tiered objects, local WAL groups,
//! MetaLog slots and the gRPC messages.
//!
//! Owns: byte layouts, their checks, and the bounds on what is decoded. `FORMATS.md` has the maps.
//! Does not own: I/O, clocks, randomness, tasks. Nothing here waits or allocates more than a
//! small multiple of the bytes it was handed.

pub mod ids;
pub mod limits;
pub mod codec;
pub mod crc;
pub mod head;
pub mod record;
pub mod object;
pub mod wal;
pub mod keys;
pub mod metalog;
pub mod grpc;

pub use codec::FormatError;
