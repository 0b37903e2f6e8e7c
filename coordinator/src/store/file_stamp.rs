//! Whether a file is still the one that was opened: length, time of the last write, and which file it is.

use std::fs::{File, Metadata};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use super::error::StoreError;

/// What tells one state of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileStamp {
    n_bytes: u64,
    /// Nanoseconds since 1970; `None` where the file system keeps no times.
    modified_ns: Option<u64>,
    /// `None` on systems that do not number files.
    inode: Option<u64>,
}

impl FileStamp {
    fn of(metadata: &Metadata) -> FileStamp {
        let modified = metadata.modified().ok();
        let since_epoch = modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        FileStamp {
            n_bytes: metadata.len(),
            modified_ns: since_epoch.and_then(|time| u64::try_from(time.as_nanos()).ok()),
            inode: inode(metadata),
        }
    }
}

#[cfg(unix)]
fn inode(metadata: &Metadata) -> Option<u64> {
    Some(std::os::unix::fs::MetadataExt::ino(metadata))
}

#[cfg(not(unix))]
fn inode(_: &Metadata) -> Option<u64> {
    None
}

/// An open file and what it looked like. Holds the file itself, not its path: renaming another file over it is no change.
#[derive(Debug)]
pub(super) struct Watched {
    file: File,
    path: PathBuf,
    stamp: FileStamp,
}

impl Watched {
    pub(super) fn open(path: &Path) -> Result<Watched, StoreError> {
        let io = |source| StoreError::Io {
            path: path.to_owned(),
            source,
        };
        // Opening a pipe would wait for its other end.
        if !std::fs::metadata(path).map_err(io)?.is_file() {
            let path = path.to_owned();
            return Err(potluck_gguf::GgufError::NotARegularFile { path }.into());
        }
        let file = File::open(path).map_err(io)?;
        let stamp = FileStamp::of(&file.metadata().map_err(io)?);
        let path = path.canonicalize().map_err(io)?;
        // Between opening and asking for the true path, another file may have taken the name.
        let named = FileStamp::of(&std::fs::metadata(&path).map_err(io)?);
        match named == stamp {
            true => Ok(Watched { file, path, stamp }),
            false => Err(StoreError::Changed { path }),
        }
    }

    /// The absolute path, links resolved.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn stamp(&self) -> FileStamp {
        self.stamp
    }

    pub(super) fn check_unchanged(&self) -> Result<(), StoreError> {
        let metadata = self.file.metadata().map_err(|source| StoreError::Io {
            path: self.path.clone(),
            source,
        })?;
        match FileStamp::of(&metadata) == self.stamp {
            true => Ok(()),
            false => Err(StoreError::Changed {
                path: self.path.clone(),
            }),
        }
    }
}
