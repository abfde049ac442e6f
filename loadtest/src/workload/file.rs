//! Workload files: ours (TOML), and those of the OpenMessaging Benchmark (YAML), with overrides
//! from the command line.

use std::io::Read;
use std::path::Path;

use toml::{Table, Value};

use super::{Workload, omb};
use crate::error::{Error, Result};

/// A workload is some kilobytes; anything above this is another file.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Reads, overrides and checks. `overrides` are `FIELD=VALUE`, such as `produce.rate=5000`.
pub fn load(path: &Path, overrides: &[String]) -> Result<Workload> {
    let named = |error: Error| error.at(format!("workload {}", path.display()));
    let text = read(path).map_err(named)?;
    let yaml = path.extension().is_some_and(|ending| ending == "yaml" || ending == "yml");
    let workload = match yaml {
        true => omb::parse(&text, path.parent().unwrap_or(Path::new("."))).map_err(named)?,
        false => parse(&text).map_err(named)?,
    };
    let mut workload = with_overrides(workload, overrides)?;
    if workload.name == Workload::default().name
        && let Some(stem) = path.file_stem()
    {
        workload.name = stem.to_string_lossy().into_owned();
    }
    workload.check().map_err(named)?;
    Ok(workload)
}

fn read(path: &Path) -> Result<String> {
    let failed = |why: std::io::Error| Error::usage(format!("cannot be read: {why}"));
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(failed)?;
    match text.len() as u64 > FILE_BYTES_MAX {
        true => Err(Error::usage("is larger than 1MiB: not a workload")),
        false => Ok(text),
    }
}

fn parse(text: &str) -> Result<Workload> {
    toml::from_str(text).map_err(|error| Error::usage(error.to_string().trim_end()))
}

/// A workload of the folder `workloads`, which is part of this program.
pub fn built_in(text: &str) -> Result<Workload> {
    let workload = parse(text)?;
    workload.check()?;
    Ok(workload)
}

/// The workload with some fields replaced.
pub fn with_overrides(workload: Workload, overrides: &[String]) -> Result<Workload> {
    if overrides.is_empty() {
        return Ok(workload);
    }
    let broken = |error: &dyn std::fmt::Display| Error::usage(format!("overrides: {error}"));
    let mut table = Table::try_from(&workload).map_err(|error| broken(&error))?;
    for given in overrides {
        let Some((field, value)) = given.split_once('=') else {
            let why = format!("{given:?} is no override; write FIELD=VALUE, produce.rate=5000");
            return Err(Error::usage(why));
        };
        // The text of a value: what TOML reads as something else than text keeps its kind.
        let value = match toml::from_str::<Table>(&format!("value = {value}")) {
            Ok(mut parsed) => parsed.remove("value").unwrap_or(Value::String(value.into())),
            Err(_) => Value::String(value.into()),
        };
        put(&mut table, field.trim(), value).map_err(|why| broken(&format!("{field}: {why}")))?;
    }
    table.try_into().map_err(|error| broken(&error))
}

/// Topic settings have dots in their names: below `topics.settings` the rest is one name.
fn put(table: &mut Table, field: &str, value: Value) -> Result<(), String> {
    if let Some(setting) = field.strip_prefix("topics.settings.") {
        let topics = table.get_mut("topics").and_then(Value::as_table_mut);
        let settings = topics.and_then(|topics| topics.get_mut("settings"));
        let settings = settings.and_then(Value::as_table_mut).ok_or("is no table")?;
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        settings.insert(setting.into(), Value::String(text));
        return Ok(());
    }
    let Some((first, rest)) = field.split_once('.') else {
        table.insert(field.into(), value);
        return Ok(());
    };
    let inner = table.entry(first).or_insert_with(|| Value::Table(Table::new()));
    put(inner.as_table_mut().ok_or("is no table")?, rest, value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::values::{Rate, Span};
    use crate::workload::{Keys, Verify};

    #[test]
    fn what_is_wrong_is_named() {
        let error = |text: &str| match parse(text) {
            Ok(workload) => workload.check().unwrap_err().to_string(),
            Err(error) => error.to_string(),
        };
        assert!(error("durations = '5s'").contains("unknown field `durations`"));
        assert!(error("[produce]\nrate = 'fast'").contains("\"fast\" is no rate"));
        assert!(error("[topics]\npartitions = 0").contains("topics.partitions"));
        assert!(error("[record]\nbytes = 10").contains("record.bytes"));
        assert!(error("[record]\nkeys = 'zipf'").contains("zipf"));
        assert!(error("verify = 'tail'").contains("tail.subscriptions"));
        assert!(error("[search]\np99 = '20ms'\nfrom = 9\nto = 8").contains("search.to"));
    }

    #[test]
    fn overrides_replace_fields() {
        let given = ["produce.rate=full", "duration=3s", "topics.settings.local.flush=interval"];
        let given: Vec<_> = given.map(String::from).into();
        let workload = with_overrides(Workload::default(), &given).unwrap();
        assert_eq!(workload.produce.rate, Rate::Full);
        assert_eq!(workload.duration, "3s".parse::<Span>().unwrap());
        assert_eq!(workload.topics.settings["local.flush"], "interval");
        let wrong = with_overrides(Workload::default(), &["produce.speed=1".into()]);
        assert!(wrong.unwrap_err().to_string().contains("speed"));
    }

    #[test]
    fn every_workload_of_the_folder_is_good_and_every_field_is_explained() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads");
        let mut seen = 0;
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|ending| ending == "toml" || ending == "yaml") {
                load(&path, &[]).unwrap();
                seen += 1;
            }
        }
        assert!(seen >= 7, "{seen} workloads");
        let readme = std::fs::read_to_string(folder.join("README.md")).unwrap();
        let mut workload = Workload { search: Some(Default::default()), ..Workload::default() };
        workload.record.payload_file = Some("x".into());
        workload.catch_up.limit = Some(workload.record.bytes);
        let all = Table::try_from(&workload).unwrap();
        for (name, value) in &all {
            let inner = value.as_table().filter(|_| name != "settings");
            let fields = inner.map_or(vec![format!("`{name}`")], |inner| {
                inner.keys().map(|field| format!("`{name}.{field}`")).collect()
            });
            for field in fields {
                assert!(readme.contains(&field), "{field} is not in workloads/README.md");
            }
        }
    }

    #[test]
    fn open_messaging_workloads_are_taken_unchanged() {
        let text = "name: 1 topic / 1 KB\n# a comment\ntopics: 2\npartitionsPerTopic: 8\n\
            messageSize: 1024\nuseRandomizedPayloads: true\nrandomBytesRatio: 0.5\n\
            randomizedPayloadPoolSize: 1000\nsubscriptionsPerTopic: 1\n\
            consumerPerSubscription: 4\nproducersPerTopic: 3\nproducerRate: 50000\n\
            consumerBacklogSizeGB: 0\ntestDurationMinutes: 5\nwarmupDurationMinutes: 2\n\
            keyDistributor: \"KEY_ROUND_ROBIN\"\n";
        let workload = omb::parse(text, Path::new(".")).unwrap();
        workload.check().unwrap();
        assert_eq!((workload.topics.count, workload.topics.partitions), (2, 8));
        assert_eq!((workload.produce.producers, workload.tail.subscriptions), (6, 1));
        assert_eq!(workload.produce.rate, Rate::PerSecond(50_000));
        assert_eq!((workload.record.keys, workload.record.key_count), (Keys::RoundRobin, 10_000));
        assert_eq!(workload.duration.0.as_secs(), 300);
        assert_eq!(workload.warm_up.0.as_secs(), 120);
        assert_ne!(workload.verify, Verify::Off);
        let unknown = omb::parse(&format!("{text}speed: 3\n"), Path::new("."));
        assert!(unknown.unwrap_err().to_string().contains("speed"));
        let search = omb::parse("producerRate: 0\ntopics: 1\n", Path::new(".")).unwrap();
        assert!(search.search.is_some());
    }
}
