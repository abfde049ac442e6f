//! The Kafka protocol as bytes: every message that Levee knows, by version.
//!
//! Owns: types, decoding and encoding of messages (made from `schema/` at build time), frames and
//! their headers. Does not own: sockets, what a request does, what is in a record batch
//! (`levee-proto`).
//!
//! What a stranger sends is bounded before it is believed: a count is held against the bytes that
//! are there, and all memory that a message takes is charged ([`read::Reader`]).

pub mod error_code;
pub mod frame;
pub mod read;
pub mod types;
pub mod write;

/// One module a message, made from `schema/`.
#[allow(clippy::all, unused_variables, unused_mut, unused_assignments)]
pub mod messages {
    mod prelude {
        pub(super) use std::ops::RangeInclusive;

        pub(super) use bytes::Bytes;

        pub(super) use crate::read::{DecodeError, Reader};
        pub(super) use crate::types::{Message, Records, Request, Uuid};
        pub(super) use crate::write::{Tags, Writer};
    }
    use crate::types::Api;

    include!(concat!(env!("OUT_DIR"), "/messages.rs"));
}

pub use error_code::ErrorCode;
pub use messages::{APIS, ApiKey};
pub use read::{DecodeError, Reader};
pub use types::{Api, Message, Records, Request, Uuid};
pub use write::Writer;
