//! The data folder: who uses it, which disk it is, and which processes ran on it before.
//!
//! Owns: the exclusive lock (I7), the store id, the incarnations. Does not own: what else is in
//! the folder.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use levee_proto::ids::Nonce;
use levee_runtime::disk::{DiskLock, write_file_durably};
use levee_runtime::{Host, OpenMode};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Incarnations that are remembered: enough for a process that dies again and again while starting.
const REMEMBERED: usize = 16;
/// An identity file is some hundred bytes; anything above this is another file.
const FILE_BYTES_MAX: u64 = 64 << 10;

#[derive(Debug, Error)]
pub enum IdentityError {
    #[error("data folder {dir}: {error}")]
    Io { dir: PathBuf, error: io::Error },
    #[error("data folder {0} is in use by another process: stop it, or choose another data.dir")]
    InUse(PathBuf),
    #[error("{path} is damaged ({why}): restore it, or move the data folder away to start empty")]
    Damaged { path: PathBuf, why: String },
}

/// See the module. The lock is held while this lives.
pub struct Identity {
    /// Names the disk; made with the folder.
    pub store_id: Nonce,
    /// This process.
    pub incarnation: Nonce,
    /// Processes that ran here before. The lock is held, so they are gone.
    pub before: Vec<Nonce>,
    _lock: DiskLock,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    store_id: String,
    /// Newest last.
    incarnations: Vec<String>,
}

impl Identity {
    /// Locks the folder and notes this process in it, durably: a claim by it must be known to the
    /// next one.
    pub async fn take(host: &Host, dir: &Path) -> Result<Self, IdentityError> {
        let io = |error| IdentityError::Io { dir: dir.to_owned(), error };
        let disk = host.disk();
        disk.create_dir_all(dir).await.map_err(io)?;
        let lock = disk.try_lock(&dir.join("LOCK")).await.map_err(io)?;
        let lock = lock.ok_or_else(|| IdentityError::InUse(dir.to_owned()))?;
        let path = dir.join("identity.json");
        let mut stored = match read(host, &path).await.map_err(io)? {
            Some(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
                IdentityError::Damaged { path: path.clone(), why: error.to_string() }
            })?,
            None => {
                Stored { store_id: Nonce(host.random_u128()).to_string(), incarnations: vec![] }
            }
        };
        let nonce = |text: &str| {
            u128::from_str_radix(text, 16).map(Nonce).map_err(|error| IdentityError::Damaged {
                path: path.clone(),
                why: format!("{text:?}: {error}"),
            })
        };
        let store_id = nonce(&stored.store_id)?;
        let before = stored.incarnations.iter().map(|i| nonce(i)).collect::<Result<_, _>>()?;
        let incarnation = Nonce(host.random_u128());
        let surplus = (stored.incarnations.len() + 1).saturating_sub(REMEMBERED);
        stored.incarnations.drain(..surplus);
        stored.incarnations.push(incarnation.to_string());
        let bytes = serde_json::to_vec_pretty(&stored).map_err(|error| IdentityError::Damaged {
            path: path.clone(),
            why: error.to_string(),
        })?;
        write_file_durably(disk.as_ref(), &path, Bytes::from(bytes)).await.map_err(io)?;
        if let Some(parent) = dir.parent().filter(|p| !p.as_os_str().is_empty()) {
            disk.sync_dir(parent).await.map_err(io)?;
        }
        Ok(Self { store_id, incarnation, before, _lock: lock })
    }
}

async fn read(host: &Host, path: &Path) -> io::Result<Option<Bytes>> {
    let mode = OpenMode { create: false, write: false, direct: false };
    let file = match host.disk().open(path, mode).await {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let len = file.len().await?.min(FILE_BYTES_MAX);
    file.read_at(0, len as usize).await.map(Some)
}
