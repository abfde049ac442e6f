//! The codec of all services: protocol buffers, with a bound on what a message unpacks to.
//!
//! An empty record takes two bytes on the wire and a hundred in memory, and a decoder of protocol
//! buffers builds them all before anybody can look: the records of a request are counted first.

use std::any::{Any, TypeId};
use std::marker::PhantomData;

use bytes::{Buf, Bytes};
use prost::DecodeError;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use tonic::codec::{Codec, DecodeBuf, Decoder};
use tonic::{Code, Status};
use tonic_prost::{ProstDecoder, ProstEncoder};

use super::{AppendRequest, ErrorCode, ErrorDetail};

/// Structured records and their headers in one request.
pub const RECORDS_MAX: usize = 100_000;

/// Smaller batches are copied, and those that are much smaller than their buffer: a slice keeps all
/// of it for as long as the batch is among the newest of its partition.
const COPY_BELOW: usize = 64 << 10;

/// Field numbers in `log.proto`.
const RECORDS_OF_APPEND: u32 = 5;
const HEADERS_OF_RECORD: u32 = 4;

/// See the module.
pub struct BoundedCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for BoundedCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for BoundedCodec<T, U>
where
    T: prost::Message + Send + 'static,
    U: prost::Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = BoundedDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::default()
    }

    fn decoder(&mut self) -> Self::Decoder {
        BoundedDecoder { inner: ProstDecoder::default(), largest: 0 }
    }
}

pub struct BoundedDecoder<U> {
    inner: ProstDecoder<U>,
    /// Largest message so far: the buffer that messages are slices of is as large.
    largest: usize,
}

impl<U: prost::Message + Default + 'static> Decoder for BoundedDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        self.largest = self.largest.max(buf.remaining());
        if TypeId::of::<U>() == TypeId::of::<AppendRequest>() {
            // The message stands in one piece; what is malformed is reported by the decoder.
            let records = count(buf.chunk()).unwrap_or(0);
            if records > RECORDS_MAX {
                return Err(too_many());
            }
        }
        let mut message = self.inner.decode(buf)?;
        if let Some(message) = &mut message
            && let Some(append) = (message as &mut dyn Any).downcast_mut::<AppendRequest>()
            && append.batch.len() < COPY_BELOW.max(self.largest / 2)
        {
            append.batch = Bytes::copy_from_slice(&append.batch);
        }
        Ok(message)
    }
}

/// Records and headers of an encoded `AppendRequest`, counted up to just above the bound.
fn count(mut request: &[u8]) -> Result<usize, DecodeError> {
    let mut found = 0;
    while request.has_remaining() && found <= RECORDS_MAX {
        let Some(mut record) = message(&mut request, RECORDS_OF_APPEND)? else { continue };
        found += 1;
        while record.has_remaining() && found <= RECORDS_MAX {
            found += usize::from(message(&mut record, HEADERS_OF_RECORD)?.is_some());
        }
    }
    Ok(found)
}

/// Steps over one field; gives its bytes where it is the message that is asked for.
fn message<'a>(bytes: &mut &'a [u8], wanted: u32) -> Result<Option<&'a [u8]>, DecodeError> {
    let (tag, wire) = decode_key(bytes)?;
    if tag != wanted || wire != WireType::LengthDelimited {
        skip_field(wire, tag, bytes, DecodeContext::default())?;
        return Ok(None);
    }
    let len = decode_varint(bytes)?;
    let len = usize::try_from(len).unwrap_or(usize::MAX).min(bytes.len());
    let (field, rest) = bytes.split_at(len);
    *bytes = rest;
    Ok(Some(field))
}

fn too_many() -> Status {
    let message = format!("more than {RECORDS_MAX} records and headers in one append");
    let detail = ErrorDetail {
        code: ErrorCode::InvalidArgument.into(),
        message: message.clone(),
        remedy: "send fewer records at once, or an encoded batch".into(),
        ..Default::default()
    };
    let detail = prost::Message::encode_to_vec(&detail);
    Status::with_details(Code::InvalidArgument, message, detail.into())
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::super::{Header, Record};
    use super::*;

    #[test]
    fn records_and_headers_are_counted() {
        let headers = vec![Header { key: "k".into(), value: None }; 2];
        let record = Record { value: Some("v".into()), headers, ..Default::default() };
        let request = AppendRequest {
            topic: "t".into(),
            batch: vec![0x2a; 100].into(),
            records: vec![record, Record::default()],
            timeout_ms: 7,
            ..Default::default()
        };
        assert_eq!(count(&request.encode_to_vec()).unwrap(), 4);
        let many = AppendRequest {
            records: vec![Record::default(); RECORDS_MAX + 1],
            ..Default::default()
        };
        assert_eq!(count(&many.encode_to_vec()).unwrap(), RECORDS_MAX + 1);
        assert!(count(&[0xff; 20]).is_err());
    }
}
