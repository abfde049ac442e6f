//! Real data: bytes of files that the user names, or that this machine has.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::error::CliError;

/// Records are cut at this size: from small messages to documents.
const SIZES: [usize; 6] = [300, 1_000, 4_000, 900, 16_000, 2_000];
/// Folders that most machines have.
const USUAL: [&str; 4] = ["/usr/share", "/usr/lib", "/usr/bin", "/usr/include"];
/// Files above this are read up to here.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// Files looked at: a bound for a folder that never ends.
const FILES_MAX: usize = 200_000;

/// Bytes of files, cut into values; begins again at the first file when all are used up.
pub(super) struct Records {
    files: Vec<PathBuf>,
    bytes: u64,
    next: usize,
    open: Option<Bytes>,
    turn: usize,
}

/// Looks for files until they hold `wanted` bytes.
pub(super) fn find(paths: &[PathBuf], wanted: u64) -> Result<Records, CliError> {
    let usual: Vec<PathBuf> = USUAL.iter().map(PathBuf::from).collect();
    let roots = if paths.is_empty() { &usual } else { paths };
    let mut found = Records { files: Vec::new(), bytes: 0, next: 0, open: None, turn: 0 };
    for root in roots {
        if paths.contains(root) && !root.exists() {
            return Err(CliError::usage(format!("{} is not there", root.display())));
        }
        walk(root, wanted, &mut found);
    }
    if found.bytes == 0 {
        return Err(
            CliError::new("no readable file was found").next_step("name some: levee demo FILE...")
        );
    }
    Ok(found)
}

fn walk(path: &Path, wanted: u64, found: &mut Records) {
    if found.bytes >= wanted || found.files.len() >= FILES_MAX {
        return;
    }
    // Links could lead round in circles.
    let Ok(meta) = path.symlink_metadata() else { return };
    if meta.is_file() && meta.len() > 0 && File::open(path).is_ok() {
        found.bytes += meta.len().min(FILE_BYTES_MAX);
        found.files.push(path.to_owned());
    } else if meta.is_dir() {
        let Ok(entries) = std::fs::read_dir(path) else { return };
        let mut entries: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        entries.sort();
        entries.iter().for_each(|entry| walk(entry, wanted, found));
    }
}

impl Records {
    pub(super) fn files(&self) -> usize {
        self.files.len()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The next value; nothing where no file can be read any more.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, CliError> {
        let mut unread = 0;
        loop {
            if let Some(open) = &mut self.open
                && !open.is_empty()
            {
                self.turn += 1;
                let size = SIZES[self.turn % SIZES.len()].min(open.len());
                return Ok(Some(open.split_to(size)));
            }
            if unread > self.files.len() {
                return Ok(None);
            }
            let path = &self.files[self.next % self.files.len()];
            self.next += 1;
            unread += 1;
            let mut bytes = Vec::new();
            // A file that is gone by now is passed over.
            if File::open(path)
                .is_ok_and(|f| f.take(FILE_BYTES_MAX).read_to_end(&mut bytes).is_ok())
            {
                self.open = Some(bytes.into());
            }
        }
    }
}
