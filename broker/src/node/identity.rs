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
const FILE: &str = "identity.json";
/// An identity file is some hundred bytes; anything above this is another file.
const FILE_BYTES_MAX: u64 = 64 << 10;

#[derive(Debug, Error)]
pub enum IdentityError {
    #[error("data folder {dir}: {error}")]
    Io { dir: PathBuf, error: io::Error },
    #[error("data folder {0} is in use by another process: stop it, or choose another data.dir")]
    InUse(PathBuf),
    #[error(
        "data folder {dir} belongs to cluster {known}, and the bucket is that of cluster {found}: \
         choose the bucket or the data.dir that was meant"
    )]
    OtherCluster { dir: PathBuf, known: String, found: String },
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
    dir: PathBuf,
    stored: Stored,
    _lock: DiskLock,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    store_id: String,
    /// Newest last.
    incarnations: Vec<String>,
    /// Whose records are here.
    #[serde(default)]
    cluster: Option<String>,
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
        let path = dir.join(FILE);
        let mut stored = match read(host, &path).await.map_err(io)? {
            Some(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
                IdentityError::Damaged { path: path.clone(), why: error.to_string() }
            })?,
            None => {
                let store_id = Nonce(host.random_u128()).to_string();
                Stored { store_id, incarnations: vec![], cluster: None }
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
        write(host, dir, &stored).await?;
        if let Some(parent) = dir.parent().filter(|p| !p.as_os_str().is_empty()) {
            disk.sync_dir(parent).await.map_err(io)?;
        }
        Ok(Self { store_id, incarnation, before, dir: dir.to_owned(), stored, _lock: lock })
    }

    /// The folder is that of one cluster for ever: what another one calls garbage is data here.
    /// A cluster that ends with its process (`lasts` is false) leaves no mark.
    pub async fn bind(
        &mut self,
        host: &Host,
        cluster: Nonce,
        lasts: bool,
    ) -> Result<(), IdentityError> {
        let found = cluster.to_string();
        match &self.stored.cluster {
            Some(known) if *known == found => Ok(()),
            Some(known) => {
                let (dir, known) = (self.dir.clone(), known.clone());
                Err(IdentityError::OtherCluster { dir, known, found })
            }
            None if !lasts => Ok(()),
            None => {
                self.stored.cluster = Some(found);
                write(host, &self.dir, &self.stored).await
            }
        }
    }
}

async fn write(host: &Host, dir: &Path, stored: &Stored) -> Result<(), IdentityError> {
    let path = dir.join(FILE);
    let bytes = serde_json::to_vec_pretty(stored)
        .map_err(|error| IdentityError::Damaged { path: path.clone(), why: error.to_string() })?;
    let written = write_file_durably(host.disk().as_ref(), &path, Bytes::from(bytes)).await;
    written.map_err(|error| IdentityError::Io { dir: dir.to_owned(), error })
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
