//! The machine that a broker runs on: settings, data folder, limits.

use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use levee_broker::config::{BrokerConfig, Mode, Origin, show_bytes};
use rustix::fs::statvfs;
use rustix::process::{Resource, getrlimit};

use super::finding::Finding;
use crate::output::{bytes, count};
use crate::settings::SettingsArgs;

/// What a sync may take before it is worth a word: a disk of the cloud takes 1 to 3 ms.
const SLOW_SYNC: Duration = Duration::from_millis(20);
/// Syncs that are measured, and what each of them writes.
const SYNCS: usize = 16;
const SYNC_BYTES: usize = 4096;
/// Files that a broker has open beside its connections: WAL, hot segments, uploads, reads.
const OWN_FILES: u64 = 1024;

/// The settings, where there are some.
pub(super) fn config(args: &SettingsArgs, mode: Mode) -> (Option<BrokerConfig>, Vec<Finding>) {
    const CHECK: &str = "config";
    let sources = match args.sources(mode) {
        Ok(sources) => sources,
        Err(error) => return (None, vec![Finding::fail(CHECK, error.to_string(), "correct it")]),
    };
    match sources.load() {
        Ok(loaded) => {
            let chosen = loaded.config.chosen();
            let found = match &sources.file {
                Some((name, _)) => {
                    format!("{name}: {} chosen", count(chosen.len() as u64, "setting"))
                }
                None => format!("no file; {} chosen", count(chosen.len() as u64, "setting")),
            };
            let mut findings = vec![Finding::ok(CHECK, found)];
            let remedy = "remove it, or correct its name";
            findings.extend(loaded.warnings.into_iter().map(|w| Finding::warn(CHECK, w, remedy)));
            (Some(loaded.config), findings)
        }
        Err(error)
            if error.setting == "bucket.url"
                && error.origin == Origin::Default
                && !args.are_given() =>
        {
            let found = "no settings of a broker here, so only the broker is looked at; where it \
                         runs give --config FILE, or --dev for `levee dev`";
            (None, vec![Finding::ok(CHECK, found)])
        }
        Err(error) => (None, vec![Finding::fail(CHECK, error.what(), error.remedy)]),
    }
}

pub(super) fn data_folder(config: &BrokerConfig) -> Vec<Finding> {
    let dir = &config.data_dir;
    let shown = dir.display();
    match dir.metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let found = format!("{shown} is not there");
            let remedy = "it is made at the first start; or name another one with data.dir";
            return vec![Finding::warn("data", found, remedy)];
        }
        Err(error) => {
            let found = format!("{shown} cannot be looked at: {error}");
            return vec![Finding::fail("data", found, "run this as the broker's user")];
        }
        Ok(meta) if !meta.is_dir() => {
            let found = format!("{shown} is no folder");
            return vec![Finding::fail("data", found, "name a folder with data.dir")];
        }
        Ok(_) => {}
    }
    vec![syncs(dir), space(dir, config.disk_reserve_bytes)]
}

/// Whether it can be written, and how long a sync takes.
fn syncs(dir: &Path) -> Finding {
    let shown = dir.display();
    let mut times = match measure(dir) {
        Ok(times) => times,
        Err(error) => {
            let found = format!("{shown} cannot be written: {error}");
            return Finding::fail("data", found, "give it to the broker's user");
        }
    };
    times.sort_unstable();
    let (middle, slowest) = (times[SYNCS / 2], times[SYNCS - 1]);
    let ms = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1000.0);
    let found =
        format!("{shown} can be written; a sync takes {} (slowest {})", ms(middle), ms(slowest));
    match middle > SLOW_SYNC {
        false => Finding::ok("data", found),
        true => {
            let remedy = "acks of class `local` wait for it: use a faster disk, or class `object`";
            Finding::warn("data", found, remedy)
        }
    }
}

/// In a file that has no name, or none any more.
fn measure(dir: &Path) -> io::Result<Vec<Duration>> {
    let mut file = tempfile::tempfile_in(dir)?;
    let mut times = Vec::with_capacity(SYNCS);
    for _ in 0..SYNCS {
        let started = Instant::now();
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&[0; SYNC_BYTES])?;
        file.sync_data()?;
        times.push(started.elapsed());
    }
    Ok(times)
}

fn space(dir: &Path, reserve: u64) -> Finding {
    let free = match statvfs(dir) {
        Ok(disk) => disk.f_bavail.saturating_mul(disk.f_frsize),
        Err(error) => {
            let found = format!("free space cannot be told: {error}");
            return Finding::warn("disk", found, "look at the disk with df");
        }
    };
    let found = format!("{} free; appends are refused below {}", bytes(free), show_bytes(reserve));
    let remedy = "free disk space, lower hot.bytes, or move data.dir to a larger disk";
    match free {
        free if free < reserve => Finding::fail("disk", found, remedy),
        free if free < reserve.saturating_mul(2) => Finding::warn("disk", found, remedy),
        _ => Finding::ok("disk", found),
    }
}

pub(super) fn open_files(config: &BrokerConfig) -> Finding {
    let needed = u64::from(config.connections_max) + OWN_FILES;
    let limit = getrlimit(Resource::Nofile).current;
    let found = match limit {
        None => "no limit of open files".to_owned(),
        Some(limit) => format!(
            "{limit} open files allowed here; {needed} are enough for connections.max={}",
            config.connections_max
        ),
    };
    match limit {
        Some(limit) if limit < needed => {
            let remedy = "raise it (ulimit -n, LimitNOFILE= of the unit), or lower connections.max";
            Finding::warn("limits", found, remedy)
        }
        _ => Finding::ok("limits", found),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::State;
    use super::*;

    #[test]
    fn a_folder_is_measured_and_left_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let config = BrokerConfig::dev(dir.path(), &[]).unwrap();
        let found = data_folder(&config);
        assert!(found.iter().all(|finding| finding.state != State::Fail), "{found:?}");
        assert!(found[0].to_string().contains("a sync takes"), "{}", found[0]);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        let missing = BrokerConfig::dev(&dir.path().join("no"), &[]).unwrap();
        assert_eq!(data_folder(&missing)[0].state, State::Warn);
        let file = dir.path().join("file");
        std::fs::write(&file, "x").unwrap();
        assert_eq!(data_folder(&BrokerConfig::dev(&file, &[]).unwrap())[0].state, State::Fail);
    }

    #[test]
    fn a_full_disk_and_too_few_files_are_told() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(space(dir.path(), 0).state, State::Ok);
        assert_eq!(space(dir.path(), u64::MAX).state, State::Fail);
        let many = BrokerConfig::dev(dir.path(), &[("connections.max", "1")]).unwrap();
        assert!(open_files(&many).to_string().contains("1025 are enough"));
    }

    #[test]
    fn settings_that_are_wrong_fail_and_none_at_all_only_warn() {
        let set = |pair: &str| SettingsArgs { set: vec![pair.into()], ..SettingsArgs::default() };
        let (config, found) = config(&set("tail.bites=1"), Mode::Dev);
        assert!(config.is_none() && found[0].state == State::Fail);
        assert!(found[0].to_string().contains("did you mean tail.bytes?"), "{}", found[0]);
    }
}
