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
        }
    }
}
