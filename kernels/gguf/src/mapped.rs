//! A file's bytes as a slice, without reading them: the one place of this crate that maps memory.
//!
//! Knows files and pages, nothing of GGUF. Only regular files are mapped: a pipe would block, a device has no end.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::error::GgufError;

/// A read-only mapping of a whole regular file.
///
/// The file must not be cut short or rewritten while mapped: the operating system then ends the process that reads the lost
/// pages. Replace a model by renaming a new file over it, which leaves the mapping on the old one.
#[derive(Debug)]
pub struct Mapped {
    map: memmap2::Mmap,
    path: PathBuf,
}

impl Mapped {
    /// Maps the file at `path`, following symbolic links.
    pub fn open(path: &Path) -> Result<Mapped, GgufError> {
        let io = |source| GgufError::Io {
            path: path.to_owned(),
            source,
        };
        // Asked before opening too, because opening a pipe waits for its other end.
        if !std::fs::metadata(path).map_err(io)?.is_file() {
            return Err(GgufError::NotARegularFile {
                path: path.to_owned(),
            });
        }
        let file = File::open(path).map_err(io)?;
        if !file.metadata().map_err(io)?.is_file() {
            return Err(GgufError::NotARegularFile {
                path: path.to_owned(),
            });
        }
        Ok(Mapped {
            map: map_read_only(&file).map_err(io)?,
            path: path.to_owned(),
        })
    }

    /// The whole file. Empty for an empty file.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}

#[allow(unsafe_code)]
fn map_read_only(file: &File) -> std::io::Result<memmap2::Mmap> {
    // SAFETY: the mapping is private to us and read-only. That nobody else writes to the file or truncates it while it is
    // mapped is upheld by whoever owns the model directory: `Mapped` says so, and every tool that stores models renames.
    unsafe { memmap2::Mmap::map(file) }
}
