//! The records of one step as batches that their partition takes.
//!
//! Owns: where one batch ends and the next begins. Does not own: what must stay together, which the
//! state machines say.

use bytes::Bytes;
use levee_proto::limits::BATCH_RECORDS_MAX;
use levee_proto::record::codecs::Compression;
use levee_proto::record::records::{BatchBuilder, RecordData};

/// Fills batches of at most `max` bytes, each up to one of `cuts`. `Err`: the size of one that may not
/// be cut and is larger.
pub(super) fn batches(
    records: Vec<(Bytes, Option<Bytes>)>,
    cuts: &[usize],
    timestamp_ms: i64,
    max: usize,
) -> Result<Vec<BatchBuilder>, usize> {
    let (end, mut from) = (records.len(), 0);
    let mut records = records.into_iter();
    let mut all = Vec::new();
    let mut open = BatchBuilder::new(Compression::None);
    for to in cuts.iter().copied().chain([end]).filter(|to| *to <= end) {
        let together: Vec<RecordData> = records
            .by_ref()
            .take(to.saturating_sub(from))
            .map(|(key, value)| RecordData { timestamp_ms, key: Some(key), value, headers: vec![] })
            .collect();
        from = from.max(to);
        let bytes: usize = together.iter().map(BatchBuilder::bytes_of).sum();
        let fits =
            open.plain_bytes() + bytes <= max && open.len() + together.len() <= BATCH_RECORDS_MAX;
        if !fits && !open.is_empty() {
            all.push(std::mem::replace(&mut open, BatchBuilder::new(Compression::None)));
        }
        together.iter().for_each(|record| open.push(record));
    }
    if !open.is_empty() {
        all.push(open);
    }
    match all.iter().map(BatchBuilder::plain_bytes).find(|bytes| *bytes > max) {
        Some(bytes) => Err(bytes),
        None => Ok(all),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(records: usize, cuts: &[usize], max: usize) -> Result<Vec<usize>, usize> {
        let record = (Bytes::from_static(b"key"), Some(Bytes::from(vec![7; 100])));
        let all = batches(vec![record; records], cuts, 42, max)?;
        Ok(all.iter().map(BatchBuilder::len).collect())
    }

    #[test]
    fn batches_end_where_they_may_and_are_as_large_as_they_can_be() {
        assert_eq!(sizes(0, &[], 1_000), Ok(vec![]));
        assert_eq!(sizes(3, &[], 1_000), Ok(vec![3]));
        assert_eq!(sizes(20, &(1..20).collect::<Vec<_>>(), 1_000), Ok(vec![7, 7, 6]));
        assert_eq!(sizes(10, &[2, 6, 10], 1_000), Ok(vec![6, 4]));
    }

    #[test]
    fn what_stays_together_and_is_too_large_is_told() {
        assert!(matches!(sizes(20, &[1], 1_000), Err(2_000..2_400)));
        assert!(matches!(sizes(1, &[], 100), Err(101..200)));
    }
}
