//! Settings, with Kafka's defaults.

/// Times are in milliseconds.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `group.min.session.timeout.ms`
    pub min_session_ms: i32,
    /// `group.max.session.timeout.ms`
    pub max_session_ms: i32,
    /// `group.initial.rebalance.delay.ms`
    pub initial_rebalance_delay_ms: i32,
    /// `group.max.size`
    pub max_size: usize,
    /// How long a member that has no id yet may wait in a join (no setting in Kafka either).
    pub new_member_join_ms: i32,
    /// `group.consumer.heartbeat.interval.ms`
    pub consumer_heartbeat_ms: i32,
    /// `group.consumer.session.timeout.ms`
    pub consumer_session_ms: i32,
    /// `group.consumer.max.size`, at least 1
    pub consumer_max_size: usize,
    /// `offset.metadata.max.bytes`
    pub offset_metadata_max_bytes: usize,
    /// `offsets.retention.minutes`, in milliseconds
    pub offsets_retention_ms: i64,
    /// `offsets.retention.check.interval.ms`
    pub offsets_check_ms: i64,
    /// `max.message.bytes` of the partition, as it was when its log was read: no request leads to a
    /// batch that is larger.
    pub max_batch_bytes: usize,
}

/// Longest name of a member, rack, protocol or client, bytes: keys of records have room for 32 KiB,
/// and each record of a member carries some of them.
pub(crate) const NAME_MAX: usize = 1 << 10;
/// Longest name of a topic or a static member, bytes, as in Kafka.
pub(crate) const TOPIC_NAME_MAX: usize = 249;

/// What a batch takes beside its records, with room to spare.
const BATCH_BYTES: usize = 1 << 10;
/// Most that a record takes in a batch beside its key and value.
const RECORD_BYTES: usize = 64;

/// Most of what a record takes.
pub(crate) fn record_bytes(key: &[u8], value: Option<&[u8]>) -> usize {
    RECORD_BYTES + key.len() + value.map_or(0, <[u8]>::len)
}

impl Settings {
    /// For records that must be in one batch.
    pub(crate) fn batch_room(&self) -> usize {
        self.max_batch_bytes.saturating_sub(BATCH_BYTES).max(1)
    }

    /// For a record of what a member of a consumer group says, or has: one heartbeat may write four
    /// of them, and patterns.
    pub(crate) fn member_room(&self) -> usize {
        self.batch_room() / 8
    }

    /// For what all patterns of a consumer group match: they may all be written at once, beside the
    /// tombstones of those before them.
    pub(crate) fn patterns_room(&self) -> usize {
        self.batch_room() / 6
    }

    /// For all that one member may be assigned: what it has and what it gives back, each partition
    /// with its epoch, is a record of it.
    pub(crate) fn target_room(&self) -> usize {
        self.member_room() / 4
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            min_session_ms: 6_000,
            max_session_ms: 1_800_000,
            initial_rebalance_delay_ms: 3_000,
            max_size: usize::MAX,
            new_member_join_ms: 300_000,
            consumer_heartbeat_ms: 5_000,
            consumer_session_ms: 45_000,
            consumer_max_size: usize::MAX,
            offset_metadata_max_bytes: 4_096,
            offsets_retention_ms: 7 * 24 * 3_600_000,
            offsets_check_ms: 600_000,
            max_batch_bytes: 16 << 20,
        }
    }
}
