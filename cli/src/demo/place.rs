//! Where the demo works: in a folder of its own, and in a bucket that is named below a prefix of
//! its own, so that it never meets a cluster that lives there.

use std::path::{Path, PathBuf};

use futures::{StreamExt, TryStreamExt, stream};
use levee_broker::config::{BrokerConfig, BucketUrl};
use levee_runtime::real::RealWorld;
use levee_tiering::store::Store;
use tempfile::TempDir;

use crate::error::CliError;
use crate::output::note;

/// Removals from the bucket at a time: what a store bears without slowing down.
const SIDE_BY_SIDE: usize = 64;

/// Removed at the end, unless it was named.
pub(super) struct WorkFolder {
    pub(super) path: PathBuf,
    _temporary: Option<TempDir>,
}

impl WorkFolder {
    pub(super) fn make(keep: Option<&Path>) -> Result<Self, CliError> {
        let Some(path) = keep else {
            let temporary = tempfile::Builder::new().prefix("levee-demo-").tempdir()?;
            return Ok(Self { path: temporary.path().to_owned(), _temporary: Some(temporary) });
        };
        let failed = |error: std::io::Error| CliError::from(error).at(path.display());
        std::fs::create_dir_all(path).map_err(failed)?;
        if std::fs::read_dir(path).map_err(failed)?.next().is_some() {
            let why = format!("{} is not empty: a broker's data may be in it", path.display());
            return Err(CliError::usage(why).next_step("name another folder with --keep"));
        }
        Ok(Self { path: path.to_owned(), _temporary: None })
    }
}

/// The part of a bucket that is the demo's. What is left of it is named when this is dropped.
pub(super) struct OwnPrefix {
    url: BucketUrl,
    /// What its path ends with, which nobody else can have written.
    name: String,
    /// Something may lie there.
    is_used: bool,
}

impl OwnPrefix {
    /// `data`: the folder of the broker, which must not hold the bucket.
    pub(super) fn below(bucket: &str, data: &Path) -> Result<Self, CliError> {
        let name = format!("levee-demo-{:016x}", RealWorld::host().random_u64());
        let config = BrokerConfig::dev(data, &[("bucket.url", &within(bucket, &name))])?;
        match config.bucket_url.lasts() {
            true => Ok(Self { url: config.bucket_url, name, is_used: false }),
            false => {
                let why = "a bucket in memory ends with its broker, and the demo kills that";
                Err(CliError::usage(why).next_step("leave --bucket out, or name one that lasts"))
            }
        }
    }

    /// The URL with its secrets, for a broker.
    pub(super) fn begin(&mut self) -> &str {
        self.is_used = true;
        self.url.expose()
    }

    pub(super) fn shown(&self) -> String {
        self.url.to_string()
    }

    /// All that the demo wrote there. Its broker must have ended.
    pub(super) async fn remove(mut self) {
        match self.try_remove().await {
            Ok(()) => self.is_used = false,
            Err(error) => error.say(),
        }
    }

    async fn try_remove(&self) -> Result<(), CliError> {
        // However a URL is read: what is removed must be the demo's own.
        if self.url.last_segment().as_ref() != Some(&self.name) {
            let why = format!("{} is not below {:?}: nothing is removed", self.shown(), self.name);
            return Err(CliError::new(why));
        }
        let store = Store::open(self.url.expose(), RealWorld::host())?;
        let listed = store.list("").await?;
        stream::iter(&listed)
            .map(Ok)
            .try_for_each_concurrent(SIDE_BY_SIDE, |object| store.delete(&object.key))
            .await?;
        // A store of objects has no folders to leave behind.
        if let Some(folder) = self.url.as_folder() {
            std::fs::remove_dir_all(&folder)
                .map_err(|error| CliError::from(error).at(folder.display()))?;
        }
        Ok(())
    }
}

impl Drop for OwnPrefix {
    fn drop(&mut self) {
        if self.is_used {
            note(format_args!("what the demo wrote is left below {}", self.shown()));
        }
    }
}

/// The URL of a folder in a bucket; options stay behind it.
fn within(bucket: &str, folder: &str) -> String {
    let (place, query) = match bucket.split_once('?') {
        Some((place, query)) => (place, format!("?{query}")),
        None => (bucket, String::new()),
    };
    // `memory://` and the like have nothing in front of a path.
    let place = if place.ends_with("://") { place } else { place.trim_end_matches('/') };
    format!("{place}/{folder}{query}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demo_has_a_prefix_of_its_own_below_any_bucket() {
        assert_eq!(within("s3://b", "d"), "s3://b/d");
        assert_eq!(within("s3://b/p/?endpoint=http://h/", "d"), "s3://b/p/d?endpoint=http://h/");
        assert_eq!(within("file:///x", "d"), "file:///x/d");
        let data = Path::new("/nowhere");
        let urls = [(); 2].map(|()| OwnPrefix::below("file:///x", data).unwrap());
        assert_ne!(urls[0].shown(), urls[1].shown());
        assert!(OwnPrefix::below("memory://", data).is_err());
        for bucket in ["no url", "file:///x#1", "s3://b/p?region=eu#1"] {
            assert!(OwnPrefix::below(bucket, data).is_err(), "{bucket}");
        }
    }

    #[tokio::test]
    async fn what_is_not_below_the_name_that_was_drawn_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let mine = dir.path().join("mine");
        std::fs::write(&mine, "mine").unwrap();
        for (name, stays) in [("levee-demo-1", true), ("", false)] {
            let name = match name {
                "" => dir.path().file_name().unwrap().to_str().unwrap(),
                other => other,
            };
            let (url, name) = (BucketUrl::folder(dir.path()), name.to_owned());
            OwnPrefix { url, name, is_used: true }.remove().await;
            assert_eq!(mine.exists(), stays);
        }
    }

    #[test]
    fn a_folder_that_holds_something_is_not_worked_in() {
        let dir = tempfile::tempdir().unwrap();
        assert!(WorkFolder::make(Some(&dir.path().join("new"))).is_ok());
        assert!(WorkFolder::make(Some(dir.path())).is_err(), "`new` is in it");
    }
}
