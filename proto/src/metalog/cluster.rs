//! The identity of a bucket root: the object `CLUSTER`.

use bytes::{BufMut, Bytes, BytesMut};

use crate::codec::{FormatError, Reader};
use crate::crc::crc32c;
use crate::head::{HEAD_BYTES, Head, Kind};
use crate::ids::{Nonce, Writer};

const WHAT: &str = "CLUSTER";
/// Format epoch of everything below the root; an older release refuses a newer one.
const FORMAT_EPOCH: u32 = 1;

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClusterId(pub Nonce);

impl ClusterId {
    /// ```text
    /// head 64 (nonce = cluster id) | format epoch 4 | feature bits 8 | crc 4 of all before it
    /// ```
    pub fn encode(&self) -> Bytes {
        let head = Head {
            kind: Kind::Cluster,
            nonce: self.0,
            writer: Writer(0),
            term: 0,
            seq: 0,
            body_len: 12,
            extra: 0,
        };
        let mut out = BytesMut::new();
        out.put_slice(&head.encode());
        out.put_u32_le(FORMAT_EPOCH);
        out.put_u64_le(0);
        let crc = crc32c(&out);
        out.put_u32_le(crc);
        out.freeze()
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let head = Head::expect(Kind::Cluster, bytes)?;
        let mut r = Reader::new(WHAT, bytes);
        r.take(HEAD_BYTES)?;
        let epoch = r.u32()?;
        r.u64()?;
        let at = r.at();
        if r.u32()? != crc32c(&bytes[..at]) {
            return Err(FormatError::new(WHAT, at, "crc mismatch"));
        }
        if epoch > FORMAT_EPOCH {
            let why =
                format!("format epoch {epoch}; this release reads {FORMAT_EPOCH}: upgrade Levee");
            return Err(FormatError::new(WHAT, HEAD_BYTES, why));
        }
        Ok(Self(head.nonce))
    }
}
