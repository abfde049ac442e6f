//! Frames: a length, a header, a message.
//!
//! ```text
//! request    length i32 | key i16, version i16, correlation i32, client id, [tags] | body
//! response   length i32 | correlation i32, [tags] | body
//! ```
//!
//! A flexible message has a header with tags, except for the answer to `ApiVersions`, which a
//! client must be able to read before it knows anything (KIP-511).

use bytes::{BufMut, Bytes, BytesMut};

use crate::messages::ApiKey;
use crate::read::{DecodeError, Reader};
use crate::types::{Api, Message};
use crate::write::Writer;

/// In front of every request, whatever it asks: key, version, correlation, and the length of the
/// client's name.
pub const FIXED_BYTES: usize = 10;

/// The header of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    pub key: i16,
    pub version: i16,
    /// The answer carries it again.
    pub correlation: i32,
    pub client_id: Option<String>,
}

impl Header {
    /// Reads a header and leaves the body. `Err` gives what is known of a request that cannot be
    /// read further.
    pub fn decode(r: &mut Reader) -> Result<Self, DecodeError> {
        r.at("RequestHeader");
        let (key, version, correlation) = (r.i16()?, r.i16()?, r.i32()?);
        r.at("RequestHeader.client_id");
        let client_id = r.nullable_string(false, true)?;
        let header = Self { key, version, correlation, client_id };
        if Api::of(key).is_some_and(|api| api.is_flexible(version)) {
            r.at("RequestHeader.tags");
            r.tags(|_, _| Ok(false))?;
        }
        Ok(header)
    }

    /// Of a request to be sent.
    pub fn encode(&self, w: &mut Writer) {
        w.i16(self.key);
        w.i16(self.version);
        w.i32(self.correlation);
        w.nullable_string(false, true, self.client_id.as_deref());
        if Api::of(self.key).is_some_and(|api| api.is_flexible(self.version)) {
            w.varint(0);
        }
    }
}

/// An answer as pieces to be written one after the other, its length in front.
pub fn response<M: Message>(key: i16, version: i16, correlation: i32, message: &M) -> Vec<Bytes> {
    let mut w = Writer::new();
    w.i32(correlation);
    let flexible = Api::of(key).is_some_and(|api| api.is_flexible(version));
    if flexible && key != ApiKey::ApiVersions as i16 {
        w.varint(0);
    }
    message.encode(&mut w, version);
    framed(w)
}

/// A request as pieces to be written one after the other, its length in front.
pub fn request<M: Message>(header: &Header, message: &M) -> Vec<Bytes> {
    let mut w = Writer::new();
    header.encode(&mut w);
    message.encode(&mut w, header.version);
    framed(w)
}

fn framed(w: Writer) -> Vec<Bytes> {
    let mut length = BytesMut::with_capacity(4);
    length.put_i32(w.len() as i32);
    let mut pieces = vec![length.freeze()];
    pieces.extend(w.into_pieces());
    pieces
}
