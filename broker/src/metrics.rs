//! The names of all metrics, the recorder, and what the kernel says of this process.
//!
//! Owns: the one list of names with unit and meaning; histogram bounds. Does not own: counting
//! (each module counts what it does) and the listener (`http`).

// The process itself is not part of the simulation.
#![allow(clippy::disallowed_methods)]

mod process;

use std::sync::OnceLock;

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

pub use process::process_metrics;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Counter,
    Gauge,
    Histogram,
}

use Shape::{Counter, Gauge, Histogram};

/// Every metric of the product, in the order of a record's way. A test looks for names in the
/// sources that are not here.
const METRICS: &[(Shape, &str, Unit, &str)] = &[
    (Counter, "levee_kafka_requests_total", Unit::Count, "Kafka requests, by api"),
    (Histogram, "levee_kafka_request_seconds", Unit::Seconds, "one but produce, by api"),
    (Counter, "levee_kafka_connections_closed_total", Unit::Count, "Kafka connections that ended"),
    (Counter, "levee_append_requests_total", Unit::Count, "appends, by outcome"),
    (Counter, "levee_append_records_total", Unit::Count, "records acknowledged"),
    (Counter, "levee_append_bytes_total", Unit::Bytes, "batch bytes acknowledged"),
    (Histogram, "levee_append_seconds", Unit::Seconds, "from an append's arrival to its answer"),
    (Counter, "levee_wal_groups_total", Unit::Count, "groups or slots made durable, by lane"),
    (Counter, "levee_wal_bytes_total", Unit::Bytes, "bytes made durable, by lane"),
    (Histogram, "levee_wal_sync_seconds", Unit::Seconds, "one sync or slot write, by lane"),
    (Gauge, "levee_wal_stalled", Unit::Count, "1 while a lane is stalled, by lane"),
    (Histogram, "levee_ack_seconds", Unit::Seconds, "from offset to ack"),
    (Gauge, "levee_tail_bytes", Unit::Bytes, "memory of the newest batches"),
    (Gauge, "levee_hot_bytes", Unit::Bytes, "hot segments on disk"),
    (Gauge, "levee_upload_lag_bytes", Unit::Bytes, "acknowledged and not in the bucket, by topic"),
    (Gauge, "levee_upload_lag_seconds", Unit::Seconds, "age of the oldest of it, by topic"),
    (Counter, "levee_upload_objects_total", Unit::Count, "tiered objects, by level and outcome"),
    (Counter, "levee_upload_bytes_total", Unit::Bytes, "bytes of tiered objects, by level"),
    (Histogram, "levee_upload_seconds", Unit::Seconds, "one object from plan to verified"),
    (Counter, "levee_store_requests_total", Unit::Count, "bucket requests, by op and outcome"),
    (Histogram, "levee_store_request_seconds", Unit::Seconds, "one bucket request, by op"),
    (Counter, "levee_store_bytes_total", Unit::Bytes, "bytes moved to and from the bucket, by op"),
    (Counter, "levee_store_hedges_total", Unit::Count, "second bucket requests, by op and outcome"),
    (Counter, "levee_read_requests_total", Unit::Count, "reads, by source and outcome"),
    (Counter, "levee_read_bytes_total", Unit::Bytes, "bytes served, by source"),
    (Histogram, "levee_read_seconds", Unit::Seconds, "a read without its long poll, by source"),
    (Gauge, "levee_answer_bytes", Unit::Bytes, "answers to reads that wait for their clients"),
    (Histogram, "levee_remote_read_seconds", Unit::Seconds, "one read from the bucket"),
    (Counter, "levee_cache_hits_total", Unit::Count, "found in the cache, by level"),
    (Counter, "levee_cache_misses_total", Unit::Count, "not found in the cache, by level"),
    (Counter, "levee_cache_joined_total", Unit::Count, "chunks that another read was fetching"),
    (Counter, "levee_cache_admitted_total", Unit::Count, "written to the disk cache, by cache"),
    (Counter, "levee_cache_refused_total", Unit::Count, "not kept: the disk is behind, by cache"),
    (Counter, "levee_cache_kept_total", Unit::Count, "given a second chance on disk, by cache"),
    (Counter, "levee_cache_evicted_total", Unit::Count, "evicted from disk, by cache"),
    (Counter, "levee_cache_damaged_total", Unit::Count, "copies on disk not used, by cache"),
    (Gauge, "levee_cache_bytes", Unit::Bytes, "bytes in the cache, by level and cache"),
    (Counter, "levee_readahead_bytes_total", Unit::Bytes, "fetched ahead, by outcome"),
    (Gauge, "levee_catch_up_limit_bytes_per_second", Unit::Bytes, "for reads of the bucket"),
    (Histogram, "levee_catch_up_wait_seconds", Unit::Seconds, "reads slowed for appends"),
    (Gauge, "levee_metalog_slot", Unit::Count, "newest slot of the MetaLog that was folded"),
    (Counter, "levee_gc_deleted_objects_total", Unit::Count, "objects deleted from the bucket"),
    (Counter, "levee_merge_jobs_total", Unit::Count, "merges of small objects, by outcome"),
    (Counter, "levee_merge_objects_total", Unit::Count, "objects that were merged into others"),
    (Counter, "levee_merge_bytes_total", Unit::Bytes, "bytes that merging wrote"),
    (Counter, "levee_compaction_jobs_total", Unit::Count, "compactions by key, by outcome"),
    (Counter, "levee_compaction_objects_total", Unit::Count, "objects that were compacted"),
    (Counter, "levee_compaction_bytes_total", Unit::Bytes, "bytes that compaction wrote"),
    (Gauge, "levee_compaction_left_out", Unit::Count, "partitions and objects, for a while"),
    (Counter, "levee_scrub_objects_total", Unit::Count, "objects that were read again"),
    (Counter, "levee_scrub_bytes_total", Unit::Bytes, "bytes that were read again"),
    (Counter, "levee_scrub_damaged_total", Unit::Count, "damaged objects, by outcome"),
    (Gauge, "levee_scrub_damaged_objects", Unit::Count, "damaged, without another copy"),
    (Gauge, "levee_scrub_pass_seconds", Unit::Seconds, "how long reading everything took"),
    (Counter, "levee_audits_total", Unit::Count, "audits of the bucket"),
    (Gauge, "levee_audit_findings", Unit::Count, "what the newest audit found wrong"),
    (Gauge, "levee_audit_orphan_bytes", Unit::Bytes, "left behind by writers that ended"),
    (Gauge, "levee_audit_dead_bytes", Unit::Bytes, "needless bytes in objects that are needed"),
    (Gauge, "levee_audit_objects_per_gib", Unit::Count, "referenced objects for each GiB"),
    (Gauge, "levee_partitions", Unit::Count, "partitions of this broker, by state"),
];

/// Upper bounds of all histograms of seconds: 100 us (a sync) to 60 s (an upload).
const SECONDS: [f64; 18] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 30.0, 60.0,
];

/// Makes the recorder of this process; later calls give the same one.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    if let Some(handle) = HANDLE.get() {
        return Ok(handle.clone());
    }
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)?
        .install_recorder()?;
    describe();
    Ok(HANDLE.get_or_init(|| handle).clone())
}

fn describe() {
    for &(shape, name, unit, help) in METRICS {
        match shape {
            Counter => describe_counter!(name, unit, help),
            Gauge => describe_gauge!(name, unit, help),
            Histogram => describe_histogram!(name, unit, help),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn names_say_their_shape() {
        for (number, (shape, name, _, help)) in METRICS.iter().enumerate() {
            assert!(name.starts_with("levee_") && !help.is_empty(), "{name}");
            assert_eq!(*shape == Counter, name.ends_with("_total"), "{name}");
            if *shape == Histogram {
                assert!(name.ends_with("_seconds"), "{name} would get no bounds");
            }
            assert!(METRICS[..number].iter().all(|other| other.1 != *name), "{name} twice");
        }
    }

    /// Names in `counter!("..")`, `gauge!("..")` and `histogram!("..")` of the product's sources.
    fn used(dir: &Path, out: &mut Vec<(String, String)>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                used(&path, out);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                for call in ["counter!(", "gauge!(", "histogram!("] {
                    for after in text.split(call).skip(1) {
                        let Some(rest) = after.trim_start().strip_prefix("\"levee_") else {
                            continue;
                        };
                        let name = rest.split('"').next().unwrap_or_default();
                        out.push((format!("levee_{name}"), path.display().to_string()));
                    }
                }
            }
        }
    }

    #[test]
    fn every_metric_in_the_sources_is_described() {
        let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut found = Vec::new();
        for dir in ["runtime/src", "tiering/src", "broker/hot-log/src", "broker/src"] {
            used(&top.join(dir), &mut found);
        }
        assert!(!found.is_empty(), "this file alone has one");
        for (name, path) in &found {
            let known = METRICS.iter().any(|metric| metric.1 == *name);
            assert!(known, "{name} in {path} is missing in METRICS of broker/src/metrics.rs");
        }
        for (_, name, ..) in METRICS {
            let is_recorded = found.iter().any(|(found, _)| found == name);
            assert!(is_recorded, "{name} is described and nobody records it");
        }
    }

    #[test]
    fn histograms_have_bounds() {
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)
            .unwrap()
            .build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            describe();
            metrics::histogram!("levee_ack_seconds").record(0.0003);
        });
        let text = handle.render();
        assert!(text.contains("levee_ack_seconds_bucket{le=\"0.0005\"} 1"), "{text}");
        assert!(text.contains("# HELP levee_ack_seconds"), "{text}");
    }
}
