//! The codec of all services: protocol buffers, with a bound on what a message unpacks to.
//!
//! An empty record takes two bytes on the wire and a hundred in memory, and a decoder of protocol
//! buffers builds them all before anybody can look: what a request repeats is counted first.

use std::any::{Any, TypeId};
use std::marker::PhantomData;

use bytes::{Buf, Bytes};
use prost::DecodeError;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use tonic::codec::{Codec, DecodeBuf, Decoder};
use tonic::{Code, Status};
use tonic_prost::{ProstDecoder, ProstEncoder};

use super::{
    AppendRequest, CommitOffsetsRequest, CommitTransactionOffsetsRequest, DeleteOffsetsRequest,
    ErrorCode, ErrorDetail, FetchOffsetsRequest, SessionRequest,
};

/// Structured records and their headers in one request.
pub const RECORDS_MAX: usize = 100_000;

/// Topics, and offsets of partitions, in one request of a group.
pub const PLACES_MAX: usize = 20_000;

/// Smaller batches are copied, and those that are much smaller than their buffer: a slice keeps all
/// of it for as long as the batch is among the newest of its partition.
const COPY_BELOW: usize = 64 << 10;

/// What a message repeats: the numbers of fields to count, of the message itself, then of what these
/// hold, and so on.
struct Repeats {
    fields: &'static [&'static [u32]],
    max: usize,
    what: &'static str,
    remedy: &'static str,
}

const OF_APPEND: Repeats = Repeats {
    // Records, and their headers.
    fields: &[&[5], &[4]],
    max: RECORDS_MAX,
    what: "records and headers in one append",
    remedy: "send fewer records at once, or an encoded batch",
};

const fn of_group(fields: &'static [&'static [u32]]) -> Repeats {
    let (what, remedy) = ("topics and partitions in one request", "name fewer of them at once");
    Repeats { fields, max: PLACES_MAX, what, remedy }
}

const OF_SESSION: Repeats = of_group(&[
    // Join, owned, commit.
    &[1, 3, 4],
    // What the member has, or its offsets; topics of a join, and what it has.
    &[1, 4, 10],
    &[2],
]);
const OF_OFFSETS: Repeats = of_group(&[&[2], &[2]]);
const OF_TRANSACTION: Repeats = of_group(&[&[8], &[2]]);

fn repeats_of<U: 'static>() -> Option<&'static Repeats> {
    let all: [(TypeId, &Repeats); 6] = [
        (TypeId::of::<AppendRequest>(), &OF_APPEND),
        (TypeId::of::<SessionRequest>(), &OF_SESSION),
        (TypeId::of::<CommitOffsetsRequest>(), &OF_OFFSETS),
        (TypeId::of::<FetchOffsetsRequest>(), &OF_OFFSETS),
        (TypeId::of::<DeleteOffsetsRequest>(), &OF_OFFSETS),
        (TypeId::of::<CommitTransactionOffsetsRequest>(), &OF_TRANSACTION),
    ];
    all.into_iter().find(|(of, _)| *of == TypeId::of::<U>()).map(|(_, repeats)| repeats)
}

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
        BoundedDecoder { inner: ProstDecoder::default(), repeats: repeats_of::<U>(), largest: 0 }
    }
}

pub struct BoundedDecoder<U> {
    inner: ProstDecoder<U>,
    repeats: Option<&'static Repeats>,
    /// Largest message so far: the buffer that messages are slices of is as large.
    largest: usize,
}

impl<U: prost::Message + Default + 'static> Decoder for BoundedDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        self.largest = self.largest.max(buf.remaining());
        if let Some(repeats) = self.repeats {
            // The message stands in one piece; what is malformed is reported by the decoder.
            let mut found = 0;
            repeats.count(buf.chunk(), repeats.fields, &mut found);
            if found > repeats.max {
                return Err(repeats.too_many());
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

impl Repeats {
    /// Counts up to just above the bound. What cannot be read counts for nothing: some fields are
    /// texts in one kind of message and messages in another.
    fn count(&self, mut bytes: &[u8], fields: &[&[u32]], found: &mut usize) {
        let Some((wanted, inner)) = fields.split_first() else { return };
        while bytes.has_remaining() && *found <= self.max {
            match field(&mut bytes, wanted) {
                Ok(None) => {}
                Ok(Some(held)) => {
                    *found += 1;
                    self.count(held, inner, found);
                }
                Err(_) => return,
            }
        }
    }

    fn too_many(&self) -> Status {
        let message = format!("more than {} {}", self.max, self.what);
        let detail = ErrorDetail {
            code: ErrorCode::InvalidArgument.into(),
            message: message.clone(),
            remedy: self.remedy.to_owned(),
            ..Default::default()
        };
        let detail = prost::Message::encode_to_vec(&detail);
        Status::with_details(Code::InvalidArgument, message, detail.into())
    }
}

/// Steps over one field; gives its bytes where it is one of those that are asked for.
fn field<'a>(bytes: &mut &'a [u8], wanted: &[u32]) -> Result<Option<&'a [u8]>, DecodeError> {
    let (tag, wire) = decode_key(bytes)?;
    if !wanted.contains(&tag) || wire != WireType::LengthDelimited {
        skip_field(wire, tag, bytes, DecodeContext::default())?;
        return Ok(None);
    }
    let len = decode_varint(bytes)?;
    let len = usize::try_from(len).unwrap_or(usize::MAX).min(bytes.len());
    let (field, rest) = bytes.split_at(len);
    *bytes = rest;
    Ok(Some(field))
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::super::session_request::What;
    use super::super::{Commit, Header, Join, PartitionOffset, Record, TopicOffsets};
    use super::*;

    fn count<M: Message + 'static>(message: &M) -> usize {
        counted::<M>(&message.encode_to_vec())
    }

    fn counted<M: 'static>(bytes: &[u8]) -> usize {
        let (repeats, mut found) = (repeats_of::<M>().unwrap(), 0);
        repeats.count(bytes, repeats.fields, &mut found);
        found
    }

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
        assert_eq!(count(&request), 4);
        let many = AppendRequest {
            records: vec![Record::default(); RECORDS_MAX + 1],
            ..Default::default()
        };
        assert_eq!(count(&many), RECORDS_MAX + 1);
        assert_eq!(counted::<AppendRequest>(&[0xff; 20]), 0);
    }

    #[test]
    fn offsets_are_counted_wherever_they_stand() {
        let places = |partitions| TopicOffsets {
            topic: "t".into(),
            partitions: vec![PartitionOffset::default(); partitions],
        };
        let offsets = vec![places(3), places(2)];
        let group = "g".to_owned();
        assert_eq!(count(&CommitOffsetsRequest { group, offsets: offsets.clone() }), 7);
        let commit =
            SessionRequest { what: Some(What::Commit(Commit { offsets: offsets.clone() })) };
        assert_eq!(count(&commit), 8);
        let in_transaction = CommitTransactionOffsetsRequest { offsets, ..Default::default() };
        assert_eq!(count(&in_transaction), 7);
        // A name that is no message hides nothing behind it.
        let (group, topics) = ("\u{7f}\u{7f}".to_owned(), vec!["t".to_owned(); 30_000]);
        let join = Join { group, topics, ..Default::default() };
        let join = SessionRequest { what: Some(What::Join(join)) };
        assert_eq!(count(&join), PLACES_MAX + 1);
    }
}
