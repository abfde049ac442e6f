//! A folder that serves as bucket.
//!
//! Its directories must be synced before a file in them counts. And a killed process leaves files
//! named `KEY#N` behind, written and not yet linked to their key, which no listing shows.

// Beside the folder store of a library, which has no seam either.
#![allow(clippy::disallowed_methods)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::direct::{as_answer, sync_above};
use super::{Kind, Op, Store, StoreError};

impl Store {
    /// Makes an object durable whose create had no clear answer: its bytes were synced before it
    /// got its name, the directories may not be. Other stores do this before they show it.
    pub(super) async fn sync_folder(&self, key: &str) -> Result<(), StoreError> {
        let Some(root) = self.folder.clone() else { return Ok(()) };
        let file = root.join(key);
        let sync = self.blocking(Op::Create, key, move || sync_above(&root, &file));
        let synced = match self.host.timeout(self.deadlines.request, sync).await {
            Ok(synced) => synced,
            Err(_) => {
                let why = format!("not synced within {:?}", self.deadlines.request);
                return Err(self.error(Op::Create, key, Kind::Timeout, why));
            }
        };
        synced.inspect_err(StoreError::ensure_disk)
    }

    /// Removes staged files whose key `is_over`. Other stores than folders have none.
    pub async fn remove_staged(&self, is_over: impl Fn(&str) -> bool) -> Result<u64, StoreError> {
        let Some(root) = self.folder.clone() else { return Ok(0) };
        let mut over = self.blocking(Op::List, "", move || find(&root)).await?;
        over.retain(|(key, _)| is_over(key));
        let count = over.len() as u64;
        let remove_all = move || over.iter().try_for_each(|(_, file)| remove(file));
        self.blocking(Op::Delete, "", remove_all).await?;
        Ok(count)
    }

    async fn blocking<T: Send + 'static>(
        &self,
        op: Op,
        key: &str,
        work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let done = tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| Err(e.into()));
        done.map_err(|error| StoreError::of(op, key, &as_answer(key, error)).in_bucket(&self.name))
    }
}

/// Keys and files of everything staged below `root`.
fn find(root: &Arc<Path>) -> std::io::Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let path = entry.path();
            // A link to a folder above would have no end.
            if entry.file_type()?.is_dir() {
                folders.push(path);
            } else if let Some(key) = key_of(root, &path) {
                found.push((key, path));
            }
        }
    }
    Ok(found)
}

fn key_of(root: &Path, file: &Path) -> Option<String> {
    let (key, attempt) = file.strip_prefix(root).ok()?.to_str()?.rsplit_once('#')?;
    let is_attempt = !attempt.is_empty() && attempt.bytes().all(|b| b.is_ascii_digit());
    is_attempt.then(|| key.to_owned())
}

fn remove(file: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
