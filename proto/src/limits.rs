//! Every hard bound of the formats, in one place. Bytes unless the name says otherwise.

/// Largest record batch that is accepted, and that a reader will allocate for.
pub const BATCH_BYTES_MAX: usize = 64 << 20;
/// Largest decompressed size of one batch.
pub const BATCH_DECODED_BYTES_MAX: usize = 256 << 20;
/// Most records of one batch that is accepted.
pub const BATCH_RECORDS_MAX: usize = 500_000;
/// Largest footer of a tiered object.
pub const FOOTER_BYTES_MAX: usize = 64 << 20;
/// Largest tiered object.
pub const OBJECT_BYTES_MAX: u64 = 4 << 30;
/// Largest byte range of one partition inside a tiered object (positions in it are `u32`).
pub const RANGE_BYTES_MAX: u64 = 1 << 30;
/// Bytes of data between two entries of a sparse index.
pub const SPARSE_INDEX_STRIDE: usize = 64 << 10;
/// Largest WAL slot or local group, entries included.
pub const WAL_GROUP_BYTES_MAX: usize = 80 << 20;
/// Where local WAL groups start: a multiple of this, which is also the O_DIRECT unit.
pub const WAL_ALIGN: usize = 4096;
/// Largest MetaLog slot.
pub const METALOG_SLOT_BYTES_MAX: usize = 8 << 20;
/// Largest MetaLog snapshot, compressed or not.
pub const SNAPSHOT_BYTES_MAX: usize = 1 << 30;
/// Idempotent producers: batches remembered per producer and partition (Kafka's number).
pub const PRODUCER_BATCHES: usize = 5;
/// Idempotent producers that one partition remembers; above it, the tenth that wrote longest ago goes.
pub const PRODUCERS_MAX: usize = 10_000;
/// Aborted transactions of one range: they stand in its footer (8 MiB).
pub const RANGE_ABORTED_MAX: usize = 1 << 18;
/// Topic name, as in Kafka: `[a-zA-Z0-9._-]{1,249}`.
pub const TOPIC_NAME_CHARS_MAX: usize = 249;
/// Partitions of one topic.
pub const PARTITIONS_PER_TOPIC_MAX: u32 = 20_000;

const _: () = {
    assert!(BATCH_BYTES_MAX + (1 << 20) <= WAL_GROUP_BYTES_MAX, "a batch must fit a WAL group");
    assert!(WAL_ALIGN.is_multiple_of(512));
    assert!(RANGE_BYTES_MAX <= u32::MAX as u64, "positions in a range are u32");
};
