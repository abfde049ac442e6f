//! Tests of the settings as their users meet them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use levee_proto::metalog::DurabilityClass;

use super::sources::every_setting;
use super::*;

fn dev(set: &[(&str, &str)]) -> Result<BrokerConfig, ConfigError> {
    BrokerConfig::dev(Path::new("/data"), set)
}

fn refused(set: &[(&str, &str)]) -> String {
    dev(set).unwrap_err().to_string()
}

fn topic(set: &[(&str, &str)]) -> BTreeMap<String, String> {
    set.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

#[test]
fn table_is_sound() {
    let mut names = BTreeSet::new();
    for setting in every_setting() {
        assert!(names.insert(setting.name), "{} is there twice", setting.name);
        assert!(!setting.doc.is_empty() && setting.doc.ends_with('.'), "{}", setting.name);
        assert!(!setting.name.contains('_'), "{} has no clear variable", setting.name);
        assert!(setting.min <= setting.max, "{}", setting.name);
    }
    for name in &names {
        let below = format!("{name}.");
        let nested = names.iter().find(|other| other.starts_with(&below));
        assert_eq!(nested, None, "{name} would be both a value and a table in TOML");
    }
}

/// Also proves that each row's kind and type agree, and that derived defaults get a value.
#[test]
fn defaults_of_dev() {
    let config = dev(&[]).unwrap();
    assert_eq!(config.data_dir, Path::new("/data"));
    assert_eq!(config.bucket_url.expose(), "file:///data/bucket");
    assert_eq!(config.object_lane_linger, Duration::from_millis(5));
    assert_eq!(config.wal_file_bytes, 64 << 20);
    assert_eq!(config.hot_budget(100 << 30), 10 << 30);
    assert_eq!(config.hot_budget(4 << 30), 2 << 30);
    assert_eq!(config.cache_budget(100 << 30), 0, "the bucket is a folder");
    let far = dev(&[("bucket.url", "s3://logs")]).unwrap();
    assert_eq!(far.cache_budget(100 << 30), 10 << 30);
    assert_eq!(far.cache_budget(4 << 30), 1 << 30);
    let topic = TopicConfig::resolve(&BTreeMap::new(), &config).unwrap();
    assert_eq!(topic.durability_class, DurabilityClass::Local);
    assert_eq!(topic.retention_ms, Some(Duration::from_secs(7 * 86_400)));
    assert_eq!(topic.retention_bytes, None);
    assert_eq!(topic.max_message_bytes, config.max_batch_bytes);
    assert_eq!(topic.stored(), BTreeMap::new());
}

#[test]
fn broker_needs_a_bucket_and_defaults_to_object() {
    let error = Sources::default().load().unwrap_err();
    assert_eq!(error.setting, "bucket.url");
    let set = vec!["bucket.url=s3://logs/prod".to_owned()];
    let config = Sources { set, ..Sources::default() }.load().unwrap().config;
    assert_eq!(config.object_lane_linger, Duration::from_millis(100));
    assert_eq!(config.data_dir, Path::new("/var/lib/levee"));
    let topic = TopicConfig::resolve(&BTreeMap::new(), &config).unwrap();
    assert_eq!(topic.durability_class, DurabilityClass::Object);
}

#[test]
fn later_sources_win() {
    let file = "tail.bytes = '32MiB'\n[cache]\nbytes = 33554432\nchunk.bytes = '2MiB'\n\
                [topic]\nretention.ms = 1000\n[wal]\nqueue.bytes = '32MiB'\n";
    let sources = Sources {
        mode: Mode::Dev,
        file: Some(("levee.toml".into(), file.into())),
        env: vec![
            ("LEVEE_CACHE_CHUNK_BYTES".into(), "4MiB".into()),
            ("LEVEE_TOPIC_RETENTION_MS".into(), "1h".into()),
            ("LEVEE_WAL_QUEUE_BYTES".into(), String::new()),
            ("PATH".into(), "/bin".into()),
        ],
        set: vec!["tail.bytes=48MiB".into(), "tail.bytes=64MiB".into()],
        flags: vec![Flag { flag: "--data", setting: "data.dir", value: "/elsewhere".into() }],
    };
    let Loaded { config, warnings } = sources.load().unwrap();
    assert_eq!(config.cache_bytes, 32 << 20, "file over default");
    assert_eq!(config.cache_chunk_bytes, 4 << 20, "environment over file");
    assert_eq!(config.wal_queue_bytes, 32 << 20, "an empty variable sets nothing");
    assert_eq!(config.tail_bytes, 64 << 20, "the last --set over all before");
    assert_eq!(config.data_dir, Path::new("/elsewhere"), "flags over all");
    let topic = TopicConfig::resolve(&BTreeMap::new(), &config).unwrap();
    assert_eq!(topic.retention_ms, Some(Duration::from_secs(3600)));
    assert!(warnings.is_empty(), "{warnings:?}");
}

#[test]
fn unknown_names_are_refused_with_the_nearest() {
    assert!(refused(&[("tail.byte", "1MiB")]).contains("did you mean tail.bytes?"));
    assert!(refused(&[("retention.ms", "1")]).contains("did you mean topic.retention.ms?"));
    assert!(refused(&[("nothing.like.it", "1")]).contains("levee config explain"));
    let long = "x".repeat(100_000);
    assert!(refused(&[(&long, "1")]).len() < 300);

    let broker = dev(&[]).unwrap();
    let error =
        |name: &str| TopicConfig::resolve(&topic(&[(name, "1")]), &broker).unwrap_err().to_string();
    assert!(error("retension.ms").contains("did you mean retention.ms?"));
    assert!(error("tail.bytes").contains("setting of the broker"));
    assert!(TopicConfig::check_name("retention.ms").is_ok());
    assert!(TopicConfig::check_name("retension.ms").is_err());
    // Of a short name so little would be left that it is another one.
    let near = |name| super::nearest(name, ["b", "t1", "events"]);
    assert_eq!(
        ["", "a", "ab", "event", "evnts"].map(near),
        [None, None, None, Some("events"), Some("events")]
    );
}

#[test]
fn unknown_variables_are_only_warned_of() {
    let env = [("LEVEE_PORT_9644_TCP", "tcp://10.0.0.1:9644"), ("LEVEE_TAIL_BYTE", "1MiB")];
    let env = env.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let loaded = Sources { mode: Mode::Dev, env, ..Sources::default() }.load().unwrap();
    assert_eq!(loaded.warnings.len(), 2, "{:?}", loaded.warnings);
    assert!(loaded.warnings[1].contains("did you mean LEVEE_TAIL_BYTES?"));
}

#[test]
fn bad_values_name_value_bounds_origin_and_remedy() {
    let error = refused(&[("object.lane.linger", "2s")]);
    for part in ["object.lane.linger", "\"2s\"", "--set", "1ms to 1s", "100ms"] {
        assert!(error.contains(part), "{part} is not in: {error}");
    }
    for (name, value, part) in [
        ("tail.bytes", "64M", "MiB"),
        ("tail.bytes", "99999999999TiB", "more than 2^64 bytes"),
        ("tail.bytes", "", "not a number"),
        ("tail.bytes", "-1", "not a number"),
        ("request.timeout", "10", "without a unit"),
        ("request.timeout", "1500us", "whole number of milliseconds"),
        ("request.timeout", "999999999y", "too long a time"),
        ("grpc.listen", "localhost:9644", "IP:PORT"),
        ("upload.verify.data", "yes", "true or false"),
        ("broker.id", "0", "below the smallest"),
        ("zone", "eu west", "not a name"),
        ("bucket.url", "/some/where", "file:///DIR"),
        ("bucket.url", "file:///some/where#1", "write %23"),
        ("bucket.url", "s3://b/p?region=eu#1", "write %23"),
        ("topic.durability.class", "replicated", "needs peers"),
        ("topic.message.timestamp.type", "Whenever", "LogAppendTime"),
        ("topic.min.cleanable.dirty.ratio", "1.5", "not between 0 and 1"),
        ("topic.min.cleanable.dirty.ratio", "half", "not a number"),
        ("topic.cleanup.policy", "squash", "compact"),
        ("wal.file.bytes", "67108865", "multiple of 4KiB"),
        ("cache.disk.bytes", "15MiB", "choose 0 for none, or at least 16MiB"),
        ("cache.bytes", "7MiB", "choose at least 8MiB"),
        ("http.listen", "127.0.0.1:9644", "grpc.listen"),
    ] {
        let error = refused(&[(name, value)]);
        assert!(error.contains(name) && error.contains(part), "{part} is not in: {error}");
    }
}

#[test]
fn conflicts_name_both_settings() {
    let error = refused(&[("max.batch.bytes", "32MiB"), ("tail.bytes", "16MiB")]);
    assert!(error.starts_with("tail.bytes=\"16MiB\" (--set)"), "{error}");
    assert!(error.contains("max.batch.bytes=32MiB"), "{error}");
    let error = refused(&[("hot.bytes", "16MiB")]);
    assert!(error.contains("hot.segment.bytes=64MiB"), "{error}");
    let error = refused(&[("max.batch.bytes", "64MiB")]);
    assert!(error.contains("wal.file.bytes"), "{error}");
}

#[test]
fn secrets_are_never_shown() {
    let url = "s3://user:hunter2@logs/p?region=eu&secret_access_key=hunter3&endpoint=http://h:1";
    let config = dev(&[("bucket.url", url)]).unwrap();
    assert_eq!(config.bucket_url.expose(), url);
    let shown = config.bucket_url.to_string();
    assert_eq!(shown, "s3://***@logs/p?region=eu&secret_access_key=***&endpoint=http://h:1");
    let everywhere = [
        format!("{config:?}"),
        config.chosen().join(" "),
        every_setting().filter_map(|setting| Some(config.present(setting)?.0)).collect(),
        refused(&[("bucket.url", "logs?secret_access_key=hunter4")]),
        {
            let text = "bucket.url = 's3://b?secret_access_key=hunter5' x".to_owned();
            let file = Some(("levee.toml".to_owned(), text));
            Sources { file, ..Sources::default() }.load().unwrap_err().to_string()
        },
    ];
    for text in everywhere {
        assert!(!text.contains("hunter"), "{text}");
    }
}

#[test]
fn folder_urls_escape_what_a_url_would_read() {
    let url = BucketUrl::folder(Path::new("/tmp/a b?c#d%e"));
    assert_eq!(url.expose(), "file:///tmp/a%20b%3Fc%23d%25e");
}

#[test]
fn topic_settings_round_trip_as_stored() {
    let broker = dev(&[("topic.retention.bytes", "1GiB")]).unwrap();
    let set = topic(&[("retention.ms", "7d"), ("max.message.bytes", "1MiB")]);
    let resolved = TopicConfig::resolve(&set, &broker).unwrap();
    assert_eq!(resolved.retention_bytes, Some(1 << 30), "the broker's default for topics");
    let stored = resolved.stored();
    assert_eq!(stored, topic(&[("max.message.bytes", "1048576"), ("retention.ms", "604800000")]));
    let again = TopicConfig::resolve(&stored, &broker).unwrap();
    assert_eq!(again.stored(), stored);
    let entries = resolved.entries();
    assert_eq!(entries.len(), TOPIC_SETTINGS.len());
    let defaults = entries.iter().filter(|entry| entry.is_default).count();
    assert_eq!(defaults, entries.len() - 2);
    // What is listed can be set.
    let all = entries.into_iter().map(|entry| (entry.name.to_owned(), entry.value)).collect();
    TopicConfig::resolve(&all, &broker).unwrap();
}

#[test]
fn stored_settings_that_do_not_hold_any_more_fall_back() {
    let broker = dev(&[("max.batch.bytes", "1MiB")]).unwrap();
    let stored = topic(&[
        ("max.message.bytes", "16777216"),
        ("retention.ms", "60000"),
        ("from.the.future", "1"),
    ]);
    assert!(TopicConfig::resolve(&stored, &broker).is_err());
    let (config, refused) = TopicConfig::resolve_stored(&stored, &broker);
    assert_eq!(refused.len(), 2, "{refused:?}");
    assert_eq!(config.max_message_bytes, 1 << 20);
    assert_eq!(config.retention_ms, Some(Duration::from_secs(60)));
}

/// Every value that a default or a bound can take parses back from the text that is shown.
#[test]
fn shown_values_parse_back() {
    for set in [&[][..], &[("topic.retention.ms", "1ms"), ("kafka.listen", "[::1]:9")]] {
        let config = dev(set).unwrap();
        for held in config.values.iter() {
            let shown = held.setting.show(&held.value);
            assert_eq!(held.setting.parse(&shown), Ok(held.value.clone()), "{shown}");
        }
    }
    for number in [0, 1, 999, 1024, 1536, 1 << 20, (1 << 40) + 1, 3 << 40] {
        let any = Setting::bytes("x", 0, u64::MAX, "");
        let value = any.parse(&show_bytes(number)).unwrap();
        assert_eq!(value.number(), Some(number));
        let any = Setting::duration("x", 0, u64::MAX, "");
        assert_eq!(any.parse(&show_ms(number)).unwrap().number(), Some(number));
    }
}

#[test]
fn every_setting_has_a_present_value_and_an_origin() {
    let config = dev(&[("tail.bytes", "64MiB")]).unwrap();
    for setting in every_setting() {
        let (value, origin) = config.present(setting).unwrap();
        match setting.name {
            "tail.bytes" => assert_eq!((value.as_str(), origin), ("64MiB", &Origin::Set)),
            "data.dir" => {}
            _ => assert_eq!(*origin, Origin::Default, "{}", setting.name),
        }
    }
}

#[test]
fn a_bucket_is_no_folder_that_a_start_empties() {
    let load = |bucket: &str| {
        let set = [("bucket.url", bucket)];
        BrokerConfig::dev(std::path::Path::new("/var/lib/levee"), &set)
    };
    for bad in [
        "file:///var/lib/levee/cache",
        "file:///var/lib/levee/hot/x",
        "file:///var/lib/levee",
        "file:///var",
        "opendal+fs:///var/lib/levee/wal?unsynced=accepted",
    ] {
        let error = load(bad).unwrap_err().to_string();
        assert!(error.contains("data.dir uses for itself"), "{error}");
    }
    for good in ["file:///var/lib/levee/bucket", "file:///data", "s3://b/cache", "memory://"] {
        load(good).unwrap();
    }
}
