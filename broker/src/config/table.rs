//! Every setting there is: its type, name, bounds, default and doc, once.
//!
//! Owns: the table, and the two structs that are made from its rows. Everything else (parsing,
//! checks, `levee config explain`, the listing of a topic's settings) follows from the rows.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use levee_proto::limits;
use levee_proto::metalog::DurabilityClass;

use super::advertised::Advertised;
use super::bucket_url::BucketUrl;
use super::choices::{CleanupPolicy, LagPolicy, LocalFlush, TimestampType};
use super::setting::{GIB, KIB, Kind, MIB, Scope, Setting, TIB};
use super::values::Values;

/// Makes a struct of typed settings and the table they come from.
macro_rules! settings {
    ($(#[$about:meta])* $config:ident, $table:ident, $scope:expr;
     $($field:ident: $type:ty = $setting:expr, $doc:literal;)*) => {
        pub static $table: &[Setting] = &[$($setting.documented($scope, $doc)),*];

        $(#[$about])*
        #[derive(Debug, Clone)]
        pub struct $config {
            $(#[doc = $doc] pub $field: $type,)*
            pub(super) values: Values,
        }

        impl $config {
            pub(super) fn typed(values: Values) -> Self {
                Self { $($field: values.typed($setting.name),)* values }
            }
        }
    };
}

/// What Kafka's tools write for never.
const LONG_MAX: &str = "9223372036854775807";
const BATCH_MAX: u64 = limits::BATCH_BYTES_MAX as u64;
const RANGE_MAX: u64 = limits::RANGE_BYTES_MAX;
const SECOND: u64 = 1_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
/// Longest time that can be asked for, where none is too long: a hundred years.
const CENTURY: u64 = 36_500 * DAY;

/// Largest size that can be asked for, where none is too large: an exbibyte.
const SIZE_MAX: u64 = 1 << 60;

const ADDR: Kind = Kind::Addr;

settings! {
    /// The checked settings of one broker. Fields may be changed in tests; `sources` makes them
    /// for everybody else.
    BrokerConfig, BROKER_SETTINGS, Scope::Broker;

    // Who and where.
    data_dir: PathBuf = Setting::of_kind("data.dir", Kind::Path, "/var/lib/levee")
        .dev("./levee-data"),
        "Folder of everything local: WAL and hot segments. One broker per folder.";
    bucket_url: BucketUrl = Setting::of_kind("bucket.url", Kind::Url, "")
        .derived("none; with `levee dev` the folder `bucket` in data.dir"),
        "The bucket: what is true. Credentials come from the usual environment variables or \
         from query keys of the URL.";
    broker_id: u32 = Setting::int("broker.id", 1, i32::MAX as u64, "1"),
        "Identity of this broker. A second process with the same id takes over from the first.";
    zone: String = Setting::of_kind("zone", Kind::Text, ""),
        "Failure zone of this broker. Recorded with its session; nothing depends on it yet.";
    grpc_listen: SocketAddr = Setting::of_kind("grpc.listen", ADDR, "127.0.0.1:9644"),
        "Where clients connect (gRPC).";
    http_listen: SocketAddr = Setting::of_kind("http.listen", ADDR, "127.0.0.1:9645"),
        "Where /metrics, /healthz and /readyz are.";
    kafka_listen: Option<SocketAddr> = Setting::of_kind("kafka.listen", ADDR, "none")
        .dev("127.0.0.1:9092").or_absent("none"),
        "Where Kafka clients connect. none: they cannot.";
    kafka_advertised: Option<Advertised> = Setting::of_kind(
        "kafka.advertised", Kind::Advertised, "same").or_absent("same"),
        "The address that Kafka clients are told to connect to; it may differ by the network they \
         come from. same: the one that they connected to.";
    kafka_idle_timeout: Duration = Setting::duration(
        "kafka.idle.timeout", SECOND, DAY, "10m"),
        "A Kafka connection that sends nothing for so long is closed.";
    kafka_replication_factor_max: u32 = Setting::int("kafka.replication.factor.max", 1, 100, "3"),
        "Largest replication factor that Kafka clients may ask a topic for. It changes nothing: what \
         is kept where is the topic's durability.class. Many programs ask for 3 and go no further \
         without it.";
    auto_create_topics: bool = Setting::of_kind("auto.create.topics", Kind::Bool, "false")
        .dev("true"),
        "A topic that a Kafka client asks for comes into being, if the client wants that too.";

    // Groups and their offsets.
    offsets_topic_partitions: u32 = Setting::int("offsets.topic.partitions", 1, 1000, "50"),
        "Partitions of __consumer_offsets, over which groups are spread. Counts when the first \
         group comes.";
    transactions_topic_partitions: u32 = Setting::int("transactions.topic.partitions", 1, 1000, "50"),
        "Partitions of __transaction_state, over which transactional ids are spread. Counts when \
         the first transaction comes.";
    transaction_max_timeout: Duration = Setting::duration(
        "transaction.max.timeout", SECOND, DAY, "15m"),
        "Longest time that a producer may ask for its transactions; one that takes longer is aborted.";
    offsets_retention: Duration = Setting::duration(
        "offsets.retention", MINUTE, CENTURY, "7d"),
        "How long the offsets of a group without members are kept.";
    group_initial_rebalance_delay: Duration = Setting::duration(
        "group.initial.rebalance.delay", 0, HOUR, "3s").dev("0s"),
        "How long the first members of an empty group wait for more.";
    group_min_session_timeout: Duration = Setting::duration(
        "group.min.session.timeout", 1, HOUR, "6s"),
        "Shortest session that a member may ask for.";
    group_max_session_timeout: Duration = Setting::duration(
        "group.max.session.timeout", SECOND, DAY, "30m"),
        "Longest session that a member may ask for.";
    group_consumer_session_timeout: Duration = Setting::duration(
        "group.consumer.session.timeout", SECOND, HOUR, "45s"),
        "After what silence a member of a consumer group (KIP-848, gRPC) is out.";
    group_consumer_heartbeat_interval: Duration = Setting::duration(
        "group.consumer.heartbeat.interval", 100, MINUTE, "5s"),
        "How often members of consumer groups are to be heard from.";

    // Second requests to the bucket where first ones are slow.
    store_hedge_reads: bool = Setting::of_kind("store.hedge.reads", Kind::Bool, "true"),
        "Repeat a ranged read that takes longer than the p95 of such reads; the first answer \
         counts. Not for folders.";
    store_hedge_creates: bool = Setting::of_kind("store.hedge.creates", Kind::Bool, "false"),
        "The same for writes of up to 8MiB, which slots of the WAL are: the same bytes under the \
         same key, of which the bucket keeps one.";
    store_hedge_percent: u32 = Setting::int("store.hedge.percent", 0, 50, "5"),
        "Second requests at most, per hundred first ones.";

    // Requests.
    default_partitions: u32 = Setting::int(
        "default.partitions", 1, limits::PARTITIONS_PER_TOPIC_MAX as u64, "1"),
        "Partitions of a topic that is created without a number.";
    max_batch_bytes: u64 = Setting::bytes("max.batch.bytes", 64 * KIB, BATCH_MAX, "16MiB"),
        "Largest record batch that any topic may accept, as it arrives (compressed).";
    request_bytes: u64 = Setting::bytes("request.bytes", 2 * MIB, TIB, "256MiB"),
        "Memory for requests that are received and not dealt with, of gRPC clients and as much of \
         Kafka clients; they wait for room. At \
         least max.batch.bytes and 2MiB more. Appends that wait for a topic may take half of it, or one batch.";
    answer_bytes: u64 = Setting::bytes("answer.bytes", 32 * MIB, 4 * GIB, "256MiB"),
        "Memory for answers to reads that are made and not yet taken by their clients; further \
         reads wait a little, and then get small answers.";
    connections_max: u32 = Setting::int("connections.max", 1, 1_000_000, "4096"),
        "Connections of clients at a time; more wait.";
    request_timeout: Duration = Setting::duration(
        "request.timeout", SECOND, 10 * MINUTE, "30s"),
        "When a request that names no time of its own is answered at the latest.";
    shutdown_timeout: Duration = Setting::duration(
        "shutdown.timeout", SECOND, HOUR, "25s"),
        "How long a stop waits for what is under way before it stops anyway.";

    // Local WAL.
    wal_file_bytes: u64 = Setting::bytes("wal.file.bytes", 4 * MIB, 4 * GIB, "64MiB"),
        "Size of one file of the local WAL; a multiple of 4KiB. Files are recycled.";
    wal_queue_bytes: u64 = Setting::bytes("wal.queue.bytes", MIB, 4 * GIB, "64MiB"),
        "Bytes that may wait for the local WAL; more appends wait.";
    wal_flush_interval: Duration = Setting::duration(
        "wal.flush.interval", 1, 10 * SECOND, "50ms"),
        "Longest time between write and sync for topics with local.flush=interval.";

    // Object lane: the WAL in the bucket.
    object_lane_linger: Duration = Setting::duration("object.lane.linger", 1, SECOND, "")
        .derived("100ms; 5ms where the bucket is a folder or memory"),
        "How long entries gather before they become a slot in the bucket. Shorter acks sooner \
         and costs more requests.";
    object_lane_slot_bytes: u64 = Setting::bytes(
        "object.lane.slot.bytes", 64 * KIB, BATCH_MAX, "4MiB"),
        "A slot is written before its linger is over once it holds this much.";
    object_lane_inflight: u32 = Setting::int("object.lane.inflight", 1, 64, "8"),
        "Slots that are written side by side.";
    object_lane_queue_bytes: u64 = Setting::bytes(
        "object.lane.queue.bytes", MIB, 4 * GIB, "64MiB"),
        "Bytes that may wait for the object lane, those under way included; more appends wait.";

    // Memory and disk.
    tail_bytes: u64 = Setting::bytes("tail.bytes", MIB, TIB, "64MiB"),
        "Memory for the newest batches of all partitions together, with what they take beside their \
         bytes. Appends wait at twice of it, or at four times together with what is kept of each \
         batch until it is in the bucket.";
    hot_bytes: Option<u64> = Setting::bytes("hot.bytes", 16 * MIB, 1024 * TIB, "auto")
        .or_absent("auto"),
        "Disk for hot segments of all partitions together. auto: 10GiB, or half of what is free \
         if that is less.";
    hot_segment_bytes: u64 = Setting::bytes(
        "hot.segment.bytes", MIB, RANGE_MAX, "64MiB"),
        "Size of one hot segment file, for topics that do not say (segment.bytes).";
    disk_reserve_bytes: u64 = Setting::bytes("disk.reserve.bytes", 0, TIB, "512MiB"),
        "Appends are refused while less than this is free on the disk of data.dir.";

    // Offload.
    tier_interval: Duration = Setting::duration("tier.interval", 100, DAY, "10s"),
        "Longest time that durable records wait before they are cut for upload.";
    tier_bytes: u64 = Setting::bytes("tier.bytes", MIB, 64 * GIB, "128MiB"),
        "Durable bytes that are not in tiered objects yet and start a cut before tier.interval.";
    tier_l2_bytes: u64 = Setting::bytes("tier.l2.bytes", MIB, RANGE_MAX, "64MiB"),
        "A partition with at least this much in a cut gets an object of its own (L2).";
    tier_object_bytes: u64 = Setting::bytes(
        "tier.object.bytes", MIB, RANGE_MAX, "128MiB"),
        "Size of a tiered object at which the next one begins.";
    upload_deadline: Duration = Setting::duration(
        "upload.deadline", SECOND, HOUR, "120s"),
        "An upload that takes longer is given up and made again as a new object.";
    upload_progress_timeout: Duration = Setting::duration(
        "upload.progress.timeout", SECOND, HOUR, "30s"),
        "An upload that moves no byte for this long is given up.";
    upload_verify_data: bool = Setting::of_kind("upload.verify.data", Kind::Bool, "false"),
        "Read every uploaded object back in full before it is referenced; else its length, \
         footer and checksums.";

    // Reads from the bucket.
    cache_bytes: u64 = Setting::bytes("cache.bytes", MIB, TIB, "64MiB"),
        "Memory for what was read from the bucket.";
    cache_disk_bytes: Option<u64> = Setting::bytes("cache.disk.bytes", 0, 1024 * TIB, "auto")
        .or_absent("auto"),
        "Disk for copies of what is read from the bucket again and again, and (a sixteenth of it) \
         of the footers that a start reads. auto: 10GiB, or a quarter of what is free if that is \
         less; none where the bucket is a folder. It gives way while less than three times \
         disk.reserve.bytes is free. 0: none.";
    cache_chunk_bytes: u64 = Setting::bytes("cache.chunk.bytes", 64 * KIB, 16 * MIB, "1MiB"),
        "Unit of reading from the bucket and of its cache.";
    readahead_bytes: u64 = Setting::bytes("readahead.bytes", 64 * KIB, 4 * GIB, "16MiB"),
        "Most bytes that are fetched ahead of one reader. How much it is follows the reader's \
         speed; nothing for its first read.";
    readahead_total_bytes: u64 = Setting::bytes(
        "readahead.total.bytes", 64 * KIB, 64 * GIB, "64MiB"),
        "Memory for what is fetched ahead of all readers together; they share it evenly.";
    catch_up_bytes_per_second: Option<u64> = Setting::bytes(
        "catch.up.bytes.per.second", 64 * KIB, TIB, "32MiB").or_absent("off"),
        "What readers of the bucket may always read in a second, together. They read as fast as \
         they can while nothing is appended, or while acks do not come later for it; otherwise \
         they are slowed, down to this. off: they are never slowed.";

    // Metadata, retention, garbage.
    meta_retain: Duration = Setting::duration("meta.retain", MINUTE, 365 * DAY, "24h"),
        "How long slots of the MetaLog are kept after a snapshot covers them.";
    meta_snapshot_interval: Duration = Setting::duration(
        "meta.snapshot.interval", SECOND, DAY, "10m"),
        "Longest time between two snapshots of the metadata.";
    meta_snapshot_bytes: u64 = Setting::bytes(
        "meta.snapshot.bytes", 64 * KIB, GIB, "64MiB"),
        "Bytes of MetaLog after which a snapshot is written before meta.snapshot.interval.";
    merge_interval: Duration = Setting::duration("merge.interval", 100, DAY, "10s"),
        "How often small objects are looked for that are worth merging.";
    merge_fan_in: u32 = Setting::int("merge.fan.in", 2, 64, "16"),
        "Objects of one size that become one. More: fewer bytes are written again, more small \
         objects stay.";
    compaction_interval: Duration = Setting::duration(
        "compaction.interval", 100, 30 * DAY, "5m").dev("30s"),
        "How often topics with cleanup.policy=compact are looked through for what is worth \
         compacting.";
    compaction_map_bytes: u64 = Setting::bytes(
        "compaction.map.bytes", 64 * MIB, TIB, "128MiB"),
        "Memory for the keys of one compaction, 32 to 64 bytes each. What finds no room waits for \
         the next.";
    upkeep_bytes_per_second: u64 = Setting::bytes(
        "upkeep.bytes.per.second", 64 * KIB, TIB, "64MiB"),
        "Bytes that merging, scrubbing and repair together read from the bucket in a second; \
         merging writes as much.";
    upkeep_requests_per_second: u32 = Setting::int(
        "upkeep.requests.per.second", 1, 100_000, "50"),
        "Reads from the bucket that merging, scrubbing and repair together make in a second.";
    scrub_bytes_per_second: Option<u64> = Setting::bytes(
        "scrub.bytes.per.second", KIB, TIB, "4MiB").or_absent("off"),
        "How fast everything in the bucket is read again to find damage. off: never. 4MiB is \
         a third of a TiB a day.";
    scrub_interval: Duration = Setting::duration("scrub.interval", SECOND, 365 * DAY, "24h"),
        "Time from the start of one scrub of everything to the start of the next, at least.";
    gc_grace: Duration = Setting::duration("gc.grace", SECOND, 30 * DAY, "15m"),
        "How long an object stays after nothing refers to it. Keep above 6m where several \
         brokers read: a reader may hold an old plan that long.";
    sweep_interval: Duration = Setting::duration("sweep.interval", SECOND, 30 * DAY, "1h"),
        "How often the bucket is listed for what ended sessions left behind.";
    audit_interval: Option<Duration> = Setting::duration(
        "audit.interval", SECOND, 365 * DAY, "24h").or_absent("off"),
        "How often metadata, listing and footers are held against each other. off: never. Costs \
         one small read for each object.";
    retention_check_interval: Duration = Setting::duration(
        "retention.check.interval", 100, DAY, "30s"),
        "How often retention is applied.";
    delete_delay: Duration = Setting::duration("delete.delay", 0, CENTURY, "24h"),
        "How long the data of a deleted topic stays, against human error.";
}

settings! {
    /// The checked settings of one topic.
    TopicConfig, TOPIC_SETTINGS, Scope::Topic;

    durability_class: DurabilityClass = Setting::choice(
        "durability.class", &["object", "local"],
        &[("replicated", "it needs peers, which come with clusters of several brokers")])
        .dev("local"),
        "What an ack promises. object: the record is in the bucket and survives every disk. \
         local: it is synced on the broker's disk and goes with that disk until it is tiered.";
    local_flush: LocalFlush = Setting::choice("local.flush", &["always", "interval"], &[]),
        "With durability.class=local. always: synced before the ack. interval: acked when \
         written, synced within wal.flush.interval; a power loss can take what came in between.";
    retention_ms: Option<Duration> = Setting::duration(
        "retention.ms", 1, CENTURY, "604800000").or_absent("-1"),
        "Records older than this are deleted. -1: never.";
    retention_bytes: Option<u64> = Setting::bytes(
        "retention.bytes", 1, SIZE_MAX, "-1").or_absent("-1"),
        "Oldest records of a partition are deleted above this size. -1: never.";
    local_retention_ms: Option<Duration> = Setting::duration(
        "local.retention.ms", 1, CENTURY, "-1").or_absent("-1"),
        "Hot copies older than this are dropped once they are in the bucket. -1: only when \
         hot.bytes needs the room.";
    local_retention_bytes: Option<u64> = Setting::bytes(
        "local.retention.bytes", 1, SIZE_MAX, "-1").or_absent("-1"),
        "Hot copies of a partition above this size are dropped, oldest first, once they are in \
         the bucket. -1: only when hot.bytes needs the room.";
    segment_bytes: u64 = Setting::bytes("segment.bytes", MIB, RANGE_MAX, "")
        .derived("hot.segment.bytes of the broker"),
        "Size of one hot segment file.";
    max_message_bytes: u64 = Setting::bytes("max.message.bytes", KIB, BATCH_MAX, "")
        .derived("max.batch.bytes of the broker"),
        "Largest record batch that is accepted, as it arrives (compressed).";
    message_timestamp_after_max_ms: Option<Duration> = Setting::duration(
        "message.timestamp.after.max.ms", 0, CENTURY, "3600000").or_absent("-1"),
        "Batches with a record this far ahead of the broker's clock are refused: such a record \
         would be kept past any retention.ms. -1: none is.";
    message_timestamp_type: TimestampType = Setting::choice(
        "message.timestamp.type", &["CreateTime", "LogAppendTime"], &[]),
        "Whose time a record has. CreateTime: its producer's. LogAppendTime: that of the broker when \
         it was appended; costs a copy of each batch.";
    compression_type: String = Setting::choice("compression.type", &["producer"], &[]),
        "Kafka's name for how batches are kept: as their producer compressed them.";
    min_insync_replicas: u32 = Setting::int("min.insync.replicas", 1, 3, "1"),
        "Taken because Kafka's programs set it; what an ack promises is durability.class.";
    unclean_leader_election_enable: String = Setting::choice(
        "unclean.leader.election.enable", &["false"],
        &[("true", "no leader begins without the acknowledged records")]),
        "Kafka's name for whether a leader may begin without acknowledged records: none does.";
    remote_storage_enable: String = Setting::choice(
        "remote.storage.enable", &["true"], &[("false", "every topic is tiered")]),
        "Kafka's name for whether a topic is tiered: every one is.";
    segment_ms: Duration = Setting::duration("segment.ms", 1, CENTURY, "604800000"),
        "Taken because Kafka's programs set it; a hot segment file ends by its size.";
    upload_lag_max_bytes: Option<u64> = Setting::bytes(
        "upload.lag.max.bytes", MIB, 1024 * TIB, "4GiB").or_absent("-1"),
        "Bytes of the topic on one broker that may be acknowledged and not in the bucket yet; \
         above it upload.lag.policy holds. -1: as much as the disk takes.";
    upload_lag_policy: LagPolicy = Setting::choice("upload.lag.policy", &["block", "shed"], &[]),
        "Above upload.lag.max.bytes. block: appends wait, up to their timeout. shed: they are \
         refused at once, retriable.";
    cleanup_policy: CleanupPolicy = Setting::choice(
        "cleanup.policy", &["delete", "compact", "compact,delete", "delete,compact"], &[]),
        "What becomes of old records. delete: retention.ms and retention.bytes take them away. \
         compact: the newest record of each key is kept. Both: old keys go as well.";
    min_cleanable_dirty_ratio: f64 = Setting::of_kind(
        "min.cleanable.dirty.ratio", Kind::Ratio, "0.5"),
        "With cleanup.policy=compact. A partition is compacted once so much of its bytes in the \
         bucket was not compacted yet.";
    min_compaction_lag_ms: Option<Duration> = Setting::duration(
        "min.compaction.lag.ms", 0, CENTURY, "0").or_absent(LONG_MAX),
        "With cleanup.policy=compact. Records younger than this stay.";
    max_compaction_lag_ms: Option<Duration> = Setting::duration(
        "max.compaction.lag.ms", 1, CENTURY, LONG_MAX).or_absent(LONG_MAX),
        "With cleanup.policy=compact. A partition is compacted once a record waits for it this \
         long, whatever min.cleanable.dirty.ratio says.";
    delete_retention_ms: Option<Duration> = Setting::duration(
        "delete.retention.ms", 0, CENTURY, "86400000").or_absent(LONG_MAX),
        "With cleanup.policy=compact. How long a record without a value, which deletes its key, \
         stays after its first compaction: readers who are slower than that may miss it.";
}
