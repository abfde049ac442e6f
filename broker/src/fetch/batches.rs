//! Batches of an answer, in pieces: what stands in memory already is not copied.

use bytes::{Bytes, BytesMut};
use levee_proto::record::StoredBatch;

/// Below so many bytes a copy costs less than a piece of its own.
const SHARED_FROM: usize = 2 << 10;

/// Whole batches one after the other; where pieces meet says nothing.
#[derive(Debug, Clone, Default)]
pub struct Batches {
    pieces: Vec<Bytes>,
    bytes: usize,
}

impl Batches {
    /// Shares the bytes of large batches with the tail, and copies small ones and prefixes.
    pub fn of(batches: &[StoredBatch]) -> Self {
        let copied = |[prefix, rest]: [&[u8]; 2]| match rest.len() {
            small if small < SHARED_FROM => prefix.len() + small,
            _ => prefix.len(),
        };
        let mut copy = BytesMut::with_capacity(batches.iter().map(|b| copied(b.parts())).sum());
        let mut pieces = Vec::new();
        for batch in batches {
            let [prefix, rest] = batch.parts();
            copy.extend_from_slice(prefix);
            if rest.len() < SHARED_FROM {
                copy.extend_from_slice(rest);
            } else {
                pieces.push(copy.split().freeze());
                pieces.push(batch.rest().clone());
            }
        }
        if !copy.is_empty() {
            pieces.push(copy.freeze());
        }
        Self { bytes: pieces.iter().map(Bytes::len).sum(), pieces }
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    pub fn into_pieces(self) -> Vec<Bytes> {
        self.pieces
    }

    /// In one piece; copies where there are several.
    pub fn into_bytes(mut self) -> Bytes {
        match self.pieces.len() {
            1 => self.pieces.pop().unwrap_or_default(),
            _ => self.pieces.concat().into(),
        }
    }
}

impl From<Bytes> for Batches {
    fn from(bytes: Bytes) -> Self {
        Self { bytes: bytes.len(), pieces: vec![bytes] }
    }
}

#[cfg(test)]
mod tests {
    use levee_proto::record::batch::check;
    use levee_proto::record::codecs::Compression;
    use levee_proto::record::records::{BatchBuilder, RecordData};

    use super::*;

    /// Of one record with so large a value.
    fn batch(value: usize, base_offset: u64) -> StoredBatch {
        let mut builder = BatchBuilder::new(Compression::None);
        builder.push(&RecordData { value: Some(vec![7; value].into()), ..RecordData::default() });
        let bytes = builder.build(None);
        StoredBatch::stamp(&bytes, check(&bytes).unwrap(), base_offset, 1)
    }

    #[test]
    fn pieces_are_the_batches_and_large_ones_are_shared() {
        for sizes in [&[][..], &[100], &[100, 200], &[9000], &[100, 9000, 9000, 100, 100, 9000]] {
            let all = sizes.iter().enumerate().map(|(at, size)| batch(*size, at as u64));
            let all: Vec<_> = all.collect();
            let found = Batches::of(&all);
            let whole: Vec<u8> = all.iter().flat_map(|b| b.to_bytes()).collect();
            assert_eq!(found.len(), whole.len());
            assert_eq!(found.is_empty(), sizes.is_empty());
            let shared = |batch: &StoredBatch| {
                found.pieces.iter().any(|piece| piece.as_ptr() == batch.rest().as_ptr())
            };
            for batch in &all {
                assert_eq!(shared(batch), batch.rest().len() >= SHARED_FROM, "{}", batch.len());
            }
            assert_eq!(found.clone().into_pieces().concat(), whole);
            assert_eq!(found.into_bytes(), whole);
        }
    }
}
