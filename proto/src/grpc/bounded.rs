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
    AlterTopicRequest, AppendRequest, CommitOffsetsRequest, CommitTransactionOffsetsRequest,
    CreateTopicRequest, DeleteOffsetsRequest, ErrorCode, ErrorDetail, FetchOffsetsRequest,
    SessionRequest,
};

/// Structured records and their headers in one request.
pub const RECORDS_MAX: usize = 100_000;

/// Topics, and offsets of partitions, in one request of a group.
pub const PLACES_MAX: usize = 20_000;

/// Smaller batches are copied, and those that are much smaller than their buffer: a slice keeps all
/// of it for as long as the batch is among the newest of its partition.
const COPY_BELOW: usize = 64 << 10;

/// Settings of a topic in one request.
pub const SETTINGS_MAX: usize = 1_000;

/// A field that repeats, or holds what does.
struct Field {
    number: u32,
    holds: Holds,
}

enum Holds {
    /// Nothing that repeats.
    Nothing,
    /// Numbers, packed or one by one: each takes a byte on the wire.
    Numbers,
    Fields(&'static [Field]),
}

const fn one(number: u32) -> Field {
    Field { number, holds: Holds::Nothing }
}

const fn numbers(number: u32) -> Field {
    Field { number, holds: Holds::Numbers }
}

const fn all(number: u32, fields: &'static [Field]) -> Field {
    Field { number, holds: Holds::Fields(fields) }
}

/// What a message repeats, and how often it may.
struct Repeats {
    fields: &'static [Field],
    max: usize,
    what: &'static str,
    remedy: &'static str,
}

const OF_APPEND: Repeats = Repeats {
    // Records, and their headers.
    fields: &[all(5, &[one(4)])],
    max: RECORDS_MAX,
    what: "records and headers in one append",
    remedy: "send fewer records at once, or an encoded batch",
};

const fn of_group(fields: &'static [Field]) -> Repeats {
    let (what, remedy) = ("topics and partitions in one request", "name fewer of them at once");
    Repeats { fields, max: PLACES_MAX, what, remedy }
}

const fn of_topic(fields: &'static [Field]) -> Repeats {
    let (what, remedy) = ("settings in one request", "say each setting once");
    Repeats { fields, max: SETTINGS_MAX, what, remedy }
}

/// Of `TopicPartitions` and `TopicOffsets`.
const PARTITIONS: &[Field] = &[numbers(3)];
const OFFSETS: &[Field] = &[one(2)];
const OF_SESSION: Repeats = of_group(&[
    // Join: topics, and what the member has; owned; commit.
    all(1, &[one(4), all(10, PARTITIONS)]),
    all(3, &[all(1, PARTITIONS)]),
    all(4, &[all(1, OFFSETS)]),
]);
const OF_COMMIT: Repeats = of_group(&[all(2, OFFSETS)]);
const OF_PARTITIONS: Repeats = of_group(&[all(2, PARTITIONS)]);
const OF_TRANSACTION: Repeats = of_group(&[all(8, OFFSETS)]);
const OF_CREATE: Repeats = of_topic(&[one(3)]);
const OF_ALTER: Repeats = of_topic(&[one(2), one(3)]);

/// All messages of clients that repeat something.
fn repeats_of<U: 'static>() -> Option<&'static Repeats> {
    let all: [(TypeId, &Repeats); 8] = [
        (TypeId::of::<AppendRequest>(), &OF_APPEND),
        (TypeId::of::<SessionRequest>(), &OF_SESSION),
        (TypeId::of::<CommitOffsetsRequest>(), &OF_COMMIT),
        (TypeId::of::<FetchOffsetsRequest>(), &OF_PARTITIONS),
        (TypeId::of::<DeleteOffsetsRequest>(), &OF_PARTITIONS),
        (TypeId::of::<CommitTransactionOffsetsRequest>(), &OF_TRANSACTION),
        (TypeId::of::<CreateTopicRequest>(), &OF_CREATE),
        (TypeId::of::<AlterTopicRequest>(), &OF_ALTER),
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
    /// Counts up to the bound, and a little above. What cannot be read counts for nothing: the
    /// decoder reports it.
    fn count(&self, bytes: &[u8], fields: &[Field], found: &mut usize) {
        // An error: the message ends here for the decoder too.
        let _ = self.try_count(bytes, fields, found);
    }

    fn try_count(
        &self,
        mut bytes: &[u8],
        fields: &[Field],
        found: &mut usize,
    ) -> Result<(), DecodeError> {
        while bytes.has_remaining() && *found <= self.max {
            let (tag, wire) = decode_key(&mut bytes)?;
            let wanted = fields.iter().find(|field| field.number == tag).map(|field| &field.holds);
            match (wanted, wire) {
                (Some(holds), WireType::LengthDelimited) => {
                    let held = piece(&mut bytes)?;
                    // The last byte of each number is below 128.
                    *found += match holds {
                        Holds::Numbers => held.iter().filter(|byte| **byte < 0x80).count(),
                        Holds::Nothing | Holds::Fields(_) => 1,
                    };
                    if let Holds::Fields(inner) = holds {
                        self.count(held, inner, found);
                    }
                }
                (wanted, wire) => {
                    *found += usize::from(matches!(wanted, Some(Holds::Numbers)));
                    skip_field(wire, tag, &mut bytes, DecodeContext::default())?;
                }
            }
        }
        Ok(())
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

fn piece<'a>(bytes: &mut &'a [u8]) -> Result<&'a [u8], DecodeError> {
    let len = decode_varint(bytes)?;
    let len = usize::try_from(len).unwrap_or(usize::MAX).min(bytes.len());
    let (piece, rest) = bytes.split_at(len);
    *bytes = rest;
    Ok(piece)
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::super::session_request::What;
    use super::super::{
        Commit, Header, Join, Owned, PartitionOffset, Record, TopicOffsets, TopicPartitions,
    };
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
            ..Default::default()
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

    #[test]
    fn partitions_that_are_named_are_counted_however_they_are_written() {
        let places = |partitions| TopicPartitions { partitions, ..Default::default() };
        let partitions = vec![places(vec![0, 127, 128, 70_000]), places(vec![5])];
        let group = "g".to_owned();
        let fetch =
            FetchOffsetsRequest { group, partitions: partitions.clone(), ..Default::default() };
        assert_eq!(count(&fetch), 7);
        let delete = DeleteOffsetsRequest { group: "g".into(), partitions: partitions.clone() };
        assert_eq!(count(&delete), 7);
        let owned = SessionRequest { what: Some(What::Owned(Owned { owned: partitions.clone() })) };
        assert_eq!(count(&owned), 8);
        let join = Join { owned: partitions, topics: vec!["t".into()], ..Default::default() };
        assert_eq!(count(&SessionRequest { what: Some(What::Join(join)) }), 9);
        // Field 3 one by one, as numbers of 1 and 2 bytes.
        let unpacked = [0x12, 5, 0x18, 1, 0x18, 0x80, 1];
        assert_eq!(
            FetchOffsetsRequest::decode(&unpacked[..]).unwrap().partitions[0].partitions,
            [1, 128]
        );
        assert_eq!(counted::<FetchOffsetsRequest>(&unpacked), 3);
        let many = places(vec![0; PLACES_MAX + 1]);
        let fetch = FetchOffsetsRequest { partitions: vec![many], ..Default::default() };
        assert!(count(&fetch) > PLACES_MAX);
    }

    #[test]
    fn settings_of_topics_are_counted() {
        let map = || (0..7).map(|at| (at.to_string(), String::new())).collect();
        let create = CreateTopicRequest { config: map(), ..Default::default() };
        assert_eq!(count(&create), 7);
        let remove = vec![String::new(); 3];
        let alter = AlterTopicRequest { set: map(), remove, ..Default::default() };
        assert_eq!(count(&alter), 10);
    }
}
