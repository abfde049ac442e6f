//! What must hold between settings.

use super::error::ConfigError;
use super::setting::{MIB, Scope, Setting, Value};
use super::values::{Held, Origin, Values};

/// Room that a WAL file needs beside the largest batch: heads, index, padding.
const WAL_FILE_SLACK: u64 = MIB;

pub(super) fn broker(values: &Values) -> Result<(), ConfigError> {
    let at_most = |less: &str, more: &str, slack: u64, why: &str| {
        at_most(values.held(less), values.held(more), slack, why)
    };
    let fits = "the largest batch must fit";
    at_most("max.batch.bytes", "request.bytes", 2 * MIB, fits)?;
    at_most("max.batch.bytes", "wal.file.bytes", WAL_FILE_SLACK, fits)?;
    at_most("max.batch.bytes", "wal.queue.bytes", 0, fits)?;
    at_most("max.batch.bytes", "object.lane.queue.bytes", 0, fits)?;
    at_most("max.batch.bytes", "tail.bytes", 0, fits)?;
    at_most("max.batch.bytes", "hot.segment.bytes", 0, fits)?;
    at_most("hot.segment.bytes", "hot.bytes", 0, "at least one segment must fit")?;
    at_most("tier.l2.bytes", "tier.object.bytes", 0, "an object of one partition is an object")?;
    at_most("cache.chunk.bytes", "readahead.bytes", 0, "reading ahead goes by chunks")?;
    at_most("readahead.bytes", "readahead.total.bytes", 0, "one reader is a part of all")?;
    at_most("upload.progress.timeout", "upload.deadline", 0, "an upload ends at its deadline")?;
    let beats = "members must be heard from before their session ends";
    at_most("group.consumer.heartbeat.interval", "group.consumer.session.timeout", 500, beats)?;
    cache_holds_chunks(values, "cache.bytes", 8)?;
    cache_holds_chunks(values, "cache.disk.bytes", 16)?;
    bucket_is_apart(values)?;
    wal_file_is_aligned(values)?;
    addresses_differ(values)
}

/// A topic's settings against each other and against those of its broker.
pub(super) fn topic(values: &Values, broker: &Values) -> Result<(), ConfigError> {
    let limit = broker.held("max.batch.bytes");
    at_most(values.held("max.message.bytes"), limit, 0, "no batch may be larger on this broker")?;
    let at_most =
        |less: &str, more: &str, why: &str| at_most(values.held(less), values.held(more), 0, why);
    let fits = "the largest batch must fit";
    at_most("max.message.bytes", "segment.bytes", fits)?;
    at_most("max.message.bytes", "upload.lag.max.bytes", fits)?;
    let part = "hot copies are a part of what is retained";
    at_most("local.retention.ms", "retention.ms", part)?;
    at_most("local.retention.bytes", "retention.bytes", part)
}

/// Holds too where either has no value.
fn at_most(less: &Held, more: &Held, slack: u64, why: &str) -> Result<(), ConfigError> {
    let (Some(a), Some(b)) = (less.value.number(), more.value.number()) else { return Ok(()) };
    if a.saturating_add(slack) <= b {
        return Ok(());
    }
    // Blame what somebody chose; where both were chosen, the one that is too small.
    let blamed = if more.origin == Origin::Default { less } else { more };
    // Who sets up a topic can change any setting of it, wherever the value comes from now.
    let of_topic = [less, more].iter().any(|held| held.origin == Origin::Topic);
    let name = |held: &Held| match held.setting.scope {
        Scope::Topic if of_topic => held.setting.name.to_owned(),
        _ => held.setting.broker_name(),
    };
    let slack = match slack {
        0 => String::new(),
        slack => format!(" + {}", show_number(more.setting, slack)),
    };
    let problem = format!(
        "conflicts: {}={}{slack} must be at most {}={}, because {why}",
        name(less),
        less.setting.show(&less.value),
        name(more),
        more.setting.show(&more.value),
    );
    let remedy = format!("lower {} or raise {}", name(less), name(more));
    let value = Some(blamed.setting.show(&blamed.value));
    let error = ConfigError::new(&name(blamed), blamed.origin.clone(), problem, remedy);
    Err(ConfigError { value, ..error })
}

fn show_number(setting: &Setting, number: u64) -> String {
    setting.show(&Value::Bytes(number))
}

/// A cache that can hold next to nothing would be none, silently.
fn cache_holds_chunks(values: &Values, name: &str, chunks: u64) -> Result<(), ConfigError> {
    let (held, chunk) = (values.held(name), values.held("cache.chunk.bytes"));
    let (Some(bytes), Some(one)) = (held.value.number(), chunk.value.number()) else {
        return Ok(());
    };
    let least = one.saturating_mul(chunks);
    if bytes == 0 || bytes >= least {
        return Ok(());
    }
    let value = Some(held.setting.show(&held.value));
    let problem = format!("is less than {chunks} times cache.chunk.bytes");
    let none = if held.setting.min == 0 { "0 for none, or " } else { "" };
    let remedy = format!("choose {none}at least {}", show_number(held.setting, least));
    let error = ConfigError::new(held.setting.name, held.origin.clone(), problem, remedy);
    Err(ConfigError { value, ..error })
}

/// A start empties folders of the data folder: a bucket must not be in one of them, or around them.
fn bucket_is_apart(values: &Values) -> Result<(), ConfigError> {
    let (bucket, data) = (values.held("bucket.url"), values.held("data.dir"));
    let (Value::Url(url), Value::Text(data)) = (&bucket.value, &data.value) else { return Ok(()) };
    let (Some(folder), Ok(data)) = (url.as_folder(), std::path::absolute(data)) else {
        return Ok(());
    };
    let own = ["wal", "hot", "cache"].map(|name| data.join(name));
    if !data.starts_with(&folder) && !own.iter().any(|own| folder.starts_with(own)) {
        return Ok(());
    }
    let value = Some(bucket.setting.show(&bucket.value));
    let problem = "is a folder that data.dir uses for itself";
    let remedy = "choose a folder beside wal, hot and cache, like data.dir/bucket";
    let error = ConfigError::new(bucket.setting.name, bucket.origin.clone(), problem, remedy);
    Err(ConfigError { value, ..error })
}

fn wal_file_is_aligned(values: &Values) -> Result<(), ConfigError> {
    let held = values.held("wal.file.bytes");
    match held.value {
        Value::Bytes(bytes) if bytes % levee_proto::limits::WAL_ALIGN as u64 != 0 => {
            let value = Some(held.setting.show(&held.value));
            let problem = "is not a multiple of 4KiB";
            let remedy = "choose a round number, like 64MiB";
            let error = ConfigError::new(held.setting.name, held.origin.clone(), problem, remedy);
            Err(ConfigError { value, ..error })
        }
        _ => Ok(()),
    }
}

fn addresses_differ(values: &Values) -> Result<(), ConfigError> {
    let mut seen: Vec<&Held> = Vec::new();
    for held in ["grpc.listen", "http.listen", "kafka.listen"].map(|name| values.held(name)) {
        let Value::Addr(addr) = held.value else { continue };
        if addr.port() == 0 {
            continue;
        }
        if let Some(other) = seen.iter().find(|other| other.value == held.value) {
            let problem = format!("is also {}", other.setting.name);
            let remedy = "give each listener a port of its own";
            let blamed = if held.origin == Origin::Default { other } else { &held };
            let error = ConfigError::new(held.setting.name, blamed.origin.clone(), problem, remedy);
            return Err(ConfigError { value: Some(addr.to_string()), ..error });
        }
        seen.push(held);
    }
    Ok(())
}
